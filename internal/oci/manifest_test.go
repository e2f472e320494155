package oci

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func desc(mediaType string, size int64, seed string) string {
	return fmt.Sprintf(`{"mediaType":%q,"digest":"%s","size":%d}`, mediaType, FromBytes([]byte(seed)), size)
}

var (
	configDesc = desc("application/vnd.oci.image.config.v1+json", 2, "{}")
	layerDesc  = desc("application/vnd.oci.image.layer.v1.tar+gzip", 10, "layer")
	childDesc  = desc(MediaTypeImage, 100, "child")
	goodImage  = `{"schemaVersion":2,"mediaType":"` + MediaTypeImage + `","config":` + configDesc + `,"layers":[` + layerDesc + `]}`
	goodIndex  = `{"schemaVersion":2,"mediaType":"` + MediaTypeIndex + `","manifests":[` + childDesc + `]}`
)

type manifestCase struct {
	name, raw, contentType string
	reason                 Reason // "" when acceptable
}

func image(members string) string { return `{"schemaVersion":2,` + members + `}` }

func manifestCases() []manifestCase {
	img := func(name, members string, reason Reason) manifestCase {
		return manifestCase{name, image(members), MediaTypeImage, reason}
	}
	base := `"config":` + configDesc + `,"layers":[` + layerDesc + `]`
	cases := []manifestCase{
		{"an image", goodImage, MediaTypeImage, ""},
		{"an image with a charset", goodImage, MediaTypeImage + "; charset=utf-8", ""},
		{"an index", goodIndex, MediaTypeIndex, ""},
		{"a Docker image", strings.ReplaceAll(goodImage, MediaTypeImage, MediaTypeDockerImage), MediaTypeDockerImage, ""},
		{"a Docker list", strings.Replace(goodIndex, MediaTypeIndex, MediaTypeDockerList, 1), MediaTypeDockerList, ""},
		img("no media type in an OCI body", base, ""),
		img("an empty layer list", `"config":`+configDesc+`,"layers":[]`, ""),
		img("a subject", base+`,"subject":`+childDesc+`,"artifactType":"application/x"`, ""),
		img("unknown keys", base+`,"x-vendor":{"a":[1,2,{"b":null}]}`, ""),
		img("the same layer twice", `"config":`+configDesc+`,"layers":[`+layerDesc+`,`+layerDesc+`]`, ""),
		img("annotations that resemble fields", base+`,"annotations":{"Layers":"x","size":"y"}`, ""),
		{"an empty index", `{"schemaVersion":2,"manifests":[]}`, MediaTypeIndex, ""},
		{"whitespace after", goodImage + " \n\t", MediaTypeImage, ""},
		img("right inline data", `"config":{"mediaType":"a/b","size":2,"digest":"`+string(FromBytes([]byte("{}")))+`","data":"e30="},"layers":[]`, ""),
		img("foreign urls", `"config":`+configDesc+`,"layers":[`+strings.TrimSuffix(layerDesc, "}")+`,"urls":["http://169.254.169.254/"]}]`, ""),

		{"nothing", "", MediaTypeImage, ReasonNotJSON},
		{"null", "null", MediaTypeImage, ReasonNotJSON},
		{"an array", "[]", MediaTypeImage, ReasonNotJSON},
		{"a string", `"x"`, MediaTypeImage, ReasonNotJSON},
		{"a number", `1`, MediaTypeImage, ReasonNotJSON},
		{"HTML", `<html></html>`, MediaTypeImage, ReasonNotJSON},
		{"truncated", goodImage[:len(goodImage)-1], MediaTypeImage, ReasonNotJSON},
		{"two documents", goodImage + goodImage, MediaTypeImage, ReasonNotJSON},
		{"two documents on lines", goodImage + "\n" + goodIndex, MediaTypeImage, ReasonNotJSON},
		{"trailing text", goodImage + "x", MediaTypeImage, ReasonNotJSON},
		{"a trailing NUL", goodImage + "\x00", MediaTypeImage, ReasonNotJSON},
		{"a trailing bracket", goodImage + "]", MediaTypeImage, ReasonNotJSON},
		{"a trailing brace", goodImage + "}", MediaTypeImage, ReasonNotJSON},
		{"a byte order mark", "\ufeff" + goodImage, MediaTypeImage, ReasonNotJSON},
		{"bad UTF-8", strings.Replace(goodImage, "schemaVersion", "schema\xffVersion", 1), MediaTypeImage, ReasonNotJSON},
		{"a comment", "/*x*/" + goodImage, MediaTypeImage, ReasonNotJSON},
		{"single quotes", strings.ReplaceAll(goodImage, `"`, `'`), MediaTypeImage, ReasonNotJSON},
		{"a trailing comma", strings.Replace(goodImage, "]}", "],}", 1), MediaTypeImage, ReasonNotJSON},
		img("too deep", base+`,"x":`+strings.Repeat("[", 40)+strings.Repeat("]", 40), ReasonNotJSON),
		img("NaN", base+`,"x":NaN`, ReasonNotJSON),

		{"too many bytes", goodImage + strings.Repeat(" ", 4<<20), MediaTypeImage, ReasonTooLarge},
		{"too many manifests", `{"schemaVersion":2,"manifests":[` + strings.TrimSuffix(strings.Repeat(childDesc+",", 1001), ",") + `]}`, MediaTypeIndex, ReasonTooLarge},
		img("too many layers", `"config":`+configDesc+`,"layers":[`+strings.TrimSuffix(strings.Repeat(layerDesc+",", 1001), ",")+`]`, ReasonTooLarge),
		img("a huge layer", `"config":`+configDesc+`,"layers":[`+desc("a/b", 1<<40, "x")+`]`, ReasonTooLarge),
		img("huge in all", `"config":`+configDesc+`,"layers":[`+desc("a/b", 32<<30, "x")+","+desc("a/b", 32<<30, "y")+","+desc("a/b", 1, "z")+`]`, ReasonTooLarge),
		{"a huge child manifest", `{"schemaVersion":2,"manifests":[` + desc(MediaTypeImage, 5<<20, "x") + `]}`, MediaTypeIndex, ReasonTooLarge},
		img("a huge subject", base+`,"subject":`+desc(MediaTypeImage, 5<<20, "x"), ReasonTooLarge),

		{"no content type", goodImage, "", ReasonMediaType},
		{"a bad content type", goodImage, "application/", ReasonMediaType},
		{"an overlong content type", goodImage, MediaTypeImage + strings.Repeat(" ", 300), ReasonMediaType},
		{"another charset", goodImage, MediaTypeImage + "; charset=utf-16", ReasonMediaType},
		{"a strange parameter", goodImage, MediaTypeImage + "; profile=x", ReasonMediaType},
		{"two content types", goodImage, MediaTypeImage + ", " + MediaTypeIndex, ReasonMediaType},
		{"plain JSON", goodImage, "application/json", ReasonUnsupported},
		{"octets", goodImage, "application/octet-stream", ReasonUnsupported},
		{"schema 1", `{"schemaVersion":1,"fsLayers":[]}`, "application/vnd.docker.distribution.manifest.v1+json", ReasonUnsupported},
		{"signed schema 1", `{"schemaVersion":1,"fsLayers":[]}`, "application/vnd.docker.distribution.manifest.v1+prettyjws", ReasonUnsupported},
		{"an artifact manifest", `{}`, "application/vnd.oci.artifact.manifest.v1+json", ReasonUnsupported},
		{"an image said to be an index", goodImage, MediaTypeIndex, ReasonShape},
		{"an index said to be an image", goodIndex, MediaTypeImage, ReasonShape},
		{"an OCI body said to be Docker's", goodImage, MediaTypeDockerImage, ReasonMediaType},
		{"a Docker body said to be OCI's", strings.Replace(goodImage, MediaTypeImage, MediaTypeDockerImage, 1), MediaTypeImage, ReasonMediaType},
		{"a Docker body without a type", image(base), MediaTypeDockerImage, ReasonMediaType},
		img("an empty media type", `"mediaType":"",`+base, ReasonMediaType),
		img("a media type in upper case", `"mediaType":"`+strings.ToUpper(MediaTypeImage)+`",`+base, ReasonMediaType),
		img("a bad artifact type", base+`,"artifactType":"no slash"`, ReasonMediaType),

		img("layers and manifests", base+`,"manifests":[]`, ReasonShape),
		img("layers and null manifests", base+`,"manifests":null`, ReasonShape),
		{"manifests and layers", strings.Replace(goodIndex, `"manifests"`, `"layers":[],"manifests"`, 1), MediaTypeIndex, ReasonShape},
		{"manifests and config", strings.Replace(goodIndex, `"manifests"`, `"config":`+configDesc+`,"manifests"`, 1), MediaTypeIndex, ReasonShape},
		img("no config", `"layers":[]`, ReasonShape),
		img("a null config", `"config":null,"layers":[]`, ReasonShape),
		img("no layers", `"config":`+configDesc, ReasonShape),
		img("null layers", `"config":`+configDesc+`,"layers":null`, ReasonShape),
		{"an index of nothing", `{"schemaVersion":2}`, MediaTypeIndex, ReasonShape},
		{"no schema version", `{` + base + `}`, MediaTypeImage, ReasonShape},
		{"schema version as text", `{"schemaVersion":"2",` + base + `}`, MediaTypeImage, ReasonShape},
		{"schema version 1", `{"schemaVersion":1,` + base + `}`, MediaTypeImage, ReasonUnsupported},
		{"schema version 3", `{"schemaVersion":3,` + base + `}`, MediaTypeImage, ReasonUnsupported},
		img("a config list", `"config":[],"layers":[]`, ReasonShape),
		img("a layer object", `"config":`+configDesc+`,"layers":{}`, ReasonShape),
		img("layer text", `"config":`+configDesc+`,"layers":["x"]`, ReasonShape),
		img("a null layer", `"config":`+configDesc+`,"layers":[null]`, ReasonShape),
		img("annotations of numbers", base+`,"annotations":{"a":1}`, ReasonShape),
	}
	for _, k := range []string{"fsLayers", "history", "signatures", "blobs"} {
		cases = append(cases, img("the foreign key "+k, base+`,"`+k+`":[]`, ReasonShape))
	}
	for _, k := range []string{"schemaVersion", "mediaType", "config", "layers"} {
		cases = append(cases,
			manifestCase{"duplicate " + k, strings.Replace(goodImage, `"`+k+`"`, `"`+k+`":null,"`+k+`"`, 1), MediaTypeImage, ReasonAmbiguousKeys},
			manifestCase{"case variant beside " + k, strings.Replace(goodImage, `"`+k+`"`, `"`+strings.ToUpper(k)+`":null,"`+k+`"`, 1), MediaTypeImage, ReasonAmbiguousKeys},
			manifestCase{"case variant instead of " + k, strings.Replace(goodImage, `"`+k+`"`, `"`+strings.ToUpper(k)+`"`, 1), MediaTypeImage, ReasonAmbiguousKeys},
			manifestCase{"escaped duplicate of " + k, strings.Replace(goodImage, `"`+k+`"`, fmt.Sprintf(`"\u%04x%s":null,"%s"`, k[0], k[1:], k), 1), MediaTypeImage, ReasonAmbiguousKeys})
	}
	cases = append(cases,
		img("a case variant of manifests", base+`,"Manifests":[]`, ReasonAmbiguousKeys),
		img("a case variant of fsLayers", base+`,"FSLAYERS":[]`, ReasonAmbiguousKeys),
		img("the long s of subject", base+`,"ſubject":`+childDesc, ReasonAmbiguousKeys),
		img("the Kelvin sign", base+`,"x":{"k":1,"K":2}`, ReasonAmbiguousKeys),
		img("duplicates far down", base+`,"x":[[{"a":{"b":1,"b":2}}]]`, ReasonAmbiguousKeys),
		img("duplicate annotations", base+`,"annotations":{"a":"1","a":"2"}`, ReasonAmbiguousKeys))
	return append(cases, descriptorCases()...)
}

