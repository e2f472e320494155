package main

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"
)

func (a *app) artifacts() *cobra.Command {
	const path = "/images/released-artifacts"
	list := view{none: "nothing was released", columns: []column{
		{"ID", "id"}, {"IMAGE", "destination_image_ref"}, {"DIGEST", "digest"}, {"READY", "consumption_ready"}, {"RELEASED", "released_at"}, {"VALID UNTIL", "valid_until"},
	}}
	one := view{name: "trusted_ref", columns: []column{
		{"ID", "id"}, {"Deploy", "trusted_ref"}, {"Image", "destination_image_ref"}, {"Digest", "digest"}, {"Source registry", "source_registry"},
		{"Source", "source_image_ref"}, {"Request", "import_id"}, {"Ready", "consumption_ready"}, {"Not ready because", "consumption_blocker_reason"},
		{"Released", "released_at"}, {"Released by", "released_by"}, {"Valid until", "valid_until"}, {"Replaced digest", "previous_digest"},
	}}
	consumption := view{columns: []column{
		{"ID", "id"}, {"Artifact", "artifact_id"}, {"Project", "project_id"}, {"Environment", "environment"}, {"Notes", "notes"}, {"By", "consumed_by"}, {"Created", "created_at"},
	}}
	return a.group("artifacts", "Released images",
		a.list("List released images, newest first", path, list, filter{"search", "search", "text in registry, references or digest"}, byTenant),
		a.getOne("get", "Show one released image", path+"/", "", one),
		a.act("consume", "Say that you use an image, to hear when it turns bad", path+"/", "/consume", consumption, nil,
			filter{"project", "project_id", "what uses it"}, filter{"environment", "environment", "where"}, filter{"notes", "notes", "anything else"}))
}

// verdict asks whether an image may be used: exit code 0 when it may, 3 when not.
func (a *app) verdict() *cobra.Command {
	v := view{name: "trusted_ref", columns: []column{
		{"Allowed", "allowed"}, {"Asked", "ref"}, {"Digest", "digest"}, {"Deploy", "trusted_ref"}, {"Reasons", "reasons"},
		{"Valid until", "valid_until"}, {"Authoritative", "authoritative"}, {"Next", "next_action"},
	}}
	return a.command("verdict REF", "May this image be used? (exit code 0 yes, 3 no)", cobra.ExactArgs(1), func(ctx context.Context, c *client, args []string) error {
		raw, err := c.get(ctx, "/images/verdict", url.Values{"ref": {args[0]}})
		if err != nil {
			return err
		}
		answer, err := decode(raw)
		if err != nil {
			return err
		}
		if err := a.show(raw, v); err != nil {
			return err
		}
		if at(answer, "data.allowed") != true { // whatever is no clear yes is a no
			return errDenied
		}
		return nil
	})
}

func (a *app) notifications() *cobra.Command {
	const path = "/notifications"
	list := view{none: "no notifications", columns: []column{
		{"ID", "id"}, {"WHEN", "created_at"}, {"READ", "is_read"}, {"TYPE", "notification_type"}, {"TITLE", "title"},
	}}
	var all bool
	read := a.command("read [ID...]", "Mark notifications as read", cobra.ArbitraryArgs, func(ctx context.Context, c *client, args []string) error {
		if all == (len(args) > 0) {
			return usage("give ids or --all")
		}
		if all {
			raw, err := c.call(ctx, http.MethodPost, path+"/read-all", nil, nil)
			if err != nil {
				return err
			}
			return a.show(raw, view{name: "affected", columns: []column{{"Marked", "affected"}}})
		}
		for _, arg := range args {
			notification, err := id(arg)
			if err != nil {
				return err
			}
			raw, err := c.call(ctx, http.MethodPost, path+"/"+notification+"/read", nil, nil)
			if err != nil {
				return err
			}
			if err := a.show(raw, view{columns: []column{{"ID", "id"}, {"Title", "title"}, {"Message", "message"}, {"Hint", "hint"}}}); err != nil {
				return err
			}
		}
		return nil
	})
	read.Flags().BoolVar(&all, "all", false, "all of them")
	return a.group("notifications", "What you were told",
		a.list("List your notifications, newest first", path, list, filter{"unread", "unread", "true: the unread ones only"}), read)
}

