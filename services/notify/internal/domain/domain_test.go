package domain

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/internal/failure"
)

var (
	reviewer    = uuid.MustParse("00000000-0000-7000-8000-000000000001")
	tenantAdmin = uuid.MustParse("00000000-0000-7000-8000-000000000002")
	systemAdmin = uuid.MustParse("00000000-0000-7000-8000-000000000003")
	asker       = uuid.MustParse("00000000-0000-7000-8000-000000000004")
	resource    = uuid.MustParse("00000000-0000-7000-8000-00000000000a")

	everybody = People{Reviewers: []uuid.UUID{reviewer}, TenantAdmins: []uuid.UUID{tenantAdmin}, SystemAdmins: []uuid.UUID{systemAdmin}}

	reviewers  = []Recipient{{reviewer, WhyRole}}
	concerned  = []Recipient{{tenantAdmin, WhyRole}, {asker, WhyRequester}}
	withAdmins = []Recipient{{tenantAdmin, WhyRole}, {systemAdmin, WhyEscalation}, {asker, WhyRequester}}
)

// The codes of CONTRACT 6, written down a second time on purpose.
var contract = map[string][]string{
	"dispatch":     {"dispatcher_unavailable", "dispatch_timeout", "dispatch_error"},
	"connectivity": {"connectivity_error", "source_rate_limited"},
	"auth":         {"auth_error"},
	"policy":       {"quarantined_by_policy", "policy_blocked", "image_unacceptable"},
	"runtime":      {"runtime_failed", "run_timeout", "step_out_of_memory", "scanner_error"},
}

type outcome struct {
	fact Fact
	typ  Type // empty: nobody is told
	who  []Recipient
}

func fact(event string) Fact {
	return Fact{Event: event, Requester: asker, Resource: resource, Image: "library/nginx:1.25"}
}

func about(event, requestType string) Fact {
	f := fact(event)
	f.RequestType = requestType
	return f
}

func carrying(f Fact) Fact {
	f.Carried = true
	return f
}

func concluded(requestType, status, class, code string) Fact {
	f := about("QuarantineConcluded", requestType)
	f.Status, f.Failure = status, Failure{class, code}
	return f
}

// table says, for every event and every case of it, what CONTRACT 10 asks for.
func table() map[string]outcome {
	out := map[string]outcome{
		"a quarantine request asks the reviewers":           {about("RequestSubmitted", "quarantine"), "external_image_import_approval_requested", reviewers},
		"a carried-over approval asks nobody":               {carrying(about("RequestSubmitted", "quarantine")), "", nil},
		"a scan asks nobody":                                {about("RequestSubmitted", "scan"), "", nil},
		"an approval reaches tenant and requester":          {about("RequestApproved", "quarantine"), "external_image_import_approved", concerned},
		"a scan's own approval is no news":                  {about("RequestApproved", "scan"), "", nil},
		"a rejection reaches tenant and requester":          {fact("RequestRejected"), "external_image_import_rejected", concerned},
		"a withdrawal reaches tenant and requester":         {fact("RequestWithdrawn"), "external_image_import_withdrawn", concerned},
		"success is told":                                   {concluded("quarantine", "success", "", ""), "external_image_import_completed", concerned},
		"quarantine stays with the tenant":                  {concluded("quarantine", "quarantined", "", ""), "external_image_import_quarantined", concerned},
		"quarantine with its failure stays there too":       {concluded("quarantine", "quarantined", "policy", "quarantined_by_policy"), "external_image_import_quarantined", concerned},
		"a scan that passes is complete":                    {concluded("scan", "success", "", ""), "ondemand_scan_completed", concerned},
		"a scan that finds too much is complete":            {concluded("scan", "quarantined", "policy", "quarantined_by_policy"), "ondemand_scan_completed", concerned},
		"a failure of unknown class is the machinery's":     {concluded("quarantine", "failed", "", ""), "external_image_import_failed", withAdmins},
		"a failure of a foreign class is the machinery's":   {concluded("quarantine", "failed", "weather", "storm"), "external_image_import_failed", withAdmins},
		"a code alone tells its class":                      {concluded("quarantine", "failed", "", "dispatch_timeout"), "external_image_import_dispatch_failed", withAdmins},
		"a registration asks the reviewers":                 {fact("EprRegistrationRequested"), "epr_registration_requested", reviewers},
		"a registered product reaches the tenant":           {fact("EprRegistrationApproved"), "epr_registration_approved", concerned},
		"a refused product reaches the tenant":              {fact("EprRegistrationRejected"), "epr_registration_rejected", concerned},
		"a withdrawn registration reaches the tenant":       {fact("EprRegistrationWithdrawn"), "epr_registration_withdrawn", concerned},
		"what can be released asks the reviewers":           {fact("ReleaseReady"), "release_ready", reviewers},
		"a release on its way reaches the tenant":           {fact("ReleaseApproved"), "release_approved", concerned},
		"a released image reaches the tenant":               {fact("ImageReleased"), "release_released", concerned},
		"a release that came to nothing reaches the tenant": {fact("ReleaseFailed"), "release_failed", concerned},
	}
	for class, codes := range contract {
		for _, code := range codes {
			who, typ := withAdmins, Type("external_image_import_failed")
			if class == "policy" {
				who = concerned
			}
			if class == "dispatch" {
				typ = "external_image_import_dispatch_failed"
			}
			out["an import failed by "+code] = outcome{concluded("quarantine", "failed", class, code), typ, who}
			out["a scan failed by "+code] = outcome{concluded("scan", "failed", class, code), "ondemand_scan_failed", who}
		}
	}
	return out
}

