package domain_test

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/services/evidence/internal/domain"
)

var now = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)

// curl is the finding of the story.
func curl(severity string, cvss float64) domain.Finding {
	return domain.Finding{ID: "CVE-2023-38545", Package: "curl", Version: "7.88.1-10", Type: "deb", Severity: severity, CVSS: cvss, Fixable: true}
}

// clean is complete, fresh evidence without findings.
func clean() domain.Evidence {
	at := now.Add(-time.Hour)
	e := domain.Evidence{
		Subject: "sha256:" + strings.Repeat("a", 64), MediaType: "application/vnd.oci.image.index.v1+json",
		Platforms: []domain.Platform{{Name: "linux/amd64", OS: "linux", Arch: "amd64"}},
		Database:  domain.Database{Digest: "sha256:db", BuiltAt: at}, OldestAt: at, Packages: 7,
	}
	for _, k := range domain.Kinds() {
		e.Tools = append(e.Tools, domain.Tool{Kind: k, Name: "tool", Version: "1", FinishedAt: at})
	}
	return e
}

func with(findings ...domain.Finding) domain.Evidence {
	e := clean()
	e.Findings, e.Counts, e.MaxCVSS = domain.Distinct(findings)
	return e
}

func many(n int, severity string) []domain.Finding {
	var out []domain.Finding
	for i := range n {
		f := curl(severity, 5)
		f.ID = fmt.Sprintf("CVE-2024-%04d", i)
		out = append(out, f)
	}
	return out
}

func policy(change func(*domain.Policy)) domain.Policy {
	p := domain.DefaultPolicy()
	if change != nil {
		change(&p)
	}
	return p
}

