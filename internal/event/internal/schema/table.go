package schema

import (
	"bytes"
	"fmt"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

const tableHead = `# Events

Generated from ` + "`proto/pratique/*/v1/events.proto`" + `; do not edit (` + "`go test ./internal/event -run Golden -update`" + `).

Every event is a CloudEvent 1.0 in structured JSON. ` + "`type`" + ` is the name of the proto message, ` + "`data`" + ` is that message as protojson with the
proto's field names: what has its zero value is left out, 64-bit integers are strings, times are RFC 3339 in UTC. A JSON Schema of each whole
event is in [gen/schema](../gen/schema), a full example of each in [internal/event/testdata/golden](../internal/event/testdata/golden).

| attribute | meaning |
|---|---|
| ` + "`id`" + ` | UUIDv7; the same event always has the same id |
| ` + "`source`" + ` | ` + "`/pratique/<service>`" + `, the only service that may publish it |
| ` + "`subject`" + ` | id of the aggregate that changed |
| ` + "`sequence`" + ` | the aggregate's version after the change |
| ` + "`tenantid`" + ` | whose it is; absent for events of no tenant |
| ` + "`requestid`" + ` | the request it concerns, if any |
| ` + "`actor`" + ` | ` + "`user:<id>`, `service:<name>` or `system`" + ` |
| ` + "`causationid`" + `, ` + "`traceparent`" + ` | the event that led to it, the trace it belongs to |

## Subscribing

The stream is ` + "`PRATIQUE_LIFECYCLE`" + `. Subjects are ` + "`pratique.<service>.v1.<event_in_snake_case>.<tenant id>`" + `, with ` + "`_`" + ` in the tenant's place for
events of no tenant, so a filter picks events, tenants or both. ` + "`pratique up`" + ` gives outsiders a user that may only read (` + "`nats`" + ` in
` + "`connection.json`" + `). Its durable consumers are named ` + "`ext_<user>`, or `ext_<user>_1` to `_9`" + `, and its replies arrive below ` + "`_INBOX_<user>`" + `.

` + "```go" + `
nc, err := nats.Connect(url, nats.UserInfo("subscriber", password), nats.CustomInboxPrefix("_INBOX_subscriber"))
js, err := jetstream.New(nc)
consumer, err := js.CreateOrUpdateConsumer(ctx, "PRATIQUE_LIFECYCLE", jetstream.ConsumerConfig{
	Durable: "ext_subscriber", AckPolicy: jetstream.AckExplicitPolicy, FilterSubject: "pratique.intake.v1.quarantine_concluded.*",
})
batch, err := consumer.Fetch(100) // each message is one CloudEvent; handle it, then msg.Ack()
` + "```" + `

Three rules keep a subscriber right:

* An event may arrive twice: remember ` + "`id`" + `.
* The order on the stream is not the order of an aggregate: keep the highest ` + "`sequence`" + ` per ` + "`subject`" + ` and discard what is not newer. Gaps are allowed.
* Resume by time, not by the stream's sequence: a broker that lost its store is refilled from the services' outboxes and counts anew.

Fields and events are only added. A shape that old readers cannot take becomes a ` + "`v2`" + ` beside ` + "`v1`" + `. Events of people (` + "`PersonChanged`, `RoleBindingChanged`" + `)
travel on ` + "`PRATIQUE_DIRECTORY`" + `, which no outside system can read. If you need one event only, take ` + "`QuarantineConcluded`" + `: the end of a quarantine.
`

// Markdown is docs/events.md. subject gives the filter of an event type; events are in the order in which the document lists them.
func Markdown(events []protoreflect.MessageDescriptor, comments Comments, subject func(typ string) string) []byte {
	var out bytes.Buffer
	out.WriteString(tableHead)
	service := ""
	for _, event := range events {
		if s := Service(event); s != service {
			service = s
			fmt.Fprintf(&out, "\n## %s\n\n| event | when | subject | data |\n|---|---|---|---|\n", service)
		}
		fields := make([]string, event.Fields().Len())
		for i := range fields {
			fields[i] = "`" + string(event.Fields().Get(i).Name()) + "` " + kind(event.Fields().Get(i))
		}
		fmt.Fprintf(&out, "| [%s](../gen/schema/%s.json) | %s | `%s` | %s |\n", event.Name(), event.FullName(),
			cell(comments.Event(event)), subject(string(event.FullName())), strings.Join(fields, ", "))
	}
	return out.Bytes()
}

func cell(text string) string {
	return strings.ReplaceAll(text, "|", `\|`)
}

// kind names a field's type in few letters.
func kind(f protoreflect.FieldDescriptor) string {
	name := func(f protoreflect.FieldDescriptor) string {
		if f.Message() == nil {
			return f.Kind().String()
		}
		switch f.Message().FullName() {
		case "google.protobuf.Timestamp":
			return "time"
		case "google.protobuf.Struct":
			return "object"
		}
		return string(f.Message().Name())
	}
	switch {
	case f.IsMap():
		return "map of " + name(f.MapValue())
	case f.IsList():
		return name(f) + " list"
	}
	return name(f)
}
