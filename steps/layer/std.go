package layer

import (
	"archive/tar"
	"io"
	"strings"
)

// header is what one walker saw, before any judgement.
type header struct {
	name, link string
	kind       byte
	size, mode int64
	capability bool // carries a security.capability attribute
}

// walkStd lists an archive with archive/tar.
func walkStd(r io.Reader, emit func(header) bool) error {
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue // carries no file; its records are judged by the other walker
		}
		out := header{name: h.Name, link: h.Linkname, kind: h.Typeflag, size: h.Size, mode: h.Mode}
		for k := range h.PAXRecords {
			out.capability = out.capability || strings.HasSuffix(k, "security.capability")
		}
		if !emit(out) {
			return nil
		}
	}
}
