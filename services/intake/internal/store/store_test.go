package store

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/internal/page"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/internal/pg/pgtest"
	"github.com/pratique-io/pratique/services/intake/internal/domain"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

type bundle struct {
	t         *testing.T
	db        *pg.DB
	red, blue uuid.UUID
	n         int
}

func setup(t *testing.T) *bundle {
	t.Helper()
	b := &bundle{t: t, db: pgtest.New(t, "intake", Migrations), red: uuid.New(), blue: uuid.New()}
	b.work(func(ctx context.Context, tx pgx.Tx) {
		for slug, id := range map[string]uuid.UUID{"red": b.red, "blue": b.blue} {
			made, err := InsertTenant(ctx, tx, Tenant{ID: id, Slug: slug, Name: slug}, start)
			require.NoError(t, err)
			require.True(t, made)
		}
	})
	return b
}

func (b *bundle) work(f func(ctx context.Context, tx pgx.Tx)) {
	require.NoError(b.t, b.db.Work(b.t.Context(), func(tx pgx.Tx) error { f(b.t.Context(), tx); return nil }))
}

func (b *bundle) read(scope pg.Scope, f func(ctx context.Context, tx pgx.Tx)) {
	require.NoError(b.t, b.db.Read(b.t.Context(), scope, func(tx pgx.Tx) error { f(b.t.Context(), tx); return nil }))
}

// request stores one as shape made it; then moves it on.
func (b *bundle) request(tenant uuid.UUID, ref string, shape func(r *domain.Request), then ...func(r *domain.Request)) *domain.Request {
	b.n++
	id := uuid.Must(uuid.NewV7())
	r := &domain.Request{
		ID: id, Tenant: tenant, Type: domain.TypeQuarantine, ArtifactType: "image", RequestedBy: uuid.New(), EprRecordID: "EPR-1",
		EprBasis: "local", SourceRegistry: "registry.example.com", SourceImageRef: ref, SourceDigest: fmt.Sprintf("sha256:%064x", b.n),
		Platforms: []domain.Platform{{OS: "linux", Architecture: "arm64", Variant: "v8", Digest: "sha256:1"}}, ChainID: id, ChainPosition: 1,
		ChainRequesters: []uuid.UUID{uuid.New()},
	}
	r.Begin(start.Add(time.Duration(b.n) * time.Second))
	if shape != nil {
		shape(r)
	}
	b.work(func(ctx context.Context, tx pgx.Tx) {
		made, err := InsertRequest(ctx, tx, r)
		require.NoError(b.t, err)
		require.True(b.t, made)
		for _, f := range then {
			was := r.Version
			f(r)
			require.NoError(b.t, SaveRequests(ctx, tx, []Changed{{Request: r, Was: was}}))
		}
	})
	return r
}

func TestRequestRoundTrip(t *testing.T) {
	t.Parallel()
	b := setup(t)
	r := b.request(b.red, "library/nginx:1", nil)
	b.read(pg.OneTenant(b.red), func(ctx context.Context, tx pgx.Tx) {
		got, err := Request(ctx, tx, pg.OneTenant(b.red), r.ID)
		require.NoError(t, err)
		require.Equal(t, r, got)
	})
	was := r.Version
	_, err := r.Decide(domain.Approve, "system", "", start, start)
	require.NoError(t, err)
	r.Hear(domain.Judged{Seq: 3, Verdict: "quarantine", DecidedAt: start, Policy: []byte(`{"a": 1}`)}, start)
	r.Conclude(start)
	b.work(func(ctx context.Context, tx pgx.Tx) {
		require.NoError(t, SaveRequests(ctx, tx, []Changed{{Request: r, Was: was}}))
		got, err := LockRequests(ctx, tx, []uuid.UUID{r.ID, uuid.New()})
		require.NoError(t, err)
		require.Len(t, got, 1)
		require.JSONEq(t, `{"a": 1}`, string(got[r.ID].Facts.Judged.Policy))
		got[r.ID].Facts.Judged.Policy = r.Facts.Judged.Policy
		require.Equal(t, r, got[r.ID])
		var class, code, verdict string
		require.NoError(t, tx.QueryRow(ctx, `select failure_class, failure_code, policy_decision from request`).Scan(&class, &code, &verdict))
		require.Equal(t, "policy quarantined_by_policy quarantine", class+" "+code+" "+verdict)
	})
	err = b.db.Work(t.Context(), func(tx pgx.Tx) error {
		return SaveRequests(t.Context(), tx, []Changed{{Request: r, Was: was}})
	})
	require.True(t, fault.Is(err, errorsv1.Reason_REASON_STATE_CONFLICT), "a lost update is refused: %v", err)
}

