package fault

import (
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
)

// rules is read once from the enum's options: the one table behind gRPC, REST and docs/errors.md.
var rules = func() map[errorsv1.Reason]*errorsv1.Rule {
	values := errorsv1.Reason_REASON_UNSPECIFIED.Descriptor().Values()
	out := make(map[errorsv1.Reason]*errorsv1.Rule, values.Len())
	for i := range values.Len() {
		v := values.Get(i)
		if rule, ok := proto.GetExtension(v.Options(), errorsv1.E_Rule).(*errorsv1.Rule); ok && rule != nil {
			out[errorsv1.Reason(v.Number())] = rule
		}
	}
	return out
}()

// RuleOf is how a reason is rendered. A reason without a rule (UNSPECIFIED, or one of a newer writer) is treated as internal.
func RuleOf(reason errorsv1.Reason) *errorsv1.Rule {
	if rule, ok := rules[reason]; ok {
		return rule
	}
	return rules[errorsv1.Reason_REASON_INTERNAL]
}

// GRPCOf is the gRPC code of a reason.
func GRPCOf(reason errorsv1.Reason) codes.Code {
	if n, ok := code.Code_value[RuleOf(reason).GetGrpc()]; ok {
		return codes.Code(n)
	}
	return codes.Internal
}

// Reasons lists every reason a client can meet, in the order of the contract.
func Reasons() []errorsv1.Reason {
	values := errorsv1.Reason_REASON_UNSPECIFIED.Descriptor().Values()
	out := make([]errorsv1.Reason, 0, values.Len())
	for i := range values.Len() {
		if r := errorsv1.Reason(values.Get(i).Number()); r != errorsv1.Reason_REASON_UNSPECIFIED {
			out = append(out, r)
		}
	}
	return out
}
