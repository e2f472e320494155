package registry

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
)

type kind int

const (
	ping kind = iota
	catalogue
	manifest
	blob
	uploadStart
	uploadSession
	tagList
	referrers
)

// route is a request as this package understands it. The request handed to
// olareg is rebuilt from it, so both see the same thing.
type route struct {
	kind       kind
	repository string
	reference  string // tag, digest or upload session
	query      url.Values
}

const repositoryLimit = 255 // characters, as the distribution specification advises

var (
	repositoryRule = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagRule        = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
	digestRule     = regexp.MustCompile(`^(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$`)
	sessionRule    = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
)

// repositoryOK refuses names that would share a path with olareg's own files.
func repositoryOK(name string) bool {
	if len(name) > repositoryLimit || !repositoryRule.MatchString(name) {
		return false
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "blobs" || part == "oci-layout" || strings.HasPrefix(part, "index.json") {
			return false
		}
	}
	return true
}

// queries lists what each kind of request may ask; the rest is dropped. Only
// tag may be repeated: of a doubled parameter two readers may read two values.
var queries = map[kind][]string{
	catalogue:     {"n", "last"},
	manifest:      {"digest", "tag"},
	uploadStart:   {"mount", "from", "digest", "digest-algorithm"},
	uploadSession: {"state", "digest"},
	tagList:       {"n", "last"},
	referrers:     {"artifactType", "cache", "page"},
}

func parseRoute(u *url.URL) (route, *problem) {
	// Equality means: no escapes, no characters that would need one.
	rest, ok := strings.CutPrefix(u.Path, "/v2")
	if !ok || u.Opaque != "" || u.EscapedPath() != u.Path {
		return route{}, notFound
	}
	if rest == "" || rest == "/" {
		return route{kind: ping}, nil
	}
	if rest == "/_catalog" {
		return withQuery(route{kind: catalogue}, u.RawQuery)
	}
	parts := strings.Split(strings.TrimPrefix(rest, "/"), "/")
	rt, ok := match(parts)
	if !ok || rest[0] != '/' {
		return route{}, notFound
	}
	if !repositoryOK(rt.repository) {
		return route{}, badName
	}
	return withQuery(rt, u.RawQuery)
}

// match reads the path from its end: repository names may hold any word.
func match(parts []string) (route, bool) {
	n := len(parts)
	if n < 3 {
		return route{}, false
	}
	word, last := parts[n-2], parts[n-1]
	rt := route{repository: strings.Join(parts[:n-2], "/"), reference: last}
	switch {
	case word == "manifests":
		rt.kind = manifest
		return rt, tagRule.MatchString(last) || digestRule.MatchString(last)
	case word == "blobs" && last == "uploads":
		rt.kind, rt.reference = uploadStart, ""
		return rt, true
	case word == "blobs":
		rt.kind = blob
		return rt, digestRule.MatchString(last)
	case word == "referrers":
		rt.kind = referrers
		return rt, digestRule.MatchString(last)
	case word == "tags" && last == "list":
		rt.kind, rt.reference = tagList, ""
		return rt, true
	case word == "uploads" && n >= 4 && parts[n-3] == "blobs":
		rt.kind, rt.repository = uploadSession, strings.Join(parts[:n-3], "/")
		if last == "" { // POST .../blobs/uploads/
			rt.kind = uploadStart
			return rt, true
		}
		return rt, sessionRule.MatchString(last)
	}
	return route{}, false
}

func withQuery(rt route, raw string) (route, *problem) {
	all, err := url.ParseQuery(raw)
	if err != nil {
		return route{}, badQuery
	}
	rt.query = url.Values{}
	for _, key := range queries[rt.kind] {
		values := all[key]
		if len(values) > 1 && key != "tag" {
			return route{}, badQuery
		}
		if len(values) > 0 {
			rt.query[key] = values
		}
	}
	return rt, nil
}

// path is the canonical path; olareg derives upload locations from it.
func (rt route) path() string {
	base := "/v2/" + rt.repository
	switch rt.kind {
	case manifest:
		return base + "/manifests/" + rt.reference
	case blob:
		return base + "/blobs/" + rt.reference
	case uploadStart:
		return base + "/blobs/uploads/"
	case uploadSession:
		return base + "/blobs/uploads/" + rt.reference
	case tagList:
		return base + "/tags/list"
	case referrers:
		return base + "/referrers/" + rt.reference
	}
	return "/v2/"
}

// action names the right a method needs; false: the method does not exist here.
func (rt route) action(method string) (string, bool) {
	read := method == http.MethodGet || method == http.MethodHead
	switch rt.kind {
	case ping, catalogue, tagList, referrers:
		return Pull, read
	case manifest, blob:
		if method == http.MethodDelete {
			return Delete, true
		}
		if rt.kind == manifest && method == http.MethodPut {
			return Push, true
		}
		return Pull, read
	case uploadStart:
		return Push, method == http.MethodPost
	case uploadSession:
		switch method {
		case http.MethodGet, http.MethodPatch, http.MethodPut, http.MethodDelete:
			return Push, true
		}
	}
	return "", false
}
