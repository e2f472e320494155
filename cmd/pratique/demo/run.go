package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sort"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/pratique-io/pratique/cmd/pratique/up"
	"github.com/pratique-io/pratique/internal/egress"
	"github.com/pratique-io/pratique/internal/oci"
)

// Options are what the command line says.
type Options struct {
	Image       string // one image of the user's own, registry/repository:tag
	Summary     string // file for the outcome as JSON
	StepProgram string
}

// Sources are the registries that the user's own image makes allowed, beyond public ones.
func (o Options) Sources() ([]string, error) {
	if o.Image == "" {
		return nil, nil
	}
	reference, err := oci.ParseReference(o.Image)
	if err != nil {
		return nil, fmt.Errorf("--image %s: %w", o.Image, err)
	}
	return []string{withPort(reference.Host)}, nil
}

func withPort(host string) string {
	if strings.Contains(host, ":") {
		return host
	}
	return host + ":443"
}

// StageOf makes a stage of a running product.
func StageOf(c up.Connection, token func(string) (string, error), say func(string, ...any)) Stage {
	pick := func(name string) Registry {
		r := c.Registries[name]
		return Registry{Address: r.Address, Username: r.Username, Password: r.Password}
	}
	return Stage{
		API:      &API{Base: c.REST, Token: token, HTTP: &http.Client{}, Patience: time.Minute},
		Upstream: pick("upstream"), Trusted: pick("trusted"), PaymentsID: c.Tenants["payments"],
		Transport: registryTransport(c), Limit: 3 * time.Minute, Say: say,
	}
}

// registryTransport reaches the two registries that people reach, and nothing else.
func registryTransport(c up.Connection) http.RoundTripper {
	outward, err := egress.New(egress.Config{Policies: map[egress.Purpose]egress.Policy{
		egress.Source: {Allowed: []string{c.Registries["upstream"].Address, c.Registries["trusted"].Address}},
	}})
	if err != nil {
		panic(err) // two addresses that we made
	}
	return outward.Transport(egress.Source)
}

// Run tells the story, then takes the user's own image through, and reports.
func Run(ctx context.Context, stage Stage, options Options, out io.Writer) error {
	outcomes, err := Tell(ctx, stage)
	if err == nil && options.Image != "" {
		var own Outcome
		own, err = tellOwn(ctx, stage, options.Image)
		outcomes = append(outcomes, own)
	}
	table(out, outcomes)
	if err = errors.Join(err, WriteSummary(options.Summary, outcomes, err == nil)); err != nil {
		return err
	}
	fmt.Fprintln(out, "every step was verified")
	return nil
}

// tellOwn takes one image of the user's own through: whatever it comes to is an outcome, as long as it comes to an end.
func tellOwn(ctx context.Context, stage Stage, image string) (Outcome, error) {
	s := &Story{Stage: stage}
	own := Outcome{Name: "your image", Source: image}
	reference, err := oci.ParseReference(image)
	if err != nil {
		return own, err
	}
	registrations, err := s.API.Expect(ctx, "mel", http.MethodGet, "/api/v1/epr/registration-requests?status=approved", nil, http.StatusOK, "")
	if err != nil {
		return own, err
	}
	records := registrations.List("data")
	if len(records) == 0 {
		return own, errors.New("no approved EPR record")
	}
	created, err := s.API.Call(ctx, "mel", http.MethodPost, importRequests, map[string]any{
		"epr_record_id": records[0]["epr_record_id"], "source_registry": reference.Host, "source_image_ref": image,
	})
	if err != nil {
		return own, err
	}
	if created.Status != http.StatusCreated {
		own.Status, own.Reason = "refused", created.Get("error.message")
		return own, fmt.Errorf("%s was refused: %s", image, own.Reason)
	}
	own.RequestID, own.Digest = created.Get("data.id"), created.Get("data.source_image_digest")
	if err := s.decide(ctx, "sam", importRequests+"/"+own.RequestID+"/approve", http.StatusAccepted); err != nil {
		return own, err
	}
	answer, err := s.API.Until(ctx, "mel", importRequests+"/"+own.RequestID, "an outcome of "+image, 10*stage.Limit, func(a Answer) (bool, error) {
		return terminal(a.Get("data.status")) && (a.Get("data.status") == "failed" || a.Get("data.release_state") != "not_ready"), nil
	})
	own.Status, own.Decision, own.ReleaseState = answer.Get("data.status"), answer.Get("data.policy_decision"), answer.Get("data.release_state")
	own.Counts, _ = answer.value("data.scan_summary.counts").(map[string]any)
	own.Database, own.Reason = answer.Get("data.scan_summary.database_note"), answer.Get("data.error_message")
	if err != nil || own.ReleaseState != "ready_for_release" {
		return own, err
	}
	if _, err := s.API.Expect(ctx, "rita", http.MethodPost, importRequests+"/"+own.RequestID+"/release", map[string]any{}, http.StatusAccepted, ""); err != nil {
		return own, err
	}
	released, err := s.API.Until(ctx, "mel", importRequests+"/"+own.RequestID, "the release of "+image, stage.Limit, func(a Answer) (bool, error) {
		return a.Get("data.release_state") == "released", nil
	})
	own.ReleaseState = released.Get("data.release_state")
	for _, release := range released.List("data.releases") {
		own.Destination, own.DestinationDigest = fmt.Sprint(release["destination_image_ref"]), fmt.Sprint(release["digest"])
	}
	return own, err
}

// table shows the outcomes to people. Image names are ours or the user's own.
func table(out io.Writer, outcomes []Outcome) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nIMAGE\tSTATUS\tDECISION\tFINDINGS\tRELEASE\tTOLD")
	database := ""
	for _, o := range outcomes {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", o.Name, dash(o.Status), dash(o.Decision), counts(o.Counts), dash(o.ReleaseState), receipts(o.Receipts))
		if o.Database != "" {
			database = o.Database
		}
	}
	_ = w.Flush() // to a terminal or a buffer
	if database != "" {
		fmt.Fprintf(out, "findings come from a %s, not from a complete one\n", database)
	}
	for _, o := range outcomes {
		if o.Reason != "" {
			fmt.Fprintf(out, "%s: %q\n", o.Name, o.Reason)
		}
	}
}

func dash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

func counts(c map[string]any) string {
	var parts []string
	for _, severity := range []string{"critical", "high", "medium", "low", "unknown"} {
		if n, ok := c[severity].(float64); ok && n > 0 {
			parts = append(parts, fmt.Sprintf("%.0f %s", n, severity))
		}
	}
	switch {
	case c == nil:
		return "-"
	case len(parts) == 0:
		return "none"
	}
	return strings.Join(parts, ", ")
}

func receipts(r map[string]int) string {
	var parts []string
	for who, n := range r {
		parts = append(parts, fmt.Sprintf("%s %d", who, n))
	}
	sort.Strings(parts)
	return dash(strings.Join(parts, ", "))
}

// WriteSummary writes the outcomes for programs; an empty path is none.
func WriteSummary(path string, outcomes []Outcome, verified bool) error {
	if path == "" {
		return nil
	}
	if outcomes == nil {
		outcomes = []Outcome{} // a list also when there is nothing yet
	}
	raw, err := json.MarshalIndent(map[string]any{"verified": verified, "images": outcomes}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(raw, '\n'), 0o644)
}
