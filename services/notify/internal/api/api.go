// Package api is notify's inbound side: the caller's own notifications over gRPC, the stream of new ones, and the events that make them.
package api

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	notifyv1 "github.com/pratique-io/pratique/gen/pratique/notify/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/internal/page"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/services/notify/internal/app"
	"github.com/pratique-io/pratique/services/notify/internal/store"
)

// Server answers notify's RPCs and handles its events.
type Server struct {
	notifyv1.UnimplementedNotificationServiceServer

	db      *pg.DB
	app     *app.App
	now     func() time.Time
	follow  *hub
	telling atomic.Bool // a telling is about to commit; for the failpoint only
}

// New makes the server. Streams wake by the commits of db.
func New(db *pg.DB, a *app.App, log *slog.Logger, now func() time.Time) *Server {
	s := &Server{db: db, app: a, now: now, follow: newHub(db, log)}
	db.OnCommit(s.afterCommit)
	return s
}

// mine is the caller's mailbox. Somebody whom the directory does not know yet has an empty one.
func (s *Server) mine(ctx context.Context) app.Mine {
	return app.Mine{DB: s.db, Person: auth.From(ctx).PersonID, Now: s.now}
}

// ListNotifications lists, newest first; unread narrows to unread ones, false and absent do not narrow.
func (s *Server) ListNotifications(ctx context.Context, req *notifyv1.ListNotificationsRequest) (*notifyv1.ListNotificationsResponse, error) {
	asked, err := page.Parse(req.Limit, req.Page, req.PageToken)
	if err != nil {
		return nil, err
	}
	rows, total, err := s.mine(ctx).List(ctx, req.GetUnread(), asked)
	if err != nil {
		return nil, err
	}
	rows, last, more := page.Cut(asked, rows, func(n store.Notification) page.Key { return page.Key{At: n.CreatedAt, ID: n.ID} })
	out := &notifyv1.ListNotificationsResponse{Pagination: page.Result(asked, total, false, last, more)}
	for _, n := range rows {
		out.Data = append(out.Data, view(n))
	}
	return out, nil
}

// GetUnreadCount counts to 10,000.
func (s *Server) GetUnreadCount(ctx context.Context, _ *notifyv1.GetUnreadCountRequest) (*notifyv1.UnreadCount, error) {
	n, err := s.mine(ctx).Unread(ctx)
	if err != nil {
		return nil, err
	}
	return &notifyv1.UnreadCount{Unread: int32(n)}, nil
}

// MarkRead marks one; not_found when the caller does not have it.
func (s *Server) MarkRead(ctx context.Context, req *notifyv1.MarkReadRequest) (*notifyv1.Notification, error) {
	id, err := page.ID("id", req.GetId())
	if err != nil {
		return nil, err
	}
	n, err := s.mine(ctx).MarkRead(ctx, id)
	if err != nil {
		return nil, err
	}
	return view(n), nil
}

// MarkAllRead marks all there are at the time of the call.
func (s *Server) MarkAllRead(ctx context.Context, _ *notifyv1.MarkAllReadRequest) (*notifyv1.BulkResult, error) {
	return affected(s.mine(ctx).MarkAllRead(ctx))
}

// DeleteNotification deletes one; not_found when the caller does not have it.
func (s *Server) DeleteNotification(ctx context.Context, req *notifyv1.DeleteNotificationRequest) (*emptypb.Empty, error) {
	id, err := page.ID("id", req.GetId())
	if err != nil {
		return nil, err
	}
	if err := s.mine(ctx).DeleteOne(ctx, id); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// DeleteReadNotifications deletes all that have been read.
func (s *Server) DeleteReadNotifications(ctx context.Context, _ *notifyv1.DeleteReadNotificationsRequest) (*notifyv1.BulkResult, error) {
	return affected(s.mine(ctx).DeleteRead(ctx))
}

const mostIDs = 200

// DeleteNotifications deletes those of 1-200 ids that are the caller's; all bad ids are told at once.
func (s *Server) DeleteNotifications(ctx context.Context, req *notifyv1.DeleteNotificationsRequest) (*notifyv1.BulkResult, error) {
	problems := fault.Fields()
	if n := len(req.GetIds()); n < 1 || n > mostIDs {
		problems.Addf("ids", "must hold 1 to %d ids", mostIDs)
	}
	var ids []uuid.UUID
	for i, text := range req.GetIds()[:min(len(req.GetIds()), mostIDs)] {
		id, err := page.ID("id", text)
		if err != nil {
			problems.Add(fmt.Sprintf("ids[%d]", i), "must be a UUID")
			continue
		}
		ids = append(ids, id)
	}
	if err := problems.Err(); err != nil {
		return nil, err
	}
	return affected(s.mine(ctx).Delete(ctx, ids...))
}

func affected(n int, err error) (*notifyv1.BulkResult, error) {
	if err != nil {
		return nil, err
	}
	return &notifyv1.BulkResult{Affected: int32(n)}, nil
}

func view(n store.Notification) *notifyv1.Notification {
	out := &notifyv1.Notification{
		Id: n.ID.String(), Title: n.Title, Message: n.Message, NotificationType: string(n.Type), RelatedResourceType: string(n.Resource),
		RelatedResourceId: n.ResourceID.String(), Link: n.Link, FailureClass: n.Class, FailureCode: n.Code, Hint: n.Hint,
		IsRead: n.ReadAt != nil, CreatedAt: timestamppb.New(n.CreatedAt),
	}
	if n.ReadAt != nil {
		out.ReadAt = timestamppb.New(*n.ReadAt)
	}
	return out
}
