package config_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/internal/config"
)

type sample struct {
	Name     string         `yaml:"name"`
	Dispatch dispatch       `yaml:"dispatch"`
	Hosts    []string       `yaml:"hosts"`
	Limits   map[string]int `yaml:"limits"`
	Tokens   []token        `yaml:"tokens"`
	Optional *dispatch      `yaml:"optional"`
	Ratio    float64        `yaml:"max-ratio"`
	Inline   `yaml:",inline"`
	Hidden   string                   `yaml:"-"`
	Times    map[string]time.Duration `yaml:"times"`
}

type Inline struct {
	Level level `yaml:"level"`
}

type dispatch struct {
	RunTimeout time.Duration `yaml:"run_timeout"`
	Workers    int           `yaml:"workers"`
	Enabled    bool          `yaml:"enabled"`
	Password   config.Secret `yaml:"password"`
}

type token struct {
	Issuer string `yaml:"issuer"`
}

type level string

func (l *level) UnmarshalText(text []byte) error {
	if string(text) != "high" && string(text) != "low" {
		return fmt.Errorf("unknown level")
	}
	*l = level(text)
	return nil
}

func (s *sample) Validate(p *config.Problems) {
	if s.Name == "" {
		p.Add("name", "is empty")
	}
	d := p.At("dispatch")
	if s.Dispatch.Workers < 1 {
		d.Addf("workers", "is %d, must be at least 1", s.Dispatch.Workers)
	}
	d.At("deep").Check("er", fmt.Errorf("is wrong"))
	d.Check("fine", nil)
}

const good = `
name: a
dispatch: {run_timeout: 90s, workers: 2, password: /run/secret}
hosts: [x, y]
`

func TestAFileFillsTheDefaults(t *testing.T) {
	t.Parallel()
	cfg := sample{Ratio: 0.5, Dispatch: dispatch{Enabled: true}}
	err := config.Load([]byte(good), &cfg, nil)
	require.ErrorContains(t, err, "dispatch.deep.er: is wrong")
	require.Equal(t, 90*time.Second, cfg.Dispatch.RunTimeout)
	require.Equal(t, 2, cfg.Dispatch.Workers)
	require.True(t, cfg.Dispatch.Enabled, "a default that the file does not mention stays")
	require.Equal(t, 0.5, cfg.Ratio)
	require.Equal(t, "/run/secret", cfg.Dispatch.Password.Path())
}

func TestWhatIsNotUnderstoodIsAnError(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"an unknown key":         "nam: a",
		"an unknown key below":   "dispatch: {run_timout: 1s}",
		"a key in other letters": "Name: a",
		"a duplicate key":        "name: a\nname: b",
		"a wrong type":           "dispatch: {workers: many}",
		"a duration of nothing":  "dispatch: {run_timeout: 90}x",
		"a second document":      "name: a\n---\nname: b",
		"a list for a map":       "limits: [1]",
		"no YAML at all":         "\t{",
		"a bad text":             "level: middling",
	} {
		require.Error(t, config.Load([]byte(text), &sample{}, nil), name)
	}
}

func TestAllProblemsAreToldAtOnceWithTheirPaths(t *testing.T) {
	t.Parallel()
	err := config.Load(nil, &sample{}, nil)
	require.ErrorContains(t, err, "3 problem(s)")
	require.ErrorContains(t, err, "name: is empty")
	require.ErrorContains(t, err, "dispatch.workers: is 0, must be at least 1")
	require.ErrorContains(t, err, "dispatch.deep.er: is wrong")
	require.NoError(t, config.NewProblems().Err())
}

