package evidence

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	evidencev1 "github.com/pratique-io/pratique/gen/pratique/evidence/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/document"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/internal/oci"
	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/internal/rpc"
	"github.com/pratique-io/pratique/services/evidence/internal/domain"
	"github.com/pratique-io/pratique/services/evidence/internal/store"
)

// people is a verifier and directory of tokens that are their own meaning.
type people struct{ tenants map[string]uuid.UUID }

func (p people) Verify(_ context.Context, token string) (auth.Principal, error) {
	if token == "release" || token == "dispatch" {
		return auth.Principal{Service: token}, nil
	}
	return auth.Principal{Subject: "test|" + token}, nil
}

func (p people) Resolve(_ context.Context, who auth.Principal) (auth.Roleset, error) {
	var s auth.Roleset
	if who.Subject == "test|auditor" {
		s.System = []auth.Role{auth.Auditor}
	}
	if tenant, ok := p.tenants[who.Subject[len("test|"):]]; ok {
		s.AddTenant(tenant, auth.TenantViewer, "t", false)
	}
	return s, nil
}

func (people) Tenant(context.Context, auth.TenantRef) (uuid.UUID, bool, error) {
	return uuid.Nil, false, nil
}

// serve runs the service's API over a real connection, with the real chain in front of it.
func (w *world) serve(p people) *grpc.ClientConn {
	w.t.Helper()
	srv, _, err := rpc.NewServer(rpc.ServerConfig{Verifier: p, Directory: p, Log: slog.New(slog.DiscardHandler), Transport: rpc.Transport{Plaintext: true}})
	require.NoError(w.t, err)
	w.Register(srv)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(w.t, err)
	go func() { _ = srv.Serve(l) }()
	w.t.Cleanup(srv.Stop)
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(w.t, err)
	w.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func as(t testing.TB, token string) context.Context {
	return metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+token)
}

func reason(t testing.TB, err error) errorsv1.Reason {
	t.Helper()
	require.Error(t, err)
	return fault.Of(err).Reason()
}

// read takes a whole document from its stream.
func read(t testing.TB, c evidencev1.EvidenceServiceClient, token string, req *evidencev1.ReadDocumentRequest) (*evidencev1.Document, []byte, error) {
	t.Helper()
	stream, err := c.ReadDocument(as(t, token), req)
	require.NoError(t, err)
	var head *evidencev1.Document
	var body bytes.Buffer
	for first := true; ; first = false {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return head, body.Bytes(), nil
		}
		if err != nil {
			return head, body.Bytes(), err
		}
		require.Equal(t, first, m.GetDocument() != nil, "the header is in the first message only")
		require.LessOrEqual(t, len(m.GetChunk()), 64<<10)
		if first {
			head = m.GetDocument()
			require.Empty(t, m.GetChunk())
		}
		body.Write(m.GetChunk())
	}
}

