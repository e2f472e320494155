package loop

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/failpoint"
	"github.com/pratique-io/pratique/services/dispatch/internal/domain"
	"github.com/pratique-io/pratique/services/dispatch/internal/runner"
	"github.com/pratique-io/pratique/services/dispatch/internal/store"
)

// batch bounds the rows of one transaction.
const batch = 100

// Schedule starts the next record, if there is one and a place for it.
func (l *Loops) Schedule(ctx context.Context) (bool, error) {
	if err := l.reclaim(ctx); err != nil {
		return false, err
	}
	p, err := l.current(ctx)
	if err != nil {
		return false, err
	}
	if !p.Readiness.Ready() {
		return l.wait(ctx, "no provider is ready: "+strings.Join(p.Readiness.Missing(), ", "), 0)
	}
	var record domain.Record
	full := false
	err = l.DB.Work(ctx, func(tx pgx.Tx) error {
		active, err := store.CountActive(ctx, tx, p.ID)
		if err != nil {
			return err
		}
		if full = active >= p.MaxRuns; full {
			return nil
		}
		now := l.App.Now()
		record, err = store.LeaseNext(ctx, tx, now, now.Add(l.Config.Lease))
		return err
	})
	switch {
	case errors.Is(err, store.ErrNone):
		return false, nil
	case err != nil:
		return false, err
	case full:
		return l.wait(ctx, "every place of the provider is taken", l.Config.BusyGrace)
	}
	return l.start(ctx, record)
}

// wait tells the records that have been queued for longer than grace.
func (l *Loops) wait(ctx context.Context, message string, grace time.Duration) (bool, error) {
	told := 0
	done, err := l.work(ctx, func(tx pgx.Tx) error {
		now := l.App.Now()
		records, err := store.LockQueued(ctx, tx, now.Add(-grace), now, batch)
		if err != nil {
			return err
		}
		for _, record := range records {
			if err := l.App.Wait(ctx, tx, record, message); err != nil {
				return err
			}
		}
		told = len(records)
		return nil
	})
	return done && told > 0, err
}

// start takes a leased record from the permit to the runner. Whatever happens on the way, the stored state says what is owed.
func (l *Loops) start(ctx context.Context, record domain.Record) (bool, error) {
	bounded, cancel := context.WithTimeout(ctx, l.Config.Lease) // calls outside do not outlive the right to make them
	defer cancel()
	permit, err := l.permit(bounded, record)
	if err != nil {
		l.Log.WarnContext(ctx, "no permit could be asked for, waiting", "request_id", record.ID, "err", err)
		return false, l.release(ctx, record, l.Config.RetryPermit)
	}
	if !permit.GetAllowed() {
		return l.work(ctx, func(tx pgx.Tx) error {
			return l.App.Refused(ctx, tx, record, runner.Clean(permit.GetReason(), 200))
		})
	}
	if digest := permit.GetSourceImageDigest(); digest != "" && digest != record.SourceDigest {
		return l.fail(ctx, record, domain.Fails(domain.CodeDispatch, "the permit speaks of another digest than the approval"))
	}
	secret, err := l.reveal(bounded, record)
	if errors.Is(err, ErrNoSecret) {
		return l.fail(ctx, record, domain.Fails(domain.CodeAuth, "the source credential cannot be used"))
	}
	if err != nil {
		l.Log.WarnContext(ctx, "no source credential could be fetched, waiting", "request_id", record.ID, "err", err)
		return false, l.release(ctx, record, l.Config.RetryPermit)
	}
	return l.launch(bounded, ctx, record, secret)
}

func (l *Loops) permit(ctx context.Context, record domain.Record) (*intakev1.DispatchPermit, error) {
	ctx, cancel := context.WithTimeout(auth.AsService(ctx), l.Config.CallTimeout)
	defer cancel()
	return l.Permits.GetDispatchPermit(ctx,
		&intakev1.GetDispatchPermitRequest{ImportId: record.ID.String(), Attempt: int32(record.Attempt)})
}

func (l *Loops) reveal(ctx context.Context, record domain.Record) (*runner.Credential, error) {
	if record.RegistryAuth == "" {
		return nil, nil
	}
	if l.Secrets == nil {
		return nil, fmt.Errorf("%w: nobody hands out source credentials here", ErrNoSecret)
	}
	ctx, cancel := context.WithTimeout(ctx, l.Config.CallTimeout)
	defer cancel()
	credential, err := l.Secrets.Reveal(ctx, record.ID, record.RegistryAuth)
	if err != nil {
		return nil, err
	}
	return &credential, nil
}

