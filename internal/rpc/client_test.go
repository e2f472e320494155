package rpc_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/internal/rpc"
	"github.com/pratique-io/pratique/internal/telemetry"
)

// realTokens accepts service tokens of one key and otherwise what tokens accepts.
type realTokens struct{ services auth.Verifier }

func (r realTokens) Verify(ctx context.Context, token string) (auth.Principal, error) {
	if p, err := r.services.Verify(ctx, token); err == nil {
		return p, nil
	}
	return tokens{}.Verify(ctx, token)
}

func serviceKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return key
}

func TestCallsCarryTheCallerOrTheService(t *testing.T) {
	key := serviceKey(t)
	services, err := auth.NewVerifier(auth.Config{Services: auth.ServiceKeys{"dispatch": {&key.PublicKey}}})
	require.NoError(t, err)
	s := start(t, func(c *rpc.ServerConfig) { c.Verifier = realTokens{services} }, product()...)
	var got auth.Caller
	var request string
	s.handle = func(ctx context.Context, _ string) (proto.Message, error) {
		got, request = auth.From(ctx), telemetry.RequestID(ctx)
		return &emptypb.Empty{}, nil
	}
	conn := dial(t, s.addr, rpc.ClientConfig{
		Transport: rpc.Transport{Plaintext: true}, Signer: auth.NewServiceSigner("dispatch", key),
	})
	any, permit := auth.MethodName(pick(t, false)), "/pratique.intake.v1.RequestService/GetDispatchPermit"
	table, err := auth.BuildTable(nil)
	require.NoError(t, err)
	for _, m := range table.Methods() { // whichever method names dispatch, wherever it lives
		if rule, _ := table.Rule(m); len(rule.Services) == 1 && rule.Services[0] == "dispatch" {
			permit = m
		}
	}
	in := telemetry.WithRequestID(t.Context(), "request-77")
	call := func(ctx context.Context, method string) error {
		return conn.Invoke(ctx, method, &emptypb.Empty{}, &emptypb.Empty{})
	}

	requireReason(t, errorsv1.Reason_REASON_UNAUTHORIZED, call(in, any), "nothing is sent unasked")
	requireReason(t, errorsv1.Reason_REASON_UNAUTHORIZED, call(auth.ForwardCaller(in), any), "no incoming token")

	in = auth.WithBearer(in, "tenant_member", "alpha")
	require.NoError(t, call(auth.ForwardCaller(in), any))
	require.Equal(t, "user:tenant_member", got.Actor())
	require.Equal(t, tenant, got.Tenant)
	require.Equal(t, "request-77", request)
	in = auth.With(in, auth.Caller{Subject: "tenant_member", Tenant: tenant})
	require.NoError(t, call(auth.ForwardCaller(in), any))
	err = call(auth.ForTenant(auth.ForwardCaller(in), uuid.New()), any)
	requireReason(t, errorsv1.Reason_REASON_TENANT_CONTEXT_MISMATCH, err)

	require.NoError(t, call(auth.AsService(in), permit))
	require.Equal(t, "service:dispatch", got.Actor())
	require.NoError(t, call(auth.ForTenant(auth.AsService(in), tenant), permit))
	require.Equal(t, tenant, got.Tenant)
	requireReason(t, errorsv1.Reason_REASON_PERMISSION_DENIED, call(auth.ForwardCaller(in), permit), "a person is no service")

	// Metadata that a handler or a gateway put there does not outrank the chosen identity.
	mixed := metadata.AppendToOutgoingContext(auth.AsService(in), auth.HeaderAuthorization, "Bearer system_admin")
	require.NoError(t, call(mixed, permit))
	require.Equal(t, "service:dispatch", got.Actor())
}

func TestARefusedServiceIdentityIsOurFaultNotTheCallers(t *testing.T) {
	key := serviceKey(t)
	services, err := auth.NewVerifier(auth.Config{Services: auth.ServiceKeys{"dispatch": {&key.PublicKey}}})
	require.NoError(t, err)
	s := start(t, func(c *rpc.ServerConfig) { c.Verifier = services }, product()...)
	wrong := dial(t, s.addr, rpc.ClientConfig{
		Transport: rpc.Transport{Plaintext: true}, Signer: auth.NewServiceSigner("dispatch", serviceKey(t)),
	})
	err = wrong.Invoke(auth.AsService(t.Context()), auth.MethodName(pick(t, false)), &emptypb.Empty{}, &emptypb.Empty{})
	require.ErrorContains(t, err, "service identity was refused")
	require.Equal(t, errorsv1.Reason_REASON_INTERNAL, fault.Of(err).Reason())

	unsigned := dial(t, s.addr, rpc.ClientConfig{Transport: rpc.Transport{Plaintext: true}})
	err = unsigned.Invoke(auth.AsService(t.Context()), auth.MethodName(pick(t, false)), &emptypb.Empty{}, &emptypb.Empty{})
	require.ErrorContains(t, err, "without a signer")
}

