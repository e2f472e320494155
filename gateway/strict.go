package gateway

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/google/uuid"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	"github.com/pratique-io/pratique/internal/fault"
)

const (
	// maxBody bounds a request body, in bytes.
	maxBody = 1 << 20
	// maxDepth bounds how deep JSON may nest.
	maxDepth = 16
)

// unreadable is the answer to a call whose shape is wrong, naming the field.
func unreadable(field, text string) error {
	if field == "" {
		return fault.New(errorsv1.Reason_REASON_INVALID_REQUEST, text)
	}
	return fault.New(errorsv1.Reason_REASON_INVALID_REQUEST, field+": "+text, fault.D("field", field))
}

// checkPath refuses path ids that are no UUIDs. Every path variable of the contract but {kind} is one.
func checkPath(values map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if name == "kind" {
			continue
		}
		if _, err := parseUUID(values[name]); err != nil {
			return fault.New(errorsv1.Reason_REASON_INVALID_ID, fmt.Sprintf("%s in the path must be a UUID", name), fault.D("field", name))
		}
	}
	return nil
}

// parseUUID accepts the plain 36-character form only; the library's parser also takes braces and URNs.
func parseUUID(text string) (uuid.UUID, error) {
	if len(text) != 36 {
		return uuid.Nil, fmt.Errorf("a UUID has 36 characters")
	}
	return uuid.Parse(text)
}

// checkQuery refuses unknown, repeated and mistyped query parameters.
func checkQuery(route Route, query string) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return unreadable("", "the query string is malformed")
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		field := route.queryField(name)
		if field == nil {
			return unreadable(name, "unknown query parameter")
		}
		if len(values[name]) > 1 && !field.IsList() {
			return unreadable(name, "given more than once")
		}
		for _, text := range values[name] {
			if problem := scalarProblem(field, text); problem != "" {
				return unreadable(name, problem)
			}
		}
	}
	return nil
}

// scalarProblem says why a query value does not fit its field; empty when it does.
func scalarProblem(field protoreflect.FieldDescriptor, text string) string {
	if problem := textProblem(text); problem != "" {
		return problem
	}
	switch {
	case isTimestamp(field):
		if !isTime(text) {
			return "must be an RFC 3339 time"
		}
	case field.Kind() == protoreflect.BoolKind:
		if text != "true" && text != "false" {
			return "must be true or false"
		}
	case field.Kind() == protoreflect.Int32Kind:
		if _, err := strconv.ParseInt(text, 10, 32); err != nil {
			return "must be an integer"
		}
	case field.Kind() == protoreflect.StringKind && strings.HasSuffix(string(field.Name()), "tenant_id"):
		if _, err := parseUUID(text); err != nil {
			return "must be a UUID"
		}
	}
	return ""
}

// textProblem says why no message and no database column could hold a text; empty when they can.
func textProblem(text string) string {
	switch {
	case !utf8.ValidString(text):
		return "must be valid UTF-8"
	case strings.ContainsRune(text, 0):
		return "must not contain the character NUL"
	}
	return ""
}

// checkBody refuses a body that is not exactly one JSON object of the route's shape: unknown and duplicate fields, wrong types, depth.
func checkBody(route Route, raw []byte) error {
	if route.Body == "" {
		if len(bytes.TrimSpace(raw)) == 0 || bytes.Equal(bytes.TrimSpace(raw), []byte("{}")) {
			return nil
		}
		return unreadable("", "this path takes no body")
	}
	if !utf8.Valid(raw) {
		return unreadable("", "the body must be UTF-8")
	}
	message := route.RPC.Input()
	allowed := route.bodyField
	if route.Body != "*" {
		message = message.Fields().ByName(protoreflect.Name(route.Body)).Message()
		allowed = func(string) bool { return true }
	}
	reader := newShapeReader(raw)
	if err := reader.object(message, "", 0, allowed); err != nil {
		return err
	}
	if _, err := reader.decoder.Token(); err != io.EOF {
		return unreadable("", "something follows the JSON object")
	}
	return nil
}