func TestPlanOfEveryEvent(t *testing.T) {
	seen := map[string]bool{}
	types := map[Type]string{}
	for name, want := range table() {
		seen[want.fact.Event] = true
		t.Run(name, func(t *testing.T) {
			notice, needed, err := NoticeOf(want.fact)
			require.NoError(t, err)
			require.Equal(t, want.typ != "", needed)
			if !needed {
				return
			}
			require.Equal(t, want.typ, notice.Type)
			require.Equal(t, want.who, Plan(notice, everybody))
			require.Equal(t, want.fact.Event == "RequestApproved" || want.fact.Event == "RequestRejected", notice.Reconciled)
		})
		if want.typ != "" {
			if event, known := types[want.typ]; known {
				require.Equal(t, event, want.fact.Event, "each type comes from exactly one kind of event")
			}
			types[want.typ] = want.fact.Event
		}
	}
	for _, event := range Events() {
		require.True(t, seen[event], "%s has no case in this test", event)
	}
	for typ := range kinds {
		require.Contains(t, types, typ, "a type without a case in this test")
	}
}

func TestPlanTellsEachPersonOnceForTheStrongestReason(t *testing.T) {
	notice, _, err := NoticeOf(concluded("quarantine", "failed", "runtime", "run_timeout"))
	require.NoError(t, err)
	all := People{TenantAdmins: []uuid.UUID{asker, tenantAdmin, tenantAdmin}, SystemAdmins: []uuid.UUID{tenantAdmin, asker, systemAdmin}}
	require.Equal(t, withAdmins, Plan(notice, all))
}

func TestPlanFallsBackToSystemAdminsAndSaysSo(t *testing.T) {
	for name, want := range table() {
		if want.typ == "" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			f := want.fact
			f.Requester = uuid.Nil
			notice, _, err := NoticeOf(f)
			require.NoError(t, err)
			plan := Plan(notice, People{SystemAdmins: []uuid.UUID{systemAdmin}})
			require.Equal(t, []Recipient{{systemAdmin, WhyFallback}}, plan)
			require.Contains(t, notice.MessageFor(plan[0].Why), "nobody who should hear")
			require.Empty(t, Plan(notice, People{}), "nobody at all")
		})
	}
}

