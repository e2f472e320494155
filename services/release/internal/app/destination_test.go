package app_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/internal/oci"
	"github.com/pratique-io/pratique/services/release/internal/app"
	"github.com/pratique-io/pratique/services/release/internal/domain"
)

const sum = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestAnImageGoesOnlyWhereItMay(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		ref, own, named, want string
		refused               bool
	}{
		"by default":                   {ref: "library/nginx:1.25", want: "trusted.local:5000/acme/library/nginx:1.25"},
		"a source without a tag":       {ref: "nginx", want: "trusted.local:5000/acme/nginx:latest"},
		"a source by digest":           {ref: "nginx@" + sum, want: "trusted.local:5000/acme/nginx:sha256-0123456789ab"},
		"a source by tag and digest":   {ref: "nginx:1@" + sum, want: "trusted.local:5000/acme/nginx:sha256-0123456789ab"},
		"the requester's wish":         {ref: "nginx:1", own: "trusted.local:5000/acme/web:7", want: "trusted.local:5000/acme/web:7"},
		"the releaser's wish":          {ref: "nginx:1", own: "trusted.local:5000/acme/web:7", named: "TRUSTED.local:5000/acme/x:8", want: "trusted.local:5000/acme/x:8"},
		"a wish without a tag":         {ref: "nginx:1", named: "trusted.local:5000/acme/x", want: "trusted.local:5000/acme/x:1"},
		"another registry":             {ref: "nginx:1", named: "docker.io/acme/x:1", refused: true},
		"another port":                 {ref: "nginx:1", named: "trusted.local/acme/x:1", refused: true},
		"another tenant":               {ref: "nginx:1", named: "trusted.local:5000/other/x:1", refused: true},
		"a tenant that begins alike":   {ref: "nginx:1", named: "trusted.local:5000/acme2/x:1", refused: true},
		"the tenant's root":            {ref: "nginx:1", named: "trusted.local:5000/acme:1", refused: true},
		"the requester's foreign wish": {ref: "nginx:1", own: "evil.example/acme/x:1", refused: true},
		"no host":                      {ref: "nginx:1", named: "acme/x:1"},
		"by digest":                    {ref: "nginx:1", named: "trusted.local:5000/acme/x@" + sum},
		"a climb":                      {ref: "nginx:1", named: "trusted.local:5000/acme/../other/x:1"},
		"an upper-case name":           {ref: "nginx:1", named: "trusted.local:5000/acme/X:1"},
		"a space":                      {ref: "nginx:1", named: "trusted.local:5000/acme/x :1"},
		"a scheme":                     {ref: "nginx:1", named: "https://trusted.local:5000/acme/x:1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			asked := domain.Request{SourceRegistry: "docker.io", SourceRef: tc.ref, Digest: sum, Destination: tc.own}
			got, err := app.Place("trusted.local:5000", "acme", asked, tc.named)
			switch {
			case tc.want != "":
				require.NoError(t, err)
				require.Equal(t, tc.want, got.String())
			case tc.refused:
				require.ErrorIs(t, err, app.ErrNotAllowed)
			default:
				require.Error(t, err)
				require.NotErrorIs(t, err, app.ErrNotAllowed)
			}
		})
	}
	_, err := app.Place("trusted.local:5000", "", domain.Request{SourceRegistry: "docker.io", SourceRef: "a/b:1", Digest: sum}, "trusted.local:5000/a/b:1")
	require.Error(t, err, "no tenant, no place")
}

func TestDockerHubHasOneSpelling(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"docker.io/nginx:1", "docker.io/library/nginx:1", "index.docker.io/nginx:1", "registry-1.docker.io/library/nginx:1"} {
		ref, err := oci.ParseReference(text)
		require.NoError(t, err)
		require.Equal(t, "docker.io/library/nginx:1", app.Origin(ref).String())
	}
}
