package app

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/internal/page"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/services/notify/internal/store"
)

// changeBatch bounds one transaction of a change to a whole mailbox.
const changeBatch = 2000

// Mine is one person's mailbox. It spans tenants, so its transactions are bound to the person instead (store.As, enforced by row-level
// security). The zero person has an empty one.
type Mine struct {
	DB     *pg.DB
	Person uuid.UUID
	Now    func() time.Time
}

func (m Mine) read(ctx context.Context, f func(tx pgx.Tx) error) error {
	if m.Person == uuid.Nil {
		return nil
	}
	return m.DB.Read(ctx, pg.AllTenants(), func(tx pgx.Tx) error { return m.bound(ctx, tx, f) })
}

func (m Mine) write(ctx context.Context, f func(tx pgx.Tx) error) error {
	if m.Person == uuid.Nil {
		return nil
	}
	return m.DB.Write(ctx, pg.AllTenants(), func(tx pgx.Tx) error { return m.bound(ctx, tx, f) })
}

func (m Mine) bound(ctx context.Context, tx pgx.Tx, f func(tx pgx.Tx) error) error {
	if err := store.As(ctx, tx, m.Person); err != nil {
		return err
	}
	return f(tx)
}

// List reads one page, newest first, with one surplus row when more follow, and the count up to page.CountLimit.
func (m Mine) List(ctx context.Context, unread bool, req page.Request) (list []store.Notification, total int, err error) {
	err = m.read(ctx, func(tx pgx.Tx) error {
		list, total, err = store.List(ctx, tx, m.Person, unread, req)
		return err
	})
	return list, total, err
}

// Unread counts to page.MaxReach.
func (m Mine) Unread(ctx context.Context) (n int, err error) {
	err = m.read(ctx, func(tx pgx.Tx) error {
		n, err = store.CountUnread(ctx, tx, m.Person)
		return err
	})
	return n, err
}

// MarkRead marks one; again is nothing.
func (m Mine) MarkRead(ctx context.Context, id uuid.UUID) (n store.Notification, err error) {
	found := store.ErrNone
	err = m.write(ctx, func(tx pgx.Tx) error {
		n, found = store.MarkRead(ctx, tx, m.Person, id, m.Now().UTC())
		if errors.Is(found, store.ErrNone) {
			return nil
		}
		return found
	})
	if err == nil && errors.Is(found, store.ErrNone) {
		err = notFound()
	}
	return n, err
}

// MarkAllRead marks what there is now, not what comes meanwhile, and answers how many.
func (m Mine) MarkAllRead(ctx context.Context) (int, error) {
	now := m.Now().UTC()
	return m.sweep(ctx, func(tx pgx.Tx, upTo int64) (int, error) {
		return store.MarkUpTo(ctx, tx, m.Person, upTo, now, changeBatch)
	})
}

// DeleteRead deletes what has been read, and answers how many.
func (m Mine) DeleteRead(ctx context.Context) (int, error) {
	return m.sweep(ctx, func(tx pgx.Tx, upTo int64) (int, error) {
		return store.DeleteRead(ctx, tx, m.Person, upTo, changeBatch)
	})
}

// sweep changes a mailbox of any size in small transactions.
func (m Mine) sweep(ctx context.Context, change func(tx pgx.Tx, upTo int64) (int, error)) (total int, err error) {
	var upTo int64
	if err := m.read(ctx, func(tx pgx.Tx) error { upTo, err = store.Last(ctx, tx, m.Person); return err }); err != nil || upTo == 0 {
		return 0, err
	}
	for {
		n := 0
		if err := m.write(ctx, func(tx pgx.Tx) error { n, err = change(tx, upTo); return err }); err != nil {
			return total, err
		}
		if total += n; n < changeBatch {
			return total, nil
		}
	}
}

// Delete deletes those of the ids that are the person's, and answers how many. Receipts stay: nobody is told again.
func (m Mine) Delete(ctx context.Context, ids ...uuid.UUID) (n int, err error) {
	err = m.write(ctx, func(tx pgx.Tx) error {
		n, err = store.Delete(ctx, tx, m.Person, ids)
		return err
	})
	return n, err
}

// DeleteOne is Delete of one that must be there.
func (m Mine) DeleteOne(ctx context.Context, id uuid.UUID) error {
	n, err := m.Delete(ctx, id)
	if err == nil && n == 0 {
		err = notFound()
	}
	return err
}

// clockRoom is how far clocks of two hosts may differ, when a stream is resumed from the time inside an id.
const clockRoom = time.Minute

// Resume finds the number to follow from: that of the notification after, or the newest one when after is Nil.
func (m Mine) Resume(ctx context.Context, after uuid.UUID) (seq int64, err error) {
	err = m.read(ctx, func(tx pgx.Tx) error {
		if after == uuid.Nil {
			seq, err = store.Last(ctx, tx, m.Person)
		} else {
			seq, err = store.NumberOf(ctx, tx, m.Person, after, event.BornAt(after).Add(-clockRoom))
		}
		return err
	})
	return seq, err
}

// After reads at most limit notifications that came after a number, oldest first.
func (m Mine) After(ctx context.Context, seq int64, limit int) (list []store.Notification, err error) {
	err = m.read(ctx, func(tx pgx.Tx) error {
		list, err = store.After(ctx, tx, m.Person, seq, limit)
		return err
	})
	return list, err
}

func notFound() error {
	return fault.New(errorsv1.Reason_REASON_NOT_FOUND, "there is no such notification")
}