func TestRequestList(t *testing.T) {
	t.Parallel()
	b := setup(t)
	nginx := b.request(b.red, "library/NGINX:1", func(r *domain.Request) { r.DestinationRef = "trusted.example.com/red/web" })
	redis := b.request(b.red, "library/redis:1", nil, func(r *domain.Request) {
		_, err := r.Decide(domain.Approve, "system", "", start, start)
		require.NoError(t, err)
		r.Hear(domain.Ended{Seq: 1, As: domain.RunFailed, RunID: "r", Attempt: 1, Failure: domain.Failure{Code: "run_timeout"}}, start)
	})
	ready := b.request(b.red, "library/ready:1", nil, func(r *domain.Request) {
		_, err := r.Decide(domain.Approve, "system", "", start, start)
		require.NoError(t, err)
		r.Hear(domain.Judged{Seq: 1, Verdict: "pass"}, start)
		r.Hear(domain.Eligible{Seq: 1, At: start}, start)
	})
	scan := b.request(b.red, "library/scan:1", func(r *domain.Request) { r.Type, r.EprBasis, r.EprRecordID = domain.TypeScan, "", "" })
	blue := b.request(b.blue, "library/nginx:2", nil)
	later, earlier := redis.CreatedAt, redis.CreatedAt
	for name, c := range map[string]struct {
		q    RequestFilter
		want []*domain.Request
	}{
		"all of a tenant, newest first": {RequestFilter{Tenant: b.red}, []*domain.Request{ready, redis, nginx}},
		"all tenants":                   {RequestFilter{}, []*domain.Request{blue, ready, redis, nginx}},
		"scans":                         {RequestFilter{Type: domain.TypeScan}, []*domain.Request{scan}},
		"status":                        {RequestFilter{Status: "failed"}, []*domain.Request{redis}},
		"execution state":               {RequestFilter{Execution: "ready_for_release"}, []*domain.Request{ready}},
		"release state":                 {RequestFilter{Release: "ready_for_release"}, []*domain.Request{ready}},
		"failure class":                 {RequestFilter{FailureClass: "runtime"}, []*domain.Request{redis}},
		"digest":                        {RequestFilter{Digest: nginx.SourceDigest}, []*domain.Request{nginx}},
		"requester":                     {RequestFilter{RequestedBy: ready.RequestedBy}, []*domain.Request{ready}},
		"search in any case":            {RequestFilter{Search: "nGiNx"}, []*domain.Request{blue, nginx}},
		"search in the destination":     {RequestFilter{Search: "red/web"}, []*domain.Request{nginx}},
		"search for a wildcard":         {RequestFilter{Search: "%"}, nil},
		"created after":                 {RequestFilter{Tenant: b.red, CreatedAfter: &later}, []*domain.Request{ready}},
		"created before":                {RequestFilter{CreatedBefore: &earlier}, []*domain.Request{nginx}},
		"two together":                  {RequestFilter{Tenant: b.red, Status: "pending", Search: "nginx"}, []*domain.Request{nginx}},
	} {
		t.Run(name, func(t *testing.T) {
			if c.q.Type == "" {
				c.q.Type = domain.TypeQuarantine
			}
			b.read(pg.AllTenants(), func(ctx context.Context, tx pgx.Tx) {
				rows, total, err := Requests(ctx, tx, c.q, page.Request{Limit: 20})
				require.NoError(t, err)
				require.Equal(t, len(c.want), total)
				require.Len(t, rows, len(c.want))
				for i := range rows {
					require.Equal(t, c.want[i].ID, rows[i].ID)
				}
			})
		})
	}
	b.read(pg.OneTenant(b.red), func(ctx context.Context, tx pgx.Tx) {
		rows, total, err := Requests(ctx, tx, RequestFilter{Type: domain.TypeQuarantine}, page.Request{Limit: 20})
		require.NoError(t, err)
		require.Equal(t, 3, total, "row-level security holds a list whose filter forgot the tenant")
		require.Len(t, rows, 3)
	})
}

