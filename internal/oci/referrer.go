package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
)

// Referrers lists what refers to a digest, from the referrers API or, where it is missing, from the fallback tag. An
// artifactType other than "" filters. What is listed is a claim: only the manifest's own subject field binds.
func (r *Repository) Referrers(ctx context.Context, subject Digest, artifactType string) ([]Descriptor, error) {
	if !subject.Valid() {
		return nil, fmt.Errorf("%s is not a digest", clip(string(subject)))
	}
	all, err := r.referrersAPI(ctx, subject, artifactType)
	if isNotFound(err) || errors.Is(err, ErrUnsupported) {
		all, err = r.referrersTag(ctx, subject)
	}
	if err != nil {
		return nil, err
	}
	seen, out := map[Digest]bool{}, []Descriptor{}
	for _, d := range all {
		if (artifactType == "" || d.ArtifactType == artifactType) && !seen[d.Digest] {
			seen[d.Digest] = true
			out = append(out, d)
		}
	}
	return out, nil
}

func (r *Repository) referrersAPI(ctx context.Context, subject Digest, artifactType string) ([]Descriptor, error) {
	query := url.Values{}
	if artifactType != "" {
		query.Set("artifactType", artifactType)
	}
	var all []Descriptor
	err := r.pages(ctx, "list referrers", r.url(query, "referrers", string(subject)), MediaTypeIndex, func(resp *http.Response, raw []byte) error {
		m, err := parseManifest(raw, resp.Header.Get("Content-Type"), r.client.limits)
		if err != nil {
			return err
		}
		if all = append(all, m.Manifests...); len(all) > r.client.limits.Descriptors {
			return refuse(ReasonTooLarge, "more than %d referrers", r.client.limits.Descriptors)
		}
		return nil
	})
	return all, err
}

func fallbackTag(subject Digest) string { return subject.Algorithm() + "-" + subject.Hex()[:64] }

func (r *Repository) referrersTag(ctx context.Context, subject Digest) ([]Descriptor, error) {
	m, err := r.read(ctx, fallbackTag(subject))
	if isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !m.IsIndex() {
		return nil, nil // a tag that happens to be called so
	}
	return m.Manifests, nil
}

// indexReferrer makes m findable in a registry that did not confirm its subject. The fallback tag is read, added to and
// written, without a lock between clients: the specification offers none.
func (r *Repository) indexReferrer(ctx context.Context, m *Manifest) error {
	listed, err := r.referrersAPI(ctx, m.Subject.Digest, "")
	if err == nil {
		return nil // the API exists; it merely did not say so
	}
	if !isNotFound(err) && !errors.Is(err, ErrUnsupported) {
		return err
	}
	if listed, err = r.referrersTag(ctx, m.Subject.Digest); err != nil {
		return err
	}
	if slices.ContainsFunc(listed, func(d Descriptor) bool { return d.Digest == m.Digest }) {
		return nil
	}
	entry := m.Descriptor()
	entry.ArtifactType, entry.Annotations = m.ArtifactType, m.Annotations
	if entry.ArtifactType == "" && m.Config != nil {
		entry.ArtifactType = m.Config.MediaType
	}
	raw, err := json.Marshal(struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Manifests     []Descriptor `json:"manifests"`
	}{2, MediaTypeIndex, append(listed, entry)})
	if err != nil {
		return err
	}
	index, err := parseManifest(raw, MediaTypeIndex, r.client.limits)
	if err != nil {
		return err
	}
	_, err = r.put(ctx, fallbackTag(m.Subject.Digest), index)
	return err
}

func bytesBody(raw []byte) func() io.Reader { return func() io.Reader { return bytes.NewReader(raw) } }
