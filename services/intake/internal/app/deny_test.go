package app

import (
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/auth"
)

// The lifecycle stream is readable by other systems; who people are at their issuer is not for them.
func TestADenialNamesAPersonByIdEvenBeforeTheDirectoryKnowsThem(t *testing.T) {
	t.Parallel()
	b := setup(t)
	caller := auth.Caller{
		Subject: "https://issuer.example.com|new.person@example.com", Name: "New Person", Tenant: b.tenant,
		Tenants: map[uuid.UUID][]auth.Role{b.tenant: {auth.TenantViewer}},
	}
	require.NoError(t, b.Deny(t.Context(), caller, "", "CreateImportRequest", errorsv1.Reason_REASON_PERMISSION_DENIED, "no"))
	person := b.person(caller.Subject).ID.String()
	found := false
	for _, e := range b.events(uuid.Nil) {
		var msg intakev1.RequestDenied
		if e.Type != nameOf(&msg) {
			continue
		}
		found = true
		require.NoError(t, e.Decode(&msg))
		require.Equal(t, "user:"+person, e.Actor)
		require.Equal(t, person, msg.GetSubjectId())
	}
	require.True(t, found)
}
