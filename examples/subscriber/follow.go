package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"
	"unicode"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	stream = "PRATIQUE_LIFECYCLE"
	// batch is how many events are printed before the state is saved; so many are printed twice after a power loss at the worst.
	batch     = 256
	fetchWait = 5 * time.Second
	callWait  = 10 * time.Second
)

// cloudEvent is the part of CloudEvents 1.0 structured JSON that is shown. Unknown attributes are kept in -json output.
type cloudEvent struct {
	SpecVersion string    `json:"specversion"`
	ID          string    `json:"id"`
	Type        string    `json:"type"`
	Subject     string    `json:"subject"`
	Time        time.Time `json:"time"`
	TenantID    string    `json:"tenantid"`
	RequestID   string    `json:"requestid"`
	Sequence    int64     `json:"sequence"`
	Actor       string    `json:"actor"`
}

// follow prints events until ctx ends. It survives the broker's absence, restart and loss of data.
func follow(ctx context.Context, cfg config, out io.Writer, log *slog.Logger) error {
	state, err := openState(cfg.state, cfg.remember)
	if err != nil {
		return err
	}
	defer func() {
		if err := state.close(); err != nil {
			log.Error("state file could not be closed", "err", err)
		}
	}()
	restored := make(chan struct{}, 1)
	nc, err := nats.Connect(cfg.url,
		nats.Name("pratique subscriber example"), nats.UserInfo(cfg.user, cfg.password),
		nats.CustomInboxPrefix("_INBOX_"+cfg.user),              // the only inbox this user may listen on
		nats.MaxReconnects(-1), nats.RetryOnFailedConnect(true), // for ever
		nats.ReconnectWait(cfg.retry), nats.ReconnectBufSize(-1), nats.IgnoreAuthErrorAbort(),
		nats.ReconnectHandler(func(*nats.Conn) {
			select {
			case restored <- struct{}{}:
			default:
			}
		}),
	)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	for {
		err := until(ctx, restored, func(ctx context.Context) error { return session(ctx, js, cfg, state, out, log) })
		if ctx.Err() != nil {
			return nil
		}
		var local *localError
		if errors.As(err, &local) {
			return err // the terminal or the disk: another try would print twice
		}
		log.Warn("following was interrupted, trying again", "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(cfg.retry):
		}
	}
}

// until runs something that ends when the connection was lost and is restored: the broker may be another one now.
func until(ctx context.Context, restored <-chan struct{}, do func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-restored:
			cancel(errors.New("the connection was lost and restored"))
		case <-ctx.Done():
		}
	}()
	return do(ctx)
}

// localError is a failure on this side of the broker.
type localError struct{ err error }

func (e *localError) Error() string { return e.err.Error() }
func (e *localError) Unwrap() error { return e.err }

// session makes the consumer anew, from a little before the newest event printed, and prints until something fails. Sequence numbers are of
// no use for that: when a broker is rebuilt they start again.
func session(ctx context.Context, js jetstream.JetStream, cfg config, state *state, out io.Writer, log *slog.Logger) error {
	consumer, err := consume(ctx, js, cfg, state)
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		if err := fetch(ctx, consumer, cfg, state, out, log); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

// fetch prints what comes within a few seconds. A lost consumer is an error, a lost broker missing heartbeats.
func fetch(ctx context.Context, consumer jetstream.Consumer, cfg config, state *state, out io.Writer, log *slog.Logger) error {
	waiting, cancel := context.WithTimeout(ctx, fetchWait)
	defer cancel()
	messages, err := consumer.Fetch(batch, jetstream.FetchContext(waiting), jetstream.FetchHeartbeat(fetchWait/4))
	if err != nil {
		return fmt.Errorf("fetch: %w", err)
	}
	var got []jetstream.Msg
	for message := range messages.Messages() {
		got = append(got, message)
		if len(messages.Messages()) == 0 { // all that is there now
			if err := printAll(got, cfg, state, out, log); err != nil {
				return err
			}
			got = nil
		}
	}
	if err := printAll(got, cfg, state, out, log); err != nil {
		return err
	}
	if err := messages.Error(); err != nil && !errors.Is(err, nats.ErrTimeout) && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("fetch: %w", err)
	}
	return nil
}

// consume replaces this subscriber's consumer, the only one its user may touch.
func consume(ctx context.Context, js jetstream.JetStream, cfg config, state *state) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, callWait)
	defer cancel()
	found, err := js.Stream(ctx, stream)
	if err != nil {
		return nil, fmt.Errorf("stream: %w", err)
	}
	want := jetstream.ConsumerConfig{
		Durable: "ext_" + cfg.user, FilterSubject: cfg.filter, AckPolicy: jetstream.AckExplicitPolicy, DeliverPolicy: jetstream.DeliverAllPolicy,
	}
	start := cfg.since
	if newest := state.newest(); !newest.IsZero() {
		start = newest.Add(-cfg.overlap)
		if created := found.CachedInfo().Created; state.stream != created.UnixNano() && created.Before(start) {
			start = created // a new stream whose broker's clock is behind
		}
	}
	if !start.IsZero() {
		want.DeliverPolicy, want.OptStartTime = jetstream.DeliverByStartTimePolicy, &start
	}
	if err := found.DeleteConsumer(ctx, want.Durable); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return nil, fmt.Errorf("consumer: %w", err)
	}
	consumer, err := found.CreateConsumer(ctx, want)
	if err != nil {
		return nil, fmt.Errorf("consumer: %w", err)
	}
	state.stream = found.CachedInfo().Created.UnixNano()
	return consumer, nil
}

// printAll prints what is new, remembers it, and only then tells the broker. A crash in between prints again; nothing is ever left out.
func printAll(messages []jetstream.Msg, cfg config, state *state, out io.Writer, log *slog.Logger) error {
	for _, message := range messages {
		meta, err := message.Metadata()
		if err != nil {
			return err
		}
		var event cloudEvent
		if err := json.Unmarshal(message.Data(), &event); err != nil || event.SpecVersion != "1.0" || event.ID == "" {
			log.Warn("skipped a message that is no event", "stream_sequence", meta.Sequence.Stream, "err", err)
			continue
		}
		if event.Time.IsZero() { // CloudEvents allows that; ours have one
			event.Time = meta.Timestamp
		}
		if state.known(event.ID, event.Time) {
			continue
		}
		line, err := show(event, message.Data(), cfg.json)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintln(out, line); err != nil {
			return &localError{err}
		}
		state.add(entry{ID: event.ID, Time: event.Time, Stored: meta.Timestamp, Stream: state.stream})
	}
	if err := state.save(); err != nil {
		return &localError{err}
	}
	for _, message := range messages {
		if err := message.Ack(); err != nil {
			return fmt.Errorf("acknowledge: %w", err)
		}
	}
	return nil
}

// show is an event in one line.
func show(event cloudEvent, raw []byte, asJSON bool) (string, error) {
	if asJSON {
		var out bytes.Buffer
		err := json.Compact(&out, raw)
		return out.String(), err
	}
	line := fmt.Sprintf("%s  %s  subject=%s sequence=%d", event.Time.UTC().Format(time.RFC3339), event.Type, event.Subject, event.Sequence)
	for _, attribute := range []struct{ name, value string }{{"tenant", event.TenantID}, {"request", event.RequestID}, {"actor", event.Actor}} {
		if attribute.value != "" {
			line += " " + attribute.name + "=" + attribute.value
		}
	}
	return strings.Map(func(r rune) rune { // a terminal obeys control and format characters
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, line), nil
}
