package main

import "encoding/json"

const one = "0195d2f0-0000-7000-8000-00000000000a"

// two is a request that failed a moment ago.
const two = "0195d2f0-0000-7000-8000-00000000000b"

// hostile is text as an image or a registry may carry it: a colour, a bell, a line break, an override of direction, a tag.
const hostile = "\u001b[31mred\u0007\nnext \u202eevil\u202c \u009b \U000E0041"

// lines are command lines by the name of their golden file.
var lines = map[string]string{
	"me":                       "me",
	"requests-list":            "requests list",
	"requests-list-json":       "requests list -o json",
	"requests-list-yaml":       "requests list -o yaml",
	"requests-list-name":       "requests list -o name",
	"requests-list-none":       "requests list --status failed --limit 5",
	"requests-get":             "requests get " + one,
	"requests-create":          "requests create docker.io/library/alpine:3 --epr EPR-1 --justification needed --idempotency-key k1 --tenant payments -o name",
	"requests-create-validate": "requests create localhost:5000/a/b@sha256:aa --validate-only",
	"requests-create-nowhere":  "requests create library/alpine",
	"requests-withdraw":        "requests withdraw " + one + " --reason changed -o name",
	"requests-retry":           "requests retry " + one + " -o name",
	"requests-retry-early":     "requests retry " + two,
	"requests-clone":           "requests clone " + one + " --source-image-ref library/alpine:4 -o name",
	"requests-approve-own":     "requests approve " + one,
	"requests-reject":          "requests reject " + one + " --reason no -o name",
	"requests-reject-bare":     "requests reject " + one,
	"requests-release":         "requests release " + one + " --destination r.example/a:1 --expected-evidence-hash h -o name",
	"requests-workflow":        "requests workflow " + one,
	"requests-logs":            "requests logs " + one + " --limit 2",
	"requests-logs-json":       "requests logs " + one + " --limit 2 -o json",
	"requests-explain":         "requests explain " + one,
	"requests-evidence":        "requests evidence " + one,
	"requests-timeline":        "requests timeline " + one,
	"requests-get-path":        "requests get ../../admin/cases",
	"scans-create-duplicate":   "scans create docker.io/library/alpine:3",
	"scans-get-unknown":        "scans get " + one,
	"scans-retry":              "scans retry " + one + " -o name",
	"scans-list-limited":       "scans list",
	"epr-list":                 "epr list --status pending",
	"epr-create":               "epr create --product Shop --technology Go",
	"epr-create-bare":          "epr create --product Shop",
	"epr-approve":              "epr approve " + one + " -o name",
	"epr-reject":               "epr reject " + one + " --reason no -o name",
	"cases-list":               "cases list --state open",
	"cases-get":                "cases get " + one,
	"cases-approve":            "cases approve " + one + " --reason fine",
	"cases-reject-late":        "cases reject " + one + " --reason no",
	"artifacts-list":           "artifacts list --search alpine",
	"artifacts-get-name":       "artifacts get " + one + " -o name",
	"artifacts-consume":        "artifacts consume " + one + " --project shop",
	"verdict-good":             "verdict good",
	"verdict-bad":              "verdict bad",
	"verdict-odd":              "verdict odd",
	"verdict-unanswered":       "verdict proxy",
	"notifications-list":       "notifications list --unread true",
	"notifications-read":       "notifications read " + one,
	"notifications-read-all":   "notifications read --all",
	"notifications-read-what":  "notifications read",
	"capabilities-get":         "capabilities get",
	"capabilities-set":         "capabilities set quarantine_request=on --tenant-id t1 --reason because",
	"capabilities-set-whose":   "capabilities set quarantine_request=on",
	"capabilities-set-what":    "capabilities set fly=on --tenant-id t1",
	"unknown-command":          "requests fly",
	"unknown-flag":             "me --fly",
	"unknown-format":           "me -o xml",
	"no-command":               "",
}

