// Package api is intake's inside of the wire: gRPC methods that check fields, call one verb and show the answer.
package api

import (
	"context"
	"strconv"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/failure"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/internal/oci"
	"github.com/pratique-io/pratique/internal/page"
	"github.com/pratique-io/pratique/services/intake/internal/app"
	"github.com/pratique-io/pratique/services/intake/internal/domain"
	"github.com/pratique-io/pratique/services/intake/internal/store"
	"github.com/pratique-io/pratique/services/intake/internal/view"
)

// headerStatus overrides a method's success status for one answer; the gateway reads it (validate_only answers 200, not 201).
const headerStatus = "pratique-success-status"

// Requests serves RequestService.
type Requests struct {
	intakev1.UnimplementedRequestServiceServer
	App *app.App
}

// CreateImportRequest asks for an image.
func (s *Requests) CreateImportRequest(ctx context.Context, in *intakev1.CreateImportRequestRequest) (*intakev1.ImportRequest, error) {
	problems := fault.Fields()
	ask := app.Ask{Type: domain.TypeQuarantine, ValidateOnly: in.GetValidateOnly(), Method: "CreateImportRequest"}
	ask.EprRecordID = recordOf(problems, in.GetEprRecordId())
	ask.Source = sourceOf(problems, in.GetSourceRegistry(), in.GetSourceImageRef())
	ask.Justification = prose(problems, "justification", in.GetJustification(), maxJustification)
	credential(problems, in.RegistryAuthId)
	oneOf(problems, "artifact_type", in.ArtifactType, []string{"image"})
	ask.Destination = destinationOf(problems, in.GetDestinationImageRef())
	if err := problems.Err(); err != nil {
		return nil, err
	}
	if ask.ValidateOnly {
		if err := grpc.SetHeader(ctx, metadata.Pairs(headerStatus, strconv.Itoa(200))); err != nil {
			return nil, err
		}
	}
	return s.App.Create(ctx, in, ask)
}

// CreateScanRequest scans an image on demand.
func (s *Requests) CreateScanRequest(ctx context.Context, in *intakev1.CreateScanRequestRequest) (*intakev1.ImportRequest, error) {
	problems := fault.Fields()
	ask := app.Ask{Type: domain.TypeScan, Method: "CreateScanRequest"}
	ask.Source = sourceOf(problems, in.GetSourceRegistry(), in.GetSourceImageRef())
	ask.Justification = prose(problems, "justification", in.GetJustification(), maxJustification)
	credential(problems, in.RegistryAuthId)
	if err := problems.Err(); err != nil {
		return nil, err
	}
	return s.App.Create(ctx, in, ask)
}

// sourceOf names the field that is wrong: the registry by itself, else the reference in it.
func sourceOf(problems *fault.FieldErrors, registry, ref string) oci.Reference {
	registry = line(problems, "source_registry", registry, true, maxHost)
	ref = line(problems, "source_image_ref", ref, true, maxRef)
	hostOK := registry != ""
	if hostOK {
		if _, err := oci.ParseHost(registry); err != nil {
			problems.Add("source_registry", err.Error())
			hostOK = false
		}
	}
	if ref == "" {
		return oci.Reference{}
	}
	if !hostOK { // still tell what is wrong with the reference itself
		registry = "registry.invalid"
	}
	out, err := oci.ParseSource(registry, ref)
	if err != nil && hostOK {
		problems.Add("source_image_ref", err.Error())
	}
	return out
}

// credential refuses every registry credential while none can exist.
func credential(problems *fault.FieldErrors, id *string) {
	if id != nil && *id != "" {
		problems.Add("registry_auth_id", "the tenant has no such registry credential")
	}
}

// GetImportRequest answers import and scan requests alike.
func (s *Requests) GetImportRequest(ctx context.Context, in *intakev1.GetImportRequestRequest) (*intakev1.ImportRequest, error) {
	r, err := s.read(ctx, in.GetId())
	if err != nil {
		return nil, err
	}
	return view.Request(r)
}

// GetScanRequest answers scan requests only.
func (s *Requests) GetScanRequest(ctx context.Context, in *intakev1.GetImportRequestRequest) (*intakev1.ImportRequest, error) {
	r, err := s.read(ctx, in.GetId())
	if err != nil {
		return nil, err
	}
	if r.Type != domain.TypeScan {
		return nil, fault.New(errorsv1.Reason_REASON_NOT_FOUND, "there is no such scan request")
	}
	return view.Request(r)
}

