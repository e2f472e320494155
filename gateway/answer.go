package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	"github.com/pratique-io/pratique/internal/fault"
)

type routeKey struct{}

// HeaderStatus is the gRPC header by which a service overrides the method's success status for one answer (validate_only answers 200).
const HeaderStatus = "pratique-success-status"

// single wraps a single answer; lists carry their own envelope.
type single struct{ message proto.Message }

// envelope is the one response hook: single answers become {"data": {...}}, lists stay {"data": [...], "pagination": {...}}.
func envelope(_ context.Context, message proto.Message) (any, error) {
	fields := message.ProtoReflect().Descriptor().Fields()
	if fields.ByName("pagination") != nil && fields.ByName("data") != nil {
		return message, nil
	}
	return single{message}, nil
}

// jsonMarshaler writes the contract's JSON and reads bodies that the door has already checked.
type jsonMarshaler struct{ runtime.JSONPb }

func marshaler() *jsonMarshaler {
	return &jsonMarshaler{runtime.JSONPb{
		MarshalOptions:   protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true},
		UnmarshalOptions: protojson.UnmarshalOptions{},
	}}
}

func (m *jsonMarshaler) Marshal(v any) ([]byte, error) {
	wrapped, ok := v.(single)
	if !ok {
		return m.JSONPb.Marshal(v)
	}
	data, err := m.MarshalOptions.Marshal(wrapped.message)
	if err != nil {
		return nil, err
	}
	return compactData(data)
}

// compactData wraps and normalises: protojson varies its white space on purpose.
func compactData(data []byte) ([]byte, error) {
	out := bytes.NewBufferString(`{"data":`)
	if err := json.Compact(out, data); err != nil {
		return nil, err
	}
	out.WriteByte('}')
	return out.Bytes(), nil
}

func (m *jsonMarshaler) NewEncoder(w io.Writer) runtime.Encoder {
	return runtime.EncoderFunc(func(v any) error {
		raw, err := m.Marshal(v)
		if err != nil {
			return err
		}
		_, err = w.Write(raw)
		return err
	})
}

// setStatus gives the method's success status.
func setStatus() func(context.Context, http.ResponseWriter, proto.Message) error {
	return func(ctx context.Context, w http.ResponseWriter, _ proto.Message) error {
		route, ok := ctx.Value(routeKey{}).(Route)
		if !ok {
			return nil
		}
		code := route.Status
		if metadata, ok := runtime.ServerMetadataFromContext(ctx); ok {
			if own := metadata.HeaderMD.Get(HeaderStatus); len(own) == 1 {
				if n, err := strconv.Atoi(own[0]); err == nil && n >= 200 && n < 300 {
					code = n
				}
			}
		}
		if code == http.StatusNoContent {
			w.Header().Del("Content-Type")
		}
		if code != http.StatusOK {
			w.WriteHeader(code)
		}
		return nil
	}
}

// renderRPC is grpc-gateway's error handler. What a service refused is a fault already; a bare status is grpc-gateway's own, about a call that
// it could not read although the door let it through.
func (g *Gateway) renderRPC(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, err error) {
	var known *fault.Fault
	if !errors.As(err, &known) && status.Code(err) == codes.InvalidArgument {
		err = fault.New(errorsv1.Reason_REASON_INVALID_REQUEST, "the call could not be read", fault.Cause(err))
	}
	g.renderHTTP(w, r, err)
}

// renderHTTP shows an error once, from its reason.
func (g *Gateway) renderHTTP(w http.ResponseWriter, r *http.Request, err error) {
	code, body, headers := fault.REST(err, r.Header.Get(headerRequestID))
	if code == http.StatusInternalServerError {
		g.cfg.Log.ErrorContext(r.Context(), "call failed", "request_id", r.Header.Get(headerRequestID), "path", r.Pattern, "err", err)
	}
	for name, value := range headers {
		w.Header()[name] = value
	}
	if code == http.StatusMethodNotAllowed {
		w.Header().Set("Allow", strings.Join(g.allowed(r), ", "))
	}
	w.WriteHeader(code)
	_, _ = w.Write(body)
}

// allowed lists the methods that the path of a request answers.
func (g *Gateway) allowed(r *http.Request) []string {
	var methods []string
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		other := r.Clone(r.Context())
		other.Method = method
		if _, pattern := g.front.Handler(other); pattern != "" && !strings.HasPrefix(pattern, http.MethodHead+" ") {
			methods = append(methods, method)
		}
	}
	return methods
}
