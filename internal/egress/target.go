package egress

import (
	"errors"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// target is a canonical host and port: comparing two with == compares what they name.
type target struct {
	name string     // lower-case DNS name; empty when ip is set
	ip   netip.Addr // a canonical address literal
	port uint16
}

func (t target) host() string {
	if t.ip.IsValid() {
		return t.ip.String()
	}
	return t.name
}

func (t target) String() string { return net.JoinHostPort(t.host(), strconv.Itoa(int(t.port))) }

var (
	errPort     = errors.New("port is not 1-65535")
	errName     = errors.New("not a plain DNS name")
	errSpelling = errors.New("an address in another spelling than the usual one")
	errZone     = errors.New("an address with a zone")
)

// parseTarget reads "host:port" strictly: one spelling per host. Decimal, octal, hexadecimal and short IPv4 forms,
// trailing dots, zones and non-ASCII names are errors, since readers disagree about what they mean.
func parseTarget(s string) (target, error) {
	host, portText, err := net.SplitHostPort(s)
	if err != nil {
		return target{}, err
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || port == 0 || portText[0] == '0' || portText[0] == '+' {
		return target{}, errPort
	}
	t := target{port: uint16(port)}
	if strings.Contains(host, ":") || strings.HasPrefix(s, "[") {
		ip, err := netip.ParseAddr(host)
		if err != nil || !ip.Is6() {
			return target{}, errSpelling
		}
		if ip.Zone() != "" {
			return target{}, errZone
		}
		t.ip = ip
		return t, nil
	}
	if endsInNumber(host) {
		ip, err := netip.ParseAddr(host)
		if err != nil || ip.String() != host {
			return target{}, errSpelling
		}
		t.ip = ip
		return t, nil
	}
	if !plainName(host) {
		return target{}, errName
	}
	t.name = strings.ToLower(host)
	return t, nil
}

// endsInNumber follows the URL standard: such a host is an IPv4 address to somebody.
func endsInNumber(host string) bool {
	host = strings.TrimSuffix(host, ".")
	last := strings.ToLower(host[strings.LastIndexByte(host, '.')+1:])
	if last == "" {
		return false
	}
	if hex, ok := strings.CutPrefix(last, "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return strings.Trim(last, "0123456789") == ""
}

func plainName(host string) bool {
	if host == "" || len(host) > 253 {
		return false
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			c := label[i]
			if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
				return false
			}
		}
	}
	return true
}

// urlAddress is the "host:port" a URL connects to, before any checking.
func urlAddress(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}

func proxyAddress(u *url.URL) string { return urlAddress(u) }

func parseProxy(s string) (*url.URL, error) {
	if s == "" {
		return nil, nil
	}
	u, err := url.Parse(s)
	if err != nil {
		return nil, errors.New("not a URL") // the parser's error would repeat a password
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, errors.New("scheme must be http or https")
	case u.User != nil:
		return nil, errors.New("must not carry a user or password")
	case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("must be scheme, host and port only")
	}
	if _, err := parseTarget(proxyAddress(u)); err != nil {
		return nil, err
	}
	return u, nil
}
