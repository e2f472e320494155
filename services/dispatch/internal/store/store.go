// Package store owns dispatch's tables: records, runs, steps, transitions, log lines and providers. Every change of a record is one
// guarded statement; zero rows mean that somebody else was there first.
package store

import (
	"embed"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/internal/pg"
)

//go:embed migrations/*.sql
var files embed.FS

// Migrations are dispatch's own tables.
var Migrations = pg.Embedded("dispatch", files)

// ErrConflict means that the row is no longer as it was read, or that the lease is somebody else's by now.
var ErrConflict = errors.New("the dispatch record was changed in between")

// ErrNone means that there is no such row in this scope.
var ErrNone = errors.New("no such row")

func none(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return ErrNone
	}
	return err
}

// nullTime stores the zero time as null.
func nullTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func timeOf(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}
