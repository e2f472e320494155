package app

import (
	"errors"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/metadata"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/internal/idempotency"
	"github.com/pratique-io/pratique/internal/oci"
	"github.com/pratique-io/pratique/services/intake/internal/domain"
	"github.com/pratique-io/pratique/services/intake/internal/store"
)

func TestCreate(t *testing.T) {
	t.Parallel()
	t.Run("an admitted ask is pending, pinned, and told once", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		b.registered("EPR-1")
		ask := b.ask("library/nginx:1", "EPR-1")
		ask.Justification = "we need it"
		out := b.create(ask)
		id := uuid.MustParse(out.GetId())

		require.Equal(t, "pending", out.GetStatus())
		require.Equal(t, "awaiting_approval", out.GetExecutionState())
		require.Equal(t, "not_ready", out.GetReleaseState())
		require.Equal(t, digestOf("registry.example.com/library/nginx:1"), out.GetSourceImageDigest())
		require.Equal(t, "library/nginx:1", out.GetSourceImageRef())
		require.Equal(t, "local", out.GetEprBasis())
		require.Len(t, out.GetPlatforms(), 1)
		require.Equal(t, b.member.PersonID.String(), out.GetRequestedByUserId())
		require.Equal(t, "pending", out.GetDecisionTimeline().GetDecisionStatus())

		require.Equal(t, []string{"RequestSubmitted"}, b.names(id))
		e := b.events(id)[0]
		require.EqualValues(t, 1, e.Sequence)
		require.Equal(t, "user:"+b.member.PersonID.String(), e.Actor)
		var msg intakev1.RequestSubmitted
		require.NoError(t, e.Decode(&msg))
		require.Equal(t, []string{b.member.PersonID.String()}, msg.GetChainRequesters())
		require.Equal(t, id.String(), msg.GetChainId())
		require.Equal(t, 1, b.count(`select count(*) from request_transition where request_id = $1 and event_id = $2`, id, e.ID))
	})
	t.Run("a scan is approved by the system in the same transaction", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		out := b.create(b.scan("library/nginx:1"))
		require.Equal(t, "approved", out.GetStatus())
		require.Equal(t, "system", out.GetDecisionTimeline().GetDecidedByUserId())
		require.Nil(t, out.EprBasis)
		require.Equal(t, []string{"RequestSubmitted", "RequestApproved", "RequestStateChanged"}, b.names(uuid.MustParse(out.GetId())))
	})
	t.Run("validate_only checks all and leaves nothing", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		b.registered("EPR-1")
		before := len(b.events(uuid.Nil))
		ask := b.ask("library/nginx:1", "EPR-1")
		ask.ValidateOnly = true
		out := b.create(ask)
		require.Empty(t, out.GetId())
		require.NotEmpty(t, out.GetSourceImageDigest())
		require.Zero(t, b.count(`select count(*) from request`))
		require.Len(t, b.events(uuid.Nil), before)

		ask.EprRecordID = "EPR-2"
		_, err := b.Create(b.as(b.member), nil, ask)
		b.refuses(err, errorsv1.Reason_REASON_EPR_REGISTRATION_REQUIRED)
		require.Zero(t, b.count(`select count(*) from denial`), "a question is no denied ask")

		ask.ValidateOnly, ask.EprRecordID = false, "EPR-1"
		existing := b.create(ask).GetId()
		ask.ValidateOnly = true
		_, err = b.Create(b.as(b.member), nil, ask)
		require.Equal(t, existing, b.refuses(err, errorsv1.Reason_REASON_DUPLICATE_REQUEST).Details()["existing_id"])
	})
	t.Run("one open request per tenant, type and digest, however many ask at once", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		b.registered("EPR-1")
		var wg sync.WaitGroup
		errs := make([]error, 6)
		for i := range errs {
			wg.Go(func() {
				_, errs[i] = b.Create(b.as(b.member), &intakev1.CreateImportRequestRequest{}, b.ask("library/nginx:1", "EPR-1"))
			})
		}
		wg.Wait()
		made := 0
		for _, err := range errs {
			if err == nil {
				made++
				continue
			}
			require.NotEmpty(t, b.refuses(err, errorsv1.Reason_REASON_DUPLICATE_REQUEST).Details()["existing_id"])
		}
		require.Equal(t, 1, made)
		require.Equal(t, 1, b.count(`select count(*) from request`))
		b.create(b.scan("library/nginx:1")) // another type is another request
	})
}

