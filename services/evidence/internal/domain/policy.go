package domain

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
)

// The modes of a policy.
const (
	Enforce = "enforce"
	DryRun  = "dry_run"
)

// Unlimited is a threshold without limit; 0 allows none.
const Unlimited = -1

// Policy is what evidence is judged by. Its rules are fixed; its numbers are the tenant's, or the default.
type Policy struct {
	Head Head `json:"-"`

	Enabled          bool    `json:"enabled"`
	Mode             string  `json:"mode"`
	MaxCritical      int     `json:"max_critical"` // of bucket p1
	MaxP2            int     `json:"max_p2"`
	MaxP3            int     `json:"max_p3"`
	MaxCVSS          float64 `json:"max_cvss"` // 0-10; 0 is not used
	Mapping          Mapping `json:"severity_mapping"`
	MaxEvidenceDays  int     `json:"max_evidence_age_days"`
	MaxDatabaseHours int     `json:"max_vulndb_age_hours"`
	DryRunReleasable bool    `json:"dry_run_releasable"`
}

// Head says whose policy it is and which version of it.
type Head struct {
	ID        string
	Tenant    uuid.UUID // Nil: the default for all
	Version   int       // 0 while nobody has set it
	UpdatedAt time.Time
	UpdatedBy string
}

// Mapping puts each severity into exactly one bucket.
type Mapping struct {
	P1 []string `json:"p1"`
	P2 []string `json:"p2"`
	P3 []string `json:"p3"`
	P4 []string `json:"p4"`
}

// DefaultPolicy allows no finding above low.
func DefaultPolicy() Policy {
	return Policy{
		Head: Head{ID: "default"}, Enabled: true, Mode: Enforce,
		Mapping:         Mapping{P1: []string{Critical}, P2: []string{High}, P3: []string{Medium}, P4: []string{Low, Unknown}},
		MaxEvidenceDays: 30, MaxDatabaseHours: 120,
	}
}

// Hash is SHA-256 over the policy's content: equal content, equal hash, whoever's it is.
func (p Policy) Hash() string {
	sum := sha256.Sum256(p.Content())
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Content is the policy as it is stored and hashed.
func (p Policy) Content() []byte {
	raw, err := json.Marshal(p)
	if err != nil {
		panic(err) // strings and finite numbers always marshal
	}
	return raw
}

// ParsePolicy reads stored content and checks it.
func ParsePolicy(raw []byte, head Head) (Policy, error) {
	p := DefaultPolicy()
	p.Mapping = Mapping{}
	if err := json.Unmarshal(raw, &p); err != nil {
		return Policy{}, fmt.Errorf("policy %s: %w", head.ID, err)
	}
	p.Head = head
	if problems := p.Check(); len(problems) > 0 {
		return Policy{}, fmt.Errorf("policy %s: %v", head.ID, problems)
	}
	return p, nil
}

// Check returns what is wrong, by field; nil when nothing is.
func (p Policy) Check() map[string]string {
	problems := map[string]string{}
	if p.Mode != Enforce && p.Mode != DryRun {
		problems["mode"] = "must be enforce or dry_run"
	}
	for field, n := range map[string]int{"max_critical": p.MaxCritical, "max_p2": p.MaxP2, "max_p3": p.MaxP3} {
		if n < Unlimited {
			problems[field] = "must be -1 (no limit) or more"
		}
	}
	if !(p.MaxCVSS >= 0 && p.MaxCVSS <= 10) { // so that NaN fails too
		problems["max_cvss"] = "must be between 0 and 10"
	}
	if p.MaxEvidenceDays < 1 || p.MaxEvidenceDays > 3650 {
		problems["max_evidence_age_days"] = "must be between 1 and 3650"
	}
	if p.MaxDatabaseHours < 1 || p.MaxDatabaseHours > 87600 {
		problems["max_vulndb_age_hours"] = "must be between 1 and 87600"
	}
	if text := p.Mapping.check(); text != "" {
		problems["severity_mapping"] = text
	}
	if len(problems) == 0 {
		return nil
	}
	return problems
}

func (m Mapping) check() string {
	seen := map[string]int{}
	for _, bucket := range m.buckets() {
		if len(bucket) == 0 {
			return "each bucket needs a severity"
		}
		for _, s := range bucket {
			if !slices.Contains(Severities(), s) {
				return fmt.Sprintf("%.40q is not a severity", s)
			}
			seen[s]++
		}
	}
	for _, s := range Severities() {
		if seen[s] != 1 {
			return fmt.Sprintf("%s must be in exactly one bucket", s)
		}
	}
	return ""
}

func (m Mapping) buckets() [][]string { return [][]string{m.P1, m.P2, m.P3, m.P4} }

// Snapshot is the policy as it is kept with each decision.
func (p Policy) Snapshot() map[string]any {
	content := map[string]any{}
	if err := json.Unmarshal(p.Content(), &content); err != nil {
		panic(err) // we rendered it
	}
	content["id"], content["version"], content["hash"] = p.Head.ID, p.Head.Version, p.Hash()
	return content
}

// expires is when evidence stops being fresh: the earlier of its own age and its database's.
func (p Policy) expires(e Evidence) time.Time {
	until := e.OldestAt.Add(time.Duration(p.MaxEvidenceDays) * 24 * time.Hour)
	if data := e.Database.BuiltAt.Add(time.Duration(p.MaxDatabaseHours) * time.Hour); data.Before(until) {
		return data
	}
	return until
}
