package sample

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"path"
	"strings"
)

// file is one entry of a layer. A name ending in "/" is a directory.
type file struct {
	name    string
	content string
	link    string // target of a symbolic link
	mode    int64  // 0: 0644
}

func text(name, content string) file { return file{name: name, content: content} }
func program(name string, raw []byte) file {
	return file{name: name, content: string(raw), mode: 0o755}
}
func symlink(name, target string) file { return file{name: name, link: target} }

// archive writes a layer as an uncompressed tar, parents before children.
func archive(files []file) []byte {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	seen := map[string]bool{}
	for _, f := range files {
		for _, parent := range parents(f.name) {
			if !seen[parent] {
				seen[parent] = true
				must(w.WriteHeader(header(file{name: parent})))
			}
		}
		if seen[f.name] {
			continue
		}
		seen[f.name] = true
		must(w.WriteHeader(header(f)))
		_, err := w.Write([]byte(f.content))
		must(err)
	}
	must(w.Close())
	return out.Bytes()
}

func header(f file) *tar.Header {
	h := &tar.Header{Name: f.name, Mode: f.mode, ModTime: made, Format: tar.FormatUSTAR}
	switch {
	case strings.HasSuffix(f.name, "/"):
		h.Typeflag, h.Mode = tar.TypeDir, 0o755
	case f.link != "":
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, f.link, 0o777
	default:
		h.Typeflag, h.Size = tar.TypeReg, int64(len(f.content))
		if h.Mode == 0 {
			h.Mode = 0o644
		}
	}
	return h
}

// parents lists the directories above a name, outermost first. Names that
// climb have none: they are written as they stand.
func parents(name string) []string {
	var out []string
	if strings.Contains(name, "..") {
		return nil
	}
	for dir := path.Dir(strings.TrimSuffix(name, "/")); dir != "." && dir != "/"; dir = path.Dir(dir) {
		out = append([]string{dir + "/"}, out...)
	}
	return out
}

// pack frames a layer as gzip without compressing it: how well deflate packs
// differs between Go versions, and digests must not.
func pack(content []byte) []byte {
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.NoCompression)
	must(err)
	_, err = w.Write(content)
	must(err)
	must(w.Close())
	return out.Bytes()
}

// must reports a mistake in this package: nothing here writes to the outside.
func must(err error) {
	if err != nil {
		panic(fmt.Sprintf("sample: %v", err))
	}
}
