package layer_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/steps/layer"
)

const (
	plain = "application/vnd.oci.image.layer.v1.tar"
	gz    = plain + "+gzip"
	zst   = plain + "+zstd"
)

// hdr is a header block under the test's control; fields left empty get honest values.
type hdr struct {
	name, link, prefix, magic, trailer string
	kind                               byte
	size                               int64
	sizeField                          []byte // instead of size
	mode                               int64
	badSum                             bool
}

func (h hdr) block() []byte {
	b := make([]byte, 512)
	copy(b, h.name)
	if h.mode == 0 {
		h.mode = 0o644
	}
	copy(b[100:], fmt.Sprintf("%07o", h.mode))
	copy(b[108:], "0000000")
	copy(b[116:], "0000000")
	copy(b[124:], fmt.Sprintf("%011o", h.size))
	if h.sizeField != nil {
		copy(b[124:136], h.sizeField)
	}
	copy(b[136:], "00000000000")
	b[156] = h.kind
	copy(b[157:257], h.link)
	magic := "ustar\x0000"
	if h.magic != "" {
		magic = h.magic
	}
	copy(b[257:], magic)
	copy(b[345:500], h.prefix)
	copy(b[508:], h.trailer)
	copy(b[148:156], "        ")
	var sum int
	for _, c := range b {
		sum += int(c)
	}
	if h.badSum {
		sum++
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

func body(s string) []byte { return append([]byte(s), make([]byte, (512-len(s)%512)%512)...) }

func file(name, content string) []byte {
	return append(hdr{name: name, kind: '0', size: int64(len(content))}.block(), body(content)...)
}

func ext(kind byte, content string) []byte {
	return append(hdr{name: "ext", kind: kind, size: int64(len(content))}.block(), body(content)...)
}

func record(k, v string) string {
	n := len(k) + len(v) + 3
	for l := n; ; l++ {
		if s := fmt.Sprintf("%d %s=%s\n", l, k, v); len(s) == l {
			return s
		}
	}
}

func link(kind byte, name, to string) []byte { return hdr{name: name, kind: kind, link: to}.block() }

var zeros = make([]byte, 1024)

func archive(parts ...[]byte) []byte { return append(bytes.Join(parts, nil), zeros...) }

func gzipped(raw []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write(raw)
	_ = w.Close()
	return b.Bytes()
}

func zstded(raw []byte) []byte {
	var b bytes.Buffer
	w, _ := zstd.NewWriter(&b)
	_, _ = w.Write(raw)
	_ = w.Close()
	return b.Bytes()
}

type hostile struct {
	name, media string
	raw         []byte
	reason      layer.Reason
}

func base256(v uint64) []byte {
	b := make([]byte, 12)
	b[0] = 0x80
	binary.BigEndian.PutUint64(b[4:], v)
	return b
}

func corpus() []hostile {
	victim := file("var/lib/dpkg/status", "Package: openssl\n")
	nested := archive(file("hidden", "x"))
	long := strings.Repeat("n/", 3000) + "n"
	var cases []hostile
	add := func(reason layer.Reason, name string, raw []byte) {
		cases = append(cases, hostile{name, plain, raw, reason})
	}
	packed := func(reason layer.Reason, name, media string, raw []byte) {
		cases = append(cases, hostile{name, media, raw, reason})
	}

	// entries that are not files and claim data: what follows is swallowed by some readers
	for kind, what := range map[byte]string{'1': "hard link", '2': "symlink", '3': "character device", '4': "block device", '5': "directory", '6': "fifo"} {
		add(layer.ReasonMalformed, "a "+what+" with data hides the next header", archive(hdr{name: "x", link: "y", kind: kind, size: int64(len(victim))}.block(), victim))
	}
	add(layer.ReasonMalformed, "an old directory with data", archive(hdr{name: "x/", kind: 0, size: 512}.block(), victim))
	add(layer.ReasonMalformed, "a file with the name of a directory", archive(hdr{name: "x/", kind: '0', size: 17}.block(), body("Package: openssl\n")))
	add(layer.ReasonMalformed, "a contiguous file with the name of a directory", archive(hdr{name: "x/", kind: '7'}.block()))
	// two sizes
	add(layer.ReasonMalformed, "an extended size beside a header size of zero", archive(ext('x', record("size", fmt.Sprint(len(nested)))), hdr{name: "inner.tar", kind: '0'}.block(), nested))
	add(layer.ReasonMalformed, "an extended size smaller than the header's", archive(ext('x', record("size", "0")), hdr{name: "inner.tar", kind: '0', size: int64(len(nested))}.block(), nested))
	add(layer.ReasonMalformed, "a negative extended size", archive(ext('x', record("size", "-1")), file("a", "b")))
	add(layer.ReasonMalformed, "an extended size that is no number", archive(ext('x', record("size", "0x10")), file("a", "b")))
	add(layer.ReasonMalformed, "an empty extended size", archive(ext('x', record("size", "")), file("a", "b")))
	add(layer.ReasonMalformed, "the size given twice", archive(ext('x', record("size", "1")+record("size", "512")), file("a", "b")))
	// names given twice or for everybody
	add(layer.ReasonMalformed, "the path given twice", archive(ext('x', record("path", "a")+record("path", "b")), file("c", "d")))
	add(layer.ReasonMalformed, "a path with a zero byte", archive(ext('x', record("path", "a\x00b")), file("c", "d")))
	add(layer.ReasonMalformed, "a link path with a zero byte", archive(ext('x', record("linkpath", "a\x00b")), link('2', "c", "d")))
	add(layer.ReasonMalformed, "an empty path", archive(ext('x', record("path", "")), file("c", "d")))
	for _, k := range []string{"path", "linkpath", "size", "hdrcharset"} {
		add(layer.ReasonMalformed, "a global "+k, archive(ext('g', record(k, "1")), file("c", "d")))
	}
	add(layer.ReasonMalformed, "a character set for names", archive(ext('x', record("hdrcharset", "BINARY")), file("c", "d")))
	add(layer.ReasonMalformed, "two extended headers in a row", archive(ext('x', record("path", "a")), ext('x', record("path", "b")), file("c", "d")))
	add(layer.ReasonMalformed, "two GNU long names in a row", archive(ext('L', "a\x00"), ext('L', "b\x00"), file("c", "d")))
	add(layer.ReasonMalformed, "a GNU long name with a zero byte inside", archive(ext('L', "a\x00b\x00"), file("c", "d")))
	add(layer.ReasonMalformed, "a GNU long name and another extended path", archive(ext('L', "a\x00"), ext('x', record("path", "b")), file("c", "d")))
	add(layer.ReasonMalformed, "a GNU long link and another extended link", archive(ext('K', "a\x00"), ext('x', record("linkpath", "b")), link('2', "c", "d")))
	add(layer.ReasonMalformed, "an extended header before the end", archive(ext('x', record("path", "a"))))
	add(layer.ReasonMalformed, "a long name before the end of the stream", ext('L', "a\x00"))
	// garbled extended headers
	for name, raw := range map[string]string{
		"no length": "path=a\n", "a length that is too long": "99 path=a\n", "a length that is too short": "3 path=a\n",
		"no newline": "9 path=ab", "no equals sign": "7 path\n", "an empty key": "5 =a\n", "a zero length": "0 \n", "a leading zero": "010 path=a\n", "a negative length": "-9 path=a\n",
	} {
		add(layer.ReasonMalformed, "an extended record with "+name, archive(ext('x', raw), file("c", "d")))
	}
	// sparse files and unknown kinds
	add(layer.ReasonMalformed, "an old GNU sparse file", archive(hdr{name: "s", kind: 'S', magic: "ustar  \x00"}.block()))
	add(layer.ReasonMalformed, "an extended sparse file", archive(ext('x', record("GNU.sparse.major", "1")+record("GNU.sparse.minor", "0")+record("GNU.sparse.name", "other")+record("GNU.sparse.realsize", "0")), hdr{name: "s", kind: '0', size: 512}.block(), body("0\n")))
	for _, kind := range []byte{'8', '9', 'A', 'D', 'M', 'N', 'V', 'X', 'z', 0xff} {
		add(layer.ReasonMalformed, fmt.Sprintf("the unknown type %q", kind), archive(hdr{name: "u", kind: kind, size: int64(len(victim))}.block(), victim))
	}
	// headers and ends
	add(layer.ReasonMalformed, "a wrong checksum", archive(hdr{name: "a", kind: '0', badSum: true}.block()))
	add(layer.ReasonMalformed, "not a tar archive", bytes.Repeat([]byte("<html>"), 300))
	add(layer.ReasonMalformed, "a size that is no number", archive(hdr{name: "a", kind: '0', sizeField: []byte("0000000008z\x00")}.block()))
	add(layer.ReasonMalformed, "a negative size", archive(hdr{name: "a", kind: '0', sizeField: bytes.Repeat([]byte{0xff}, 12)}.block()))
	add(layer.ReasonMalformed, "a size beyond any disk", archive(hdr{name: "a", kind: '0', sizeField: base256(1 << 63)}.block()))
	add(layer.ReasonMalformed, "a file that ends too soon", hdr{name: "a", kind: '0', size: 4096}.block())
	add(layer.ReasonMalformed, "a huge size without data", hdr{name: "a", kind: '0', sizeField: base256(1 << 50)}.block())
	add(layer.ReasonMalformed, "half a header", file("a", "b")[:700])
	add(layer.ReasonMalformed, "half an extended header", ext('x', strings.Repeat("x", 600))[:800])
	add(layer.ReasonMalformed, "a second archive behind the first", append(archive(file("a", "b")), archive(victim)...))
	add(layer.ReasonMalformed, "an entry behind one zero block", append(append(file("a", "b"), zeros[:512]...), archive(victim)...))
	add(layer.ReasonMalformed, "a byte behind the end", append(archive(file("a", "b")), append(make([]byte, 9000), 1)...))
	add(layer.ReasonDifferential, "a prefix that is shorter in star archives", archive(hdr{name: "x", prefix: strings.Repeat("p", 131) + "7777777", trailer: "tar\x00", kind: '0'}.block()))
	// names
	for _, name := range []string{"../etc/passwd", "/../etc/passwd", "a/../../etc/passwd", "./../x", "a/b/../../../x", ".."} {
		add(layer.ReasonEscape, "the name "+name, archive(file(name, "x")))
	}
	add(layer.ReasonEscape, "an extended name that leaves", archive(ext('x', record("path", "../x")), file("c", "d")))
	add(layer.ReasonEscape, "a GNU name that leaves", archive(ext('L', "../x\x00"), file("c", "d")))
	add(layer.ReasonEscape, "a prefix that leaves", archive(hdr{name: "x", prefix: "..", kind: '0'}.block()))
	add(layer.ReasonMalformed, "no name", archive(file("", "x")))
	add(layer.ReasonEscape, "a symlink in place of the root", archive(link('2', "/", "/etc")))
	add(layer.ReasonEscape, "a device in place of the root", archive(link('3', ".", "")))
	add(layer.ReasonEscape, "a file in place of the root", archive(file(".", "x")))
	// links
	add(layer.ReasonEscape, "a hard link that leaves", archive(link('1', "a", "../../etc/shadow")))
	add(layer.ReasonEscape, "a hard link to the root", archive(link('1', "a", "/")))
	add(layer.ReasonMalformed, "a hard link to nothing", archive(link('1', "a", "")))
	add(layer.ReasonEscape, "a file through a symlink that leaves", archive(link('2', "a", "../.."), file("a/etc/passwd", "x")))
	add(layer.ReasonEscape, "a file through two symlinks that leave together", archive(link('2', "a", "b"), link('2', "b", "../../x"), file("a/passwd", "x")))
	add(layer.ReasonEscape, "a file through an absolute symlink that leaves", archive(link('2', "a", "/../x"), file("a/passwd", "x")))
	add(layer.ReasonEscape, "a file through a symlink loop", archive(link('2', "a", "b"), link('2', "b", "a"), file("a/x", "x")))
	add(layer.ReasonEscape, "a hard link through a symlink that leaves", archive(link('2', "a", "../.."), link('1', "b", "a/etc/shadow")))
	add(layer.ReasonEscape, "a directory through a deep symlink that leaves", archive(link('2', "a/b/c", "../../../.."), hdr{name: "a/b/c/d/", kind: '5'}.block()))
	// whiteouts
	for _, name := range []string{".wh.", ".wh..", ".wh...", "etc/.wh...", "etc/.wh.."} {
		add(layer.ReasonEscape, "the whiteout "+name, archive(file(name, "")))
	}
	add(layer.ReasonMalformed, "a whiteout that is a link", archive(link('2', ".wh.passwd", "/etc/passwd")))
	add(layer.ReasonMalformed, "a file under a whiteout", archive(file(".wh.etc/passwd", "x")))
	// budgets
	add(layer.ReasonTooLarge, "a huge name", archive(ext('L', long+"\x00"), file("c", "d")))
	add(layer.ReasonTooLarge, "a huge link", archive(ext('K', long+"\x00"), link('2', "c", "d")))
	add(layer.ReasonTooLarge, "a huge extended header", archive(ext('x', record("comment", strings.Repeat("c", 2<<20))), file("c", "d")))
	add(layer.ReasonTooLarge, "many extended headers before one entry", archive(bytes.Repeat(ext('g', record("comment", strings.Repeat("c", 400<<10))), 4), file("c", "d")))
	add(layer.ReasonTooLarge, "too many entries", archive(bytes.Repeat(file("a", ""), 2001)))
	add(layer.ReasonTooLarge, "too many bytes", archive(hdr{name: "a", kind: '0', size: 9 << 20}.block(), make([]byte, 9<<20)))
	bomb := archive(hdr{name: "a", kind: '0', size: 6 << 20}.block(), make([]byte, 6<<20))
	packed(layer.ReasonBomb, "a gzip bomb", gz, gzipped(bomb))
	packed(layer.ReasonBomb, "a zstd bomb", zst, zstded(bomb))
	packed(layer.ReasonBomb, "a bomb behind the end of the archive", gz, gzipped(append(archive(file("a", "b")), make([]byte, 6<<20)...)))
	// compression
	good := archive(victim)
	packed(layer.ReasonCompression, "a truncated gzip stream", gz, gzipped(good)[:60])
	packed(layer.ReasonCompression, "a gzip stream without its checksum", gz, gzipped(good)[:len(gzipped(good))-8])
	flipped := gzipped(good)
	flipped[len(flipped)-6] ^= 1
	packed(layer.ReasonCompression, "a gzip stream with a wrong checksum", gz, flipped)
	packed(layer.ReasonCompression, "garbage behind gzip", gz, append(gzipped(good), "garbage"...))
	packed(layer.ReasonMalformed, "a second gzip member with another archive", gz, append(gzipped(good), gzipped(archive(file("x", "y")))...))
	packed(layer.ReasonCompression, "a truncated zstd stream", zst, zstded(good)[:40])
	packed(layer.ReasonCompression, "garbage behind zstd", zst, append(zstded(good), "garbage"...))
	packed(layer.ReasonCompression, "zstd that says gzip", gz, zstded(good))
	packed(layer.ReasonCompression, "gzip that says zstd", zst, gzipped(good))
	packed(layer.ReasonCompression, "plain that says gzip", gz, good)
	packed(layer.ReasonMalformed, "gzip that says plain", plain, gzipped(good))
	packed(layer.ReasonCompression, "an empty gzip blob", gz, nil)
	packed(layer.ReasonMalformed, "an unknown layer type", "application/vnd.in-toto+json", good)
	packed(layer.ReasonMalformed, "an encrypted layer", gz+"+encrypted", good)
	return cases
}

var tight = layer.Limits{Bytes: 8 << 20, Ratio: 100, RatioFloor: 1 << 20, Entries: 2000, Name: 4096, Time: 10 * time.Second}

func TestEveryHostileLayerIsRefusedWithItsReason(t *testing.T) {
	t.Parallel()
	cases := corpus()
	require.GreaterOrEqual(t, len(cases), 100)
	names := map[string]bool{}
	for _, c := range cases {
		require.False(t, names[c.name], c.name)
		names[c.name] = true
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := layer.NewInspector(tight).Inspect(context.Background(), bytes.NewReader(c.raw), c.media)
			var bad *layer.Unacceptable
			require.ErrorAs(t, err, &bad)
			require.Equal(t, c.reason, bad.Reason, bad.Detail)
		})
	}
}