var capabilityView = view{name: "tenant_id", columns: []column{
	{"Tenant", "tenant_id"}, {"build", "build"}, {"quarantine_request", "quarantine_request"}, {"quarantine_release", "quarantine_release"},
	{"ondemand_image_scanning", "ondemand_image_scanning"}, {"Version", "version"}, {"Updated", "updated_at"}, {"By", "updated_by"},
}}

var capabilityNames = []string{"build", "quarantine_request", "quarantine_release", "ondemand_image_scanning"}

const capabilityPath = "/admin/settings/operation-capabilities"

// target is whose settings are meant.
type target struct {
	tenant string
	all    bool
}

func (t *target) flags(c *cobra.Command) {
	c.Flags().StringVar(&t.tenant, "tenant-id", "", "the settings of this tenant (UUID)")
	c.Flags().BoolVar(&t.all, "all-tenants", false, "the settings of all tenants that have none of their own")
}

func (t *target) query() (url.Values, error) {
	switch {
	case t.all && t.tenant == "":
		return url.Values{"all_tenants": {"true"}}, nil
	case !t.all && t.tenant != "":
		return url.Values{"tenant_id": {t.tenant}}, nil
	}
	return nil, usage("give exactly one of --tenant-id and --all-tenants")
}

func (a *app) capabilities() *cobra.Command {
	var whose target
	get := a.command("get", "Show what a tenant may do (your own without a flag)", cobra.NoArgs, func(ctx context.Context, c *client, _ []string) error {
		if whose == (target{}) {
			raw, err := c.get(ctx, "/settings/operation-capabilities", nil)
			if err != nil {
				return err
			}
			return a.show(raw, capabilityView)
		}
		query, err := whose.query()
		if err != nil {
			return err
		}
		raw, err := c.get(ctx, capabilityPath, query)
		if err != nil {
			return err
		}
		return a.show(raw, capabilityView)
	})
	whose.flags(get)
	return a.group("capabilities", "What tenants may do", get, a.setCapabilities())
}

// setCapabilities changes the named switches and keeps the others: it reads the document first and refuses a change in between.
func (a *app) setCapabilities() *cobra.Command {
	var whose target
	var reason string
	c := a.command("set NAME=on|off...", "Switch capabilities (system administrators): "+strings.Join(capabilityNames, ", "), cobra.MinimumNArgs(1),
		func(ctx context.Context, c *client, args []string) error {
			query, err := whose.query()
			if err != nil {
				return err
			}
			switches, err := parseSwitches(args)
			if err != nil {
				return err
			}
			raw, err := c.get(ctx, capabilityPath, query)
			if err != nil {
				return err
			}
			answer, err := decode(raw)
			if err != nil {
				return err
			}
			document := map[string]any{"version": at(answer, "data.version")}
			for _, name := range capabilityNames {
				document[name] = at(answer, "data."+name) == true
			}
			for name, on := range switches {
				document[name] = on
			}
			if reason != "" {
				query.Set("change_reason", reason)
			}
			if raw, err = c.call(ctx, http.MethodPut, capabilityPath, query, document); err != nil {
				return err
			}
			return a.show(raw, capabilityView)
		})
	whose.flags(c)
	c.Flags().StringVar(&reason, "reason", "", "why; kept in the audit trail")
	return c
}

func parseSwitches(args []string) (map[string]bool, error) {
	switches := map[string]bool{}
	for _, arg := range args {
		name, value, _ := strings.Cut(arg, "=")
		known := false
		for _, capability := range capabilityNames {
			known = known || capability == name
		}
		if !known || (value != "on" && value != "off") {
			return nil, usage("%q must be one of %s, then =on or =off", arg, strings.Join(capabilityNames, ", "))
		}
		switches[name] = value == "on"
	}
	return switches, nil
}
