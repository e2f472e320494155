package api

import (
	"context"

	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/internal/oci"
	"github.com/pratique-io/pratique/internal/page"
	"github.com/pratique-io/pratique/services/intake/internal/app"
	"github.com/pratique-io/pratique/services/intake/internal/domain"
)

// RetryImportRequest asks for the same digest again, in the same chain.
func (s *Requests) RetryImportRequest(ctx context.Context, in *intakev1.RetryImportRequestRequest) (*intakev1.ImportRequest, error) {
	return s.retry(ctx, in, domain.TypeQuarantine, "RetryImportRequest")
}

// RetryScanRequest scans the same digest again, in the same chain.
func (s *Requests) RetryScanRequest(ctx context.Context, in *intakev1.RetryImportRequestRequest) (*intakev1.ImportRequest, error) {
	return s.retry(ctx, in, domain.TypeScan, "RetryScanRequest")
}

func (s *Requests) retry(ctx context.Context, in *intakev1.RetryImportRequestRequest, kind domain.Type, method string) (*intakev1.ImportRequest, error) {
	id, err := page.ID("id", in.GetId())
	if err != nil {
		return nil, err
	}
	return s.App.Retry(ctx, in, app.Again{ID: id, Type: kind, Method: method})
}

// CloneImportRequest makes a fresh request with the fields of another.
func (s *Requests) CloneImportRequest(ctx context.Context, in *intakev1.CloneImportRequestRequest) (*intakev1.ImportRequest, error) {
	id, err := page.ID("id", in.GetId())
	if err != nil {
		return nil, err
	}
	// What is wrong with the given fields is told before the request is looked up; words in place of the missing ones.
	if _, err := overridden(in, "EPR", "registry.invalid", "any"); err != nil {
		return nil, err
	}
	return s.App.Clone(ctx, in, app.Again{ID: id, Type: domain.TypeQuarantine, Method: "CloneImportRequest"}, func(r *domain.Request) (app.Ask, error) {
		ask, err := overridden(in, r.EprRecordID, r.SourceRegistry, r.SourceImageRef)
		if err != nil {
			return ask, err
		}
		if in.Justification == nil {
			ask.Justification = r.Justification
		}
		if in.DestinationImageRef == nil && r.DestinationRef != "" {
			problems := fault.Fields()
			ask.Destination = destinationOf(problems, r.DestinationRef)
			err = problems.Err()
		}
		return ask, err
	})
}

// overridden is an ask of the given fields, and of the cloned request's where none is given.
func overridden(in *intakev1.CloneImportRequestRequest, record, registry, ref string) (app.Ask, error) {
	problems := fault.Fields()
	ask := app.Ask{
		EprRecordID:   recordOf(problems, given(in.EprRecordId, record)),
		Source:        sourceOf(problems, given(in.SourceRegistry, registry), given(in.SourceImageRef, ref)),
		Destination:   destinationOf(problems, in.GetDestinationImageRef()),
		Justification: prose(problems, "justification", in.GetJustification(), maxJustification),
	}
	return ask, problems.Err()
}

func given(value *string, otherwise string) string {
	if value == nil {
		return otherwise
	}
	return *value
}

func recordOf(problems *fault.FieldErrors, value string) string {
	record := line(problems, "epr_record_id", value, true, 64)
	if record != "" && !domain.ValidRecordID(record) {
		problems.Add("epr_record_id", "must be "+domain.RecordIDRule)
	}
	return record
}

// destinationOf is nil when none is asked for.
func destinationOf(problems *fault.FieldErrors, value string) *oci.Reference {
	value = line(problems, "destination_image_ref", value, false, maxRef)
	if value == "" {
		return nil
	}
	ref, err := oci.ParseDestination(value)
	if err != nil {
		problems.Add("destination_image_ref", err.Error())
	}
	return &ref
}