func TestAnHonestLayerIsListedWholeWithItsFindings(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	put := func(h tar.Header, content string) {
		h.Size = int64(len(content))
		require.NoError(t, w.WriteHeader(&h))
		_, err := io.WriteString(w, content)
		require.NoError(t, err)
	}
	deep := "opt/" + strings.Repeat("directory/", 30) + "file"
	put(tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755}, "")
	put(tar.Header{Name: "./usr/bin/su", Mode: 0o4755}, "elf")
	put(tar.Header{Name: "/usr/bin/wall", Mode: 0o2755}, "elf")
	put(tar.Header{Name: "dev/null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}, "")
	put(tar.Header{Name: "run/pipe", Typeflag: tar.TypeFifo}, "")
	put(tar.Header{Name: "lib", Typeflag: tar.TypeSymlink, Linkname: "usr/lib"}, "")
	put(tar.Header{Name: "lib/x.so", Mode: 0o644}, "elf")
	put(tar.Header{Name: "usr/bin/ping", Mode: 0o755, PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "\x01\x00\x00\x02"}}, "elf")
	put(tar.Header{Name: "usr/bin/ln", Typeflag: tar.TypeLink, Linkname: "/usr/bin/su"}, "")
	put(tar.Header{Name: "etc/.wh..wh..opq", Mode: 0o644}, "")
	put(tar.Header{Name: "etc/.wh.motd", Mode: 0o644}, "")
	put(tar.Header{Name: deep, Mode: 0o644, Format: tar.FormatGNU}, "x")
	put(tar.Header{Name: deep + "2", Mode: 0o644, Format: tar.FormatPAX, PAXRecords: map[string]string{"comment": "ä"}}, "x")
	require.NoError(t, w.Close())

	for media, raw := range map[string][]byte{plain: b.Bytes(), gz: gzipped(b.Bytes()), zst: zstded(b.Bytes()), "application/vnd.docker.image.rootfs.diff.tar.gzip": gzipped(b.Bytes())} {
		var seen []string
		i := layer.NewInspector(layer.Limits{})
		i.Visit = func(e layer.Entry) { seen = append(seen, e.Name) }
		r, err := i.Inspect(context.Background(), bytes.NewReader(raw), media)
		require.NoError(t, err, media)
		require.Equal(t, 13, r.Entries)
		require.Equal(t, []string{".", "usr/bin/su", "usr/bin/wall", "dev/null", "run/pipe", "lib", "lib/x.so"}, seen[:7])
		require.Equal(t, map[string]int{"setuid": 1, "setgid": 1, "device": 1, "fifo": 1, "through_symlink": 1, "capability": 1}, r.Counts)
		require.Len(t, r.Findings, 6)
		require.EqualValues(t, b.Len(), r.Bytes)
	}
	// an archive without its closing blocks, an empty one and one gzip member per entry all occur in the wild
	for _, raw := range [][]byte{gzipped(nil), gzipped(zeros), gzipped(file("a", "b")), append(gzipped(file("a", "b")), gzipped(archive(file("c", "d")))...)} {
		_, err := layer.NewInspector(layer.Limits{}).Inspect(context.Background(), bytes.NewReader(raw), gz)
		require.NoError(t, err)
	}
}

