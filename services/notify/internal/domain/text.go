package domain

import (
	"strings"
	"unicode"
)

// Bounds, in runes. The columns carry the same ones.
const (
	MaxTitle   = 200
	MaxMessage = 2000

	maxImage   = 140
	maxReason  = 400
	maxFinding = 160
	maxCode    = 64
	findings   = 3 // shown of many

	looked = 8 << 10 // bytes of an untrusted text that are looked at
)

// kind is what is told of one type, and to whom. Placeholders are replaced in one pass, so what people wrote is never read as one.
type kind struct {
	audience   Audience
	resource   Resource
	failure    bool // carries class, code and hint
	reconciled bool
	title      string
	message    string
}

// kinds holds the words, in one place.
var kinds = map[Type]kind{
	ImportApprovalRequested: {audience: Decision, resource: ImportRequest,
		title:   "{image} waits for a decision",
		message: "Somebody asks to bring {image} in. Please approve or reject the request.{reason}{digest}"},
	ImportApproved: {audience: Outcome, resource: ImportRequest, reconciled: true,
		title:   "{image} was approved",
		message: "The request for {image} was approved. The checks start as soon as a provider is free.{reason}"},
	ImportRejected: {audience: Outcome, resource: ImportRequest, reconciled: true,
		title:   "{image} was rejected",
		message: "The request for {image} was rejected.{reason}"},
	ImportWithdrawn: {audience: Outcome, resource: ImportRequest,
		title:   "The request for {image} was withdrawn",
		message: "The request for {image} was withdrawn. Nothing more happens with it.{reason}"},
	ImportDispatchFailed: {audience: Outcome, resource: ImportRequest, failure: true,
		title:   "The checks of {image} could not start",
		message: "The checks of {image} could not be started, so the image was not looked at."},
	ImportCompleted: {audience: Outcome, resource: ImportRequest,
		title:   "The checks of {image} are complete",
		message: "The checks of {image} are complete. {release}"},
	ImportQuarantined: {audience: Outcome, resource: ImportRequest,
		title:   "{image} stays in quarantine",
		message: "The checks of {image} found more than the policy accepts, so it stays in quarantine.{findings}"},
	ImportFailed: {audience: Outcome, resource: ImportRequest, failure: true,
		title:   "The import of {image} failed",
		message: "The import of {image} failed before the image could be judged."},

	EprRequested: {audience: Decision, resource: EprRegistration,
		title:   "{epr} waits for a decision",
		message: "Somebody asks to register {epr}. Please approve or reject the registration.{reason}"},
	EprApproved: {audience: Outcome, resource: EprRegistration,
		title:   "{epr} is registered",
		message: "The registration of {epr} was approved. Images can be asked for under it from now on.{reason}"},
	EprRejected: {audience: Outcome, resource: EprRegistration,
		title:   "The registration of {epr} was rejected",
		message: "The registration of {epr} was rejected.{reason}"},
	EprWithdrawn: {audience: Outcome, resource: EprRegistration,
		title:   "The registration of {epr} was withdrawn",
		message: "The request to register {epr} was withdrawn.{reason}"},

	ReleaseReady: {audience: Decision, resource: ImportRequest,
		title:   "{image} is ready to be released",
		message: "The evidence about {image} is complete and passes the policy. Please release it if it may be used.{digest}"},
	ReleaseApproved: {audience: Outcome, resource: ImportRequest,
		title:   "The release of {image} is on its way",
		message: "The release of {image} was approved. It is being copied{destination}."},
	ReleaseReleased: {audience: Outcome, resource: ImportRequest,
		title:   "{image} is released",
		message: "{image} can be used: it is in the trusted registry{destination}.{digest}"},
	ReleaseFailed: {audience: Outcome, resource: ImportRequest,
		title:   "The release of {image} failed",
		message: "The copy of {image} to the trusted registry failed{destination}.{error}"},

	ScanCompleted: {audience: Outcome, resource: ImportRequest,
		title:   "The scan of {image} is complete",
		message: "The scan of {image} is complete. {verdict}{findings}"},
	ScanFailed: {audience: Outcome, resource: ImportRequest, failure: true,
		title:   "The scan of {image} failed",
		message: "The scan of {image} could not be finished, so nothing is known about the image."},
}

