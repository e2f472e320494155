// Package demo tells the whole story of Pratique on real images, through the public interfaces only, and verifies every step. `pratique demo`
// and the system tests tell the same story; the tests also while processes die.
package demo

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/pratique-io/pratique/internal/oci"
	"github.com/pratique-io/pratique/internal/sample"
)

// Stage is what the story needs to know about the running product.
type Stage struct {
	API *API
	// Upstream takes pushes from anyone; Trusted is read-only.
	Upstream, Trusted Registry
	// PaymentsID is the tenant of mel and ada.
	PaymentsID string
	// Transport reaches the registries.
	Transport http.RoundTripper
	// Limit is how long one pipeline may take, from approval to outcome.
	Limit time.Duration
	// Say reports progress, one line a step.
	Say func(format string, args ...any)
}

// Registry is where and as whom.
type Registry struct{ Address, Username, Password string }

// Outcome is what became of one image.
type Outcome struct {
	Name              string         `json:"name"`
	RequestID         string         `json:"request_id,omitempty"`
	Source            string         `json:"source"`
	Digest            string         `json:"digest,omitempty"`
	Status            string         `json:"status"`
	Decision          string         `json:"decision,omitempty"`
	Counts            map[string]any `json:"counts,omitempty"`
	Database          string         `json:"database,omitempty"`
	ReleaseState      string         `json:"release_state,omitempty"`
	Destination       string         `json:"destination,omitempty"`
	DestinationDigest string         `json:"destination_digest,omitempty"`
	Reason            string         `json:"reason,omitempty"`
	// Receipts counts the notifications each persona got about this image.
	Receipts map[string]int `json:"receipts,omitempty"`
}

// Story is one telling; it keeps what later steps refer to.
type Story struct {
	Stage
	epr        string
	clean      Outcome
	vulnerable Outcome
	malformed  Outcome
	deep       Outcome
	scan       Outcome
	cleanImage sample.Image
	platforms  []oci.Digest // of the clean image
}

const (
	importRequests = "/api/v1/images/import-requests"
	scanRequests   = "/api/v1/images/scan-requests"
)

// step is one verified part of the story.
type step struct {
	title string
	tell  func(context.Context) error
}

// Tell tells the story from beginning to end; the first step that does not hold ends it.
func Tell(ctx context.Context, stage Stage) ([]Outcome, error) {
	s := &Story{Stage: stage}
	steps := []step{
		{"the sample images are pushed to upstream", s.pushSamples},
		{"with every capability off, asking is refused and leaves nothing behind", s.refuseWithoutCapability},
		{"root entitles payments", s.entitle},
		{"without an EPR record, asking is refused", s.refuseWithoutEPR},
		{"mel registers the product, cannot approve it herself, sam does", s.registerEPR},
		{"the malformed image is refused at the door", s.refuseMalformed},
		{"mel asks for three images and a scan; the digests are pinned", s.ask},
		{"mel cannot approve her own; sam approves", s.approve},
		{"the clean image passes and is ready for release", s.awaitClean},
		{"rita releases it; it is read back from trusted with all platforms and referrers", s.release},
		{"the vulnerable image ends in quarantine, with the rules and findings that did it", s.awaitVulnerable},
		{"the image that is malformed further down fails its run", s.awaitDeep},
		{"the on-demand scan tells what it found and releases nothing", s.awaitScan},
		{"omar of another tenant sees none of it", s.hideFromOthers},
		{"mel and ada were told of each thing exactly once", s.countNotifications},
	}
	for i, step := range steps {
		began := time.Now()
		if err := step.tell(ctx); err != nil {
			return s.outcomes(), fmt.Errorf("step %d of %d, %s: %w", i+1, len(steps), step.title, err)
		}
		s.Say("%2d/%d  %s (%.1f s)", i+1, len(steps), step.title, time.Since(began).Seconds())
	}
	return s.outcomes(), nil
}

func (s *Story) outcomes() []Outcome {
	return []Outcome{s.clean, s.vulnerable, s.malformed, s.deep, s.scan}
}

