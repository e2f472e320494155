package domain

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
)

// The verdicts of a decision.
const (
	VerdictPass       = "pass"
	VerdictQuarantine = "quarantine"
	VerdictIncomplete = "incomplete"
	VerdictError      = "error"
)

// Outcome is what one rule came to.
type Outcome string

// The outcomes of a rule.
const (
	OutcomePass          Outcome = "pass"
	OutcomeFail          Outcome = "fail"
	OutcomeIncomplete    Outcome = "incomplete"
	OutcomeError         Outcome = "error"
	OutcomeNotApplicable Outcome = "not_applicable"
)

// Rule is one evaluated rule with what it looked at. Reason is set when it did not pass.
type Rule struct {
	Name    string         `json:"rule"`
	Inputs  map[string]any `json:"inputs"` // JSON values
	Outcome Outcome        `json:"outcome"`
	Reason  string         `json:"reason,omitempty"`
}

// Decision is the policy's verdict on the evidence at one time.
type Decision struct {
	Verdict   string
	Reasons   []string
	DecidedAt time.Time
	// WouldHave is what enforce mode had decided, set by a dry run when that is another verdict.
	WouldHave string
	// ExpiresAt is when the evidence it rests on is too old; zero when there is none.
	ExpiresAt time.Time
	Policy    Policy
	Checks    []Check
	Rules     []Rule
}

// Releasable says whether the verdict leaves the release open. A dry run that would not have passed blocks it, unless the policy says
// otherwise.
func (d Decision) Releasable() bool {
	return d.Verdict == VerdictPass && (d.WouldHave == "" || d.Policy.DryRunReleasable)
}

// Check is one kind of evidence and what came of it.
type Check struct {
	Name, Criticality, Verdict, Tool string
	FinishedAt                       time.Time
	ValidUntil                       time.Time
}

// The rules, in the order they are evaluated and explained.
const (
	RuleEnabled  = "policy_enabled"
	RuleComplete = "evidence_complete"
	RuleAge      = "evidence_age"
	RuleDatabase = "vulnerability_database_age"
	RuleCritical = "max_critical"
	RuleP2       = "max_p2"
	RuleP3       = "max_p3"
	RuleCVSS     = "max_cvss"
)

// Judge decides. Completeness and freshness hold in every mode and even when the policy is disabled: what is switched off then are its
// thresholds, never the need for evidence. A dry run turns quarantine into pass and says what it would have decided.
func Judge(p Policy, e Evidence, now time.Time) Decision {
	d := Decision{DecidedAt: now, Policy: p}
	d.Rules = append(d.Rules, enabledRule(p), completeRule(e))
	usable := d.Rules[1].Outcome != OutcomeError
	if usable {
		d.ExpiresAt = p.expires(e)
		d.Rules = append(d.Rules, ageRule(RuleAge, "evidence", e.OldestAt, time.Duration(p.MaxEvidenceDays)*24*time.Hour, now),
			ageRule(RuleDatabase, "vulnerability database", e.Database.BuiltAt, time.Duration(p.MaxDatabaseHours)*time.Hour, now))
	} else {
		d.Rules = append(d.Rules, notApplicable(RuleAge), notApplicable(RuleDatabase))
	}
	thresholds := p.thresholds(e)
	for _, rule := range thresholds {
		if !usable || !p.Enabled {
			rule = notApplicable(rule.Name)
		}
		d.Rules = append(d.Rules, rule)
	}
	d.conclude()
	d.Checks = checks(e, d)
	return d
}

