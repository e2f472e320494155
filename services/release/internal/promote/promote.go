// Package promote is the loop that writes the trusted registry: the only code of the product that does. It leases one promotion, asks the
// owners, copies by digest, reads back, asks again, tags last, and records the outcome. Every turn may be its first: after a crash anywhere the
// row says what is owed, and doing it again changes nothing that is done.
package promote

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"github.com/pratique-io/pratique/internal/egress"
	"github.com/pratique-io/pratique/internal/failpoint"
	"github.com/pratique-io/pratique/internal/oci"
	"github.com/pratique-io/pratique/services/release/internal/app"
	"github.com/pratique-io/pratique/services/release/internal/domain"
	"github.com/pratique-io/pratique/services/release/internal/store"
)

// Registry is one registry with the credential to use there.
type Registry struct {
	Client *oci.Client
	Host   string
	// Credential is asked for at each turn, so that a rotated one takes effect without a restart.
	Credential func() (oci.Credential, error)
}

func (r Registry) repository(name string) (*oci.Repository, error) {
	credential, err := r.Credential()
	if err != nil {
		return nil, err
	}
	return r.Client.Repository(r.Host, name, credential), nil
}

// Settings bound the loop.
type Settings struct {
	Attempts int           // tries of one promotion before it fails
	Backoff  time.Duration // after the first try; doubles
	Most     time.Duration // longest pause
	Lease    time.Duration // term of one claim; renewed while it works
	Timeout  time.Duration // of one try
}

// Promoter runs promotions.
type Promoter struct {
	app        *app.App
	quarantine Registry
	trusted    Registry
	set        Settings
	log        *slog.Logger
}

// New makes a Promoter.
func New(a *app.App, quarantine, trusted Registry, set Settings, log *slog.Logger) *Promoter {
	return &Promoter{app: a, quarantine: quarantine, trusted: trusted, set: set, log: log}
}

// errLost: the lease went to somebody else, or ran out while we were stopped. Nothing more is ours to do or to record.
var errLost = errors.New("the lease of the promotion is lost")

// Turn claims one due promotion and brings it as far as it goes. It says whether there was one.
func (p *Promoter) Turn(ctx context.Context) (bool, error) {
	job, found, err := p.app.Claim(ctx, p.set.Lease)
	if err != nil || !found {
		return false, err
	}
	held, release := p.hold(ctx, job)
	leave, previous, tried := p.promote(held, job)
	release()
	if lost := context.Cause(held); errors.Is(lost, errLost) || errors.Is(tried, errLost) || errors.Is(tried, store.ErrMoved) {
		p.log.WarnContext(ctx, "promotion is another's now", "release_id", job.ID, "request_id", job.Record, "tenant_id", job.Tenant)
		return true, nil
	}
	stopping := ctx.Err() != nil
	// What follows must be written even when the program is stopping: it says what is owed.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTime)
	defer cancel()
	failpoint.Hit("release.before_record")
	if tried == nil {
		err = p.app.Publish(ctx, job, leave, previous)
	} else {
		err = p.settle(ctx, job, tried, stopping)
	}
	failpoint.Hit("release.after_record")
	if errors.Is(err, store.ErrMoved) {
		err = nil
	}
	return true, err
}

const recordTime = 10 * time.Second

// promote does the work; nil means that the destination's tag names the digest, with everything that belongs to it, read back.
func (p *Promoter) promote(ctx context.Context, job app.Job) (app.Leave, string, error) {
	leave, err := p.app.Ask(ctx, job)
	if err != nil {
		return leave, "", asked(err)
	}
	src, dst, place, err := p.ends(job)
	if err != nil {
		return leave, "", err
	}
	if err := p.app.Begin(ctx, job); err != nil {
		return leave, "", own(err)
	}
	failpoint.Hit("release.before_copy")
	referrers := make([]oci.Digest, 0, len(leave.Referrers))
	for _, text := range leave.Referrers {
		d, err := oci.ParseDigest(text)
		if err != nil {
			return leave, "", &app.Refusal{Why: "evidence names a referrer that is no digest"}
		}
		referrers = append(referrers, d)
	}
	previous := job.PreviousDigest
	report, err := oci.Copy(ctx, src, dst, oci.Digest(job.Digest), oci.CopyOptions{
		Referrers: referrers, Tags: []string{place.Tag},
		BeforeTag: func(ctx context.Context) error {
			failpoint.Hit("release.after_copy")
			var err error
			if leave, err = p.beforeTag(ctx, job, dst, place.Tag, &previous); err != nil {
				return err
			}
			failpoint.Hit("release.before_tag")
			return nil
		},
	})
	if err != nil {
		return leave, "", err
	}
	failpoint.Hit("release.after_tag")
	if moved := report.Previous[place.Tag]; previous == "" && moved != "" && string(moved) != job.Digest {
		previous = string(moved)
	}
	return leave, previous, nil
}

