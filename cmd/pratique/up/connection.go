package up

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/auth/devissuer"
)

// Connection is DIR/connection.json: all that clients on this machine need.
type Connection struct {
	REST       string              `json:"rest"` // http://host:port
	GRPC       string              `json:"grpc"` // host:port
	Ops        string              `json:"ops"`  // http://host:port with /livez, /readyz, /metrics
	NATS       NATS                `json:"nats"`
	Issuer     string              `json:"issuer"`
	Tenants    map[string]string   `json:"tenants"` // slug -> id
	Registries map[string]Registry `json:"registries"`
	PublicKey  string              `json:"public_key"` // PEM; verifies signed proofs
	Services   map[string]string   `json:"services"`   // gRPC address of each service
}

// NATS is a read-only subscriber's way in; its consumers must be named ext_<user> or ext_<user>_1 to _9.
type NATS struct {
	URL      string `json:"url"`
	User     string `json:"user"`
	Password string `json:"password"`
}

// Registry is where and as whom; quarantine has no user, since no person holds pull rights there.
type Registry struct {
	Address  string `json:"address"` // host:port, plain HTTP on loopback
	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"`
}

const connectionFile = "connection.json"

// ReadConnection reads what a running (or stopped) `pratique up` has written.
func ReadConnection(dir string) (Connection, error) {
	var c Connection
	raw, err := os.ReadFile(filepath.Join(dir, connectionFile))
	if errors.Is(err, os.ErrNotExist) {
		return c, fmt.Errorf("%s holds no connection.json: start `pratique up --data %s` first", dir, dir)
	}
	if err != nil {
		return c, err
	}
	return c, json.Unmarshal(raw, &c)
}

// Persona is one of the people that the development issuer knows.
type Persona struct {
	Name, FullName string
	Role           auth.Role
	Tenant         string // slug; empty for system roles
}

// Personas are the people of `pratique up`.
func Personas() []Persona {
	return []Persona{
		{"ada", "Ada Quist", auth.TenantAdmin, "payments"},
		{"mel", "Mel Okafor", auth.TenantMember, "payments"},
		{"omar", "Omar Haddad", auth.TenantAdmin, "orders"},
		{"sam", "Sam Lindqvist", auth.SecurityReviewer, ""},
		{"rita", "Rita Moreno", auth.SecurityReviewer, ""},
		{"root", "Root Admin", auth.SystemAdmin, ""},
	}
}

func (p Persona) email() string { return p.Name + "@example.test" }

// tokenLife is how long a development token is good.
const tokenLife = 12 * time.Hour

// Token mints a bearer token for a persona from the data directory's issuer key.
func Token(dir, persona string) (string, error) {
	people := Personas()
	i := slices.IndexFunc(people, func(p Persona) bool { return p.Name == persona })
	if i < 0 {
		names := make([]string, len(people))
		for j, p := range people {
			names[j] = p.Name
		}
		return "", fmt.Errorf("--as %q: nobody is called so; there are %s", persona, strings.Join(names, ", "))
	}
	connection, err := ReadConnection(dir)
	if err != nil {
		return "", err
	}
	key, err := auth.ReadKey(filepath.Join(dir, "keys", "issuer.pem"))
	if err != nil {
		return "", fmt.Errorf("issuer key: %w", err)
	}
	return devissuer.Mint(key, connection.Issuer, people[i].Name, people[i].FullName, people[i].email(), nil, tokenLife)
}
