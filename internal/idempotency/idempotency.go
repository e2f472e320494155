// Package idempotency owns the memory of answered calls: a call that creates or starts something and carries a key is executed
// once per tenant, principal, method and key, and repeated with its first answer for 24 hours. The row is written in the
// transaction of the create, so neither can exist without the other.
package idempotency

import (
	"context"
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/internal/pg"
)

// Keep is how long an answer is repeated; afterwards the key is free again.
const Keep = 24 * time.Hour

const maxKey = 255

//go:embed migrations/*.sql
var files embed.FS

// Migrations makes the table in a service's schema.
var Migrations = pg.Embedded("idempotency", files)

type callKey struct{}

type call struct{ key, method string }

// With sets key and method of a call that did not come over gRPC (tests, in-process callers). An empty key means none.
func With(ctx context.Context, key, method string) context.Context {
	return context.WithValue(ctx, callKey{}, call{key: key, method: method})
}

// callOf finds the key of this call; false when it has none.
func callOf(ctx context.Context) (call, bool, error) {
	c, ok := ctx.Value(callKey{}).(call)
	if !ok {
		keys := metadata.ValueFromIncomingContext(ctx, auth.HeaderIdempotency)
		if len(keys) == 0 {
			return call{}, false, nil
		}
		if len(keys) > 1 {
			return call{}, false, badKey("it was sent more than once")
		}
		c.key = keys[0]
		if c.method, ok = grpc.Method(ctx); !ok {
			return call{}, false, errors.New("idempotency key without a method in the context")
		}
	} else if c.key == "" {
		return call{}, false, nil
	}
	if len(c.key) == 0 || len(c.key) > maxKey {
		return call{}, false, badKey("it must have 1 to 255 characters")
	}
	for i := range len(c.key) {
		if c.key[i] < ' ' || c.key[i] > '~' {
			return call{}, false, badKey("it must be printable ASCII")
		}
	}
	return c, true, nil
}

func badKey(text string) error {
	return fault.New(errorsv1.Reason_REASON_INVALID_REQUEST, "the idempotency key cannot be used: "+text,
		fault.Field(auth.HeaderIdempotency, text))
}

// Run calls create once per key and keeps its answer; the same key with the same request gets that answer in out, with another
// request `idempotency_key_reused`. A concurrent call with the key waits for the first one's transaction, then repeats its
// answer, or executes if that one failed. Without a key Run just calls create. Run in a read committed transaction.
func Run[T proto.Message](ctx context.Context, tx pgx.Tx, req proto.Message, out T, create func() (T, error)) (T, error) {
	var none T
	c, found, err := callOf(ctx)
	if err != nil {
		return none, err
	}
	if !found {
		return create()
	}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(req)
	if err != nil {
		return none, fmt.Errorf("hash the request: %w", err)
	}
	hash := sha256.Sum256(raw)
	args := keyArgs(ctx, c)
	mine, stored, err := claim(ctx, tx, args, hash[:])
	if err != nil {
		return none, err
	}
	if !mine {
		if err := proto.Unmarshal(stored, out); err != nil {
			return none, fmt.Errorf("read the stored answer: %w", err)
		}
		return out, nil
	}
	answer, err := create()
	if err != nil {
		forget(ctx, tx, args)
		return none, err
	}
	return answer, keep(ctx, tx, args, answer)
}

func keyArgs(ctx context.Context, c call) pgx.NamedArgs {
	caller := auth.From(ctx)
	return pgx.NamedArgs{
		"caller_tenant": caller.Tenant, "principal": principal(caller), "method": c.method, "key": c.key, "keep": Keep,
	}
}

// principal is whose key it is: what the issuer calls somebody, which stays the same when the directory learns of the person between a call
// and its repetition. A service has no subject.
func principal(c auth.Caller) string {
	if c.Service == "" && c.Subject != "" {
		return c.Subject
	}
	return c.Actor()
}

