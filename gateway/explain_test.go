package gateway

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/structpb"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	evidencev1 "github.com/pratique-io/pratique/gen/pratique/evidence/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	releasev1 "github.com/pratique-io/pratique/gen/pratique/release/v1"
	"github.com/pratique-io/pratique/internal/fault"
)

const explainPath = createPath + "/" + someID + "/explain"

// explaining plays intake, evidence and release; a nil part has not heard of the request.
func explaining(t *testing.T, decision *evidencev1.DecisionExplanation, eligibility *releasev1.EligibilityExplanation) func(call, grpc.ServerStream) error {
	unknown := fault.New(errorsv1.Reason_REASON_NOT_FOUND, "never heard of it")
	return func(c call, stream grpc.ServerStream) error {
		switch {
		case c.service == "intake":
			return stream.SendMsg(&intakev1.ImportRequest{Id: someID, Status: "quarantined"})
		case c.service == "evidence" && decision != nil:
			return stream.SendMsg(decision)
		case c.service == "release" && eligibility != nil:
			return stream.SendMsg(eligibility)
		}
		return unknown
	}
}

func TestAnExplanationJoinsBothSides(t *testing.T) {
	t.Parallel()
	s := start(t)
	inputs, err := structpb.NewStruct(map[string]any{"critical": 2, "max_critical": 0})
	require.NoError(t, err)
	decision := &evidencev1.DecisionExplanation{
		Decision: &evidencev1.Decision{Decision: "quarantine", Reasons: []string{"max_critical"}, Version: 3},
		Rules: []*evidencev1.Rule{
			{Rule: "max_critical", Inputs: inputs, Outcome: "fail"},
			{Rule: "max_p2", Outcome: "pass", WaivedBy: new("W-1")},
		},
	}
	eligibility := &releasev1.EligibilityExplanation{
		BlockerReason: new("policy_quarantined"), Rules: []*releasev1.EligibilityRule{{Rule: "policy_passed", Inputs: inputs, Outcome: "fail"}},
	}
	s.play(explaining(t, decision, eligibility))
	got := s.send("GET", explainPath, "", "Authorization", "Bearer x", "X-Tenant-ID", "payments")
	require.Equal(t, http.StatusOK, got.status, "%s", got.raw)
	require.JSONEq(t, `{"data":{"import_request_id":"`+someID+`","status":"quarantined","eligible":false,"release_blocker_reason":"policy_quarantined",
		"decision":{"decision":"quarantine","reasons":["max_critical"],"policy_hash":"","policy_version":0,"version":"3"},
		"rules":[
		 {"scope":"decision","rule":"max_critical","inputs":{"critical":2,"max_critical":0},"outcome":"fail"},
		 {"scope":"decision","rule":"max_p2","inputs":{},"outcome":"pass","waived_by":"W-1"},
		 {"scope":"release_eligibility","rule":"policy_passed","inputs":{"critical":2,"max_critical":0},"outcome":"fail"}]}}`, string(got.raw))
	calls := s.took()
	require.Len(t, calls, 3)
	for _, c := range calls {
		require.Equal(t, []string{"Bearer x"}, c.metadata.Get("authorization"), c.service)
		require.Equal(t, []string{"payments"}, c.metadata.Get("x-tenant-id"), c.service)
	}
}

func TestAnExplanationMayLackAPart(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.play(explaining(t, nil, &releasev1.EligibilityExplanation{BlockerReason: new("import_not_terminal")}))
	got := s.send("GET", explainPath, "")
	require.Equal(t, http.StatusOK, got.status)
	require.JSONEq(t, `{"data":{"import_request_id":"`+someID+`","status":"quarantined","eligible":false,"release_blocker_reason":"import_not_terminal","rules":[]}}`, string(got.raw))
	s.play(explaining(t, nil, nil))
	got = s.send("GET", explainPath, "")
	require.Equal(t, http.StatusOK, got.status)
	require.JSONEq(t, `{"data":{"import_request_id":"`+someID+`","status":"quarantined","eligible":false,"rules":[]}}`, string(got.raw))
}

func TestAnExplanationOfNothingIs404AndOfTheUnknown503(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.play(refuse(fault.New(errorsv1.Reason_REASON_NOT_FOUND, "no such request")))
	require.Equal(t, http.StatusNotFound, s.send("GET", explainPath, "").status)
	require.Len(t, s.took(), 1, "the others need not be asked")
	s.play(func(c call, stream grpc.ServerStream) error {
		if c.service == "release" {
			return fault.New(errorsv1.Reason_REASON_DEPENDENCY_UNAVAILABLE, "down")
		}
		return explaining(t, nil, nil)(c, stream)
	})
	got := s.send("GET", explainPath, "")
	require.Equal(t, http.StatusServiceUnavailable, got.status, "half an answer would look like a whole one")
	require.True(t, strings.HasPrefix(got.header.Get("Content-Type"), "application/json"))
}
