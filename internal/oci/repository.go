package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

var acceptManifests = strings.Join([]string{MediaTypeIndex, MediaTypeImage, MediaTypeDockerList, MediaTypeDockerImage}, ", ")

const (
	maxTags  = 100_000
	maxPages = 1000
)

// Resolve reads the manifest that a tag or digest names now. The descriptor's digest is the hash of raw, whatever the
// registry says it is. Errors: ErrNotFound, ErrUnauthorized, ErrRateLimited, ErrUnavailable, *Unacceptable.
func (r *Repository) Resolve(ctx context.Context, tagOrDigest string) (Descriptor, []byte, error) {
	m, err := r.read(ctx, tagOrDigest)
	if err != nil {
		return Descriptor{}, nil, err
	}
	return m.Descriptor(), m.Raw, nil
}

// Manifest reads a manifest by digest, hashed and parsed strictly.
func (r *Repository) Manifest(ctx context.Context, d Digest) (*Manifest, error) {
	return r.read(ctx, string(d))
}

func (r *Repository) read(ctx context.Context, tagOrDigest string) (*Manifest, error) {
	raw, header, err := r.raw(ctx, tagOrDigest)
	if err != nil {
		return nil, err
	}
	wanted := Digest(tagOrDigest)
	if wanted.Valid() && !wanted.Matches(raw) {
		return nil, refuse(ReasonDigestMismatch, "%s was asked for, %s was answered", wanted, FromBytes(raw))
	}
	if said := Digest(header.Get("Docker-Content-Digest")); said != "" && !said.Matches(raw) {
		return nil, refuse(ReasonDigestMismatch, "the registry says %s, the bytes are %s", clip(string(said)), FromBytes(raw))
	}
	m, err := parseManifest(raw, header.Get("Content-Type"), r.client.limits)
	if err != nil {
		return nil, err
	}
	if wanted.Valid() {
		m.Digest = wanted
	}
	return m, nil
}

// raw reads the bytes that a tag or digest names, bounded and not judged.
func (r *Repository) raw(ctx context.Context, tagOrDigest string) ([]byte, http.Header, error) {
	const op = "get manifest"
	if !tagPattern.MatchString(tagOrDigest) && !Digest(tagOrDigest).Valid() {
		return nil, nil, fmt.Errorf("%s is neither tag nor digest", clip(tagOrDigest))
	}
	resp, err := r.exchange(ctx, call{
		op: op, method: http.MethodGet, url: r.url(nil, "manifests", tagOrDigest),
		header: http.Header{"Accept": {acceptManifests}}, accept: []int{http.StatusOK},
	})
	if err != nil {
		return nil, nil, err
	}
	raw, err := r.readAll(ctx, op, resp, r.client.limits.ManifestBytes)
	return raw, resp.Header, err
}

// readAll reads and closes a body of at most limit bytes.
func (r *Repository) readAll(ctx context.Context, op string, resp *http.Response, limit int64) ([]byte, error) {
	defer resp.Body.Close()
	if resp.ContentLength > limit {
		return nil, refuse(ReasonTooLarge, "%s: an answer of more than %d bytes", op, limit)
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, r.transportError(ctx, op, err)
	}
	if int64(len(raw)) > limit {
		return nil, refuse(ReasonTooLarge, "%s: an answer of more than %d bytes", op, limit)
	}
	return raw, nil
}

// PushManifest stores a manifest under a tag or its digest and returns its digest. What is not strictly acceptable is not
// sent. For a referrer in a registry without the referrers API the fallback tag is kept up too.
func (r *Repository) PushManifest(ctx context.Context, tagOrDigest, mediaType string, raw []byte) (Digest, error) {
	m, err := parseManifest(raw, mediaType, r.client.limits)
	if err != nil {
		return "", err
	}
	if wanted := Digest(tagOrDigest); wanted.Valid() {
		if !wanted.Matches(raw) {
			return "", refuse(ReasonDigestMismatch, "%s does not fit the bytes, which are %s", wanted, m.Digest)
		}
		m.Digest = wanted
	}
	header, err := r.put(ctx, tagOrDigest, m)
	if err != nil {
		return "", err
	}
	if m.Subject != nil && header.Get("OCI-Subject") == "" {
		if err := r.indexReferrer(ctx, m); err != nil {
			return "", err
		}
	}
	return m.Digest, nil
}

