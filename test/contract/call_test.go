package contract

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/pratique-io/pratique/gateway"
	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	"github.com/pratique-io/pratique/internal/auth"
	"github.com/pratique-io/pratique/internal/fault"
)

// call is one call, said as REST says it; gRPC says the same through the method that the path leads to.
type call struct {
	who    string // persona; empty: no token
	bearer string // instead of who: the Authorization header as it stands
	do     string // "METHOD /path?query"
	body   string // JSON
	header map[string]string
	method string // gRPC only: a method without a path, with body as its message
	atWork bool   // the source registry may be at fault: 502, 503 and 504 are answers
}

func (c call) String() string {
	text := c.do + c.method + " as " + c.who + c.bearer
	if c.body != "" {
		text += " " + c.body[:min(len(c.body), 200)]
	}
	return text
}

// answer is what came back, the same for both transports.
type answer struct {
	status int // HTTP; for gRPC the status that the reason or the method stands for
	code   string
	body   map[string]any
	header http.Header
	raw    string
}

// sender plays a call over one transport.
type sender func(t testing.TB, c call) answer

// both plays a test over REST and over gRPC.
func both(t *testing.T, p *product, play func(t *testing.T, send sender)) {
	t.Helper()
	t.Run("rest", func(t *testing.T) { play(t, p.rest) })
	t.Run("grpc", func(t *testing.T) { play(t, p.grpc) })
}

// at reads a dotted path; numbers index lists.
func (a answer) at(path string) any {
	var v any = a.body
	for _, part := range strings.Split(path, ".") {
		switch in := v.(type) {
		case map[string]any:
			v = in[part]
		case []any:
			n, err := strconv.Atoi(part)
			if err != nil || n >= len(in) {
				return nil
			}
			v = in[n]
		default:
			return nil
		}
	}
	return v
}

func (a answer) text(path string) string {
	if v := a.at(path); v != nil {
		return fmt.Sprint(v)
	}
	return ""
}

func (a answer) list(path string) []map[string]any {
	items, _ := a.at(path).([]any)
	var out []map[string]any
	for _, item := range items {
		if object, ok := item.(map[string]any); ok {
			out = append(out, object)
		}
	}
	return out
}

