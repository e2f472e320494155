// Package store is release's SQL: rows to records, promotions, artifacts and consumptions, and back. Every function runs in the caller's
// transaction, whose scope internal/pg has set; what callers may read carries the tenant in its predicate as well.
package store

import (
	"embed"
	"errors"

	"github.com/google/uuid"

	"github.com/pratique-io/pratique/internal/pg"
)

//go:embed migrations/*.sql
var files embed.FS

// Migrations makes release's tables.
var Migrations = pg.Embedded("release", files)

// ErrNone is a row that does not exist in the scope.
var ErrNone = errors.New("no such row")

// ErrMoved is a guarded change that met another version, state or lease than it was made for.
var ErrMoved = errors.New("the row moved in between")

// tenantOf is the tenant that a scope is held to; nil for all.
func tenantOf(s pg.Scope) *uuid.UUID {
	if s.All {
		return nil
	}
	return &s.Tenant
}
