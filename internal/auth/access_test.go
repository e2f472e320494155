package auth_test

import (
	"context"
	"errors"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	rpcv1 "github.com/pratique-io/pratique/gen/pratique/rpc/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/internal/pg"
)

// filesWith makes a proto package with one service, whose methods have these access rules (nil: none).
func filesWith(t *testing.T, pkg string, methods map[string]*rpcv1.Access) *protoregistry.Files {
	t.Helper()
	service := &descriptorpb.ServiceDescriptorProto{Name: proto.String("S")}
	for name, access := range methods {
		m := &descriptorpb.MethodDescriptorProto{
			Name: proto.String(name), InputType: proto.String("." + pkg + ".M"), OutputType: proto.String("." + pkg + ".M"),
		}
		if access != nil {
			m.Options = &descriptorpb.MethodOptions{}
			proto.SetExtension(m.Options, rpcv1.E_Access, access)
		}
		service.Method = append(service.Method, m)
	}
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("s.proto"), Package: proto.String(pkg), Syntax: proto.String("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{{Name: proto.String("M")}}, Service: []*descriptorpb.ServiceDescriptorProto{service},
	}, nil)
	require.NoError(t, err)
	files := new(protoregistry.Files)
	require.NoError(t, files.RegisterFile(file))
	return files
}

func TestEveryMethodWithoutARuleIsNamed(t *testing.T) {
	t.Parallel()
	_, err := auth.BuildTable(filesWith(t, "pratique.x.v1", map[string]*rpcv1.Access{
		"Bare": nil, "AlsoBare": nil, "Empty": {}, "Typo": {Roles: []string{"sysadmin"}}, "Good": {Authenticated: true},
	}))
	require.ErrorContains(t, err, "/pratique.x.v1.S/Bare has no access rule")
	require.ErrorContains(t, err, "/pratique.x.v1.S/AlsoBare has no access rule")
	require.ErrorContains(t, err, "/pratique.x.v1.S/Empty has an access rule that lets nobody in")
	require.ErrorContains(t, err, `/pratique.x.v1.S/Typo names an unknown role "sysadmin"`)
	require.NotContains(t, err.Error(), "Good")

	table, err := auth.BuildTable(filesWith(t, "elsewhere.v1", map[string]*rpcv1.Access{"Bare": nil}))
	require.NoError(t, err)
	require.Empty(t, table.Methods(), "other packages are not ours")
}

var (
	tenantA = uuid.MustParse("0195d2f0-0000-7000-8000-00000000000a")
	tenantB = uuid.MustParse("0195d2f0-0000-7000-8000-00000000000b")
	tenantC = uuid.MustParse("0195d2f0-0000-7000-8000-00000000000c")
)

const (
	readM     = "/pratique.x.v1.S/Read"
	createM   = "/pratique.x.v1.S/Create"
	writeM    = "/pratique.x.v1.S/Write"
	meM       = "/pratique.x.v1.S/Me"
	permitM   = "/pratique.x.v1.S/Permit"
	settingsM = "/pratique.x.v1.S/Settings"
)

func testTable(t *testing.T) *auth.Table {
	t.Helper()
	table, err := auth.BuildTable(filesWith(t, "pratique.x.v1", map[string]*rpcv1.Access{
		"Read":     {Roles: []string{"system_admin", "security_reviewer", "auditor", "tenant_admin", "tenant_member", "tenant_viewer"}},
		"Create":   {Roles: []string{"tenant_admin", "tenant_member"}, TenantRequired: true},
		"Write":    {Roles: []string{"system_admin", "tenant_member"}},
		"Me":       {Authenticated: true},
		"Permit":   {Services: []string{"dispatch"}},
		"Settings": {Roles: []string{"system_admin", "tenant_admin"}, TenantRequired: true},
	}))
	require.NoError(t, err)
	return table
}

// people is a directory of constants.
type people struct {
	roles   map[string]auth.Roleset
	tenants map[string]uuid.UUID // by id and slug
	err     error
}

func (d people) Resolve(_ context.Context, p auth.Principal) (auth.Roleset, error) {
	return d.roles[p.Subject], d.err
}

func (d people) Tenant(_ context.Context, ref auth.TenantRef) (uuid.UUID, bool, error) {
	key := ref.Slug
	if ref.ID != uuid.Nil {
		key = ref.ID.String()
	}
	id, ok := d.tenants[key]
	return id, ok, d.err
}

