package registry

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"syscall"
	"time"

	"github.com/olareg/olareg"
	"github.com/olareg/olareg/config"
	"github.com/olareg/olareg/types"
)

const (
	// grace is how long an unreferenced blob or an idle upload session is kept.
	grace = 24 * time.Hour
	// sweep is how often unreferenced blobs are looked for.
	sweep = 15 * time.Minute
	// manifestLimit is the largest manifest accepted, in bytes.
	manifestLimit = 8 << 20
	// sessionLimit bounds the upload sessions open in one repository.
	sessionLimit = 1000
)

var nameRule = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

// Config describes one registry.
type Config struct {
	Name      string   // realm and log name: lower-case letters, digits, dashes
	Dir       string   // storage; made if missing; one process at a time
	Users     []User   // fixed principals
	RunKey    []byte   // at least 32 bytes; empty: run credentials are refused
	Anonymous []Access // what a request without credentials may do; empty: nothing
	Volatile  bool     // do not fsync: acknowledged data may be lost on power failure
	Log       *slog.Logger
	Now       func() time.Time // for expiries; nil: time.Now
}

// Registry is one registry. It is an http.Handler for the paths under /v2/.
type Registry struct {
	name      string
	dir       string
	users     []knownUser
	runKey    []byte
	anonymous []Access
	volatile  bool
	log       *slog.Logger
	now       func() time.Time

	inner    http.Handler
	stop     func() error
	lock     *os.File
	sessions *sessions
	// olareg reads, changes and writes lists of referrers without a lock, so
	// two pushes to one subject would lose one: manifests of a repository are
	// written, and their index synced, one at a time. Striped by repository.
	writers [stripes]sync.Mutex
	indexes [stripes]sync.RWMutex // see pass.go
	rooted  sync.Map              // repositories whose directories are known to be on disk
	synced  fresh

	life   sync.RWMutex // held for reading by every request
	closed bool
}

// Open checks the configuration, locks and repairs the directory and starts
// the registry. It reports every problem of the configuration at once.
func Open(cfg Config) (*Registry, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("registry %s: %w", cfg.Name, err)
	}
	lock, err := lockDir(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("registry %s: %w", cfg.Name, err)
	}
	if err := repair(cfg.Dir); err != nil {
		return nil, errors.Join(fmt.Errorf("registry %s: repair: %w", cfg.Name, err), lock.Close())
	}
	r := &Registry{
		name: cfg.Name, dir: cfg.Dir, runKey: cfg.RunKey, anonymous: cfg.Anonymous,
		volatile: cfg.Volatile, log: cfg.Log, now: cfg.Now, lock: lock, sessions: newSessions(),
		synced: fresh{files: map[string]syncedAs{}, next: tableSweep},
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	r.log = r.log.With("registry", cfg.Name)
	if r.now == nil {
		r.now = time.Now
	}
	for _, u := range cfg.Users {
		r.users = append(r.users, u.known())
	}
	server := olareg.New(storage(cfg.Dir))
	r.inner, r.stop = server, server.Close
	return r, nil
}

func storage(dir string) config.Config {
	yes, no := true, false
	return config.Config{
		Storage: config.ConfigStorage{
			StoreType: config.StoreDir,
			RootDir:   dir,
			GC: config.ConfigGC{
				Frequency:     sweep,
				GracePeriod:   grace,
				RepoUploadMax: sessionLimit,
				Untagged:      &no,
				// Removing an "empty" repository whose blobs are still waiting
				// for their manifest deletes oci-layout but not the directory;
				// the manifest pushed next is then unreadable after a restart.
				EmptyRepo:         &no,
				ReferrersDangling: &no,
				ReferrersWithSubj: &no,
			},
		},
		API: config.ConfigAPI{
			PushEnabled:   &yes,
			DeleteEnabled: &yes,
			Manifest:      config.ConfigAPIManifest{Limit: manifestLimit},
			Blob:          config.ConfigAPIBlob{DeleteEnabled: &yes},
			Referrer:      config.ConfigAPIReferrer{Enabled: &yes},
		},
	}
}

// Close waits for requests in flight, stops collection and releases the
// directory. Later requests are answered 503. Calling it twice is harmless.
func (r *Registry) Close() error {
	r.life.Lock()
	defer r.life.Unlock()
	if r.closed {
		return nil
	}
	r.closed = true
	return errors.Join(trouble(r.stop()), r.lock.Close())
}

// trouble drops what olareg reports about repositories that were asked for and
// never came to be: it cannot load their index.
func trouble(err error) error {
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		var left []error
		for _, each := range many.Unwrap() {
			left = append(left, trouble(each))
		}
		return errors.Join(left...)
	}
	if errors.Is(err, types.ErrNotFound) {
		return nil
	}
	return err
}

func (c Config) validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("registry "+format, args...)) }
	if !nameRule.MatchString(c.Name) {
		bad("name %q: lower-case letters, digits and dashes", c.Name)
	}
	if c.Dir == "" {
		bad("%s: dir is missing", c.Name)
	}
	if n := len(c.RunKey); n != 0 && n < minKey {
		bad("%s: run key has %d bytes, at least %d are needed", c.Name, n, minKey)
	}
	seen := map[string]bool{}
	for _, u := range c.Users {
		if err := u.validate(); err != nil {
			bad("%s: user %q: %w", c.Name, u.Name, err)
		}
		if seen[u.Name] {
			bad("%s: user %q is listed twice", c.Name, u.Name)
		}
		seen[u.Name] = true
	}
	for _, a := range c.Anonymous {
		if err := a.validate(); err != nil {
			bad("%s: anonymous: %w", c.Name, err)
		}
	}
	return errors.Join(errs...)
}

// lockDir keeps a second process away: olareg caches indexes in memory and
// two writers would overwrite each other's.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("directory %s is in use by another process: %w", dir, err), f.Close())
	}
	return f, nil
}
