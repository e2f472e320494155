package contract

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Whatever stands in a message that a gRPC client can send, nothing breaks: refused or ignored, never internal.
func TestHostileMessages(t *testing.T) {
	p := start(t)
	for _, method := range p.table.Methods() {
		who, ok := p.somebody(t, method)
		if !ok {
			continue
		}
		rpc := p.rpc(t, method)
		c := call{who: who, method: method, atWork: true}
		p.invoke(t, c, rpc, 200, fresh(t, rpc.Input()))
		for _, text := range []string{"a\x00b", "\x00", "\u202e\u0007\x1b[31m", strings.Repeat("é", 100_000), "' or 1=1 --", "%00%ff", "{{.}}", "\ufffe\U0010ffff"} {
			message := fresh(t, rpc.Input())
			fillHostile(message.ProtoReflect(), text)
			c.body = fmt.Sprintf("%.40q", text)
			p.invoke(t, c, rpc, 200, message)
			// Each field by itself, on top of ids that are none of anybody's.
			for i := range rpc.Input().Fields().Len() {
				one := fresh(t, rpc.Input())
				for _, name := range []protoreflect.Name{"id", "cid", "import_id"} {
					if field := rpc.Input().Fields().ByName(name); field != nil {
						one.ProtoReflect().Set(field, protoreflect.ValueOfString(randomID()))
					}
				}
				fillField(one.ProtoReflect(), rpc.Input().Fields().Get(i), text)
				p.invoke(t, c, rpc, 200, one)
			}
		}
	}
}

func fillHostile(m protoreflect.Message, text string) {
	for i := range m.Descriptor().Fields().Len() {
		fillField(m, m.Descriptor().Fields().Get(i), text)
	}
}

func fillField(m protoreflect.Message, field protoreflect.FieldDescriptor, text string) {
	switch {
	case field.IsList():
		m.Mutable(field).List().Append(protoreflect.ValueOfString(text))
	case field.Kind() == protoreflect.StringKind:
		m.Set(field, protoreflect.ValueOfString(text))
	case field.Kind() == protoreflect.Int32Kind:
		m.Set(field, protoreflect.ValueOfInt32(-1<<31))
	case field.Kind() == protoreflect.Int64Kind:
		m.Set(field, protoreflect.ValueOfInt64(-1<<63))
	case field.Kind() == protoreflect.MessageKind:
		if at, ok := m.NewField(field).Message().Interface().(*timestamppb.Timestamp); ok {
			proto.Merge(at, &timestamppb.Timestamp{Seconds: 1 << 60, Nanos: -5})
			m.Set(field, protoreflect.ValueOfMessage(at.ProtoReflect()))
		}
	}
}
