package api

import (
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	notifyv1 "github.com/pratique-io/pratique/gen/pratique/notify/v1"
	"github.com/pratique-io/pratique/internal/page"
)

const (
	followPage = 100
	// strangerWait is how long the stream of somebody whom the directory does not know yet stays open: they connect again, and are known.
	strangerWait = 2 * time.Second
)

// FollowNotifications sends what came after after_id, then what comes, in the order of the person's mailbox, until the context ends. Without
// after_id it begins now; the headers say that it has begun, so that a client that lists afterwards misses nothing.
func (s *Server) FollowNotifications(req *notifyv1.FollowNotificationsRequest, stream grpc.ServerStreamingServer[notifyv1.Notification]) error {
	ctx := stream.Context()
	after := uuid.Nil
	if req.AfterId != nil {
		var err error
		if after, err = page.ID("after_id", req.GetAfterId()); err != nil {
			return err
		}
	}
	me := s.mine(ctx)
	if me.Person == uuid.Nil {
		return stranger(stream)
	}
	moved, leave := s.follow.join(me.Person)
	defer leave()
	seq, err := me.Resume(ctx, after)
	if err != nil {
		return err
	}
	if err := stream.SendHeader(metadata.MD{}); err != nil {
		return err
	}
	for {
		list, err := me.After(ctx, seq, followPage)
		if err != nil && ctx.Err() == nil {
			return err
		}
		for _, n := range list {
			if err := stream.Send(view(n)); err != nil {
				return err
			}
			seq = n.Seq
		}
		if len(list) == followPage {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-moved:
		}
	}
}

func stranger(stream grpc.ServerStreamingServer[notifyv1.Notification]) error {
	if err := stream.SendHeader(metadata.MD{}); err != nil {
		return err
	}
	select {
	case <-stream.Context().Done():
	case <-time.After(strangerWait):
	}
	return nil
}
