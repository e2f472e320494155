package schema

import (
	"fmt"
	"hash/fnv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// Sample is the event with every field set, each to a value made from its name alone: the same for ever, and changed by nothing but a change
// of the field itself.
func Sample(event protoreflect.MessageDescriptor) (proto.Message, error) {
	typ, err := protoregistry.GlobalTypes.FindMessageByName(event.FullName())
	if err != nil {
		return nil, fmt.Errorf("event %s: %w", event.FullName(), err)
	}
	msg := typ.New()
	fill(msg, 4)
	return msg.Interface(), nil
}

// ID is a UUIDv7 made from a name.
func ID(name string) string {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name))
	return fmt.Sprintf("019b7c6a-8a88-7000-8000-%012x", h.Sum64()&0xffffffffffff)
}

// fill sets all fields; depth bounds messages that hold themselves.
func fill(msg protoreflect.Message, depth int) {
	switch m := msg.Interface().(type) {
	case *timestamppb.Timestamp:
		m.Seconds = epoch.Unix()
		return
	case *structpb.Struct:
		m.Fields = map[string]*structpb.Value{"key": structpb.NewStringValue("value")}
		return
	}
	if depth == 0 {
		return
	}
	fields := msg.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		switch {
		case f.IsMap():
			values := msg.Mutable(f).Map()
			value := values.NewValue()
			if f.MapValue().Message() != nil {
				fill(value.Message(), depth-1)
			} else {
				value = scalar(f.MapValue(), string(f.Name()))
			}
			values.Set(scalar(f.MapKey(), "key").MapKey(), value)
		case f.IsList():
			list := msg.Mutable(f).List()
			if f.Message() != nil {
				fill(list.AppendMutable().Message(), depth-1)
			} else {
				list.Append(scalar(f, string(f.Name())))
			}
		case f.Message() != nil:
			fill(msg.Mutable(f).Message(), depth-1)
		default:
			msg.Set(f, scalar(f, string(f.Name())))
		}
	}
}

func scalar(f protoreflect.FieldDescriptor, name string) protoreflect.Value {
	number := int64(f.Number())
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(int32(number))
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(number)
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(uint32(number))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(uint64(number))
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(float32(number) + 0.5)
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(float64(number) + 0.5)
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(name))
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(f.Enum().Values().Get(f.Enum().Values().Len() - 1).Number())
	}
	return protoreflect.ValueOfString(text(name))
}

func text(name string) string {
	switch {
	case strings.HasSuffix(name, "digest") || strings.HasSuffix(name, "hash") || name == "documents" || name == "referrers":
		return "sha256:" + strings.Repeat("5a", 32)
	case strings.HasSuffix(name, "_id") || strings.HasSuffix(name, "_by") || strings.HasPrefix(name, "requester"):
		return ID(name)
	}
	return name
}
