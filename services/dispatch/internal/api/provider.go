package api

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	dispatchv1 "github.com/pratique-io/pratique/gen/pratique/dispatch/v1"
	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/internal/page"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/services/dispatch/internal/domain"
	"github.com/pratique-io/pratique/services/dispatch/internal/store"
)

// Providers answers about the places where runs happen.
type Providers struct {
	dispatchv1.UnimplementedProviderServiceServer
	DB    *pg.DB
	Here  uuid.UUID                                          // the provider of this process
	Check func(ctx context.Context) (domain.Provider, error) // assesses it now
	Stale time.Duration                                      // a provider that was not seen for longer is offline
	Now   func() time.Time
}

// ListProviders answers newest first.
func (s *Providers) ListProviders(ctx context.Context, req *dispatchv1.ListProvidersRequest) (*dispatchv1.ListProvidersResponse, error) {
	asked, err := page.Parse(req.Limit, req.Page, req.PageToken)
	if err != nil {
		return nil, err
	}
	cut := store.Page{Limit: asked.Limit + 1, Offset: asked.Offset}
	if asked.After != nil {
		cut.AfterAt, cut.AfterID = asked.After.At, asked.After.ID
	}
	var list []domain.Provider
	var total int
	err = s.DB.Read(ctx, auth.From(ctx).Scope(), func(tx pgx.Tx) (err error) {
		list, total, err = store.ListProviders(ctx, tx, cut)
		return err
	})
	if err != nil {
		return nil, err
	}
	list, last, more := page.Cut(asked, list, func(p domain.Provider) page.Key { return page.Key{At: p.CreatedAt, ID: p.ID} })
	out := &dispatchv1.ListProvidersResponse{Data: []*dispatchv1.Provider{}, Pagination: page.Result(asked, total, total > page.MaxReach, last, more)}
	for _, p := range list {
		p = s.aged(p)
		out.Data = append(out.Data, &dispatchv1.Provider{
			Id: p.ID.String(), Name: p.Name, Type: p.Type, Status: p.Status, QuarantineDispatchEnabled: p.Enabled != nil && *p.Enabled,
			QuarantineDispatchPriority: int32(p.Priority), MaxConcurrentRuns: int32(p.MaxRuns), Running: int32(p.Running),
		})
	}
	return out, nil
}

// aged shows a provider whose host has not been heard of as offline.
func (s *Providers) aged(p domain.Provider) domain.Provider {
	if p.ID != s.Here && s.Now().Sub(p.SeenAt) > s.Stale {
		p.Status = domain.Offline
	}
	return p
}

// GetProviderReadiness checks the provider of this process now; of another one it answers what its host found last.
func (s *Providers) GetProviderReadiness(ctx context.Context, req *dispatchv1.GetProviderReadinessRequest) (*dispatchv1.Readiness, error) {
	id, err := page.ID("id", req.GetId())
	if err != nil {
		return nil, err
	}
	if id == s.Here {
		p, err := s.Check(ctx)
		if err != nil {
			return nil, err
		}
		return readiness(p.Readiness), nil
	}
	var p domain.Provider
	err = s.DB.Read(ctx, auth.From(ctx).Scope(), func(tx pgx.Tx) (err error) {
		p, err = store.GetProvider(ctx, tx, id)
		return err
	})
	if errors.Is(err, store.ErrNone) {
		return nil, fault.New(errorsv1.Reason_REASON_NOT_FOUND, "there is no such provider")
	}
	if err != nil {
		return nil, err
	}
	if p = s.aged(p); p.Status == domain.Offline {
		for i := range p.Readiness.Checks {
			if c := &p.Readiness.Checks[i]; c.Name == "provider_status" {
				c.OK, c.Message = false, "its host was last heard of at "+p.SeenAt.Format(time.RFC3339)
			}
		}
	}
	return readiness(p.Readiness), nil
}

func readiness(r domain.Readiness) *dispatchv1.Readiness {
	out := &dispatchv1.Readiness{Status: "not_ready", DispatchReady: r.Ready(), MissingPrereqs: r.Missing(),
		CheckedAt: timestamppb.New(r.CheckedAt)}
	if r.Ready() {
		out.Status = "ready"
	}
	for _, c := range r.Checks {
		out.Checks = append(out.Checks, &dispatchv1.ReadinessCheck{Name: c.Name, Ok: c.OK, Message: c.Message})
	}
	return out
}