func TestDenials(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.registered("EPR-1")
	ask := b.ask("library/nginx:1", "EPR-1")
	create := func(ask Ask) error {
		_, err := b.Create(b.as(b.member), &intakev1.CreateImportRequestRequest{}, ask)
		return err
	}
	denied := func(reason string, n int) {
		t.Helper()
		require.Equal(t, n, b.count(`select coalesce(sum(count), 0) from denial where tenant_id = $1 and reason = $2`, b.tenant, reason))
		told := 0
		for _, e := range b.events(uuid.Nil) {
			var msg intakev1.RequestDenied
			if e.Type == nameOf(&msg) && e.Decode(&msg) == nil && msg.GetCode() == reason {
				told++
				require.Equal(t, b.member.PersonID.String(), msg.GetSubjectId())
				require.Equal(t, "CreateImportRequest", msg.GetMethod())
			}
		}
		require.Equal(t, n, told)
	}

	b.entitle(b.tenant, domain.Capabilities{OndemandScanning: true})
	for n := range 2 {
		f := b.refuses(create(ask), errorsv1.Reason_REASON_TENANT_CAPABILITY_NOT_ENTITLED)
		require.Equal(t, "quarantine_request", f.Details()["capability_key"])
		require.Equal(t, b.tenant.String(), f.Details()["tenant_id"])
		denied("tenant_capability_not_entitled", n+1)
	}
	require.Zero(t, b.pins, "the source is not asked for a denied call")

	b.entitle(b.tenant, domain.Capabilities{QuarantineRequest: true})
	b.set.TrustedRegistry = "trusted.example.com"
	for _, outside := range []string{"other.example.com/red/x", "trusted.example.com/blue/x", "trusted.example.com/redx/x"} {
		ref, err := oci.ParseDestination(outside)
		require.NoError(t, err)
		bad := ask
		bad.Destination = &ref
		b.refuses(create(bad), errorsv1.Reason_REASON_DESTINATION_NOT_ALLOWED)
	}
	denied("destination_not_allowed", 3)

	unknown := ask
	unknown.EprRecordID = "EPR-9"
	f := b.refuses(create(unknown), errorsv1.Reason_REASON_EPR_REGISTRATION_REQUIRED)
	require.Equal(t, "none", f.Details()["epr_status"])
	b.clock = b.clock.Add(365 * day)
	f = b.refuses(create(ask), errorsv1.Reason_REASON_EPR_REGISTRATION_REQUIRED)
	require.Equal(t, "expired", f.Details()["lifecycle_status"])
	b.clock = b.clock.Add(-365 * day)
	denied("epr_registration_required", 2)

	b.pinErr = fault.New(errorsv1.Reason_REASON_SOURCE_NOT_ALLOWED, "no")
	b.refuses(create(ask), errorsv1.Reason_REASON_SOURCE_NOT_ALLOWED)
	denied("source_not_allowed", 1)
	b.pinErr = fault.New(errorsv1.Reason_REASON_SOURCE_NOT_FOUND, "no")
	b.refuses(create(ask), errorsv1.Reason_REASON_SOURCE_NOT_FOUND)
	denied("source_not_found", 0)
	b.pinErr = nil

	b.during = func() { b.entitle(b.tenant, domain.Capabilities{}) }
	b.refuses(create(ask), errorsv1.Reason_REASON_TENANT_CAPABILITY_NOT_ENTITLED)
	b.during = nil
	denied("tenant_capability_not_entitled", 3)

	_, err := b.db.WorkerPool().Exec(t.Context(), `update tenant set status = 'disabled' where tenant_id = $1`, b.tenant)
	require.NoError(t, err)
	b.refuses(create(ask), errorsv1.Reason_REASON_TENANT_DISABLED)
	denied("tenant_disabled", 1)
	require.Zero(t, b.count(`select count(*) from request`), "a denied call leaves no request")
	require.Zero(t, b.count(`select count(*) from request_transition`))
}

