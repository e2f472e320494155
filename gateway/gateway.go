// Package gateway serves the services' RPCs as REST under /api/v1, with the contract's strictness and error shape, and the few things
// REST needs that gRPC has no word for: event streams for browsers, documents with a length, joined explanations, OpenAPI. It owns no data
// and decides nothing: every call carries the caller's own token to the service that does.
//
// A request passes the door (door.go: route, limits, strict shape), then grpc-gateway's mux, then the answer hook (answer.go).
package gateway

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"

	approvalv1 "github.com/pratique-io/pratique/gen/pratique/approval/v1"
	dispatchv1 "github.com/pratique-io/pratique/gen/pratique/dispatch/v1"
	evidencev1 "github.com/pratique-io/pratique/gen/pratique/evidence/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	notifyv1 "github.com/pratique-io/pratique/gen/pratique/notify/v1"
	releasev1 "github.com/pratique-io/pratique/gen/pratique/release/v1"
)

// Config is what the gateway needs to know.
type Config struct {
	// Peer gives the connection to a service by its name: intake, approval, dispatch, evidence, release, notify. The connections must be
	// dialled with ClientOptions.
	Peer func(service string) grpc.ClientConnInterface
	// Keys answers /.well-known/pratique/keys: the JSON of the public verification keys.
	Keys []byte
	Log  *slog.Logger
}

// Gateway is an http.Handler.
type Gateway struct {
	cfg    Config
	routes []Route
	front  *http.ServeMux
	inner  *runtime.ServeMux
	pace   pace
	seats  seats
}

// New builds the gateway. It fails when a route of the protos is not served, or is served twice.
func New(cfg Config) (*Gateway, error) {
	routes, err := Routes()
	if err != nil {
		return nil, err
	}
	g := &Gateway{cfg: cfg, routes: routes, front: http.NewServeMux(), pace: pace{heartbeat: heartbeat, quiet: quiet}}
	g.inner = runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, marshaler()),
		runtime.WithForwardResponseRewriter(envelope),
		runtime.WithForwardResponseOption(setStatus()),
		runtime.WithErrorHandler(g.renderRPC),
		runtime.WithIncomingHeaderMatcher(muxHeader),
		runtime.WithOutgoingHeaderMatcher(outgoingHeader),
		runtime.WithOutgoingTrailerMatcher(func(string) (string, bool) { return "", false }),
		runtime.WithDisableHTTPMethodOverride(),
		runtime.WithDisablePathLengthFallback(),
	)
	if err := g.registerServices(context.Background()); err != nil {
		return nil, err
	}
	return g, g.mount()
}

func (g *Gateway) registerServices(ctx context.Context) error {
	peer := g.cfg.Peer
	for _, register := range []func() error{
		func() error {
			return intakev1.RegisterRequestServiceHandlerClient(ctx, g.inner, intakev1.NewRequestServiceClient(peer("intake")))
		},
		func() error {
			return intakev1.RegisterEprServiceHandlerClient(ctx, g.inner, intakev1.NewEprServiceClient(peer("intake")))
		},
		func() error {
			return intakev1.RegisterSettingsServiceHandlerClient(ctx, g.inner, intakev1.NewSettingsServiceClient(peer("intake")))
		},
		func() error {
			return intakev1.RegisterDirectoryServiceHandlerClient(ctx, g.inner, intakev1.NewDirectoryServiceClient(peer("intake")))
		},
		func() error {
			return approvalv1.RegisterCaseServiceHandlerClient(ctx, g.inner, approvalv1.NewCaseServiceClient(peer("approval")))
		},
		func() error {
			return dispatchv1.RegisterRunServiceHandlerClient(ctx, g.inner, dispatchv1.NewRunServiceClient(peer("dispatch")))
		},
		func() error {
			return dispatchv1.RegisterProviderServiceHandlerClient(ctx, g.inner, dispatchv1.NewProviderServiceClient(peer("dispatch")))
		},
		func() error {
			return evidencev1.RegisterEvidenceServiceHandlerClient(ctx, g.inner, evidencev1.NewEvidenceServiceClient(peer("evidence")))
		},
		func() error {
			return evidencev1.RegisterPolicyServiceHandlerClient(ctx, g.inner, evidencev1.NewPolicyServiceClient(peer("evidence")))
		},
		func() error {
			return releasev1.RegisterReleaseServiceHandlerClient(ctx, g.inner, releasev1.NewReleaseServiceClient(peer("release")))
		},
		func() error {
			return notifyv1.RegisterNotificationServiceHandlerClient(ctx, g.inner, notifyv1.NewNotificationServiceClient(peer("notify")))
		},
	} {
		if err := register(); err != nil {
			return fmt.Errorf("gateway: %w", err)
		}
	}
	return nil
}

// mount puts every route on the front mux, where literal segments win over {id} by construction, and the hand-written ones beside them.
func (g *Gateway) mount() (err error) {
	defer func() { // http.ServeMux reports conflicting patterns by panic
		if p := recover(); p != nil {
			err = fmt.Errorf("gateway: %v", p)
		}
	}()
	for _, route := range g.routes {
		g.front.Handle(route.Method+" "+route.Path, g.door(route))
	}
	g.front.HandleFunc("GET "+pathLogStream, g.seated(g.streamLogs))
	g.front.HandleFunc("HEAD "+pathLogStream, g.noHead)
	g.front.HandleFunc("GET "+pathNotificationStream, g.seated(g.streamNotifications))
	g.front.HandleFunc("HEAD "+pathNotificationStream, g.noHead)
	g.front.HandleFunc("GET "+pathExplain, g.explain)
	g.front.HandleFunc("GET "+pathDocument, g.seated(g.document))
	g.front.HandleFunc("GET /openapi.json", g.openAPI)
	g.front.Handle("GET "+pathDocs, g.docsPage())
	g.front.HandleFunc("GET /.well-known/pratique/keys", g.keys)
	return nil
}

func (g *Gateway) keys(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(g.cfg.Keys)
}