func TestVariablesOverrideTheFile(t *testing.T) {
	t.Parallel()
	got := plainSample{}
	require.NoError(t, config.Load([]byte(good), &got, []string{
		"PRATIQUE_NAME=b=c", "PRATIQUE_DISPATCH_RUN_TIMEOUT=2m", "PRATIQUE_DISPATCH_WORKERS=7", "PRATIQUE_DISPATCH_ENABLED=true",
		"PRATIQUE_DISPATCH_PASSWORD=/other/secret", "PRATIQUE_HOSTS=p, q,,r", "PRATIQUE_LIMITS={a: 1}", "PRATIQUE_MAX_RATIO=0.25",
		"PRATIQUE_TOKENS=[{issuer: i}]", "PRATIQUE_LEVEL=high", "PRATIQUE_OPTIONAL_WORKERS=3",
		"PRATIQUE_GATEWAY_SERVICE_HOST=10.0.0.1", "PRATIQUE_HIDDEN=x", "NAME=z", "PRATIQUE_", "nonsense",
	}))
	require.Equal(t, "b=c", got.Name)
	require.Equal(t, dispatch{RunTimeout: 2 * time.Minute, Workers: 7, Enabled: true, Password: config.SecretFile("/other/secret")}, got.Dispatch)
	require.Equal(t, []string{"p", "q", "r"}, got.Hosts)
	require.Equal(t, map[string]int{"a": 1}, got.Limits)
	require.Equal(t, 0.25, got.Ratio)
	require.Equal(t, []token{{Issuer: "i"}}, got.Tokens)
	require.Equal(t, level("high"), got.Level)
	require.Equal(t, 3, got.Optional.Workers)
	require.Empty(t, got.Hidden)

	untouched := plainSample{}
	require.NoError(t, config.Load([]byte(good), &untouched, nil))
	require.Nil(t, untouched.Optional, "nothing below it was set")

	list := plainSample{}
	require.NoError(t, config.Load(nil, &list, []string{"PRATIQUE_HOSTS=[a, b]"}))
	require.Equal(t, []string{"a", "b"}, list.Hosts)
}

// plainSample is sample without rules of its own.
type plainSample sample

func TestABadVariableIsNamedWithoutItsValue(t *testing.T) {
	t.Parallel()
	err := config.Load(nil, &plainSample{}, []string{
		"PRATIQUE_DISPATCH_WORKERS=hunter2", "PRATIQUE_DISPATCH_RUN_TIMEOUT=hunter2", "PRATIQUE_LEVEL=hunter2", "PRATIQUE_TOKENS=[{isuer: hunter2}]",
	})
	require.ErrorContains(t, err, "4 problem(s)")
	require.ErrorContains(t, err, "dispatch.workers: PRATIQUE_DISPATCH_WORKERS does not hold a int")
	require.NotContains(t, err.Error(), "hunter2")
}

func TestASecretIsNeverPrinted(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "canary-path")
	require.NoError(t, os.WriteFile(path, []byte("canary-value\n"), 0o600))
	cfg := plainSample{Dispatch: dispatch{Password: config.SecretFile(path)}}
	printed, err := config.Print(cfg)
	require.NoError(t, err)
	require.Contains(t, string(printed), "password: REDACTED")
	asJSON, err := json.Marshal(cfg)
	require.NoError(t, err)
	var logged strings.Builder
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("config", "cfg", cfg, "secret", cfg.Dispatch.Password)
	for _, out := range []string{
		string(printed), string(asJSON), logged.String(), fmt.Sprint(cfg), fmt.Sprintf("%+v", cfg), fmt.Sprintf("%#v", cfg.Dispatch.Password),
		fmt.Sprintf("%q", cfg.Dispatch.Password), fmt.Sprintf("%x", cfg.Dispatch.Password),
	} {
		require.NotContains(t, out, "canary")
	}
	value, err := cfg.Dispatch.Password.Read()
	require.NoError(t, err)
	require.Equal(t, "canary-value", string(value))

	empty := filepath.Join(t.TempDir(), "canary-empty")
	require.NoError(t, os.WriteFile(empty, []byte("\n"), 0o600))
	large := filepath.Join(t.TempDir(), "canary-large")
	require.NoError(t, os.WriteFile(large, make([]byte, 65<<10), 0o600))
	for name, s := range map[string]config.Secret{
		"unset": {}, "absent": config.SecretFile(path + "-absent"), "empty": config.SecretFile(empty), "a directory": config.SecretFile(t.TempDir()),
		"too large": config.SecretFile(large),
	} {
		_, err := s.Read()
		require.Error(t, err, name)
		require.NotContains(t, err.Error(), "canary")
	}
	require.Empty(t, config.Secret{}.String())
}

func TestAFileIsReadByPath(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pratique.yaml")
	require.NoError(t, os.WriteFile(path, []byte(good), 0o600))
	t.Setenv("PRATIQUE_NAME", "from-env")
	var cfg plainSample
	require.NoError(t, config.LoadFile(path, &cfg))
	require.Equal(t, "from-env", cfg.Name)
	require.Equal(t, 2, cfg.Dispatch.Workers)
	require.NoError(t, config.LoadFile("", &cfg), "no file is needed")
	require.ErrorIs(t, config.LoadFile(path+".absent", &cfg), os.ErrNotExist)
}
