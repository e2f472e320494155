package intake

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/config"
	"github.com/pratique-io/pratique/internal/oci"
)

// Config is intake's part of the configuration.
type Config struct {
	Bootstrap Bootstrap `yaml:"bootstrap"`
	// TrustedRegistry is the host[:port] that destinations must name, below the tenant's slug; empty leaves that to the release service.
	TrustedRegistry string `yaml:"trusted_registry"`
	// InsecureRegistries are source registries spoken to in plain HTTP beside loopback ones.
	InsecureRegistries []string `yaml:"insecure_registries"`
	Epr                Epr      `yaml:"epr"`
}

// Epr says how registrations count.
type Epr struct {
	Enforce      bool `yaml:"enforce"`       // an import needs a registration in force
	ValidityDays int  `yaml:"validity_days"` // 1-3650, from the approval
	ExpiringDays int  `yaml:"expiring_days"` // 0-365 and less than the validity: how long before its expiry it counts as expiring
}

// Bootstrap is what an installation begins with. It only ever adds: what exists is not changed and nothing is taken away.
type Bootstrap struct {
	Tenants      []BootstrapTenant  `yaml:"tenants"`
	SystemAdmins []BootstrapPerson  `yaml:"system_admins"`
	Bindings     []BootstrapBinding `yaml:"bindings"`
}

// BootstrapTenant is a tenant; ID may be empty, then one is made.
type BootstrapTenant struct {
	ID   string `yaml:"id"`
	Slug string `yaml:"slug"`
	Name string `yaml:"name"`
}

// BootstrapPerson is somebody as their issuer names them.
type BootstrapPerson struct {
	Issuer  string `yaml:"issuer"`
	Subject string `yaml:"subject"`
	Name    string `yaml:"name"`
	Email   string `yaml:"email"`
}

// BootstrapBinding gives somebody a role; Tenant is a slug, for tenant roles only.
type BootstrapBinding struct {
	Issuer  string `yaml:"issuer"`
	Subject string `yaml:"subject"`
	Name    string `yaml:"name"`
	Email   string `yaml:"email"`
	Role    string `yaml:"role"`
	Tenant  string `yaml:"tenant"`
}

// Default is the strict default: registrations enforced, valid for a year, expiring for its last 30 days.
func Default() Config {
	return Config{Epr: Epr{Enforce: true, ValidityDays: 365, ExpiringDays: 30}}
}

var slugPattern = regexp.MustCompile(`^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$`)

// Validate tells every problem, by path.
func (c Config) Validate(p *config.Problems) {
	if c.TrustedRegistry != "" {
		_, err := oci.ParseHost(c.TrustedRegistry)
		p.Check("trusted_registry", err)
	}
	for i, host := range c.InsecureRegistries {
		_, err := oci.ParseHost(host)
		p.Check(fmt.Sprintf("insecure_registries[%d]", i), err)
	}
	if c.Epr.ValidityDays < 1 || c.Epr.ValidityDays > 3650 {
		p.Add("epr.validity_days", "must be 1 to 3650")
	}
	if c.Epr.ExpiringDays < 0 || c.Epr.ExpiringDays > 365 || c.Epr.ExpiringDays >= c.Epr.ValidityDays {
		p.Add("epr.expiring_days", "must be 0 to 365 and less than validity_days")
	}
	c.Bootstrap.Validate(p.At("bootstrap"))
}

// Validate tells every problem, by path.
func (b Bootstrap) Validate(p *config.Problems) {
	for i, t := range b.Tenants {
		at := p.At(fmt.Sprintf("tenants[%d]", i))
		if !slugPattern.MatchString(t.Slug) {
			at.Add("slug", "must be lower-case letters, digits and '-', at most 63")
		}
		if slices.ContainsFunc(b.Tenants[:i], func(o BootstrapTenant) bool { return o.Slug == t.Slug }) {
			at.Add("slug", "is given twice")
		}
		if n := utf8.RuneCountInString(t.Name); n < 1 || n > 200 {
			at.Add("name", "must have 1 to 200 characters")
		}
		if id, err := uuid.Parse(t.ID); t.ID != "" && (err != nil || id == uuid.Nil) {
			at.Add("id", "must be a UUID")
		}
	}
	for i, person := range b.SystemAdmins {
		checkPerson(p.At(fmt.Sprintf("system_admins[%d]", i)), person.Issuer, person.Subject)
	}
	for i, x := range b.Bindings {
		at := p.At(fmt.Sprintf("bindings[%d]", i))
		checkPerson(at, x.Issuer, x.Subject)
		role := auth.Role(x.Role)
		switch {
		case !role.Valid():
			at.Addf("role", "must be one of %v", auth.Roles())
		case role.System() && x.Tenant != "":
			at.Add("tenant", "belongs to tenant roles only")
		case !role.System() && !slugPattern.MatchString(x.Tenant):
			at.Add("tenant", "must be the slug of a tenant")
		}
	}
}

// checkPerson refuses what would make the key "issuer|subject" ambiguous or empty.
func checkPerson(p *config.Problems, issuer, subject string) {
	if issuer == "" || strings.Contains(issuer, "|") {
		p.Add("issuer", "must be the issuer's URL")
	}
	if subject == "" {
		p.Add("subject", "is required")
	}
}
