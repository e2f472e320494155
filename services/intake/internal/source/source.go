// Package source asks the source registry which bytes a reference names: the only place where intake touches the world. The tag is read here
// once; everything later goes by the digest.
package source

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"time"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	"github.com/pratique-io/pratique/internal/egress"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/internal/oci"
	"github.com/pratique-io/pratique/services/intake/internal/domain"
)

const (
	lookupTime = 15 * time.Second // for the whole lookup; people wait for it
	tries      = 3
	tryWait    = 2 * time.Second

	// Bounds of what an index may say about its images. It becomes part of the request, of its events and of every list that shows it, so a
	// hostile registry must not decide how large those get. Honest indexes have some twenty images.
	maxPlatforms = 128
)

// platformWord is what os, architecture and variant look like.
var platformWord = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// Image is what a reference names: the digest of the index when there is one, with the platforms it lists.
type Image struct {
	Digest    string
	Platforms []domain.Platform
}

// Finder looks images up.
type Finder struct{ client *oci.Client }

// New makes a Finder on a transport of internal/egress (purpose source).
func New(transport http.RoundTripper, opts ...oci.Option) *Finder {
	opts = append([]oci.Option{oci.WithRetry(tries, tryWait)}, opts...)
	return &Finder{client: oci.NewClient(transport, opts...)}
}

var configTypes = map[string]bool{
	"application/vnd.oci.image.config.v1+json":       true,
	"application/vnd.docker.container.image.v1+json": true,
}

// Pin resolves the reference and reads its root manifest strictly. Errors are faults of the contract.
func (f *Finder) Pin(ctx context.Context, ref oci.Reference) (Image, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	name := ref.Tag
	if ref.Digest != "" {
		name = string(ref.Digest)
	}
	descriptor, raw, err := f.client.Repository(ref.Host, ref.Repository, oci.Credential{}).Resolve(ctx, name)
	if err != nil {
		return Image{}, faultOf(ref, err)
	}
	manifest, err := oci.ParseManifest(raw, descriptor.MediaType)
	if err != nil {
		return Image{}, faultOf(ref, err)
	}
	image := Image{Digest: string(descriptor.Digest)}
	if !manifest.IsIndex() {
		if manifest.Config == nil || !configTypes[manifest.Config.MediaType] {
			return Image{}, unacceptable(ref, "the artifact is not a container image")
		}
		return image, nil
	}
	if len(manifest.Manifests) == 0 {
		return Image{}, unacceptable(ref, "the index lists no image")
	}
	if image.Platforms, err = platforms(manifest.Manifests); err != nil {
		return Image{}, unacceptable(ref, err.Error())
	}
	return image, nil
}

// platforms lists the images of an index.
func platforms(manifests []oci.Descriptor) ([]domain.Platform, error) {
	var out []domain.Platform
	for _, m := range manifests {
		if m.Platform == nil || m.Platform.OS == "unknown" { // attestations ride along in indexes
			continue
		}
		p := domain.Platform{OS: m.Platform.OS, Architecture: m.Platform.Architecture, Variant: m.Platform.Variant, Digest: string(m.Digest)}
		for _, word := range []string{p.OS, p.Architecture, p.Variant} {
			if word != "" && !platformWord.MatchString(word) {
				return nil, errors.New("the index names a platform that cannot be one")
			}
		}
		if out = append(out, p); len(out) > maxPlatforms {
			return nil, fmt.Errorf("the index lists more than %d images", maxPlatforms)
		}
	}
	return out, nil
}

func unacceptable(ref oci.Reference, message string, more ...fault.Detail) error {
	return fault.New(errorsv1.Reason_REASON_IMAGE_UNACCEPTABLE, message, append(more, fault.D("source", ref.String()))...)
}

// faultOf says a registry's error in the words of the contract. What the registry itself said is not repeated: it is not ours to trust.
func faultOf(ref oci.Reference, err error) error {
	var refused *egress.Refused
	var bad *oci.Unacceptable
	var limited oci.ErrRateLimited
	source := fault.D("source", ref.String())
	switch {
	case errors.As(err, &refused):
		return fault.New(errorsv1.Reason_REASON_SOURCE_NOT_ALLOWED, "this registry may not be used as a source", source,
			fault.D("source_registry", ref.Host), fault.Cause(err))
	case errors.As(err, &bad):
		return unacceptable(ref, "the image cannot be accepted: "+bad.Detail, fault.D("rule", string(bad.Reason)), fault.Cause(err))
	case errors.Is(err, oci.ErrNotFound):
		return fault.New(errorsv1.Reason_REASON_SOURCE_NOT_FOUND, "the source registry does not have this image", source, fault.Cause(err))
	case errors.Is(err, oci.ErrUnauthorized):
		return fault.New(errorsv1.Reason_REASON_SOURCE_UNAUTHORIZED, "the source registry wants a credential that we do not have", source, fault.Cause(err))
	case errors.As(err, &limited):
		return fault.New(errorsv1.Reason_REASON_SOURCE_RATE_LIMITED, "the source registry limits the rate", source,
			fault.RetryAfter(limited.RetryAfter), fault.Cause(err))
	case errors.Is(err, context.Canceled):
		return err
	}
	return fault.New(errorsv1.Reason_REASON_SOURCE_UNAVAILABLE, "the source registry did not answer usefully", source, fault.Cause(err))
}
