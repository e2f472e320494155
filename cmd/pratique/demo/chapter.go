package demo

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/pratique-io/pratique/internal/oci"
)

func (s *Story) awaitClean(ctx context.Context) error {
	answer, err := s.await(ctx, &s.clean, importRequests, "success", "ready_for_release")
	if err != nil {
		return err
	}
	if answer.Get("data.release_eligible") != "true" || answer.Get("data.policy_decision") != "pass" {
		return fmt.Errorf("the clean image is not eligible: %s", short(answer.Raw))
	}
	bundle, err := s.API.Expect(ctx, "mel", http.MethodGet, importRequests+"/"+s.clean.RequestID+"/evidence", nil, http.StatusOK, "")
	if err != nil {
		return err
	}
	kinds := map[string]int{}
	for _, document := range bundle.List("data.documents") {
		kinds[fmt.Sprint(document["kind"])]++
	}
	platforms := len(s.platforms)
	// One source and one report, and per platform a summary and three SBOM formats, and one vulnerability report.
	if kinds["source"] != 1 || kinds["sbom"] != 4*platforms || kinds["vulnerabilities"] != platforms || kinds["report"] != 1 {
		return fmt.Errorf("the bundle holds %v for %d platforms", kinds, platforms)
	}
	document, err := s.API.Expect(ctx, "mel", http.MethodGet, importRequests+"/"+s.clean.RequestID+"/evidence/sbom?platform=linux/amd64&format=spdx-json", nil, http.StatusOK, "")
	if err != nil {
		return err
	}
	if !strings.Contains(string(document.Raw), "SPDX-2.3") {
		return errors.New("the SBOM is not an SPDX 2.3 document")
	}
	return nil
}

func (s *Story) release(ctx context.Context) error {
	path := importRequests + "/" + s.clean.RequestID
	if _, err := s.API.Expect(ctx, "mel", http.MethodPost, path+"/release", map[string]any{}, http.StatusForbidden, "permission_denied"); err != nil {
		return err
	}
	answer, err := s.API.Call(ctx, "rita", http.MethodPost, path+"/release", map[string]any{"reason": "the evidence is clean"})
	if err != nil {
		return err
	}
	if answer.Status != http.StatusAccepted && (!answer.Retried || answer.Status != http.StatusConflict) {
		return fmt.Errorf("the release answered %d: %s", answer.Status, short(answer.Raw))
	}
	released, err := s.API.Until(ctx, "mel", path, "the release", s.Limit, func(a Answer) (bool, error) {
		if a.Get("data.release_state") == "release_blocked" {
			return false, fmt.Errorf("blocked: %s", a.Get("data.release_blocker_reason"))
		}
		return a.Get("data.release_state") == "released" && a.Get("data.execution_state") == "completed", nil
	})
	if err != nil {
		return err
	}
	s.clean.ReleaseState = released.Get("data.release_state")
	releases := released.List("data.releases")
	if len(releases) != 1 {
		return fmt.Errorf("the request shows %d releases", len(releases))
	}
	s.clean.Destination = fmt.Sprint(releases[0]["destination_image_ref"])
	return s.readBack(ctx)
}

// readBack pulls the released image from the trusted registry by digest, every platform and referrer, as a read-only user.
func (s *Story) readBack(ctx context.Context) error {
	destination, err := oci.ParseDestination(s.clean.Destination)
	if err != nil {
		return err
	}
	client := oci.NewClient(s.Transport)
	repository := client.Repository(destination.Host, destination.Repository, oci.Credential{Username: s.Trusted.Username, Password: s.Trusted.Password})
	root, _, err := repository.Resolve(ctx, destination.Tag)
	if err != nil {
		return fmt.Errorf("reading %s back: %w", s.clean.Destination, err)
	}
	s.clean.DestinationDigest = string(root.Digest)
	if s.clean.DestinationDigest != s.clean.Digest {
		return fmt.Errorf("asked for %s, found %s in trusted", s.clean.Digest, root.Digest)
	}
	for _, platform := range s.platforms {
		if _, err := repository.Manifest(ctx, platform); err != nil {
			return fmt.Errorf("platform %s: %w", platform, err)
		}
	}
	referrers, err := repository.Referrers(ctx, root.Digest, "")
	if err != nil {
		return err
	}
	for _, want := range s.cleanImage.Referrers {
		if !slices.ContainsFunc(referrers, func(d oci.Descriptor) bool { return string(d.Digest) == string(want.Digest) }) {
			return fmt.Errorf("referrer %s did not come along", want.Digest)
		}
	}
	verdict, err := s.API.Expect(ctx, "mel", http.MethodGet, "/api/v1/images/verdict?ref="+s.clean.Destination, nil, http.StatusOK, "")
	if err != nil {
		return err
	}
	if verdict.Get("data.allowed") != "true" || verdict.Get("data.digest") != s.clean.Digest {
		return fmt.Errorf("the verdict is %s", short(verdict.Raw))
	}
	return nil
}

func (s *Story) awaitVulnerable(ctx context.Context) error {
	answer, err := s.await(ctx, &s.vulnerable, importRequests, "quarantined", "release_blocked")
	if err != nil {
		return err
	}
	if reasons, _ := answer.value("data.policy_reasons").([]any); len(reasons) == 0 {
		return errors.New("the quarantined request gives no reasons")
	} else {
		s.vulnerable.Reason = fmt.Sprint(reasons[0])
	}
	path := importRequests + "/" + s.vulnerable.RequestID
	explain, err := s.API.Expect(ctx, "mel", http.MethodGet, path+"/explain", nil, http.StatusOK, "")
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(explain.List("data.rules"), func(rule map[string]any) bool { return rule["outcome"] == "fail" }) {
		return fmt.Errorf("no rule failed: %s", short(explain.Raw))
	}
	report, err := s.API.Expect(ctx, "mel", http.MethodGet, path+"/evidence/vulnerabilities?platform=linux/amd64", nil, http.StatusOK, "")
	if err != nil {
		return err
	}
	if !strings.Contains(string(report.Raw), "CVE-2023-4863") {
		return errors.New("the report does not name CVE-2023-4863, which the image carries")
	}
	refused, err := s.API.Expect(ctx, "rita", http.MethodPost, path+"/release", map[string]any{}, http.StatusConflict, "release_not_eligible")
	if err != nil {
		return err
	}
	if refused.Get("error.details.release_blocker_reason") != "policy_quarantined" || refused.Get("error.details.import_id") != s.vulnerable.RequestID {
		return fmt.Errorf("the refusal explains itself as %s", short(refused.Raw))
	}
	return nil
}

func (s *Story) awaitDeep(ctx context.Context) error {
	answer, err := s.await(ctx, &s.deep, importRequests, "failed", "not_ready", "release_blocked")
	if err != nil {
		return err
	}
	if answer.Get("data.failure_class") != "policy" || answer.Get("data.failure_code") != "image_unacceptable" {
		return fmt.Errorf("it failed as %s/%s: %s", answer.Get("data.failure_class"), answer.Get("data.failure_code"), answer.Get("data.error_message"))
	}
	s.deep.Reason = answer.Get("data.error_message")
	if answer.Get("data.remediation_hint") == "" {
		return errors.New("the failure comes without a hint")
	}
	return nil
}

func (s *Story) awaitScan(ctx context.Context) error {
	_, err := s.await(ctx, &s.scan, scanRequests, "quarantined", "not_ready")
	return err
}

func (s *Story) hideFromOthers(ctx context.Context) error {
	for _, path := range []string{
		importRequests + "/" + s.clean.RequestID,
		importRequests + "/" + s.clean.RequestID + "/workflow",
		importRequests + "/" + s.clean.RequestID + "/timeline",
		importRequests + "/" + s.clean.RequestID + "/logs",
		importRequests + "/" + s.clean.RequestID + "/evidence",
		importRequests + "/" + s.clean.RequestID + "/explain",
		scanRequests + "/" + s.scan.RequestID,
	} {
		if _, err := s.API.Expect(ctx, "omar", http.MethodGet, path, nil, http.StatusNotFound, "not_found"); err != nil {
			return err
		}
	}
	for _, path := range []string{importRequests, scanRequests, "/api/v1/images/released-artifacts", "/api/v1/notifications", "/api/v1/epr/registration-requests"} {
		list, err := s.API.Expect(ctx, "omar", http.MethodGet, path, nil, http.StatusOK, "")
		if err != nil {
			return err
		}
		if total := list.Get("pagination.total"); total != "0" {
			return fmt.Errorf("omar sees %s entries at %s", total, path)
		}
	}
	return nil
}

// expectedNotices is what mel and ada must have heard, by type and by what it is about.
func (s *Story) expectedNotices() map[string]int {
	expected := map[string]int{}
	for _, outcome := range []Outcome{s.clean, s.vulnerable, s.deep} {
		expected["external_image_import_approved "+outcome.RequestID] = 1
	}
	expected["external_image_import_completed "+s.clean.RequestID] = 1
	expected["external_image_import_quarantined "+s.vulnerable.RequestID] = 1
	expected["external_image_import_failed "+s.deep.RequestID] = 1
	expected["ondemand_scan_completed "+s.scan.RequestID] = 1
	expected["release_approved "+s.clean.RequestID] = 1
	expected["release_released "+s.clean.RequestID] = 1
	return expected
}

func (s *Story) countNotifications(ctx context.Context) error {
	expected := s.expectedNotices()
	for _, persona := range []string{"mel", "ada"} {
		answer, err := s.API.Until(ctx, persona, "/api/v1/notifications?limit=200", persona+"'s notifications", time.Minute, func(a Answer) (bool, error) {
			heard := notices(a)
			for key, n := range heard {
				if want, known := expected[key]; known && n > want {
					return false, fmt.Errorf("%s was told %d times of %s", persona, n, key)
				}
			}
			for key := range expected {
				if heard[key] == 0 {
					return false, nil
				}
			}
			return true, nil
		})
		if err != nil {
			return err
		}
		heard := notices(answer)
		for key, n := range heard {
			if strings.HasPrefix(key, "epr_registration_approved") && n == 1 {
				continue
			}
			if expected[key] != n {
				return fmt.Errorf("%s was told %d times of %s, expected %d", persona, n, key, expected[key])
			}
		}
		for _, outcome := range []*Outcome{&s.clean, &s.vulnerable, &s.deep, &s.scan} {
			if outcome.Receipts == nil {
				outcome.Receipts = map[string]int{}
			}
			for key, n := range heard {
				if strings.HasSuffix(key, " "+outcome.RequestID) {
					outcome.Receipts[persona] += n
				}
			}
		}
	}
	return nil
}

func notices(a Answer) map[string]int {
	heard := map[string]int{}
	for _, notification := range a.List("data") {
		heard[fmt.Sprint(notification["notification_type"])+" "+fmt.Sprint(notification["related_resource_id"])]++
	}
	return heard
}