var timeShape = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)$`)

// isTime takes exactly RFC 3339, in the years that protobuf can say. time.Parse alone also takes commas and single digits.
func isTime(text string) bool {
	at, err := time.Parse(time.RFC3339, text)
	return err == nil && timeShape.MatchString(text) && timestamppb.New(at).IsValid()
}

// shapeReader walks JSON beside a message descriptor.
type shapeReader struct {
	decoder *json.Decoder
	raw     []byte // what the decoder reads
}

func newShapeReader(raw []byte) *shapeReader {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	return &shapeReader{decoder: decoder, raw: raw}
}

func (s *shapeReader) token(path string) (json.Token, error) {
	from := s.decoder.InputOffset()
	token, err := s.decoder.Token()
	if err != nil {
		return nil, unreadable(path, "the body is not valid JSON")
	}
	if text, ok := token.(string); ok {
		if strings.ContainsRune(text, 0) { // no database column can hold it
			return nil, unreadable(path, "must not contain the character NUL")
		}
		if halfCharacter(s.raw[from:s.decoder.InputOffset()]) {
			return nil, unreadable(path, "holds half of a UTF-16 surrogate pair")
		}
	}
	return token, nil
}

// halfCharacter finds a \ud800-\udfff escape without its partner. encoding/json silently replaces it, protojson refuses it.
func halfCharacter(literal []byte) bool {
	for i := 0; i+1 < len(literal); i++ {
		if literal[i] != '\\' {
			continue
		}
		i++ // the escaped character
		first, ok := escaped(literal[i:])
		if !ok || !utf16.IsSurrogate(first) {
			continue
		}
		i += 5
		if i+1 >= len(literal) || literal[i] != '\\' {
			return true
		}
		second, ok := escaped(literal[i+1:])
		if !ok || utf16.DecodeRune(first, second) == unicode.ReplacementChar {
			return true
		}
		i += 5
	}
	return false
}

// escaped reads uXXXX.
func escaped(text []byte) (rune, bool) {
	if len(text) < 5 || text[0] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(text[1:5]), 16, 16)
	return rune(n), err == nil
}

func (s *shapeReader) object(message protoreflect.MessageDescriptor, path string, depth int, allowed func(string) bool) error {
	token, err := s.token(path)
	if err != nil {
		return err
	}
	if token != json.Delim('{') {
		return unreadable(path, "must be a JSON object")
	}
	return s.members(message, path, depth, allowed)
}

// members reads the inside of an object whose opening brace is read.
func (s *shapeReader) members(message protoreflect.MessageDescriptor, path string, depth int, allowed func(string) bool) error {
	if depth > maxDepth {
		return unreadable(path, "nested too deep")
	}
	seen := map[string]bool{}
	for s.decoder.More() {
		token, err := s.token(path)
		if err != nil {
			return err
		}
		name, _ := token.(string)
		at := join(path, name)
		field := message.Fields().ByName(protoreflect.Name(name))
		if field == nil || (allowed != nil && !allowed(name)) {
			return unreadable(at, "unknown field")
		}
		if seen[name] {
			return unreadable(at, "given twice")
		}
		seen[name] = true
		if err := s.value(field, at, depth); err != nil {
			return err
		}
	}
	_, err := s.token(path) // the closing brace
	return err
}

func (s *shapeReader) value(field protoreflect.FieldDescriptor, path string, depth int) error {
	token, err := s.token(path)
	if err != nil {
		return err
	}
	if token == nil { // null means absent
		return nil
	}
	if !field.IsList() {
		return s.single(field, token, path, depth)
	}
	if token != json.Delim('[') {
		return unreadable(path, "must be a list")
	}
	for i := 0; s.decoder.More(); i++ {
		at := fmt.Sprintf("%s[%d]", path, i)
		item, err := s.token(at)
		if err != nil {
			return err
		}
		if item == nil {
			return unreadable(at, "must not be null")
		}
		if err := s.single(field, item, at, depth); err != nil {
			return err
		}
	}
	_, err = s.token(path)
	return err
}

func (s *shapeReader) single(field protoreflect.FieldDescriptor, token json.Token, path string, depth int) error {
	switch field.Kind() {
	case protoreflect.MessageKind:
		if isTimestamp(field) {
			if text, ok := token.(string); !ok || !isTime(text) {
				return unreadable(path, "must be an RFC 3339 time")
			}
			return nil
		}
		if token != json.Delim('{') {
			return unreadable(path, "must be an object")
		}
		return s.members(field.Message(), path, depth+1, nil)
	case protoreflect.StringKind:
		if _, ok := token.(string); !ok {
			return unreadable(path, "must be a string")
		}
	case protoreflect.BoolKind:
		if _, ok := token.(bool); !ok {
			return unreadable(path, "must be true or false")
		}
	case protoreflect.Int32Kind:
		return wholeNumber(token, path, math.MinInt32, math.MaxInt32)
	case protoreflect.DoubleKind:
		number, ok := token.(json.Number)
		if _, err := number.Float64(); !ok || err != nil {
			return unreadable(path, "must be a number in range")
		}
	default:
		return unreadable(path, "cannot be set here")
	}
	return nil
}

func wholeNumber(token json.Token, path string, low, high int64) error {
	number, ok := token.(json.Number)
	if !ok {
		return unreadable(path, "must be an integer")
	}
	n, err := strconv.ParseInt(number.String(), 10, 64)
	if err != nil || n < low || n > high {
		return unreadable(path, "must be an integer in range")
	}
	return nil
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
