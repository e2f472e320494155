package auth

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	rpcv1 "github.com/pratique-io/pratique/gen/pratique/rpc/v1"
	"github.com/pratique-io/pratique/internal/fault"
)

const packagePrefix = "pratique."

// Rule is who may call one method.
type Rule struct {
	Roles          []Role
	Services       []string
	Authenticated  bool // any verified principal, even one without a role
	TenantRequired bool
}

// Table is the authorisation table: exact gRPC method ("/pratique.intake.v1.RequestService/CreateRequest") to rule.
type Table struct{ rules map[string]Rule }

// BuildTable reads the access option of every RPC of the pratique packages in files (nil: everything linked into this
// program). An RPC without one, or with an unknown role or an empty rule, is an error; all of them are named at once.
func BuildTable(files *protoregistry.Files) (*Table, error) {
	if files == nil {
		files = protoregistry.GlobalFiles
	}
	t := &Table{rules: map[string]Rule{}}
	var problems []error
	files.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		if !strings.HasPrefix(string(file.Package())+".", packagePrefix) {
			return true
		}
		for i := range file.Services().Len() {
			methods := file.Services().Get(i).Methods()
			for j := range methods.Len() {
				rule, err := ruleOf(methods.Get(j))
				if err != nil {
					problems = append(problems, err)
					continue
				}
				t.rules[MethodName(methods.Get(j))] = rule
			}
		}
		return true
	})
	if len(problems) > 0 {
		slices.SortFunc(problems, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
		return nil, errors.Join(problems...)
	}
	return t, nil
}

// MethodName is the full gRPC name of a method.
func MethodName(m protoreflect.MethodDescriptor) string {
	return fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name())
}

func ruleOf(m protoreflect.MethodDescriptor) (Rule, error) {
	name := MethodName(m)
	if m.Options() == nil || !proto.HasExtension(m.Options(), rpcv1.E_Access) {
		return Rule{}, fmt.Errorf("%s has no access rule", name)
	}
	access, ok := proto.GetExtension(m.Options(), rpcv1.E_Access).(*rpcv1.Access)
	if !ok {
		return Rule{}, fmt.Errorf("%s has an unreadable access rule", name)
	}
	rule := Rule{Services: access.GetServices(), Authenticated: access.GetAuthenticated(), TenantRequired: access.GetTenantRequired()}
	for _, text := range access.GetRoles() {
		role := Role(text)
		if !role.Valid() {
			return Rule{}, fmt.Errorf("%s names an unknown role %q", name, text)
		}
		rule.Roles = append(rule.Roles, role)
	}
	if len(rule.Roles) == 0 && len(rule.Services) == 0 && !rule.Authenticated {
		return Rule{}, fmt.Errorf("%s has an access rule that lets nobody in", name)
	}
	return rule, nil
}

// Methods lists every method of the table, sorted.
func (t *Table) Methods() []string {
	out := make([]string, 0, len(t.rules))
	for name := range t.rules {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// Rule is the rule of a method; false when the method has none and nobody may call it.
func (t *Table) Rule(fullMethod string) (Rule, bool) {
	rule, ok := t.rules[fullMethod]
	return rule, ok
}

// Check says whether the caller may call the method: nil, permission_denied (the default), or invalid_tenant when the method
// acts for one tenant and none is selected.
func (t *Table) Check(c Caller, fullMethod string) error {
	_, err := t.Admit(c, fullMethod)
	return err
}

// Admit is Check that also answers the caller as the handler shall see them: system roles which the method does not ask for
// are dropped, so that an auditor who is admitted as a tenant's member does not carry the auditor's view of all tenants into it.
func (t *Table) Admit(c Caller, fullMethod string) (Caller, error) {
	rule, known := t.rules[fullMethod]
	if !known || !rule.admits(c) {
		return Caller{}, fault.New(errorsv1.Reason_REASON_PERMISSION_DENIED, "your roles do not allow this")
	}
	if rule.TenantRequired && c.Tenant == uuid.Nil {
		return Caller{}, fault.New(errorsv1.Reason_REASON_INVALID_TENANT, "select a tenant with X-Tenant-ID")
	}
	if rule.Authenticated && len(rule.Roles) == 0 {
		return c, nil
	}
	c.SystemRoles = slices.DeleteFunc(slices.Clone(c.SystemRoles), func(r Role) bool { return !slices.Contains(rule.Roles, r) })
	return c, nil
}

func (r Rule) admits(c Caller) bool {
	switch {
	case c.Service != "":
		return slices.Contains(r.Services, c.Service)
	case c.Subject == "":
		return false
	case r.Authenticated:
		return true
	}
	return c.HasAny(r.Roles...)
}
