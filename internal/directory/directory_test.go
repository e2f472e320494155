package directory_test

import (
	"context"
	"math/rand/v2"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/bus"
	"github.com/pratique-io/pratique/internal/directory"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/internal/pg/pgtest"
)

var _ auth.Directory = (*directory.Resolver)(nil)

var (
	alpha = uuid.MustParse("0195d2f0-0000-7000-8000-00000000000a")
	beta  = uuid.MustParse("0195d2f0-0000-7000-8000-00000000000b")
)

type bench struct {
	t  *testing.T
	db *pg.DB
}

func setup(t *testing.T) *bench {
	t.Parallel()
	return &bench{t: t, db: pgtest.New(t, "sample", directory.Migrations)}
}

func envelope(t *testing.T, sequence int64, msg proto.Message) event.Envelope {
	t.Helper()
	e, err := event.New(context.Background(), msg, event.Head{Subject: uuid.New(), Sequence: sequence, Actor: "service:intake"})
	require.NoError(t, err)
	return e
}

// tell hands an event to the projection as the bus does and returns the handler's answer; what it wrote is kept only if that
// is nil or a discard.
func (b *bench) tell(sequence int64, msg proto.Message) error {
	b.t.Helper()
	return b.handle(envelope(b.t, sequence, msg))
}

func (b *bench) handle(e event.Envelope) error {
	var outcome error
	err := b.db.Work(b.t.Context(), func(tx pgx.Tx) error {
		outcome = directory.Subscription().Handle(b.t.Context(), tx, e)
		return nil
	})
	if outcome == nil {
		require.NoError(b.t, err)
	}
	return outcome
}

func (b *bench) must(sequence int64, msgs ...proto.Message) {
	b.t.Helper()
	for _, msg := range msgs {
		require.NoError(b.t, b.tell(sequence, msg))
	}
}

func (b *bench) roles(subject string, groups ...string) auth.Roleset {
	b.t.Helper()
	out, err := directory.NewResolver(b.db).Resolve(b.t.Context(), auth.Principal{Subject: subject, Groups: groups})
	require.NoError(b.t, err)
	return out
}

func (b *bench) people(scope pg.Scope, tenant uuid.UUID, role auth.Role) []string {
	b.t.Helper()
	var out []string
	require.NoError(b.t, b.db.Read(b.t.Context(), scope, func(tx pgx.Tx) error {
		people, err := directory.People(b.t.Context(), tx, tenant, role)
		for _, p := range people {
			out = append(out, p.Subject)
		}
		return err
	}))
	return out
}

func tenantEvent(id uuid.UUID, slug, status string) *intakev1.TenantChanged {
	return &intakev1.TenantChanged{TenantId: id.String(), Slug: slug, Name: "Team " + slug, Status: status}
}

func person(n byte, subject string, groups ...string) *intakev1.PersonChanged {
	id := uuid.UUID{15: n}
	return &intakev1.PersonChanged{PersonId: id.String(), Subject: subject, Name: subject, Email: subject + "@example.org", Groups: groups}
}

func binding(n byte, subject, group string, role auth.Role, tenant uuid.UUID) *intakev1.RoleBindingChanged {
	id := uuid.UUID{15: n}
	out := &intakev1.RoleBindingChanged{BindingId: id.String(), Subject: subject, Group: group, Role: string(role)}
	if tenant != uuid.Nil {
		out.TenantId = tenant.String()
	}
	return out
}

func TestWhoeverIsNotHeardOfHoldsNothing(t *testing.T) {
	b := setup(t)
	require.Empty(t, b.roles("i|ann", "team").System)
	require.Empty(t, b.roles("i|ann", "team").Tenants)
	require.Empty(t, b.people(pg.AllTenants(), alpha, auth.TenantAdmin))
}

func TestRolesComeFromSubjectAndGroups(t *testing.T) {
	b := setup(t)
	b.must(1, tenantEvent(alpha, "alpha", "active"), tenantEvent(beta, "beta", "disabled"),
		binding(1, "i|ann", "", auth.TenantMember, alpha), binding(2, "", "reviewers", auth.SecurityReviewer, uuid.Nil),
		binding(3, "", "team", auth.TenantAdmin, alpha), binding(4, "i|ann", "", auth.TenantViewer, beta))
	ann := b.roles("i|ann", "team", "reviewers")
	require.Equal(t, []auth.Role{auth.SecurityReviewer}, ann.System)
	require.ElementsMatch(t, []auth.Role{auth.TenantMember, auth.TenantAdmin}, ann.Tenants[alpha].Roles)
	require.Equal(t, "alpha", ann.Tenants[alpha].Slug)
	require.False(t, ann.Tenants[alpha].Disabled)
	require.True(t, ann.Tenants[beta].Disabled)
	alone := b.roles("i|ann")
	require.Empty(t, alone.System)
	require.Equal(t, []auth.Role{auth.TenantMember}, alone.Tenants[alpha].Roles)
	require.Empty(t, b.roles("team").Tenants, "a subject named like a group is no group")
	require.Empty(t, b.roles("x", "i|ann").Tenants, "a group named like a subject is no subject")
	require.Empty(t, b.roles("", "").Tenants, "nothing matches nothing")
}

