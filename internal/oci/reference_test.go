package oci

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	hex64     = strings.Repeat("ab", 32)
	digest256 = "sha256:" + hex64
	digest512 = "sha512:" + hex64 + hex64
)

var goodReferences = map[string]Reference{
	"localhost/app":                             {Host: "localhost", Repository: "app"},
	"localhost:5000/app":                        {Host: "localhost:5000", Repository: "app"},
	"127.0.0.1:5000/app:v1":                     {Host: "127.0.0.1:5000", Repository: "app", Tag: "v1"},
	"[::1]:5000/app":                            {Host: "[::1]:5000", Repository: "app"},
	"[2001:db8::1]/app":                         {Host: "[2001:db8::1]", Repository: "app"},
	"example.com/a":                             {Host: "example.com", Repository: "a"},
	"example.com:443/a/b/c:T.1_2-3":             {Host: "example.com:443", Repository: "a/b/c", Tag: "T.1_2-3"},
	"EXAMPLE.com/a":                             {Host: "example.com", Repository: "a"},
	"registry:5000/x":                           {Host: "registry:5000", Repository: "x"},
	"docker.io/library/alpine:3":                {Host: "docker.io", Repository: "library/alpine", Tag: "3"},
	"ghcr.io/org/app@" + digest256:              {Host: "ghcr.io", Repository: "org/app", Digest: Digest(digest256)},
	"ghcr.io/org/app:1@" + digest256:            {Host: "ghcr.io", Repository: "org/app", Tag: "1", Digest: Digest(digest256)},
	"ghcr.io/org/app@" + digest512:              {Host: "ghcr.io", Repository: "org/app", Digest: Digest(digest512)},
	"e.io/a.b/c_d/e__f/g-h/i---j":               {Host: "e.io", Repository: "a.b/c_d/e__f/g-h/i---j"},
	"e.io/a:" + strings.Repeat("x", 128):        {Host: "e.io", Repository: "a", Tag: strings.Repeat("x", 128)},
	"xn--bcher-kva.example/a":                   {Host: "xn--bcher-kva.example", Repository: "a"},
	"1.2.3.4/a":                                 {Host: "1.2.3.4", Repository: "a"},
	"e.io/" + strings.Repeat("a", 255) + ":tag": {Host: "e.io", Repository: strings.Repeat("a", 255), Tag: "tag"},
}

var badReferences = []string{
	"", "/", "a", "alpine", "alpine:3", "library/alpine", "library/alpine:latest", "e.io", "e.io/", "e.io//a", "e.io/a/", "/a/b",
	"e.io/A", "e.io/a/B", "e.io/a..b", "e.io/a___b", "e.io/-a", "e.io/a-", "e.io/_a", "e.io/a_", "e.io/.a", "e.io/a.", "e.io/../b",
	"e.io/a/../b", "e.io/./a", "e.io/a%2fb", "e.io/a b", "e.io/a\n", "\te.io/a", "e.io/a:", "e.io/a:-t", "e.io/a:.t", "e.io/a:t/x",
	"e.io/a:t:u", "e.io/a: ", "e.io/a:" + strings.Repeat("x", 129), "e.io/a@", "e.io/a@sha256:abc", "e.io/a@md5:" + hex64[:32],
	"e.io/a@sha256:" + strings.ToUpper(hex64), "e.io/a@sha512:" + hex64, "e.io/a@" + digest256 + "@" + digest256, "e.io/a@" + digest256 + ":t",
	"e.io:0/a", "e.io:/a", "e.io:080/a", "e.io:65536/a", "e.io:x/a", "e.io:-1/a", "https://e.io/a", "http://e.io/a", "user@e.io/a",
	"user:pw@e.io/a", "e..io/a", ".e.io/a", "e.io./a", "-e.io/a", "e-.io/a", "e_x.io/a", "еxample.com/a", "e.io/ä", "e.io/a?x=1",
	"e.io/a#f", "::1/a", "[::1/a", "[::1]x/a", "[fe80::1%25eth0]/a", "[::0001]/a", "[1.2.3.4]/a", "2130706433:80/a", "0x7f.1/a",
	"127.1:5000/a", "0177.0.0.1/a", "127.0.0.01/a", "1.2.3.4.5/a", "256.1.1.1/a", "0x7f000001:5000/a", "e.io/" + strings.Repeat("a", 256),
	"e.io/" + strings.Repeat("a/", 600), "e.io\\a/b", "e.io/a\x00", "//e.io/a", "[localhost]/a", "e.io:443:443/a",
}

