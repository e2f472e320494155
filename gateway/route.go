package gateway

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	rpcv1 "github.com/pratique-io/pratique/gen/pratique/rpc/v1"
)

// Route is one REST path of one RPC, as the proto's google.api.http option states it.
type Route struct {
	Method string // HTTP method
	Path   string // e.g. /api/v1/images/import-requests/{id}
	RPC    protoreflect.MethodDescriptor
	Body   string // "*", a field of the request, or "" for none
	Status int    // HTTP status of success
}

// pathFields are the request's fields that the path carries.
func (r Route) pathFields() []string {
	var names []string
	for _, segment := range strings.Split(r.Path, "/") {
		if strings.HasPrefix(segment, "{") && strings.HasSuffix(segment, "}") {
			names = append(names, strings.Trim(segment, "{}"))
		}
	}
	return names
}

// queryOnly names fields of a request that come from the query although the rest of the message is the body.
var queryOnly = map[protoreflect.FullName][]string{
	"pratique.intake.v1.CreateImportRequestRequest": {"validate_only"},
}

// queryField finds a field that may stand in the query of this route; nil when there is none of that name.
func (r Route) queryField(name string) protoreflect.FieldDescriptor {
	field := r.RPC.Input().Fields().ByName(protoreflect.Name(name))
	switch {
	case field == nil, slices.Contains(r.pathFields(), name), field.Message() != nil && !isTimestamp(field):
		return nil
	case r.Body == "*":
		if !slices.Contains(queryOnly[r.RPC.Input().FullName()], name) {
			return nil
		}
	case r.Body == name:
		return nil
	}
	return field
}

// bodyField finds a field that may stand in the body of this route.
func (r Route) bodyField(name string) bool {
	return r.Body == "*" && !slices.Contains(r.pathFields(), name) && !slices.Contains(queryOnly[r.RPC.Input().FullName()], name)
}

func isTimestamp(field protoreflect.FieldDescriptor) bool {
	return field.Message() != nil && field.Message().FullName() == "google.protobuf.Timestamp"
}

// Routes lists every REST route of the registered pratique services, in a stable order. It fails on an HTTP rule it does not understand.
func Routes() ([]Route, error) {
	var routes []Route
	var problem error
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		if !strings.HasPrefix(string(file.Package()), "pratique.") {
			return true
		}
		for i := range file.Services().Len() {
			methods := file.Services().Get(i).Methods()
			for j := range methods.Len() {
				found, err := routesOf(methods.Get(j))
				if err != nil {
					problem = err
					return false
				}
				routes = append(routes, found...)
			}
		}
		return true
	})
	slices.SortFunc(routes, func(a, b Route) int { return strings.Compare(a.Path+" "+a.Method, b.Path+" "+b.Method) })
	return routes, problem
}

func routesOf(method protoreflect.MethodDescriptor) ([]Route, error) {
	rule, ok := proto.GetExtension(method.Options(), annotations.E_Http).(*annotations.HttpRule)
	if !ok || rule == nil {
		return nil, nil
	}
	status := http.StatusOK
	if own, ok := proto.GetExtension(method.Options(), rpcv1.E_SuccessStatus).(int32); ok && own != 0 {
		status = int(own)
	}
	var routes []Route
	for _, r := range append([]*annotations.HttpRule{rule}, rule.GetAdditionalBindings()...) {
		route := Route{RPC: method, Body: r.GetBody(), Status: status}
		switch pattern := r.GetPattern().(type) {
		case *annotations.HttpRule_Get:
			route.Method, route.Path = http.MethodGet, pattern.Get
		case *annotations.HttpRule_Post:
			route.Method, route.Path = http.MethodPost, pattern.Post
		case *annotations.HttpRule_Put:
			route.Method, route.Path = http.MethodPut, pattern.Put
		case *annotations.HttpRule_Patch:
			route.Method, route.Path = http.MethodPatch, pattern.Patch
		case *annotations.HttpRule_Delete:
			route.Method, route.Path = http.MethodDelete, pattern.Delete
		default:
			return nil, fmt.Errorf("gateway: %s has an HTTP rule of an unknown kind", method.FullName())
		}
		routes = append(routes, route)
	}
	return routes, nil
}
