package event

import (
	"strings"
	"unicode"
)

// people are the events that carry personal data; they travel on a stream no outside system can read.
var people = map[string]bool{
	"pratique.intake.v1.PersonChanged":      true,
	"pratique.intake.v1.RoleBindingChanged": true,
}

// SubjectOf is where e is published: pratique.<service>.v1.<event_in_snake_case>.<tenant or _>, and directory.<service>.v1....
// for people's events.
func SubjectOf(e Envelope) string {
	tenant := e.TenantID
	if tenant == "" {
		tenant = NoTenant
	}
	return prefixOf(e.Type) + "." + tenant
}

// FilterOf selects one event type of all tenants.
func FilterOf(typ string) string { return prefixOf(typ) + ".*" }

func prefixOf(typ string) string {
	root := "pratique"
	if people[typ] {
		root = "directory"
	}
	version, message := "v1", typ
	if parts := strings.Split(typ, "."); len(parts) > 1 {
		message = parts[len(parts)-1]
		if len(parts) == 4 {
			version = parts[2]
		}
	}
	return root + "." + serviceOf(typ) + "." + version + "." + snake(message)
}

// snake turns EprRegistrationExpired into epr_registration_expired and HTTPSProbe into https_probe.
func snake(name string) string {
	runes := []rune(name)
	var b strings.Builder
	for i, r := range runes {
		if unicode.IsUpper(r) && i > 0 {
			previousLower := !unicode.IsUpper(runes[i-1])
			nextLower := i+1 < len(runes) && unicode.IsLower(runes[i+1])
			if previousLower || nextLower {
				b.WriteByte('_')
			}
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}
