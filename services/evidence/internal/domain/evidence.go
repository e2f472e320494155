package domain

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"time"
)

// Bounds on what is kept per bundle beside the documents themselves. Counts are always of everything.
const (
	MaxFindings   = 20_000
	MaxComponents = 20_000
)

// Evidence is what judging needs of a bundle's documents. It is stored, so that judging again reads no document.
type Evidence struct {
	Subject    string     `json:"subject"` // digest of the image's root
	MediaType  string     `json:"media_type"`
	Platforms  []Platform `json:"platforms"`
	Referrers  []string   `json:"referrers"` // pinned by pull
	Problems   []Problem  `json:"problems"`
	Tools      []Tool     `json:"tools"`    // by kind of evidence
	Scanner    Tool       `json:"scanner"`  // of the vulnerability reports
	Database   Database   `json:"database"` // the oldest one used
	Counts     Counts     `json:"counts"`   // distinct findings over all platforms
	MaxCVSS    float64    `json:"max_cvss"`
	Packages   int        `json:"packages"` // distinct over all platforms
	Components int        `json:"components"`
	OldestAt   time.Time  `json:"oldest_at"` // when the oldest artifact was finished
	ReportRef  string     `json:"report_ref"`
	Report     string     `json:"report"` // digest
	// Findings are the distinct ones, most severe first, at most MaxFindings; kept in a table of their own.
	Findings []Finding `json:"-"`
}

// Platform is one image of the root.
type Platform struct {
	Name    string `json:"name"` // os/architecture[/variant]
	OS      string `json:"os"`
	Arch    string `json:"architecture"`
	Variant string `json:"variant,omitempty"`
	Digest  string `json:"digest"`
}

// Tool made the evidence of one kind.
type Tool struct {
	Kind       string    `json:"kind"`
	Name       string    `json:"name"`
	Version    string    `json:"version"`
	FinishedAt time.Time `json:"finished_at"`
}

// Database is the vulnerability data that was used.
type Database struct {
	Digest  string    `json:"digest"`
	BuiltAt time.Time `json:"built_at"`
	Note    string    `json:"note,omitempty"`
}

// Problem is why evidence cannot be the whole truth, or is none.
type Problem struct {
	// Kind of evidence it concerns: source, sbom, vulnerabilities, report.
	Kind string `json:"kind"`
	// Outcome: incomplete (something is missing) or error (it contradicts what we know).
	Outcome Outcome `json:"outcome"`
	Text    string  `json:"text"` // a sentence for people
}

// Counts are numbers of distinct findings by severity; negligible counts as low.
type Counts struct {
	Critical int `json:"critical"`
	High     int `json:"high"`
	Medium   int `json:"medium"`
	Low      int `json:"low"`
	Unknown  int `json:"unknown"`
	Fixable  int `json:"fixable"`
	KEV      int `json:"kev"`
}

// Of is the count of one severity.
func (c Counts) Of(severity string) int {
	return map[string]int{Critical: c.Critical, High: c.High, Medium: c.Medium, Low: c.Low, Unknown: c.Unknown}[severity]
}

// The severities a policy speaks about.
const (
	Critical = "critical"
	High     = "high"
	Medium   = "medium"
	Low      = "low"
	Unknown  = "unknown"
)

// Severities in order, most severe first.
func Severities() []string { return []string{Critical, High, Medium, Low, Unknown} }

// Severity reads a scanner's word; what we do not know is unknown.
func Severity(word string) string {
	switch s := strings.ToLower(word); s {
	case Critical, High, Medium, Low:
		return s
	case "negligible":
		return Low
	}
	return Unknown
}

// Finding is one vulnerability of one package, whatever platforms have it. Its text is hostile.
type Finding struct {
	ID       string
	Package  string
	Version  string
	Type     string
	Severity string
	CVSS     float64
	Fixable  bool
	KEV      bool
}

type findingKey struct{ id, name, version, kind string }

// Distinct folds the findings of several platforms into one list, most severe first, and counts it. Where platforms disagree the worse
// holds.
func Distinct(all []Finding) ([]Finding, Counts, float64) {
	byKey := make(map[findingKey]Finding, len(all))
	for _, f := range all {
		f.Severity = Severity(f.Severity)
		key := findingKey{f.ID, f.Package, f.Version, f.Type}
		if known, ok := byKey[key]; ok {
			if slices.Index(Severities(), known.Severity) < slices.Index(Severities(), f.Severity) {
				f.Severity = known.Severity
			}
			f.CVSS, f.Fixable, f.KEV = max(f.CVSS, known.CVSS), f.Fixable || known.Fixable, f.KEV || known.KEV
		}
		byKey[key] = f
	}
	out := make([]Finding, 0, len(byKey))
	var counts Counts
	var most float64
	for _, f := range byKey {
		out = append(out, f)
		counts.add(f)
		most = max(most, f.CVSS)
	}
	slices.SortFunc(out, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(slices.Index(Severities(), a.Severity), slices.Index(Severities(), b.Severity)),
			cmp.Compare(b.CVSS, a.CVSS), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Package, b.Package), cmp.Compare(a.Version, b.Version),
			cmp.Compare(a.Type, b.Type))
	})
	return out, counts, most
}

func (c *Counts) add(f Finding) {
	switch f.Severity {
	case Critical:
		c.Critical++
	case High:
		c.High++
	case Medium:
		c.Medium++
	case Low:
		c.Low++
	default:
		c.Unknown++
	}
	if f.Fixable {
		c.Fixable++
	}
	if f.KEV {
		c.KEV++
	}
}

// Component is one package of the bill of materials on one platform. Its text is hostile.
type Component struct{ Platform, Type, Name, Version, PURL string }

// Document is one stored document.
type Document struct {
	Kind, Platform, Format, MediaType, Digest string
	Size                                      int64 // bytes
	Tool, ToolVersion                         string
	FinishedAt                                time.Time
	Artifact                                  string // digest of the manifest that holds it
	Repository                                string // in the evidence store
}

// HashDocuments is the evidence hash: SHA-256 over the subject and the sorted list of documents, each as a JSON array, so that no field can
// reach into the next one. Approvals and releases bind to it.
func HashDocuments(subject, run string, documents []Document) string {
	rows := make([]string, 0, len(documents))
	for _, d := range documents {
		row, err := json.Marshal([]any{d.Kind, d.Platform, d.Format, d.MediaType, d.Digest, d.Size, d.Tool, d.ToolVersion,
			d.FinishedAt.UTC().Format(time.RFC3339Nano)})
		if err != nil {
			panic(err) // strings and numbers always marshal
		}
		rows = append(rows, string(row))
	}
	slices.Sort(rows)
	head, err := json.Marshal([]string{"pratique evidence 1", subject, run})
	if err != nil {
		panic(err) // strings always marshal
	}
	sum := sha256.Sum256([]byte(string(head) + "\n" + strings.Join(rows, "\n")))
	return "sha256:" + hex.EncodeToString(sum[:])
}