func TestIdempotency(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.registered("EPR-1")
	in := &intakev1.CreateImportRequestRequest{EprRecordId: "EPR-1", SourceImageRef: "library/nginx:1"}
	ctx := idempotency.With(b.as(b.member), "key-1", "/CreateImportRequest")
	ctx = metadata.NewIncomingContext(ctx, metadata.Pairs(auth.HeaderIdempotency, "key-1"))
	first, err := b.Create(ctx, in, b.ask("library/nginx:1", "EPR-1"))
	require.NoError(t, err)

	b.pinErr = errors.New("the source is gone")
	b.entitle(b.tenant, domain.Capabilities{})
	again, err := b.Create(ctx, in, b.ask("library/nginx:1", "EPR-1"))
	require.NoError(t, err, "the first answer is repeated whatever has changed since")
	require.Equal(t, first.GetId(), again.GetId())
	require.Equal(t, 1, b.count(`select count(*) from request`))

	_, err = b.Create(ctx, &intakev1.CreateImportRequestRequest{EprRecordId: "EPR-2"}, b.ask("library/nginx:1", "EPR-1"))
	b.refuses(err, errorsv1.Reason_REASON_IDEMPOTENCY_KEY_REUSED)

	b.entitle(b.tenant, domain.Capabilities{QuarantineRequest: true})
	fresh := metadata.NewIncomingContext(idempotency.With(b.as(b.member), "key-2", "/CreateImportRequest"), metadata.Pairs(auth.HeaderIdempotency, "key-2"))
	_, err = b.Create(fresh, in, b.ask("library/redis:1", "EPR-1"))
	require.Error(t, err)
	b.pinErr = nil
	_, err = b.Create(fresh, in, b.ask("library/redis:1", "EPR-1"))
	require.NoError(t, err, "a failed call does not use the key up")
}

func TestPeople(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.registered("EPR-1")
	stranger := auth.Caller{Subject: "iss|new", Name: "Nia", Email: "nia@example.com", Tenant: b.tenant, Tenants: b.member.Tenants}
	out, err := b.Create(b.as(stranger), &intakev1.CreateImportRequestRequest{}, b.ask("library/nginx:1", "EPR-1"))
	require.NoError(t, err)
	known := b.person("iss|new")
	require.Equal(t, known.ID.String(), out.GetRequestedByUserId())
	require.Equal(t, []string{"PersonChanged"}, b.names(known.ID))

	_, err = b.Me(b.as(stranger))
	require.NoError(t, err)
	require.NoError(t, b.See(t.Context(), auth.Principal{Subject: "iss|new", Name: "Nia", Email: "nia@example.com"}))
	require.Len(t, b.names(known.ID), 1, "nothing new, nothing told")
	require.NoError(t, b.See(t.Context(), auth.Principal{Subject: "iss|new", Name: "Nia N.", Groups: []string{"ops"}}))
	renamed := b.person("iss|new")
	require.Equal(t, "Nia N.", renamed.Name)
	require.Equal(t, "nia@example.com", renamed.Email, "a token without e-mail takes none away")
	require.EqualValues(t, 2, renamed.Version)
	require.Len(t, b.names(known.ID), 2)
	require.NoError(t, b.See(t.Context(), auth.Principal{Service: "dispatch"}))
}

func TestBootstrap(t *testing.T) {
	t.Parallel()
	b := setup(t)
	count := func() (n int) {
		for _, name := range b.names(uuid.Nil) {
			if name == "TenantChanged" || name == "PersonChanged" || name == "RoleBindingChanged" {
				n++
			}
		}
		return n
	}
	require.Equal(t, 6, count(), "two tenants, two people, two bindings")
	again := Founding{
		Tenants:  []store.Tenant{{Slug: "red", Name: "Another name"}},
		Bindings: []FoundingBinding{{Person: store.Person{Subject: "iss|mia"}, Role: auth.TenantMember, TenantSlug: "red"}},
	}
	require.NoError(t, b.Bootstrap(t.Context(), again))
	require.Equal(t, 6, count(), "a second start tells nothing")
	require.Equal(t, "Mia", b.person("iss|mia").Name)

	require.ErrorContains(t, b.Bootstrap(t.Context(), Founding{Tenants: []store.Tenant{{ID: uuid.New(), Slug: "red", Name: "Red"}}}), "exists with id")
	require.ErrorContains(t, b.Bootstrap(t.Context(), Founding{Bindings: []FoundingBinding{
		{Person: store.Person{Subject: "iss|x"}, Role: auth.TenantMember, TenantSlug: "green"}}}), "does not exist")
	require.Zero(t, b.count(`select count(*) from person where subject = 'iss|x'`), "all or nothing")
}