func TestKeysetIsStableUnderInserts(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var want []uuid.UUID
	for i := range 7 {
		r := b.request(b.red, fmt.Sprintf("library/a:%d", i), func(r *domain.Request) { r.CreatedAt = start }) // one moment: the id decides
		want = append([]uuid.UUID{r.ID}, want...)
	}
	var got []uuid.UUID
	req := page.Request{Limit: 3, Page: 1}
	for range 5 {
		b.read(pg.OneTenant(b.red), func(ctx context.Context, tx pgx.Tx) {
			rows, _, err := Requests(ctx, tx, RequestFilter{Tenant: b.red, Type: domain.TypeQuarantine}, req)
			require.NoError(t, err)
			rows, last, more := page.Cut(req, rows, func(r *domain.Request) page.Key { return page.Key{At: r.CreatedAt, ID: r.ID} })
			for _, r := range rows {
				got = append(got, r.ID)
			}
			if req.After = last; !more {
				req.Limit = 0
			}
		})
		if req.Limit == 0 {
			break
		}
		b.request(b.red, fmt.Sprintf("library/new:%d", b.n), nil)
	}
	require.Equal(t, want, got)
}

func TestTenancy(t *testing.T) {
	t.Parallel()
	b := setup(t)
	r := b.request(b.red, "library/nginx:1", nil)
	t.Run("the predicate holds without row-level security", func(t *testing.T) {
		b.work(func(ctx context.Context, tx pgx.Tx) { // the worker sees all rows
			_, err := Request(ctx, tx, pg.OneTenant(b.blue), r.ID)
			require.ErrorIs(t, err, ErrNone)
			_, err = Request(ctx, tx, pg.OneTenant(b.red), r.ID)
			require.NoError(t, err)
		})
	})
	t.Run("row-level security holds without the predicate", func(t *testing.T) {
		b.read(pg.OneTenant(b.blue), func(ctx context.Context, tx pgx.Tx) {
			_, err := Request(ctx, tx, pg.AllTenants(), r.ID)
			require.ErrorIs(t, err, ErrNone)
		})
		err := b.db.Write(t.Context(), pg.OneTenant(b.blue), func(tx pgx.Tx) error {
			_, _, err := CountDenial(t.Context(), tx, uuid.New(), b.red, "", "x", start)
			return err
		})
		require.True(t, pg.IsDenied(err), "nobody writes into another tenant: %v", err)
	})
	t.Run("every table with a tenant is protected", func(t *testing.T) {
		b.work(func(ctx context.Context, tx pgx.Tx) {
			rows, err := tx.Query(ctx, `select c.relname, c.relrowsecurity and c.relforcerowsecurity
				from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant_id'
				where c.relnamespace = current_schema()::regnamespace and c.relkind = 'r'`)
			require.NoError(t, err)
			var name string
			var protected bool
			n := 0
			_, err = pgx.ForEachRow(rows, []any{&name, &protected}, func() error {
				require.True(t, protected, name)
				n++
				return nil
			})
			require.NoError(t, err)
			require.Equal(t, 9, n)
		})
	})
}

func TestTrailIsAppendOnly(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, table := range []string{"request_transition", "epr_transition", "timeline"} {
		for _, verb := range []string{"delete from " + table, "update " + table + " set actor = 'x'"} {
			err := b.db.Work(t.Context(), func(tx pgx.Tx) error { _, err := tx.Exec(t.Context(), verb); return err })
			require.True(t, pg.IsDenied(err), "%s: %v", verb, err)
			err = b.db.Write(t.Context(), pg.AllTenants(), func(tx pgx.Tx) error { _, err := tx.Exec(t.Context(), verb); return err })
			require.True(t, pg.IsDenied(err), "%s: %v", verb, err)
		}
	}
}

