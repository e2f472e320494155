package config

import (
	"encoding"
	"fmt"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Prefix begins every variable that overrides a setting: dispatch.run_timeout is PRATIQUE_DISPATCH_RUN_TIMEOUT.
const Prefix = "PRATIQUE_"

// override sets every field that env names. Variables that match no field are left alone: Kubernetes adds its own
// PRATIQUE_..._SERVICE_HOST to each pod.
func override(into any, env []string, problems *Problems) {
	values := map[string]string{}
	for _, entry := range env {
		if name, value, ok := strings.Cut(entry, "="); ok && strings.HasPrefix(name, Prefix) {
			values[name] = value
		}
	}
	if len(values) > 0 {
		walk(reflect.ValueOf(into), nil, values, problems)
	}
}

var textType = reflect.TypeFor[encoding.TextUnmarshaler]()

// walk descends structs and pointers to structs; anything else with a name is a leaf. A pointer is made only when something
// below it is set.
func walk(v reflect.Value, path []string, values map[string]string, problems *Problems) {
	if v.Kind() == reflect.Pointer && v.Type().Elem().Kind() == reflect.Struct && !v.Type().Implements(textType) {
		if v.IsNil() {
			if !named(path, values) || !v.CanSet() {
				return
			}
			v.Set(reflect.New(v.Type().Elem()))
		}
		walk(v.Elem(), path, values, problems)
		return
	}
	if len(path) > 0 {
		if value, ok := values[variable(path)]; ok {
			set(v, path, value, problems)
			return
		}
	}
	if v.Kind() != reflect.Struct || reflect.PointerTo(v.Type()).Implements(textType) {
		return
	}
	for i := range v.NumField() {
		field := v.Type().Field(i)
		name, inline := yamlName(field)
		switch {
		case !field.IsExported() || name == "-":
		case inline:
			walk(v.Field(i), path, values, problems)
		default:
			walk(v.Field(i), append(path[:len(path):len(path)], name), values, problems)
		}
	}
}

func yamlName(field reflect.StructField) (name string, inline bool) {
	name, rest, _ := strings.Cut(field.Tag.Get("yaml"), ",")
	if name == "" {
		name = strings.ToLower(field.Name) // as yaml does
	}
	return name, strings.Contains(rest, "inline")
}

func variable(path []string) string {
	return Prefix + strings.ToUpper(strings.ReplaceAll(strings.Join(path, "_"), "-", "_"))
}

func named(path []string, values map[string]string) bool {
	for name := range values {
		if strings.HasPrefix(name, variable(path)+"_") {
			return true
		}
	}
	return false
}

// set reads strings and secrets as they are, lists of strings split at commas, everything else as YAML of the field's type.
func set(v reflect.Value, path []string, value string, problems *Problems) {
	target := reflect.New(v.Type())
	var err error
	switch elem := target.Elem(); {
	case target.Type().Implements(textType):
		err = target.Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(value))
	case elem.Kind() == reflect.String:
		elem.SetString(value)
	case elem.Kind() == reflect.Slice && elem.Type().Elem().Kind() == reflect.String && !strings.HasPrefix(strings.TrimSpace(value), "["):
		for part := range strings.SplitSeq(value, ",") {
			if part = strings.TrimSpace(part); part != "" {
				elem.Set(reflect.Append(elem, reflect.ValueOf(part).Convert(elem.Type().Elem())))
			}
		}
	default:
		err = strict(value, target.Interface())
	}
	if err != nil {
		// The value is not repeated: it may be a secret put in the wrong place.
		problems.Add(strings.Join(path, "."), fmt.Sprintf("%s does not hold a %s", variable(path), v.Type()))
		return
	}
	v.Set(target.Elem())
}

func strict(value string, into any) error {
	dec := yaml.NewDecoder(strings.NewReader(value))
	dec.KnownFields(true)
	return dec.Decode(into)
}
