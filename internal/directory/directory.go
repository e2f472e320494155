// Package directory owns each service's own copy of who is who: tenants, people and role bindings, as intake's events tell
// them. It answers which roles a verified principal holds and who must be told about something, without asking intake. What
// it has not heard of is denied. The copies are monotone by sequence, so events may come twice, late and out of order.
package directory

import (
	"embed"

	"github.com/pratique-io/pratique/internal/pg"
)

//go:embed migrations/*.sql
var files embed.FS

// Migrations makes the directory's tables in a service's schema.
var Migrations = pg.Embedded("directory", files)
