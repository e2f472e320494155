package gateway

import (
	"net/http"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	evidencev1 "github.com/pratique-io/pratique/gen/pratique/evidence/v1"
	intakev1 "github.com/pratique-io/pratique/gen/pratique/intake/v1"
	releasev1 "github.com/pratique-io/pratique/gen/pratique/release/v1"
	"github.com/pratique-io/pratique/internal/fault"
)

const pathExplain = "/api/v1/images/import-requests/{id}/explain"

// explain joins what evidence and release say about a request: every rule evaluated for the decision and for release eligibility. intake is
// asked first, so that a request without evidence yet is told from one that does not exist.
func (g *Gateway) explain(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	if err := g.checkStream(r); err != nil {
		g.renderHTTP(w, r, err)
		return
	}
	ctx := outgoing(r)
	request, err := intakev1.NewRequestServiceClient(g.cfg.Peer("intake")).GetImportRequest(ctx, &intakev1.GetImportRequestRequest{Id: id})
	if err != nil {
		g.renderHTTP(w, r, err)
		return
	}
	var decision *evidencev1.DecisionExplanation
	var eligibility *releasev1.EligibilityExplanation
	var group errgroup.Group
	group.Go(func() (err error) {
		decision, err = evidencev1.NewEvidenceServiceClient(g.cfg.Peer("evidence")).ExplainDecision(ctx, &evidencev1.ExplainDecisionRequest{Id: id})
		return absent(err)
	})
	group.Go(func() (err error) {
		eligibility, err = releasev1.NewReleaseServiceClient(g.cfg.Peer("release")).ExplainEligibility(ctx, &releasev1.ExplainEligibilityRequest{Id: id})
		return absent(err)
	})
	if err := group.Wait(); err != nil {
		g.renderHTTP(w, r, err)
		return
	}
	joined, err := joinExplanation(request, decision, eligibility)
	if err != nil {
		g.renderHTTP(w, r, err)
		return
	}
	raw, err := marshaler().Marshal(single{joined})
	if err != nil {
		g.renderHTTP(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(raw)
}

// absent: a service that has not heard of the request yet has nothing to explain.
func absent(err error) error {
	if f := fault.FromStatus(err); f != nil && f.Reason() == errorsv1.Reason_REASON_NOT_FOUND {
		return nil
	}
	return err
}

// joinExplanation is {import_request_id, decision?, eligible, blocker_reason?, rules[]{scope, rule, inputs, outcome, waived_by?}}.
func joinExplanation(request *intakev1.ImportRequest, d *evidencev1.DecisionExplanation, e *releasev1.EligibilityExplanation) (*structpb.Struct, error) {
	rules := []any{}
	for _, rule := range d.GetRules() {
		entry := map[string]any{"scope": "decision", "rule": rule.GetRule(), "inputs": rule.GetInputs().AsMap(), "outcome": rule.GetOutcome()}
		if rule.WaivedBy != nil {
			entry["waived_by"] = rule.GetWaivedBy()
		}
		rules = append(rules, entry)
	}
	for _, rule := range e.GetRules() {
		rules = append(rules, map[string]any{"scope": "release_eligibility", "rule": rule.GetRule(), "inputs": rule.GetInputs().AsMap(), "outcome": rule.GetOutcome()})
	}
	joined := map[string]any{"import_request_id": request.GetId(), "status": request.GetStatus(), "eligible": e.GetEligible(), "rules": rules}
	if e.GetBlockerReason() != "" {
		joined["release_blocker_reason"] = e.GetBlockerReason()
	}
	if d.GetDecision() != nil {
		decision := &structpb.Struct{}
		raw, err := marshaler().MarshalOptions.Marshal(d.GetDecision())
		if err != nil {
			return nil, err
		}
		if err := protojson.Unmarshal(raw, decision); err != nil {
			return nil, err
		}
		joined["decision"] = decision.AsMap()
	}
	return structpb.NewStruct(joined)
}