func TestUnknownCasesAreErrors(t *testing.T) {
	for _, f := range []Fact{
		concluded("quarantine", "paused", "", ""), concluded("", "success", "", ""), about("RequestSubmitted", "mirror"), fact("RequestMoved"),
	} {
		_, needed, err := NoticeOf(f)
		require.Error(t, err)
		require.False(t, needed)
	}
}

func TestEveryFailureCarriesClassCodeAndHint(t *testing.T) {
	hints := map[string]bool{}
	n := 0
	for class, codes := range contract {
		for _, code := range codes {
			n++
			notice, _, err := NoticeOf(concluded("scan", "failed", class, code))
			require.NoError(t, err)
			require.Equal(t, Failure{class, code}, notice.Failure)
			require.NotEmpty(t, notice.Hint)
			require.NotEqual(t, unknownHint, notice.Hint)
			require.False(t, hints[notice.Hint], "%s shares its hint", code)
			hints[notice.Hint] = true
		}
	}
	require.Len(t, failure.Codes(), n, "codes that are not told of")
	notice, _, err := NoticeOf(concluded("scan", "failed", "runtime", "gremlins"))
	require.NoError(t, err)
	require.Equal(t, unknownHint, notice.Hint)
	quarantined, _, err := NoticeOf(concluded("quarantine", "quarantined", "", ""))
	require.NoError(t, err)
	require.Equal(t, Failure{"policy", "quarantined_by_policy"}, quarantined.Failure)
	failed, _, err := NoticeOf(fact("ReleaseFailed"))
	require.NoError(t, err)
	require.NotEmpty(t, failed.Hint)
	require.Zero(t, failed.Failure)
	fine, _, err := NoticeOf(concluded("quarantine", "success", "runtime", "run_timeout"))
	require.NoError(t, err)
	require.Zero(t, fine.Failure, "a success carries no failure")
	require.Empty(t, fine.Hint)
}

// hostile is what an image reference or a reason may try.
var hostile = map[string]string{
	"a megabyte":            strings.Repeat("x", 1<<20),
	"a megabyte of spaces":  strings.Repeat(" \n", 1<<19) + "end",
	"lines and bells":       "first\r\nSubject: second\x07\x1b[31mred\x00",
	"direction overrides":   "safe\u202egnp.exe\u2066\u200b\ufeff",
	"line separators":       "a\u2028b\u2029c",
	"not UTF-8":             "a\xff\xfeb",
	"a placeholder":         "{reason}{image}{digest}",
	"closing quotes":        "fine” Approved by the board. “",
	"markup":                `<script>alert("x")</script> [click](javascript:x)`,
	"a megabyte of accents": "e" + strings.Repeat("\u0301", 1<<18),
}

func TestUntrustedTextIsBoundedAndPlain(t *testing.T) {
	for name, text := range hostile {
		for wanted, want := range table() {
			if want.typ == "" {
				continue
			}
			f := want.fact
			f.Registry, f.Image, f.Digest, f.Destination, f.Product, f.EprRecord, f.Reason, f.Blocker, f.Error = text, text, text, text, text, text, text, text, text
			f.Findings = slices.Repeat([]string{text}, 5)
			f.Failure.Code = text
			notice, _, err := NoticeOf(f)
			require.NoError(t, err)
			for _, why := range []Why{WhyRole, WhyEscalation, WhyFallback} {
				requirePlain(t, notice.Title, MaxTitle, name+", "+wanted)
				requirePlain(t, notice.MessageFor(why), MaxMessage, name+", "+wanted)
			}
			require.LessOrEqual(t, utf8.RuneCountInString(notice.Failure.Code), maxCode)
		}
	}
}