// phrase renders title and message, with every value cleaned and bounded.
func phrase(k kind, f Fact) (title, message string) {
	r := strings.NewReplacer(
		"{image}", image(f), "{epr}", product(f), "{reason}", quoted(" Reason given: ", f.Reason, maxReason),
		"{digest}", quoted(" Digest: ", f.Digest, 80), "{destination}", quoted(" to ", f.Destination, maxImage),
		"{error}", quoted(" The registry said: ", f.Error, maxReason), "{release}", releaseSentence(f.Release),
		"{findings}", findingsSentence(f.Findings), "{verdict}", verdictSentence(f.Status),
	)
	return clean(r.Replace(k.title), MaxTitle), clean(r.Replace(k.message), MaxMessage-len(fallbackNote))
}

func image(f Fact) string {
	name := f.Image
	if name == "" {
		return "an image"
	}
	if f.Registry != "" {
		name = f.Registry + "/" + name
	}
	return clean(name, maxImage)
}

func product(f Fact) string {
	name, id := clean(f.Product, 80), clean(f.EprRecord, maxCode)
	switch {
	case name == "" && id == "":
		return "a product"
	case name == "":
		return id
	case id == "":
		return name
	}
	return name + " (" + id + ")"
}

func releaseSentence(state string) string {
	if state == "release_blocked" {
		return "It cannot be released yet; the request says what is in the way."
	}
	return "A security reviewer can release it now."
}

func verdictSentence(status string) string {
	if status == "quarantined" {
		return "It found more than the policy accepts."
	}
	return "The policy accepts what it found."
}

func findingsSentence(all []string) string {
	var shown []string
	for _, text := range all {
		if text = clean(text, maxFinding); text != "" && len(shown) < findings {
			shown = append(shown, text)
		}
	}
	if len(shown) == 0 {
		return ""
	}
	text := " Found: " + strings.Join(shown, "; ")
	if len(all) > findings {
		text += "; and more"
	}
	return text + "."
}

// quoted puts somebody's words between quotation marks that the words themselves cannot close.
func quoted(lead, text string, limit int) string {
	text = clean(quotes.Replace(text[:min(len(text), looked)]), limit)
	if text == "" {
		return ""
	}
	return lead + "“" + text + "”"
}

var quotes = strings.NewReplacer("“", `"`, "”", `"`, "„", `"`, "‟", `"`)

const (
	escalationNote = " You are told because the machinery failed, not the image."
	fallbackNote   = " You are told because nobody who should hear of this is known to the directory yet."
)

// MessageFor is the message with a note for whoever did not expect it.
func (n Notice) MessageFor(why Why) string {
	switch why {
	case WhyEscalation:
		return n.Message + escalationNote
	case WhyFallback:
		return n.Message + fallbackNote
	}
	return n.Message
}

// clean makes untrusted text fit to be shown as plain text: valid UTF-8, one line, nothing invisible (control characters, direction
// overrides, zero-width characters), at most limit runes, the last an ellipsis when it was cut. It is not escaped for markup: whoever
// renders it does that.
func clean(s string, limit int) string {
	var out strings.Builder
	n, space := 0, false
	for _, r := range s[:min(len(s), looked)] {
		if unicode.IsSpace(r) || unicode.IsControl(r) {
			space = n > 0
			continue
		}
		if r == unicode.ReplacementChar || unicode.In(r, unicode.Cf, unicode.Co, unicode.Cs, unicode.Noncharacter_Code_Point) {
			continue
		}
		needed := 1
		if space {
			needed = 2
		}
		if n+needed > limit {
			return cut(out.String(), limit) + "…"
		}
		if space {
			out.WriteByte(' ')
		}
		out.WriteRune(r)
		n, space = n+needed, false
	}
	return out.String()
}

// cut leaves room for the ellipsis.
func cut(s string, limit int) string {
	runes := []rune(s)
	return strings.TrimRight(string(runes[:min(len(runes), limit-1)]), " ")
}
