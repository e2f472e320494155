package pg_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/internal/pg"
)

func TestCodes(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := t.Context()
	work := func(query string, args ...any) error {
		return b.db.Work(ctx, func(tx pgx.Tx) error { _, err := tx.Exec(ctx, query, args...); return err })
	}
	err := b.db.Work(ctx, func(tx pgx.Tx) error { return insertShip(ctx, tx, newID(t), b.mine, "Aurora") })
	require.True(t, pg.IsUnique(err, "ship_name_key"))
	require.True(t, pg.IsUnique(fmt.Errorf("wrapped: %w", err), ""))
	require.False(t, pg.IsUnique(err, "ship_pkey"))
	require.False(t, pg.IsCheck(err, ""))
	require.True(t, pg.IsCheck(work("update ship set flag = 'sunk'"), "ship_flag_check"))
	require.False(t, pg.IsUnique(errors.New("no server error"), ""))
	require.Empty(t, pg.Code(nil))

	err = b.db.Work(ctx, func(first pgx.Tx) error {
		if _, err := first.Exec(ctx, "set transaction isolation level serializable"); err != nil {
			return err
		}
		_, err := owners(ctx, first)
		require.NoError(t, err)
		require.NoError(t, work("update ship set flag = 'held'"))
		_, err = first.Exec(ctx, "update ship set flag = 'free'")
		return err
	})
	require.True(t, pg.IsRetryable(err), "got %v", err)
	require.Equal(t, "40001", pg.Code(err))
}

func TestIdentifiersTravelAsUUID(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := t.Context()
	ids := []uuid.UUID{newID(t), newID(t)}
	require.NoError(t, b.db.Work(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `insert into ship (id, tenant_id, name)
			select id, @tenant, 'ship ' || id from unnest(@ids::uuid[]) as id`, pgx.NamedArgs{"tenant": b.mine, "ids": ids})
		if err != nil {
			return err
		}
		var n int
		var none *uuid.UUID
		err = tx.QueryRow(ctx, "select count(*), null::uuid from ship where id = any($1)", ids).Scan(&n, &none)
		require.Equal(t, 2, n)
		require.Nil(t, none)
		return err
	}))
}
