package schema

import (
	"io/fs"
	"regexp"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// Comments are the texts beside messages and fields, by full name. Generated descriptors do not carry them, so they are read from the sources.
type Comments map[string]string

var (
	packageLine = regexp.MustCompile(`^package ([a-z0-9_.]+);`)
	messageLine = regexp.MustCompile(`^message (\w+) \{`)
	fieldLine   = regexp.MustCompile(`^(?:optional |repeated )?(?:map<[^>]+>|[\w.]+) (\w+) = [0-9]+[^/]*(?://\s*(.*))?$`)
)

// ReadComments reads every .proto file below files. It knows as much of the language as buf's format leaves possible: one thing per line.
func ReadComments(files fs.FS) (Comments, error) {
	out := Comments{}
	err := fs.WalkDir(files, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".proto") {
			return err
		}
		source, err := fs.ReadFile(files, path)
		if err == nil {
			out.scan(string(source))
		}
		return err
	})
	return out, err
}

func (c Comments) scan(source string) {
	var pkg string
	var scope, above []string
	for line := range strings.Lines(source) {
		line = strings.TrimSpace(line)
		if text, ok := strings.CutPrefix(line, "//"); ok {
			above = append(above, strings.TrimSpace(text))
			continue
		}
		name := func(last string) string { return strings.Join(append(append([]string{pkg}, scope...), last), ".") }
		if m := packageLine.FindStringSubmatch(line); m != nil {
			pkg = m[1]
		} else if m := messageLine.FindStringSubmatch(line); m != nil {
			c.put(name(m[1]), above)
			scope = append(scope, m[1])
			if strings.HasSuffix(line, "}") {
				scope = scope[:len(scope)-1]
			}
		} else if strings.HasPrefix(line, "enum ") || strings.HasPrefix(line, "oneof ") || strings.HasPrefix(line, "service ") || strings.HasPrefix(line, "rpc ") {
			if strings.HasSuffix(line, "{") {
				scope = append(scope, "")
			}
		} else if strings.HasPrefix(line, "}") && len(scope) > 0 {
			scope = scope[:len(scope)-1]
		} else if m := fieldLine.FindStringSubmatch(line); m != nil && len(scope) > 0 {
			c.put(name(m[1]), append(above, m[2]))
		}
		above = nil
	}
}

func (c Comments) put(name string, lines []string) {
	if text := strings.TrimSpace(strings.Join(lines, " ")); text != "" {
		c[name] = text
	}
}

// Undescribed reports an event whose proto does not say when it is published; empty when it does.
func (c Comments) Undescribed(event protoreflect.MessageDescriptor) string {
	if c.own(event) == "" {
		return "has no comment in its proto"
	}
	return ""
}

// Event says when an event is published.
func (c Comments) Event(event protoreflect.MessageDescriptor) string { return c.own(event) }

// own is the proto's comment. The name that it begins with is cut off, and a comment that tells no more than the aggregate does not count.
func (c Comments) own(event protoreflect.MessageDescriptor) string {
	name := string(event.Name())
	text := c[string(event.FullName())]
	for _, lead := range []string{name + ": ", name + ". ", name + " "} {
		text = strings.TrimPrefix(text, lead)
	}
	if strings.HasPrefix(text, "Aggregate:") {
		return ""
	}
	return text
}
