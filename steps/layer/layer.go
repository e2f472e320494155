// Package layer opens image layers that nobody trusts, without unpacking them.
//
// A layer is decompressed under bounds (bytes, ratio, entries, time) and read by two walkers that share no code: archive/tar
// and a minimal one of our own. Runtimes and scanners read tar differently in corners (sizes of entries that have no
// data, extended headers, what ends an archive), and an entry in such a corner can hide everything after it from one of
// them: the scanner then sees an empty, clean image. So both walkers must list the same entries, and what is known to be
// read differently is refused outright. Names are cleaned the way runtimes clean them; what leaves the root is refused.
package layer

import (
	"fmt"
	"time"

	"github.com/pratique-io/pratique/internal/oci"
)

// Limits bound one image. Zero values mean the defaults.
type Limits struct {
	Bytes      int64         // decompressed, all layers
	Ratio      int64         // decompressed : compressed, per layer, once RatioFloor is passed
	RatioFloor int64         // bytes that may expand at any ratio (small layers of zeros are honest)
	Entries    int           // all layers
	Header     int64         // bytes of extended headers before one entry
	Name       int           // bytes of a name or link target
	Time       time.Duration // per layer
}

// DefaultLimits suit images of up to a few dozen GiB.
var DefaultLimits = Limits{
	Bytes: 64 << 30, Ratio: 200, RatioFloor: 64 << 20, Entries: 1_000_000, Header: 1 << 20, Name: 4096, Time: 30 * time.Minute,
}

func (l Limits) orDefault() Limits {
	d := DefaultLimits
	if l.Bytes > 0 {
		d.Bytes = l.Bytes
	}
	if l.Ratio > 0 {
		d.Ratio = l.Ratio
	}
	if l.RatioFloor > 0 {
		d.RatioFloor = l.RatioFloor
	}
	if l.Entries > 0 {
		d.Entries = l.Entries
	}
	if l.Header > 0 && l.Header < d.Header { // archive/tar has the same ceiling
		d.Header = l.Header
	}
	if l.Name > 0 {
		d.Name = l.Name
	}
	if l.Time > 0 {
		d.Time = l.Time
	}
	return d
}

// Reason says why a layer is refused. The set is closed.
type Reason string

// The reasons of Unacceptable.
const (
	ReasonTooLarge     Reason = "layer_too_large"    // over a byte, entry, header or name budget
	ReasonBomb         Reason = "layer_bomb"         // expands beyond the ratio
	ReasonTooSlow      Reason = "layer_too_slow"     // over the time budget
	ReasonCompression  Reason = "layer_compression"  // truncated, garbled, or not what the media type says
	ReasonMalformed    Reason = "layer_malformed"    // not a tar archive that every reader reads alike
	ReasonDifferential Reason = "layer_differential" // the two walkers disagree
	ReasonEscape       Reason = "layer_escape"       // a name that leaves the root
	ReasonDiffID       Reason = "layer_diff_id"      // not the bytes the image's config promises
)

// Unacceptable is the error of a layer that is refused; permanent for those bytes.
type Unacceptable struct {
	Reason Reason
	Detail string // for people; names in it are quoted and shortened
}

// Error implements error.
func (u *Unacceptable) Error() string { return string(u.Reason) + ": " + u.Detail }

func refuse(r Reason, format string, args ...any) *Unacceptable {
	return &Unacceptable{Reason: r, Detail: fmt.Sprintf(format, args...)}
}

func clip(s string) string {
	const most = 120
	if len(s) > most {
		s = s[:most]
	}
	return fmt.Sprintf("%q", s)
}

// Entry is one file of a layer as both walkers agreed on it.
type Entry struct {
	Name string // cleaned, relative to the root, without a leading slash; "." is the root itself
	Kind byte   // tar type flag; regular files are always '0'
	Link string // target of a link as written
	Size int64  // bytes of data
	Mode int64  // permission and setuid bits
}

// Regular reports whether the entry is a plain file.
func (e Entry) Regular() bool { return e.Kind == '0' }

// Report is what one layer holds.
type Report struct {
	DiffID   oci.Digest     // sha256 of the decompressed bytes
	Bytes    int64          // decompressed
	Entries  int            // tar entries
	Findings []Finding      // the first of each kind
	Counts   map[string]int // all of them, by kind
}

// Finding is something honest images have too, worth a reviewer's eye.
type Finding struct {
	Kind string // device, fifo, setuid, setgid, capability, through_symlink, duplicate, reserved_name
	Path string // cleaned name
}

// listed bounds how many findings of one kind a report names; Counts has them all.
const listed = 20
