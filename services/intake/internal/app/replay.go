package app

import (
	"context"
	"errors"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/idempotency"
	"github.com/pratique-io/pratique/internal/pg"
)

var errUnanswered = errors.New("the idempotency key has no answer yet")

// replay answers a call whose idempotency key was answered before, ahead of everything that may have changed since (capability, EPR, the
// source). Nil and no error: there is no answer yet. The claim that looking takes is rolled back; the create claims again in its own
// transaction, so that a key without its record cannot exist.
func replay[T proto.Message](ctx context.Context, db *pg.DB, tenant uuid.UUID, in proto.Message, out T) (T, error) {
	var none T
	if len(metadata.ValueFromIncomingContext(ctx, auth.HeaderIdempotency)) == 0 {
		return none, nil
	}
	var answer T
	err := db.Write(ctx, pg.OneTenant(tenant), func(tx pgx.Tx) error {
		var err error
		answer, err = idempotency.Run(ctx, tx, in, out, func() (T, error) { return none, errUnanswered })
		return err
	})
	if errors.Is(err, errUnanswered) {
		return none, nil
	}
	if err != nil {
		return none, err
	}
	return answer, nil
}
