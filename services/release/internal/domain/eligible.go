package domain

import "time"

// Rule is one evaluated rule with what it looked at. Inputs hold JSON values.
type Rule struct {
	Name    string
	Inputs  map[string]any
	Passed  bool
	Blocker Blocker // what a failure means
}

// Eligible says whether the image may be released now: every rule of it, and the first that fails as the reason. It looks at projections and
// serves the quick answer; the promotion asks the owners again.
func (r *Record) Eligible(now time.Time) (bool, Blocker, []Rule) {
	rules := append(r.Facts.rules(now, r.State == Released), r.lastPromotion())
	reason := first(rules)
	return reason == "", reason, rules
}

func first(rules []Rule) Blocker {
	for _, rule := range rules {
		if !rule.Passed {
			return rule.Blocker
		}
	}
	return ""
}

// rules are those that the facts alone decide.
func (f *Facts) rules(now time.Time, released bool) []Rule {
	asked, judged := Request{}, Judged{}
	if f.Asked != nil {
		asked = *f.Asked
	}
	if f.Judged != nil {
		judged = *f.Judged
	}
	status := f.Status()
	return []Rule{
		{
			Name: "request_type", Inputs: map[string]any{"request_type": asked.Type}, // a scan is never released; what is not known yet waits
			Passed: asked.Type == TypeQuarantine, Blocker: ImportNotTerminal,
		},
		concluded(status),
		policy(judged),
		{
			Name: "evidence_recorded", Inputs: map[string]any{"evidence_hash": judged.EvidenceHash},
			Passed: judged.EvidenceHash != "", Blocker: EvidenceIncomplete,
		},
		{
			Name:    "dry_run",
			Inputs:  map[string]any{"would_have_decided": judged.WouldHaveDecided, "dry_run_releasable": judged.DryRunReleasable},
			Passed:  judged.WouldHaveDecided == "" || judged.WouldHaveDecided == Pass || judged.DryRunReleasable,
			Blocker: DryRun,
		},
		{
			Name: "digest_match", Inputs: map[string]any{"request_digest": asked.Digest, "evidence_digest": judged.Digest},
			Passed: asked.Digest != "" && asked.Digest == judged.Digest, Blocker: DigestMismatch,
		},
		f.fresh(judged, now),
		f.bytes(released),
	}
}

func concluded(status Status) Rule {
	rule := Rule{Name: "import_concluded", Inputs: map[string]any{"import_status": string(status)}, Blocker: ImportNotTerminal}
	switch status {
	case Succeeded, Quarantined:
		rule.Passed = true
	case Failed, Rejected, Withdrawn:
		rule.Blocker = ImportFailed
	}
	return rule
}

func policy(judged Judged) Rule {
	rule := Rule{
		Name: "policy_decision", Inputs: map[string]any{"decision": judged.Decision, "policy_hash": judged.PolicyHash},
		Passed: judged.Decision == Pass, Blocker: PolicyNotPassed,
	}
	switch judged.Decision {
	case Quarantine:
		rule.Blocker = PolicyQuarantined
	case Incomplete:
		rule.Blocker = EvidenceIncomplete
	}
	return rule
}

func (f *Facts) fresh(judged Judged, now time.Time) Rule {
	rule := Rule{Name: "evidence_fresh", Inputs: map[string]any{"valid_until": nil, "stale_since": nil}, Passed: true, Blocker: EvidenceStale}
	if until := judged.ValidUntil; until != nil {
		rule.Inputs["valid_until"] = until.UTC().Format(time.RFC3339)
		rule.Passed = now.Before(*until)
	}
	if since := f.stale(); since != nil {
		rule.Inputs["stale_since"] = since.UTC().Format(time.RFC3339)
		rule.Passed = false
	}
	return rule
}

// bytes: what was judged must still be somewhere, in quarantine or (for a further destination) in the trusted registry.
func (f *Facts) bytes(released bool) Rule {
	rule := Rule{Name: "bytes_available", Inputs: map[string]any{"quarantine_copy": f.Removed == nil, "released": released}, Blocker: EvidenceStale}
	rule.Passed = f.Removed == nil || released
	return rule
}

// lastPromotion: a promotion that failed blocks until somebody releases again.
func (r *Record) lastPromotion() Rule {
	outcome := "none"
	if r.FailedAs != "" {
		outcome = string(r.FailedAs)
	} else if r.State == Released {
		outcome = string(Released)
	}
	rule := Rule{Name: "last_promotion", Inputs: map[string]any{"outcome": outcome}, Passed: r.FailedAs == "", Blocker: PromotionFailed}
	if r.FailedAs != "" {
		rule.Blocker = r.FailedAs
	}
	return rule
}