func (s *Story) pushSamples(ctx context.Context) error {
	s.cleanImage = sample.Clean()
	var err error
	if s.platforms, err = platforms(s.cleanImage); err != nil {
		return err
	}
	for _, push := range []struct {
		image   sample.Image
		outcome *Outcome
	}{
		{s.cleanImage, &s.clean},
		{sample.Vulnerable(), &s.vulnerable},
		{sample.MalformedRoot(), &s.malformed},
		{sample.MalformedDeep(), &s.deep},
	} {
		name := push.image.Name
		if err := push.image.Push(ctx, s.Transport, s.Upstream.Address, name, "1.0", s.Upstream.Username, s.Upstream.Password); err != nil {
			return fmt.Errorf("pushing %s: %w", name, err)
		}
		*push.outcome = Outcome{Name: name, Source: s.Upstream.Address + "/" + name + ":1.0"}
	}
	s.scan = Outcome{Name: "scan of " + s.vulnerable.Name, Source: s.vulnerable.Source}
	return nil
}

// platforms reads the digests of an index's images from its root manifest.
func platforms(image sample.Image) ([]oci.Digest, error) {
	for _, manifest := range image.Manifests {
		if manifest.Digest != image.Root.Digest {
			continue
		}
		root, err := oci.ParseManifest(manifest.Raw, manifest.MediaType)
		if err != nil {
			return nil, err
		}
		var out []oci.Digest
		for _, child := range root.Manifests {
			out = append(out, child.Digest)
		}
		return out, nil
	}
	return nil, errors.New("the image has no root manifest")
}

func (s *Story) importBody(name string) map[string]any {
	return map[string]any{
		"epr_record_id": s.epr, "source_registry": s.Upstream.Address, "source_image_ref": name + ":1.0",
		"justification": "needed by the checkout service",
	}
}

func (s *Story) refuseWithoutCapability(ctx context.Context) error {
	s.epr = "EPR-20260101-0000demo"
	answer, err := s.API.Expect(ctx, "mel", http.MethodPost, importRequests, s.importBody(s.clean.Name), http.StatusForbidden, "tenant_capability_not_entitled")
	if err != nil {
		return err
	}
	if key := answer.Get("error.details.capability_key"); key != "quarantine_request" {
		return fmt.Errorf("the refusal names capability %q", key)
	}
	list, err := s.API.Expect(ctx, "mel", http.MethodGet, importRequests, nil, http.StatusOK, "")
	if err != nil {
		return err
	}
	if total := list.Get("pagination.total"); total != "0" {
		return fmt.Errorf("%s requests exist after a refusal", total)
	}
	return nil
}

func (s *Story) entitle(ctx context.Context) error {
	path := "/api/v1/admin/settings/operation-capabilities?tenant_id=" + s.PaymentsID + "&change_reason=demo"
	_, err := s.API.Expect(ctx, "root", http.MethodPut, path, map[string]any{
		"quarantine_request": true, "quarantine_release": true, "ondemand_image_scanning": true,
	}, http.StatusOK, "")
	return err
}

func (s *Story) refuseWithoutEPR(ctx context.Context) error {
	_, err := s.API.Expect(ctx, "mel", http.MethodPost, importRequests, s.importBody(s.clean.Name), http.StatusPreconditionFailed, "epr_registration_required")
	return err
}

func (s *Story) registerEPR(ctx context.Context) error {
	created, err := s.API.Expect(ctx, "mel", http.MethodPost, "/api/v1/epr/registration-requests", map[string]any{
		"product_name": "Checkout", "technology_name": "container images", "business_justification": "the shop sells through it",
	}, http.StatusCreated, "")
	if err != nil {
		return err
	}
	id := created.Get("data.id")
	s.epr = created.Get("data.epr_record_id")
	approve := "/api/v1/admin/epr/registration-requests/" + id + "/approve"
	if _, err := s.API.Expect(ctx, "mel", http.MethodPost, approve, map[string]any{}, http.StatusForbidden, "permission_denied"); err != nil {
		return err
	}
	if err := s.decide(ctx, "sam", approve, http.StatusOK); err != nil {
		return err
	}
	_, err = s.API.Until(ctx, "mel", "/api/v1/epr/registration-requests/"+id, "the approved registration", 30*time.Second, func(a Answer) (bool, error) {
		return a.Get("data.status") == "approved" && a.Get("data.lifecycle_status") == "active", nil
	})
	return err
}

