package main

import (
	"context"

	"github.com/spf13/cobra"
)

func (a *app) epr() *cobra.Command {
	const path, decide = "/epr/registration-requests", "/admin/epr/registration-requests/"
	list := view{none: "no registrations", columns: []column{
		{"ID", "id"}, {"RECORD", "epr_record_id"}, {"PRODUCT", "product_name"}, {"TECHNOLOGY", "technology_name"}, {"STATUS", "status"},
		{"LIFECYCLE", "lifecycle_status"}, {"EXPIRES", "expires_at"},
	}}
	one := view{columns: []column{
		{"ID", "id"}, {"Record", "epr_record_id"}, {"Product", "product_name"}, {"Technology", "technology_name"}, {"Why", "business_justification"},
		{"Status", "status"}, {"Lifecycle", "lifecycle_status"}, {"Expires", "expires_at"}, {"Asked by", "requested_by_user_id"},
		{"Decided by", "decided_by"}, {"Because", "decision_reason"}, {"Decided", "decided_at"}, {"Created", "created_at"},
	}}
	var record, product, technology, justification, key string
	create := a.command("create", "Register a product", cobra.NoArgs, func(ctx context.Context, c *client, _ []string) error {
		if product == "" || technology == "" {
			return usage("--product and --technology are required")
		}
		raw, err := c.post(ctx, path, map[string]string{
			"epr_record_id": record, "product_name": product, "technology_name": technology, "business_justification": justification,
		}, "Idempotency-Key", key)
		if err != nil {
			return err
		}
		return a.show(raw, one)
	})
	flags := create.Flags()
	flags.StringVar(&record, "record", "", "record id; made when absent")
	flags.StringVar(&product, "product", "", "product name")
	flags.StringVar(&technology, "technology", "", "technology name")
	flags.StringVar(&justification, "justification", "", "why it is needed")
	flags.StringVar(&key, "idempotency-key", "", "a repeated call with the same key gets the first answer")
	return a.group("epr", "Enterprise product registrations",
		a.list("List registrations, newest first", path, list,
			filter{"status", "status", "pending, approved, rejected or withdrawn"},
			filter{"lifecycle-status", "lifecycle_status", "active, expiring, expired or suspended"},
			filter{"search", "search", "text in record, product or technology"}, byTenant),
		create,
		a.act("approve", "Approve a registration (reviewers)", decide, "/approve", one, nil, whyFlag),
		a.act("reject", "Reject a registration (reviewers)", decide, "/reject", one, []string{"reason"}, whyFlag))
}

func (a *app) cases() *cobra.Command {
	const path = "/admin/cases"
	list := view{none: "no cases", columns: []column{
		{"ID", "id"}, {"KIND", "kind"}, {"SUBJECT", "subject_id"}, {"STATE", "state"}, {"REQUESTER", "requester"}, {"DUE", "due_at"}, {"CREATED", "created_at"},
	}}
	one := view{columns: []column{
		{"ID", "id"}, {"Kind", "kind"}, {"Subject", "subject_id"}, {"Tenant", "tenant_id"}, {"State", "state"}, {"Requester", "requester"},
		{"Approvals needed", "required_approvals"}, {"Votes", "received"}, {"Facts", "facts"}, {"Digest", "bound.digest"},
		{"Comments", "comments"}, {"Due", "due_at"}, {"Decided by", "decided_by"}, {"Because", "decision_reason"}, {"Decided", "decided_at"}, {"Created", "created_at"},
	}}
	return a.group("cases", "Decisions to be made (reviewers)",
		a.list("List cases, newest first", path, list,
			filter{"kind", "kind", "epr_registration or import_request"}, filter{"state", "state", "open, approved, rejected or void"},
			filter{"due-before", "due_before", "RFC 3339 time"}, byTenant),
		a.getOne("get", "Show one case", path+"/", "", one),
		a.act("approve", "Approve", path+"/", "/approve", one, nil, whyFlag),
		a.act("reject", "Reject", path+"/", "/reject", one, []string{"reason"}, whyFlag))
}
