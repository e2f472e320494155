package app

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/services/intake/internal/store"
)

const (
	seenFor  = time.Minute // a principal is written down at most this often, unless the token says something new
	seenMost = 4096        // remembered; reaching it forgets all, which costs one write each
)

// seen remembers who was written down lately.
type seen struct {
	mu    sync.Mutex
	known map[string]sighting
}

type sighting struct {
	until  time.Time
	name   string
	email  string
	groups []string
}

func newSeen() *seen { return &seen{known: map[string]sighting{}} }

// fresh says whether the principal must be written down now, and remembers that it was.
func (s *seen) fresh(p auth.Principal, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, ok := s.known[p.Subject]
	if ok && now.Before(old.until) && old.name == p.Name && old.email == p.Email && slices.Equal(old.groups, p.Groups) {
		return false
	}
	if len(s.known) >= seenMost {
		clear(s.known)
	}
	s.known[p.Subject] = sighting{until: now.Add(seenFor), name: p.Name, email: p.Email, groups: p.Groups}
	return true
}

func (s *seen) forget(subject string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.known, subject)
}

// See notes a verified principal: made known at the first call, renamed when the token says something new, last seen now.
func (a *App) See(ctx context.Context, p auth.Principal) error {
	if p.Service != "" || p.Subject == "" || !a.seen.fresh(p, a.now()) {
		return nil
	}
	err := a.db.Write(ctx, pg.Scope{}, func(tx pgx.Tx) error { return a.see(ctx, tx, p) })
	if err != nil {
		a.seen.forget(p.Subject)
	}
	return err
}

func (a *App) see(ctx context.Context, tx pgx.Tx, p auth.Principal) error {
	now := a.now()
	known, err := ensurePerson(ctx, tx, store.Person{Subject: p.Subject, Name: p.Name, Email: p.Email, Groups: p.Groups}, true, now)
	if err != nil {
		return err
	}
	if err := store.SeePerson(ctx, tx, p.Subject, now); err != nil {
		return err
	}
	// A token without name or e-mail (a workload's) does not take away what a binding said.
	next := store.Person{Subject: p.Subject, Name: p.Name, Email: p.Email, Groups: p.Groups}
	if next.Name == "" {
		next.Name = known.Name
	}
	if next.Email == "" {
		next.Email = known.Email
	}
	changed, err := store.RenamePerson(ctx, tx, next)
	if errors.Is(err, store.ErrNone) {
		return nil
	}
	if err != nil {
		return err
	}
	return tellPerson(ctx, tx, changed)
}
