package oci

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"unicode"
	"unicode/utf8"
)

// maxNesting bounds JSON depth; real manifests need 5.
const maxNesting = 32

// frame is one open object or array. keys is made lazily, so that millions of empty objects cost nothing.
type frame struct {
	object  bool
	wantKey bool
	keys    map[string]struct{}
}

// checkDocument accepts raw when it is exactly one JSON object in valid UTF-8 in which no object has two keys that are
// equal or differ only in case. Readers disagree about such keys: some take the first, some the last, Go's own decoder
// ignores case.
func checkDocument(raw []byte) *Unacceptable {
	if !utf8.Valid(raw) {
		return refuse(ReasonNotJSON, "not valid UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var stack []frame
	for first := true; ; first = false {
		tok, err := dec.Token()
		if err != nil {
			return refuse(ReasonNotJSON, "malformed JSON at byte %d", dec.InputOffset())
		}
		if first && tok != json.Delim('{') {
			return refuse(ReasonNotJSON, "not a JSON object")
		}
		if stack, err = step(stack, tok); err != nil {
			var u *Unacceptable
			errors.As(err, &u)
			return u
		}
		if len(stack) == 0 {
			break
		}
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return refuse(ReasonNotJSON, "more than one JSON document")
	}
	return nil
}

func step(stack []frame, tok json.Token) ([]frame, error) {
	top := len(stack) - 1
	if key, ok := tok.(string); ok && top >= 0 && stack[top].object && stack[top].wantKey {
		return stack, stack[top].take(key)
	}
	if d, ok := tok.(json.Delim); ok && (d == '}' || d == ']') {
		return stack[:top], nil
	}
	if top >= 0 && stack[top].object {
		stack[top].wantKey = true // a value begins; after it comes a key
	}
	if d, ok := tok.(json.Delim); ok {
		if len(stack) == maxNesting {
			return stack, refuse(ReasonNotJSON, "nested deeper than %d", maxNesting)
		}
		stack = append(stack, frame{object: d == '{', wantKey: d == '{'})
	}
	return stack, nil
}

func (f *frame) take(key string) error {
	folded := fold(key)
	if _, dup := f.keys[folded]; dup {
		return refuse(ReasonAmbiguousKeys, "key %s occurs twice in one object, perhaps in another case", clip(key))
	}
	if f.keys == nil {
		f.keys = map[string]struct{}{}
	}
	f.keys[folded] = struct{}{}
	f.wantKey = false
	return nil
}

// fold maps strings that are equal under Unicode simple case folding (what encoding/json uses, so that K also matches the
// Kelvin sign) to one string.
func fold(s string) string {
	out := make([]rune, 0, len(s))
	for _, r := range s {
		least := r
		for n := unicode.SimpleFold(r); n != r; n = unicode.SimpleFold(n) {
			least = min(least, n)
		}
		out = append(out, least)
	}
	return string(out)
}
