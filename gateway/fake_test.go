package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/pratique-io/pratique/internal/rpc"
)

const someID = "0195d2f0-0000-7000-8000-00000000000a"

// call is one RPC that reached a service.
type call struct {
	service  string // the peer that was asked
	method   string // "/pratique.intake.v1.RequestService/GetImportRequest"
	request  proto.Message
	metadata metadata.MD
}

// setup is a gateway served over HTTP, in front of six fake services that record what reaches them.
type setup struct {
	t       *testing.T
	gateway *Gateway
	url     string
	log     *bytes.Buffer

	mu    sync.Mutex
	calls []call
	// answer plays the services; nil answers every unary call with an empty message of the right type.
	answer func(c call, stream grpc.ServerStream) error
}

func start(t *testing.T) *setup {
	t.Helper()
	s := &setup{t: t, log: &bytes.Buffer{}}
	conns := map[string]grpc.ClientConnInterface{}
	for _, name := range []string{"intake", "approval", "dispatch", "evidence", "release", "notify"} {
		conns[name] = s.service(name)
	}
	g, err := New(Config{
		Peer: func(name string) grpc.ClientConnInterface { return conns[name] },
		Keys: []byte(`{"keys":[]}`), Log: slog.New(slog.NewTextHandler(&locked{to: s.log, mu: &s.mu}, nil)),
	})
	require.NoError(t, err)
	s.gateway = g
	server := httptest.NewServer(g)
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

type locked struct {
	to io.Writer
	mu *sync.Mutex
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.to.Write(p)
}

// service is a gRPC server without interceptors that takes every method of every proto.
func (s *setup) service(name string) *grpc.ClientConn {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(s.t, err)
	server := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		method, _ := grpc.MethodFromServerStream(stream)
		input, output := messagesOf(method)
		if err := stream.RecvMsg(input); err != nil {
			return err
		}
		md, _ := metadata.FromIncomingContext(stream.Context())
		c := call{service: name, method: method, request: input, metadata: md}
		s.mu.Lock()
		s.calls = append(s.calls, c)
		answer := s.answer
		s.mu.Unlock()
		if answer != nil {
			return answer(c, stream)
		}
		return stream.SendMsg(output)
	}))
	go func() { _ = server.Serve(listener) }()
	s.t.Cleanup(server.Stop)
	conn, err := rpc.Dial(listener.Addr().String(), rpc.ClientConfig{Transport: rpc.Transport{Plaintext: true}}, ClientOptions()...)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// messagesOf makes empty messages of a method's input and output.
func messagesOf(method string) (input, output proto.Message) {
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(strings.ReplaceAll(strings.TrimPrefix(method, "/"), "/", ".")))
	if err != nil {
		panic(err)
	}
	rpc := found.(protoreflect.MethodDescriptor)
	return empty(rpc.Input()), empty(rpc.Output())
}

func empty(message protoreflect.MessageDescriptor) proto.Message {
	found, err := protoregistry.GlobalTypes.FindMessageByName(message.FullName())
	if err != nil {
		panic(err)
	}
	return found.New().Interface()
}

// play sets what the services answer from now on, and forgets the calls so far.
func (s *setup) play(answer func(c call, stream grpc.ServerStream) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer, s.calls = answer, nil
}

// took gives the calls since the last time.
func (s *setup) took() []call {
	s.mu.Lock()
	defer s.mu.Unlock()
	calls := s.calls
	s.calls = nil
	return calls
}

func (s *setup) logged() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}

// answered is an HTTP answer, read whole.
type answered struct {
	status int
	header http.Header
	raw    []byte
	body   map[string]any
}

func (a answered) at(names ...string) any {
	var value any = a.body
	for _, name := range names {
		object, _ := value.(map[string]any)
		value = object[name]
	}
	return value
}

// send makes a request; headers are pairs, and one that is given replaces the default. A body makes it JSON unless a header says otherwise, and
// a credential comes along unless it says `Authorization: ""`.
func (s *setup) send(method, path, body string, headers ...string) answered {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, s.url+path, strings.NewReader(body))
	require.NoError(s.t, err)
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	request.Header.Set(headerAuthorization, "Bearer somebody")
	for i := 0; i+1 < len(headers); i += 2 {
		if headers[i] == "Content-Type" || (headers[i] == headerAuthorization && request.Header.Get(headerAuthorization) == "Bearer somebody") {
			request.Header.Del(headers[i])
		}
		request.Header.Add(headers[i], headers[i+1])
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(request)
	require.NoError(s.t, err)
	defer func() { require.NoError(s.t, response.Body.Close()) }()
	raw, err := io.ReadAll(response.Body)
	require.NoError(s.t, err)
	a := answered{status: response.StatusCode, header: response.Header, raw: raw}
	if strings.HasPrefix(response.Header.Get("Content-Type"), "application/json") && len(raw) > 0 {
		require.NoError(s.t, json.Unmarshal(raw, &a.body), "%s", raw)
	}
	return a
}

// reply sends one message.
func reply(message proto.Message) func(call, grpc.ServerStream) error {
	return func(_ call, stream grpc.ServerStream) error { return stream.SendMsg(message) }
}

// refuse answers every call with an error.
func refuse(err error) func(call, grpc.ServerStream) error {
	return func(call, grpc.ServerStream) error { return err }
}
