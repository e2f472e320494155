package layer

import (
	"bytes"
	"encoding/binary"
	"io"
	"strconv"
	"strings"
)

const block = 512

// rawWalker lists an archive from its blocks alone: a second opinion that shares nothing with archive/tar. It is stricter
// than a reader has to be; whatever readers are known to disagree on is an error here.
type rawWalker struct {
	r        io.Reader
	limit    int64 // bytes of extended headers before one entry
	used     int64
	pax      map[string]string // of the next entry
	longName *string           // GNU 'L'
	longLink *string           // GNU 'K'
}

func walkRaw(r io.Reader, limit int64, emit func(header) bool) error {
	w := &rawWalker{r: r, limit: limit}
	for {
		b, err := w.block()
		if err == io.EOF {
			if w.pending() {
				return malformed("extended header without an entry")
			}
			return nil
		}
		if err != nil {
			return err
		}
		if allZero(b) {
			if w.pending() {
				return malformed("extended header without an entry")
			}
			return w.end()
		}
		h, extended, err := w.header(b)
		if err != nil {
			return err
		}
		if !extended && !emit(h) {
			return nil
		}
	}
}

func malformed(format string, args ...any) *Unacceptable {
	return refuse(ReasonMalformed, format, args...)
}

func (w *rawWalker) pending() bool { return w.pax != nil || w.longName != nil || w.longLink != nil }

// block reads one block; io.EOF only at a boundary.
func (w *rawWalker) block() ([]byte, error) {
	b := make([]byte, block)
	_, err := io.ReadFull(w.r, b)
	if err == io.ErrUnexpectedEOF {
		return nil, malformed("the archive ends inside a block")
	}
	return b, err
}

func (w *rawWalker) skip(size int64) error {
	padded := (size + block - 1) / block * block
	n, err := io.CopyN(io.Discard, w.r, padded)
	if err == io.EOF && n >= size {
		return malformed("the archive ends inside padding")
	}
	if err == io.EOF {
		return malformed("the archive ends inside a file")
	}
	return err
}

