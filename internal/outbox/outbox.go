// Package outbox owns the way from a committed transaction to the broker. The outbox is the record, the broker a cache of it:
// a broker that was wiped or rolled back is refilled from here.
//
// What is guaranteed: every event of a committed transaction is published at least once, while the outbox keeps it (Keep);
// one relay per service moves the cursor, fenced by a generation that is part of the cursor's own row. A relay that lost its
// leadership may still publish what it had read, never move the cursor; consumers decide by event id, so that is harmless.
package outbox

import (
	"embed"
	"fmt"
	"time"

	"github.com/pratique-io/pratique/internal/pg"
)

//go:embed migrations/*.sql
var files embed.FS

// Migrations are the outbox's tables, one set per service schema.
var Migrations = pg.Embedded("outbox", files)

// The retentions of an event, in the order that makes a refill complete and a late duplicate harmless: the stream forgets
// first, then the outbox, and last the inboxes.
const (
	StreamKeep = 30 * 24 * time.Hour
	Keep       = 30 * 24 * time.Hour
	InboxKeep  = 45 * 24 * time.Hour
)

// CheckKeep refuses retentions under which an event could be lost or handled twice.
func CheckKeep(stream, outbox, inbox time.Duration) error {
	if stream <= 0 || stream > outbox || outbox > inbox {
		return fmt.Errorf("retentions must rise: stream %s, outbox %s, inbox %s", stream, outbox, inbox)
	}
	return nil
}
