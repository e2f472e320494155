package openapi

// addErrors describes the one error shape.
func addErrors(schemas object) {
	schemas["Error"] = object{
		"type": "object", "required": []any{"error"},
		"properties": object{
			"error": object{
				"type": "object", "required": []any{"code", "message", "details", "request_id"},
				"properties": object{
					"code":       object{"type": "string", "description": "One of docs/errors.md."},
					"message":    object{"type": "string", "description": "For people; wording may change."},
					"details":    object{"type": "object", "description": "Depends on the code; next_action where the next step is fixed."},
					"request_id": object{"type": "string"},
				},
			},
			"field_errors": object{
				"type": "object", "additionalProperties": object{"type": "string"},
				"description": "With validation_failed: what is wrong with each field, all at once.",
			},
		},
	}
}

func parameters() object {
	return object{
		"Tenant": object{
			"name": "X-Tenant-ID", "in": "header", "schema": object{"type": "string"},
			"description": "UUID or slug; needed only by whoever belongs to several tenants.",
		},
		"IdempotencyKey": object{
			"name": "Idempotency-Key", "in": "header", "schema": object{"type": "string", "minLength": 1, "maxLength": 255},
			"description": "The same key and body get the first answer for 24 hours.",
		},
	}
}

// addByHand describes the paths that no RPC serves as REST.
func addByHand(paths object) {
	id := object{"name": "id", "in": "path", "required": true, "schema": object{"type": "string", "format": "uuid"}}
	last := object{"name": "Last-Event-ID", "in": "header", "schema": object{"type": "string"}, "description": "Go on after this event."}
	query := func(name, text string) object {
		return object{"name": name, "in": "query", "schema": object{"type": "string"}, "description": text}
	}
	get := func(summary string, parameters []any, media string, schema object) object {
		return object{"get": object{
			"summary": summary, "parameters": parameters,
			"responses": object{
				"200":     object{"description": "As asked.", "content": object{media: object{"schema": schema}}},
				"default": object{"$ref": "#/components/responses/Error"},
			},
		}}
	}
	text := object{"type": "string"}
	request := "/api/v1/images/import-requests/{id}"
	paths[request+"/logs/stream"] = get("Follow a request's log as server-sent events.", []any{id, last}, "text/event-stream", text)
	paths["/api/v1/notifications/events"] = get("Follow the caller's notifications as server-sent events.", []any{last}, "text/event-stream", text)
	paths[request+"/evidence/{kind}"] = get("One evidence document, whole, with Content-Length and Content-Digest.", []any{
		id, object{"name": "kind", "in": "path", "required": true, "schema": object{"type": "string", "enum": []any{"source", "sbom", "vulnerabilities", "report"}}},
		query("platform", "os/architecture[/variant]"), query("format", "syft-json, spdx-json or cyclonedx-json"),
	}, "application/json", object{})
	paths[request+"/explain"] = get("Every rule evaluated for the decision and for release eligibility.", []any{id}, "application/json", enveloped(explanation()))
	keys := get("The public verification keys.", []any{}, "application/json", object{"type": "object"})
	keys["get"].(object)["security"] = []any{}
	paths["/.well-known/pratique/keys"] = keys
}

func explanation() object {
	return object{
		"type": "object", "required": []any{"import_request_id", "status", "eligible", "rules"},
		"properties": object{
			"import_request_id": object{"type": "string", "format": "uuid"}, "status": object{"type": "string"},
			"eligible": object{"type": "boolean"}, "release_blocker_reason": object{"type": "string"},
			"decision": object{"$ref": "#/components/schemas/pratique.evidence.v1.Decision"},
			"rules": object{"type": "array", "items": object{
				"type": "object", "required": []any{"scope", "rule", "inputs", "outcome"},
				"properties": object{
					"scope": object{"type": "string", "enum": []any{"decision", "release_eligibility"}}, "rule": object{"type": "string"},
					"inputs": object{"type": "object"}, "outcome": object{"type": "string"}, "waived_by": object{"type": "string"},
				},
			}},
		},
	}
}