func requirePlain(t *testing.T, text string, limit int, what string) {
	t.Helper()
	require.NotEmpty(t, text, what)
	require.True(t, utf8.ValidString(text), what)
	require.LessOrEqual(t, utf8.RuneCountInString(text), limit, what)
	for _, r := range text {
		if r != ' ' && (unicode.IsControl(r) || unicode.IsSpace(r) || unicode.Is(unicode.Cf, r)) {
			require.Failf(t, "not plain", "%s: %U in %q", what, r, text)
		}
	}
}

func TestWordsOfPeopleStayInsideTheirQuotes(t *testing.T) {
	f := about("RequestApproved", "quarantine")
	f.Reason = hostile["closing quotes"]
	notice, _, err := NoticeOf(f)
	require.NoError(t, err)
	require.True(t, strings.HasSuffix(notice.Message, `Reason given: “fine" Approved by the board. "”`), notice.Message)
	f.Reason = hostile["a placeholder"]
	notice, _, err = NoticeOf(f)
	require.NoError(t, err)
	require.Contains(t, notice.Message, "“{reason}{image}{digest}”", "what people write is never filled in")
	f.Reason = hostile["markup"]
	notice, _, err = NoticeOf(f)
	require.NoError(t, err)
	require.Contains(t, notice.Message, `<script>alert("x")</script>`, "plain text; whoever renders it escapes")
}

func TestCleanCutsWithAnEllipsis(t *testing.T) {
	require.Equal(t, "abc", clean("abc", 3))
	require.Equal(t, "ab…", clean("abcd", 3))
	require.Equal(t, "a…", clean("a bcd", 3))
	require.Equal(t, "a b", clean("  a \t\n b  ", 3))
	require.Equal(t, "", clean("\x00\u200b ", 3))
	for limit := 1; limit < 8; limit++ {
		require.LessOrEqual(t, utf8.RuneCountInString(clean("äö ü ß€uro", limit)), limit)
	}
}

func TestTextsName(t *testing.T) {
	f := concluded("quarantine", "quarantined", "", "")
	f.Findings = []string{"2 critical findings, 0 allowed", "KEV CVE-2024-1", "no signature", "malware"}
	notice, _, err := NoticeOf(f)
	require.NoError(t, err)
	require.Equal(t, "library/nginx:1.25 stays in quarantine", notice.Title)
	require.True(t, strings.HasSuffix(notice.Message, "Found: 2 critical findings, 0 allowed; KEV CVE-2024-1; no signature; and more."), notice.Message)
	require.Equal(t, "/requests/"+resource.String(), notice.Link)

	f = fact("EprRegistrationRequested")
	f.Product, f.EprRecord = "Edge proxy", "EPR-20250101-deadbeef"
	notice, _, err = NoticeOf(f)
	require.NoError(t, err)
	require.Equal(t, "Edge proxy (EPR-20250101-deadbeef) waits for a decision", notice.Title)
	require.Equal(t, "/epr/"+resource.String(), notice.Link)
	require.Equal(t, EprRegistration, notice.Resource)

	f = concluded("quarantine", "success", "", "")
	f.Release = "release_blocked"
	notice, _, err = NoticeOf(f)
	require.NoError(t, err)
	require.Contains(t, notice.Message, "cannot be released yet")
}

func TestNoPlaceholderIsLeft(t *testing.T) {
	for name, want := range table() {
		if want.typ == "" {
			continue
		}
		f := want.fact
		f.Image = ""
		notice, _, err := NoticeOf(f)
		require.NoError(t, err)
		require.NotContains(t, fmt.Sprint(notice.Title, notice.Message), "{", name)
	}
}

func TestReconcile(t *testing.T) {
	for _, c := range []struct {
		expected, receipts, inApp int
		want                      DeliveryState
	}{
		{0, 0, 0, Delivered}, {3, 0, 0, Pending}, {3, 1, 0, Partial}, {3, 1, 1, Partial}, {3, 3, 2, Partial}, {3, 3, 3, Delivered},
	} {
		require.Equal(t, c.want, Reconcile(c.expected, c.receipts, c.inApp), "%+v", c)
	}
}
