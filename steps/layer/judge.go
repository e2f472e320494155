package layer

import (
	"hash/maphash"
	"path"
	"strings"
)

// judge looks at the entries of one layer in order.
type judge struct {
	limits Limits
	report *Report
	links  map[string]string   // symlinks of this layer, by cleaned name
	seen   map[uint64]struct{} // hashes of the names of everything but directories
	seed   maphash.Seed
}

func newJudge(limits Limits, report *Report) *judge {
	return &judge{limits: limits, report: report, links: map[string]string{}, seen: map[uint64]struct{}{}, seed: maphash.MakeSeed()}
}

// entry cleans and judges one header.
func (j *judge) entry(h header) (Entry, error) {
	if len(h.name) > j.limits.Name || len(h.link) > j.limits.Name {
		return Entry{}, refuse(ReasonTooLarge, "a name of more than %d bytes: %s", j.limits.Name, clip(h.name))
	}
	name, err := clean(h.name)
	if err != nil {
		return Entry{}, err
	}
	e := Entry{Name: name, Kind: h.kind, Link: h.link, Size: h.size, Mode: h.mode & 0o7777}
	if name == "." && e.Kind != '5' {
		return Entry{}, refuse(ReasonEscape, "%s replaces the root", clip(h.name))
	}
	if err := whiteout(e); err != nil {
		return Entry{}, err
	}
	if e.Kind == '1' {
		target, err := clean(h.link)
		if err != nil {
			return Entry{}, err
		}
		if target == "." {
			return Entry{}, refuse(ReasonEscape, "%s is a hard link to the root", clip(h.name))
		}
		if err := j.through(target); err != nil {
			return Entry{}, err
		}
	}
	if err := j.through(name); err != nil {
		return Entry{}, err
	}
	j.note(h, e)
	return e, nil
}

// note remembers the entry for those after it and records what is worth a reviewer's eye.
func (j *judge) note(h header, e Entry) {
	delete(j.links, e.Name)
	switch e.Kind {
	case '2':
		j.links[e.Name] = e.Link
	case '3', '4':
		j.found("device", e.Name)
	case '6':
		j.found("fifo", e.Name)
	}
	if e.Kind != '5' {
		sum := maphash.String(j.seed, e.Name)
		if _, twice := j.seen[sum]; twice {
			j.found("duplicate", e.Name)
		}
		j.seen[sum] = struct{}{}
	}
	if e.Regular() && e.Mode&0o4000 != 0 {
		j.found("setuid", e.Name)
	}
	if e.Regular() && e.Mode&0o2000 != 0 {
		j.found("setgid", e.Name)
	}
	if h.capability {
		j.found("capability", e.Name)
	}
	if base := path.Base(e.Name); strings.HasPrefix(base, ".wh..wh.") && base != ".wh..wh..opq" {
		j.found("reserved_name", e.Name)
	}
}

func (j *judge) found(kind, name string) {
	j.report.Counts[kind]++
	if j.report.Counts[kind] <= listed {
		j.report.Findings = append(j.report.Findings, Finding{Kind: kind, Path: name})
	}
}

// through refuses names that pass a symlink of the same layer out of the root; inside the root it is a finding, since
// readers that do not follow links put the file elsewhere.
func (j *judge) through(name string) error {
	if len(j.links) == 0 {
		return nil
	}
	for i, c := range name {
		if c != '/' {
			continue
		}
		target, ok := j.links[name[:i]]
		if !ok {
			continue
		}
		if j.leaves(name[:i], target) {
			return refuse(ReasonEscape, "%s passes the link %s to %s", clip(name), clip(name[:i]), clip(target))
		}
		j.found("through_symlink", name)
	}
	return nil
}

// leaves follows the links of this layer and says whether the target climbs above the root. Loops leave, too.
func (j *judge) leaves(link, target string) bool {
	for range 40 {
		joined := target
		if !strings.HasPrefix(target, "/") {
			joined = path.Dir(link) + "/" + target
		}
		if climbs(strings.TrimPrefix(joined, "/")) {
			return true
		}
		link = strings.TrimPrefix(path.Clean("/"+joined), "/")
		next, ok := j.links[link]
		if !ok {
			return false
		}
		target = next
	}
	return true
}

// climbs reports whether walking the path from the root goes above it at any point.
func climbs(p string) bool {
	depth := 0
	for part := range strings.SplitSeq(p, "/") {
		switch part {
		case "", ".":
		case "..":
			if depth--; depth < 0 {
				return true
			}
		default:
			depth++
		}
	}
	return false
}

// clean reads a name as runtimes do: leading "/" and "./" do not matter; what climbs above the root is refused.
func clean(name string) (string, error) {
	if strings.Contains(name, "\x00") {
		return "", refuse(ReasonEscape, "%s contains a zero byte", clip(name))
	}
	if name == "" {
		return "", refuse(ReasonMalformed, "an entry without a name")
	}
	if climbs(name) {
		return "", refuse(ReasonEscape, "%s leaves the root", clip(name))
	}
	out := strings.TrimPrefix(path.Clean("/"+name), "/")
	if out == "" {
		return ".", nil
	}
	return out, nil
}

// whiteout refuses deletions that name nothing or the directory itself (".wh..", ".wh...", ".wh."), and files inside one.
func whiteout(e Entry) error {
	for part := range strings.SplitSeq(path.Dir(e.Name), "/") {
		if strings.HasPrefix(part, ".wh.") && !strings.HasPrefix(part, ".wh..wh.") {
			return refuse(ReasonMalformed, "%s lies under a whiteout", clip(e.Name))
		}
	}
	target, ok := strings.CutPrefix(path.Base(e.Name), ".wh.")
	if !ok {
		return nil
	}
	if target == "" || target == "." || target == ".." {
		return refuse(ReasonEscape, "%s deletes its directory", clip(e.Name))
	}
	if !e.Regular() && !strings.HasPrefix(target, ".wh.") {
		return refuse(ReasonMalformed, "the whiteout %s is not a file", clip(e.Name))
	}
	return nil
}