// fields names the fields that were found wrong, sorted.
func (a answer) fields() []string {
	problems, _ := a.body["field_errors"].(map[string]any)
	out := []string{}
	for name := range problems {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// is insists on status and code.
func (a answer) is(t testing.TB, c call, status int, code string) answer {
	t.Helper()
	require.True(t, a.status == status && a.code == code, "%s\nanswered %d %q, expected %d %q\n%.2000s", c, a.status, a.code, status, code, a.raw)
	return a
}

// want is one REST call with one answer.
func (p *product) want(t testing.TB, status int, code string, c call) answer {
	t.Helper()
	return p.rest(t, c).is(t, c, status, code)
}

func (p *product) authorization(t testing.TB, c call) string {
	if c.bearer != "" {
		return c.bearer
	}
	if c.who == "" {
		return ""
	}
	return "Bearer " + p.token(t, c.who)
}

func (p *product) rest(t testing.TB, c call) answer {
	t.Helper()
	method, target, _ := strings.Cut(c.do, " ")
	request, err := http.NewRequestWithContext(t.Context(), method, p.Connection.REST+target, strings.NewReader(c.body))
	require.NoError(t, err)
	if c.body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	id := "contract-" + randomID()
	request.Header.Set("X-Request-ID", id)
	if authorization := p.authorization(t, c); authorization != "" {
		request.Header.Set("Authorization", authorization)
	}
	for name, value := range c.header {
		request.Header.Set(name, value)
	}
	response, err := p.http.Do(request)
	require.NoError(t, err, c.String())
	defer response.Body.Close()
	var raw []byte
	if strings.HasPrefix(response.Header.Get("Content-Type"), "text/event-stream") {
		raw = make([]byte, 1) // it began, which is all there is to know; closing ends it
		_, err = io.ReadFull(response.Body, raw)
	} else {
		raw, err = io.ReadAll(response.Body)
	}
	require.NoError(t, err, c.String())
	a := answer{status: response.StatusCode, header: response.Header, raw: string(raw)}
	if response.Header.Get("Content-Type") == "application/json" && len(raw) > 0 {
		require.NoError(t, json.Unmarshal(raw, &a.body), "%s: %s", c, raw)
	}
	a.code = a.text("error.code")
	if a.status >= 400 {
		require.Equal(t, "application/json", response.Header.Get("Content-Type"), "%s: %s", c, raw)
		require.Equal(t, id, a.text("error.request_id"), "%s: %s", c, raw)
	}
	require.Equal(t, id, response.Header.Get("X-Request-ID"), c.String())
	p.shapes.check(t, c, method, target, a)
	return p.checked(t, c, a)
}

// checked holds every answer to what is true of all of them.
func (p *product) checked(t testing.TB, c call, a answer) answer {
	t.Helper()
	if a.status < 400 {
		return a
	}
	said := "%s\n%.2000s"
	atSource := a.code == "source_unavailable" || a.code == "source_rate_limited" || a.code == "deadline_exceeded"
	require.True(t, a.status < 500 || c.atWork && atSource, said, c, a.raw)
	number, known := errorsv1.Reason_value["REASON_"+strings.ToUpper(a.code)]
	require.True(t, known && number != 0, said, c, a.raw)
	rule := fault.RuleOf(errorsv1.Reason(number))
	require.EqualValues(t, rule.GetHttp(), a.status, said, c, a.raw)
	require.NotEmpty(t, a.text("error.message"), said, c, a.raw)
	if rule.GetNextAction() != "" {
		require.NotEmpty(t, a.text("error.details.next_action"), said, c, a.raw)
	}
	if a.code == "validation_failed" {
		require.NotEmpty(t, a.fields(), said, c, a.raw)
	}
	for _, leak := range []string{"SQLSTATE", "pgx", "goroutine", "panic", "rpc error", p.dir} {
		require.NotContains(t, a.raw, leak, "%s", c)
	}
	return a
}

// match finds the route of a path, literal segments first, with the values of its variables.
func (p *product) match(method, path string) (found gateway.Route, values map[string]string) {
	best := -1
	segments := strings.Split(path, "/")
	for _, route := range p.routes {
		parts := strings.Split(route.Path, "/")
		if route.Method != method || len(parts) != len(segments) {
			continue
		}
		literal, vars := 0, map[string]string{}
		for i, part := range parts {
			if strings.HasPrefix(part, "{") {
				vars[strings.Trim(part, "{}")], _ = url.PathUnescape(segments[i])
			} else if part == segments[i] {
				literal++
			} else {
				literal = -1
				break
			}
		}
		if literal > best {
			best, found, values = literal, route, vars
		}
	}
	return found, values
}

// message says a REST call as the message of its RPC.
func (p *product) message(t testing.TB, c call) (protoreflect.MethodDescriptor, int, proto.Message) {
	if c.method != "" {
		found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(strings.ReplaceAll(strings.TrimPrefix(c.method, "/"), "/", ".")))
		require.NoError(t, err)
		rpc := found.(protoreflect.MethodDescriptor)
		return rpc, 200, fill(t, c, rpc.Input(), []byte(c.body))
	}
	method, target, _ := strings.Cut(c.do, " ")
	parsed, err := url.Parse(target)
	require.NoError(t, err)
	route, values := p.match(method, parsed.EscapedPath())
	require.NotNil(t, route.RPC, "%s leads to no RPC", c.do)
	fields := map[string]any{}
	switch {
	case c.body == "":
	case route.Body == "*":
		require.NoError(t, json.Unmarshal([]byte(c.body), &fields), c.String())
	default:
		fields[route.Body] = json.RawMessage(c.body)
	}
	for name, value := range values {
		fields[name] = value
	}
	for name, list := range parsed.Query() {
		fields[name] = list[0]
		if field := route.RPC.Input().Fields().ByName(protoreflect.Name(name)); field != nil && field.Kind() == protoreflect.BoolKind {
			fields[name] = list[0] == "true"
		}
	}
	return route.RPC, route.Status, fill(t, c, route.RPC.Input(), []byte(encode(fields)))
}

func fill(t testing.TB, c call, of protoreflect.MessageDescriptor, raw []byte) proto.Message {
	message := fresh(t, of)
	if len(raw) > 0 {
		require.NoError(t, protojson.Unmarshal(raw, message), "%s", c)
	}
	return message
}

func fresh(t testing.TB, of protoreflect.MessageDescriptor) proto.Message {
	kind, err := protoregistry.GlobalTypes.FindMessageByName(of.FullName())
	require.NoError(t, err)
	return kind.New().Interface()
}

func (p *product) grpc(t testing.TB, c call) answer {
	t.Helper()
	rpc, success, message := p.message(t, c)
	return p.invoke(t, c, rpc, success, message)
}

// invoke makes a gRPC call; of a stream it takes the first message.
func (p *product) invoke(t testing.TB, c call, rpc protoreflect.MethodDescriptor, success int, message proto.Message) answer {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	id := "contract-" + randomID()
	ctx = metadata.AppendToOutgoingContext(ctx, auth.HeaderRequestID, id)
	if authorization := p.authorization(t, c); authorization != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, auth.HeaderAuthorization, authorization)
	}
	for name, value := range c.header {
		ctx = metadata.AppendToOutgoingContext(ctx, strings.ToLower(name), value)
	}
	out, header := fresh(t, rpc.Output()), metadata.MD{}
	var err error
	if rpc.IsStreamingServer() {
		header, err = p.first(ctx, rpc, message, out)
	} else {
		err = p.conn.Invoke(ctx, auth.MethodName(rpc), message, out, grpc.Header(&header))
	}
	require.Equal(t, []string{id}, header.Get(auth.HeaderRequestID), "%s: %v", c, err)
	if err == nil {
		if own := header.Get(gateway.HeaderStatus); len(own) == 1 {
			success, _ = strconv.Atoi(own[0])
		}
		return succeeded(t, success, out)
	}
	return p.checked(t, c, refused(t, c, err))
}

