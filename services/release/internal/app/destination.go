package app

import (
	"errors"
	"fmt"
	"strings"

	"github.com/pratique-io/pratique/internal/oci"
	"github.com/pratique-io/pratique/services/release/internal/domain"
)

// ErrNotAllowed is a destination outside the rules.
var ErrNotAllowed = errors.New("images are released below the tenant's own place in the trusted registry only")

const shortDigest = 12

// Place decides where an image goes: to what the releaser named, else to what the requester named, else to the tenant's default. The result
// always has a tag. ErrNotAllowed when it lies outside the rules; any other error says what cannot be read.
func Place(trusted, slug string, asked domain.Request, named string) (oci.Reference, error) {
	text := named
	if text == "" {
		text = asked.Destination
	}
	source, err := oci.ParseSource(asked.SourceRegistry, asked.SourceRef)
	if err != nil {
		return oci.Reference{}, fmt.Errorf("the request's source cannot be read: %w", err)
	}
	place := oci.Reference{Host: strings.ToLower(trusted), Repository: slug + "/" + source.Repository}
	if text != "" {
		if place, err = oci.ParseDestination(text); err != nil {
			return oci.Reference{}, err
		}
	}
	if place.Tag == "" {
		place.Tag = tagOf(source, asked.Digest)
	}
	if slug == "" || place.Host != strings.ToLower(trusted) || !strings.HasPrefix(place.Repository, slug+"/") {
		return oci.Reference{}, ErrNotAllowed
	}
	// The default is built from a source: what was built must be readable too.
	if _, err := oci.ParseDestination(place.String()); err != nil {
		return oci.Reference{}, err
	}
	return place, nil
}

// tagOf names an image as its source did, else by the beginning of its digest.
func tagOf(source oci.Reference, digest string) string {
	if source.Tag != "" && source.Digest == "" {
		return source.Tag
	}
	d := oci.Digest(digest)
	hex := d.Hex()
	return d.Algorithm() + "-" + hex[:min(shortDigest, len(hex))]
}

// Origin is a source reference in one spelling, so that requests and verdicts about the same image meet: Docker Hub's names for itself and its
// short official names are one.
func Origin(r oci.Reference) oci.Reference {
	switch r.Host {
	case "docker.io", "index.docker.io", "registry-1.docker.io":
		r.Host = "docker.io"
		if !strings.Contains(r.Repository, "/") {
			r.Repository = "library/" + r.Repository
		}
	}
	return r
}