func descriptorCases() []manifestCase {
	var cases []manifestCase
	add := func(name, descriptor string, reason Reason) {
		cases = append(cases,
			manifestCase{name + " (config)", image(`"config":` + descriptor + `,"layers":[]`), MediaTypeImage, reason},
			manifestCase{name + " (layer)", image(`"config":` + configDesc + `,"layers":[` + descriptor + `]`), MediaTypeImage, reason},
			manifestCase{name + " (manifest)", `{"schemaVersion":2,"manifests":[` + descriptor + `]}`, MediaTypeIndex, reason})
	}
	ok := string(FromBytes([]byte("x")))
	d := func(digest, size, mediaType string) string {
		return fmt.Sprintf(`{"mediaType":%s,"digest":%s,"size":%s}`, mediaType, digest, size)
	}
	q := func(s string) string { b, _ := json.Marshal(s); return string(b) }
	add("a negative size", d(q(ok), "-1", `"a/b"`), ReasonDescriptor)
	add("a fractional size", d(q(ok), "1.5", `"a/b"`), ReasonShape)
	add("an exponent size", d(q(ok), "1e3", `"a/b"`), ReasonShape)
	add("an overflowing size", d(q(ok), "9223372036854775808", `"a/b"`), ReasonShape)
	add("a size as text", d(q(ok), `"1"`, `"a/b"`), ReasonShape)
	add("a null size", d(q(ok), `null`, `"a/b"`), ReasonDescriptor)
	add("no size", `{"mediaType":"a/b","digest":"`+ok+`"}`, ReasonDescriptor)
	add("no digest", `{"mediaType":"a/b","size":1}`, ReasonDescriptor)
	add("no media type", `{"size":1,"digest":"`+ok+`"}`, ReasonDescriptor)
	add("a short digest", d(q(ok[:70]), "1", `"a/b"`), ReasonDescriptor)
	add("an upper-case digest", d(q("sha256:"+strings.ToUpper(ok[7:])), "1", `"a/b"`), ReasonDescriptor)
	add("a weak digest", d(q("md5:"+hex64[:32]), "1", `"a/b"`), ReasonDescriptor)
	add("a path as digest", d(q("sha256:../../"+hex64[:58]), "1", `"a/b"`), ReasonDescriptor)
	add("a digest as number", d("1", "1", `"a/b"`), ReasonShape)
	add("an empty media type", d(q(ok), "1", `""`), ReasonDescriptor)
	add("a bad media type", d(q(ok), "1", `"a/b\r\nX: y"`), ReasonDescriptor)
	add("a case variant of digest", `{"mediaType":"a/b","size":1,"Digest":"`+ok+`","digest":"`+ok+`"}`, ReasonAmbiguousKeys)
	add("a case variant of data", `{"mediaType":"a/b","size":1,"digest":"`+ok+`","Data":"eA=="}`, ReasonAmbiguousKeys)
	add("a case variant of os", `{"mediaType":"a/b","size":1,"digest":"`+ok+`","platform":{"OS":"linux","architecture":"amd64"}}`, ReasonAmbiguousKeys)
	add("wrong inline data", `{"mediaType":"a/b","size":1,"digest":"`+ok+`","data":"`+base64.StdEncoding.EncodeToString([]byte("y"))+`"}`, ReasonDescriptor)
	add("long inline data", `{"mediaType":"a/b","size":1,"digest":"`+ok+`","data":"`+base64.StdEncoding.EncodeToString([]byte("xx"))+`"}`, ReasonDescriptor)
	add("malformed inline data", `{"mediaType":"a/b","size":1,"digest":"`+ok+`","data":"%%%"}`, ReasonShape)
	add("urls as text", `{"mediaType":"a/b","size":1,"digest":"`+ok+`","urls":"http://x"}`, ReasonShape)
	return cases
}

