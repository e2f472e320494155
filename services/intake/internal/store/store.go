// Package store is intake's SQL: rows to domain values and back. Each function runs in the caller's transaction, whose scope (row-level
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

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/internal/pg"
)

//go:embed migrations/*.sql
var files embed.FS

// Migrations makes intake's tables.
var Migrations = pg.Embedded("intake", files)

// ErrNone is a row that does not exist in the scope.
var ErrNone = errors.New("no such row")

// found turns pgx's no rows into ErrNone and names the query.
func found(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, pgx.ErrNoRows):
		return ErrNone
	}
	return fmt.Errorf("%s: %w", what, err)
}

// conflict is a guarded statement that met another version than it was made for.
func conflict(what string) error {
	return fault.New(errorsv1.Reason_REASON_STATE_CONFLICT, what+" was changed by somebody else in between")
}

// tenantArg is the tenant predicate's argument: null where the scope is all tenants.
func tenantArg(scope pg.Scope) *uuid.UUID {
	if scope.All {
		return nil
	}
	return &scope.Tenant
}

// utc puts times into UTC, which the driver hands out in the machine's zone.
func utc(times ...*time.Time) {
	for _, t := range times {
		if t != nil {
			*t = t.UTC()
		}
	}
}

func toJSON(value any) ([]byte, error) {
	raw, err := json.Marshal(value)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return raw, nil
}
