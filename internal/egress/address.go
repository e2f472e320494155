package egress

import (
	"fmt"
	"net/netip"
)

// Rule names why a connection was refused. The set is closed; it is safe to show and to count by.
type Rule string

// The rules. The first group is about what an address is, the second about how it was named or reached.
const (
	RuleLoopback      Rule = "loopback"
	RulePrivate       Rule = "private"
	RuleLinkLocal     Rule = "link_local"
	RuleMetadata      Rule = "metadata"
	RuleCGNAT         Rule = "cgnat"
	RuleBenchmark     Rule = "benchmark"
	RuleDocumentation Rule = "documentation"
	RuleMulticast     Rule = "multicast"
	RuleUnspecified   Rule = "unspecified"
	RuleTransition    Rule = "transition"
	RuleReserved      Rule = "reserved"

	RuleDenied   Rule = "denied"   // on the purpose's denied list, or an alias of such an address
	RuleName     Rule = "name"     // not a plain DNS name or canonical address with a port
	RuleScheme   Rule = "scheme"   // neither http nor https, or a redirect from https to http
	RuleUserInfo Rule = "userinfo" // a URL that carries a user or password
	RuleHost     Rule = "host"     // a Host header that differs from the URL
	RuleRedirect Rule = "redirect" // too many redirects, or one that would carry a body to another host
	RuleCount    Rule = "count"    // no address, or more than a name may have
	RulePurpose  Rule = "purpose"  // no such purpose
)

// Refused is the error of a connection that policy forbids. It is permanent: retrying cannot help.
type Refused struct {
	Purpose Purpose
	Host    string     // as asked, "host:port" where known
	Addr    netip.Addr // the offending address; zero when the name alone was enough
	Rule    Rule
}

// Error implements error. The host is quoted since tenants choose it.
func (r *Refused) Error() string {
	if r.Addr.IsValid() {
		return fmt.Sprintf("egress refused: %s may not reach %q at %s (%s)", r.Purpose, r.Host, r.Addr, r.Rule)
	}
	return fmt.Sprintf("egress refused: %s may not reach %q (%s)", r.Purpose, r.Host, r.Rule)
}

type span struct {
	prefix netip.Prefix
	rule   Rule
}

func spans(rule Rule, prefixes ...string) []span {
	out := make([]span, len(prefixes))
	for i, p := range prefixes {
		out[i] = span{netip.MustParsePrefix(p), rule}
	}
	return out
}

// special holds the ranges that are not the public internet, most specific meaning first: the first hit names the rule.
// Sources: IANA special-purpose registries; metadata addresses from the clouds' documentation.
var special = concat(
	spans(RuleMetadata, "169.254.169.254/32", "169.254.170.2/32", "169.254.170.23/32", "169.254.0.23/32",
		"100.100.100.200/32", "192.0.0.192/32", "168.63.129.16/32",
		"fd00:ec2::254/128", "fd00:ec2::23/128", "fd20:ce::254/128", "fd00:c1::a9fe:a9fe/128"),
	spans(RuleLoopback, "127.0.0.0/8", "::1/128"),
	spans(RuleUnspecified, "0.0.0.0/8", "::/128"),
	spans(RulePrivate, "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fec0::/10"),
	spans(RuleLinkLocal, "169.254.0.0/16", "fe80::/10"),
	spans(RuleCGNAT, "100.64.0.0/10"),
	spans(RuleBenchmark, "198.18.0.0/15", "2001:2::/48"),
	spans(RuleDocumentation, "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "3fff::/20"),
	spans(RuleMulticast, "224.0.0.0/4", "ff00::/8"),
	spans(RuleTransition, "::ffff:0:0/96", "::/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48",
		"2001::/32", "2002::/16", "192.88.99.0/24"),
	spans(RuleReserved, "192.0.0.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.175.48.0/24", "240.0.0.0/4",
		"100::/64", "2001::/23", "2620:4f:8000::/48", "5f00::/16"),
)

func concat(groups ...[]span) []span {
	var out []span
	for _, g := range groups {
		out = append(out, g...)
	}
	return out
}

var globalUnicast6 = netip.MustParsePrefix("2000::/3")

// classify returns the rule that keeps a from being a public address, or "" when it is one.
func classify(a netip.Addr) Rule {
	if !a.IsValid() || a.Zone() != "" {
		return RuleName
	}
	if a.Is4In6() {
		return RuleTransition // netip.Prefix.Contains never matches a mapped address
	}
	for _, s := range special {
		if s.prefix.Contains(a) {
			return s.rule
		}
	}
	if a.Is6() {
		if !globalUnicast6.Contains(a) {
			return RuleReserved
		}
		if b := a.As16(); (b[8] == 0 || b[8] == 2) && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe {
			return RuleTransition // ISATAP: an IPv4 address hides in the last four bytes
		}
	}
	return ""
}

// excepted reports whether an operator's exact entry covers an address of that kind. A name can be pointed anywhere by
// whoever runs its DNS, so a name never opens what only machines themselves use (metadata, link-local and the like).
func excepted(t target, rule Rule) bool {
	switch rule {
	case RuleLoopback, RulePrivate, RuleCGNAT, RuleBenchmark, RuleDocumentation:
		return true
	case RuleUnspecified, RuleMulticast, RuleName:
		return false
	default:
		return t.ip.IsValid()
	}
}