// end reads the rest after the first zero block: nothing but zeros may follow, or a reader that ignores the mark sees more.
func (w *rawWalker) end() error {
	buf := make([]byte, 32<<10)
	for {
		n, err := w.r.Read(buf)
		if !allZero(buf[:n]) {
			return malformed("data after the end of the archive")
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func allZero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

// header reads the entry that begins with block b, its extensions or its data. extended means: it only described the next.
func (w *rawWalker) header(b []byte) (h header, extended bool, err error) {
	if err := checksum(b); err != nil {
		return h, false, err
	}
	size, err := number(b[124:136])
	if err != nil {
		return h, false, err
	}
	kind := b[156]
	switch kind {
	case 'x', 'g', 'L', 'K':
		return h, true, w.extension(kind, size)
	}
	mode, err := number(b[100:108])
	if err != nil {
		return h, false, err
	}
	h = header{name: field(b[0:100]), link: field(b[157:257]), kind: kind, size: size, mode: mode}
	if string(b[257:263]) == "ustar\x00" {
		if prefix := field(b[345:500]); prefix != "" {
			h.name = prefix + "/" + h.name
		}
	}
	if err := w.merge(&h); err != nil {
		return h, false, err
	}
	if err := w.data(&h); err != nil {
		return h, false, err
	}
	w.used = 0
	return h, false, nil
}

// data passes over what belongs to the entry and normalises its kind.
func (w *rawWalker) data(h *header) error {
	switch h.kind {
	case 0, '0', '7':
		if h.kind == 0 && strings.HasSuffix(h.name, "/") { // how archives of before 1988 write directories
			h.kind = '5'
			break
		}
		if strings.HasSuffix(h.name, "/") {
			return malformed("%s is a file with the name of a directory", clip(h.name))
		}
		h.kind = '0'
		return w.skip(h.size)
	case 'S':
		return malformed("%s is a GNU sparse file", clip(h.name))
	case '1', '2', '3', '4', '5', '6':
	default:
		return malformed("%s has the unknown type %q", clip(h.name), h.kind)
	}
	// Some readers pass over such data, some take it for the next header: the classic way to hide what follows.
	if h.size != 0 {
		return malformed("%s is not a file and declares %d bytes of data", clip(h.name), h.size)
	}
	return nil
}

func (w *rawWalker) extension(kind byte, size int64) error {
	if w.used += size + block; size < 0 || w.used > w.limit {
		return refuse(ReasonTooLarge, "extended headers of more than %d bytes", w.limit)
	}
	raw := make([]byte, (size+block-1)/block*block)
	if _, err := io.ReadFull(w.r, raw); err != nil {
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return malformed("the archive ends inside an extended header")
		}
		return err
	}
	raw = raw[:size]
	switch kind {
	case 'L', 'K':
		s := string(bytes.TrimRight(raw, "\x00"))
		at := &w.longName
		if kind == 'K' {
			at = &w.longLink
		}
		if *at != nil || strings.Contains(s, "\x00") {
			return malformed("ambiguous long name %s", clip(s))
		}
		*at = &s
		return nil
	}
	records, err := paxRecords(raw)
	if err != nil {
		return err
	}
	if kind == 'g' {
		// Readers differ on whether these apply to what follows; harmless ones (comments, times) do occur.
		for _, k := range []string{"path", "linkpath", "size", "hdrcharset"} {
			if _, ok := records[k]; ok {
				return malformed("a global header sets %s", k)
			}
		}
		return nil
	}
	if w.pax != nil {
		return malformed("two extended headers before one entry")
	}
	w.pax = records
	return nil
}

// merge applies what extended headers said; every reader must come to the same name and size.
func (w *rawWalker) merge(h *header) error {
	pax, name, link := w.pax, w.longName, w.longLink
	w.pax, w.longName, w.longLink = nil, nil, nil
	for k, v := range pax {
		switch {
		case strings.HasPrefix(k, "GNU.sparse."):
			return malformed("%s is a sparse file", clip(h.name))
		case k == "hdrcharset":
			return malformed("%s sets the character set of names", clip(h.name))
		case strings.HasSuffix(k, "security.capability"):
			h.capability = true
		case k == "path":
			h.name = v
		case k == "linkpath":
			h.link = v
		case k == "size":
			n, err := strconv.ParseInt(v, 10, 64)
			if err != nil || n < 0 {
				return malformed("%s has the size %s", clip(h.name), clip(v))
			}
			// A small file whose two sizes differ is read as its own archive by readers that take the other one.
			if h.size != n && n < 8<<30 {
				return malformed("%s has two sizes, %d and %d", clip(h.name), h.size, n)
			}
			h.size = n
		}
	}
	if err := onlyOne(&h.name, name, pax["path"]); err != nil {
		return err
	}
	return onlyOne(&h.link, link, pax["linkpath"])
}

func onlyOne(at *string, gnu *string, pax string) error {
	if gnu == nil {
		return nil
	}
	if pax != "" && pax != *gnu {
		return malformed("two long names, %s and %s", clip(*gnu), clip(pax))
	}
	*at = *gnu
	return nil
}

// paxRecords reads "<length> <key>=<value>\n" records; a key given twice is read differently by different readers.
func paxRecords(raw []byte) (map[string]string, error) {
	out := map[string]string{}
	for len(raw) > 0 {
		sp := bytes.IndexByte(raw, ' ')
		if sp <= 0 || sp > 10 {
			return nil, malformed("garbled extended header")
		}
		n, err := strconv.ParseUint(string(raw[:sp]), 10, 31)
		if err != nil || int(n) <= sp+2 || int(n) > len(raw) || raw[n-1] != '\n' || raw[0] == '0' {
			return nil, malformed("garbled extended header")
		}
		k, v, ok := strings.Cut(string(raw[sp+1:n-1]), "=")
		if !ok || k == "" {
			return nil, malformed("garbled extended header")
		}
		named := k == "path" || k == "linkpath" || k == "size"
		if named && (v == "" || strings.Contains(v, "\x00")) {
			return nil, malformed("extended header with the %s %s", k, clip(v))
		}
		if _, twice := out[k]; twice {
			return nil, malformed("extended header gives %s twice", clip(k))
		}
		out[k] = v
		raw = raw[n:]
	}
	return out, nil
}

func field(b []byte) string {
	s, _, _ := bytes.Cut(b, []byte{0})
	return string(s)
}

// number reads octal text or GNU base-256.
func number(b []byte) (int64, error) {
	if b[0]&0x80 != 0 {
		if b[0] != 0x80 || len(b) > 8 && !allZero(b[1:len(b)-8]) {
			return 0, malformed("a number that is negative or too large")
		}
		tail := b[max(1, len(b)-8):]
		v := binary.BigEndian.Uint64(append(make([]byte, 8-len(tail)), tail...))
		if v > 1<<62 {
			return 0, malformed("a number that is negative or too large")
		}
		return int64(v), nil
	}
	s := strings.Trim(string(b), " \x00")
	if s == "" {
		return 0, nil
	}
	v, err := strconv.ParseUint(s, 8, 62)
	if err != nil {
		return 0, malformed("%s is not an octal number", clip(s))
	}
	return int64(v), nil
}

func checksum(b []byte) error {
	want, err := number(b[148:156])
	if err != nil {
		return malformed("a header with a garbled checksum")
	}
	var unsigned, signed int64
	for i, c := range b {
		if i >= 148 && i < 156 {
			c = ' '
		}
		unsigned += int64(c)
		signed += int64(int8(c))
	}
	if want != unsigned && want != signed {
		return malformed("a header with a wrong checksum")
	}
	return nil
}
