package api

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	dispatchv1 "github.com/pratique-io/pratique/gen/pratique/dispatch/v1"
	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/internal/page"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/services/dispatch/internal/app"
	"github.com/pratique-io/pratique/services/dispatch/internal/domain"
	"github.com/pratique-io/pratique/services/dispatch/internal/store"
)

// Runs answers about runs and their logs.
type Runs struct {
	dispatchv1.UnimplementedRunServiceServer
	DB   *pg.DB
	Bell *Bell
	// Requests answers whether a request exists that we have not heard of yet: its events are still on their way.
	Requests intakev1.RequestServiceClient
}

const (
	defaultLines = 100
	maxLines     = 1000
	maxOffset    = 1_000_000
	followEvery  = 500 * time.Millisecond // the net below the bell: another process may have written
	followBatch  = 500
)

var levels = []string{"debug", "info", "warn", "error"}

// ListLogs answers newest first.
func (s *Runs) ListLogs(ctx context.Context, req *dispatchv1.ListLogsRequest) (*dispatchv1.LogPage, error) {
	id, err := page.ID("id", req.GetId())
	if err != nil {
		return nil, err
	}
	filter, limit, offset, err := filterOf(req)
	if err != nil {
		return nil, err
	}
	var lines []store.Line
	var total int
	err = s.DB.Read(ctx, auth.From(ctx).Scope(), func(tx pgx.Tx) error {
		known, _, err := store.LogEnded(ctx, tx, id)
		if err != nil {
			return err
		}
		if !known {
			return store.ErrNone
		}
		lines, total, err = store.NewestLines(ctx, tx, id, filter, limit, offset)
		return err
	})
	if errors.Is(err, store.ErrNone) {
		err = s.exists(ctx, id)
	}
	if err != nil {
		return nil, err
	}
	out := &dispatchv1.LogPage{ImportRequestId: id.String(), Total: int32(total), HasMore: offset+len(lines) < total}
	for _, line := range lines {
		out.Logs = append(out.Logs, entry(line))
	}
	return out, nil
}

func filterOf(req *dispatchv1.ListLogsRequest) (f store.Filter, limit, offset int, err error) {
	problems := fault.Fields()
	switch req.GetSource() {
	case "", "all":
	case app.SourceRun, app.SourceLifecycle:
		f.Sources = []string{req.GetSource()}
	default:
		problems.Add("source", "must be all, run or lifecycle")
	}
	if level := req.GetMinLevel(); level != "" {
		from := slices.Index(levels, level)
		if from < 0 {
			problems.Add("min_level", "must be debug, info, warn or error")
		} else if from > 0 {
			f.Levels = levels[from:]
		}
	}
	limit, offset = defaultLines, int(req.GetOffset())
	if req.Limit != nil {
		if limit = int(req.GetLimit()); limit < 1 || limit > maxLines {
			problems.Addf("limit", "must be 1 to %d", maxLines)
		}
	}
	if offset < 0 || offset > maxOffset {
		problems.Addf("offset", "must be 0 to %d", maxOffset)
	}
	return f, limit, offset, problems.Err()
}

// exists is for a request whose events have not reached us: intake knows whether the caller may see it. Nil when it does.
func (s *Runs) exists(ctx context.Context, id uuid.UUID) error {
	missing := fault.New(errorsv1.Reason_REASON_NOT_FOUND, "there is no such request")
	if auth.From(ctx).Service != "" {
		return missing
	}
	ctx, cancel := context.WithTimeout(auth.ForwardCaller(ctx), 2*time.Second)
	defer cancel()
	req := &intakev1.GetImportRequestRequest{Id: id.String()}
	_, err := s.Requests.GetImportRequest(ctx, req)
	if isMissing(err) {
		_, err = s.Requests.GetScanRequest(ctx, req)
	}
	switch {
	case err == nil:
		return nil
	case isMissing(err):
		return missing
	}
	return fault.New(errorsv1.Reason_REASON_DEPENDENCY_UNAVAILABLE, "whether this request exists cannot be told now", fault.Cause(err))
}