func TestEvidenceIsReadByThoseWhoMay(t *testing.T) {
	t.Parallel()
	w, r := newWorld(t), newRun(t)
	r.findings["linux/amd64"] = []document.Finding{finding("CVE-1", "critical", 9, "curl", "7")}
	big := `{"spdxVersion":"SPDX-2.3","x":"` + string(bytes.Repeat([]byte("y"), 300_000)) + `"}`
	r.layers = func(k document.Kind, layers []document.Layer) []document.Layer {
		for i, l := range layers {
			if k == document.SBOM && l.Format == document.SPDX && l.Platform == "linux/amd64" {
				layers[i] = r.raw(l.Platform, l.Format, big)
			}
		}
		return layers
	}
	w.succeed(r)
	w.settle()
	conn := w.serve(people{map[string]uuid.UUID{"own": r.tenant, "stranger": uuid.New()}})
	c := evidencev1.NewEvidenceServiceClient(conn)
	id := r.request.String()
	text := func(s string) *string { return &s }

	t.Run("the bundle lists every document", func(t *testing.T) {
		for _, who := range []string{"own", "auditor", "release"} {
			b, err := c.GetBundle(as(t, who), &evidencev1.GetBundleRequest{Id: id})
			require.NoError(t, err, who)
			require.Len(t, b.GetDocuments(), 12)
			require.Equal(t, "source", b.GetDocuments()[0].GetKind())
			require.Equal(t, "json", b.GetDocuments()[0].GetFormat())
			require.Equal(t, r.run, b.GetRunId())
			require.Equal(t, "quarantine", b.GetDecision().GetDecision())
			require.EqualValues(t, 1, b.GetDecision().GetVersion())
			require.NotEmpty(t, b.GetEvidenceHash())
			require.Equal(t, true, b.GetDecision().GetPolicySnapshot().AsMap()["enabled"])
		}
	})

	t.Run("other tenants and other services see nothing", func(t *testing.T) {
		calls := map[string]func(ctx context.Context) error{
			"GetBundle": func(ctx context.Context) error {
				_, err := c.GetBundle(ctx, &evidencev1.GetBundleRequest{Id: id})
				return err
			},
			"ExplainDecision": func(ctx context.Context) error {
				_, err := c.ExplainDecision(ctx, &evidencev1.ExplainDecisionRequest{Id: id})
				return err
			},
			"ReadDocument": func(ctx context.Context) error {
				s, err := c.ReadDocument(ctx, &evidencev1.ReadDocumentRequest{Id: id, Kind: "source"})
				require.NoError(t, err)
				_, err = s.Recv()
				return err
			},
		}
		for name, call := range calls {
			require.NoError(t, call(as(t, "own")), name)
			require.Equal(t, errorsv1.Reason_REASON_NOT_FOUND, reason(t, call(as(t, "stranger"))), name)
			require.Equal(t, errorsv1.Reason_REASON_PERMISSION_DENIED, reason(t, call(as(t, "dispatch"))), name)
			require.Equal(t, errorsv1.Reason_REASON_PERMISSION_DENIED, reason(t, call(as(t, "nobody"))), name)
			require.Equal(t, errorsv1.Reason_REASON_UNAUTHORIZED, reason(t, call(t.Context())), name)
		}
		_, err := c.GetCurrentDecision(as(t, "own"), &evidencev1.GetCurrentDecisionRequest{ImportId: id})
		require.Equal(t, errorsv1.Reason_REASON_PERMISSION_DENIED, reason(t, err), "for release alone")
		_, err = c.GetBundle(as(t, "own"), &evidencev1.GetBundleRequest{Id: "x"})
		require.Equal(t, errorsv1.Reason_REASON_INVALID_ID, reason(t, err))
		_, err = c.GetBundle(as(t, "own"), &evidencev1.GetBundleRequest{Id: uuid.NewString()})
		require.Equal(t, errorsv1.Reason_REASON_NOT_FOUND, reason(t, err))
	})

	t.Run("every rule is explained", func(t *testing.T) {
		x, err := c.ExplainDecision(as(t, "own"), &evidencev1.ExplainDecisionRequest{Id: id})
		require.NoError(t, err)
		require.Len(t, x.GetRules(), 8)
		require.Equal(t, "max_critical", x.GetRules()[4].GetRule())
		require.Equal(t, "fail", x.GetRules()[4].GetOutcome())
		require.InDelta(t, 1, x.GetRules()[4].GetInputs().AsMap()["found"], 0)
		require.Equal(t, x.GetDecision().GetReasons()[0], x.GetRules()[4].GetInputs().AsMap()["reason"])
	})

	t.Run("a document is streamed whole", func(t *testing.T) {
		head, body, err := read(t, c, "own", &evidencev1.ReadDocumentRequest{Id: id, Kind: "sbom", Platform: text("linux/amd64")})
		require.NoError(t, err)
		require.Equal(t, "spdx-json", head.GetFormat(), "SPDX where nothing is chosen")
		require.Equal(t, big, string(body))
		require.EqualValues(t, len(big), head.GetSize())
		require.True(t, oci.Digest(head.GetDigest()).Matches(body))
		head, body, err = read(t, c, "auditor", &evidencev1.ReadDocumentRequest{Id: id, Kind: "report"})
		require.NoError(t, err)
		require.True(t, oci.Digest(head.GetDigest()).Matches(body))
		require.Equal(t, "json", head.GetFormat())
	})

	t.Run("where there is a choice it has to be made", func(t *testing.T) {
		for name, q := range map[string]struct {
			req   *evidencev1.ReadDocumentRequest
			field string
			says  string
		}{
			"no platform":      {&evidencev1.ReadDocumentRequest{Kind: "sbom"}, "platform", "linux/amd64, linux/arm64/v8"},
			"an odd platform":  {&evidencev1.ReadDocumentRequest{Kind: "vulnerabilities", Platform: text("plan9")}, "platform", "linux/amd64, linux/arm64/v8"},
			"an odd format":    {&evidencev1.ReadDocumentRequest{Kind: "sbom", Platform: text("linux/amd64"), Format: text("yaml")}, "format", "cyclonedx-json, json, spdx-json, syft-json"},
			"an odd kind":      {&evidencev1.ReadDocumentRequest{Kind: "virus"}, "kind", "source, sbom, vulnerabilities, report"},
			"a needless place": {&evidencev1.ReadDocumentRequest{Kind: "source", Platform: text("linux/amd64")}, "platform", "covers the whole image"},
		} {
			q.req.Id = id
			_, _, err := read(t, c, "own", q.req)
			require.Equal(t, errorsv1.Reason_REASON_VALIDATION_FAILED, reason(t, err), name)
			require.Contains(t, fault.Of(err).FieldErrors()[q.field], q.says, name)
		}
		_, _, err := read(t, c, "own", &evidencev1.ReadDocumentRequest{Id: id, Kind: "sbom", Format: text("yaml")})
		require.Len(t, fault.Of(err).FieldErrors(), 2, "all problems at once")
	})

	t.Run("a damaged document ends in an error, not in an end", func(t *testing.T) {
		w.documents.intercept(func(rw http.ResponseWriter, req *http.Request) bool {
			if req.Method == http.MethodGet && bytes.Contains([]byte(req.URL.Path), []byte("/blobs/")) {
				damaged := append([]byte(big[:len(big)-3]), 'z', big[len(big)-2], big[len(big)-1])
				_, _ = rw.Write(damaged)
				return true
			}
			return false
		})
		_, body, err := read(t, c, "own", &evidencev1.ReadDocumentRequest{Id: id, Kind: "sbom", Platform: text("linux/amd64")})
		require.Equal(t, errorsv1.Reason_REASON_INTERNAL, reason(t, err))
		require.Less(t, len(body), len(big))
		w.documents.intercept(func(rw http.ResponseWriter, _ *http.Request) bool { rw.WriteHeader(http.StatusBadGateway); return true })
		_, _, err = read(t, c, "own", &evidencev1.ReadDocumentRequest{Id: id, Kind: "report"})
		require.Equal(t, errorsv1.Reason_REASON_DEPENDENCY_UNAVAILABLE, reason(t, err))
		w.documents.intercept(nil)
	})
}