func TestJudge(t *testing.T) {
	t.Parallel()
	broken := func(o domain.Outcome) domain.Evidence {
		e := clean()
		e.Problems = []domain.Problem{{Kind: "sbom", Outcome: o, Text: "the package list is empty"}}
		return e
	}
	aged := func(evidence, database time.Duration) domain.Evidence {
		e := clean()
		e.OldestAt, e.Database.BuiltAt = now.Add(-evidence), now.Add(-database)
		return e
	}
	const day = 24 * time.Hour
	none := domain.Outcome("")
	cases := []struct {
		name     string
		policy   func(*domain.Policy)
		evidence domain.Evidence
		verdict  string
		rule     string
		outcome  domain.Outcome
		reason   string
	}{
		{"nothing found passes", nil, clean(), domain.VerdictPass, domain.RuleCritical, domain.OutcomePass, ""},
		{"one critical finding is too many by default", nil, with(curl("critical", 9.8)), domain.VerdictQuarantine, domain.RuleCritical, domain.OutcomeFail,
			"1 critical finding, 0 allowed: CVE-2023-38545 in curl 7.88.1-10"},
		{"three of three allowed pass", func(p *domain.Policy) { p.MaxCritical = 3 }, with(many(3, "critical")...), domain.VerdictPass, domain.RuleCritical, domain.OutcomePass, ""},
		{"four of three allowed fail", func(p *domain.Policy) { p.MaxCritical = 3 }, with(many(4, "critical")...), domain.VerdictQuarantine, domain.RuleCritical, domain.OutcomeFail,
			"4 critical findings, 3 allowed: CVE-2024-0000 in curl 7.88.1-10, CVE-2024-0001"},
		{"without limit any number passes", func(p *domain.Policy) { p.MaxCritical = domain.Unlimited }, with(many(400, "critical")...), domain.VerdictPass, domain.RuleCritical, domain.OutcomeNotApplicable, ""},
		{"a high finding is p2", nil, with(curl("high", 7)), domain.VerdictQuarantine, domain.RuleP2, domain.OutcomeFail, "1 high finding, 0 allowed"},
		{"a high finding is not p1", nil, with(curl("high", 7)), domain.VerdictQuarantine, domain.RuleCritical, domain.OutcomePass, ""},
		{"p2 at its limit", func(p *domain.Policy) { p.MaxP2 = 2 }, with(many(2, "high")...), domain.VerdictPass, domain.RuleP2, domain.OutcomePass, ""},
		{"p2 without limit", func(p *domain.Policy) { p.MaxP2 = -1 }, with(many(9, "high")...), domain.VerdictPass, domain.RuleP2, domain.OutcomeNotApplicable, ""},
		{"a medium finding is p3", nil, with(curl("medium", 5)), domain.VerdictQuarantine, domain.RuleP3, domain.OutcomeFail, "1 medium finding, 0 allowed"},
		{"p3 at its limit", func(p *domain.Policy) { p.MaxP3 = 1 }, with(curl("medium", 5)), domain.VerdictPass, domain.RuleP3, domain.OutcomePass, ""},
		{"p3 without limit", func(p *domain.Policy) { p.MaxP3 = -1 }, with(many(9, "medium")...), domain.VerdictPass, domain.RuleP3, domain.OutcomeNotApplicable, ""},
		{"p4 is never counted", nil, with(append(many(9, "low"), curl("odd", 0), curl("negligible", 0))...), domain.VerdictPass, domain.RuleP3, domain.OutcomePass, ""},
		{"a mapping may put high into p1", func(p *domain.Policy) {
			p.Mapping = domain.Mapping{P1: []string{"critical", "high"}, P2: []string{"medium"}, P3: []string{"low"}, P4: []string{"unknown"}}
			p.MaxP2 = -1
		}, with(curl("high", 7)), domain.VerdictQuarantine, domain.RuleCritical, domain.OutcomeFail, "1 critical or high finding, 0 allowed"},
		{"a mapping may make unknown count", func(p *domain.Policy) {
			p.Mapping = domain.Mapping{P1: []string{"critical", "unknown"}, P2: []string{"high"}, P3: []string{"medium"}, P4: []string{"low"}}
		}, with(curl("whatever", 0)), domain.VerdictQuarantine, domain.RuleCritical, domain.OutcomeFail, "1 critical or unknown finding"},
		{"a score at the limit passes", func(p *domain.Policy) { p.MaxCVSS, p.MaxP3 = 7.5, -1 }, with(curl("medium", 7.5)), domain.VerdictPass, domain.RuleCVSS, domain.OutcomePass, ""},
		{"a score above the limit fails", func(p *domain.Policy) { p.MaxCVSS, p.MaxP3 = 7.5, -1 }, with(curl("medium", 7.6)), domain.VerdictQuarantine, domain.RuleCVSS, domain.OutcomeFail,
			"the highest CVSS score is 7.6, at most 7.5 is allowed: CVE-2023-38545 in curl"},
		{"a score limit of 0 is not used", func(p *domain.Policy) { p.MaxP3 = -1 }, with(curl("medium", 10)), domain.VerdictPass, domain.RuleCVSS, domain.OutcomeNotApplicable, ""},
		{"incomplete evidence does not pass", nil, broken(domain.OutcomeIncomplete), domain.VerdictIncomplete, domain.RuleComplete, domain.OutcomeIncomplete, "the package list is empty"},
		{"forged evidence is an error", nil, broken(domain.OutcomeError), domain.VerdictError, domain.RuleComplete, domain.OutcomeError, "the package list is empty"},
		{"of an error nothing else is judged", nil, broken(domain.OutcomeError), domain.VerdictError, domain.RuleCritical, domain.OutcomeNotApplicable, ""},
		{"evidence about nothing does not pass", nil, domain.Evidence{}, domain.VerdictIncomplete, domain.RuleComplete, domain.OutcomeIncomplete, "no platform"},
		{"evidence at its age passes", nil, aged(30*day, 0), domain.VerdictPass, domain.RuleAge, domain.OutcomePass, ""},
		{"evidence past its age is incomplete", nil, aged(30*day+time.Second, 0), domain.VerdictIncomplete, domain.RuleAge, domain.OutcomeIncomplete, "the evidence is too old"},
		{"a database at its age passes", nil, aged(0, 120*time.Hour), domain.VerdictPass, domain.RuleDatabase, domain.OutcomePass, ""},
		{"a database past its age is incomplete", nil, aged(0, 120*time.Hour+time.Second), domain.VerdictIncomplete, domain.RuleDatabase, domain.OutcomeIncomplete,
			"the vulnerability database is too old: it is of 2026-03-05 11:59 UTC, and at most 5 days are allowed"},
		{"a stricter database age holds", func(p *domain.Policy) { p.MaxDatabaseHours = 1 }, aged(0, 61*time.Minute), domain.VerdictIncomplete, domain.RuleDatabase, domain.OutcomeIncomplete, "at most 1 hours"},
		{"what is incomplete stays so when there are findings too", nil, func() domain.Evidence {
			e := with(curl("critical", 9))
			e.Problems = broken(domain.OutcomeIncomplete).Problems
			return e
		}(), domain.VerdictIncomplete, domain.RuleCritical, domain.OutcomeFail, "1 critical finding"},
		{"a disabled policy holds no finding against the image", func(p *domain.Policy) { p.Enabled = false }, with(curl("critical", 9.8)), domain.VerdictPass, domain.RuleEnabled, domain.OutcomeNotApplicable, "the quarantine policy is disabled"},
		{"a disabled policy still wants complete evidence", func(p *domain.Policy) { p.Enabled = false }, broken(domain.OutcomeIncomplete), domain.VerdictIncomplete, domain.RuleComplete, domain.OutcomeIncomplete, "empty"},
		{"a disabled policy still wants fresh evidence", func(p *domain.Policy) { p.Enabled = false }, aged(31*day, 0), domain.VerdictIncomplete, domain.RuleAge, domain.OutcomeIncomplete, "too old"},
		{"a disabled policy does not turn an error into a pass", func(p *domain.Policy) { p.Enabled = false }, broken(domain.OutcomeError), domain.VerdictError, domain.RuleComplete, domain.OutcomeError, ""},
		{"a dry run passes what it would have quarantined", func(p *domain.Policy) { p.Mode = domain.DryRun }, with(curl("critical", 9.8)), domain.VerdictPass, domain.RuleCritical, domain.OutcomeFail, "1 critical finding"},
		{"a dry run does not pass what is incomplete", func(p *domain.Policy) { p.Mode = domain.DryRun }, broken(domain.OutcomeIncomplete), domain.VerdictIncomplete, domain.RuleComplete, domain.OutcomeIncomplete, ""},
		{"a dry run does not pass an error", func(p *domain.Policy) { p.Mode = domain.DryRun }, broken(domain.OutcomeError), domain.VerdictError, domain.RuleComplete, domain.OutcomeError, ""},
		{"a dry run of a clean image is a pass", func(p *domain.Policy) { p.Mode = domain.DryRun }, clean(), domain.VerdictPass, domain.RuleEnabled, domain.OutcomePass, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := domain.Judge(policy(c.policy), c.evidence, now)
			require.Equal(t, c.verdict, d.Verdict, d.Reasons)
			var got domain.Rule
			names := []string{}
			for _, r := range d.Rules {
				names = append(names, r.Name)
				if r.Name == c.rule {
					got = r
				}
			}
			require.Equal(t, []string{domain.RuleEnabled, domain.RuleComplete, domain.RuleAge, domain.RuleDatabase, domain.RuleCritical,
				domain.RuleP2, domain.RuleP3, domain.RuleCVSS}, names, "every rule is explained, in one order")
			require.NotEqual(t, none, c.outcome)
			require.Equal(t, c.outcome, got.Outcome, got)
			require.Contains(t, got.Reason, c.reason)
			if c.reason != "" {
				require.Contains(t, strings.Join(d.Reasons, "\n"), c.reason)
			}
			_, err := json.Marshal(d.Rules)
			require.NoError(t, err)
		})
	}
}

