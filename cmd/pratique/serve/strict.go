package serve

import (
	"encoding"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/pratique-io/pratique/internal/config"
)

// sift takes what cannot be read out of a configuration and tells each by its full path, so that the rest can be checked in the same go: an
// operator mends everything at once. Values are not repeated, since a secret may stand in the wrong place.
func sift(data []byte, into any, problems *config.Problems) ([]byte, error) {
	var document, second yaml.Node
	decoder := yaml.NewDecoder(strings.NewReader(string(data)))
	switch err := decoder.Decode(&document); {
	case errors.Is(err, io.EOF):
		return data, nil
	case err != nil:
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	if err := decoder.Decode(&second); !errors.Is(err, io.EOF) {
		return nil, errors.New("read configuration: it holds more than one document")
	}
	if len(document.Content) == 0 || !keep(document.Content[0], reflect.TypeOf(into).Elem(), problems) {
		return nil, nil
	}
	return yaml.Marshal(&document)
}

var (
	textType     = reflect.TypeFor[encoding.TextUnmarshaler]()
	durationType = reflect.TypeFor[time.Duration]()
)

// keep tells whether a node can be read as the type, after taking out of it what cannot.
func keep(node *yaml.Node, t reflect.Type, problems *config.Problems) bool {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	if node.Tag == "!!null" {
		return true
	}
	own := reflect.PointerTo(t).Implements(textType)
	switch {
	case !own && (t.Kind() == reflect.Struct || t.Kind() == reflect.Map):
		if node.Kind != yaml.MappingNode {
			problems.Addf("", "line %d: expected settings below it, found a %s", node.Line, shape(node))
			return false
		}
		keepEntries(node, t, problems)
		return true
	case !own && t.Kind() == reflect.Slice:
		if node.Kind != yaml.SequenceNode {
			problems.Addf("", "line %d: expected a list, found a %s", node.Line, shape(node))
			return false
		}
		kept := node.Content[:0]
		for i, item := range node.Content {
			if keep(item, t.Elem(), problems.At(fmt.Sprint(i))) {
				kept = append(kept, item)
			}
		}
		node.Content = kept
		return true
	}
	if err := node.Decode(reflect.New(t).Interface()); err != nil {
		problems.Addf("", "line %d: expected %s", node.Line, expected(t))
		return false
	}
	return true
}

// keepEntries does the same for each entry of a mapping.
func keepEntries(node *yaml.Node, t reflect.Type, problems *config.Problems) {
	var fields map[string]reflect.Type
	if t.Kind() == reflect.Struct {
		fields = map[string]reflect.Type{}
		collect(t, fields)
	}
	seen := map[string]bool{}
	var kept []*yaml.Node
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		below, known := fields[key.Value]
		if fields == nil {
			below, known = t.Elem(), true
		}
		switch {
		case key.Tag == "!!merge":
			kept = append(kept, key, value)
			continue
		case !known:
			problems.Addf(key.Value, "line %d: there is no such setting; there are %s", key.Line, strings.Join(slices.Sorted(maps.Keys(fields)), ", "))
			continue
		case seen[key.Value]:
			problems.Addf(key.Value, "line %d: is given twice", key.Line)
			continue
		}
		seen[key.Value] = true
		if keep(value, below, problems.At(key.Value)) {
			kept = append(kept, key, value)
		}
	}
	node.Content = kept
}

// collect gives the settings of a struct by name, those of inlined ones among them.
func collect(t reflect.Type, fields map[string]reflect.Type) {
	for i := range t.NumField() {
		field := t.Field(i)
		name, rest, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		switch {
		case !field.IsExported() || name == "-":
		case strings.Contains(rest, "inline"):
			collect(field.Type, fields)
		case name == "":
			fields[strings.ToLower(field.Name)] = field.Type // as yaml does
		default:
			fields[name] = field.Type
		}
	}
}

func shape(node *yaml.Node) string {
	switch node.Kind {
	case yaml.MappingNode:
		return "mapping"
	case yaml.SequenceNode:
		return "list"
	}
	return "single value"
}

func expected(t reflect.Type) string {
	switch {
	case t == durationType:
		return "a duration such as 90s or 24h"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() >= reflect.Int && t.Kind() <= reflect.Uint64:
		return "a whole number"
	case t.Kind() == reflect.Float32 || t.Kind() == reflect.Float64:
		return "a number"
	}
	return "a text"
}