func TestReleaseAsksForTheDecisionAsItIsNow(t *testing.T) {
	t.Parallel()
	w, r := newWorld(t), newRun(t)
	c := evidencev1.NewEvidenceServiceClient(w.serve(people{}))
	ask := func() (*evidencev1.CurrentDecision, error) {
		return c.GetCurrentDecision(as(t, "release"), &evidencev1.GetCurrentDecisionRequest{ImportId: r.request.String()})
	}
	_, err := ask()
	require.Equal(t, errorsv1.Reason_REASON_NOT_FOUND, reason(t, err))
	w.succeed(r)
	_, err = ask()
	require.Equal(t, errorsv1.Reason_REASON_NOT_FOUND, reason(t, err), "nothing is decided yet")
	x, err := c.ExplainDecision(as(t, "auditor"), &evidencev1.ExplainDecisionRequest{Id: r.request.String()})
	require.NoError(t, err)
	require.Nil(t, x.GetDecision())
	require.Equal(t, "incomplete", x.GetRules()[0].GetOutcome())
	w.settle()
	d, err := ask()
	require.NoError(t, err)
	require.Equal(t, "pass", d.GetDecision())
	require.True(t, d.GetFresh())
	require.Equal(t, r.digest(), d.GetDigest())
	require.Equal(t, w.bundle(r).Hash, d.GetEvidenceHash())
	require.Equal(t, domain.DefaultPolicy().Hash(), d.GetPolicyHash())
	require.Equal(t, r.target(w)+"@"+r.digest(), d.GetInternalImageRef())
	require.Equal(t, []string{string(r.image.Referrers[0].Digest)}, d.GetReferrers())
	require.EqualValues(t, 1, d.GetVersion())
	w.advance(d.GetValidUntil().AsTime().Sub(w.now()))
	d, err = ask()
	require.NoError(t, err)
	require.False(t, d.GetFresh(), "by the clock, before any loop has run")
	w.turn("evidence_expire")
	d, err = ask()
	require.NoError(t, err)
	require.False(t, d.GetFresh())
}