func testPeople() people {
	a := func(disabled bool, roles ...auth.Role) auth.TenantRoles {
		return auth.TenantRoles{Slug: "alpha", Disabled: disabled, Roles: roles}
	}
	b := auth.TenantRoles{Slug: "beta", Roles: []auth.Role{auth.TenantViewer}}
	one := func(t auth.TenantRoles) map[uuid.UUID]auth.TenantRoles {
		return map[uuid.UUID]auth.TenantRoles{tenantA: t}
	}
	return people{
		roles: map[string]auth.Roleset{
			"member":   {Tenants: one(a(false, auth.TenantMember))},
			"viewer":   {Tenants: one(a(false, auth.TenantViewer))},
			"closed":   {Tenants: one(a(true, auth.TenantAdmin))},
			"both":     {Tenants: map[uuid.UUID]auth.TenantRoles{tenantA: a(false, auth.TenantMember), tenantB: b}},
			"half":     {Tenants: map[uuid.UUID]auth.TenantRoles{tenantA: a(true, auth.TenantMember), tenantB: b}},
			"admin":    {System: []auth.Role{auth.SystemAdmin}},
			"auditor":  {System: []auth.Role{auth.Auditor}},
			"auditing": {System: []auth.Role{auth.Auditor}, Tenants: one(a(false, auth.TenantMember))},
			"boss":     {System: []auth.Role{auth.SystemAdmin}, Tenants: one(a(true, auth.TenantMember))},
		},
		tenants: map[string]uuid.UUID{
			tenantA.String(): tenantA, tenantB.String(): tenantB, tenantC.String(): tenantC, "alpha": tenantA, "beta": tenantB, "gamma": tenantC,
		},
	}
}

func TestWhoMayCallWhatInWhichTenant(t *testing.T) {
	t.Parallel()
	const (
		denied   = errorsv1.Reason_REASON_PERMISSION_DENIED
		invalid  = errorsv1.Reason_REASON_INVALID_TENANT
		mismatch = errorsv1.Reason_REASON_TENANT_CONTEXT_MISMATCH
		disabled = errorsv1.Reason_REASON_TENANT_DISABLED
		ok       = errorsv1.Reason_REASON_UNSPECIFIED
	)
	all, none := pg.AllTenants(), pg.OneTenant(uuid.Nil)
	inA, inB := pg.OneTenant(tenantA), pg.OneTenant(tenantB)
	for _, c := range []struct {
		who, header, method string
		want                errorsv1.Reason
		tenant              uuid.UUID
		scope               pg.Scope
	}{
		{"member", "", readM, ok, tenantA, inA},
		{"member", "alpha", readM, ok, tenantA, inA},
		{"member", tenantA.String(), readM, ok, tenantA, inA},
		{"member", "", createM, ok, tenantA, inA},
		{"member", "", writeM, ok, tenantA, inA},
		{"member", "", settingsM, denied, uuid.Nil, none},
		{"member", "beta", readM, mismatch, uuid.Nil, none},
		{"member", tenantB.String(), readM, mismatch, uuid.Nil, none},
		{"member", "no-such", readM, mismatch, uuid.Nil, none},
		{"member", "Not A Slug", readM, invalid, uuid.Nil, none},
		{"member", "{" + tenantA.String() + "}", readM, invalid, uuid.Nil, none},
		{"member", uuid.Nil.String(), readM, invalid, uuid.Nil, none},
		{"member", "a'; drop table", readM, invalid, uuid.Nil, none},
		{"member", "", permitM, denied, uuid.Nil, none},
		{"member", "", "/pratique.x.v1.S/Unknown", denied, uuid.Nil, none},
		{"member", "", "/pratique.x.v1.S/read", denied, uuid.Nil, none},
		{"member", "", "pratique.x.v1.S/Read", denied, uuid.Nil, none}, // without the leading slash
		{"viewer", "", readM, ok, tenantA, inA},
		{"viewer", "", createM, denied, uuid.Nil, none},
		{"closed", "", readM, disabled, tenantA, inA}, // whom and where the denial is noted
		{"closed", "", meM, ok, tenantA, inA},
		{"both", "", readM, invalid, uuid.Nil, none},
		{"both", "", meM, ok, uuid.Nil, none},
		{"both", "alpha", createM, ok, tenantA, inA},
		{"both", "beta", readM, ok, tenantB, inB},
		{"both", "beta", createM, denied, uuid.Nil, none}, // member in alpha only
		{"half", "alpha", readM, disabled, tenantA, inA},
		{"half", "beta", readM, ok, tenantB, inB},
		{"admin", "", readM, ok, uuid.Nil, all},
		{"admin", "gamma", readM, ok, tenantC, all},
		{"admin", "no-such", readM, mismatch, uuid.Nil, none},
		{"admin", "", settingsM, invalid, uuid.Nil, none},
		{"admin", "beta", settingsM, ok, tenantB, all},
		{"admin", "beta", createM, denied, uuid.Nil, none},
		{"auditor", "", readM, ok, uuid.Nil, all},
		{"auditor", "", writeM, denied, uuid.Nil, none},
		{"auditor", "alpha", writeM, denied, uuid.Nil, none},
		{"auditing", "", readM, ok, uuid.Nil, all},
		{"auditing", "", writeM, ok, tenantA, inA}, // a member's act carries a member's view
		{"auditing", "beta", writeM, denied, uuid.Nil, none},
		{"boss", "", createM, disabled, tenantA, inA}, // the system role does not open a closed tenant for a member's act
		{"boss", "", settingsM, ok, tenantA, all},
		{"stranger", "", meM, ok, uuid.Nil, none},
		{"stranger", "", readM, denied, uuid.Nil, none},
		{"stranger", "alpha", readM, mismatch, uuid.Nil, none},
	} {
		t.Run(c.who+" "+c.method+" "+c.header, func(t *testing.T) {
			table := testTable(t)
			caller, err := table.Identify(t.Context(), testPeople(), auth.Principal{Subject: c.who}, c.header, c.method)
			if err == nil {
				caller, err = table.Admit(caller, c.method)
			}
			reason, _ := fault.ReasonOf(err)
			require.Equal(t, c.want, reason, "%v", err)
			require.Equal(t, c.tenant, caller.Tenant)
			require.Equal(t, c.scope, caller.Scope())
			if reason == disabled {
				require.Empty(t, caller.SystemRoles)
				require.Empty(t, caller.Tenants)
			}
		})
	}
}