func TestAServicePassesAnothersRefusalOn(t *testing.T) {
	inner := start(t, nil, product()...)
	inner.handle = func(context.Context, string) (proto.Message, error) {
		return nil, fault.New(errorsv1.Reason_REASON_RELEASE_NOT_ELIGIBLE, "blocked", fault.D("release_state", "release_blocked"))
	}
	outer := start(t, nil, product()...)
	method := auth.MethodName(pick(t, false))
	outer.handle = func(ctx context.Context, _ string) (proto.Message, error) {
		return nil, inner.conn.Invoke(auth.ForwardCaller(ctx), method, &emptypb.Empty{}, &emptypb.Empty{})
	}
	err := outer.call(t, pick(t, false), auth.HeaderAuthorization, "Bearer auditor")
	requireReason(t, errorsv1.Reason_REASON_RELEASE_NOT_ELIGIBLE, err)
	require.Equal(t, "release_blocked", fault.Of(err).Details()["release_state"])
	require.Equal(t, "user:auditor", inner.logs.calls(t)[0]["actor"])
	require.Equal(t, outer.logs.calls(t)[0]["request_id"], inner.logs.calls(t)[0]["request_id"], "one request id through both")
}

func TestTokensDoNotCrossAWireInTheClear(t *testing.T) {
	plain := rpc.ClientConfig{Transport: rpc.Transport{Plaintext: true}}
	for _, addr := range []string{"10.0.0.1:443", "intake:9000", "localhost:9000", "dns:///intake:9000", "0.0.0.0:1", "127.0.0.1"} {
		_, err := rpc.Dial(addr, plain)
		require.ErrorContains(t, err, "plaintext", addr)
	}
	for _, addr := range []string{"127.0.0.1:9000", "[::1]:9000"} {
		conn, err := rpc.Dial(addr, plain)
		require.NoError(t, err)
		require.NoError(t, conn.Close())
	}
	conn, err := rpc.Dial("intake:9000", rpc.ClientConfig{Transport: rpc.Transport{Mesh: true}})
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	for name, bad := range map[string]rpc.Transport{
		"nothing":          {},
		"both":             {CA: "x", Plaintext: true},
		"cert without key": {Cert: "x"},
		"absent files":     {CA: "/nonexistent/ca.pem"},
	} {
		_, err := rpc.Dial("127.0.0.1:1", rpc.ClientConfig{Transport: bad})
		require.Error(t, err, name)
	}
}

// authority signs certificates for 127.0.0.1 into files.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{key: serviceKey(t), file: filepath.Join(t.TempDir(), "ca.pem")}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	require.NoError(t, err)
	a.cert, err = x509.ParseCertificate(der)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(a.file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	return a
}

func (a *authority) transport(t *testing.T) rpc.Transport {
	t.Helper()
	dir := t.TempDir()
	out := rpc.Transport{CA: a.file, Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
	key, err := auth.EnsureKey(out.Key)
	require.NoError(t, err)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, &key.PublicKey, a.key)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(out.Cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	return out
}

func TestMutualTLSKnowsItsOwn(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	s := start(t, func(c *rpc.ServerConfig) { c.Transport = ours.transport(t) }, product()...)
	call := func(transport rpc.Transport) error {
		conn := dial(t, s.addr, rpc.ClientConfig{Transport: transport})
		ctx := auth.ForwardCaller(auth.WithBearer(t.Context(), "auditor", ""))
		return conn.Invoke(ctx, auth.MethodName(pick(t, false)), &emptypb.Empty{}, &emptypb.Empty{})
	}
	require.NoError(t, call(ours.transport(t)))
	const gone = errorsv1.Reason_REASON_DEPENDENCY_UNAVAILABLE
	requireReason(t, gone, call(theirs.transport(t)), "another authority")
	requireReason(t, gone, call(rpc.Transport{CA: ours.file}), "no client certificate")
	requireReason(t, gone, call(rpc.Transport{Plaintext: true}), "no TLS")
	imposter := theirs.transport(t)
	imposter.CA = ours.file
	requireReason(t, gone, call(imposter), "a certificate of another authority")
}
