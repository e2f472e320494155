package gateway

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	dispatchv1 "github.com/pratique-io/pratique/gen/pratique/dispatch/v1"
	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	notifyv1 "github.com/pratique-io/pratique/gen/pratique/notify/v1"
	"github.com/pratique-io/pratique/internal/fault"
)

const (
	logStream          = createPath + "/" + someID + "/logs/stream"
	notificationStream = "/api/v1/notifications/events"
)

// follower is an open event stream.
type follower struct {
	t        *testing.T
	response *http.Response
	lines    *bufio.Scanner
	cancel   context.CancelFunc
}

func (s *setup) follow(path string, headers ...string) *follower {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	s.t.Cleanup(cancel)
	request, err := http.NewRequestWithContext(ctx, "GET", s.url+path, nil)
	require.NoError(s.t, err)
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := http.DefaultClient.Do(request)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { _ = response.Body.Close() })
	return &follower{t: s.t, response: response, lines: bufio.NewScanner(response.Body), cancel: cancel}
}

// block reads up to the next empty line; "" at the end of the stream.
func (f *follower) block() string {
	var lines []string
	for f.lines.Scan() {
		if f.lines.Text() == "" {
			return strings.Join(lines, "\n")
		}
		lines = append(lines, f.lines.Text())
	}
	return strings.Join(lines, "\n")
}

func line(n int) *dispatchv1.FollowLogsResponse {
	return &dispatchv1.FollowLogsResponse{Sequence: int64(n), Entry: &dispatchv1.LogEntry{Message: fmt.Sprintf("line %d\nand \u2028 more", n), Level: "info"}}
}

// pacing must be set before the first call.
func (s *setup) pacing(heartbeat, quiet time.Duration) {
	s.gateway.pace = pace{heartbeat: heartbeat, quiet: quiet}
}

func TestLogLinesAreEvents(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.play(func(c call, stream grpc.ServerStream) error {
		for n := 8; n <= 9; n++ {
			if err := stream.SendMsg(line(n)); err != nil {
				return err
			}
		}
		return nil
	})
	f := s.follow(logStream, "Last-Event-ID", "7", "Authorization", "Bearer x")
	require.Equal(t, http.StatusOK, f.response.StatusCode)
	require.Equal(t, "text/event-stream", f.response.Header.Get("Content-Type"))
	require.Equal(t, "no-store", f.response.Header.Get("Cache-Control"))
	require.Equal(t, "no", f.response.Header.Get("X-Accel-Buffering"))
	for n := 8; n <= 9; n++ {
		lines := strings.Split(f.block(), "\n")
		require.Len(t, lines, 3, "one data line carries the whole entry")
		require.Equal(t, fmt.Sprintf("id: %d", n), lines[0])
		require.Equal(t, "event: log", lines[1])
		var entry map[string]any
		require.NoError(t, json.Unmarshal([]byte(strings.TrimPrefix(lines[2], "data: ")), &entry))
		require.Equal(t, fmt.Sprintf("line %d\nand \u2028 more", n), entry["message"])
	}
	require.Equal(t, ": end", f.block(), "the end is said, so that a client can tell it from a cut")
	c := s.took()[0]
	require.Equal(t, "/pratique.dispatch.v1.RunService/FollowLogs", c.method)
	require.EqualValues(t, 7, c.request.(*dispatchv1.FollowLogsRequest).GetAfterSequence())
	require.Equal(t, someID, c.request.(*dispatchv1.FollowLogsRequest).GetId())
	require.Equal(t, []string{"Bearer x"}, c.metadata.Get("authorization"))
}

func TestNotificationsAreEvents(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.play(reply(&notifyv1.Notification{Id: someID, Title: "t"}))
	f := s.follow(notificationStream, "Last-Event-ID", someID)
	block := f.block()
	require.Contains(t, block, "id: "+someID+"\nevent: notification\ndata: {")
	require.Equal(t, someID, s.took()[0].request.(*notifyv1.FollowNotificationsRequest).GetAfterId())
}

func TestARefusedStreamKeepsItsStatus(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, path := range []string{logStream, notificationStream} {
		for reason, want := range map[errorsv1.Reason]int{errorsv1.Reason_REASON_NOT_FOUND: 404, errorsv1.Reason_REASON_UNAUTHORIZED: 401, errorsv1.Reason_REASON_PERMISSION_DENIED: 403} {
			s.play(refuse(fault.New(reason, "no")))
			got := s.send("GET", path, "")
			require.Equal(t, want, got.status, path)
			require.Equal(t, fault.CodeOf(reason), got.at("error", "code"))
			require.Equal(t, "application/json", got.header.Get("Content-Type"))
		}
	}
	s.play(nil)
	for path, last := range map[string]string{logStream: "x", notificationStream: "7"} {
		got := s.send("GET", path, "", "Last-Event-ID", last)
		require.Equal(t, http.StatusBadRequest, got.status)
		require.Equal(t, "Last-Event-ID", got.at("error", "details", "field"))
	}
	require.Equal(t, http.StatusBadRequest, s.send("GET", logStream, "", "Last-Event-ID", "-1").status)
	require.Empty(t, s.took())
}

