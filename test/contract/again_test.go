package contract

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// failedAnHourAgo makes an approved request look as if no run of it could be started, an hour ago: the backoff cannot be waited for here.
func (p *product) failedAnHourAgo(t *testing.T, id string) {
	tag, err := p.admin.Exec(t.Context(), `update intake.request set status = 'failed', execution_state = 'completed', failure_class = 'dispatch',
		failure_code = 'dispatch_error', execution_state_at = now() - interval '1 hour', facts = facts ||
		jsonb_build_object('blocked', jsonb_build_object('class', 'dispatch', 'code', 'dispatch_error'), 'decision',
			jsonb_build_object('status', 'approved', 'by', gen_random_uuid(), 'reason', 'fine', 'at', '2026-01-01T00:00:00Z'))
		where id = $1`, id)
	require.NoError(t, err)
	require.EqualValues(t, 1, tag.RowsAffected())
}

// askAgain retries and clones.
func (p *product) askAgain(t *testing.T) {
	first := p.pending(t).text("data.id")
	early := call{who: "mel", do: "POST " + imports + "/" + first + "/retry", body: `{}`}
	p.want(t, 400, "import_not_retryable", early)
	p.failedAnHourAgo(t, first)
	require.Equal(t, true, p.want(t, 200, "", call{who: "mel", do: "GET " + imports + "/" + first}).at("data.retryable"))
	retry := p.want(t, 201, "", keyed(early, "retry-"+first))
	require.Equal(t, "approved", retry.text("data.status"))
	require.Equal(t, first, retry.text("data.retry_of"))
	require.Equal(t, first, retry.text("data.decision_timeline.carried_over_from"))
	require.Equal(t, retry.text("data.id"), p.want(t, 201, "", keyed(early, "retry-"+first)).text("data.id"))
	p.want(t, 400, "import_not_retryable", early)
	p.want(t, 409, "approval_already_decided", call{who: "sam", do: "POST " + imports + "/" + retry.text("data.id") + "/approve", body: `{}`})
	started := call{who: "mel", do: "GET " + imports + "/" + retry.text("data.id")}
	require.Eventually(t, func() bool { return p.want(t, 200, "", started).text("data.pipeline_started_at") != "" }, time.Minute, 50*time.Millisecond,
		"the retry never ran")

	scan := p.want(t, 201, "", call{who: "mel", do: "POST " + scans, body: p.importBody(p.image(t), map[string]any{"epr_record_id": nil})}).text("data.id")
	p.until(t, call{who: "mel", do: "GET " + scans + "/" + scan}, "data.execution_state", "completed")
	p.failedAnHourAgo(t, scan)
	again := p.want(t, 201, "", call{who: "mel", do: "POST " + scans + "/" + scan + "/retry", body: `{}`})
	require.Equal(t, scan, again.text("data.retry_of"))

	clone := p.want(t, 201, "", call{who: "mel", do: "POST " + imports + "/" + first + "/clone", body: encode(map[string]any{"source_image_ref": p.image(t)})})
	require.Equal(t, first, clone.text("data.cloned_from"))
	require.Equal(t, "pending", clone.text("data.status"))
}
