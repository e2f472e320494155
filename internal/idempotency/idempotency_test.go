package idempotency_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/internal/idempotency"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/internal/pg/pgtest"
)

var (
	alpha = uuid.MustParse("0195d2f0-0000-7000-8000-00000000000a")
	beta  = uuid.MustParse("0195d2f0-0000-7000-8000-00000000000b")
)

type bench struct {
	t   *testing.T
	db  *pg.DB
	ran atomic.Int64
}

func setup(t *testing.T) *bench {
	t.Parallel()
	return &bench{t: t, db: pgtest.New(t, "sample", idempotency.Migrations)}
}

func as(ctx context.Context, subject string, tenant uuid.UUID) context.Context {
	c := auth.Caller{Subject: subject, Tenant: tenant}
	if tenant == uuid.Nil {
		c.SystemRoles = []auth.Role{auth.SystemAdmin}
	}
	return auth.With(ctx, c)
}

// do makes one call in a transaction of its own; the answer counts how often create ran.
func (b *bench) do(ctx context.Context, body string) (int64, error) {
	return b.doIn(ctx, auth.From(ctx).Scope(), body)
}

func (b *bench) doIn(ctx context.Context, scope pg.Scope, body string) (int64, error) {
	var out *wrapperspb.Int64Value
	err := b.db.Write(ctx, scope, func(tx pgx.Tx) (err error) {
		out, err = idempotency.Run(ctx, tx, wrapperspb.String(body), &wrapperspb.Int64Value{}, func() (*wrapperspb.Int64Value, error) {
			return wrapperspb.Int64(b.ran.Add(1)), nil
		})
		return err
	})
	return out.GetValue(), err
}

func (b *bench) rows() (n int) {
	b.t.Helper()
	require.NoError(b.t, b.db.Work(b.t.Context(), func(tx pgx.Tx) error {
		return tx.QueryRow(b.t.Context(), "select count(*) from idempotency_key").Scan(&n)
	}))
	return n
}

func TestAKeyIsExecutedOnceAndAnsweredAgain(t *testing.T) {
	b := setup(t)
	ctx := idempotency.With(as(t.Context(), "ann", alpha), "key-1", "/s/Create")
	for range 3 {
		n, err := b.do(ctx, "body")
		require.NoError(t, err)
		require.EqualValues(t, 1, n)
	}
	require.EqualValues(t, 1, b.ran.Load())
	_, err := b.do(ctx, "another body")
	require.True(t, fault.Is(err, errorsv1.Reason_REASON_IDEMPOTENCY_KEY_REUSED), "%v", err)
	require.EqualValues(t, 1, b.ran.Load())
}

func TestWithoutAKeyEveryCallRuns(t *testing.T) {
	b := setup(t)
	ctx := as(t.Context(), "ann", alpha)
	for _, ctx := range []context.Context{ctx, ctx, idempotency.With(ctx, "", "/s/Create")} {
		_, err := b.do(ctx, "body")
		require.NoError(t, err)
	}
	require.EqualValues(t, 3, b.ran.Load())
	require.Zero(t, b.rows())
}

func TestAKeyBelongsToTenantPrincipalAndMethod(t *testing.T) {
	b := setup(t)
	for n, ctx := range []context.Context{
		idempotency.With(as(t.Context(), "ann", alpha), "k", "/s/Create"),
		idempotency.With(as(t.Context(), "ann", beta), "k", "/s/Create"),
		idempotency.With(as(t.Context(), "bob", alpha), "k", "/s/Create"),
		idempotency.With(as(t.Context(), "ann", alpha), "k", "/s/Retry"),
		idempotency.With(as(t.Context(), "ann", alpha), "K", "/s/Create"),
		idempotency.With(as(t.Context(), "root", uuid.Nil), "k", "/s/Create"),
		idempotency.With(auth.With(t.Context(), auth.Caller{Service: "root"}), "k", "/s/Create"),
	} {
		for range 2 {
			got, err := b.do(ctx, "body")
			require.NoError(t, err)
			require.EqualValues(t, n+1, got)
		}
	}
}

