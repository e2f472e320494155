// Package step is what every step of a run has in common: flags, secrets from files, results, the log, typed failure.
//
// A step is a short-lived, untrusted process. It is told what to do by flags, reads secrets only from files, writes one JSON
// line per thing worth knowing to standard output, and leaves its result as small files in a directory: name to digest.
// What it cannot finish it explains in failure.json and in its exit code.
package step

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/pratique-io/pratique/internal/document"
	"github.com/pratique-io/pratique/internal/egress"
	"github.com/pratique-io/pratique/internal/oci"
)

// Step is one running step.
type Step struct {
	Name    string
	Run     string // the run's id; part of tags
	Attempt int
	Results string // directory for results
	Version string // of pratique-step
	Now     func() time.Time
	network string // path of the network settings, empty for none
	log     io.Writer
	temp    string
}

var runID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9-]{0,63}$`)

// New reads args with flags plus what all steps share (--run, --attempt, --results, --network). log takes the JSON lines.
func New(name, version string, flags *flag.FlagSet, args []string, log io.Writer) (*Step, error) {
	s := &Step{Name: name, Version: version, Now: time.Now, log: log}
	flags.SetOutput(io.Discard)
	flags.StringVar(&s.Run, "run", "", "id of the run")
	flags.IntVar(&s.Attempt, "attempt", 1, "attempt of the run, from 1")
	flags.StringVar(&s.Results, "results", "", "directory for results")
	flags.StringVar(&s.network, "network", "", "JSON file with what may be reached, by purpose")
	if err := flags.Parse(args); err != nil {
		return s, err
	}
	switch {
	case flags.NArg() > 0:
		return s, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case s.Results == "":
		return s, errors.New("--results is required")
	case !runID.MatchString(s.Run):
		return s, errors.New("--run must be the id of a run: letters, digits and dashes")
	case s.Attempt < 1:
		return s, errors.New("--attempt counts from 1")
	}
	if err := os.MkdirAll(s.Results, 0o755); err != nil {
		return s, fmt.Errorf("results: %w", err)
	}
	return s, nil
}

// Log writes one line; attrs are key, value, key, value and join the message.
func (s *Step) Log(level, message string, attrs ...any) {
	for i := 0; i+1 < len(attrs); i += 2 {
		message += fmt.Sprintf(" %v=%v", attrs[i], attrs[i+1])
	}
	line, err := json.Marshal(struct {
		Timestamp time.Time `json:"timestamp"`
		Level     string    `json:"level"`
		Step      string    `json:"step"`
		Message   string    `json:"message"`
	}{s.Now().UTC(), level, s.Name, message})
	if err == nil {
		_, _ = s.log.Write(append(line, '\n')) // nowhere to report a broken log to
	}
}

// Info logs at level info.
func (s *Step) Info(message string, attrs ...any) { s.Log("info", message, attrs...) }

// Result leaves a value for the runner: a digest or another short word.
func (s *Step) Result(name, value string) error {
	if err := s.write(name, []byte(value)); err != nil {
		return fmt.Errorf("result %s: %w", name, err)
	}
	return nil
}

// write replaces a file of the results directory in one piece.
func (s *Step) write(name string, content []byte) error {
	f, err := os.CreateTemp(s.Results, ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		_ = os.Remove(f.Name())
		return err
	}
	return os.Rename(f.Name(), filepath.Join(s.Results, name))
}

// Finish records how the step ended, removes its temporary files and returns the exit code.
func (s *Step) Finish(err error) int {
	if s.temp != "" {
		_ = os.RemoveAll(s.temp) // a leftover is only disk
	}
	if err == nil {
		s.Info("finished")
		return ExitOK
	}
	f := Classify(err)
	if len(f.Message) > 2000 {
		f.Message = strings.ToValidUTF8(f.Message[:2000], "") + "..."
	}
	s.Log("error", f.Message, "class", f.Class, "code", f.Code)
	if raw, jerr := json.Marshal(f); jerr == nil && s.Results != "" {
		if werr := s.write("failure.json", raw); werr != nil {
			s.Log("error", "failure could not be recorded", "error", werr)
		}
	}
	return f.exit
}

// Temp returns the step's private directory, gone when it finishes.
func (s *Step) Temp() (string, error) {
	if s.temp != "" {
		return s.temp, nil
	}
	dir, err := os.MkdirTemp("", "pratique-"+s.Name+"-")
	if err != nil {
		return "", fmt.Errorf("temporary directory: %w", err)
	}
	s.temp = dir
	return dir, nil
}

// Tag names evidence of one kind of this run.
func (s *Step) Tag(kind document.Kind) string { return "run-" + s.Run + "-" + string(kind) }

// Head begins the head of this step's evidence.
func (s *Step) Head(subject oci.Descriptor, tool, version string) document.Head {
	return document.Head{
		Subject: oci.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size},
		Run:     s.Run, Attempt: s.Attempt, Tool: tool, ToolVersion: version, FinishedAt: s.Now().UTC(),
	}
}

// Publish packs, pushes and reports one piece of evidence.
func (s *Step) Publish(ctx context.Context, repo *oci.Repository, kind document.Kind, head document.Head, layers []document.Layer) error {
	packed, err := document.Pack(kind, head, layers)
	if err != nil {
		return err
	}
	if err := packed.Push(ctx, repo, s.Tag(kind)); err != nil {
		return err
	}
	want := document.Want{Kind: kind, Subject: head.Subject.Digest, Run: s.Run, Attempt: s.Attempt}
	if _, err := document.Open(ctx, repo, packed.Digest, want); err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	s.Info("evidence written", "kind", kind, "digest", packed.Digest, "documents", len(layers))
	return s.Result(string(kind), packed.Digest.String())
}

// Evidence opens what an earlier step of this run wrote.
func (s *Step) Evidence(ctx context.Context, repo *oci.Repository, kind document.Kind, digest string, subject oci.Digest) (*document.Artifact, error) {
	d, err := oci.ParseDigest(digest)
	if err != nil {
		return nil, fmt.Errorf("--%s: %w", kind, err)
	}
	return document.Open(ctx, repo, d, document.Want{Kind: kind, Subject: subject, Run: s.Run, Attempt: s.Attempt})
}

// Pinned reads "host/repository@digest".
func Pinned(flagName, ref string) (oci.Reference, error) {
	r, err := oci.ParseReference(ref)
	if err != nil {
		return r, fmt.Errorf("--%s: %w", flagName, err)
	}
	if r.Digest == "" || r.Tag != "" {
		return r, fmt.Errorf("--%s: give host/repository@digest", flagName)
	}
	return r, nil
}

// Repository connects to a repository for a purpose, with the credential in a file (empty: anonymous).
func (s *Step) Repository(purpose egress.Purpose, ref oci.Reference, authFile string, limits oci.Limits) (*oci.Repository, error) {
	n, err := readNetwork(s.network)
	if err != nil {
		return nil, err
	}
	cred, err := credential(authFile, ref.Host)
	if err != nil {
		return nil, err
	}
	rt, err := n.transport(purpose)
	if err != nil {
		return nil, err
	}
	return oci.NewClient(rt, append(n.options(), oci.WithLimits(limits))...).Repository(ref.Host, ref.Repository, cred), nil
}