func TestAQuietStreamOpensAndBeats(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.pacing(5*time.Millisecond, time.Millisecond)
	s.play(func(_ call, stream grpc.ServerStream) error { <-stream.Context().Done(); return nil })
	f := s.follow(notificationStream)
	require.Equal(t, http.StatusOK, f.response.StatusCode)
	seen := map[string]int{}
	for range 4 {
		seen[f.block()]++
	}
	require.Equal(t, 1, seen[": open"])
	require.Equal(t, 3, seen[": heartbeat"])
}

func TestALostClientEndsTheUpstream(t *testing.T) {
	t.Parallel()
	s := start(t)
	ended := make(chan struct{})
	s.play(func(_ call, stream grpc.ServerStream) error {
		if err := stream.SendMsg(line(1)); err != nil {
			return err
		}
		<-stream.Context().Done()
		close(ended)
		return nil
	})
	f := s.follow(logStream)
	require.Contains(t, f.block(), "id: 1")
	f.cancel()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("the service still streams to nobody")
	}
}

func tokenUntil(at time.Time) string {
	part := func(v any) string {
		raw, _ := json.Marshal(v)
		return base64.RawURLEncoding.EncodeToString(raw)
	}
	return "Bearer " + part(map[string]string{"alg": "none"}) + "." + part(map[string]any{"exp": at.Unix()}) + ".x"
}

func TestAStreamEndsWithItsToken(t *testing.T) {
	t.Parallel()
	s := start(t)
	ended := make(chan struct{})
	s.play(func(_ call, stream grpc.ServerStream) error {
		if err := stream.SendMsg(line(1)); err != nil {
			return err
		}
		<-stream.Context().Done()
		close(ended)
		return nil
	})
	f := s.follow(logStream, "Authorization", tokenUntil(time.Now().Add(2*time.Second)))
	require.Contains(t, f.block(), "id: 1")
	rest, err := io.ReadAll(f.response.Body)
	require.NoError(t, err)
	require.NotContains(t, string(rest), ": end", "the log goes on; only the token has ended")
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("the service still streams")
	}
}

func TestAnEndedTokenIsForTheServiceToRefuse(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.play(refuse(fault.New(errorsv1.Reason_REASON_UNAUTHORIZED, "ended")))
	require.Equal(t, http.StatusUnauthorized, s.send("GET", logStream, "", "Authorization", tokenUntil(time.Now().Add(-time.Hour))).status)
	now := time.Now()
	for _, odd := range []string{"", "Bearer x", "Bearer a.b.c", "Bearer a." + base64.RawURLEncoding.EncodeToString([]byte(`{"exp":"x"}`)) + ".c", tokenUntil(now.Add(24 * time.Hour))} {
		require.Equal(t, now.Add(longestStream), tokenEnd(odd, now), odd)
	}
}

func TestAStreamThatBreaksSaysWhy(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.play(func(_ call, stream grpc.ServerStream) error {
		if err := stream.SendMsg(line(1)); err != nil {
			return err
		}
		return fault.New(errorsv1.Reason_REASON_DEPENDENCY_UNAVAILABLE, "going away")
	})
	f := s.follow(logStream)
	require.Contains(t, f.block(), "id: 1")
	require.Equal(t, ": interrupted: dependency_unavailable", f.block())
}

func TestOneCredentialHoldsOnlySoManyStreams(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.pacing(time.Hour, time.Millisecond)
	s.play(func(_ call, stream grpc.ServerStream) error {
		<-stream.Context().Done()
		return nil
	})
	open := make([]*follower, mostOfOne)
	for i := range open {
		open[i] = s.follow(notificationStream, "Authorization", "Bearer greedy")
		require.Equal(t, http.StatusOK, open[i].response.StatusCode)
	}
	for _, path := range []string{notificationStream, logStream, createPath + "/" + someID + "/evidence/sbom"} {
		refused := s.send("GET", path, "", "Authorization", "Bearer greedy")
		require.Equal(t, http.StatusTooManyRequests, refused.status, path)
		require.Equal(t, "rate_limited", refused.at("error", "code"))
		require.NotEmpty(t, refused.header.Get("Retry-After"))
	}
	require.Equal(t, http.StatusOK, s.follow(notificationStream, "Authorization", "Bearer modest").response.StatusCode, "others are not held up")
	open[0].cancel()
	require.Eventually(t, func() bool {
		return s.follow(notificationStream, "Authorization", "Bearer greedy").response.StatusCode == http.StatusOK
	}, 10*time.Second, 10*time.Millisecond, "who leaves makes room")
}

func TestStreamsLeaveRoomForCalls(t *testing.T) {
	t.Parallel()
	require.Less(t, mostStreams, 1000, "what one connection to a service carries at once (internal/rpc)")
	var s seats
	var leave func()
	for i := range mostStreams {
		var ok bool
		leave, ok = s.take(fmt.Sprint(i))
		require.True(t, ok)
	}
	_, ok := s.take("one more")
	require.False(t, ok)
	leave()
	_, ok = s.take("one more")
	require.True(t, ok)
}
