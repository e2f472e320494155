package gateway

import (
	"bytes"
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"path"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	"github.com/pratique-io/pratique/internal/fault"
	"github.com/pratique-io/pratique/internal/telemetry"
)

const headerRequestID = "X-Request-Id"

// ServeHTTP gives the request an id, finds its route, and answers unknown paths and methods in the contract's shape.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := telemetry.SaneRequestID(r.Header.Get(headerRequestID)) // the services' rule: what they log is what we answer
	r.Header.Set(headerRequestID, id)
	w.Header().Set(headerRequestID, id)
	harden(w.Header())
	if err := checkHeaders(r.Header); err != nil {
		g.renderHTTP(w, r, err)
		return
	}
	if _, pattern := g.front.Handler(r); pattern == "" || !plainPath(r.URL.Path) {
		g.renderHTTP(w, r, g.noRoute(r))
		return
	}
	g.front.ServeHTTP(w, r)
}

// harden sets what every answer carries: nothing here may be cached, sniffed, framed or run. The documentation page widens the policy for
// itself.
func harden(header http.Header) {
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Cache-Control", "no-store")
	header.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	header.Set("X-Frame-Options", "DENY")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
}

// plainPath refuses paths with "..", "." or "//", which http.ServeMux would answer with a redirect of its own, in HTML.
func plainPath(p string) bool {
	clean := path.Clean(p)
	return p == clean || p == clean+"/"
}

// noRoute tells a wrong method from an unknown path.
func (g *Gateway) noRoute(r *http.Request) error {
	if plainPath(r.URL.Path) && len(g.allowed(r)) > 0 {
		return fault.New(errorsv1.Reason_REASON_METHOD_NOT_ALLOWED, "this path does not answer "+r.Method)
	}
	return fault.New(errorsv1.Reason_REASON_NOT_FOUND, "there is no such path")
}

// noHead answers HEAD on an event stream, which would otherwise stay open and say nothing.
func (g *Gateway) noHead(w http.ResponseWriter, r *http.Request) { g.renderHTTP(w, r, g.noRoute(r)) }

type queryKey struct{}

// door checks everything about a call that can be checked without asking a service.
func (g *Gateway) door(route Route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := g.readCall(w, r, route)
		if err != nil {
			g.renderHTTP(w, r, err)
			return
		}
		ctx := context.WithValue(r.Context(), routeKey{}, route)
		if names := queryOnly[route.RPC.Input().FullName()]; len(names) > 0 {
			ctx = context.WithValue(ctx, queryKey{}, r.URL.Query())
		}
		inner := r.WithContext(ctx)
		inner.Method = route.Method // HEAD is GET here; net/http leaves the body out
		inner.Body = io.NopCloser(bytes.NewReader(body))
		g.inner.ServeHTTP(w, inner)
	})
}

func (g *Gateway) readCall(w http.ResponseWriter, r *http.Request, route Route) ([]byte, error) {
	// Who calls comes first. Whether a token is good only the service can tell; that there is none can be told here.
	if r.Header.Get(headerAuthorization) == "" {
		return nil, fault.New(errorsv1.Reason_REASON_UNAUTHORIZED, "the call carried no credential")
	}
	values := map[string]string{}
	for _, name := range route.pathFields() {
		values[name] = r.PathValue(name)
	}
	if err := checkPath(values); err != nil {
		return nil, err
	}
	if err := checkQuery(route, r.URL.RawQuery); err != nil {
		return nil, err
	}
	body, err := readBody(w, r)
	if err != nil {
		return nil, err
	}
	if route.Body != "" && len(body) > 0 {
		if err := checkMediaType(r); err != nil {
			return nil, err
		}
	}
	if route.Body == "*" && len(bytes.TrimSpace(body)) == 0 {
		body = []byte("{}") // no body is an empty one; required fields are then named by the service
	}
	if err := checkBody(route, body); err != nil {
		return nil, err
	}
	return body, nil
}

