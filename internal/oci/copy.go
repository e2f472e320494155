package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// CopyOptions configures Copy.
type CopyOptions struct {
	// Referrers are copied with their own trees. Each must have its subject in the root's tree or among the referrers, and
	// hold nothing that could run: the list was pinned earlier, and nothing else is listed or looked for.
	Referrers []Digest
	// Tags are set last, on the root.
	Tags []string
	// Workers bounds concurrent transfers; default 8.
	Workers int
	// Limits bound each tree, and the bytes of all their manifests; zero fields take DefaultLimits.
	Limits Limits
	// TrustPresent takes the blobs of a manifest that the destination already holds as present without asking for each.
	// Right for registries that refuse manifests whose blobs are missing and never lose any.
	TrustPresent bool
	// BeforeTag runs after everything was read back and before the first tag; an error ends the copy untagged.
	BeforeTag func(ctx context.Context) error
}

// CopyReport says what a copy did. Counts are of distinct digests.
type CopyReport struct {
	Root             Digest
	Manifests        int // pushed
	ManifestsPresent int
	Blobs            int // uploaded
	BlobsMounted     int
	BlobsPresent     int
	Bytes            int64             // uploaded
	Previous         map[string]Digest // what each tag named before; absent when it named nothing
}

type copier struct {
	src, dst *Repository
	opts     CopyOptions
	mu       sync.Mutex
	report   CopyReport
	trees    []*Tree         // root first, then referrers
	verified map[Digest]bool // read from the destination and hashed
	pushed   map[Digest]bool
	repeat   bool // the destination holds the root: ask before sending
}

// Copy copies root's whole tree and the pinned referrers by digest: blobs first, streamed from source to destination
// while they are hashed; then manifests, children before parents; then everything is read back from the destination; then
// BeforeTag; then the tags, read back too. It can be repeated at any point of failure.
func Copy(ctx context.Context, src, dst *Repository, root Digest, opts CopyOptions) (CopyReport, error) {
	if opts.Workers <= 0 {
		opts.Workers = defaultWorkers
	}
	from := ""
	if src.endpoint.Host == dst.endpoint.Host {
		from = src.name
	}
	c := &copier{src: src, dst: dst.writing(from), opts: opts, verified: map[Digest]bool{}, pushed: map[Digest]bool{}, report: CopyReport{Root: root, Previous: map[string]Digest{}}}
	for _, tag := range opts.Tags {
		if !tagPattern.MatchString(tag) {
			return c.report, fmt.Errorf("%s is not a tag", clip(tag))
		}
	}
	for _, step := range []func(context.Context) error{c.walk, c.look, c.blobs, c.manifests, c.readBack, c.tag} {
		if err := step(ctx); err != nil {
			return c.report, err
		}
	}
	return c.report, nil
}

// parallel runs f for 0..n-1 with bounded workers.
func (c *copier) parallel(ctx context.Context, n int, f func(ctx context.Context, i int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(c.opts.Workers)
	for i := range n {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return f(ctx, i)
		})
	}
	return g.Wait()
}

func (c *copier) walk(ctx context.Context) error {
	c.trees = make([]*Tree, 1+len(c.opts.Referrers))
	held := new(atomic.Int64)
	err := c.parallel(ctx, len(c.trees), func(ctx context.Context, i int) (err error) {
		d := c.report.Root
		if i > 0 {
			d = c.opts.Referrers[i-1]
		}
		c.trees[i], err = walk(ctx, c.src, d, c.opts.Limits, held)
		return err
	})
	if err != nil {
		return err
	}
	known := map[Digest]bool{}
	for _, t := range c.trees {
		for _, m := range t.Manifests {
			known[m.Digest] = true
		}
	}
	for _, t := range c.trees[1:] {
		if t.Root.Subject == nil || !known[t.Root.Subject.Digest] {
			return refuse(ReasonReferrer, "%s does not refer to anything that is copied", t.Root.Digest)
		}
		if m := t.Runnable(); m != nil {
			return refuse(ReasonReferrer, "%s is an image of its own, in the guise of a referrer", m.Digest)
		}
	}
	return nil
}

// look finds out which manifests the destination has; when the root is missing it asks no further.
func (c *copier) look(ctx context.Context) error {
	present, err := c.present(ctx, c.trees[0].Root)
	if err != nil || !present {
		return err
	}
	c.repeat = true
	all := c.all()
	return c.parallel(ctx, len(all), func(ctx context.Context, i int) error {
		_, err := c.present(ctx, all[i])
		return err
	})
}