// conclude takes the worst outcome: we could not find out, then not all is known, then the answer is no.
func (d *Decision) conclude() {
	d.Verdict = VerdictPass
	verdicts := []struct {
		outcome Outcome
		verdict string
	}{{OutcomeFail, VerdictQuarantine}, {OutcomeIncomplete, VerdictIncomplete}, {OutcomeError, VerdictError}}
	for _, v := range verdicts {
		if slices.ContainsFunc(d.Rules, func(r Rule) bool { return r.Outcome == v.outcome }) {
			d.Verdict = v.verdict
		}
	}
	for _, r := range d.Rules {
		if r.Reason != "" {
			d.Reasons = append(d.Reasons, r.Reason)
		}
	}
	if d.Policy.Mode == DryRun && d.Verdict == VerdictQuarantine {
		d.Verdict, d.WouldHave = VerdictPass, VerdictQuarantine
	}
}

func notApplicable(name string) Rule {
	return Rule{Name: name, Inputs: map[string]any{}, Outcome: OutcomeNotApplicable}
}

func enabledRule(p Policy) Rule {
	r := Rule{Name: RuleEnabled, Inputs: map[string]any{"enabled": p.Enabled, "mode": p.Mode}, Outcome: OutcomePass}
	if !p.Enabled {
		r.Outcome = OutcomeNotApplicable
		r.Reason = "the quarantine policy is disabled: findings were not held against its thresholds"
	}
	return r
}

// maxReasons bounds what is quoted of a list.
const maxReasons = 10

func completeRule(e Evidence) Rule {
	r := Rule{Name: RuleComplete, Outcome: OutcomePass, Inputs: map[string]any{
		"platforms": float64(len(e.Platforms)), "packages": float64(e.Packages), "problems": float64(len(e.Problems)),
	}}
	var texts []string
	for _, p := range e.Problems {
		if r.Outcome != OutcomeError {
			r.Outcome = p.Outcome
		}
		if len(texts) < maxReasons {
			texts = append(texts, p.Text)
		}
	}
	if more := len(e.Problems) - len(texts); more > 0 {
		texts = append(texts, fmt.Sprintf("and %d more problems", more))
	}
	if len(e.Platforms) == 0 && r.Outcome == OutcomePass { // evidence about nothing is none
		r.Outcome, texts = OutcomeIncomplete, []string{"the evidence names no platform"}
	}
	r.Reason = clip(strings.Join(texts, "; "), maxReason)
	return r
}

// ageRule holds at exactly the limit. Evidence that is too old says nothing about now, so it is incomplete, not failed.
func ageRule(name, what string, at time.Time, most time.Duration, now time.Time) Rule {
	r := Rule{Name: name, Outcome: OutcomePass, Inputs: map[string]any{"max_age_hours": most.Hours()}}
	if at.IsZero() {
		r.Outcome, r.Reason = OutcomeIncomplete, "the age of the "+what+" is not known"
		return r
	}
	age := now.Sub(at)
	r.Inputs["at"] = at.UTC().Format(time.RFC3339)
	r.Inputs["age_hours"] = float64(int64(age.Hours()*10)) / 10
	if age > most {
		r.Outcome = OutcomeIncomplete
		r.Reason = fmt.Sprintf("the %s is too old: it is of %s, and at most %s are allowed", what, at.UTC().Format("2006-01-02 15:04 UTC"), span(most))
	}
	return r
}

func span(d time.Duration) string {
	if h := int(d.Hours()); h%24 != 0 || h < 48 {
		return fmt.Sprintf("%d hours", h)
	}
	return fmt.Sprintf("%d days", int(d.Hours())/24)
}

func (p Policy) thresholds(e Evidence) []Rule {
	rules := []Rule{
		bucketRule(RuleCritical, p.Mapping.P1, p.MaxCritical, e),
		bucketRule(RuleP2, p.Mapping.P2, p.MaxP2, e),
		bucketRule(RuleP3, p.Mapping.P3, p.MaxP3, e),
	}
	return append(rules, cvssRule(p.MaxCVSS, e))
}