func (w *world) setPolicy(tenant uuid.UUID, change func(*domain.Policy)) domain.Policy {
	w.t.Helper()
	p := domain.DefaultPolicy()
	change(&p)
	require.NoError(w.t, w.db.Work(w.t.Context(), func(tx pgx.Tx) error {
		_, err := tx.Exec(w.t.Context(), `insert into policy_document (tenant_id, id, version, document, hash, updated_at, updated_by)
			values ($1, gen_random_uuid(), 4, $2, $3, $4, 'somebody')`, tenant, p.Content(), p.Hash(), start)
		return err
	}))
	return p
}

func TestADryRunIsHeldBackFromRelease(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := evidencev1.NewEvidenceServiceClient(w.serve(people{}))
	for releasable, want := range map[bool]string{false: "quarantine", true: "pass"} {
		r := newRun(t)
		r.findings["linux/amd64"] = []document.Finding{finding("CVE-1", "critical", 9, "curl", "7")}
		w.setPolicy(r.tenant, func(p *domain.Policy) { p.Mode, p.DryRunReleasable = domain.DryRun, releasable })
		w.succeed(r)
		w.settle()
		m := w.verdict(r)
		require.Equal(t, "pass", m.GetDecision())
		require.Equal(t, "quarantine", m.GetWouldHaveDecided())
		require.Equal(t, releasable, m.GetDryRunReleasable())
		require.Len(t, m.GetReasons(), 1)
		d, err := c.GetCurrentDecision(as(t, "release"), &evidencev1.GetCurrentDecisionRequest{ImportId: r.request.String()})
		require.NoError(t, err)
		require.Equal(t, want, d.GetDecision())
	}
}