func isMissing(err error) bool {
	return err != nil && (status.Code(err) == codes.NotFound || fault.Is(err, errorsv1.Reason_REASON_NOT_FOUND))
}

// FollowLogs sends lines as they become visible, until the runs have ended and every line was sent.
func (s *Runs) FollowLogs(req *dispatchv1.FollowLogsRequest, stream grpc.ServerStreamingServer[dispatchv1.FollowLogsResponse]) error {
	ctx := stream.Context()
	id, err := page.ID("id", req.GetId())
	if err != nil {
		return err
	}
	after := req.GetAfterSequence()
	if after < 0 {
		return fault.Fields().Add("after_sequence", "must not be negative").Err()
	}
	checked := false
	for {
		rung := s.Bell.Wait() // before reading, so that what comes while we read is not missed
		lines, known, ended, err := s.next(ctx, id, after)
		if err != nil {
			return err
		}
		if !known && !checked {
			if err := s.exists(ctx, id); err != nil {
				return err
			}
			checked = true
		}
		for _, line := range lines {
			if err := stream.Send(&dispatchv1.FollowLogsResponse{Sequence: line.Sequence, Entry: entry(line)}); err != nil {
				return err
			}
			after = line.Sequence
		}
		if len(lines) == followBatch {
			continue
		}
		if ended {
			return nil
		}
		if err := pause(ctx, rung); err != nil {
			return err
		}
	}
}

// next reads lines and the end in one snapshot: when it says ended, no line of a run is missing.
func (s *Runs) next(ctx context.Context, id uuid.UUID, after int64) (lines []store.Line, known, ended bool, err error) {
	err = s.DB.Read(ctx, auth.From(ctx).Scope(), func(tx pgx.Tx) error {
		if known, ended, err = store.LogEnded(ctx, tx, id); err != nil || !known {
			return err
		}
		lines, err = store.LinesAfter(ctx, tx, id, after, followBatch)
		return err
	})
	return lines, known, ended, err
}

func pause(ctx context.Context, rung <-chan struct{}) error {
	timer := time.NewTimer(followEvery)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-rung:
	case <-timer.C:
	}
	return nil
}

func entry(l store.Line) *dispatchv1.LogEntry {
	return &dispatchv1.LogEntry{Timestamp: timestamppb.New(l.At), Level: l.Level, Source: l.Source, Step: l.Step, Message: l.Message}
}

// GetRun answers the newest run of a request.
func (s *Runs) GetRun(ctx context.Context, req *dispatchv1.GetRunRequest) (*dispatchv1.Run, error) {
	id, err := page.ID("import_id", req.GetImportId())
	if err != nil {
		return nil, err
	}
	var run domain.Attempt
	err = s.DB.Read(ctx, auth.From(ctx).Scope(), func(tx pgx.Tx) (err error) {
		run, err = store.NewestRun(ctx, tx, id)
		return err
	})
	if errors.Is(err, store.ErrNone) {
		return nil, fault.New(errorsv1.Reason_REASON_NOT_FOUND, "there is no run of such a request")
	}
	if err != nil {
		return nil, err
	}
	out := &dispatchv1.Run{Id: run.ID.String(), ImportId: run.Request.String(), TenantId: run.Tenant.String(), Attempt: int32(run.Number),
		State: string(run.State), Steps: app.StepMessages(run.Steps), QueuedAt: timestamppb.New(run.QueuedAt)}
	if run.Provider != uuid.Nil {
		out.ProviderId = run.Provider.String()
	}
	if !run.StartedAt.IsZero() {
		out.StartedAt = timestamppb.New(run.StartedAt)
	}
	if !run.EndedAt.IsZero() {
		out.FinishedAt = timestamppb.New(run.EndedAt)
	}
	return out, nil
}
