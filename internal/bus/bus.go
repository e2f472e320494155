// Package bus owns delivery: the broker's topology as data, the publisher the outbox relay uses, and the runtime that hands
// events to a service's handlers. It is the only package that speaks NATS.
//
// What is guaranteed: a handler's rows and the claim that the event was handled commit together, so every event takes effect
// once per consumer however often it arrives; nothing dies silently: what cannot be handled is in dead_letter with its body.
//
// What is not: order. Stream order is not aggregate order: the outbox publishes in commit order, a failed event comes back
// after its successors, and a predecessor may sit in the dead letters. So a projection is monotone by the aggregate's
// sequence, and written so in one statement:
//
//	insert into thing as t (id, ..., sequence) values (...)
//	on conflict (id) do update set ... , sequence = excluded.sequence where t.sequence < excluded.sequence
//
// Zero rows mean that the projection is newer: bus.Discard("stale"). Gaps are normal. Where one statement will not do, Newer
// keeps the sequence apart from the rows.
package bus

import (
	"embed"

	"github.com/pratique-io/pratique/internal/pg"
)

//go:embed migrations/*.sql
var files embed.FS

// Migrations are the inbox, attempts and dead letters, one set per service schema.
var Migrations = pg.Embedded("inbox", files)
