package dispatch

import (
	"slices"
	"strings"
	"time"

	"github.com/pratique-io/pratique/internal/config"
	"github.com/pratique-io/pratique/internal/egress"
	"github.com/pratique-io/pratique/internal/oci"
	"github.com/pratique-io/pratique/services/dispatch/internal/domain"
	"github.com/pratique-io/pratique/services/dispatch/internal/runner/local"
)

// Config is dispatch's part of the configuration. Durations are Go's ("90m").
type Config struct {
	RunTimeout       time.Duration `yaml:"run_timeout"`       // of one run, 1 min to 12 h
	DispatchWait     time.Duration `yaml:"dispatch_wait"`     // for a provider, 1 h to 720 h; then dispatch_timeout
	CredentialMargin time.Duration `yaml:"credential_margin"` // by which run credentials outlive a run
	BusyGrace        time.Duration `yaml:"busy_grace"`        // a run that others are ahead of is not called waiting before

	ReadinessInterval time.Duration `yaml:"readiness_interval"` // at least 30 s
	ReadinessTimeout  time.Duration `yaml:"readiness_timeout"`  // at least 10 s, below the interval

	Provider   Provider   `yaml:"provider"`
	Runner     Runner     `yaml:"runner"`
	Quarantine Quarantine `yaml:"quarantine"`
	Database   Database   `yaml:"database"`

	InsecureRegistries []string            `yaml:"insecure_registries"` // registries spoken to in plain HTTP beside loopback ones
	Realms             map[string][]string `yaml:"realms"`              // token services of registries outside their own domain

	// Egress are the operator's policies; steps are given those of source, quarantine and database. The host sets it.
	Egress map[egress.Purpose]egress.Policy `yaml:"-"`
	// Pace overrides how often loops look, for tests.
	Pace Pace `yaml:"-"`
}

// Provider is the place where this process runs pipelines.
type Provider struct {
	Name                       string `yaml:"name"`
	Status                     string `yaml:"status"` // online | offline | draining
	QuarantineDispatchEnabled  *bool  `yaml:"quarantine_dispatch_enabled"`
	QuarantineDispatchPriority int    `yaml:"quarantine_dispatch_priority"`
	MaxConcurrentRuns          int    `yaml:"max_concurrent_runs"`
}

// Runner says how steps run on this machine.
type Runner struct {
	Dir          string        `yaml:"dir"`           // absolute; as root, every directory above it must be searchable by others
	Binary       string        `yaml:"binary"`        // absolute path of pratique-step
	MinIsolation string        `yaml:"min_isolation"` // uid | landlock | weak
	BaseUID      int           `yaml:"base_uid"`      // first of 256 users for runs, when we are root
	MemoryBytes  int64         `yaml:"memory_bytes"`  // resident, per step
	FileBytes    int64         `yaml:"file_bytes"`    // largest file a step may write
	StepTimeout  time.Duration `yaml:"step_timeout"`
}

// Quarantine is the registry that runs write to.
type Quarantine struct {
	Host    string        `yaml:"host"`     // host[:port]
	KeyFile config.Secret `yaml:"key_file"` // key that run credentials are minted with
}

// Database is where steps find vulnerability data: exactly one is set.
type Database struct {
	Dir string `yaml:"dir"`
	URL string `yaml:"url"`
}

// Pace is how often loops look at things.
type Pace struct{ Schedule, Poll, RetryPermit, RetryStart time.Duration }

// Default is usable once the directories, the registry and the database are named.
func Default() Config {
	enabled := true
	return Config{
		RunTimeout: time.Hour, DispatchWait: 24 * time.Hour, CredentialMargin: 10 * time.Minute, BusyGrace: 5 * time.Second,
		ReadinessInterval: 30 * time.Second, ReadinessTimeout: 10 * time.Second,
		Provider: Provider{Name: "local", Status: domain.Online, QuarantineDispatchEnabled: &enabled, MaxConcurrentRuns: 2},
		Runner: Runner{MinIsolation: string(local.LevelLandlock), BaseUID: 61000, MemoryBytes: 2 << 30, FileBytes: 16 << 30,
			StepTimeout: 30 * time.Minute},
	}
}

// Validate adds every problem, by path.
func (c Config) Validate(p *config.Problems) {
	between := func(path string, value, least, most time.Duration) {
		if value < least || value > most {
			p.Addf(path, "must be %s to %s", least, most)
		}
	}
	between("run_timeout", c.RunTimeout, time.Minute, 12*time.Hour)
	between("dispatch_wait", c.DispatchWait, time.Hour, 720*time.Hour)
	between("credential_margin", c.CredentialMargin, time.Minute, time.Hour)
	between("busy_grace", c.BusyGrace, 0, time.Hour)
	between("readiness_interval", c.ReadinessInterval, 30*time.Second, 24*time.Hour)
	between("readiness_timeout", c.ReadinessTimeout, 10*time.Second, 24*time.Hour)
	if c.ReadinessTimeout >= c.ReadinessInterval {
		p.Add("readiness_timeout", "must be below readiness_interval")
	}
	c.Provider.Validate(p.At("provider"))
	c.Runner.Validate(p.At("runner"))
	if _, err := oci.ParseHost(c.Quarantine.Host); err != nil {
		p.Check("quarantine.host", err)
	}
	if !c.Quarantine.KeyFile.Set() {
		p.Add("quarantine.key_file", "is required")
	}
	if (c.Database.Dir == "") == (c.Database.URL == "") {
		p.Add("database", "exactly one of dir and url is required")
	}
	if c.Database.Dir != "" && !strings.HasPrefix(c.Database.Dir, "/") {
		p.Add("database.dir", "must be an absolute path")
	}
}

// Validate adds every problem, by path.
func (c Provider) Validate(p *config.Problems) {
	if c.Name == "" || len(c.Name) > 100 {
		p.Add("name", "must have 1 to 100 characters")
	}
	if !slices.Contains([]string{domain.Online, domain.Offline, domain.Draining}, c.Status) {
		p.Add("status", "must be online, offline or draining")
	}
	if c.MaxConcurrentRuns < 0 || c.MaxConcurrentRuns > 200 {
		p.Add("max_concurrent_runs", "must be 0 to 200")
	}
}

// Validate adds every problem, by path.
func (c Runner) Validate(p *config.Problems) {
	if !strings.HasPrefix(c.Dir, "/") {
		p.Add("dir", "must be an absolute path")
	}
	if !strings.HasPrefix(c.Binary, "/") {
		p.Add("binary", "must be an absolute path")
	}
	if !slices.Contains(local.Levels(), local.Level(c.MinIsolation)) {
		p.Add("min_isolation", "must be uid, landlock or weak")
	}
	if c.BaseUID < 1000 {
		p.Add("base_uid", "must be 1000 or more")
	}
	if c.MemoryBytes < 64<<20 {
		p.Add("memory_bytes", "must be 64 MiB or more")
	}
	if c.FileBytes < 1<<20 {
		p.Add("file_bytes", "must be 1 MiB or more")
	}
	if c.StepTimeout < time.Second {
		p.Add("step_timeout", "must be 1s or more")
	}
}