func TestADryRunSaysWhatItWouldHaveDecided(t *testing.T) {
	t.Parallel()
	dry := policy(func(p *domain.Policy) { p.Mode = domain.DryRun })
	d := domain.Judge(dry, with(curl("critical", 9.8)), now)
	require.Equal(t, domain.VerdictQuarantine, d.WouldHave)
	require.False(t, d.Releasable())
	dry.DryRunReleasable = true
	require.True(t, domain.Judge(dry, with(curl("critical", 9.8)), now).Releasable())
	d = domain.Judge(dry, clean(), now)
	require.Empty(t, d.WouldHave)
	require.True(t, d.Releasable())
	require.False(t, domain.Judge(policy(nil), with(curl("critical", 9.8)), now).Releasable())
}

func TestReasonsAreBoundedPlainSentences(t *testing.T) {
	t.Parallel()
	d := domain.Judge(policy(nil), with(many(1000, "critical")...), now)
	require.Contains(t, d.Reasons[0], "1000 critical findings, 0 allowed: CVE-2024-0000 in curl 7.88.1-10, ")
	require.True(t, strings.HasSuffix(d.Reasons[0], " and 995 more"), d.Reasons[0])
	hostile := curl("critical", 9)
	hostile.ID, hostile.Package, hostile.Version = "CVE\n\x1b[31m", strings.Repeat("ä", 5000), "<script>\u202e\xff\x00"
	text := domain.Judge(policy(nil), with(hostile), now).Reasons[0]
	require.Less(t, len(text), 400)
	for _, r := range text {
		require.False(t, r < ' ' || r == '\u202e' || r == '\uFFFD', "%q", text)
	}
	e := clean()
	for range 5000 {
		e.Problems = append(e.Problems, domain.Problem{Kind: "sbom", Outcome: domain.OutcomeIncomplete, Text: strings.Repeat("x", 300)})
	}
	d = domain.Judge(policy(nil), e, now)
	require.Less(t, len(strings.Join(d.Reasons, "")), 2000)
}

func TestEvidenceExpiresByTheEarlierOfItsClocks(t *testing.T) {
	t.Parallel()
	e := clean()
	require.Equal(t, e.Database.BuiltAt.Add(120*time.Hour), domain.Judge(policy(nil), e, now).ExpiresAt)
	long := policy(func(p *domain.Policy) { p.MaxDatabaseHours = 24 * 365 })
	require.Equal(t, e.OldestAt.Add(30*24*time.Hour), domain.Judge(long, e, now).ExpiresAt)
}