// decide posts a decision. When an earlier try of this very call was cut off, "already decided" means that it had its effect.
func (s *Story) decide(ctx context.Context, persona, path string, status int) error {
	answer, err := s.API.Call(ctx, persona, http.MethodPost, path, map[string]any{"reason": "looks right"})
	switch {
	case err != nil:
		return err
	case answer.Status == status:
		return nil
	case answer.Retried && answer.Code() == "approval_already_decided":
		return nil
	}
	return fmt.Errorf("POST %s as %s answered %d: %s", path, persona, answer.Status, short(answer.Raw))
}

func (s *Story) refuseMalformed(ctx context.Context) error {
	answer, err := s.API.Expect(ctx, "mel", http.MethodPost, importRequests, s.importBody(s.malformed.Name), http.StatusUnprocessableEntity, "image_unacceptable")
	if err != nil {
		return err
	}
	s.malformed.Status, s.malformed.Reason = "refused", answer.Get("error.message")
	return nil
}

func (s *Story) ask(ctx context.Context) error {
	for _, ask := range []struct {
		path    string
		name    string
		outcome *Outcome
	}{
		{importRequests, s.clean.Name, &s.clean},
		{importRequests, s.vulnerable.Name, &s.vulnerable},
		{importRequests, s.deep.Name, &s.deep},
		{scanRequests, s.vulnerable.Name, &s.scan},
	} {
		body := s.importBody(ask.name)
		if ask.path == scanRequests {
			delete(body, "epr_record_id")
		}
		created, err := s.API.Expect(ctx, "mel", http.MethodPost, ask.path, body, http.StatusCreated, "")
		if err != nil {
			return err
		}
		ask.outcome.RequestID, ask.outcome.Digest = created.Get("data.id"), created.Get("data.source_image_digest")
	}
	if want := string(s.cleanImage.Root.Digest); s.clean.Digest != want {
		return fmt.Errorf("pinned %s, pushed %s", s.clean.Digest, want)
	}
	_, err := s.API.Expect(ctx, "mel", http.MethodPost, importRequests, s.importBody(s.clean.Name), http.StatusConflict, "duplicate_request")
	return err
}

func (s *Story) approve(ctx context.Context) error {
	own := importRequests + "/" + s.clean.RequestID + "/approve"
	if _, err := s.API.Expect(ctx, "mel", http.MethodPost, own, map[string]any{}, http.StatusForbidden, "permission_denied"); err != nil {
		return err
	}
	for _, id := range []string{s.clean.RequestID, s.vulnerable.RequestID, s.deep.RequestID} {
		if err := s.decide(ctx, "sam", importRequests+"/"+id+"/approve", http.StatusAccepted); err != nil {
			return err
		}
	}
	return nil
}

// await waits until a request's story has come to the given status, and fails at once when it came to another end.
func (s *Story) await(ctx context.Context, outcome *Outcome, path, status string, releaseStates ...string) (Answer, error) {
	answer, err := s.API.Until(ctx, "mel", path+"/"+outcome.RequestID, outcome.Name+" to become "+status, s.Limit, func(a Answer) (bool, error) {
		now := a.Get("data.status")
		if terminal(now) && now != status {
			return false, fmt.Errorf("it became %s: %s %s", now, a.Get("data.failure_code"), a.Get("data.error_message"))
		}
		return now == status && slices.Contains(releaseStates, a.Get("data.release_state")), nil
	})
	outcome.Status, outcome.ReleaseState, outcome.Decision = answer.Get("data.status"), answer.Get("data.release_state"), answer.Get("data.policy_decision")
	outcome.Database = answer.Get("data.scan_summary.database_note")
	outcome.Counts, _ = answer.value("data.scan_summary.counts").(map[string]any)
	if err == nil && answer.Get("data.source_image_digest") != outcome.Digest {
		err = errors.New("the pinned digest changed")
	}
	return answer, err
}

func terminal(status string) bool {
	switch status {
	case "rejected", "withdrawn", "success", "quarantined", "failed":
		return true
	}
	return false
}