func TestTheManifestCorpus(t *testing.T) {
	t.Parallel()
	cases := manifestCases()
	require.GreaterOrEqual(t, len(cases), 80)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			m, err := ParseManifest([]byte(c.raw), c.contentType)
			if c.reason == "" {
				require.NoError(t, err)
				require.Equal(t, FromBytes([]byte(c.raw)), m.Digest)
				require.Equal(t, c.raw, string(m.Raw))
				return
			}
			var bad *Unacceptable
			require.ErrorAs(t, err, &bad)
			require.Equal(t, c.reason, bad.Reason, bad.Detail)
			require.NotEmpty(t, bad.Detail)
			require.Less(t, len(bad.Error()), 400)
		})
	}
	t.Run("a digest with two sizes", func(t *testing.T) {
		_, err := ParseManifest([]byte(image(`"config":`+desc("a/b", 1, "x")+`,"layers":[`+desc("a/b", 2, "x")+`]`)), MediaTypeImage)
		var bad *Unacceptable
		require.ErrorAs(t, err, &bad)
		require.Equal(t, ReasonDescriptor, bad.Reason)
	})
}

func FuzzManifest(f *testing.F) {
	for _, c := range manifestCases() {
		if len(c.raw) < 10_000 {
			f.Add([]byte(c.raw), c.contentType)
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte, contentType string) {
		m, err := ParseManifest(raw, contentType)
		if err != nil {
			return
		}
		if m.IsIndex() != (m.Config == nil) || m.IsIndex() && len(m.Layers) > 0 || !m.IsIndex() && len(m.Manifests) > 0 {
			t.Fatal("an image and an index at once")
		}
		var lax struct {
			MediaType string
			Layers    []struct{ Digest string }
			Manifests []struct{ Digest string }
		}
		if err := json.Unmarshal(raw, &lax); err != nil {
			t.Fatalf("accepted, but a lax reader fails: %v", err)
		}
		if len(lax.Layers) != len(m.Layers) || len(lax.Manifests) != len(m.Manifests) {
			t.Fatal("a lax reader sees other descriptors")
		}
	})
}
