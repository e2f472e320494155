package oci

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// Reference names content in a registry. Host is lower case with an optional port; nothing is defaulted.
type Reference struct {
	Host       string
	Repository string
	Tag        string // empty when not given
	Digest     Digest // empty when not given; wins over Tag
}

// String gives the one spelling of the reference.
func (r Reference) String() string {
	s := r.Host + "/" + r.Repository
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + string(r.Digest)
	}
	return s
}

// Pinned returns the reference by that digest alone.
func (r Reference) Pinned(d Digest) Reference {
	return Reference{Host: r.Host, Repository: r.Repository, Digest: d}
}

const (
	maxReference  = 1024
	maxRepository = 255
)

var (
	repositoryPattern = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagPattern        = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)
	labelPattern      = regexp.MustCompile(`^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$`)
)

// ParseReference reads "host[:port]/repository[:tag][@digest]". The host must be told apart from a path: it contains a
// '.' or ':' or is "localhost". There is no default host and no default tag.
func ParseReference(s string) (Reference, error) {
	if len(s) > maxReference {
		return Reference{}, errors.New("the reference is too long")
	}
	host, rest, ok := strings.Cut(s, "/")
	if !ok || !looksLikeHost(host) {
		return Reference{}, fmt.Errorf("%s does not begin with a registry host", clip(s))
	}
	host, err := parseHost(host)
	if err != nil {
		return Reference{}, err
	}
	return parsePath(host, rest)
}

// ParseSource combines a registry host with a reference in it; ref may repeat the host in front. Without tag and digest
// the tag is "latest". A ref that begins with another registry's host is an error rather than a strange repository.
func ParseSource(registry, ref string) (Reference, error) {
	if len(ref) > maxReference {
		return Reference{}, errors.New("the reference is too long")
	}
	host, err := parseHost(registry)
	if err != nil {
		return Reference{}, err
	}
	rest := ref
	if first, after, ok := strings.Cut(ref, "/"); ok && (looksLikeHost(first) || strings.EqualFold(first, host)) {
		other, err := parseHost(first)
		if err != nil {
			return Reference{}, err
		}
		if other != host {
			return Reference{}, fmt.Errorf("%s names registry %s, not %s", clip(ref), other, host)
		}
		rest = after
	}
	r, err := parsePath(host, rest)
	if err != nil {
		return Reference{}, err
	}
	if r.Tag == "" && r.Digest == "" {
		r.Tag = "latest"
	}
	return r, nil
}

// ParseDestination reads "host[:port]/repository[:tag]": fully qualified, and never by digest, since the digest is what
// was judged, not what somebody types. An absent tag stays empty.
func ParseDestination(s string) (Reference, error) {
	r, err := ParseReference(s)
	if err != nil {
		return Reference{}, err
	}
	if r.Digest != "" {
		return Reference{}, errors.New("a destination is named by tag, not by digest")
	}
	return r, nil
}

// ParseHost reads a registry host with an optional port and returns it in lower case.
func ParseHost(s string) (string, error) { return parseHost(s) }

func looksLikeHost(s string) bool {
	return strings.ContainsAny(s, ".:") || strings.EqualFold(s, "localhost")
}

func parseHost(s string) (string, error) {
	bad := fmt.Errorf("%s is not a registry host", clip(s))
	if !looksLikeHost(s) || len(s) > maxRepository {
		return "", bad
	}
	host, port, err := splitPort(strings.ToLower(s))
	if err != nil {
		return "", bad
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		ip, err := netip.ParseAddr(strings.TrimSuffix(inner, "]"))
		if err != nil || !ip.Is6() || ip.Zone() != "" || "["+ip.String()+"]" != host {
			return "", bad
		}
	} else if !nameOrIPv4(host) {
		return "", bad
	}
	if port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 || strconv.FormatUint(n, 10) != port {
			return "", bad
		}
		return host + ":" + port, nil
	}
	return host, nil
}

func splitPort(s string) (host, port string, err error) {
	end := strings.LastIndexByte(s, ':')
	if end < 0 || strings.HasSuffix(s, "]") {
		return s, "", nil
	}
	host, port = s[:end], s[end+1:]
	if port == "" || strings.Contains(host, ":") && !strings.HasPrefix(host, "[") {
		return "", "", errors.New("bad port")
	}
	return host, port, nil
}

// nameOrIPv4 refuses what some reader would take for an IPv4 address in another spelling.
func nameOrIPv4(host string) bool {
	labels := strings.Split(host, ".")
	for _, l := range labels {
		if !labelPattern.MatchString(l) {
			return false
		}
	}
	last := labels[len(labels)-1]
	numeric := strings.Trim(last, "0123456789") == "" ||
		strings.HasPrefix(last, "0x") && strings.Trim(last[2:], "0123456789abcdef") == ""
	if !numeric {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.String() == host
}

func parsePath(host, rest string) (Reference, error) {
	r := Reference{Host: host}
	rest, digest, byDigest := strings.Cut(rest, "@")
	if byDigest {
		d, err := ParseDigest(digest)
		if err != nil {
			return Reference{}, err
		}
		r.Digest = d
	}
	repository, tag, byTag := strings.Cut(rest, ":")
	if byTag && !tagPattern.MatchString(tag) {
		return Reference{}, fmt.Errorf("%s is not a tag", clip(tag))
	}
	if len(repository) > maxRepository || !repositoryPattern.MatchString(repository) {
		return Reference{}, fmt.Errorf("%s is not a repository name", clip(repository))
	}
	r.Repository, r.Tag = repository, tag
	return r, nil
}

// hostOnly strips the port of a parsed host and the brackets of an IPv6 address.
func hostOnly(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		return h
	}
	return strings.Trim(host, "[]")
}

// isLoopback reports whether a host (with or without port) is this machine by its very name.
func isLoopback(host string) bool {
	name := hostOnly(host)
	if name == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(name)
	return err == nil && !ip.Is4In6() && ip.IsLoopback()
}