// ends are the repositories to copy between: from quarantine, or, when an earlier release brought the bytes over, from where they are.
func (p *Promoter) ends(job app.Job) (src, dst *oci.Repository, place oci.Reference, err error) {
	if place, err = oci.ParseDestination(job.Destination); err != nil || place.Host != p.trusted.Host || place.Tag == "" {
		return nil, nil, place, &app.Refusal{Why: "the destination lies outside the trusted registry"}
	}
	if dst, err = p.trusted.repository(place.Repository); err != nil {
		return nil, nil, place, own(err)
	}
	if job.From != nil {
		there, err := oci.ParseReference(job.From.TrustedRef)
		if err == nil && there.Host == p.trusted.Host {
			src, err = p.trusted.repository(there.Repository)
			return src, dst, place, own(err)
		}
	}
	src, err = p.quarantine.repository(quarantineName(job.Tenant, job.Record))
	return src, dst, place, own(err)
}

// quarantineName is the repository that the request's run was given.
func quarantineName(tenant, request uuid.UUID) string {
	return "q/" + tenant.String() + "/" + request.String()
}

// beforeTag makes sure that the lease is still ours, asks the owners again, and keeps what the tag names now: after a crash it would name the
// new digest.
func (p *Promoter) beforeTag(ctx context.Context, job app.Job, dst *oci.Repository, tag string, previous *string) (app.Leave, error) {
	if _, err := p.app.Renew(ctx, job, p.set.Lease); err != nil {
		return app.Leave{}, own(err)
	}
	leave, err := p.app.Ask(ctx, job)
	if err != nil {
		return leave, asked(err)
	}
	now, _, err := dst.Resolve(ctx, tag)
	switch {
	case errors.Is(err, oci.ErrNotFound):
		return leave, nil
	case unacceptable(err): // somebody else's bytes; the copy notes their digest
		return leave, nil
	case err != nil:
		return leave, err
	case string(now.Digest) == job.Digest || string(now.Digest) == *previous:
		return leave, nil
	}
	*previous = string(now.Digest)
	return leave, own(p.app.NotePrevious(ctx, job, *previous))
}

func unacceptable(err error) bool {
	var bad *oci.Unacceptable
	return errors.As(err, &bad)
}

// silence is an owner, or something of our own, that could not answer: the promotion waits, and no try is counted.
type silence struct{ cause error }

func (s *silence) Error() string { return s.cause.Error() }
func (s *silence) Unwrap() error { return s.cause }

func asked(err error) error {
	var no *app.Refusal
	if err == nil || errors.As(err, &no) {
		return err
	}
	return &silence{cause: err}
}

func own(err error) error {
	if err == nil || errors.Is(err, store.ErrMoved) {
		return err
	}
	return &silence{cause: err}
}

// settle records a turn that did not release: to be tried again, to be waited with, or failed.
func (p *Promoter) settle(ctx context.Context, job app.Job, tried error, stopping bool) error {
	log := p.log.With("release_id", job.ID, "request_id", job.Record, "tenant_id", job.Tenant, "attempt", job.Attempts+1, "err", tried)
	var quiet *silence
	var no *app.Refusal
	switch {
	case stopping && !errors.As(tried, &no): // nobody refused, we were cut off
		log.InfoContext(ctx, "promotion goes on after a restart")
		return p.app.Postpone(ctx, job, 0, store.Delay{Stopped: true, Error: job.Error})
	case errors.As(tried, &no):
		log.WarnContext(ctx, "promotion is refused")
		return p.app.Fail(ctx, job, domain.PromotionFailed, no.Why)
	case errors.As(tried, &quiet):
		wait := p.pause(job.Waits)
		log.WarnContext(ctx, "promotion waits for an answer", "in", wait)
		return p.app.Postpone(ctx, job, wait, store.Delay{Error: "an owner did not answer"})
	}
	blocker, final := judge(tried)
	if final || job.Attempts+1 >= p.set.Attempts {
		log.ErrorContext(ctx, "promotion failed", "blocker", string(blocker))
		return p.app.Fail(ctx, job, blocker, say(tried))
	}
	wait := p.pause(job.Attempts)
	var limited oci.ErrRateLimited
	if errors.As(tried, &limited) && limited.RetryAfter > wait {
		wait = min(limited.RetryAfter, maxRetryAfter)
	}
	log.WarnContext(ctx, "promotion is tried again", "in", wait)
	return p.app.Postpone(ctx, job, wait, store.Delay{Attempt: true, Error: say(tried)})
}

const maxRetryAfter = time.Hour

func (p *Promoter) pause(before int) time.Duration {
	return min(p.set.Backoff<<min(before, 20), p.set.Most)
}

// judge says what a failed copy blocks with, and whether trying again can help. Bytes that are not what they should be, answers that no
// registry may give, and places that we may not reach stay so.
func judge(err error) (domain.Blocker, bool) {
	var bad *oci.Unacceptable
	var refused *egress.Refused
	switch {
	case errors.As(err, &bad) && bad.Reason == oci.ReasonDigestMismatch:
		return domain.DigestMismatch, true
	case errors.As(err, &bad), errors.As(err, &refused):
		return domain.PromotionFailed, true
	case errors.Is(err, oci.ErrProtocol), errors.Is(err, oci.ErrUnsupported):
		return domain.PromotionFailed, true
	}
	return domain.PromotionFailed, false
}

const maxError = 500

// say is the error as people read it. The client's errors hold no secret: hosts, repositories, digests and status codes.
func say(err error) string {
	text := err.Error()
	if errors.Is(err, context.DeadlineExceeded) {
		text = "the copy took longer than it was given"
	}
	if runes := []rune(text); len(runes) > maxError {
		text = string(runes[:maxError])
	}
	return text
}