func (s *Requests) read(ctx context.Context, text string) (*domain.Request, error) {
	id, err := page.ID("id", text)
	if err != nil {
		return nil, err
	}
	return s.App.Request(ctx, id)
}

// ListImportRequests lists quarantine requests.
func (s *Requests) ListImportRequests(ctx context.Context, in *intakev1.ListImportRequestsRequest) (*intakev1.ListImportRequestsResponse, error) {
	return s.list(ctx, in, domain.TypeQuarantine)
}

// ListScanRequests lists scan requests.
func (s *Requests) ListScanRequests(ctx context.Context, in *intakev1.ListImportRequestsRequest) (*intakev1.ListImportRequestsResponse, error) {
	return s.list(ctx, in, domain.TypeScan)
}

func (s *Requests) list(ctx context.Context, in *intakev1.ListImportRequestsRequest, kind domain.Type) (*intakev1.ListImportRequestsResponse, error) {
	problems := fault.Fields()
	q := store.RequestFilter{
		Type:          kind,
		Tenant:        optionalID(problems, "tenant_id", in.TenantId),
		Status:        string(oneOf(problems, "status", in.Status, domain.Statuses())),
		Execution:     string(oneOf(problems, "execution_state", in.ExecutionState, domain.Executions())),
		Release:       string(oneOf(problems, "release_state", in.ReleaseState, domain.ReleaseStates())),
		FailureClass:  oneOf(problems, "failure_class", in.FailureClass, failure.Classes()),
		RequestedBy:   optionalID(problems, "requested_by", in.RequestedBy),
		Search:        line(problems, "search", in.GetSearch(), false, maxSearch),
		CreatedAfter:  optionalTime(problems, "created_after", in.CreatedAfter),
		CreatedBefore: optionalTime(problems, "created_before", in.CreatedBefore),
	}
	if text := in.GetDigest(); text != "" {
		digest, err := oci.ParseDigest(text)
		if err != nil {
			problems.Add("digest", err.Error())
		}
		q.Digest = string(digest)
	}
	req := pageOf(problems, in.Limit, in.Page, in.PageToken)
	if err := problems.Err(); err != nil {
		return nil, err
	}
	rows, pagination, err := s.App.Requests(ctx, q, req)
	if err != nil {
		return nil, err
	}
	out := &intakev1.ListImportRequestsResponse{Pagination: pagination}
	for _, r := range rows {
		shown, err := view.Request(r)
		if err != nil {
			return nil, err
		}
		out.Data = append(out.Data, shown)
	}
	return out, nil
}

// GetWorkflow shows a request's way through the product.
func (s *Requests) GetWorkflow(ctx context.Context, in *intakev1.GetWorkflowRequest) (*intakev1.Workflow, error) {
	r, err := s.read(ctx, in.GetId())
	if err != nil {
		return nil, err
	}
	return view.Workflow(r), nil
}

// GetTimeline shows the trail of a request over all services.
func (s *Requests) GetTimeline(ctx context.Context, in *intakev1.GetTimelineRequest) (*intakev1.GetTimelineResponse, error) {
	id, err := page.ID("id", in.GetId())
	if err != nil {
		return nil, err
	}
	req, err := page.Parse(in.Limit, in.Page, in.PageToken)
	if err != nil {
		return nil, err
	}
	lines, pagination, err := s.App.Timeline(ctx, id, req)
	if err != nil {
		return nil, err
	}
	out := &intakev1.GetTimelineResponse{Pagination: pagination}
	for _, l := range lines {
		out.Data = append(out.Data, view.Line(l))
	}
	return out, nil
}

// WithdrawImportRequest takes a request back.
func (s *Requests) WithdrawImportRequest(ctx context.Context, in *intakev1.WithdrawImportRequestRequest) (*intakev1.ImportRequest, error) {
	id, err := page.ID("id", in.GetId())
	if err != nil {
		return nil, err
	}
	problems := fault.Fields()
	reason := prose(problems, "reason", in.GetReason(), maxReason)
	if err := problems.Err(); err != nil {
		return nil, err
	}
	r, err := s.App.Withdraw(ctx, id, reason)
	if err != nil {
		return nil, err
	}
	return view.Request(r)
}
