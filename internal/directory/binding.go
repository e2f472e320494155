package directory

import (
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/auth"
)

// bindingArgs checks what the table's constraints would refuse, so that a bad event is poison instead of a retry for ever:
// exactly one of subject and group, a known role, and a tenant exactly for tenant roles.
func bindingArgs(m *intakev1.RoleBindingChanged, sequence int64) (pgx.NamedArgs, error) {
	id, err := uuid.Parse(m.GetBindingId())
	if err != nil {
		return nil, fmt.Errorf("binding id: %w", err)
	}
	role := auth.Role(m.GetRole())
	if !role.Valid() {
		return nil, fmt.Errorf("binding %s: role %q is not known", id, m.GetRole())
	}
	if (m.GetSubject() == "") == (m.GetGroup() == "") {
		return nil, fmt.Errorf("binding %s needs a subject or a group, not both", id)
	}
	if role.System() != (m.GetTenantId() == "") {
		return nil, fmt.Errorf("binding %s: a tenant belongs to tenant roles and only to them", id)
	}
	var tenant *uuid.UUID
	if m.GetTenantId() != "" {
		t, err := uuid.Parse(m.GetTenantId())
		if err != nil {
			return nil, fmt.Errorf("binding %s: tenant id: %w", id, err)
		}
		tenant = &t
	}
	return pgx.NamedArgs{
		"binding": id, "subject": m.GetSubject(), "group": m.GetGroup(), "role": string(role), "tenant": tenant,
		"active": !m.GetRemoved(), "sequence": sequence,
	}, nil
}
