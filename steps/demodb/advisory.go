// Package demodb makes the demonstration database: a small, real grype v6 vulnerability database written from a readable list
// of published advisories, for machines that have no mirror of the full one.
//
// It exists so that `pratique up` shows true findings on the sample images without a download. It must never be mistaken for
// the full data: the database carries a marker (a provider named Marker whose processor says "demonstration database of N
// records"), and every result made with it repeats that note.
package demodb

import (
	"bytes"
	_ "embed"
	"fmt"
	"regexp"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

//go:embed advisories.yaml
var list []byte

// Marker is the provider id that tells a demonstration database from a full one; the provider's Processor is the note to show.
const Marker = "pratique-demonstration"

// Note is what is shown wherever results of a demonstration database of n records are shown.
func Note(n int) string { return fmt.Sprintf("demonstration database of %d records", n) }

// Advisory is one published vulnerability and the packages it affects.
type Advisory struct {
	ID        string    `yaml:"id"`        // CVE
	Severity  string    `yaml:"severity"`  // critical, high, medium, low
	CVSS      string    `yaml:"cvss"`      // vector, version 3.x
	KEV       string    `yaml:"kev"`       // day CISA listed it, YYYY-MM-DD; empty when not listed
	EPSS      float64   `yaml:"epss"`      // probability 0-1; 0 = not given
	Published string    `yaml:"published"` // YYYY-MM-DD
	Affects   []Affects `yaml:"affects"`
}

// Affects is one package of one ecosystem with the versions that are vulnerable.
type Affects struct {
	Where   string `yaml:"where"`   // deb:12, apk:3.18, npm, python, go, maven, gem
	Package string `yaml:"package"` // source package for deb and apk
	ID      string `yaml:"id"`      // the ecosystem's own advisory (GHSA-...); empty means the CVE
	Range   string `yaml:"range"`   // empty means every version
	Fix     string `yaml:"fix"`     // first fixed version; empty means none
	State   string `yaml:"state"`   // wont-fix or not-fixed when there is no fix
}

var (
	cveID  = regexp.MustCompile(`^CVE-\d{4}-\d{4,}$`)
	ghsaID = regexp.MustCompile(`^GHSA(-[2-9cfghjmpqrvwx]{4}){3}$`)
)

// Advisories returns the checked-in list, parsed strictly.
func Advisories() ([]Advisory, error) { return Parse(list) }

// Parse reads a list of advisories in the form of advisories.yaml; unknown fields, bad identifiers, dates, ecosystems and
// duplicates are errors that name the entry.
func Parse(raw []byte) ([]Advisory, error) {
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	dec.KnownFields(true)
	var out []Advisory
	if err := dec.Decode(&out); err != nil {
		return nil, fmt.Errorf("advisory list: %w", err)
	}
	seen := map[string]bool{}
	for _, a := range out {
		if seen[a.ID] {
			return nil, fmt.Errorf("advisory list: %s appears twice", a.ID)
		}
		seen[a.ID] = true
		if err := a.check(); err != nil {
			return nil, fmt.Errorf("advisory list: %s: %w", a.ID, err)
		}
	}
	return out, nil
}

func (a Advisory) check() error {
	switch {
	case !cveID.MatchString(a.ID):
		return fmt.Errorf("not a CVE identifier")
	case !strings.Contains(" critical high medium low ", " "+a.Severity+" "):
		return fmt.Errorf("severity %q", a.Severity)
	case !strings.HasPrefix(a.CVSS, "CVSS:3."):
		return fmt.Errorf("cvss %q is not a version 3 vector", a.CVSS)
	case len(a.Affects) == 0:
		return fmt.Errorf("affects nothing")
	case a.EPSS < 0 || a.EPSS > 1:
		return fmt.Errorf("epss %v is not a probability", a.EPSS)
	}
	for _, day := range []string{a.Published, a.KEV} {
		if _, err := time.Parse(time.DateOnly, day); day != "" && err != nil {
			return err
		}
	}
	for _, f := range a.Affects {
		if _, err := f.place(); err != nil {
			return err
		}
		if f.Package == "" || (f.ID != "" && !ghsaID.MatchString(f.ID)) {
			return fmt.Errorf("%s %q: package or advisory id %q", f.Where, f.Package, f.ID)
		}
		if (f.Fix == "") == (f.State != "wont-fix" && f.State != "not-fixed") {
			return fmt.Errorf("%s %s: give a fix or a state", f.Where, f.Package)
		}
	}
	return nil
}

// place is where an affected package lives, in the words of the grype database.
type place struct {
	ecosystem, format, provider string // package type, version format, data source
	os, major, minor            string // empty for language ecosystems
	codename                    string
}

func (f Affects) place() (place, error) {
	kind, release, _ := strings.Cut(f.Where, ":")
	major, minor, _ := strings.Cut(release, ".")
	languages := map[string]place{
		"npm":    {ecosystem: "npm", format: "npm"},
		"python": {ecosystem: "python", format: "python"},
		"go":     {ecosystem: "go-module", format: "go"},
		"maven":  {ecosystem: "java-archive", format: "maven"},
		"gem":    {ecosystem: "gem", format: "gem"},
	}
	if p, ok := languages[kind]; ok && release == "" {
		p.provider = "github"
		return p, nil
	}
	codenames := map[string]string{"11": "bullseye", "12": "bookworm", "13": "trixie"}
	switch {
	case kind == "deb" && codenames[release] != "":
		return place{ecosystem: "deb", format: "dpkg", provider: "debian", os: "debian", major: release, codename: codenames[release]}, nil
	case kind == "apk" && minor != "":
		return place{ecosystem: "apk", format: "apk", provider: "alpine", os: "alpine", major: major, minor: minor}, nil
	}
	return place{}, fmt.Errorf("unknown ecosystem %q", f.Where)
}

// advisoryID is the name the finding is published under in its ecosystem.
func (a Advisory) advisoryID(f Affects) string {
	if f.ID != "" {
		return f.ID
	}
	return a.ID
}

// Records reads the number back out of a Note; 0 when it is none.
func Records(note string) int {
	n := 0
	if _, err := fmt.Sscanf(note, "demonstration database of %d records", &n); err != nil {
		return 0
	}
	return n
}