func TestServicesCallOnlyWhatNamesThem(t *testing.T) {
	t.Parallel()
	table := testTable(t)
	for _, c := range []struct {
		service, method string
		ok              bool
	}{
		{"dispatch", permitM, true}, {"release", permitM, false}, {"dispatch", readM, false}, {"dispatch", meM, false},
		{"dispatch", createM, false}, {"", permitM, false}, {"", meM, false},
	} {
		caller, err := table.Identify(t.Context(), testPeople(), auth.Principal{Service: c.service}, "", c.method)
		require.NoError(t, err)
		require.Equal(t, c.ok, table.Check(caller, c.method) == nil, "%s %s", c.service, c.method)
	}
	caller, err := table.Identify(t.Context(), testPeople(), auth.Principal{Service: "dispatch"}, "gamma", permitM)
	require.NoError(t, err)
	require.Equal(t, tenantC, caller.Tenant)
	require.Equal(t, pg.AllTenants(), caller.Scope())
	require.Equal(t, "service:dispatch", caller.Actor())
}

func TestATokensTenantOnlyPreselects(t *testing.T) {
	t.Parallel()
	table := testTable(t)
	identify := func(who, claim, header string) (auth.Caller, error) {
		return table.Identify(t.Context(), testPeople(), auth.Principal{Subject: who, Tenant: claim}, header, readM)
	}
	c, err := identify("both", "beta", "")
	require.NoError(t, err)
	require.Equal(t, tenantB, c.Tenant)
	c, err = identify("both", "beta", "alpha")
	require.NoError(t, err)
	require.Equal(t, tenantA, c.Tenant, "the header wins")
	_, err = identify("both", "gamma", "")
	require.True(t, fault.Is(err, errorsv1.Reason_REASON_INVALID_TENANT), "a claim opens no tenant")
	c, err = identify("member", "gamma", "")
	require.NoError(t, err)
	require.Equal(t, tenantA, c.Tenant)
}

func TestADirectoryThatCannotAnswerDeniesNothingAndAllowsNothing(t *testing.T) {
	t.Parallel()
	broken := people{err: errors.New("database gone")}
	_, err := testTable(t).Identify(t.Context(), broken, auth.Principal{Subject: "admin"}, "", meM)
	require.ErrorContains(t, err, "database gone")
	_, typed := fault.ReasonOf(err)
	require.False(t, typed, "it is our problem, shown as internal")
}

func TestCallerHasRolesOnlyWhereTheyHold(t *testing.T) {
	t.Parallel()
	c := auth.Caller{
		Subject: "x", SystemRoles: []auth.Role{auth.Auditor}, Tenant: tenantA,
		Tenants: map[uuid.UUID][]auth.Role{tenantA: {auth.TenantViewer, auth.SystemAdmin}, tenantB: {auth.TenantAdmin}},
	}
	require.True(t, c.Has(auth.Auditor))
	require.True(t, c.Has(auth.TenantViewer))
	require.False(t, c.Has(auth.TenantAdmin), "of another tenant")
	require.False(t, c.Has(auth.SystemAdmin), "a system role in a tenant counts nowhere")
	require.False(t, auth.Caller{Tenants: map[uuid.UUID][]auth.Role{uuid.Nil: {auth.TenantAdmin}}}.Has(auth.TenantAdmin))
	require.Equal(t, "user:x", c.Actor())
	require.Equal(t, "anonymous", auth.From(t.Context()).Actor())
	require.Equal(t, c, auth.From(auth.With(t.Context(), c)))

	var roles auth.Roleset
	roles.AddSystem(auth.TenantAdmin)
	roles.AddTenant(tenantA, auth.SystemAdmin, "alpha", false)
	roles.AddTenant(tenantA, "owner", "alpha", false)
	require.Zero(t, roles)
}
