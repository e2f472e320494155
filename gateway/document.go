package gateway

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	evidencev1 "github.com/pratique-io/pratique/gen/pratique/evidence/v1"
	"github.com/pratique-io/pratique/internal/fault"
)

const pathDocument = "/api/v1/images/import-requests/{id}/evidence/{kind}"

// document streams one evidence document whole, with its length and digest. grpc-gateway's own streaming would put a delimiter between
// chunks and change the bytes.
func (g *Gateway) document(w http.ResponseWriter, r *http.Request) {
	ask, err := documentRequest(r)
	if err != nil {
		g.renderHTTP(w, r, err)
		return
	}
	stream, err := evidencev1.NewEvidenceServiceClient(g.cfg.Peer("evidence")).ReadDocument(outgoing(r), ask)
	if err != nil {
		g.renderHTTP(w, r, err)
		return
	}
	first, err := stream.Recv()
	if err != nil {
		g.renderHTTP(w, r, err)
		return
	}
	if first.GetDocument() == nil {
		g.renderHTTP(w, r, errors.New("evidence sent no document header"))
		return
	}
	describe(w.Header(), first.GetDocument())
	if r.Method == http.MethodHead {
		return // which ends the stream, too
	}
	if err := copyChunks(w, first, stream.Recv); err != nil {
		// The header promised a length; breaking the connection is the only honest end.
		g.cfg.Log.WarnContext(r.Context(), "document interrupted", "request_id", r.Header.Get(headerRequestID), "err", err)
		panic(http.ErrAbortHandler)
	}
}

func documentRequest(r *http.Request) (*evidencev1.ReadDocumentRequest, error) {
	ask := &evidencev1.ReadDocumentRequest{Id: r.PathValue("id"), Kind: r.PathValue("kind")}
	if err := checkPath(map[string]string{"id": ask.GetId()}); err != nil {
		return nil, err
	}
	if problem := textProblem(ask.GetKind()); problem != "" {
		return nil, unreadable("kind", problem)
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, unreadable("", "the query string is malformed")
	}
	for name, list := range query {
		if !slices.Contains([]string{"platform", "format"}, name) {
			return nil, unreadable(name, "unknown query parameter")
		}
		if len(list) > 1 {
			return nil, unreadable(name, "given more than once")
		}
		if problem := textProblem(list[0]); problem != "" {
			return nil, unreadable(name, problem)
		}
	}
	if query.Has("platform") {
		ask.Platform = new(query.Get("platform"))
	}
	if query.Has("format") {
		ask.Format = new(query.Get("format"))
	}
	return ask, nil
}

// describe sets the headers of RFC 9110 and RFC 9530 for a document. It is untrusted content: never rendered inline.
func describe(header http.Header, doc *evidencev1.Document) {
	header.Set("Content-Type", doc.GetMediaType())
	header.Set("Content-Length", strconv.FormatInt(doc.GetSize(), 10))
	header.Set("ETag", strconv.Quote(doc.GetDigest()))
	header.Set("Content-Disposition", "attachment; filename="+strconv.Quote(fileName(doc)))
	if sum, err := hex.DecodeString(strings.TrimPrefix(doc.GetDigest(), "sha256:")); err == nil && len(sum) == 32 {
		header.Set("Content-Digest", "sha-256=:"+base64.StdEncoding.EncodeToString(sum)+":")
	}
}

func fileName(doc *evidencev1.Document) string {
	name := doc.GetKind()
	if doc.GetPlatform() != "" {
		name += "-" + doc.GetPlatform()
	}
	return strings.Map(func(r rune) rune {
		if r == '-' || r == '.' || (r >= '0' && r <= '9') || (r >= 'a' && r <= 'z') {
			return r
		}
		return '-'
	}, name+"."+doc.GetFormat()) + ".json"
}

func copyChunks(w io.Writer, first *evidencev1.ReadDocumentResponse, next func() (*evidencev1.ReadDocumentResponse, error)) error {
	left := first.GetDocument().GetSize()
	for chunk := first; ; {
		left -= int64(len(chunk.GetChunk()))
		if left < 0 {
			return errors.New("document longer than announced")
		}
		if _, err := w.Write(chunk.GetChunk()); err != nil {
			return err
		}
		var err error
		if chunk, err = next(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
	}
	if left > 0 {
		return fault.New(errorsv1.Reason_REASON_INTERNAL, "document shorter than announced")
	}
	return nil
}