func TestABindingThatOvertookItsTenantWaits(t *testing.T) {
	b := setup(t)
	b.must(1, binding(1, "i|ann", "", auth.TenantAdmin, alpha))
	require.Empty(t, b.roles("i|ann").Tenants)
	b.must(1, tenantEvent(alpha, "alpha", "active"))
	require.Contains(t, b.roles("i|ann").Tenants, alpha)
}

func TestARemovedBindingHoldsNoMore(t *testing.T) {
	b := setup(t)
	given := binding(1, "i|ann", "", auth.SystemAdmin, uuid.Nil)
	taken := proto.CloneOf(given)
	taken.Removed = true
	b.must(1, given)
	require.Equal(t, []auth.Role{auth.SystemAdmin}, b.roles("i|ann").System)
	b.must(2, taken)
	require.Empty(t, b.roles("i|ann").System)
	var late *bus.Outcome
	require.ErrorAs(t, b.tell(1, given), &late, "the gift, redelivered late")
	require.Empty(t, b.roles("i|ann").System)
	require.ErrorAs(t, b.tell(2, given), &late, "the same version again")
	require.Empty(t, b.roles("i|ann").System)
}

func TestTheProjectionEndsTheSameInAnyOrder(t *testing.T) {
	b := setup(t)
	var history []event.Envelope
	for n := range int64(6) {
		status := "active"
		if n%2 == 1 {
			status = "disabled"
		}
		history = append(history,
			envelope(t, n+1, tenantEvent(alpha, "slug-"+string(rune('a'+n)), status)),
			envelope(t, n+1, person(1, "i|ann", "group-"+string(rune('a'+n)))))
	}
	history = append(history, history...) // and everything twice
	rand.Shuffle(len(history), func(i, j int) { history[i], history[j] = history[j], history[i] })
	for _, e := range history {
		if err := b.handle(e); err != nil {
			require.ErrorContains(t, err, "older_than_known")
		}
	}
	require.NoError(t, b.db.Read(t.Context(), pg.AllTenants(), func(tx pgx.Tx) error {
		got, found, err := directory.TenantByID(t.Context(), tx, alpha)
		require.NoError(t, err)
		require.True(t, found)
		require.Equal(t, directory.Tenant{ID: alpha, Slug: "slug-f", Name: "Team slug-f", Disabled: true}, got)
		return nil
	}))
	b.must(1, binding(1, "", "group-f", auth.Auditor, uuid.Nil), binding(2, "", "group-a", auth.SystemAdmin, uuid.Nil))
	require.Equal(t, []string{"i|ann"}, b.people(pg.AllTenants(), uuid.Nil, auth.Auditor))
	require.Empty(t, b.people(pg.AllTenants(), uuid.Nil, auth.SystemAdmin), "a group left behind")
}

func TestRecipientsAreThePeopleWhoHoldTheRoleNow(t *testing.T) {
	b := setup(t)
	b.must(1, person(1, "i|ann", "team"), person(2, "i|bob", "team"), person(3, "i|eve"),
		binding(1, "", "team", auth.TenantAdmin, alpha), binding(2, "i|ann", "", auth.TenantAdmin, alpha),
		binding(3, "i|eve", "", auth.TenantAdmin, beta), binding(4, "i|eve", "", auth.SecurityReviewer, uuid.Nil),
		binding(5, "i|nobody", "", auth.TenantAdmin, alpha))
	for _, scope := range []pg.Scope{pg.AllTenants(), pg.OneTenant(alpha)} {
		require.Equal(t, []string{"i|ann", "i|bob"}, b.people(scope, alpha, auth.TenantAdmin), "each once, the unknown not at all")
		require.Equal(t, []string{"i|eve"}, b.people(scope, alpha, auth.SecurityReviewer), "system roles belong to no tenant")
	}
	require.Empty(t, b.people(pg.AllTenants(), alpha, auth.TenantViewer))
	require.NoError(t, b.db.Work(t.Context(), func(tx pgx.Tx) error {
		p, found, err := directory.PersonBySubject(t.Context(), tx, "i|bob")
		require.NoError(t, err)
		require.True(t, found)
		require.Equal(t, "i|bob@example.org", p.Email)
		same, found, err := directory.PersonByID(t.Context(), tx, p.ID)
		require.NoError(t, err)
		require.True(t, found)
		require.Equal(t, p, same)
		_, found, err = directory.PersonBySubject(t.Context(), tx, "i|nobody")
		require.NoError(t, err)
		require.False(t, found)
		return nil
	}))
}

