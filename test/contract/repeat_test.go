package contract

import (
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func keyed(c call, key string) call {
	header := map[string]string{"Idempotency-Key": key}
	for name, value := range c.header {
		header[name] = value
	}
	c.header = header
	return c
}

// together makes n calls at once and counts the answers by status.
func together(t *testing.T, send sender, n int, c call) (answers []answer, statuses map[int]int) {
	answers, statuses = make([]answer, n), map[int]int{}
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() { answers[i] = send(t, c) })
	}
	group.Wait()
	for _, a := range answers {
		statuses[a.status]++
	}
	return answers, statuses
}

func (p *product) rows(t testing.TB, query string, args ...any) (n int) {
	require.NoError(t, p.admin.QueryRow(t.Context(), query, args...).Scan(&n))
	return n
}

func (p *product) ask(t testing.TB, who string) call {
	return call{who: who, do: "POST " + imports, body: p.importBody(p.image(t), nil)}
}

func TestRepeatedCreates(t *testing.T) {
	p := start(t)
	both(t, p, func(t *testing.T, send sender) {
		key := "key " + randomID()
		c := keyed(p.ask(t, "mel"), key)
		first := send(t, c).is(t, c, 201, "")
		again := send(t, c).is(t, c, 201, "")
		require.Equal(t, first.body, again.body, "the first answer, word for word")
		spaced := c
		spaced.body = strings.ReplaceAll(c.body, ",", " ,\n ")
		require.Equal(t, first.text("data.id"), send(t, spaced).text("data.id"), "white space is no other body")

		other := c
		other.body = strings.Replace(c.body, "{", `{"justification":"another",`, 1)
		send(t, other).is(t, other, 409, "idempotency_key_reused")

		for _, independent := range []call{
			keyed(p.ask(t, "ada"), key),
			keyed(call{who: "mel", do: "POST " + scans, body: p.importBody(p.image(t), map[string]any{"epr_record_id": nil})}, key),
			keyed(call{who: "mel", do: "POST " + registrations, body: `{"product_name":"a","technology_name":"b"}`}, key),
			keyed(call{who: "omar", do: "POST " + registrations, body: `{"product_name":"a","technology_name":"b"}`}, key),
		} {
			made := send(t, independent).is(t, independent, 201, "")
			require.NotEqual(t, first.text("data.id"), made.text("data.id"))
			require.Equal(t, made.body, send(t, independent).is(t, independent, 201, "").body)
		}

		withdraw := call{who: "mel", do: "POST " + imports + "/" + first.text("data.id") + "/withdraw", body: "{}"}
		send(t, withdraw).is(t, withdraw, 200, "")
		require.Equal(t, "pending", send(t, c).is(t, c, 201, "").text("data.status"), "the answer is the first one, whatever became of the request")
		require.Equal(t, 1, p.rows(t, `select count(*) from intake.request where source_image_ref = $1`, first.text("data.source_image_ref")))

		lookup := call{who: "mel", do: "GET " + imports + "?limit=1", header: map[string]string{"Idempotency-Key": key}}
		send(t, lookup).is(t, lookup, 200, "")
	})
	// The same key over the other transport is the same call.
	c := keyed(p.ask(t, "mel"), randomID())
	first := p.want(t, 201, "", c)
	require.Equal(t, first.text("data.id"), p.grpc(t, c).is(t, c, 201, "").text("data.id"))
}

func TestKeys(t *testing.T) {
	p := start(t)
	both(t, p, func(t *testing.T, send sender) {
		for _, key := range []string{"", strings.Repeat("k", 256)} {
			c := keyed(p.ask(t, "mel"), key)
			send(t, c).is(t, c, 400, "invalid_request")
		}
		for _, key := range []string{"k" + randomID()[30:], strings.Repeat("k", 219) + randomID(), `!"#$%&'()*+,-./:;<=>?@[]^_{|} ~` + randomID()} {
			c := keyed(p.ask(t, "mel"), key)
			made := send(t, c).is(t, c, 201, "")
			require.Equal(t, made.text("data.id"), send(t, c).is(t, c, 201, "").text("data.id"), key)
		}
	})
	for _, key := range []string{"schlüssel", "a\tb"} {
		p.want(t, 400, "invalid_request", keyed(p.ask(t, "mel"), key))
	}
}

