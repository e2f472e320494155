package contract

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/pratique-io/pratique/gateway"
)

// bodyFields are the fields that a route reads from its body.
func bodyFields(route gateway.Route) []protoreflect.FieldDescriptor {
	message := route.RPC.Input()
	if route.Body != "*" {
		message = message.Fields().ByName(protoreflect.Name(route.Body)).Message()
	}
	var out []protoreflect.FieldDescriptor
	for i := range message.Fields().Len() {
		field := message.Fields().Get(i)
		if name := string(field.Name()); !strings.Contains(route.Path, "{"+name+"}") && name != "validate_only" {
			out = append(out, field)
		}
	}
	return out
}

func TestBodies(t *testing.T) {
	p := start(t)
	count := 0
	for _, route := range p.routes {
		h := path{route.Method, route.Path, route.RPC, route.Body}
		do, who := h.with(randomID()), p.allowed(t, route.RPC)
		refuse := func(status int, code, field, body string, header map[string]string) {
			t.Helper()
			count++
			a := p.want(t, status, code, call{who: who, do: do, body: body, header: header})
			if field != "" {
				require.Equal(t, field, a.text("error.details.field"), "%s %.300s", do, body)
			}
		}
		large := `{"x":"` + strings.Repeat("a", 2<<20) + `"}`
		refuse(413, "payload_too_large", "", large, nil)
		if route.Body == "" {
			if route.Method != "GET" {
				refuse(400, "invalid_request", "", `{"x":1}`, nil)
				refuse(400, "invalid_request", "", `nonsense`, nil)
			}
			continue
		}
		for _, media := range []string{"text/plain", "application/xml", "application/x-www-form-urlencoded", "application/json; charset=latin1", "multipart/form-data", "", "json", "application/json5"} {
			refuse(415, "unsupported_media_type", "", h.sound(), map[string]string{"Content-Type": media})
		}
		for _, body := range []string{`{`, `}`, `{"`, `[]`, `null`, `1`, `"x"`, `{}{}`, `{} x`, `{"a":}`, `{'a':1}`, `{"a":1,}`, "{\xff}", `{"\ud800":1}`, "\ufeff{}", `{/**/}`, `NaN`,
			strings.Repeat("[", 10_000), strings.Repeat(`{"a":`, 10_000)} {
			refuse(400, "invalid_request", "", body, nil)
		}
		for _, name := range []string{"nonsense", "", "ID", "__proto__", "sourceRegistry", "eprRecordId", "Reason", "productName"} {
			refuse(400, "invalid_request", name, `{"`+name+`":"x"}`, nil)
		}
		for _, field := range bodyFields(route) {
			name := string(field.Name())
			for _, value := range wrong(field) {
				a := p.want(t, 400, "invalid_request", call{who: who, do: do, body: `{"` + name + `":` + value + `}`})
				require.True(t, strings.HasPrefix(a.text("error.details.field"), name), "%s %s: %s", do, value, a.raw)
				count++
			}
			refuse(400, "invalid_request", name, fmt.Sprintf(`{%[1]q:%[2]s,%[1]q:%[2]s}`, name, right(field)), nil)
		}
		if route.Body == "*" && strings.Contains(route.Path, "{id}") {
			refuse(400, "invalid_request", "id", `{"id":"`+randomID()+`"}`, nil)
		}
	}
	require.Greater(t, count, 800)
}

// right is a value of the field's type; wrong are values that are not.
func right(field protoreflect.FieldDescriptor) string {
	switch {
	case field.IsList():
		return `[]`
	case field.Kind() == protoreflect.BoolKind:
		return `true`
	case field.Kind() == protoreflect.Int32Kind:
		return `1`
	}
	return `"x"`
}

func wrong(field protoreflect.FieldDescriptor) []string {
	deep := strings.Repeat(`[`, 100) + strings.Repeat(`]`, 100)
	switch {
	case field.IsList():
		return []string{`"x"`, `1`, `{}`, `[1]`, `[null]`, `[["x"]]`, `[{}]`, deep}
	case field.Kind() == protoreflect.BoolKind:
		return []string{`"true"`, `1`, `"x"`, `[]`, `{}`, deep}
	case field.Kind() == protoreflect.Int32Kind:
		return []string{`"1"`, `1.5`, `1e3`, `2147483648`, `-2147483649`, `[]`, `{}`, `true`, `99999999999999999999999`, deep}
	}
	return []string{`1`, `true`, `[]`, `{}`, `["x"]`, `{"a":1}`, `1e400`, deep, `"\u0000"`, `"\ud800"`}
}