// scopeTenant is the tenant a row belongs to: the caller's selected one, or, when row-level security holds this transaction to
// another tenant (a reviewer acting inside it), that one.
const scopeTenant = `case when current_setting('pratique.all_tenants', true) = 'on' then @caller_tenant::uuid
	else coalesce(nullif(current_setting('pratique.tenant_id', true), '')::uuid, @caller_tenant::uuid) end`

const insertClaim = `
insert into idempotency_key (tenant_id, principal, method, key, body_hash, created_at)
values (` + scopeTenant + `, @principal, @method, @key, @hash, clock_timestamp())
on conflict (tenant_id, principal, method, key) do update
set body_hash = excluded.body_hash, response = null, created_at = excluded.created_at
where idempotency_key.created_at < clock_timestamp() - @keep::interval
returning true`

const selectAnswer = `
select body_hash = @hash, response
from idempotency_key
where tenant_id = ` + scopeTenant + ` and principal = @principal and method = @method and key = @key`

// claim inserts the row first: a second call with the key waits there until this transaction ends.
func claim(ctx context.Context, tx pgx.Tx, args pgx.NamedArgs, hash []byte) (mine bool, stored []byte, err error) {
	args["hash"] = hash
	err = tx.QueryRow(ctx, insertClaim, args).Scan(&mine)
	if err == nil {
		return true, nil, nil
	}
	if !errors.Is(err, pgx.ErrNoRows) {
		return false, nil, fmt.Errorf("claim the idempotency key: %w", err)
	}
	var same bool
	if err := tx.QueryRow(ctx, selectAnswer, args).Scan(&same, &stored); err != nil {
		return false, nil, fmt.Errorf("find the stored answer: %w", err)
	}
	if !same {
		return false, nil, fault.New(errorsv1.Reason_REASON_IDEMPOTENCY_KEY_REUSED, "this idempotency key was used with another request")
	}
	return false, stored, nil
}

const updateAnswer = `
update idempotency_key set response = @response
where tenant_id = ` + scopeTenant + ` and principal = @principal and method = @method and key = @key`

func keep(ctx context.Context, tx pgx.Tx, args pgx.NamedArgs, answer proto.Message) error {
	raw, err := proto.Marshal(answer)
	if err != nil {
		return fmt.Errorf("keep the answer: %w", err)
	}
	if raw == nil {
		raw = []byte{}
	}
	args["response"] = raw
	tag, err := tx.Exec(ctx, updateAnswer, args)
	if err != nil {
		return fmt.Errorf("keep the answer: %w", err)
	}
	if tag.RowsAffected() != 1 {
		return errors.New("keep the answer: the claimed row is gone")
	}
	return nil
}

const deleteClaim = `
delete from idempotency_key
where tenant_id = ` + scopeTenant + ` and principal = @principal and method = @method and key = @key and response is null`

// forget takes the claim back, for a handler that commits although it refuses (to keep the record of a denial). In an aborted
// transaction Postgres refuses this too, and the rollback takes the row away: the error says nothing new.
func forget(ctx context.Context, tx pgx.Tx, args pgx.NamedArgs) {
	_, _ = tx.Exec(ctx, deleteClaim, args)
}

const deleteExpired = `
delete from idempotency_key
where (tenant_id, principal, method, key) in (
	select tenant_id, principal, method, key from idempotency_key
	where created_at < clock_timestamp() - @keep::interval
	order by created_at limit @batch
	for update skip locked)`

const sweepBatch = 1000

// Sweep deletes answers past Keep, at most a thousand at a time, and says whether there may be more. It runs with the worker
// role, from the host's loop.
func Sweep(ctx context.Context, db *pg.DB) (more bool, err error) {
	err = db.Work(ctx, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, deleteExpired, pgx.NamedArgs{"keep": Keep, "batch": sweepBatch})
		more = err == nil && tag.RowsAffected() == sweepBatch
		return err
	})
	if err != nil {
		return false, fmt.Errorf("sweep idempotency keys: %w", err)
	}
	return more, nil
}