func TestChecksSayWhatFailed(t *testing.T) {
	t.Parallel()
	verdicts := func(e domain.Evidence) map[string]string {
		out := map[string]string{}
		for _, c := range domain.Judge(policy(nil), e, now).Checks {
			require.Equal(t, "required", c.Criticality)
			out[c.Name] = c.Verdict
		}
		return out
	}
	require.Equal(t, map[string]string{"source": "pass", "sbom": "pass", "vulnerabilities": "pass", "report": "pass"}, verdicts(clean()))
	require.Equal(t, "fail", verdicts(with(curl("critical", 9)))["vulnerabilities"])
	require.Equal(t, "pass", verdicts(with(curl("critical", 9)))["sbom"])
	e := clean()
	e.Problems = []domain.Problem{{Kind: "sbom", Outcome: domain.OutcomeIncomplete, Text: "x"}}
	require.Equal(t, "incomplete", verdicts(e)["sbom"])
	e.Problems[0].Outcome = domain.OutcomeError
	require.Equal(t, "error", verdicts(e)["sbom"])
	e = clean()
	e.Database.BuiltAt = now.Add(-500 * time.Hour)
	require.Equal(t, "incomplete", verdicts(e)["vulnerabilities"])
	require.Equal(t, "incomplete", verdicts(domain.Evidence{})["report"])
}

func TestDistinctCountsAFindingOnceWhateverPlatformsHaveIt(t *testing.T) {
	t.Parallel()
	worse := curl("Critical", 9.8)
	worse.KEV, worse.Fixable = true, false
	other := curl("low", 2)
	other.Version = "8"
	list, counts, most := domain.Distinct([]domain.Finding{curl("high", 7), worse, other, curl("negligible", 0)})
	require.Len(t, list, 2)
	require.Equal(t, domain.Counts{Critical: 1, Low: 1, Fixable: 2, KEV: 1}, counts)
	require.InDelta(t, 9.8, most, 0)
	require.Equal(t, "critical", list[0].Severity)
}

func TestPolicyChecksItself(t *testing.T) {
	t.Parallel()
	require.Nil(t, domain.DefaultPolicy().Check())
	for field, change := range map[string]func(*domain.Policy){
		"mode":                  func(p *domain.Policy) { p.Mode = "off" },
		"max_critical":          func(p *domain.Policy) { p.MaxCritical = -2 },
		"max_p2":                func(p *domain.Policy) { p.MaxP2 = -2 },
		"max_p3":                func(p *domain.Policy) { p.MaxP3 = -2 },
		"max_cvss":              func(p *domain.Policy) { p.MaxCVSS = math.NaN() },
		"max_evidence_age_days": func(p *domain.Policy) { p.MaxEvidenceDays = 0 },
		"max_vulndb_age_hours":  func(p *domain.Policy) { p.MaxDatabaseHours = 0 },
		"severity_mapping":      func(p *domain.Policy) { p.Mapping.P2 = []string{"high", "critical"} },
	} {
		require.Contains(t, policy(change).Check(), field)
	}
	for name, m := range map[string]domain.Mapping{
		"an empty bucket":    {P1: []string{"critical", "high"}, P2: nil, P3: []string{"medium"}, P4: []string{"low", "unknown"}},
		"a severity missing": {P1: []string{"critical"}, P2: []string{"high"}, P3: []string{"medium"}, P4: []string{"low"}},
		"an unknown word":    {P1: []string{"critical"}, P2: []string{"high"}, P3: []string{"medium"}, P4: []string{"low", "unknown", "awful"}},
	} {
		require.Contains(t, policy(func(p *domain.Policy) { p.Mapping = m }).Check(), "severity_mapping", name)
	}
}

func TestPolicyHashIsOfItsContent(t *testing.T) {
	t.Parallel()
	a, b := domain.DefaultPolicy(), domain.DefaultPolicy()
	b.Head.Version, b.Head.UpdatedBy = 7, "somebody"
	require.Equal(t, a.Hash(), b.Hash())
	b.MaxP3 = 1
	require.NotEqual(t, a.Hash(), b.Hash())
	parsed, err := domain.ParsePolicy(b.Content(), b.Head)
	require.NoError(t, err)
	require.Equal(t, b, parsed)
	require.Equal(t, b.Hash(), parsed.Snapshot()["hash"])
	require.Equal(t, 7, parsed.Snapshot()["version"])
	_, err = domain.ParsePolicy([]byte(`{"mode":"enforce"}`), domain.Head{})
	require.Error(t, err, "a policy without a mapping maps nothing")
}
