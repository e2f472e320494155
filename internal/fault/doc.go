package fault

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
)

const docHead = `# Errors

Generated from ` + "`proto/pratique/errors/v1/reasons.proto`" + `; do not edit (` + "`go test ./internal/fault -update`" + `).

Every refusal carries one of these codes. REST: ` + "`" + `{"error":{"code","message","details","request_id"}}` + "`" + `, with
` + "`field_errors`" + ` beside ` + "`error`" + ` where fields are to blame, and ` + "`Retry-After`" + ` where waiting helps. gRPC: the status below with
` + "`google.rpc.ErrorInfo{reason: CODE IN UPPER CASE, domain: \"pratique.io\"}`" + `, and ` + "`BadRequest`" + ` or ` + "`RetryInfo`" + ` likewise.
Decide by the code, never by the message. ` + "`details.next_action`" + ` is given where the next step is always the same.

| code | meaning | HTTP | gRPC | next_action |
|---|---|---|---|---|
`

// Markdown writes docs/errors.md from the enum's options and from the comments in source, the text of reasons.proto. A value
// without a comment is an error: it would be a code that nobody can act on.
func Markdown(source []byte) ([]byte, error) {
	comments := commentsOf(source)
	var out bytes.Buffer
	out.WriteString(docHead)
	for _, reason := range Reasons() {
		comment := comments[reason.String()]
		if comment == "" {
			return nil, fmt.Errorf("%s has no comment in reasons.proto", reason)
		}
		rule := RuleOf(reason)
		fmt.Fprintf(&out, "| `%s` | %s | %d %s | %s | %s |\n", CodeOf(reason), strings.ReplaceAll(comment, "|", `\|`),
			rule.GetHttp(), http.StatusText(int(rule.GetHttp())), rule.GetGrpc(), quoted(rule.GetNextAction()))
	}
	return out.Bytes(), nil
}

func quoted(text string) string {
	if text == "" {
		return ""
	}
	return "`" + text + "`"
}

// commentsOf finds the comment lines that stand directly above each value of the enum.
func commentsOf(source []byte) map[string]string {
	out := map[string]string{}
	var above []string
	for line := range strings.Lines(string(source)) {
		line = strings.TrimSpace(line)
		if text, ok := strings.CutPrefix(line, "//"); ok {
			above = append(above, strings.TrimSpace(text))
			continue
		}
		name, _, _ := strings.Cut(line, " ")
		if _, known := errorsv1.Reason_value[name]; known {
			out[name] = strings.Join(above, " ")
		}
		above = nil
	}
	return out
}
