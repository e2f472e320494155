package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	"github.com/pratique-io/pratique/internal/document"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/internal/oci"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/services/evidence/internal/domain"
	"github.com/pratique-io/pratique/services/evidence/internal/store"
)

// View is a bundle with what belongs to it.
type View struct {
	Bundle    *domain.Bundle
	Documents []domain.Document
	Decision  *store.Decided // nil before the first
}

func notFound(what string) error { return fault.New(errorsv1.Reason_REASON_NOT_FOUND, what) }

// ofRequest reads one bundle; other tenants' do not exist.
func ofRequest(ctx context.Context, tx pgx.Tx, scope pg.Scope, id uuid.UUID) (*domain.Bundle, error) {
	b, err := store.Bundle(ctx, tx, scope, id)
	if errors.Is(err, store.ErrNone) {
		return nil, notFound("there is no evidence for a request with this id")
	}
	return b, err
}

func newest(ctx context.Context, tx pgx.Tx, scope pg.Scope, id uuid.UUID) (*store.Decided, error) {
	d, err := store.Decision(ctx, tx, scope, id)
	if errors.Is(err, store.ErrNone) {
		return nil, nil
	}
	return &d, err
}

// Bundle reads a request's evidence as it stands; there are no documents before they are recorded.
func (a *App) Bundle(ctx context.Context, scope pg.Scope, id uuid.UUID) (v View, err error) {
	err = a.DB.Read(ctx, scope, func(tx pgx.Tx) error {
		if v.Bundle, err = ofRequest(ctx, tx, scope, id); err != nil {
			return err
		}
		if v.Documents, err = store.Documents(ctx, tx, scope, id, ""); err != nil {
			return err
		}
		v.Decision, err = newest(ctx, tx, scope, id)
		return err
	})
	return v, err
}

// Current is what release asks before it writes.
type Current struct {
	Bundle   *domain.Bundle
	Decision store.Decided
	// Verdict is the decision, except that of a dry run which would not have passed and does not allow the release: then it is that one.
	Verdict string
	Fresh   bool
	Ref     string // repository@digest in the quarantine registry
}

// Current reads the decision as it is at this moment, by our clock and not by the loop that expires it.
func (a *App) Current(ctx context.Context, scope pg.Scope, id uuid.UUID) (c Current, err error) {
	err = a.DB.Read(ctx, scope, func(tx pgx.Tx) error {
		if c.Bundle, err = ofRequest(ctx, tx, scope, id); err != nil {
			return err
		}
		d, err := newest(ctx, tx, scope, id)
		if err != nil {
			return err
		}
		if d == nil {
			return notFound("no decision about this request has been made")
		}
		c.Decision = *d
		return nil
	})
	if err != nil {
		return Current{}, err
	}
	c.Verdict = c.Decision.Verdict
	if c.Verdict == domain.VerdictPass && !c.Decision.Releasable {
		c.Verdict = c.Decision.WouldHave
	}
	c.Fresh = c.Bundle.State == domain.Judged && a.now().Before(c.Bundle.ExpiresAt)
	c.Ref = a.internalRef(c.Bundle)
	return c, nil
}

// Document chooses one stored document. Where there is a choice it has to be made, except that a bill of materials is SPDX by default.
func (a *App) Document(ctx context.Context, scope pg.Scope, id uuid.UUID, kind string, platform, format *string) (domain.Document, error) {
	if !slices.Contains(domain.Kinds(), kind) {
		problems := fault.Fields()
		problems.Add("kind", "must be one of "+strings.Join(domain.Kinds(), ", "))
		return domain.Document{}, problems.Err()
	}
	var list []domain.Document
	err := a.DB.Read(ctx, scope, func(tx pgx.Tx) (err error) {
		if _, err = ofRequest(ctx, tx, scope, id); err != nil {
			return err
		}
		list, err = store.Documents(ctx, tx, scope, id, kind)
		return err
	})
	if err != nil {
		return domain.Document{}, err
	}
	if len(list) == 0 {
		return domain.Document{}, notFound("no such evidence has been recorded for this request")
	}
	return choose(list, platform, format)
}

func choose(list []domain.Document, platform, format *string) (domain.Document, error) {
	problems := fault.Fields()
	p := pick(problems, "platform", values(list, func(d domain.Document) string { return d.Platform }), platform, "")
	f := pick(problems, "format", values(list, func(d domain.Document) string { return d.Format }), format, string(document.SPDX))
	if err := problems.Err(); err != nil {
		return domain.Document{}, err
	}
	for _, d := range list {
		if d.Platform == p && d.Format == f {
			return d, nil
		}
	}
	return domain.Document{}, notFound(fmt.Sprintf("this platform has no document in the format %s", f))
}

func values(list []domain.Document, of func(domain.Document) string) []string {
	var out []string
	for _, d := range list {
		if v := of(d); !slices.Contains(out, v) {
			out = append(out, v)
		}
	}
	slices.Sort(out)
	return out
}

func pick(problems *fault.FieldErrors, field string, choices []string, given *string, standard string) string {
	switch {
	case given != nil && slices.Contains(choices, *given):
		return *given
	case given == nil && len(choices) == 1:
		return choices[0]
	case given == nil && standard != "" && slices.Contains(choices, standard):
		return standard
	}
	said := make([]string, 0, len(choices))
	for _, c := range choices {
		if c != "" {
			said = append(said, c)
		}
	}
	if len(said) == 0 {
		problems.Add(field, "must be absent: the document covers the whole image")
	} else {
		problems.Add(field, "must be one of "+strings.Join(said, ", "))
	}
	return ""
}

// Open streams a document from the evidence store. The last read fails when the bytes are not those that were recorded.
func (a *App) Open(ctx context.Context, d domain.Document) (io.ReadCloser, error) {
	r, err := a.Store.Repository(d.Repository).Blob(ctx, oci.Descriptor{MediaType: d.MediaType, Digest: oci.Digest(d.Digest), Size: d.Size})
	return r, storeFault(err)
}

// storeFault keeps what the store said for the log; a damaged document is ours to explain, not the caller's.
func storeFault(err error) error {
	var bad *oci.Unacceptable
	switch {
	case err == nil || errors.As(err, &bad) || errors.Is(err, oci.ErrNotFound):
		return err
	case errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded):
		return err
	}
	return fault.New(errorsv1.Reason_REASON_DEPENDENCY_UNAVAILABLE, "the evidence store does not answer", fault.Cause(err), fault.RetryAfter(5*time.Second))
}

// StoreFault is storeFault for errors in the middle of a stream.
func StoreFault(err error) error { return storeFault(err) }

// Policy reads the policy that a tenant's evidence is judged by; of uuid.Nil, the default.
func (a *App) Policy(ctx context.Context, scope pg.Scope, tenant uuid.UUID) (p domain.Policy, err error) {
	if tenant == uuid.Nil {
		return domain.DefaultPolicy(), nil
	}
	err = a.DB.Read(ctx, scope, func(tx pgx.Tx) error {
		p, err = store.Policy(ctx, tx, tenant)
		return err
	})
	return p, err
}