// first opens a stream and waits for its header or its first message, whichever says that it began.
func (p *product) first(ctx context.Context, rpc protoreflect.MethodDescriptor, message, out proto.Message) (metadata.MD, error) {
	stream, err := p.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, auth.MethodName(rpc))
	if err != nil {
		return nil, err
	}
	if err := errors.Join(stream.SendMsg(message), stream.CloseSend()); err != nil {
		return nil, err
	}
	header, err := stream.Header()
	if err != nil {
		return header, err
	}
	got := make(chan error, 1)
	go func() { got <- stream.RecvMsg(out) }()
	select {
	case err = <-got:
	case <-time.After(quiet): // a refusal follows its header at once
		return header, nil
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return header, err
}

// quiet is when a stream that says nothing counts as open.
const quiet = 500 * time.Millisecond

func succeeded(t testing.TB, success int, out proto.Message) answer {
	raw, err := protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}.Marshal(out)
	require.NoError(t, err)
	fields := out.ProtoReflect().Descriptor().Fields()
	if fields.ByName("data") == nil || fields.ByName("pagination") == nil {
		raw = slices.Concat([]byte(`{"data":`), raw, []byte("}"))
	}
	a := answer{status: success, raw: string(raw)}
	require.NoError(t, json.NewDecoder(bytes.NewReader(raw)).Decode(&a.body))
	return a
}

func refused(t testing.TB, c call, err error) answer {
	f := fault.FromStatus(err)
	require.NotEmpty(t, f.Message(), "%s: %v", c, err)
	details := f.Details()
	inner := map[string]any{"code": fault.CodeOf(f.Reason()), "message": f.Message(), "details": details}
	a := answer{
		status: int(fault.RuleOf(f.Reason()).GetHttp()), code: fault.CodeOf(f.Reason()), body: map[string]any{"error": inner},
		raw: fmt.Sprintf("%s %v %v", f.Message(), details, f.FieldErrors()),
	}
	if problems := f.FieldErrors(); len(problems) > 0 {
		all := map[string]any{}
		for name, text := range problems {
			all[name] = text
		}
		a.body["field_errors"] = all
	}
	known := false
	for _, detail := range status.Convert(err).Details() {
		info, ok := detail.(*errdetails.ErrorInfo)
		known = known || ok && info.GetDomain() == fault.Domain && info.GetReason() == strings.ToUpper(a.code)
	}
	require.True(t, known, "%s: %v carries no reason of ours", c, err)
	require.Equal(t, fault.GRPCOf(f.Reason()), status.Code(err), "%s", c)
	return a
}
