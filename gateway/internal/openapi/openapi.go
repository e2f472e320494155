// Package openapi turns what the protoc plugin writes into the description of what the gateway really serves: one document, snake_case
// names, the data envelope, the real success codes, the error schema, and the paths that are written by hand.
package openapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode"
)

// Operation is what the gateway knows of one route beyond the plugin's output.
type Operation struct {
	Method, Path string
	Status       int
	// List says that the answer carries its own {"data", "pagination"} envelope.
	List bool
	// QueryOnly names body fields that are query parameters instead.
	QueryOnly []string
}

type object = map[string]any

// Build merges the plugin's documents and corrects them. Every operation must be described, and nothing else may be.
func Build(documents [][]byte, operations []Operation) ([]byte, error) {
	paths, schemas := object{}, object{}
	for _, raw := range documents {
		var document object
		if err := json.Unmarshal(raw, &document); err != nil {
			return nil, fmt.Errorf("openapi: %w", err)
		}
		for path, item := range child(document, "paths") {
			paths[path] = item
		}
		for name, schema := range child(child(document, "components"), "schemas") {
			schemas[name] = rename(schema)
		}
	}
	described := 0
	for _, item := range paths {
		described += len(item.(object))
	}
	if described != len(operations) {
		return nil, fmt.Errorf("openapi: the plugin describes %d operations, the gateway serves %d", described, len(operations))
	}
	for _, op := range operations {
		operation := child(child(paths, op.Path), strings.ToLower(op.Method))
		if len(operation) == 0 {
			return nil, fmt.Errorf("openapi: %s %s is served but not described", op.Method, op.Path)
		}
		if err := correct(operation, op); err != nil {
			return nil, fmt.Errorf("openapi: %s %s: %w", op.Method, op.Path, err)
		}
	}
	addByHand(paths)
	addErrors(schemas)
	return render(paths, schemas)
}

func child(parent object, key string) object {
	found, _ := parent[key].(object)
	return found
}

// correct fits one operation to what the gateway answers.
func correct(operation object, op Operation) error {
	parameters, _ := operation["parameters"].([]any)
	kept := []any{}
	for _, p := range parameters {
		parameter, ok := p.(object)
		if !ok {
			return fmt.Errorf("a parameter is no object")
		}
		name := snake(fmt.Sprint(parameter["name"]))
		parameter["name"] = name
		if schema := child(parameter, "schema"); schema != nil && (parameter["in"] == "path" || name == "tenant_id") {
			schema["format"] = "uuid"
		}
		kept = append(kept, parameter)
	}
	if body := child(operation, "requestBody"); body != nil {
		content := child(child(body, "content"), "application/json")
		content["schema"] = rename(content["schema"])
		properties := child(child(content, "schema"), "properties")
		for _, name := range op.QueryOnly {
			kept = append(kept, object{"name": name, "in": "query", "schema": properties[name]})
			delete(properties, name)
		}
		if properties != nil && len(properties) == 0 {
			delete(operation, "requestBody")
		}
	}
	kept = append(kept, object{"$ref": "#/components/parameters/Tenant"})
	if op.Method == "POST" && (op.Status == 201 || op.Status == 202) {
		kept = append(kept, object{"$ref": "#/components/parameters/IdempotencyKey"})
	}
	operation["parameters"] = kept
	return correctAnswers(operation, op)
}

func correctAnswers(operation object, op Operation) error {
	success := child(child(operation, "responses"), "200")
	if success == nil {
		return fmt.Errorf("no success is described")
	}
	answers := object{"default": object{"$ref": "#/components/responses/Error"}}
	if op.Status == 204 {
		answers["204"] = object{"description": "Done; there is no body."}
	} else {
		content := child(child(success, "content"), "application/json")
		if content == nil {
			return fmt.Errorf("no JSON answer is described")
		}
		content["schema"] = rename(content["schema"])
		if !op.List {
			content["schema"] = enveloped(content["schema"])
		}
		answers[strconv.Itoa(op.Status)] = success
	}
	for _, name := range op.QueryOnly {
		if name == "validate_only" {
			answers["200"] = object{"description": "With validate_only: what would happen; nothing was created.", "content": success["content"]}
		}
	}
	operation["responses"] = answers
	return nil
}

func enveloped(schema any) object {
	return object{"type": "object", "required": []any{"data"}, "properties": object{"data": schema}}
}

// rename turns every property name below a schema to snake_case.
func rename(schema any) any {
	switch v := schema.(type) {
	case []any:
		for i := range v {
			v[i] = rename(v[i])
		}
	case object:
		for key, value := range v {
			if properties, ok := value.(object); ok && key == "properties" {
				renamed := object{}
				for name, property := range properties {
					renamed[snake(name)] = rename(property)
				}
				v[key] = renamed
				continue
			}
			v[key] = rename(value)
		}
	}
	return schema
}

// snake undoes protobuf's lowerCamelCase: destinationImageRef is destination_image_ref.
func snake(camel string) string {
	var out strings.Builder
	for _, r := range camel {
		if unicode.IsUpper(r) {
			out.WriteByte('_')
			r = unicode.ToLower(r)
		}
		out.WriteRune(r)
	}
	return out.String()
}

func render(paths, schemas object) ([]byte, error) {
	document := object{
		"openapi": "3.1.0",
		"info": object{
			"title": "Pratique", "version": "v1", "license": object{"name": "Apache-2.0", "identifier": "Apache-2.0"},
			"description": "Quarantine for third-party container images. Sizes (int64) are strings; times are RFC 3339; absent and null mean the same.",
		},
		"security": []any{object{"bearer": []any{}}},
		"paths":    paths,
		"components": object{
			"schemas": schemas, "securitySchemes": object{"bearer": object{"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
			"parameters": parameters(), "responses": object{"Error": object{
				"description": "Why it was refused, and what to do next.",
				"content":     object{"application/json": object{"schema": object{"$ref": "#/components/schemas/Error"}}},
			}},
		},
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", " ")
	if err := encoder.Encode(document); err != nil {
		return nil, fmt.Errorf("openapi: %w", err)
	}
	return out.Bytes(), nil
}
