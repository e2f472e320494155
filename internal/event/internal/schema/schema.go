// Package schema owns how events look from outside: a JSON Schema for each, a sample of each, and the table in docs/events.md. All of it is
// read from the registered descriptors and the comments in the .proto files, so that a new event cannot be forgotten.
package schema

import (
	"bytes"
	"encoding/json"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

const idBase = "https://pratique.io/schema/"

var eventFile = regexp.MustCompile(`^pratique/[a-z]+/v[0-9]+/events\.proto$`)

// Events lists the messages of every registered pratique/<service>/v<n>/events.proto, by full name. What is not linked into the program is
// not found: callers import the generated packages.
func Events(files *protoregistry.Files) []protoreflect.MessageDescriptor {
	var out []protoreflect.MessageDescriptor
	files.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		if eventFile.MatchString(file.Path()) {
			for i := range file.Messages().Len() {
				out = append(out, file.Messages().Get(i))
			}
		}
		return true
	})
	slices.SortFunc(out, func(a, b protoreflect.MessageDescriptor) int {
		return strings.Compare(string(a.FullName()), string(b.FullName()))
	})
	return out
}

// Service is the producer: "intake" of pratique.intake.v1.RequestSubmitted.
func Service(event protoreflect.MessageDescriptor) string {
	return strings.Split(string(event.FullName()), ".")[1]
}

// JSONSchema is the schema (draft 2020-12) of the whole envelope with the event's data, indented, with a newline at the end. It is open:
// attributes and fields that a newer writer adds are allowed, and protojson leaves out what has its zero value, so no field of data is required.
func JSONSchema(event protoreflect.MessageDescriptor, comments Comments) ([]byte, error) {
	b := builder{comments: comments, defs: map[string]any{}}
	data := b.message(event)
	doc := envelope(event)
	doc["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	doc["$id"] = idBase + string(event.FullName()) + ".json"
	doc["title"] = string(event.FullName())
	describe(doc, comments.Event(event))
	doc["properties"].(map[string]any)["data"] = data
	if len(b.defs) > 0 {
		doc["$defs"] = b.defs
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err := enc.Encode(doc)
	return out.Bytes(), err
}

const uuidPattern = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"

// envelope restates internal/event's Envelope.
func envelope(event protoreflect.MessageDescriptor) map[string]any {
	id := func(text string) map[string]any {
		return map[string]any{"type": "string", "pattern": uuidPattern, "description": text}
	}
	return map[string]any{
		"type":     "object",
		"required": []string{"specversion", "id", "type", "source", "subject", "time", "datacontenttype", "sequence", "data"},
		"properties": map[string]any{
			"specversion":     map[string]any{"const": "1.0"},
			"id":              id("UUIDv7 of the event; the same event may arrive twice, always under this id"),
			"type":            map[string]any{"const": string(event.FullName())},
			"source":          map[string]any{"const": "/pratique/" + Service(event)},
			"subject":         id("id of the aggregate that changed"),
			"time":            map[string]any{"type": "string", "format": "date-time"},
			"datacontenttype": map[string]any{"const": "application/json"},
			"tenantid":        id("absent when the event belongs to no tenant"),
			"sequence": map[string]any{"type": "integer", "minimum": 0, "maximum": 1<<31 - 1,
				"description": "version of the aggregate after the change; discard what is not newer than what you have"},
			"requestid":   id("the request it concerns, if any"),
			"actor":       map[string]any{"type": "string", "maxLength": 512, "description": "user:<id>, service:<name> or system"},
			"causationid": id("id of the event that led to this one"),
			"traceparent": map[string]any{"type": "string", "pattern": "^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"},
		},
	}
}

func describe(node map[string]any, text string) {
	if text != "" {
		node["description"] = text
	}
}

// builder collects the shapes that messages refer to.
type builder struct {
	comments Comments
	defs     map[string]any
}

func (b *builder) message(m protoreflect.MessageDescriptor) map[string]any {
	properties := map[string]any{}
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		node := b.field(f)
		describe(node, b.comments[string(f.FullName())])
		properties[string(f.Name())] = node
	}
	return map[string]any{"type": "object", "properties": properties}
}

func (b *builder) field(f protoreflect.FieldDescriptor) map[string]any {
	switch {
	case f.IsMap():
		return map[string]any{"type": "object", "additionalProperties": b.value(f.MapValue())}
	case f.IsList():
		return map[string]any{"type": "array", "items": b.value(f)}
	}
	return b.value(f)
}

// value is how protojson writes one value: 64-bit integers are strings, times are RFC 3339.
func (b *builder) value(f protoreflect.FieldDescriptor) map[string]any {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return map[string]any{"type": "boolean"}
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return map[string]any{"type": "integer", "minimum": -1 << 31, "maximum": 1<<31 - 1}
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return map[string]any{"type": "integer", "minimum": 0, "maximum": 1<<32 - 1}
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return map[string]any{"type": "string", "pattern": "^-?[0-9]{1,19}$"}
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return map[string]any{"type": "string", "pattern": "^[0-9]{1,20}$"}
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		return map[string]any{"anyOf": []any{map[string]any{"type": "number"}, map[string]any{"enum": []string{"NaN", "Infinity", "-Infinity"}}}}
	case protoreflect.BytesKind:
		return map[string]any{"type": "string", "contentEncoding": "base64"}
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return b.reference(f.Message())
	}
	return map[string]any{"type": "string"} // strings, and enums by name
}

func (b *builder) reference(m protoreflect.MessageDescriptor) map[string]any {
	name := string(m.FullName())
	switch name {
	case "google.protobuf.Timestamp":
		return map[string]any{"type": "string", "format": "date-time"}
	case "google.protobuf.Struct":
		return map[string]any{"type": "object"}
	}
	if _, known := b.defs[name]; !known {
		b.defs[name] = nil // a message may hold itself
		def := b.message(m)
		describe(def, b.comments[name])
		b.defs[name] = def
	}
	return map[string]any{"$ref": "#/$defs/" + name}
}