// answers is what the fake server says to "METHOD URI": a status, a space, a body.
var answers = map[string]string{
	"GET /api/v1/me": `200 {"data":{"user_id":"` + one + `","subject":"https://issuer|mel","name":"Mel","email":"mel@example.com","system_roles":[],
		"tenants":[{"tenant_id":"t1","slug":"payments","name":"Payments","status":"active","roles":["tenant_member"]}],"tenant_id":"t1"}}`,
	"GET /api/v1/images/import-requests": `200 {"data":[` + request("pending", "not_ready") + `,` + request("success", "released") + `],
		"pagination":{"page":1,"limit":20,"total":10000,"total_is_capped":true,"next_page_token":"abc"}}`,
	"GET /api/v1/images/import-requests?limit=5&status=failed": `200 {"data":[],"pagination":{"page":1,"limit":5,"total":0,"total_is_capped":false,"next_page_token":""}}`,
	"GET /api/v1/images/import-requests/" + one:                `200 {"data":` + request("success", "ready_for_release") + `}`,
	"POST /api/v1/images/import-requests":                      `201 {"data":` + request("pending", "not_ready") + `}`,
	"POST /api/v1/images/import-requests?validate_only=true": `400 {"error":{"code":"validation_failed","message":"two fields hold unusable values","details":{"next_action":"correct_fields"},"request_id":"r-1"},
		"field_errors":{"source_image_ref":"is required","epr_record_id":"is ` + `\u001b[2J` + `unknown"}}`,
	"POST /api/v1/images/import-requests/" + one + "/withdraw": `200 {"data":` + request("withdrawn", "not_ready") + `}`,
	"POST /api/v1/images/import-requests/" + one + "/retry":    `201 {"data":` + request("approved", "not_ready") + `}`,
	"POST /api/v1/images/import-requests/" + two + "/retry":    `429 {"error":{"code":"retry_backoff_active","message":"it is too early","details":{"next_action":"retry_later","retry_after_seconds":42},"request_id":"r-7"}}`,
	"POST /api/v1/images/import-requests/" + one + "/clone":    `201 {"data":` + request("pending", "not_ready") + `}`,
	"POST /api/v1/images/import-requests/" + one + "/approve":  `403 {"error":{"code":"self_approval_forbidden","message":"you asked for it","details":{"next_action":"ask_another_reviewer"},"request_id":"r-2"}}`,
	"POST /api/v1/images/import-requests/" + one + "/reject":   `202 {"data":` + request("rejected", "not_ready") + `}`,
	"POST /api/v1/images/import-requests/" + one + "/release":  `202 {"data":` + request("success", "release_approved") + `}`,
	"GET /api/v1/images/import-requests/" + one + "/workflow":  `200 {"data":{"lifecycle_stages":[{"key":"awaiting_approval","label":"Approval","state":"complete","timestamp":"2026-01-01T00:00:00Z"},{"key":"awaiting_dispatch","label":"Dispatch","state":"current"}],"steps":[]}}`,
	"GET /api/v1/images/import-requests/" + one + "/logs?limit=2": `200 {"data":{"import_request_id":"` + one + `","logs":[
		{"timestamp":"2026-01-01T00:00:02Z","level":"warn","source":"run","step":"sbom","message":` + quoted(hostile) + `},
		{"timestamp":"2026-01-01T00:00:01Z","level":"info","source":"lifecycle","step":"","message":"queued"}],"total":3,"has_more":true}}`,
	"GET /api/v1/images/import-requests/" + one + "/explain":                               `200 {"data":{"import_request_id":"` + one + `","status":"quarantined","eligible":false,"rules":[{"scope":"decision","rule":"max_critical","inputs":{"critical":2,"max_critical":0},"outcome":"fail"}]}}`,
	"GET /api/v1/images/import-requests/" + one + "/evidence":                              `200 {"data":{"documents":[{"kind":"sbom","platform":"linux/amd64","format":"spdx-json","size":"12345678901","tool":"syft","tool_version":"1.0","digest":"sha256:aa"}]}}`,
	"GET /api/v1/images/import-requests/" + one + "/timeline":                              `200 {"data":[{"at":"2026-01-01T00:00:00Z","actor":"user:x","service":"intake","action":"RequestSubmitted","to":"pending"}],"pagination":{"next_page_token":""}}`,
	"POST /api/v1/images/scan-requests":                                                    `409 {"error":{"code":"duplicate_request","message":"there is one","details":{"next_action":"use_existing_request","existing_id":"` + one + `"},"request_id":"r-3"}}`,
	"GET /api/v1/images/scan-requests/" + one:                                              `404 {"error":{"code":"not_found","message":"no such scan","details":{},"request_id":"r-4"}}`,
	"GET /api/v1/images/scan-requests":                                                     `429 {"error":{"code":"rate_limited","message":"too many calls","details":{"next_action":"retry_later"},"request_id":"r-5"}}`,
	"POST /api/v1/images/scan-requests/" + one + "/retry":                                  `201 {"data":` + request("approved", "not_ready") + `}`,
	"GET /api/v1/epr/registration-requests?status=pending":                                 `200 {"data":[` + epr + `],"pagination":{"next_page_token":""}}`,
	"POST /api/v1/epr/registration-requests":                                               `201 {"data":` + epr + `}`,
	"POST /api/v1/admin/epr/registration-requests/" + one + "/approve":                     `200 {"data":` + epr + `}`,
	"POST /api/v1/admin/epr/registration-requests/" + one + "/reject":                      `200 {"data":` + epr + `}`,
	"GET /api/v1/admin/cases?state=open":                                                   `200 {"data":[{"id":"` + one + `","kind":"import_request","subject_id":"s","state":"open","requester":"p"}],"pagination":{"next_page_token":""}}`,
	"GET /api/v1/admin/cases/" + one:                                                       `200 {"data":{"id":"` + one + `","kind":"import_request","facts":{"digest":"sha256:aa","image":"alpine"},"received":[{"by":"p","verdict":"approve"}],"required_approvals":1}}`,
	"POST /api/v1/admin/cases/" + one + "/approve":                                         `202 {"data":{"id":"` + one + `","state":"approved"}}`,
	"POST /api/v1/admin/cases/" + one + "/reject":                                          `409 {"error":{"code":"approval_already_decided","message":"decided before","details":{"next_action":"reload"},"request_id":"r-6"}}`,
	"GET /api/v1/images/released-artifacts?search=alpine":                                  `200 {"data":[` + artifact + `],"pagination":{"next_page_token":""}}`,
	"GET /api/v1/images/released-artifacts/" + one:                                         `200 {"data":` + artifact + `}`,
	"POST /api/v1/images/released-artifacts/" + one + "/consume":                           `202 {"data":{"id":"c1","artifact_id":"` + one + `","project_id":"shop"}}`,
	"GET /api/v1/images/verdict?ref=good":                                                  `200 {"data":{"allowed":true,"ref":"good","trusted_ref":"trusted/a@sha256:aa","reasons":[],"authoritative":true}}`,
	"GET /api/v1/images/verdict?ref=bad":                                                   `200 {"data":{"allowed":false,"ref":"bad","reasons":["unknown_image"],"authoritative":true,"next_action":"request_import"}}`,
	"GET /api/v1/images/verdict?ref=odd":                                                   `200 {"data":{"ref":"odd","allowed":"true"}}`,
	"GET /api/v1/notifications?unread=true":                                                `200 {"data":[{"id":"` + one + `","title":"done","notification_type":"release_ready","is_read":false,"created_at":"2026-01-01T00:00:00Z"}],"pagination":{"next_page_token":""}}`,
	"POST /api/v1/notifications/" + one + "/read":                                          `200 {"data":{"id":"` + one + `","title":"done","is_read":true}}`,
	"POST /api/v1/notifications/read-all":                                                  `200 {"data":{"affected":3}}`,
	"GET /api/v1/settings/operation-capabilities":                                          `200 {"data":{"build":false,"quarantine_request":true,"version":2}}`,
	"GET /api/v1/admin/settings/operation-capabilities?tenant_id=t1":                       `200 {"data":{"tenant_id":"t1","build":true,"quarantine_request":false,"quarantine_release":false,"ondemand_image_scanning":false,"version":7}}`,
	"PUT /api/v1/admin/settings/operation-capabilities?change_reason=because&tenant_id=t1": `200 {"data":{"tenant_id":"t1","build":true,"quarantine_request":true,"version":8}}`,
}

func quoted(text string) string {
	raw, err := json.Marshal(text)
	if err != nil {
		panic(err)
	}
	return string(raw)
}

func request(status, release string) string {
	return `{"id":"` + one + `","source_registry":"docker.io","source_image_ref":` + quoted("library/alpine:"+hostile) + `,"status":"` + status + `",
		"release_state":"` + release + `","created_at":"2026-01-01T00:00:00Z","policy_reasons":["a","b"],"retryable":false,"attempt":1,"justification":"true",
		"scan_summary":{"counts":{"critical":0,"high":1}}}`
}

const (
	epr      = `{"id":"` + one + `","epr_record_id":"EPR-1","product_name":"Shop","technology_name":"Go","status":"pending"}`
	artifact = `{"id":"` + one + `","destination_image_ref":"trusted/a:1","trusted_ref":"trusted/a@sha256:aa","digest":"sha256:aa","consumption_ready":true}`
)
