package registry

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
)

// The actions a principal can be granted on a repository.
const (
	Pull   = "pull"
	Push   = "push"
	Delete = "delete"
)

// runUser is the user name every run credential goes with.
const runUser = "run"

// Access grants actions on every repository at or below a prefix. The prefix
// ends at a path boundary: "q/acme" covers "q/acme/app", not "q/acmecorp".
// An empty prefix covers all repositories.
type Access struct {
	Prefix  string
	Actions []string
}

// Full grants the actions on every repository.
func Full(actions ...string) []Access { return []Access{{Actions: actions}} }

func (a Access) validate() error {
	if a.Prefix != "" && !repositoryOK(strings.TrimSuffix(a.Prefix, "/")) {
		return fmt.Errorf("prefix %q is not a repository name", a.Prefix)
	}
	return checkActions(a.Actions)
}

func checkActions(actions []string) error {
	if len(actions) == 0 {
		return errors.New("no actions")
	}
	for _, action := range actions {
		if action != Pull && action != Push && action != Delete {
			return fmt.Errorf("unknown action %q", action)
		}
	}
	return nil
}

func (a Access) covers(repository string) bool {
	prefix := strings.TrimSuffix(a.Prefix, "/")
	return prefix == "" || repository == prefix || strings.HasPrefix(repository, prefix+"/")
}

// User is a fixed principal.
type User struct {
	Name     string
	Password string
	Access   []Access
}

// String and LogValue keep the password out of logs and error texts.
func (u User) String() string { return "user " + u.Name }

// GoString is String, for %#v.
func (u User) GoString() string { return u.String() }

// LogValue is String, for slog.
func (u User) LogValue() slog.Value { return slog.StringValue(u.String()) }

func (u User) validate() error {
	var errs []error
	if u.Name == "" || strings.ContainsAny(u.Name, ":\r\n") {
		errs = append(errs, errors.New("the name is empty or holds a colon or line break"))
	}
	if u.Name == runUser {
		errs = append(errs, errors.New("the name is reserved for run credentials"))
	}
	if u.Password == "" {
		errs = append(errs, errors.New("the password is empty"))
	}
	for _, a := range u.Access {
		errs = append(errs, a.validate())
	}
	return errors.Join(errs...)
}

type knownUser struct {
	name     string
	nameSum  [sha256.Size]byte
	passSum  [sha256.Size]byte
	accesses []Access
}

func (u User) known() knownUser {
	return knownUser{u.Name, sha256.Sum256([]byte(u.Name)), sha256.Sum256([]byte(u.Password)), u.Access}
}

// principal is who a request comes from; id is what upload sessions belong to.
type principal struct {
	id        string
	anonymous bool
	accesses  []Access
	run       *Grant // set for run credentials: exactly one repository
}

func (p principal) may(action, repository string) bool {
	if p.run != nil {
		return p.run.Repository == repository && slices.Contains(p.run.Actions, action)
	}
	for _, a := range p.accesses {
		if a.covers(repository) && slices.Contains(a.Actions, action) {
			return true
		}
	}
	return false
}

// mayList tells whether the principal may pull everything there is.
func (p principal) mayList() bool {
	for _, a := range p.accesses {
		if a.Prefix == "" && slices.Contains(a.Actions, Pull) {
			return p.run == nil
		}
	}
	return false
}

var errCredentials = errors.New("credentials missing or not accepted")

// authenticate never falls back to anonymous when credentials were sent.
func (r *Registry) authenticate(req *http.Request) (principal, error) {
	headers := req.Header["Authorization"]
	if len(headers) == 0 && len(r.anonymous) > 0 {
		return principal{id: "anonymous", anonymous: true, accesses: r.anonymous}, nil
	}
	name, password, ok := req.BasicAuth()
	if len(headers) != 1 || !ok {
		return principal{}, errCredentials
	}
	if name == runUser {
		grant, err := verify(r.runKey, password, r.now())
		if err != nil {
			return principal{}, err
		}
		return principal{id: "run:" + grant.Run + "@" + grant.Repository, run: &grant}, nil
	}
	nameSum, passSum := sha256.Sum256([]byte(name)), sha256.Sum256([]byte(password))
	found := -1
	for i := range r.users { // every user is compared, so time tells nothing
		u := &r.users[i]
		if subtle.ConstantTimeCompare(nameSum[:], u.nameSum[:])&subtle.ConstantTimeCompare(passSum[:], u.passSum[:]) == 1 {
			found = i
		}
	}
	if found < 0 {
		return principal{}, errCredentials
	}
	return principal{id: "user:" + r.users[found].name, accesses: r.users[found].accesses}, nil
}
