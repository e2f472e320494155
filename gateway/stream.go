package gateway

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	dispatchv1 "github.com/pratique-io/pratique/gen/pratique/dispatch/v1"
	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	notifyv1 "github.com/pratique-io/pratique/gen/pratique/notify/v1"
	"github.com/pratique-io/pratique/internal/fault"
)

const (
	pathLogStream          = "/api/v1/images/import-requests/{id}/logs/stream"
	pathNotificationStream = "/api/v1/notifications/events"
	// heartbeat keeps proxies from closing a quiet stream.
	heartbeat = 15 * time.Second
	// quiet is how long a source may say nothing before the stream is opened anyway.
	quiet = 300 * time.Millisecond
	// longestStream bounds a stream whose token says nothing of its end.
	longestStream = time.Hour
)

// pace is how often a stream speaks by itself.
type pace struct{ heartbeat, quiet time.Duration }

// streamEvent is one server-sent event. id is what Last-Event-ID brings back.
type streamEvent struct {
	id      string
	name    string
	message proto.Message
}

// streamLogs follows a request's log; Last-Event-ID is the sequence of the last line seen.
func (g *Gateway) streamLogs(w http.ResponseWriter, r *http.Request) {
	if err := g.checkStream(r); err != nil {
		g.renderHTTP(w, r, err)
		return
	}
	after := int64(0)
	if last := r.Header.Get("Last-Event-ID"); last != "" {
		n, err := strconv.ParseInt(last, 10, 64)
		if err != nil || n < 0 {
			g.renderHTTP(w, r, unreadable("Last-Event-ID", "must be the id of an event of this stream"))
			return
		}
		after = n
	}
	ctx, cancel := streamContext(r)
	defer cancel()
	client := dispatchv1.NewRunServiceClient(g.cfg.Peer("dispatch"))
	stream, err := client.FollowLogs(ctx, &dispatchv1.FollowLogsRequest{Id: r.PathValue("id"), AfterSequence: after})
	if err != nil {
		g.renderHTTP(w, r, err)
		return
	}
	g.serveEvents(ctx, w, r, func() (streamEvent, error) {
		line, err := stream.Recv()
		if err != nil {
			return streamEvent{}, err
		}
		return streamEvent{id: strconv.FormatInt(line.GetSequence(), 10), name: "log", message: line.GetEntry()}, nil
	})
}

// streamNotifications follows the caller's notifications; Last-Event-ID is the id of the last one seen.
func (g *Gateway) streamNotifications(w http.ResponseWriter, r *http.Request) {
	if err := g.checkStream(r); err != nil {
		g.renderHTTP(w, r, err)
		return
	}
	ask := &notifyv1.FollowNotificationsRequest{}
	if last := r.Header.Get("Last-Event-ID"); last != "" {
		if _, err := parseUUID(last); err != nil {
			g.renderHTTP(w, r, unreadable("Last-Event-ID", "must be the id of an event of this stream"))
			return
		}
		ask.AfterId = &last
	}
	ctx, cancel := streamContext(r)
	defer cancel()
	stream, err := notifyv1.NewNotificationServiceClient(g.cfg.Peer("notify")).FollowNotifications(ctx, ask)
	if err != nil {
		g.renderHTTP(w, r, err)
		return
	}
	g.serveEvents(ctx, w, r, func() (streamEvent, error) {
		notification, err := stream.Recv()
		if err != nil {
			return streamEvent{}, err
		}
		return streamEvent{id: notification.GetId(), name: "notification", message: notification}, nil
	})
}

func (g *Gateway) checkStream(r *http.Request) error {
	if r.URL.RawQuery != "" {
		return unreadable("", "this path takes no query parameters")
	}
	if id := r.PathValue("id"); id != "" {
		return checkPath(map[string]string{"id": id})
	}
	return nil
}

// streamContext carries the allowed headers and ends when the token ends.
func streamContext(r *http.Request) (context.Context, context.CancelFunc) {
	return context.WithDeadline(outgoing(r), tokenEnd(r.Header.Get("Authorization"), time.Now()))
}

// outgoing carries the allowed headers of a hand-written path to the service.
func outgoing(r *http.Request) context.Context {
	pairs := metadata.MD{}
	for name, list := range r.Header {
		if key, ok := incomingHeader(name); ok {
			pairs.Append(key, list...)
		}
	}
	return metadata.NewOutgoingContext(r.Context(), pairs)
}

// tokenEnd reads the expiry from a bearer token. The service verifies the token before it answers; here it only bounds the stream. A token
// that has ended already bounds nothing, so that the service can say so.
func tokenEnd(authorization string, now time.Time) time.Time {
	limit := now.Add(longestStream)
	parts := strings.Split(authorization, ".")
	if len(parts) != 3 {
		return limit
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return limit
	}
	var claims struct {
		Expires float64 `json:"exp"`
	}
	if err := json.Unmarshal(raw, &claims); err != nil || claims.Expires <= 0 {
		return limit
	}
	if end := time.Unix(int64(claims.Expires), 0); end.Before(limit) && end.After(now) {
		return end
	}
	return limit
}

// serveEvents writes events until the source or the client ends. The first event, or the source's refusal, comes before the header, so a
// refusal still has its status; a quiet source is answered after a moment.
func (g *Gateway) serveEvents(ctx context.Context, w http.ResponseWriter, r *http.Request, next func() (streamEvent, error)) {
	type item struct {
		event streamEvent
		err   error
	}
	items := make(chan item)
	go func() {
		for {
			event, err := next()
			select {
			case items <- item{event, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	out := &eventWriter{w: w, control: http.NewResponseController(w)}
	tick := time.NewTicker(g.pace.heartbeat)
	defer tick.Stop()
	quiet := time.After(g.pace.quiet)
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-quiet:
			err = out.comment("open")
		case <-tick.C:
			err = out.comment("heartbeat")
		case got := <-items:
			if got.err != nil {
				g.endStream(out, r, got.err)
				return
			}
			err = out.event(got.event)
		}
		if err != nil {
			return // the client is gone
		}
	}
}

func (g *Gateway) endStream(out *eventWriter, r *http.Request, err error) {
	if errors.Is(err, io.EOF) {
		_ = out.comment("end")
		return
	}
	if !out.begun {
		g.renderHTTP(out.w, r, err)
		return
	}
	f := fault.FromStatus(err)
	if f.Reason() == errorsv1.Reason_REASON_DEADLINE_EXCEEDED {
		return // the token ended
	}
	_ = out.comment("interrupted: " + fault.CodeOf(f.Reason()))
}

// eventWriter writes the event stream format.
type eventWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
	begun   bool
}

func (e *eventWriter) begin() {
	if e.begun {
		return
	}
	e.begun = true
	e.w.Header().Set("Content-Type", "text/event-stream")
	e.w.Header().Set("X-Accel-Buffering", "no")
	e.w.WriteHeader(http.StatusOK)
}

func (e *eventWriter) comment(text string) error {
	e.begin()
	if _, err := fmt.Fprintf(e.w, ": %s\n\n", text); err != nil {
		return err
	}
	return e.control.Flush()
}

func (e *eventWriter) event(event streamEvent) error {
	raw, err := marshaler().Marshal(event.message)
	if err != nil {
		return err
	}
	e.begin()
	// JSON holds no raw line break, so one data line carries it whole.
	if _, err := fmt.Fprintf(e.w, "id: %s\nevent: %s\ndata: %s\n\n", event.id, event.name, raw); err != nil {
		return err
	}
	return e.control.Flush()
}