// present reads a manifest back; a hit counts as verified.
func (c *copier) present(ctx context.Context, m *Manifest) (bool, error) {
	c.mu.Lock()
	known := c.verified[m.Digest]
	c.mu.Unlock()
	if known {
		return true, nil
	}
	got, err := c.dst.Manifest(ctx, m.Digest)
	if isNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if got.MediaType != m.MediaType {
		return false, refuse(ReasonMediaType, "the destination serves %s as %s", m.Digest, got.MediaType)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.verified[m.Digest] = true
	return true, nil
}

// all lists the distinct manifests of all trees, children before parents within each.
func (c *copier) all() []*Manifest {
	var out []*Manifest
	seen := map[Digest]bool{}
	for _, t := range c.trees {
		for _, m := range t.Manifests {
			if !seen[m.Digest] {
				seen[m.Digest] = true
				out = append(out, m)
			}
		}
	}
	return out
}

func (c *copier) blobs(ctx context.Context) error {
	var todo []Descriptor
	seen := map[Digest]bool{}
	for _, m := range c.all() {
		if m.IsIndex() || c.opts.TrustPresent && c.verified[m.Digest] {
			continue
		}
		for _, d := range append([]Descriptor{*m.Config}, m.Layers...) {
			if !seen[d.Digest] {
				seen[d.Digest] = true
				todo = append(todo, d)
			}
		}
	}
	return c.parallel(ctx, len(todo), func(ctx context.Context, i int) error { return c.blob(ctx, todo[i]) })
}

// blob transfers one blob, beginning anew when the network fails in the middle.
func (c *copier) blob(ctx context.Context, d Descriptor) error {
	for attempt, odd := 1, 0; ; attempt++ {
		how, err := c.transfer(ctx, d)
		if err == nil {
			c.mu.Lock()
			defer c.mu.Unlock()
			*how++
			if how == &c.report.Blobs {
				c.report.Bytes += d.Size
			}
			return nil
		}
		// an unauthorized or vanished upload may be a token or session that ended on the way: once more, not for ever
		again := errors.Is(err, ErrUnavailable)
		if errors.Is(err, ErrUnauthorized) || isNotFound(err) {
			odd++
			again = odd == 1
		}
		if attempt >= c.dst.client.attempts || !again {
			return err
		}
		if slept := c.dst.client.sleep(ctx, min(250*time.Millisecond<<(attempt-1), c.dst.client.maxWait)); slept != nil {
			return errors.Join(slept, err)
		}
	}
}

// transfer returns the counter that says how the blob got there.
func (c *copier) transfer(ctx context.Context, d Descriptor) (*int, error) {
	if c.repeat {
		if has, err := c.dst.HasBlob(ctx, d.Digest); err != nil || has {
			return &c.report.BlobsPresent, err
		}
	}
	if c.src.endpoint.Host == c.dst.endpoint.Host && c.src.name != c.dst.name {
		up, err := c.dst.startUpload(ctx, d.Digest, c.src.name)
		if err != nil || up.at == nil {
			return &c.report.BlobsMounted, err
		}
		content, err := c.src.Blob(ctx, d)
		if err != nil {
			return nil, err
		}
		defer content.Close()
		return &c.report.Blobs, c.dst.finishUpload(ctx, d, up, content)
	}
	return c.stream(ctx, d)
}

// stream opens the source and the upload at once: two round trips instead of three.
func (c *copier) stream(ctx context.Context, d Descriptor) (*int, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		content io.ReadCloser
		failed  error
		opened  = make(chan struct{})
	)
	go func() {
		defer close(opened)
		content, failed = c.src.Blob(ctx, d)
	}()
	up, err := c.dst.startUpload(ctx, d.Digest, c.dst.name) // a mount from itself: "do you have it?"
	if err != nil || up.at == nil {
		cancel()
	}
	<-opened
	if content != nil {
		defer content.Close()
	}
	switch {
	case err != nil:
		return nil, err
	case up.at == nil:
		return &c.report.BlobsPresent, nil
	case failed != nil:
		return nil, failed
	}
	return &c.report.Blobs, c.dst.finishUpload(ctx, d, up, content)
}
