package collect

import (
	"context"
	"encoding/json"
	"errors"
	"io"

	"github.com/pratique-io/pratique/internal/document"
)

// marks are keys that only a document of that format has at its top.
var marks = map[document.Format]string{document.Syft: "artifacts", document.SPDX: "spdxVersion", document.CycloneDX: "bomFormat"}

// readFormats reads the documents that we do not use ourselves once, so that what is handed out under a format's name is at least a
// document of it. Their bytes are hashed on the way, and never held in memory.
func (c *collector) readFormats(ctx context.Context) error {
	a := c.got[document.SBOM]
	if a == nil {
		return nil
	}
	for _, item := range a.Items {
		mark, foreign := marks[item.Format]
		if !foreign {
			continue
		}
		if err := c.readFormat(ctx, a, item, mark); err != nil {
			return err
		}
	}
	return nil
}

func (c *collector) readFormat(ctx context.Context, a *document.Artifact, item document.Item, mark string) error {
	content, err := a.Content(ctx, item)
	if err != nil {
		return sort(a.Kind, err)
	}
	defer content.Close()
	noted := &noting{r: content}
	found, err := hasKey(noted, mark)
	if noted.err != nil { // the registry or the digest, not the document
		return sort(a.Kind, noted.err)
	}
	if err != nil || !found {
		return refuse(a.Kind, "the %s document of %.80q is none", item.Format, item.Platform)
	}
	return nil
}

// noting remembers why reading ended, which the JSON decoder's error does not tell.
type noting struct {
	r   io.Reader
	err error
}

func (n *noting) Read(p []byte) (int, error) {
	k, err := n.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		n.err = err
	}
	return k, err
}

// maxNesting bounds the depth of JSON: a decoder remembers each level.
const maxNesting = 200

// maxToken bounds one string or number, in bytes: a decoder holds it whole.
const maxToken = 16 << 20

// window stops reading when the decoder holds too much undecided.
type window struct {
	r    io.Reader
	n    int64
	done func() int64
}

func (w *window) Read(p []byte) (int, error) {
	room := maxToken - (w.n - w.done())
	if room <= 0 {
		return 0, errShape
	}
	k, err := w.r.Read(p[:min(int64(len(p)), room)])
	w.n += int64(k)
	return k, err
}

var errShape = errors.New("not one JSON object")

// hasKey reads one JSON object to its end and says whether it has the key at its top.
func hasKey(r io.Reader, key string) (bool, error) {
	w := &window{r: r}
	dec := json.NewDecoder(w)
	dec.UseNumber()
	w.done = dec.InputOffset
	depth, found, wantKey := 0, false, false
	for first := true; first || depth > 0; first = false {
		tok, err := dec.Token()
		if err != nil {
			return false, err
		}
		if first && tok != json.Delim('{') {
			return false, errShape
		}
		switch tok {
		case json.Delim('{'), json.Delim('['):
			if depth++; depth > maxNesting {
				return false, errShape
			}
			wantKey = depth == 1
			continue
		case json.Delim('}'), json.Delim(']'):
			depth--
			wantKey = depth == 1
			continue
		}
		if depth == 1 {
			if wantKey {
				found = found || tok == key
			}
			wantKey = !wantKey
		}
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return false, errShape
	}
	return found, nil
}