func bucketRule(name string, severities []string, most int, e Evidence) Rule {
	found := 0
	listed := make([]any, 0, len(severities))
	for _, s := range severities {
		found += e.Counts.Of(s)
		listed = append(listed, s)
	}
	r := Rule{Name: name, Outcome: OutcomePass, Inputs: map[string]any{
		"severities": listed, "found": float64(found), "allowed": float64(most),
	}}
	if most == Unlimited {
		r.Outcome = OutcomeNotApplicable
		return r
	}
	if found > most {
		r.Outcome = OutcomeFail
		r.Reason = fmt.Sprintf("%d %s %s, %d allowed%s", found, strings.Join(severities, " or "), plural(found, "finding"), most,
			named(e.Findings, found, func(f Finding) bool { return slices.Contains(severities, f.Severity) }))
	}
	return r
}

func cvssRule(most float64, e Evidence) Rule {
	r := Rule{Name: RuleCVSS, Outcome: OutcomePass, Inputs: map[string]any{"max": e.MaxCVSS, "allowed": most}}
	if most == 0 {
		r.Outcome = OutcomeNotApplicable
		return r
	}
	if e.MaxCVSS > most {
		over := func(f Finding) bool { return f.CVSS > most }
		n := 0
		for _, f := range e.Findings {
			if over(f) {
				n++
			}
		}
		r.Outcome = OutcomeFail
		r.Reason = fmt.Sprintf("the highest CVSS score is %.1f, at most %.1f is allowed%s", e.MaxCVSS, most, named(e.Findings, n, over))
	}
	return r
}

func plural(n int, word string) string {
	if n == 1 {
		return word
	}
	return word + "s"
}

// maxNamed findings are quoted per reason, and a reason has at most maxReason bytes.
const (
	maxNamed  = 5
	maxReason = 1200
)

// named quotes the first findings that did it: ": CVE-1 in curl 7.88.1-10, CVE-2 in ... and 3 more".
func named(findings []Finding, total int, did func(Finding) bool) string {
	var names []string
	for _, f := range findings {
		if len(names) == maxNamed {
			break
		}
		if did(f) {
			names = append(names, clip(f.ID, 60)+" in "+clip(f.Package, 80)+" "+clip(f.Version, 60))
		}
	}
	if len(names) == 0 {
		return ""
	}
	text := ": " + strings.Join(names, ", ")
	if more := total - len(names); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// clip makes hostile text fit for a sentence: one line of printable characters, bounded.
func clip(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if len(s) <= most {
		return s
	}
	cut := most
	for cut > 0 && s[cut]&0xC0 == 0x80 { // not inside a character
		cut--
	}
	return s[:cut] + "..."
}

// Clip is clip for texts of other packages that end in a reason.
func Clip(s string, most int) string { return clip(s, most) }

// Kinds of evidence that a complete bundle has.
func Kinds() []string { return []string{"source", "sbom", "vulnerabilities", "report"} }

// checks says per kind of evidence what came of it. Findings fail the check that found them.
func checks(e Evidence, d Decision) []Check {
	var out []Check
	for _, kind := range Kinds() {
		c := Check{Name: kind, Criticality: "required", Verdict: VerdictPass, ValidUntil: d.ExpiresAt}
		for _, t := range e.Tools {
			if t.Kind == kind {
				c.Tool, c.FinishedAt = strings.TrimSpace(t.Name+" "+t.Version), t.FinishedAt
			}
		}
		if c.Tool == "" {
			c.Verdict = VerdictIncomplete
		}
		for _, p := range e.Problems {
			if p.Kind == kind && c.Verdict != VerdictError {
				c.Verdict = string(p.Outcome)
			}
		}
		for _, r := range d.Rules {
			threshold := slices.Contains([]string{RuleCritical, RuleP2, RuleP3, RuleCVSS}, r.Name) && r.Outcome == OutcomeFail
			old := r.Name == RuleDatabase && r.Outcome == OutcomeIncomplete
			if kind != "vulnerabilities" || c.Verdict != VerdictPass {
				continue
			}
			if old {
				c.Verdict = VerdictIncomplete
			} else if threshold {
				c.Verdict = string(OutcomeFail)
			}
		}
		out = append(out, c)
	}
	return out
}
