package oci

import (
	"context"
	"fmt"
)

// manifests pushes what the destination lacks by digest: level by level, so that a parent never comes before its children,
// the root tree before the referrers, and one referrer after the other (they may share a fallback tag).
func (c *copier) manifests(ctx context.Context) error {
	for _, t := range c.trees {
		for height := 1; height <= t.heights[t.Root.Digest]; height++ {
			if err := c.level(ctx, t, height); err != nil {
				return err
			}
		}
	}
	c.report.ManifestsPresent = len(c.all()) - c.report.Manifests
	return nil
}

func (c *copier) level(ctx context.Context, t *Tree, height int) error {
	var todo []*Manifest
	for _, m := range t.Manifests {
		if t.heights[m.Digest] == height && !c.verified[m.Digest] && !c.pushed[m.Digest] {
			c.pushed[m.Digest] = true
			todo = append(todo, m)
		}
	}
	return c.parallel(ctx, len(todo), func(ctx context.Context, i int) error {
		m := todo[i]
		if _, err := c.dst.PushManifest(ctx, string(m.Digest), m.MediaType, m.Raw); err != nil {
			return err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.report.Manifests++
		return nil
	})
}

// readBack proves that the destination serves every manifest by its digest: a registry may answer 201 and store nothing.
func (c *copier) readBack(ctx context.Context) error {
	all := c.all()
	return c.parallel(ctx, len(all), func(ctx context.Context, i int) error {
		ok, err := c.present(ctx, all[i])
		if err == nil && !ok {
			err = c.dst.failure("read back", fmt.Errorf("%w: manifest %s was accepted but is not there", ErrProtocol, all[i].Digest))
		}
		return err
	})
}

func (c *copier) tag(ctx context.Context) error {
	if c.opts.BeforeTag != nil {
		if err := c.opts.BeforeTag(ctx); err != nil {
			return err
		}
	}
	root := c.trees[0].Root
	for _, tag := range c.opts.Tags {
		before, err := c.tagged(ctx, tag, root)
		if err != nil && !isNotFound(err) {
			return err
		}
		if before != "" {
			c.report.Previous[tag] = before
		}
		if before == root.Digest {
			continue
		}
		if _, err := c.dst.PushManifest(ctx, tag, root.MediaType, root.Raw); err != nil {
			return err
		}
		now, err := c.tagged(ctx, tag, root)
		if isNotFound(err) || err == nil && now != root.Digest {
			return c.dst.failure("read back", fmt.Errorf("%w: tag %s does not name %s", ErrProtocol, clip(tag), root.Digest))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// tagged returns the digest of what a tag names, in the root's algorithm when it is the root. The bytes are not judged:
// what was there before may be anything.
func (c *copier) tagged(ctx context.Context, tag string, root *Manifest) (Digest, error) {
	raw, _, err := c.dst.raw(ctx, tag)
	if err != nil {
		return "", err
	}
	if root.Digest.Matches(raw) {
		return root.Digest, nil
	}
	return FromBytes(raw), nil
}
