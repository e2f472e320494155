package fault

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
)

type restError struct {
	Code      string         `json:"code"`
	Message   string         `json:"message"`
	Details   map[string]any `json:"details"`
	RequestID string         `json:"request_id"`
}

type restBody struct {
	Error       restError         `json:"error"`
	FieldErrors map[string]string `json:"field_errors,omitempty"`
}

// REST renders an error for HTTP from its reason, never from a gRPC code: status, JSON body and the headers that go with it
// (Content-Type, Retry-After, WWW-Authenticate). A gRPC status from our services counts as the fault it carries.
func REST(err error, requestID string) (int, []byte, http.Header) {
	f := FromStatus(err)
	if f == nil {
		f = New(errorsv1.Reason_REASON_INTERNAL, internalMessage)
	}
	reason := f.reason
	if _, ok := rules[reason]; !ok {
		reason = errorsv1.Reason_REASON_INTERNAL
	}
	body := restBody{
		Error:       restError{Code: CodeOf(reason), Message: f.Message(), Details: f.Details(), RequestID: requestID},
		FieldErrors: f.FieldErrors(),
	}
	headers := http.Header{}
	headers.Set("Content-Type", "application/json")
	if f.retryAfter > 0 {
		headers.Set("Retry-After", strconv.FormatInt(wholeSeconds(f.retryAfter), 10))
	}
	status := int(RuleOf(reason).GetHttp())
	if status == http.StatusUnauthorized {
		headers.Set("WWW-Authenticate", "Bearer")
	}
	var out bytes.Buffer
	if err := json.NewEncoder(&out).Encode(body); err != nil {
		// Details are JSON values by construction; this is the constant that is left if that ever breaks.
		return http.StatusInternalServerError, []byte(`{"error":{"code":"internal","message":"` + internalMessage + `","details":{}}}`), headers
	}
	return status, out.Bytes(), headers
}