func TestASystemCallerInsideATenantKeepsItsKeyThere(t *testing.T) {
	b := setup(t)
	ctx := idempotency.With(as(t.Context(), "root", uuid.Nil), "k", "/s/Approve")
	for range 2 {
		n, err := b.doIn(ctx, pg.OneTenant(alpha), "body")
		require.NoError(t, err, "row-level security holds the transaction to the tenant")
		require.EqualValues(t, 1, n)
	}
}

func TestOnlySuccessesAreKept(t *testing.T) {
	b := setup(t)
	ctx := idempotency.With(as(t.Context(), "ann", alpha), "k", "/s/Create")
	refuse := errors.New("refused")
	for name, swallow := range map[string]bool{"rolled back": false, "committed with the record of the denial": true} {
		err := b.db.Write(ctx, pg.OneTenant(alpha), func(tx pgx.Tx) error {
			_, err := idempotency.Run(ctx, tx, &emptypb.Empty{}, &emptypb.Empty{}, func() (*emptypb.Empty, error) { return nil, refuse })
			require.ErrorIs(t, err, refuse)
			if swallow {
				return nil
			}
			return err
		})
		require.Equal(t, swallow, err == nil)
		require.Zero(t, b.rows(), name)
	}
	err := b.db.Write(ctx, pg.OneTenant(alpha), func(tx pgx.Tx) error {
		_, err := idempotency.Run(ctx, tx, &emptypb.Empty{}, &emptypb.Empty{}, func() (*emptypb.Empty, error) {
			_, err := tx.Exec(ctx, "select 1/0")
			return nil, err
		})
		return err
	})
	require.Equal(t, "22012", pg.Code(err), "the first error is told, not that of the aborted transaction: %v", err)
	n, err := b.do(ctx, "body")
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
}

func TestAConcurrentCallWaitsAndAnswersTheSame(t *testing.T) {
	for name, firstFails := range map[string]bool{"the first succeeds": false, "the first fails": true} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			ctx := idempotency.With(as(t.Context(), "ann", alpha), "k", "/s/Create")
			inside, release, first := make(chan struct{}), make(chan struct{}), make(chan error, 1)
			go func() {
				first <- b.db.Write(ctx, pg.OneTenant(alpha), func(tx pgx.Tx) error {
					_, err := idempotency.Run(ctx, tx, wrapperspb.String("body"), &wrapperspb.Int64Value{}, func() (*wrapperspb.Int64Value, error) {
						close(inside)
						<-release
						if firstFails {
							return nil, errors.New("refused")
						}
						return wrapperspb.Int64(b.ran.Add(1)), nil
					})
					return err
				})
			}()
			<-inside
			type answer struct {
				n   int64
				err error
			}
			second := make(chan answer, 1)
			go func() {
				n, err := b.do(ctx, "body")
				second <- answer{n, err}
			}()
			require.Eventually(t, func() bool { return b.waiting() == 1 }, 10*time.Second, 5*time.Millisecond,
				"the second call never waited for the first")
			require.Zero(t, b.ran.Load())
			close(release)
			require.Equal(t, firstFails, <-first != nil)
			got := <-second
			require.NoError(t, got.err)
			require.EqualValues(t, 1, got.n)
			require.EqualValues(t, 1, b.ran.Load(), "one effect, whoever made it")
		})
	}
}

// waiting counts the calls of this database that wait for another transaction.
func (b *bench) waiting() (n int) {
	err := b.db.Read(b.t.Context(), pg.AllTenants(), func(tx pgx.Tx) error {
		return tx.QueryRow(b.t.Context(),
			"select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'").Scan(&n)
	})
	if err != nil {
		return -1
	}
	return n
}

func TestUnusableKeysAreRefusedByName(t *testing.T) {
	b := setup(t)
	for name, key := range map[string]string{
		"too long": strings.Repeat("k", 256), "a line break": "a\nb", "not ASCII": "schlüssel", "a NUL": "a\x00", "a delete": "a\x7f",
	} {
		_, err := b.do(idempotency.With(as(t.Context(), "ann", alpha), key, "/s/Create"), "body")
		require.True(t, fault.Is(err, errorsv1.Reason_REASON_INVALID_REQUEST), "%s: %v", name, err)
		require.Contains(t, fault.Of(err).FieldErrors(), "idempotency-key")
	}
	for name, key := range map[string]string{"longest": strings.Repeat("k", 255), "punctuation": " '\";--~", "shortest": "k"} {
		_, err := b.do(idempotency.With(as(t.Context(), "ann", alpha), key, "/s/Create"), "body")
		require.NoError(t, err, name)
	}
}

