package app

import (
	"context"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	releasev1 "github.com/pratique-io/pratique/gen/pratique/release/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/services/release/internal/domain"
)

const (
	showTime = 2 * time.Second
	showPoll = 25 * time.Millisecond
)

// Shown answers the request as intake shows it, waiting a moment until the release is in it, so that the caller reads what it wrote. The
// release is decided by then: if intake does not answer, what we know of the request ourselves is answered instead of an error.
func (a *App) Shown(ctx context.Context, told *releasev1.ReleaseApproved) (*intakev1.ImportRequest, error) {
	id, err := uuid.Parse(told.GetImportId())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, showTime)
	defer cancel()
	tick := time.NewTicker(showPoll)
	defer tick.Stop()
	var newest *intakev1.ImportRequest
	for {
		if seen, err := a.peers.Request(ctx, id); err == nil {
			newest = seen
			if shows(seen, told.GetReleaseId()) {
				return seen, nil
			}
		}
		select {
		case <-tick.C:
			continue
		case <-ctx.Done():
		}
		if newest != nil {
			return newest, nil
		}
		return a.own(context.WithoutCancel(ctx), id, told)
	}
}

func shows(r *intakev1.ImportRequest, release string) bool {
	for _, one := range r.GetReleases() {
		if one.GetId() == release {
			return true
		}
	}
	return false
}

// own is the request as far as release knows it.
func (a *App) own(ctx context.Context, id uuid.UUID, told *releasev1.ReleaseApproved) (*intakev1.ImportRequest, error) {
	r, err := a.record(ctx, auth.From(ctx).Scope(), id)
	if err != nil {
		return nil, missing("import request", err)
	}
	asked, to := r.Facts.Asked, told.GetDestinationImageRef()
	state := "approved"
	if r.State == domain.Released {
		state = "released"
	}
	return &intakev1.ImportRequest{
		Id: r.ID.String(), TenantId: r.Tenant.String(), RequestedByUserId: asked.Requester, RequestType: asked.Type, ArtifactType: "image",
		SourceRegistry: asked.SourceRegistry, SourceImageRef: asked.SourceRef, SourceImageDigest: asked.Digest, DestinationImageRef: &to,
		Status: string(r.Facts.Status()), ReleaseState: string(r.State), CreatedAt: timestamppb.New(r.CreatedAt),
		UpdatedAt: timestamppb.New(r.UpdatedAt),
		Releases: []*intakev1.Release{{
			Id: told.GetReleaseId(), DestinationImageRef: to, Digest: told.GetDigest(), State: state, Actor: told.GetReleasedBy(),
		}},
	}, nil
}