func TestATenantIsFoundByIDAndSlug(t *testing.T) {
	b := setup(t)
	b.must(1, tenantEvent(alpha, "alpha", "active"))
	r := directory.NewResolver(b.db)
	for _, ref := range []auth.TenantRef{{ID: alpha}, {Slug: "alpha"}} {
		id, found, err := r.Tenant(t.Context(), ref)
		require.NoError(t, err)
		require.True(t, found)
		require.Equal(t, alpha, id)
	}
	for _, ref := range []auth.TenantRef{{ID: beta}, {Slug: "beta"}, {}} {
		_, found, err := r.Tenant(t.Context(), ref)
		require.NoError(t, err)
		require.False(t, found)
	}
	b.must(1, tenantEvent(beta, "alpha", "active")) // took the slug over; the first one's new name is still on its way
	_, found, err := r.Tenant(t.Context(), auth.TenantRef{Slug: "alpha"})
	require.NoError(t, err)
	require.False(t, found, "none of two")
	b.must(2, tenantEvent(alpha, "omega", "active"))
	id, found, err := r.Tenant(t.Context(), auth.TenantRef{Slug: "alpha"})
	require.NoError(t, err)
	require.True(t, found)
	require.Equal(t, beta, id)
}

func TestAnAnswerIsRememberedOnlyForAMoment(t *testing.T) {
	b := setup(t)
	now := directory.Clock{}
	r := directory.NewResolverAt(b.db, now.Now)
	p := auth.Principal{Subject: "i|ann"}
	roles, err := r.Resolve(t.Context(), p)
	require.NoError(t, err)
	require.Empty(t, roles.System)
	b.must(1, binding(1, "i|ann", "", auth.Auditor, uuid.Nil))
	roles, err = r.Resolve(t.Context(), p)
	require.NoError(t, err)
	require.Empty(t, roles.System, "remembered")
	roles, err = r.Resolve(t.Context(), auth.Principal{Subject: "i|ann", Groups: []string{"g"}})
	require.NoError(t, err)
	require.NotEmpty(t, roles.System, "other groups, other question")
	now.Add(directory.Remember)
	roles, err = r.Resolve(t.Context(), p)
	require.NoError(t, err)
	require.Equal(t, []auth.Role{auth.Auditor}, roles.System)
}

func TestEventsThatMakeNoSenseArePoison(t *testing.T) {
	b := setup(t)
	both := binding(1, "i|ann", "team", auth.Auditor, uuid.Nil)
	for name, msg := range map[string]proto.Message{
		"tenant without id":          &intakev1.TenantChanged{Slug: "x", Status: "active"},
		"tenant of unknown status":   tenantEvent(alpha, "alpha", "paused"),
		"person without id":          &intakev1.PersonChanged{Subject: "i|x"},
		"person without subject":     person(1, ""),
		"binding without id":         &intakev1.RoleBindingChanged{Subject: "i|x", Role: "auditor"},
		"binding of an unknown role": binding(1, "i|x", "", "owner", uuid.Nil),
		"binding to nobody":          binding(1, "", "", auth.Auditor, uuid.Nil),
		"binding to subject + group": both,
		"system role in a tenant":    binding(1, "i|x", "", auth.SystemAdmin, alpha),
		"tenant role in no tenant":   binding(1, "i|x", "", auth.TenantAdmin, uuid.Nil),
		"binding to a tenant called": &intakev1.RoleBindingChanged{BindingId: alpha.String(), Subject: "i|x", Role: "tenant_admin", TenantId: "alpha"},
	} {
		t.Run(name, func(t *testing.T) {
			var outcome *bus.Outcome
			require.ErrorAs(t, b.tell(1, msg), &outcome)
			require.NotContains(t, outcome.Error(), "older", "refused, not overtaken")
		})
	}
	require.Empty(t, b.roles("i|x").System)
	var outcome *bus.Outcome
	require.ErrorAs(t, b.handle(event.Envelope{Type: "pratique.intake.v1.RequestApproved"}), &outcome)
}

func TestTheSubscriptionNamesWhatItHandles(t *testing.T) {
	s := directory.Subscription()
	require.Equal(t, "directory", s.Purpose)
	for _, msg := range []proto.Message{&intakev1.TenantChanged{}, &intakev1.PersonChanged{}, &intakev1.RoleBindingChanged{}} {
		require.Contains(t, s.Types, string(msg.ProtoReflect().Descriptor().FullName()))
	}
	require.Len(t, s.Types, 3)
}
