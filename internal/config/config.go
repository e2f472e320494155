// Package config owns how settings are read: strict YAML into typed structs, overridden by PRATIQUE_... variables that follow
// the field names, every problem told at once with its full path, and secrets that are file references and print as REDACTED.
// What the settings mean is the business of the packages that own them.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Validator is a part of a configuration that knows what is wrong with itself; it adds every problem, by path.
type Validator interface{ Validate(p *Problems) }

// Load reads a YAML document into *into (which holds the defaults), applies overrides from env ("NAME=value", as os.Environ
// gives), and validates it if it is a Validator. Unknown and duplicate keys are errors. An empty document is allowed.
func Load(data []byte, into any, env []string) error {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(into); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read configuration: %w", err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return errors.New("read configuration: it holds more than one document")
	}
	problems := NewProblems()
	override(into, env, problems)
	if err := problems.Err(); err != nil {
		return err // values that could not be read would only be misjudged below
	}
	if v, ok := into.(Validator); ok {
		v.Validate(problems)
	}
	return problems.Err()
}

// LoadFile is Load of a file, with this process's environment. An empty path reads no file.
func LoadFile(path string, into any) error {
	var data []byte
	if path != "" {
		var err error
		if data, err = os.ReadFile(path); err != nil {
			return fmt.Errorf("read configuration: %w", err)
		}
	}
	return Load(data, into, os.Environ())
}

// Print renders a configuration as YAML, secrets as REDACTED.
func Print(cfg any) ([]byte, error) {
	out, err := yaml.Marshal(cfg)
	if err != nil {
		return nil, fmt.Errorf("print configuration: %w", err)
	}
	return out, nil
}

// Problems collects what is wrong, each with its full path ("dispatch.run_timeout"). At gives a view below a path.
type Problems struct {
	prefix string
	list   *[]string
}

// NewProblems is empty.
func NewProblems() *Problems { return &Problems{list: new([]string)} }

// At is the same collection for paths below name.
func (p *Problems) At(name string) *Problems { return &Problems{prefix: p.path(name), list: p.list} }

// Add notes what is wrong at a path; an empty path means the place itself.
func (p *Problems) Add(path, text string) { *p.list = append(*p.list, p.path(path)+": "+text) }

// Addf is Add with a format.
func (p *Problems) Addf(path, format string, args ...any) { p.Add(path, fmt.Sprintf(format, args...)) }

// Check adds an error's text, if it is one.
func (p *Problems) Check(path string, err error) {
	if err != nil {
		p.Add(path, err.Error())
	}
}

func (p *Problems) path(name string) string {
	return strings.Trim(p.prefix+"."+name, ".")
}

// Err is nil without problems, else one error with a line per problem, in the order found.
func (p *Problems) Err() error {
	if len(*p.list) == 0 {
		return nil
	}
	return fmt.Errorf("configuration has %d problem(s):\n  %s", len(*p.list), strings.Join(*p.list, "\n  "))
}
