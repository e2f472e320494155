package oci

import (
	"errors"
	"strings"
)

// challenge is one entry of WWW-Authenticate; scheme and keys are lower case.
type challenge struct {
	scheme string
	params map[string]string
}

var errChallenge = errors.New("a malformed WWW-Authenticate header")

const (
	maxChallengeBytes = 8 << 10
	maxChallenges     = 8
	maxParams         = 16
)

// parseChallenges reads WWW-Authenticate headers by RFC 9110, strictly and bounded: a duplicate parameter or an
// unterminated string is an error, since guessing here sends credentials somewhere.
func parseChallenges(values []string) ([]challenge, error) {
	var out []challenge
	left := maxChallengeBytes
	for _, v := range values {
		if left -= len(v); left < 0 {
			return nil, errChallenge
		}
		p := &headerReader{s: v}
		for p.skip(" \t,"); p.s != ""; p.skip(" \t,") {
			c, err := p.challenge()
			if err != nil {
				return nil, err
			}
			if out = append(out, c); len(out) > maxChallenges {
				return nil, errChallenge
			}
		}
	}
	return out, nil
}

type headerReader struct{ s string }

func (p *headerReader) skip(set string) { p.s = strings.TrimLeft(p.s, set) }

func (p *headerReader) token() string {
	n := 0
	for n < len(p.s) && tokenByte(p.s[n]) {
		n++
	}
	t := p.s[:n]
	p.s = p.s[n:]
	return t
}

func tokenByte(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}

func (p *headerReader) challenge() (challenge, error) {
	c := challenge{scheme: strings.ToLower(p.token()), params: map[string]string{}}
	if c.scheme == "" || p.s != "" && p.s[0] != ' ' && p.s[0] != ',' {
		return c, errChallenge
	}
	for p.s != "" {
		rest := p.s // where the next challenge begins, if this is no parameter of ours
		p.skip(" \t")
		if strings.HasPrefix(p.s, ",") {
			if len(c.params) == 0 {
				return c, nil // a scheme alone
			}
			p.skip(" \t,")
		} else if len(c.params) > 0 && p.s != "" {
			return c, errChallenge
		}
		if p.s == "" {
			return c, nil
		}
		key := strings.ToLower(p.token())
		p.skip(" \t")
		if !strings.HasPrefix(p.s, "=") {
			if len(c.params) == 0 || key == "" {
				return c, errChallenge
			}
			p.s = rest // a new scheme follows
			return c, nil
		}
		p.s = p.s[1:]
		p.skip(" \t")
		value, err := p.value()
		if _, dup := c.params[key]; err != nil || dup || key == "" || len(c.params) == maxParams {
			return c, errChallenge
		}
		c.params[key] = value
	}
	return c, nil
}

func (p *headerReader) value() (string, error) {
	if !strings.HasPrefix(p.s, `"`) {
		v := p.token()
		if v == "" {
			return "", errChallenge
		}
		return v, nil
	}
	var b strings.Builder
	for i := 1; i < len(p.s); i++ {
		switch c := p.s[i]; {
		case c == '"':
			p.s = p.s[i+1:]
			return b.String(), nil
		case c == '\\' && i+1 < len(p.s):
			i++
			b.WriteByte(p.s[i])
		case c < ' ' || c >= 0x7f:
			return "", errChallenge
		default:
			b.WriteByte(c)
		}
	}
	return "", errChallenge
}
