package config

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
)

const redacted = "REDACTED"

// maxSecret bounds a secret's file in bytes; a larger one is surely another file.
const maxSecret = 64 << 10

// Secret refers to a file that holds a secret; the value itself is never in a configuration. It prints, logs and marshals as
// REDACTED, since even the path tells where to look. The zero Secret is not set.
type Secret struct{ path string }

// SecretFile refers to the file at path.
func SecretFile(path string) Secret { return Secret{path: path} }

// Path is the file; for the program only, never for output.
func (s Secret) Path() string { return s.path }

// Set says whether a file is named.
func (s Secret) Set() bool { return s.path != "" }

// Read gives the content without one trailing line break. An empty file is an error.
func (s Secret) Read() ([]byte, error) {
	if !s.Set() {
		return nil, errors.New("secret is not set")
	}
	info, err := os.Stat(s.path)
	if err != nil {
		return nil, fmt.Errorf("read secret: %w", hidePath(err))
	}
	if !info.Mode().IsRegular() || info.Size() > maxSecret {
		return nil, fmt.Errorf("read secret: not a regular file of at most %d bytes", maxSecret)
	}
	raw, err := os.ReadFile(s.path)
	if err != nil {
		return nil, fmt.Errorf("read secret: %w", hidePath(err))
	}
	raw = bytes.TrimSuffix(bytes.TrimSuffix(raw, []byte("\n")), []byte("\r"))
	if len(raw) == 0 {
		return nil, errors.New("read secret: the file is empty")
	}
	return raw, nil
}

func hidePath(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// UnmarshalText takes the path.
func (s *Secret) UnmarshalText(text []byte) error {
	s.path = string(text)
	return nil
}

// MarshalText hides the path; unset stays empty.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// String hides the path; unset stays empty.
func (s Secret) String() string {
	if !s.Set() {
		return ""
	}
	return redacted
}

// GoString hides the path.
func (s Secret) GoString() string { return s.String() }

// LogValue hides the path.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }
