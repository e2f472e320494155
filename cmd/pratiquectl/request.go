package main

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"
)

const requestsPath = "/images/import-requests"

var (
	requestList = view{none: "no requests", columns: []column{
		{"ID", "id"}, {"SOURCE", "source_image_ref"}, {"STATUS", "status"}, {"DECISION", "policy_decision"}, {"RELEASE", "release_state"},
		{"FAILURE", "failure_code"}, {"CREATED", "created_at"},
	}}
	requestView = view{columns: []column{
		{"ID", "id"}, {"Type", "request_type"}, {"Registry", "source_registry"}, {"Source", "source_image_ref"}, {"Digest", "source_image_digest"},
		{"EPR record", "epr_record_id"}, {"Status", "status"}, {"Stage", "execution_state"}, {"Failure", "failure_code"}, {"Hint", "remediation_hint"},
		{"Error", "error_message"}, {"May be retried from", "retry_available_at"}, {"Retry of", "retry_of"}, {"Clone of", "cloned_from"},
		{"Decided", "decision_timeline.decision_status"}, {"By", "decision_timeline.decided_by_user_id"},
		{"Because", "decision_timeline.decision_reason"}, {"Policy", "policy_decision"}, {"Policy reasons", "policy_reasons"},
		{"Findings", "scan_summary.counts"}, {"Scanner database", "scan_summary.database_built_at"}, {"Packages", "sbom_summary.package_count"},
		{"Evidence hash", "evidence_hash"}, {"Release", "release_state"}, {"Blocked by", "release_blocker_reason"},
		{"Destination", "destination_image_ref"}, {"Released", "released_at"}, {"Valid until", "valid_until"}, {"Asked by", "requested_by_user_id"},
		{"Created", "created_at"}, {"Updated", "updated_at"},
	}}
	explainView = view{
		name: "rule", list: "data.rules", none: "no rule was evaluated yet",
		head: []column{
			{"Status", "status"}, {"Decision", "decision.decision"}, {"Reasons", "decision.reasons"}, {"Releasable", "eligible"}, {"Blocked by", "release_blocker_reason"},
		},
		columns: []column{{"SCOPE", "scope"}, {"RULE", "rule"}, {"OUTCOME", "outcome"}, {"INPUTS", "inputs"}, {"WAIVED BY", "waived_by"}},
	}
	requestFilters = []filter{
		{"status", "status", "pending, approved, rejected, withdrawn, importing, success, quarantined or failed"},
		{"execution-state", "execution_state", "awaiting_approval ... completed"},
		{"release-state", "release_state", "not_ready, ready_for_release, release_blocked, release_approved, released or recalled"},
		{"failure-class", "failure_class", "dispatch, connectivity, auth, policy or runtime"},
		{"digest", "digest", "of exactly this digest"},
		{"requested-by", "requested_by", "asked for by this person (id)"},
		{"search", "search", "text in registry, reference or EPR record"},
		{"created-after", "created_after", "RFC 3339 time"},
		{"created-before", "created_before", "RFC 3339 time"},
		byTenant,
	}
)

func (a *app) me() *cobra.Command {
	v := view{name: "user_id", columns: []column{
		{"User", "user_id"}, {"Subject", "subject"}, {"Name", "name"}, {"E-mail", "email"}, {"System roles", "system_roles"},
		{"Tenants", "tenants"}, {"Acting for", "tenant_id"}, {"Capabilities", "capabilities"},
	}}
	return a.command("me", "Who Pratique takes you for", cobra.NoArgs, func(ctx context.Context, c *client, _ []string) error {
		raw, err := c.get(ctx, "/me", nil)
		if err != nil {
			return err
		}
		return a.show(raw, v)
	})
}

func (a *app) requests() *cobra.Command {
	one := requestsPath + "/"
	workflow := view{name: "key", list: "data.lifecycle_stages", head: []column{{"Waiting for", "waiting_for"}},
		columns: []column{{"STAGE", "label"}, {"STATE", "state"}, {"SINCE", "timestamp"}}}
	return a.group("requests", "Import requests",
		a.list("List import requests, newest first", requestsPath, requestList, requestFilters...),
		a.getOne("get", "Show one request", one, "", requestView),
		a.createRequest(),
		a.act("withdraw", "Take a request back", one, "/withdraw", requestView, nil, whyFlag),
		a.act("retry", "Ask for a failed request's image again, as it was pinned", one, "/retry", requestView, nil),
		a.act("clone", "Ask again with a request's fields: the tag is resolved again, a new decision is needed", one, "/clone", requestView, nil,
			filter{"epr", "epr_record_id", "another EPR record"},
			filter{"source-registry", "source_registry", "another registry: host[:port]"},
			filter{"source-image-ref", "source_image_ref", "another repository[:tag|@digest]"},
			filter{"destination", "destination_image_ref", "another destination: host/repository[:tag]"},
			filter{"justification", "justification", "another justification"}),
		a.act("approve", "Approve a request (reviewers)", one, "/approve", requestView, nil, whyFlag),
		a.act("reject", "Reject a request (reviewers)", one, "/reject", requestView, []string{"reason"}, whyFlag),
		a.act("release", "Release a request's image into the trusted registry (reviewers)", one, "/release", requestView, nil,
			filter{"destination", "destination_image_ref", "host/repository[:tag]; the request's own or the default when absent"},
			filter{"expected-evidence-hash", "expected_evidence_hash", "refuse when the evidence is another by now"},
			filter{"expected-policy-hash", "expected_policy_hash", "refuse when the policy is another by now"}, whyFlag),
		a.getOne("workflow", "Show how far a request is", one, "/workflow", workflow),
		a.logs(),
		a.getOne("explain", "Show every rule that decided", one, "/explain", explainView),
		a.evidence(),
		a.getOne("timeline", "Show a request's trail over all services", one, "/timeline", view{name: "action", columns: []column{
			{"AT", "at"}, {"SERVICE", "service"}, {"ACTION", "action"}, {"FROM", "from"}, {"TO", "to"}, {"ACTOR", "actor"}, {"REASON", "reason"},
		}}),
		a.wait(),
	)
}

// splitImage takes host[:port]/repository[:tag|@digest] apart; the host must be told from a repository by its shape.
func splitImage(image string) (registry, ref string, err error) {
	registry, ref, found := strings.Cut(image, "/")
	if !found || ref == "" || (registry != "localhost" && !strings.ContainsAny(registry, ".:")) {
		return "", "", usage("%q must name its registry: host[:port]/repository[:tag|@digest], e.g. docker.io/library/alpine:3.22", image)
	}
	return registry, ref, nil
}

func (a *app) createRequest() *cobra.Command {
	var epr, destination, justification, auth, key string
	var validate bool
	c := a.command("create IMAGE", "Ask for an image", cobra.ExactArgs(1), func(ctx context.Context, c *client, args []string) error {
		registry, ref, err := splitImage(args[0])
		if err != nil {
			return err
		}
		body := map[string]string{"source_registry": registry, "source_image_ref": ref}
		for name, value := range map[string]string{
			"epr_record_id": epr, "destination_image_ref": destination, "justification": justification, "registry_auth_id": auth,
		} {
			if value != "" {
				body[name] = value
			}
		}
		var query url.Values
		if validate {
			query = url.Values{"validate_only": {"true"}}
		}
		raw, err := c.call(ctx, http.MethodPost, requestsPath, query, body, "Idempotency-Key", key)
		if err != nil {
			return err
		}
		return a.show(raw, requestView)
	})
	flags := c.Flags()
	flags.StringVar(&epr, "epr", "", "EPR record that covers the image")
	flags.StringVar(&destination, "destination", "", "where it shall go in the trusted registry, host/repository[:tag]")
	flags.StringVar(&justification, "justification", "", "why it is needed")
	flags.StringVar(&auth, "registry-auth", "", "id of a stored registry credential")
	flags.StringVar(&key, "idempotency-key", "", "a repeated call with the same key gets the first answer")
	flags.BoolVar(&validate, "validate-only", false, "check everything, create nothing")
	return c
}

func (a *app) scans() *cobra.Command {
	const path = "/images/scan-requests"
	var justification, auth, key string
	create := a.command("create IMAGE", "Scan an image on demand", cobra.ExactArgs(1), func(ctx context.Context, c *client, args []string) error {
		registry, ref, err := splitImage(args[0])
		if err != nil {
			return err
		}
		raw, err := c.post(ctx, path, map[string]string{
			"source_registry": registry, "source_image_ref": ref, "justification": justification, "registry_auth_id": auth,
		}, "Idempotency-Key", key)
		if err != nil {
			return err
		}
		return a.show(raw, requestView)
	})
	create.Flags().StringVar(&justification, "justification", "", "why it is needed")
	create.Flags().StringVar(&auth, "registry-auth", "", "id of a stored registry credential")
	create.Flags().StringVar(&key, "idempotency-key", "", "a repeated call with the same key gets the first answer")
	return a.group("scans", "On-demand scans",
		create, a.list("List scans, newest first", path, requestList, requestFilters...), a.getOne("get", "Show one scan", path+"/", "", requestView),
		a.act("retry", "Scan a failed scan's image again, as it was pinned", path+"/", "/retry", requestView, nil))
}