// fail ends a leased record of which nothing ever ran.
func (l *Loops) fail(ctx context.Context, record domain.Record, failure *domain.Failure) (bool, error) {
	return l.work(ctx, func(tx pgx.Tx) error {
		run, err := store.NewestRun(ctx, tx, record.ID)
		if err != nil {
			return err
		}
		return l.App.Fail(ctx, tx, record, run, failure, "", l.App.Now())
	})
}

// launch records the intent, then starts. A crash in between leaves `starting`, and the supervisor asks the runner whether it knows the
// name. Between the commit and the call a withdrawal may come: it finds `starting`, asks for cancellation, and the supervisor does it.
func (l *Loops) launch(bounded, ctx context.Context, record domain.Record, secret *runner.Credential) (bool, error) {
	target := l.Config.QuarantineHost + "/" + domain.RepositoryOf(record.Tenant, record.ID)
	expires := l.App.Now().Add(l.Config.RunTimeout + l.Config.Margin)
	credential, err := l.Minter.Mint(domain.RepositoryOf(record.Tenant, record.ID), domain.RunName(record.ID, record.Attempt), expires)
	if err != nil {
		return false, errors.Join(fmt.Errorf("mint a run credential: %w", err), l.release(ctx, record, l.Config.RetryPermit))
	}
	failpoint.Hit("dispatch.before_intent")
	var run domain.Attempt
	begun, err := l.work(ctx, func(tx pgx.Tx) (err error) {
		record, run, err = l.App.Begin(ctx, tx, record, l.Provider.ID, target, expires)
		return err
	})
	if err != nil || !begun {
		return false, err
	}
	failpoint.Hit("dispatch.before_start")
	err = l.Runner.Start(bounded, l.spec(record, run, secret, credential))
	failpoint.Hit("dispatch.after_start")
	if errors.Is(err, runner.ErrBusy) || errors.Is(err, runner.ErrRefused) {
		l.Log.ErrorContext(ctx, "run not started", "request_id", record.ID, "attempt", run.Number, "err", err)
		return l.again(ctx, record, run, domain.Fails(domain.CodeDispatch, "the provider did not start the run"))
	}
	if err != nil { // nobody knows whether it runs; asking the runner tells
		return true, errors.Join(fmt.Errorf("start run: %w", err), l.release(ctx, record, l.Config.PollEvery))
	}
	return l.started(ctx, record, run)
}

// started records that the runner has the run, and gives the record to the supervisor.
func (l *Loops) started(ctx context.Context, record domain.Record, run domain.Attempt) (bool, error) {
	status, err := l.Runner.Poll(ctx, run.Name)
	if err != nil || status.StartedAt.IsZero() {
		status.StartedAt = l.App.Now()
	}
	done, err := l.work(ctx, func(tx pgx.Tx) error {
		after, _, err := l.App.Started(ctx, tx, record, run, status.StartedAt.Truncate(time.Microsecond))
		if err != nil {
			return err
		}
		return store.Release(ctx, tx, after, l.App.Now())
	})
	if err == nil && !done { // we were stopped for longer than our lease, and somebody decided without us
		return l.Tidy(ctx)
	}
	return done, err
}

// again ends the attempt and queues the next.
func (l *Loops) again(ctx context.Context, record domain.Record, run domain.Attempt, failure *domain.Failure) (bool, error) {
	due := l.App.Now().Add(time.Duration(run.Number) * l.Config.RetryStart)
	return l.work(ctx, func(tx pgx.Tx) error { return l.App.Again(ctx, tx, record, run, failure, due) })
}

func (l *Loops) spec(record domain.Record, run domain.Attempt, secret *runner.Credential, target runner.Credential) runner.Spec {
	return runner.Spec{
		Name: run.Name, Run: run.ID, Request: record.ID, Tenant: record.Tenant, Attempt: run.Number,
		Source:       sourceOf(record),
		SourceDigest: record.SourceDigest, SourceAuth: secret,
		Target: record.QuarantineTarget, TargetAuth: target, RunTimeout: l.Config.RunTimeout,
		DatabaseDir: l.Config.DatabaseDir, DatabaseURL: l.Config.DatabaseURL,
	}
}

// sourceOf is host/repository@digest: the tag, which may have moved, is not read again.
func sourceOf(record domain.Record) string {
	repository, _, _ := strings.Cut(record.SourceImageRef, "@")
	repository = strings.TrimPrefix(repository, record.SourceRegistry+"/")
	if colon := strings.LastIndexByte(repository, ':'); colon > strings.LastIndexByte(repository, '/') {
		repository = repository[:colon]
	}
	return record.SourceRegistry + "/" + repository + "@" + record.SourceDigest
}
