package app

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	approvalv1 "github.com/pratique-io/pratique/gen/pratique/approval/v1"
	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/bus"
	"github.com/pratique-io/pratique/internal/directory"
	"github.com/pratique-io/pratique/internal/event"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/internal/idempotency"
	"github.com/pratique-io/pratique/internal/oci"
	"github.com/pratique-io/pratique/internal/outbox"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/internal/pg/pgtest"
	"github.com/pratique-io/pratique/services/intake/internal/domain"
	"github.com/pratique-io/pratique/services/intake/internal/source"
	"github.com/pratique-io/pratique/services/intake/internal/store"
)

const day = 24 * time.Hour

// bundle is one intake on a database of its own, with one tenant that may do everything and two people in it.
type bundle struct {
	*App
	t      *testing.T
	db     *pg.DB
	clock  time.Time
	images map[string]source.Image // by reference
	pinErr error
	pins   int
	during func() // runs while the source is asked
	tenant uuid.UUID
	other  uuid.UUID
	member auth.Caller
	admin  auth.Caller // system
}

func (b *bundle) Pin(_ context.Context, ref oci.Reference) (source.Image, error) {
	b.pins++
	if b.during != nil {
		b.during()
	}
	if b.pinErr != nil {
		return source.Image{}, b.pinErr
	}
	if image, ok := b.images[ref.String()]; ok {
		return image, nil
	}
	return source.Image{Digest: digestOf(ref.String()), Platforms: []domain.Platform{{OS: "linux", Architecture: "amd64", Digest: digestOf("amd64" + ref.String())}}}, nil
}

func digestOf(text string) string {
	hex := uuid.NewSHA1(uuid.Nil, []byte(text)).String()
	hex = strings.ReplaceAll(hex, "-", "")
	return "sha256:" + hex + hex
}

func setup(t *testing.T) *bundle {
	t.Helper()
	b := &bundle{t: t, clock: time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC), images: map[string]source.Image{}}
	b.db = pgtest.New(t, "intake", store.Migrations, outbox.Migrations, bus.Migrations, idempotency.Migrations, directory.Migrations)
	b.App = New(b.db, b, Settings{EprEnforce: true, EprValidity: 365 * day, EprWindow: 30 * day}, func() time.Time { return b.clock })
	require.NoError(t, b.Bootstrap(t.Context(), Founding{
		Tenants: []store.Tenant{{Slug: "red", Name: "Red"}, {Slug: "blue", Name: "Blue"}},
		Bindings: []FoundingBinding{
			{Person: store.Person{Subject: "iss|root", Name: "Root"}, Role: auth.SystemAdmin},
			{Person: store.Person{Subject: "iss|mia", Name: "Mia", Email: "mia@example.com"}, Role: auth.TenantMember, TenantSlug: "red"},
		},
	}))
	b.tenant, b.other = b.tenantID("red"), b.tenantID("blue")
	b.member = auth.Caller{Subject: "iss|mia", Tenant: b.tenant, Tenants: map[uuid.UUID][]auth.Role{b.tenant: {auth.TenantMember}}}
	b.member.PersonID = b.person("iss|mia").ID
	b.admin = auth.Caller{Subject: "iss|root", SystemRoles: []auth.Role{auth.SystemAdmin}, PersonID: b.person("iss|root").ID}
	for _, tenant := range []uuid.UUID{b.tenant, b.other} {
		b.entitle(tenant, domain.Capabilities{QuarantineRequest: true, QuarantineRelease: true, OndemandScanning: true})
	}
	return b
}

func (b *bundle) tenantID(slug string) uuid.UUID {
	var out store.Tenant
	require.NoError(b.t, b.db.Read(b.t.Context(), pg.AllTenants(), func(tx pgx.Tx) error {
		var err error
		out, err = store.TenantBySlug(b.t.Context(), tx, slug)
		return err
	}))
	return out.ID
}

func (b *bundle) person(subject string) store.Person {
	var out store.Person
	require.NoError(b.t, b.db.Read(b.t.Context(), pg.AllTenants(), func(tx pgx.Tx) error {
		var err error
		out, err = store.PersonBySubject(b.t.Context(), tx, subject)
		return err
	}))
	return out
}

func (b *bundle) as(c auth.Caller) context.Context { return auth.With(b.t.Context(), c) }

func (b *bundle) entitle(tenant uuid.UUID, c domain.Capabilities) {
	_, err := b.PutDocument(b.as(b.admin), tenant, c, "test", nil)
	require.NoError(b.t, err)
}

// registered makes an approved EPR record of the tenant.
func (b *bundle) registered(record string) uuid.UUID {
	out, err := b.CreateEpr(b.as(b.member), &intakev1.CreateEprRegistrationRequest{}, Register{RecordID: record, Product: "p", Technology: "t"})
	require.NoError(b.t, err)
	id := uuid.MustParse(out.GetId())
	b.decide(caseEpr, id, true)
	return id
}

