package main

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

// evidence shows the bundle, or fetches one document whole and checks its digest.
func (a *app) evidence() *cobra.Command {
	v := view{list: "data.documents", name: "digest", none: "no evidence yet", head: []column{
		{"Image", "digest"}, {"Decision", "decision.decision"}, {"Reasons", "decision.reasons"}, {"Evidence hash", "evidence_hash"}, {"Expires", "expires_at"},
	}, columns: []column{
		{"KIND", "kind"}, {"PLATFORM", "platform"}, {"FORMAT", "format"}, {"SIZE", "size"}, {"TOOL", "tool"}, {"VERSION", "tool_version"}, {"DIGEST", "digest"},
	}}
	var platform, format, file string
	c := a.command("evidence ID [KIND]", "Show what evidence there is, or fetch one document (source, sbom, vulnerabilities, report)", cobra.RangeArgs(1, 2),
		func(ctx context.Context, c *client, args []string) error {
			request, err := id(args[0])
			if err != nil {
				return err
			}
			path := requestsPath + "/" + request + "/evidence"
			if len(args) == 1 {
				if platform+format+file != "" {
					return usage("--platform, --format and --file are for one document; name its kind")
				}
				raw, err := c.get(ctx, path, nil)
				if err != nil {
					return err
				}
				return a.show(raw, v)
			}
			kind, err := id(args[1])
			if err != nil {
				return err
			}
			query := url.Values{}
			for name, value := range map[string]string{"platform": platform, "format": format} {
				if value != "" {
					query.Set(name, value)
				}
			}
			if file == "" {
				return c.fetch(ctx, path+"/"+kind, query, a.out)
			}
			return fetchFile(ctx, c, path+"/"+kind, query, file)
		})
	c.Flags().StringVar(&platform, "platform", "", "os/architecture[/variant], when several have one")
	c.Flags().StringVar(&format, "format", "", "syft-json, spdx-json or cyclonedx-json")
	c.Flags().StringVar(&file, "file", "", "write it there instead of to the terminal, and only if it arrived whole")
	return c
}

// fetch copies a document's bytes as they are and fails unless they have the digest that the server announced.
func (c *client) fetch(ctx context.Context, path string, query url.Values, to io.Writer) error {
	request, err := c.request(ctx, http.MethodGet, path, query, nil)
	if err != nil {
		return err
	}
	request.Header.Set("Accept-Encoding", "identity")
	response, err := c.http.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }() // read to its end or given up
	if response.StatusCode != http.StatusOK {
		return problemOf(response)
	}
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(to, sum), response.Body); err != nil {
		return fmt.Errorf("the document did not arrive whole: %w", err)
	}
	want, found := strings.CutPrefix(response.Header.Get("Content-Digest"), "sha-256=:")
	if !found {
		return errors.New("the server announced no digest")
	}
	if strings.TrimSuffix(want, ":") != base64.StdEncoding.EncodeToString(sum.Sum(nil)) {
		return errors.New("the document does not have the digest that the server announced")
	}
	return nil
}

// fetchFile leaves either the whole document or nothing new.
func fetchFile(ctx context.Context, c *client, path string, query url.Values, file string) error {
	temporary, err := os.CreateTemp(filepath.Dir(file), ".pratiquectl-*")
	if err != nil {
		return err
	}
	err = errors.Join(c.fetch(ctx, path, query, temporary), temporary.Close())
	if err == nil {
		err = os.Rename(temporary.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temporary.Name()))
	}
	return nil
}
