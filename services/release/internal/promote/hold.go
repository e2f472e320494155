package promote

import (
	"context"
	"errors"
	"time"

	"github.com/pratique-io/pratique/services/release/internal/app"
	"github.com/pratique-io/pratique/services/release/internal/store"
)

// renewals is how often in a term the lease is renewed.
const renewals = 3

// hold gives a context that ends when the lease is lost, or with the time of one try, and keeps renewing the lease until release is called.
// A process that was stopped wakes up with its deadline past, and so writes nothing under a lease that is over.
func (p *Promoter) hold(parent context.Context, job app.Job) (ctx context.Context, release func()) {
	ctx, end := context.WithCancelCause(parent)
	ctx, timeout := context.WithTimeout(ctx, p.set.Timeout)
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.renew(ctx, job, end)
	}()
	return ctx, func() {
		timeout()
		<-done
		end(nil)
	}
}

// renew counts the term from before it was asked for, and ends it by a timer of its own: a database that does not answer must not make it
// last longer.
func (p *Promoter) renew(ctx context.Context, job app.Job, end context.CancelCauseFunc) {
	expiry := time.AfterFunc(p.set.Lease, func() { end(errLost) })
	defer expiry.Stop()
	tick := time.NewTicker(p.set.Lease / renewals)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		asked := time.Now()
		_, err := p.app.Renew(ctx, job, p.set.Lease)
		switch {
		case err == nil:
			expiry.Reset(p.set.Lease - time.Since(asked))
		case errors.Is(err, store.ErrMoved):
			end(errLost)
			return
		}
		// Any other failure: the database is away; the expiry decides.
	}
}
