package document

import (
	"time"

	"github.com/pratique-io/pratique/internal/oci"
)

// ReportDocument ties the evidence of one run together.
type ReportDocument struct {
	Subject     Object              `json:"subject"`
	Run         string              `json:"run"`
	Attempt     int                 `json:"attempt"`
	Documents   map[Kind]oci.Digest `json:"documents"` // artifacts of this run, by kind
	Tools       []Tool              `json:"tools"`
	Database    Database            `json:"database"`
	Platforms   []PlatformSummary   `json:"platforms"`
	Checks      []Check             `json:"checks"`
	GeneratedAt time.Time           `json:"generated_at"`
}

// Tool is one program that made evidence.
type Tool struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// PlatformSummary is one line of the report.
type PlatformSummary struct {
	Platform   string     `json:"platform"`
	Image      oci.Digest `json:"image"`
	Packages   int        `json:"packages"`
	Incomplete bool       `json:"incomplete"`
	Findings   Counts     `json:"findings"`
}

// Check is one check of the run and what came of it. A check that could not be made ends the run instead.
type Check struct {
	Name        string    `json:"name"`        // the kind of evidence it wrote
	Criticality string    `json:"criticality"` // required or advisory
	Verdict     string    `json:"verdict"`     // pass, findings, incomplete
	Tool        string    `json:"tool"`
	ToolVersion string    `json:"tool_version"`
	FinishedAt  time.Time `json:"finished_at"`
	Detail      string    `json:"detail,omitempty"`
}

// The verdicts of a Check. Findings are for the policy to judge; incomplete never passes.
const (
	VerdictPass       = "pass"
	VerdictFindings   = "findings"
	VerdictIncomplete = "incomplete"
)