// transport stands for the gRPC server's own, which tells the method.
type transport struct{ grpc.ServerTransportStream }

func (transport) Method() string { return "/s/Create" }

func TestTheKeyComesFromTheCallsMetadata(t *testing.T) {
	b := setup(t)
	incoming := func(keys ...string) context.Context {
		md := metadata.MD{}
		md.Set(auth.HeaderIdempotency, keys...)
		ctx := metadata.NewIncomingContext(as(t.Context(), "ann", alpha), md)
		return grpc.NewContextWithServerTransportStream(ctx, transport{})
	}
	for range 2 {
		n, err := b.do(incoming("k"), "body")
		require.NoError(t, err)
		require.EqualValues(t, 1, n)
	}
	for name, ctx := range map[string]context.Context{"two": incoming("a", "b"), "an empty one": incoming("")} {
		_, err := b.do(ctx, "body")
		require.True(t, fault.Is(err, errorsv1.Reason_REASON_INVALID_REQUEST), name)
	}
}

func TestAfterADayTheKeyIsFreeAndTheRowGoes(t *testing.T) {
	b := setup(t)
	old := idempotency.With(as(t.Context(), "ann", alpha), "old", "/s/Create")
	young := idempotency.With(as(t.Context(), "ann", alpha), "young", "/s/Create")
	for _, ctx := range []context.Context{old, young} {
		_, err := b.do(ctx, "body")
		require.NoError(t, err)
	}
	age := func() {
		require.NoError(t, b.db.Work(t.Context(), func(tx pgx.Tx) error {
			_, err := tx.Exec(t.Context(), "update idempotency_key set created_at = created_at - interval '25 hours' where key = 'old'")
			return err
		}))
	}
	age()
	n, err := b.do(old, "another body")
	require.NoError(t, err, "not yet swept, but free")
	require.EqualValues(t, 3, n)
	n, err = b.do(old, "another body")
	require.NoError(t, err)
	require.EqualValues(t, 3, n, "and kept again")
	age()
	more, err := idempotency.Sweep(t.Context(), b.db)
	require.NoError(t, err)
	require.False(t, more)
	require.Equal(t, 1, b.rows())
	n, err = b.do(young, "body")
	require.NoError(t, err)
	require.EqualValues(t, 2, n)
}

func TestOneTenantsKeysAreInvisibleToAnother(t *testing.T) {
	b := setup(t)
	_, err := b.do(idempotency.With(as(t.Context(), "ann", alpha), "k", "/s/Create"), "body")
	require.NoError(t, err)
	count := func(scope pg.Scope) (n int) {
		require.NoError(t, b.db.Read(t.Context(), scope, func(tx pgx.Tx) error {
			return tx.QueryRow(t.Context(), "select count(*) from idempotency_key").Scan(&n)
		}))
		return n
	}
	require.Equal(t, 1, count(pg.OneTenant(alpha)))
	require.Equal(t, 0, count(pg.OneTenant(beta)))
	require.Equal(t, 0, count(pg.OneTenant(uuid.Nil)))
	require.Equal(t, 1, count(pg.AllTenants()))
}

func TestAKeyStaysItsOwnersWhenTheDirectoryLearnsWhoTheyAre(t *testing.T) {
	b := setup(t)
	first := as(t.Context(), "https://issuer|ann", alpha)
	known := auth.From(first)
	known.PersonID = uuid.New()
	for _, ctx := range []context.Context{first, auth.With(first, known)} {
		n, err := b.do(idempotency.With(ctx, "k", "/s/Create"), "body")
		require.NoError(t, err)
		require.EqualValues(t, 1, n)
	}
	require.EqualValues(t, 1, b.ran.Load())
}