func (r *Repository) put(ctx context.Context, tagOrDigest string, m *Manifest) (http.Header, error) {
	if !tagPattern.MatchString(tagOrDigest) && !Digest(tagOrDigest).Valid() {
		return nil, fmt.Errorf("%s is neither tag nor digest", clip(tagOrDigest))
	}
	resp, err := r.exchange(ctx, call{
		op: "push manifest", method: http.MethodPut, url: r.url(nil, "manifests", tagOrDigest), actions: "pull,push",
		header: http.Header{"Content-Type": {m.MediaType}}, body: bytesBody(m.Raw), size: int64(len(m.Raw)),
		accept: []int{http.StatusCreated},
	})
	if err != nil {
		return nil, err
	}
	discard(resp)
	if said := Digest(resp.Header.Get("Docker-Content-Digest")); said != "" && !said.Matches(m.Raw) {
		return nil, r.failure("push manifest", fmt.Errorf("%w: stored as %s instead of %s", ErrProtocol, clip(string(said)), m.Digest))
	}
	return resp.Header, nil
}

// DeleteManifest deletes by digest; ErrUnsupported when the registry has deletion switched off.
func (r *Repository) DeleteManifest(ctx context.Context, d Digest) error {
	if !d.Valid() {
		return fmt.Errorf("%s is not a digest", clip(string(d)))
	}
	return r.remove(ctx, "delete manifest", string(d))
}

// DeleteTag deletes a tag and leaves its manifest, in registries that can.
func (r *Repository) DeleteTag(ctx context.Context, tag string) error {
	if !tagPattern.MatchString(tag) {
		return fmt.Errorf("%s is not a tag", clip(tag))
	}
	return r.remove(ctx, "delete tag", tag)
}

// DeleteBlob deletes a config or layer; ErrUnsupported when the registry leaves that to its own collection.
func (r *Repository) DeleteBlob(ctx context.Context, d Digest) error {
	if !d.Valid() {
		return fmt.Errorf("%s is not a digest", clip(string(d)))
	}
	return r.removeAt(ctx, "delete blob", r.url(nil, "blobs", string(d)))
}

func (r *Repository) remove(ctx context.Context, op, ref string) error {
	return r.removeAt(ctx, op, r.url(nil, "manifests", ref))
}

func (r *Repository) removeAt(ctx context.Context, op string, at *url.URL) error {
	resp, err := r.exchange(ctx, call{
		op: op, method: http.MethodDelete, url: at, actions: "pull,delete",
		accept: []int{http.StatusOK, http.StatusAccepted, http.StatusNoContent},
	})
	if err != nil {
		return err
	}
	discard(resp)
	return nil
}

// Tags lists the repository's tags, at most 100,000. A name that is no tag makes the whole answer unacceptable.
func (r *Repository) Tags(ctx context.Context) ([]string, error) {
	const op = "list tags"
	var tags []string
	err := r.pages(ctx, op, r.url(url.Values{"n": {"1000"}}, "tags", "list"), "application/json", func(resp *http.Response, raw []byte) error {
		var page struct{ Tags []string }
		if err := json.Unmarshal(raw, &page); err != nil {
			return r.failure(op, fmt.Errorf("%w: not a tag list", ErrProtocol))
		}
		for _, t := range page.Tags {
			if !tagPattern.MatchString(t) {
				return r.failure(op, fmt.Errorf("%w: %s is not a tag", ErrProtocol, clip(t)))
			}
		}
		if tags = append(tags, page.Tags...); len(tags) > maxTags {
			return r.failure(op, fmt.Errorf("%w: more than %d tags", ErrProtocol, maxTags))
		}
		return nil
	})
	return tags, err
}

// pages walks a paginated list; the next page must be at the same origin.
func (r *Repository) pages(ctx context.Context, op string, at *url.URL, accept string, visit func(*http.Response, []byte) error) error {
	for range maxPages {
		resp, err := r.exchange(ctx, call{op: op, method: http.MethodGet, url: at, header: http.Header{"Accept": {accept}}, accept: []int{http.StatusOK}})
		if err != nil {
			return err
		}
		raw, err := r.readAll(ctx, op, resp, DefaultLimits.ManifestBytes)
		if err != nil {
			return err
		}
		if err := visit(resp, raw); err != nil {
			return err
		}
		link := nextLink(resp.Header.Values("Link"))
		if link == "" {
			return nil
		}
		next, err := r.next(at, link)
		if err != nil {
			return r.failure(op, err)
		}
		if !sameOrigin(next, r.endpoint) || *next == *at {
			return r.failure(op, fmt.Errorf("%w: the next page is elsewhere", ErrProtocol))
		}
		at = next
	}
	return r.failure(op, fmt.Errorf("%w: more than %d pages", ErrProtocol, maxPages))
}

// nextLink finds the target of rel="next".
func nextLink(values []string) string {
	for _, v := range values {
		target, params, ok := strings.Cut(strings.TrimSpace(v), ">")
		if ok && strings.HasPrefix(target, "<") && strings.Contains(strings.ReplaceAll(params, `"`, ""), "rel=next") {
			return target[1:]
		}
	}
	return ""
}

func isNotFound(err error) bool { return errors.Is(err, ErrNotFound) }
