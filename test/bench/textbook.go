package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/internal/bus"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/internal/outbox"
)

// textbook is the relay as it is usually written: lock some rows, publish each and wait for its acknowledgement, delete them. It has several
// workers, since that is what "skip locked" is for, and connects as superuser, past row-level security.
type textbook struct {
	s         *stand
	publisher *bus.Publisher
}

const (
	workers = 4   // where the bar is judged: the strongest textbook relay of this machine
	grab    = 100 // rows per transaction
)

const (
	textbookTableSQL = `create table public.textbook (id bigint generated always as identity primary key,
	event_id uuid not null, subject text not null, body bytea not null, created_at timestamptz not null default now())`
	textbookFillSQL = `insert into public.textbook (event_id, subject, body)
select * from unnest(@ids::text[]::uuid[], @subjects::text[], @bodies::bytea[])`
	textbookGrabSQL = `select id, event_id::text, subject, body from public.textbook order by id limit $1 for update skip locked`
	textbookDropSQL = `delete from public.textbook where id = any($1)`
	textbookWipeSQL = `delete from public.textbook`
)

func (s *stand) newTextbook(ctx context.Context, conn *bus.Conn) (*textbook, error) {
	_, err := s.admin.Exec(ctx, textbookTableSQL)
	return &textbook{s: s, publisher: bus.NewPublisher(conn)}, err
}

// relay writes n events and measures how long they take.
func (t *textbook) relay(ctx context.Context, n, workers int, patience time.Duration) (sample, error) {
	events, err := approvals(ctx, n)
	if err != nil {
		return sample{}, err
	}
	if err := t.fill(ctx, events); err != nil {
		return sample{}, err
	}
	working, stop := context.WithTimeout(ctx, patience)
	defer stop()
	var published atomic.Int64
	errs := make([]error, workers)
	began := time.Now()
	var all sync.WaitGroup
	for i := range workers {
		all.Go(func() { errs[i] = t.work(working, &published) })
	}
	all.Wait()
	took := time.Since(began)
	if working.Err() != nil && ctx.Err() == nil { // patience ended: what was done counts, the rest goes
		_, err := t.s.admin.Exec(ctx, textbookWipeSQL)
		return sample{count: int(published.Load()), took: took}, err
	}
	return sample{count: int(published.Load()), took: took}, errors.Join(errs...)
}

func (t *textbook) fill(ctx context.Context, events []event.Envelope) error {
	ids, subjects, bodies := make([]string, len(events)), make([]string, len(events)), make([][]byte, len(events))
	for i, e := range events {
		body, err := e.Encode()
		if err != nil {
			return err
		}
		ids[i], subjects[i], bodies[i] = e.ID, event.SubjectOf(e), body
	}
	_, err := t.s.admin.Exec(ctx, textbookFillSQL, pgx.NamedArgs{"ids": ids, "subjects": subjects, "bodies": bodies})
	return err
}

// work relays until there is nothing left.
func (t *textbook) work(ctx context.Context, published *atomic.Int64) error {
	for {
		n := 0
		err := pgx.BeginFunc(ctx, t.s.admin, func(tx pgx.Tx) (err error) {
			n, err = t.turn(ctx, tx)
			return err
		})
		if err != nil || n == 0 {
			return err
		}
		published.Add(int64(n))
	}
}

func (t *textbook) turn(ctx context.Context, tx pgx.Tx) (int, error) {
	rows, err := tx.Query(ctx, textbookGrabSQL, grab)
	if err != nil {
		return 0, err
	}
	var ids []int64
	var messages []outbox.Message
	var id int64
	var m outbox.Message
	_, err = pgx.ForEachRow(rows, []any{&id, &m.ID, &m.Subject, &m.Body}, func() error {
		ids, messages = append(ids, id), append(messages, outbox.Message{ID: m.ID, Subject: m.Subject, Body: append([]byte(nil), m.Body...)})
		return nil
	})
	if err != nil || len(ids) == 0 {
		return 0, err
	}
	for _, one := range messages {
		if _, err := t.publisher.PublishEach(ctx, bus.Lifecycle, []outbox.Message{one}); err != nil {
			return 0, err
		}
	}
	_, err = tx.Exec(ctx, textbookDropSQL, ids)
	return len(ids), err
}

// digestOf makes a digest that looks like any other.
func digestOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "sha256:" + hex.EncodeToString(sum[:])
}