func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, fault.New(errorsv1.Reason_REASON_PAYLOAD_TOO_LARGE, "the body is larger than 1 MiB", fault.D("limit_bytes", maxBody))
	case err != nil:
		return nil, fault.New(errorsv1.Reason_REASON_INVALID_REQUEST, "the body could not be read", fault.Cause(err))
	}
	return body, nil
}

func checkMediaType(r *http.Request) error {
	media, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	charset := strings.ToLower(params["charset"])
	if err != nil || media != "application/json" || (charset != "" && charset != "utf-8") {
		return fault.New(errorsv1.Reason_REASON_UNSUPPORTED_MEDIA_TYPE, "send application/json")
	}
	return nil
}

const headerAuthorization, headerTenant, headerIdempotency = "Authorization", "X-Tenant-Id", "Idempotency-Key"

// checkHeaders looks at the headers that reach a service as gRPC metadata, which takes printable ASCII only. An idempotency key that got
// lost on the way would let a repeated call create twice, so it is refused instead. Headers that steer grpc-gateway itself are dropped.
func checkHeaders(header http.Header) error {
	header.Del("Grpc-Timeout")
	header.Del("Te")
	for _, name := range []string{headerAuthorization, "Traceparent", "Tracestate"} {
		if !printable(header.Values(name)) {
			header.Del(name) // without a token the answer is 401; a trace that cannot be read is none
		}
	}
	if !printable(header.Values(headerTenant)) {
		return fault.New(errorsv1.Reason_REASON_INVALID_TENANT, "X-Tenant-ID must be a UUID or a slug")
	}
	if keys := header.Values(headerIdempotency); len(keys) > 1 || !printable(keys) {
		return unreadable(headerIdempotency, "must be one value of printable ASCII")
	}
	return nil
}

func printable(values []string) bool {
	for _, value := range values {
		for i := range len(value) {
			if value[i] < ' ' || value[i] > '~' {
				return false
			}
		}
	}
	return true
}

// incomingHeader is the explicit list of headers that reach a service. Grpc-Metadata-* does not.
func incomingHeader(name string) (string, bool) {
	switch strings.ToLower(name) {
	case "authorization", "x-tenant-id", "idempotency-key", "x-request-id", "traceparent", "tracestate":
		return strings.ToLower(name), true
	}
	return "", false
}

// muxHeader is incomingHeader for grpc-gateway, which passes Authorization by itself: named twice it would arrive twice, and the services
// take a repeated credential for none.
func muxHeader(name string) (string, bool) {
	if strings.EqualFold(name, headerAuthorization) {
		return "", false
	}
	return incomingHeader(name)
}

func outgoingHeader(name string) (string, bool) {
	if strings.EqualFold(name, "retry-after") {
		return name, true
	}
	return "", false
}

// fillQuery is a client interceptor: it puts query parameters into messages whose other fields came from the body, which grpc-gateway
// cannot do.
func fillQuery(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if query, ok := ctx.Value(queryKey{}).(url.Values); ok {
		setQuery(req, query)
	}
	return invoke(ctx, method, req, reply, cc, opts...)
}

func setQuery(req any, query url.Values) {
	message, ok := req.(proto.Message)
	if !ok {
		return
	}
	reflected := message.ProtoReflect()
	for _, name := range queryOnly[reflected.Descriptor().FullName()] {
		field := reflected.Descriptor().Fields().ByName(protoreflect.Name(name))
		if field.Kind() == protoreflect.BoolKind { // the only kind there is so far; the door has checked its spelling
			reflected.Set(field, protoreflect.ValueOfBool(query.Get(name) == "true"))
		}
	}
}

// ClientOptions are what a connection given to the gateway must be dialled with.
func ClientOptions() []grpc.DialOption {
	return []grpc.DialOption{grpc.WithChainUnaryInterceptor(fillQuery)}
}