func TestManyAtOnce(t *testing.T) {
	p := start(t)
	both(t, p, func(t *testing.T, send sender) {
		c := keyed(p.ask(t, "mel"), randomID())
		answers, statuses := together(t, send, 8, c)
		require.Equal(t, map[int]int{201: 8}, statuses)
		for _, a := range answers {
			require.Equal(t, answers[0].body, a.body)
		}
		ref := answers[0].text("data.source_image_ref")
		require.Equal(t, 1, p.rows(t, `select count(*) from intake.request where source_image_ref = $1`, ref))
		require.Equal(t, 1, p.rows(t, `select count(*) from intake.outbox where convert_from(body, 'utf8')::jsonb ->> 'subject' = $1`, answers[0].text("data.id")))

		answers, statuses = together(t, send, 8, p.ask(t, "mel"))
		require.Equal(t, map[int]int{201: 1, 409: 7}, statuses, "without a key one wins and the others are duplicates")
		winner := ""
		for _, a := range answers {
			winner += a.text("data.id")
		}
		for _, a := range answers {
			if a.status == 409 {
				require.Equal(t, "duplicate_request", a.code)
				require.Equal(t, winner, a.text("error.details.existing_id"))
			}
		}

		c = keyed(call{who: "mel", do: "POST " + registrations, body: `{"product_name":"a","technology_name":"b"}`}, randomID())
		answers, statuses = together(t, send, 8, c)
		require.Equal(t, map[int]int{201: 8}, statuses)
		for _, a := range answers {
			require.Equal(t, answers[0].text("data.epr_record_id"), a.text("data.epr_record_id"))
		}
	})
}

func TestRepeatedDecisions(t *testing.T) {
	p := start(t)
	w := p.through(t)
	both(t, p, func(t *testing.T, send sender) {
		made := p.pending(t).text("data.id")
		comment := keyed(call{who: "sam", do: "POST /api/v1/admin/cases/" + p.caseOf(t, made) + "/comment", body: `{"text":"once"}`}, randomID())
		require.Len(t, send(t, comment).is(t, comment, 201, "").list("data.comments"), 1)
		require.Len(t, send(t, comment).is(t, comment, 201, "").list("data.comments"), 1)

		reject := keyed(call{who: "sam", do: "POST " + imports + "/" + made + "/reject", body: `{"reason":"no"}`}, randomID())
		send(t, reject).is(t, reject, 202, "")
		require.Equal(t, "rejected", send(t, reject).is(t, reject, 202, "").text("data.status"))
		other := reject
		other.body = `{"reason":"another"}`
		send(t, other).is(t, other, 409, "idempotency_key_reused")
		rita := reject
		rita.who = "rita"
		send(t, rita).is(t, rita, 409, "approval_already_decided")

		use := keyed(call{who: "mel", do: "POST " + artifacts + "/" + w.artifact + "/consume", body: `{"project_id":"p"}`}, randomID())
		first := send(t, use).is(t, use, 202, "")
		require.Equal(t, first.body, send(t, use).is(t, use, 202, "").body)
		end := call{who: "mel", do: "DELETE " + artifacts + "/" + w.artifact + "/consumptions/" + first.text("data.id")}
		send(t, end).is(t, end, 204, "")
		send(t, end).is(t, end, 404, "not_found")
		require.Equal(t, first.body, send(t, use).is(t, use, 202, "").body)
		use.body = `{"project_id":"q"}`
		send(t, use).is(t, use, 409, "idempotency_key_reused")

		p.until(t, call{who: "mel", do: "GET " + imports + "/" + w.request}, "data.release_state", "released")
		place := encode(map[string]string{"destination_image_ref": p.Connection.Registries["trusted"].Address + "/payments/again/" + randomID() + ":1"})
		release := keyed(call{who: "rita", do: "POST " + imports + "/" + w.request + "/release", body: place}, randomID())
		answers, statuses := together(t, send, 3, release)
		require.Equal(t, map[int]int{202: 3}, statuses)
		releases := len(answers[0].list("data.releases"))
		for _, a := range answers {
			require.Len(t, a.list("data.releases"), releases, "one promotion")
		}
		release.body = "{}"
		send(t, release).is(t, release, 409, "idempotency_key_reused")
	})
}