func TestEprLifecycleInSQLIsThatOfGo(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const day = 24 * time.Hour
	r := &domain.Registration{
		ID: uuid.New(), Tenant: b.red, RecordID: "EPR-1", Product: "Prod", Technology: "Tech", RequestedBy: uuid.New(),
		Status: domain.EprPending, Version: 1, CreatedAt: start, UpdatedAt: start,
	}
	b.work(func(ctx context.Context, tx pgx.Tx) {
		made, err := InsertEpr(ctx, tx, r)
		require.NoError(t, err)
		require.True(t, made)
		again := *r
		again.ID = uuid.New()
		made, err = InsertEpr(ctx, tx, &again)
		require.NoError(t, err)
		require.False(t, made, "one waiting registration per record id")
		_, err = NewestEpr(ctx, tx, b.red, "EPR-1")
		require.ErrorIs(t, err, ErrNone)
		require.NoError(t, r.Decide(domain.Approve, "p", "ok", start, start, 100*day))
		require.NoError(t, SaveEpr(ctx, tx, r))
		require.True(t, fault.Is(SaveEpr(ctx, tx, r), errorsv1.Reason_REASON_STATE_CONFLICT))
		got, err := NewestEpr(ctx, tx, b.red, "EPR-1")
		require.NoError(t, err)
		require.Equal(t, r, got)
	})
	seen := map[domain.Lifecycle]bool{}
	check := func(now time.Time) {
		want := r.Lifecycle(now, 30*day)
		seen[want] = true
		for _, l := range domain.Lifecycles() {
			b.read(pg.OneTenant(b.red), func(ctx context.Context, tx pgx.Tx) {
				_, n, err := Eprs(ctx, tx, EprFilter{Tenant: b.red, Lifecycle: l, Search: "tech", Now: now, Window: 30 * day}, page.Request{Limit: 5})
				require.NoError(t, err)
				require.Equal(t, l == want, n == 1, "%s at %s", l, now)
			})
		}
	}
	for _, now := range []time.Time{start, start.Add(70*day - 1000), start.Add(70 * day), start.Add(100*day - 1000), start.Add(100 * day)} {
		check(now)
	}
	b.work(func(ctx context.Context, tx pgx.Tx) {
		_, err := tx.Exec(ctx, `update epr_registration set suspended_at = now()`)
		require.NoError(t, err)
	})
	r.SuspendedAt = &start
	check(start)
	require.Len(t, seen, len(domain.Lifecycles()))
}

func TestCapabilityDocuments(t *testing.T) {
	t.Parallel()
	b := setup(t)
	version := func(n int32) *int32 { return &n }
	put := func(tenant uuid.UUID, on bool, expected *int32) (d Document, err error) {
		err = b.db.Write(t.Context(), pg.AllTenants(), func(tx pgx.Tx) error {
			d, err = PutDocument(t.Context(), tx, Document{ID: uuid.New(), Tenant: tenant, Switches: domain.Capabilities{Build: on}, UpdatedAt: start, UpdatedBy: "p"}, "why", expected)
			return err
		})
		return d, err
	}
	effective := func() (d Document) {
		b.read(pg.OneTenant(b.red), func(ctx context.Context, tx pgx.Tx) {
			var err error
			d, err = EffectiveDocument(ctx, tx, b.red)
			require.NoError(t, err)
		})
		return d
	}
	require.Equal(t, Document{Tenant: b.red}, effective(), "everything is off until somebody says otherwise")
	for _, tenant := range []uuid.UUID{uuid.Nil, b.red} {
		_, err := put(tenant, true, version(1))
		require.True(t, fault.Is(err, errorsv1.Reason_REASON_STATE_CONFLICT), "there is no version 1 yet: %v", err)
		d, err := put(tenant, true, version(0))
		require.NoError(t, err)
		require.Equal(t, 1, d.Version)
		require.True(t, effective().Switches.Build)
		_, err = put(tenant, true, version(0))
		require.True(t, fault.Is(err, errorsv1.Reason_REASON_STATE_CONFLICT))
		again, err := put(tenant, tenant == uuid.Nil, version(1))
		require.NoError(t, err)
		require.Equal(t, 2, again.Version)
		require.Equal(t, d.ID, again.ID, "the aggregate keeps its id")
	}
	require.False(t, effective().Switches.Build, "the tenant's own document wins")
	require.Equal(t, 2, effective().Version)
	d, err := put(b.red, true, nil)
	require.NoError(t, err)
	require.Equal(t, 3, d.Version, "without a version the last one wins")
}

func TestTimelineOrder(t *testing.T) {
	t.Parallel()
	b := setup(t)
	request := uuid.New()
	var lines []Line
	for i := range 5 {
		lines = append(lines, Line{Event: uuid.Must(uuid.NewV7()), Tenant: b.red, Request: request, At: start.Add(time.Duration(i/2) * time.Second), Actor: "system", Service: "intake", Action: "A"})
	}
	b.work(func(ctx context.Context, tx pgx.Tx) {
		require.NoError(t, InsertLines(ctx, tx, []Line{lines[4], lines[2], lines[0]}))
		require.NoError(t, InsertLines(ctx, tx, lines), "a line told twice is one line")
	})
	var got []Line
	req := page.Request{Limit: 2}
	for range 3 {
		b.read(pg.OneTenant(b.red), func(ctx context.Context, tx pgx.Tx) {
			rows, total, err := Lines(ctx, tx, request, req)
			require.NoError(t, err)
			require.Equal(t, 5, total)
			rows, last, _ := page.Cut(req, rows, func(l Line) page.Key { return page.Key{At: l.At, ID: l.Event} })
			got, req.After = append(got, rows...), last
		})
	}
	require.Equal(t, lines, got)
}
