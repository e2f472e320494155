package main

import (
	"context"
	"net/url"

	"github.com/spf13/cobra"
)

// filter is a flag of a list that becomes a query parameter.
type filter struct{ flag, parameter, help string }

var byTenant = filter{"tenant-id", "tenant_id", "of this tenant only (system roles)"}

// list is a command that shows a list of the API, with its filters and pages.
func (a *app) list(short, path string, v view, filters ...filter) *cobra.Command {
	filters = append(filters,
		filter{"limit", "limit", "rows per page, 1-200 (default 20)"},
		filter{"page", "page", "page number from 1"},
		filter{"page-token", "page_token", "go on where the last page ended"})
	values := make([]string, len(filters))
	c := a.command("list", short, cobra.NoArgs, func(ctx context.Context, c *client, _ []string) error {
		query := url.Values{}
		for i, f := range filters {
			if values[i] != "" {
				query.Set(f.parameter, values[i])
			}
		}
		raw, err := c.get(ctx, path, query)
		if err != nil {
			return err
		}
		return a.show(raw, v)
	})
	for i, f := range filters {
		c.Flags().StringVar(&values[i], f.flag, "", f.help)
	}
	return c
}

// getOne is a command that shows one record, or one thing below it.
func (a *app) getOne(use, short, before, after string, v view) *cobra.Command {
	return a.command(use+" ID", short, cobra.ExactArgs(1), func(ctx context.Context, c *client, args []string) error {
		record, err := id(args[0])
		if err != nil {
			return err
		}
		raw, err := c.get(ctx, before+record+after, nil)
		if err != nil {
			return err
		}
		return a.show(raw, v)
	})
}

// act is a command that posts to a record; fields are flags, and those in need must be given.
func (a *app) act(use, short, before, after string, v view, need []string, fields ...filter) *cobra.Command {
	values := make([]string, len(fields))
	c := a.command(use+" ID", short, cobra.ExactArgs(1), func(ctx context.Context, c *client, args []string) error {
		record, err := id(args[0])
		if err != nil {
			return err
		}
		body := map[string]string{}
		for i, f := range fields {
			body[f.parameter] = values[i]
		}
		for _, name := range need {
			if body[name] == "" {
				return usage("--%s is required", name)
			}
		}
		raw, err := c.post(ctx, before+record+after, body)
		if err != nil {
			return err
		}
		return a.show(raw, v)
	})
	for i, f := range fields {
		c.Flags().StringVar(&values[i], f.flag, "", f.help)
	}
	return c
}

var whyFlag = filter{"reason", "reason", "why"}