func TestABrokenTransportIsNotTheImagesFault(t *testing.T) {
	t.Parallel()
	broken := errors.New("connection reset")
	r := io.MultiReader(bytes.NewReader(gzipped(archive(file("a", strings.Repeat("x", 9999))))[:40]), failing{broken})
	_, err := layer.NewInspector(layer.Limits{}).Inspect(context.Background(), r, gz)
	require.ErrorIs(t, err, broken)
	var bad *layer.Unacceptable
	require.False(t, errors.As(err, &bad))

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = layer.NewInspector(layer.Limits{}).Inspect(ctx, bytes.NewReader(archive(file("a", "b"))), plain)
	require.ErrorIs(t, err, context.Canceled)
}

func TestTheEntryBudgetSpansTheLayersOfAnImage(t *testing.T) {
	t.Parallel()
	i := layer.NewInspector(layer.Limits{Entries: 3})
	raw := archive(file("a", "b"), file("c", "d"))
	_, err := i.Inspect(context.Background(), bytes.NewReader(raw), plain)
	require.NoError(t, err)
	_, err = i.Inspect(context.Background(), bytes.NewReader(raw), plain)
	require.ErrorContains(t, err, "more than 3 entries")
}

func FuzzInspect(f *testing.F) {
	for _, c := range corpus() {
		if c.media == plain && len(c.raw) < 4096 {
			f.Add(c.raw)
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		_, err := layer.NewInspector(tight).Inspect(context.Background(), bytes.NewReader(raw), plain)
		var bad *layer.Unacceptable
		if err != nil && !errors.As(err, &bad) {
			t.Fatalf("untyped: %v", err)
		}
	})
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
