// Package store is evidence's SQL: rows to domain values and back. Each function runs in the caller's transaction, whose scope (row-level
// security) is set by internal/pg; where a caller is held to one tenant the predicate stands in the query as well.
package store

import (
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/internal/pg"
)

//go:embed migrations/*.sql
var files embed.FS

// Migrations makes evidence's tables.
var Migrations = pg.Embedded("evidence", files)

// ErrNone is a row that does not exist in the scope.
var ErrNone = errors.New("no such row")

// ErrLost is a guarded write that hit no row: somebody else moved the record, or the lease passed on.
var ErrLost = errors.New("the record is no longer ours to write")

// found turns pgx's no rows into ErrNone and names the query.
func found(what string, err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("%s: %w", what, ErrNone)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// tenantArg is the tenant a scope is held to, or nil for all.
func tenantArg(scope pg.Scope) *uuid.UUID {
	if scope.All {
		return nil
	}
	return &scope.Tenant
}

func toJSON(v any) ([]byte, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return raw, nil
}

func orNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func orZero(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}
