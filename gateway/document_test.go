package gateway

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	evidencev1 "github.com/pratique-io/pratique/gen/pratique/evidence/v1"
	"github.com/pratique-io/pratique/internal/fault"
)

const documentPath = createPath + "/" + someID + "/evidence/sbom"

func documentOf(content []byte) *evidencev1.Document {
	sum := sha256.Sum256(content)
	return &evidencev1.Document{
		Kind: "sbom", Platform: "linux/arm64/v8", Format: "spdx-json", MediaType: "application/spdx+json",
		Digest: "sha256:" + hex.EncodeToString(sum[:]), Size: int64(len(content)),
	}
}

// stream sends a document: the header alone, then pieces of 64 KiB.
func stream(doc *evidencev1.Document, content []byte, end error) func(call, grpc.ServerStream) error {
	return func(_ call, out grpc.ServerStream) error {
		if err := out.SendMsg(&evidencev1.ReadDocumentResponse{Document: doc}); err != nil {
			return err
		}
		for len(content) > 0 {
			n := min(len(content), 64<<10)
			if err := out.SendMsg(&evidencev1.ReadDocumentResponse{Chunk: content[:n]}); err != nil {
				return err
			}
			content = content[n:]
		}
		return end
	}
}

func TestDocumentsArriveByteForByte(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, size := range []int{0, 1, 3 << 20} {
		content := make([]byte, size)
		source := rand.New(rand.NewPCG(1, 2))
		for i := range content {
			content[i] = byte(source.UintN(256))
		}
		sum := sha256.Sum256(content)
		s.play(stream(documentOf(content), content, nil))
		got := s.send("GET", documentPath+"?platform=linux%2Farm64%2Fv8&format=spdx-json", "", "Authorization", "Bearer x")
		require.Equal(t, http.StatusOK, got.status)
		require.Equal(t, sum, sha256.Sum256(got.raw), "%d bytes", size)
		require.Len(t, got.raw, size)
		require.Equal(t, strconv.Itoa(size), got.header.Get("Content-Length"))
		require.Equal(t, "sha-256=:"+base64.StdEncoding.EncodeToString(sum[:])+":", got.header.Get("Content-Digest"))
		require.Equal(t, `"sha256:`+hex.EncodeToString(sum[:])+`"`, got.header.Get("ETag"))
		require.Equal(t, "application/spdx+json", got.header.Get("Content-Type"))
		require.Equal(t, `attachment; filename="sbom-linux-arm64-v8.spdx-json.json"`, got.header.Get("Content-Disposition"), "untrusted: never shown inline")
		c := s.took()[0]
		ask := c.request.(*evidencev1.ReadDocumentRequest)
		require.Equal(t, []any{someID, "sbom", "linux/arm64/v8", "spdx-json"}, []any{ask.GetId(), ask.GetKind(), ask.GetPlatform(), ask.GetFormat()})
		require.Equal(t, []string{"Bearer x"}, c.metadata.Get("authorization"))
	}
}

func TestARefusedDocumentKeepsItsStatus(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.play(refuse(fault.New(errorsv1.Reason_REASON_NOT_FOUND, "no such document")))
	got := s.send("GET", documentPath, "")
	require.Equal(t, http.StatusNotFound, got.status)
	require.Equal(t, "application/json", got.header.Get("Content-Type"))
	require.Empty(t, got.header.Get("Content-Digest"))
	s.play(reply(&evidencev1.ReadDocumentResponse{Chunk: []byte("no header")}))
	require.Equal(t, http.StatusInternalServerError, s.send("GET", documentPath, "").status)
}

func TestAnIncompleteDocumentBreaksTheConnection(t *testing.T) {
	t.Parallel()
	s := start(t)
	content := make([]byte, 1<<20)
	for name, c := range map[string]struct {
		sent []byte
		end  error
	}{
		"the stream breaks":           {content[:512<<10], fault.New(errorsv1.Reason_REASON_DEPENDENCY_UNAVAILABLE, "gone")},
		"the stream ends too early":   {content[:len(content)-1], nil},
		"the document is longer":      {append(content[:len(content):len(content)], 1), nil},
		"nothing follows the header":  {nil, nil},
		"it breaks behind the header": {nil, fault.New(errorsv1.Reason_REASON_INTERNAL, "")},
	} {
		s.play(stream(documentOf(content), c.sent, c.end))
		response, err := http.Get(s.url + documentPath)
		if err != nil {
			continue // broken before the header arrived: as good
		}
		read, err := io.ReadAll(response.Body)
		require.NoError(t, response.Body.Close())
		if name == "the document is longer" {
			require.True(t, err != nil || len(read) <= len(content), "more than announced arrived")
			continue
		}
		require.ErrorIs(t, err, io.ErrUnexpectedEOF, name)
	}
	require.Contains(t, s.logged(), "document interrupted")
}

func TestFileNamesAreHarmless(t *testing.T) {
	t.Parallel()
	require.Equal(t, "s-om-..---x.json.json", fileName(&evidencev1.Document{Kind: "s\"om", Platform: "../\r\nx", Format: "json"}))
}

func TestDocumentChoicesThatAreNoText(t *testing.T) {
	t.Parallel()
	s := start(t)
	for target, field := range map[string]string{
		"%ff": "kind", "a%00": "kind", "sbom?platform=%ff": "platform", "sbom?format=%c3%28": "format", "sbom?platform=linux%00": "platform",
	} {
		got := s.send("GET", "/api/v1/images/import-requests/"+someID+"/evidence/"+target, "")
		require.Equal(t, http.StatusBadRequest, got.status, "%s: %s", target, got.raw)
		require.Equal(t, "invalid_request", got.at("error", "code"), target)
		require.Equal(t, field, got.at("error", "details", "field"), target)
	}
	require.Empty(t, s.took())
}
