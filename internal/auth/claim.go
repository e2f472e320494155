package auth

import (
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of what is taken from a token, in bytes; longer names are cut, a longer subject is refused.
const (
	maxSubject = 255
	maxName    = 256
	maxGroups  = 500
)

// ClaimMap says which claims hold what; empty fields mean the standard names. A dot descends into an object
// ("realm_access.roles"), after a claim of that very name was looked for.
type ClaimMap struct {
	Subject string `yaml:"subject"` // default "sub"
	Name    string `yaml:"name"`    // default "name"
	Email   string `yaml:"email"`   // default "email"
	Groups  string `yaml:"groups"`  // default "groups"; a list of strings or one string
	Tenant  string `yaml:"tenant"`  // no default; preselects a tenant, proves nothing
}

func (m ClaimMap) principal(iss string, claims map[string]any) (Principal, error) {
	subject, ok := lookup(claims, m.Subject, "sub").(string)
	if !ok || subject == "" {
		return Principal{}, errors.New("token names no subject")
	}
	if len(subject) > maxSubject || clean(subject, maxSubject) != subject {
		return Principal{}, errors.New("subject is too long or not text")
	}
	p := Principal{Subject: iss + "|" + subject}
	p.Name, _ = lookup(claims, m.Name, "name").(string)
	p.Email, _ = lookup(claims, m.Email, "email").(string)
	p.Name, p.Email = clean(p.Name, maxName), clean(p.Email, maxName)
	if m.Tenant != "" {
		p.Tenant, _ = lookup(claims, m.Tenant, "").(string)
	}
	p.Groups = groups(lookup(claims, m.Groups, "groups"))
	return p, nil
}

func lookup(claims map[string]any, name, standard string) any {
	if name == "" {
		name = standard
	}
	if value, ok := claims[name]; ok {
		return value
	}
	head, rest, ok := strings.Cut(name, ".")
	if inner, isMap := claims[head].(map[string]any); ok && isMap {
		return lookup(inner, rest, "")
	}
	return nil
}

// groups keeps what can be the name of a group; what cannot is dropped, which only takes roles away.
func groups(value any) []string {
	var out []string
	add := func(v any) {
		if g, ok := v.(string); ok && g != "" && clean(g, maxName) == g && len(out) < maxGroups {
			out = append(out, g)
		}
	}
	if list, ok := value.([]any); ok {
		for _, v := range list {
			add(v)
		}
		return out
	}
	add(value)
	return out
}

// clean drops control characters (Postgres takes no NUL, logs no line breaks) and cuts at a rune within limit bytes.
func clean(text string, limit int) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == utf8.RuneError {
			return -1
		}
		return r
	}, text)
	for len(text) > limit {
		_, size := utf8.DecodeLastRuneInString(text)
		text = text[:len(text)-size]
	}
	return text
}