func TestPolicies(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	own, other := uuid.New(), uuid.New()
	c := evidencev1.NewPolicyServiceClient(w.serve(people{map[string]uuid.UUID{"own": own, "other": other}}))
	w.setPolicy(own, func(p *domain.Policy) { p.MaxP3 = 7 })
	yes, no, text, odd := true, false, own.String(), "x"

	p, err := c.GetOwnQuarantinePolicy(as(t, "own"), &evidencev1.GetOwnQuarantinePolicyRequest{})
	require.NoError(t, err)
	require.EqualValues(t, 7, p.GetMaxP3())
	require.EqualValues(t, 4, p.GetVersion())
	require.Equal(t, own.String(), p.GetTenantId())
	require.Equal(t, start, p.GetUpdatedAt().AsTime())
	p, err = c.GetOwnQuarantinePolicy(as(t, "other"), &evidencev1.GetOwnQuarantinePolicyRequest{})
	require.NoError(t, err)
	require.Zero(t, p.GetMaxP3())
	require.Nil(t, p.TenantId, "the default is nobody's")
	require.Equal(t, []string{"low", "unknown"}, p.GetSeverityMapping().GetP4())
	require.EqualValues(t, 120, p.GetMaxVulndbAgeHours())
	p, err = c.GetQuarantinePolicy(as(t, "auditor"), &evidencev1.GetQuarantinePolicyRequest{TenantId: &text})
	require.NoError(t, err)
	require.EqualValues(t, 7, p.GetMaxP3())
	p, err = c.GetQuarantinePolicy(as(t, "auditor"), &evidencev1.GetQuarantinePolicyRequest{AllTenants: &yes})
	require.NoError(t, err)
	require.Zero(t, p.GetVersion())
	for _, req := range []*evidencev1.GetQuarantinePolicyRequest{{}, {AllTenants: &no}, {TenantId: &text, AllTenants: &yes}, {TenantId: &odd}} {
		_, err := c.GetQuarantinePolicy(as(t, "auditor"), req)
		require.Equal(t, errorsv1.Reason_REASON_VALIDATION_FAILED, reason(t, err), req)
	}
	_, err = c.GetQuarantinePolicy(as(t, "own"), &evidencev1.GetQuarantinePolicyRequest{TenantId: &text})
	require.Equal(t, errorsv1.Reason_REASON_PERMISSION_DENIED, reason(t, err))
	_, err = c.GetOwnQuarantinePolicy(as(t, "auditor"), &evidencev1.GetOwnQuarantinePolicyRequest{})
	require.Equal(t, errorsv1.Reason_REASON_INVALID_TENANT, reason(t, err))
}

func TestTenantsAreKeptApartByTheDatabaseToo(t *testing.T) {
	t.Parallel()
	w, r := newWorld(t), newRun(t)
	r.findings["linux/amd64"] = []document.Finding{finding("CVE-1", "critical", 9, "curl", "7")}
	w.setPolicy(r.tenant, func(*domain.Policy) {})
	w.succeed(r)
	w.settle()
	tables := []string{"request", "bundle", "bundle_transition", "document", "component", "finding", "policy_document", "decision", "quarantine_copy"}
	for _, table := range tables {
		count := func(scope pg.Scope) (n int) {
			require.NoError(t, w.db.Read(t.Context(), scope, func(tx pgx.Tx) error {
				return tx.QueryRow(t.Context(), "select count(*) from "+table).Scan(&n)
			}))
			return n
		}
		require.Positive(t, count(pg.OneTenant(r.tenant)), table)
		require.Zero(t, count(pg.OneTenant(uuid.New())), table)
		require.Zero(t, count(pg.Scope{}), table)
	}
	// and by the queries, with row-level security lifted: a scope for one tenant over a transaction for all
	stranger := pg.OneTenant(uuid.New())
	require.NoError(t, w.db.Read(t.Context(), pg.AllTenants(), func(tx pgx.Tx) error {
		_, err := store.Bundle(t.Context(), tx, stranger, r.request)
		require.ErrorIs(t, err, store.ErrNone)
		_, err = store.Decision(t.Context(), tx, stranger, r.request)
		require.ErrorIs(t, err, store.ErrNone)
		list, err := store.Documents(t.Context(), tx, stranger, r.request, "")
		require.NoError(t, err)
		require.Empty(t, list)
		return nil
	}))
	for _, table := range []string{"decision", "bundle_transition"} {
		err := w.db.Work(t.Context(), func(tx pgx.Tx) error {
			_, err := tx.Exec(t.Context(), "delete from "+table)
			return err
		})
		require.True(t, pg.IsDenied(err), "%s is append-only", table)
	}
}
