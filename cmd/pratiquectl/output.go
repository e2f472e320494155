package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// column is one column of a list, or one line of a single answer: a title and a dotted path in the object.
type column struct{ title, path string }

// view says how an answer is shown to people; json and yaml show it whole.
type view struct {
	columns []column
	// name is the path of what -o name prints; "id" when empty.
	name string
	// list is the path of the rows; "data" when empty. Single answers have no rows there.
	list string
	// none is said instead of a table without rows.
	none string
	// head is shown above the rows that are part of one object.
	head []column
}

// show prints an answer in the chosen format.
func (a *app) show(raw []byte, v view) error {
	if len(bytes.TrimSpace(raw)) == 0 { // 204
		return nil
	}
	switch a.format {
	case "json":
		return a.showJSON(raw)
	case "yaml":
		return a.showYAML(raw)
	}
	answer, err := decode(raw)
	if err != nil {
		return err
	}
	rows, isList := at(answer, first(v.list, "data")).([]any)
	if !isList {
		rows = []any{at(answer, "data")}
	}
	if a.format == "name" {
		for _, row := range rows {
			if err := a.line(escape(text(at(row, first(v.name, "id"))))); err != nil {
				return err
			}
		}
		return nil
	}
	if !isList {
		return a.describe(rows[0], v.columns)
	}
	if err := a.describe(at(answer, "data"), v.head); err != nil {
		return err
	}
	if err := a.table(rows, v); err != nil {
		return err
	}
	a.more(answer)
	return nil
}

// more says that a list goes on.
func (a *app) more(answer any) {
	if next := text(at(answer, "pagination.next_page_token")); next != "" {
		total := text(at(answer, "pagination.total"))
		if at(answer, "pagination.total_is_capped") == true {
			total = "more than " + total
		}
		a.note("there are %s in all; the next page: --page-token %s", total, next)
	}
}

func decode(raw []byte) (any, error) {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var answer any
	if err := decoder.Decode(&answer); err != nil {
		return nil, fmt.Errorf("the answer is not JSON: %w", err)
	}
	return answer, nil
}

func (a *app) line(text string) error {
	_, err := fmt.Fprintln(a.out, text)
	return err
}

func (a *app) showJSON(raw []byte) error {
	if !utf8.Valid(raw) {
		return errors.New("the answer is not UTF-8")
	}
	var out bytes.Buffer
	if err := json.Indent(&out, raw, "", "  "); err != nil {
		return fmt.Errorf("the answer is not JSON: %w", err)
	}
	return a.line(escapeQuoted(out.String(), jsonPoint))
}

// jsonPoint is a character as JSON escapes it: in UTF-16.
func jsonPoint(r rune) string {
	if r > 0xffff {
		high, low := utf16.EncodeRune(r)
		return fmt.Sprintf(`\u%04x\u%04x`, high, low)
	}
	return fmt.Sprintf(`\u%04x`, r)
}

func (a *app) showYAML(raw []byte) error {
	answer, err := decode(raw)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := errors.Join(encoder.Encode(node(answer)), encoder.Close()); err != nil {
		return fmt.Errorf("yaml: %w", err)
	}
	_, err = fmt.Fprint(a.out, escapeQuoted(out.String(), codePoint))
	return err
}

// node turns JSON into YAML. Text with unsafe characters is double-quoted, the only style in which they can be escaped.
func node(value any) *yaml.Node {
	switch v := value.(type) {
	case map[string]any:
		n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
		for _, name := range sortedKeys(v) {
			n.Content = append(n.Content, node(name), node(v[name]))
		}
		return n
	case []any:
		n := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
		for _, item := range v {
			n.Content = append(n.Content, node(item))
		}
		return n
	case string:
		n := &yaml.Node{}
		n.SetString(v)
		if strings.ContainsFunc(v, unsafe) {
			n.Style = yaml.DoubleQuotedStyle
		}
		return n
	case json.Number:
		tag := "!!int"
		if strings.ContainsAny(v.String(), ".eE") {
			tag = "!!float"
		}
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: v.String()}
	case bool:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: strconv.FormatBool(v)}
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}
}

// table prints rows under titles, aligned by character.
func (a *app) table(rows []any, v view) error {
	if len(rows) == 0 {
		a.note("%s", first(v.none, "none"))
		return nil
	}
	lines := [][]string{make([]string, len(v.columns))}
	for i, c := range v.columns {
		lines[0][i] = c.title
	}
	for _, row := range rows {
		cells := make([]string, len(v.columns))
		for i, c := range v.columns {
			cells[i] = first(escape(text(at(row, c.path))), "-")
		}
		lines = append(lines, cells)
	}
	return a.align(lines)
}

func (a *app) align(lines [][]string) error {
	widths := map[int]int{}
	for _, cells := range lines {
		for i, cell := range cells {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, cells := range lines {
		var out strings.Builder
		for i, cell := range cells {
			out.WriteString(cell)
			if i < len(cells)-1 {
				out.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2))
			}
		}
		if err := a.line(strings.TrimRight(out.String(), " ")); err != nil {
			return err
		}
	}
	return nil
}

// describe prints one object, a line a field; fields without a value are left out.
func (a *app) describe(object any, columns []column) error {
	var lines [][]string
	for _, c := range columns {
		if value := escape(text(at(object, c.path))); value != "" {
			lines = append(lines, []string{c.title + ":", value})
		}
	}
	return a.align(lines)
}

// at follows a dotted path; nil when it leads nowhere.
func at(value any, path string) any {
	for _, name := range strings.Split(path, ".") {
		object, ok := value.(map[string]any)
		if !ok {
			return nil
		}
		value = object[name]
	}
	return value
}

// text is a value in one line.
func text(value any) string {
	switch v := value.(type) {
	case nil:
		return ""
	case string:
		return v
	case bool:
		if v {
			return "yes"
		}
		return "no"
	case []any:
		parts := make([]string, len(v))
		for i, item := range v {
			parts[i] = text(item)
		}
		return strings.Join(parts, ", ")
	case map[string]any:
		var parts []string
		for _, name := range sortedKeys(v) {
			if value := text(v[name]); value != "" {
				parts = append(parts, name+"="+value)
			}
		}
		return strings.Join(parts, " ")
	}
	return fmt.Sprint(value)
}
