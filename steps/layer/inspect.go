package layer

import (
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/pratique-io/pratique/internal/oci"
)

// Inspector opens the layers of one image, one after the other, under one budget. Not for concurrent use.
type Inspector struct {
	limits  Limits
	bytes   int64
	entries int
	// Visit, when set, is called for every accepted entry in order.
	Visit func(Entry)
}

// NewInspector returns an Inspector with limits; zero fields mean the defaults.
func NewInspector(limits Limits) *Inspector { return &Inspector{limits: limits.orDefault()} }

// Inspect reads one layer to its end. Errors are *Unacceptable, or whatever reading r or ctx gave.
func (i *Inspector) Inspect(ctx context.Context, r io.Reader, mediaType string) (*Report, error) {
	timed, cancel := context.WithTimeoutCause(ctx, i.limits.Time, refuse(ReasonTooSlow, "not read within %s", i.limits.Time))
	defer cancel()
	src := &source{ctx: timed, r: r}
	stream, done, err := decompress(src, mediaType)
	if err != nil {
		return nil, classify(timed, src, err)
	}
	defer done()
	report := &Report{Counts: map[string]int{}}
	body := &bounded{i: i, src: src, r: stream, report: report, sum: sha256.New()}
	if err := i.compare(body, newJudge(i.limits, report)); err != nil {
		return nil, classify(timed, src, err)
	}
	// Readers of compressed data stop when the data does; what follows would escape every check.
	if n, err := io.Copy(io.Discard, src); err != nil {
		return nil, classify(timed, src, err)
	} else if n > 0 {
		return nil, refuse(ReasonCompression, "%d bytes after the compressed data", n)
	}
	report.DiffID = oci.Digest("sha256:" + hex.EncodeToString(body.sum.Sum(nil)))
	return report, nil
}

// compare runs both walkers over one stream, in step.
func (i *Inspector) compare(body io.Reader, j *judge) error {
	stop := make(chan struct{})
	std := start(stop, walkStd)
	raw := start(stop, func(r io.Reader, emit func(header) bool) error { return walkRaw(r, i.limits.Header, emit) })
	fed := make(chan error, 1)
	go func() {
		err := feed(body, std.in, raw.in)
		std.in.CloseWithError(err)
		raw.in.CloseWithError(err)
		fed <- err
	}()
	verdict := i.match(std, raw, j)
	close(stop)
	std.out.CloseWithError(errStopped)
	raw.out.CloseWithError(errStopped)
	<-std.done
	<-raw.done
	if err := <-fed; err != nil && !errors.Is(err, errStopped) {
		return err // why the stream broke says more than what the walkers made of the break
	}
	return verdict
}

var errStopped = errors.New("stopped")

// match takes entries from both walkers in turn.
func (i *Inspector) match(std, raw *walker, j *judge) error {
	for n := 1; ; n++ {
		a, moreA := <-std.entries
		b, moreB := <-raw.entries
		if !moreB && raw.err != nil {
			return raw.err
		}
		if !moreA && std.err != nil {
			return refuse(ReasonMalformed, "entry %d: %v", n, std.err)
		}
		if !moreA && !moreB {
			return nil
		}
		if moreA != moreB {
			return refuse(ReasonDifferential, "one reader sees %d entries, another goes on", n-1)
		}
		if a.kind == '7' {
			a.kind = '0'
		}
		if a.name != b.name || a.link != b.link || a.kind != b.kind || a.size != b.size {
			return refuse(ReasonDifferential, "entry %d is %s (%c, %d bytes) to one reader and %s (%c, %d bytes) to another",
				n, clip(a.name), a.kind, a.size, clip(b.name), b.kind, b.size)
		}
		if i.entries++; i.entries > i.limits.Entries {
			return refuse(ReasonTooLarge, "more than %d entries", i.limits.Entries)
		}
		j.report.Entries++
		e, err := j.entry(b)
		if err != nil {
			return err
		}
		if i.Visit != nil {
			i.Visit(e)
		}
	}
}

// walker is one of the two, running on its own goroutine.
type walker struct {
	in      *io.PipeWriter
	out     *io.PipeReader
	entries chan header
	done    chan struct{}
	err     error // valid once entries is closed
}

// lead is how far one walker may be ahead. The feeder hands a chunk to one walker before the other, so it must hold every
// header a chunk can contain, or the two would wait for each other.
const (
	chunk = 32 << 10
	lead  = 2 * chunk / block
)

func start(stop <-chan struct{}, walk func(io.Reader, func(header) bool) error) *walker {
	out, in := io.Pipe()
	w := &walker{in: in, out: out, entries: make(chan header, lead), done: make(chan struct{})}
	go func() {
		defer close(w.done)
		w.err = guarded(walk, out, func(h header) bool {
			select {
			case w.entries <- h:
				return true
			case <-stop:
				return false
			}
		})
		close(w.entries)
		// The other walker may still be reading; without this the feeder would stop for both.
		_, _ = io.Copy(io.Discard, out)
	}()
	return w
}

// guarded turns a panic of a parser into a refusal.
func guarded(walk func(io.Reader, func(header) bool) error, r io.Reader, emit func(header) bool) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = malformed("a reader gave up: %v", p)
		}
	}()
	return walk(r, emit)
}

func feed(body io.Reader, to ...*io.PipeWriter) error {
	buf := make([]byte, chunk)
	for {
		n, err := body.Read(buf)
		for _, w := range to {
			if _, werr := w.Write(buf[:n]); werr != nil {
				return errStopped
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// classify says whose fault a broken stream is: time, the registry, or the bytes.
func classify(ctx context.Context, src *source, err error) error {
	var bad *Unacceptable
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case src.err != nil:
		return src.err
	case errors.As(err, &bad):
		return bad
	}
	return refuse(ReasonCompression, "%v", err)
}

// decompress follows the media type, never the bytes: a reader that guesses would disagree with one that does not.
func decompress(r io.Reader, mediaType string) (io.Reader, func(), error) {
	switch {
	case strings.HasSuffix(mediaType, ".tar.gzip"), strings.HasSuffix(mediaType, "tar+gzip"):
		z, err := gzip.NewReader(r)
		return z, func() {}, err
	case strings.HasSuffix(mediaType, "tar+zstd"):
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(64<<20))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	case strings.HasSuffix(mediaType, ".tar"), strings.HasSuffix(mediaType, "diff.tar"):
		return r, func() {}, nil
	}
	return nil, nil, refuse(ReasonMalformed, "the layer type %s is not supported", clip(mediaType))
}

// source counts compressed bytes and remembers errors of the transport.
type source struct {
	ctx context.Context
	r   io.Reader
	n   int64
	err error
}

func (s *source) Read(p []byte) (int, error) {
	if s.ctx.Err() != nil {
		return 0, context.Cause(s.ctx)
	}
	n, err := s.r.Read(p)
	s.n += int64(n)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// bounded counts, hashes and limits decompressed bytes.
type bounded struct {
	i      *Inspector
	src    *source
	r      io.Reader
	report *Report
	sum    hash.Hash
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	_, _ = b.sum.Write(p[:n]) // hashes do not fail
	b.report.Bytes += int64(n)
	b.i.bytes += int64(n)
	if b.i.bytes > b.i.limits.Bytes {
		return 0, refuse(ReasonTooLarge, "more than %d bytes decompressed", b.i.limits.Bytes)
	}
	if b.report.Bytes > b.i.limits.RatioFloor && b.report.Bytes/max(b.src.n, 1) > b.i.limits.Ratio {
		return 0, refuse(ReasonBomb, "expands more than %d times", b.i.limits.Ratio)
	}
	return n, err
}