func (b *bundle) ask(ref, record string) Ask {
	parsed, err := oci.ParseSource("registry.example.com", ref)
	require.NoError(b.t, err)
	return Ask{Type: domain.TypeQuarantine, Source: parsed, EprRecordID: record, Method: "CreateImportRequest"}
}

func (b *bundle) scan(ref string) Ask {
	ask := b.ask(ref, "")
	ask.Type, ask.Method = domain.TypeScan, "CreateScanRequest"
	return ask
}

func (b *bundle) create(ask Ask) *intakev1.ImportRequest {
	out, err := b.Create(b.as(b.member), &intakev1.CreateImportRequestRequest{}, ask)
	require.NoError(b.t, err)
	return out
}

// approved makes a request that waits for dispatch.
func (b *bundle) approved(ref string) uuid.UUID {
	record := "EPR-" + strings.NewReplacer(":", "-", "/", "-").Replace(ref)
	b.registered(record)
	id := uuid.MustParse(b.create(b.ask(ref, record)).GetId())
	require.NoError(b.t, b.decide(caseImport, id, true))
	return id
}

func (b *bundle) request(id uuid.UUID) *domain.Request {
	r, err := b.Request(b.as(b.admin), id)
	require.NoError(b.t, err)
	return r
}

// fact makes an event of another service.
func (b *bundle) fact(aggregate uuid.UUID, sequence int64, msg proto.Message) event.Envelope {
	e, err := event.New(b.t.Context(), msg, event.Head{Subject: aggregate, Tenant: b.tenant, Sequence: sequence, Request: aggregate, Actor: "service:test"})
	require.NoError(b.t, err)
	return e
}

var reviewer = uuid.MustParse("01900000-0000-7000-8000-0000000000aa")

func (b *bundle) decide(kind string, subject uuid.UUID, yes bool) error {
	var msg proto.Message = &approvalv1.CaseApproved{Kind: kind, SubjectId: subject.String(), DecidedBy: reviewer.String(), Reason: "fine", DecidedAt: timestamppb.New(b.clock)}
	if !yes {
		msg = &approvalv1.CaseRejected{Kind: kind, SubjectId: subject.String(), DecidedBy: reviewer.String(), Reason: "no", DecidedAt: timestamppb.New(b.clock)}
	}
	e := b.fact(uuid.New(), 2, msg)
	return b.work(func(tx pgx.Tx) error { return b.Decide(b.t.Context(), tx, e) })
}

// work mimics the bus: a discard keeps the transaction, any other outcome rolls it back.
func (b *bundle) work(handle func(tx pgx.Tx) error) error {
	var kept error
	err := b.db.Work(b.t.Context(), func(tx pgx.Tx) error {
		err := handle(tx)
		var outcome *bus.Outcome
		if errors.As(err, &outcome) && strings.HasPrefix(outcome.Error(), "not_pending") {
			kept = err
			return nil
		}
		return err
	})
	return errors.Join(err, kept)
}

// fold delivers facts as one batch and answers the outcomes.
func (b *bundle) fold(batch ...event.Envelope) []error {
	var out []error
	require.NoError(b.t, b.db.Work(b.t.Context(), func(tx pgx.Tx) error {
		out = b.Fold(b.t.Context(), tx, batch)
		return nil
	}))
	return out
}

// events are the outbox's events of one aggregate (Nil: all), oldest first.
func (b *bundle) events(aggregate uuid.UUID) []event.Envelope {
	rows, err := b.db.WorkerPool().Query(b.t.Context(), `select body from outbox order by seq`)
	require.NoError(b.t, err)
	raws, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	require.NoError(b.t, err)
	var out []event.Envelope
	for _, raw := range raws {
		var e event.Envelope
		require.NoError(b.t, json.Unmarshal(raw, &e))
		if aggregate == uuid.Nil || e.Aggregate() == aggregate {
			out = append(out, e)
		}
	}
	return out
}

func (b *bundle) names(aggregate uuid.UUID) []string {
	var out []string
	for _, e := range b.events(aggregate) {
		out = append(out, shortName(e.Type))
	}
	return out
}

// count runs a count as the worker, which sees every tenant.
func (b *bundle) count(query string, args ...any) int {
	var n int
	require.NoError(b.t, b.db.WorkerPool().QueryRow(b.t.Context(), query, args...).Scan(&n))
	return n
}

func (b *bundle) refuses(err error, reason errorsv1.Reason) *fault.Fault {
	b.t.Helper()
	require.Error(b.t, err)
	f := fault.Of(err)
	require.Equal(b.t, reason.String(), f.Reason().String(), "%v", err)
	return f
}