func TestReferencesHaveOneSpelling(t *testing.T) {
	t.Parallel()
	require.GreaterOrEqual(t, len(goodReferences)+len(badReferences), 60)
	for s, want := range goodReferences {
		got, err := ParseReference(s)
		require.NoError(t, err, s)
		require.Equal(t, want, got, s)
		again, err := ParseReference(got.String())
		require.NoError(t, err)
		require.Equal(t, got, again)
	}
	for _, s := range badReferences {
		_, err := ParseReference(s)
		require.Error(t, err, "%q", s)
	}
}

func TestSourcesTakeTheReferenceWithOrWithoutTheirRegistry(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ registry, ref, want string }{
		{"docker.io", "alpine", "docker.io/alpine:latest"}, {"docker.io", "docker.io/alpine:3", "docker.io/alpine:3"},
		{"Docker.IO", "DOCKER.io/alpine:3", "docker.io/alpine:3"}, {"localhost", "app", "localhost/app:latest"},
		{"localhost", "localhost/app", "localhost/app:latest"}, {"127.0.0.1:5000", "a/b:1", "127.0.0.1:5000/a/b:1"},
		{"127.0.0.1:5000", "127.0.0.1:5000/a/b:1", "127.0.0.1:5000/a/b:1"}, {"example.com", "a@" + digest256, "example.com/a@" + digest256},
		{"example.com:443", "example.com:443/a", "example.com:443/a:latest"}, {"example.com", "a:1@" + digest256, "example.com/a:1@" + digest256},
		{"example.com", "library/alpine", "example.com/library/alpine:latest"}, {"[::1]:5000", "[::1]:5000/x:y", "[::1]:5000/x:y"},
		{"registry:5000", "registry/app", "registry:5000/registry/app:latest"}, {"r.example.com", "r.example.com/my.org/app", "r.example.com/my.org/app:latest"},
	} {
		got, err := ParseSource(c.registry, c.ref)
		require.NoError(t, err, c)
		require.Equal(t, c.want, got.String())
	}
	for _, c := range [][2]string{
		{"", "alpine"}, {"docker", "alpine"}, {"docker.io/", "alpine"}, {"docker.io/library", "alpine"}, {"https://docker.io", "alpine"},
		{"docker.io", "ghcr.io/org/app"}, {"docker.io", "localhost/app"}, {"docker.io", "docker.io:443/app"}, {"docker.io", ""},
		{"docker.io", "docker.io/"}, {"docker.io", "Alpine"}, {"docker.io", "alpine:"}, {"docker.io", " alpine"},
		{"docker.io", "/alpine"}, {"docker.io", "alpine@sha256:x"}, {"docker.io", "https://docker.io/alpine"}, {"user@docker.io", "alpine"},
	} {
		_, err := ParseSource(c[0], c[1])
		require.Error(t, err, "%q", c)
	}
}

func TestDestinationsAreFullyQualifiedAndNeverByDigest(t *testing.T) {
	t.Parallel()
	got, err := ParseDestination("trusted.corp:5000/team/app:1.0")
	require.NoError(t, err)
	require.Equal(t, Reference{Host: "trusted.corp:5000", Repository: "team/app", Tag: "1.0"}, got)
	got, err = ParseDestination("localhost/app")
	require.NoError(t, err)
	require.Empty(t, got.Tag)
	for _, s := range []string{"app", "team/app:1", "trusted.corp/app@" + digest256, "trusted.corp", "trusted.corp/App"} {
		_, err := ParseDestination(s)
		require.Error(t, err, s)
	}
}

func TestDigests(t *testing.T) {
	t.Parallel()
	d := FromBytes([]byte("x"))
	require.True(t, d.Valid())
	require.True(t, d.Matches([]byte("x")))
	require.False(t, d.Matches([]byte("y")))
	require.False(t, Digest("").Matches(nil))
	require.True(t, Digest("sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e").Matches(nil))
}

func FuzzReference(f *testing.F) {
	for s := range goodReferences {
		f.Add(s)
	}
	for _, s := range badReferences {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseReference(s)
		if err != nil {
			return
		}
		again, err := ParseReference(r.String())
		if err != nil || again != r {
			t.Fatalf("%q reads as %v, which reads as %v (%v)", s, r, again, err)
		}
		if strings.ContainsAny(r.String(), " \t\r\n\\%?#\"<>") || strings.Contains(r.Host+"/"+r.Repository, "..") {
			t.Fatalf("%q is accepted as %q", s, r)
		}
	})
}
