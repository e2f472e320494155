package fault

import (
	"context"
	"errors"
	"maps"
	"slices"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
)

// Domain is the ErrorInfo domain of every Pratique error.
const Domain = "pratique.io"

// Status renders an error for gRPC: the reason's code, ErrorInfo (reason in upper case, details as strings), the details once
// more as a Struct so that their types survive, BadRequest for field errors, RetryInfo for a wait. Nil for nil.
func Status(err error) *status.Status {
	if err == nil {
		return nil
	}
	f := Of(err)
	return f.GRPCStatus()
}

// GRPCStatus lets grpc-go render a fault that reaches it without our interceptor.
func (f *Fault) GRPCStatus() *status.Status {
	reason := f.reason
	if _, ok := rules[reason]; !ok {
		reason = errorsv1.Reason_REASON_INTERNAL
	}
	details := f.Details()
	info := &errdetails.ErrorInfo{Reason: upper(reason), Domain: Domain, Metadata: map[string]string{}}
	for k, v := range details {
		info.Metadata[k] = text(v)
	}
	parts := []protoadapt.MessageV1{protoadapt.MessageV1Of(info)}
	if typed, err := structpb.NewStruct(details); err == nil && len(details) > 0 {
		parts = append(parts, protoadapt.MessageV1Of(typed))
	}
	if fields := f.FieldErrors(); len(fields) > 0 {
		bad := &errdetails.BadRequest{}
		for _, field := range slices.Sorted(maps.Keys(fields)) {
			bad.FieldViolations = append(bad.FieldViolations,
				&errdetails.BadRequest_FieldViolation{Field: field, Description: fields[field]})
		}
		parts = append(parts, protoadapt.MessageV1Of(bad))
	}
	if f.retryAfter > 0 {
		parts = append(parts, protoadapt.MessageV1Of(&errdetails.RetryInfo{RetryDelay: durationpb.New(f.retryAfter)}))
	}
	plainStatus := status.New(GRPCOf(reason), f.Message())
	full, err := plainStatus.WithDetails(parts...)
	if err != nil {
		return plainStatus
	}
	return full
}

// FromStatus turns an error of a gRPC call back into the fault that the server returned, typed details included. Errors that
// did not come over the wire keep their meaning (see Of); nil for nil.
func FromStatus(err error) *Fault {
	var f *Fault
	if err == nil || errors.As(err, &f) {
		return f
	}
	if s, ok := wireStatus(err); ok {
		return fromWire(s, err)
	}
	return Of(err)
}

func wireStatus(err error) (*status.Status, bool) {
	var carrier interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &carrier) {
		return nil, false
	}
	s := carrier.GRPCStatus()
	return s, s != nil && s.Code() != codes.OK
}

func fromWire(s *status.Status, err error) *Fault {
	f := &Fault{message: s.Message(), details: map[string]any{}, cause: err}
	var info *errdetails.ErrorInfo
	for _, detail := range s.Details() {
		switch d := detail.(type) {
		case *errdetails.ErrorInfo:
			if d.GetDomain() == Domain {
				info = d
			}
		case *structpb.Struct:
			f.details = d.AsMap()
		case *errdetails.BadRequest:
			f.fields = map[string]string{}
			for _, v := range d.GetFieldViolations() {
				f.fields[v.GetField()] = v.GetDescription()
			}
		case *errdetails.RetryInfo:
			f.retryAfter = d.GetRetryDelay().AsDuration()
		}
	}
	number, known := errorsv1.Reason_value[enumPrefix+info.GetReason()]
	if info == nil || !known {
		return foreign(s, err)
	}
	f.reason = errorsv1.Reason(number)
	if len(f.details) == 0 {
		for k, v := range info.GetMetadata() {
			f.details[k] = v
		}
	}
	return f
}

// foreign gives a reason to a status that no Pratique handler made: grpc-go itself, a proxy, or a newer service. Its text is
// kept for the log only.
func foreign(s *status.Status, err error) *Fault {
	switch s.Code() {
	case codes.DeadlineExceeded:
		return New(errorsv1.Reason_REASON_DEADLINE_EXCEEDED, deadlineMessage, Cause(errors.Join(context.DeadlineExceeded, err)))
	case codes.Canceled:
		return New(errorsv1.Reason_REASON_DEPENDENCY_UNAVAILABLE, cancelledMessage, Cause(errors.Join(context.Canceled, err)))
	case codes.Unavailable:
		return New(errorsv1.Reason_REASON_DEPENDENCY_UNAVAILABLE, "a service that is needed does not answer", Cause(err))
	case codes.Unauthenticated:
		return New(errorsv1.Reason_REASON_UNAUTHORIZED, "the call carried no valid credential", Cause(err))
	case codes.PermissionDenied:
		return New(errorsv1.Reason_REASON_PERMISSION_DENIED, "the caller may not do this", Cause(err))
	case codes.Unimplemented:
		return New(errorsv1.Reason_REASON_METHOD_NOT_ALLOWED, "there is no such method", Cause(err))
	case codes.ResourceExhausted: // grpc-go says so of messages over the limit only; our own limits carry a reason
		return New(errorsv1.Reason_REASON_PAYLOAD_TOO_LARGE, "the message is larger than the limit", Cause(err))
	}
	return New(errorsv1.Reason_REASON_INTERNAL, internalMessage, Cause(err))
}

func upper(reason errorsv1.Reason) string { return reason.String()[len(enumPrefix):] }
