package up

import (
	"crypto/ecdsa"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/pratique-io/pratique/internal/auth"
)

// dataDir is the folder that holds everything one machine's product keeps: databases, queues, registries, keys, ports. What is made once is
// reused after a restart, since stored references and tokens contain it.
type dataDir struct {
	path string
	lock *os.File
}

// ErrBusy says that another process runs on the same data.
var ErrBusy = errors.New("another pratique runs on this data directory")

func openDataDir(path string) (*dataDir, error) {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if err := settle(absolute); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(absolute, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder, _ := os.ReadFile(lock.Name()) // only to say who; may be empty
		return nil, errors.Join(fmt.Errorf("%w: %s (process %s)", ErrBusy, absolute, strings.TrimSpace(string(holder))), lock.Close())
	}
	if err := errors.Join(lock.Truncate(0), func() error { _, err := fmt.Fprintln(lock, os.Getpid()); return err }()); err != nil {
		return nil, errors.Join(fmt.Errorf("data directory: %w", err), lock.Close())
	}
	return &dataDir{path: absolute, lock: lock}, nil
}

// lockFile is the first file in a data directory; one that has it is ours.
const lockFile = "lock"

// settle makes the directory, or makes sure that an existing one is ours or empty: its mode is changed so that others may pass through (the
// database and the steps run as users of their own) but not look around, and nobody wants that for a folder that holds other things.
func settle(path string) error {
	entries, err := os.ReadDir(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		err = os.MkdirAll(path, 0o711)
	case err == nil:
		holds := func(wanted func(name string) bool) bool {
			return slices.ContainsFunc(entries, func(e os.DirEntry) bool { return wanted(e.Name()) })
		}
		if holds(func(name string) bool { return name != "lost+found" }) && !holds(func(name string) bool { return name == lockFile }) {
			return fmt.Errorf("%s holds other files: name an empty or a new directory with --data", path)
		}
	}
	if err != nil {
		return err
	}
	if err := os.Chmod(path, 0o711); err != nil {
		return fmt.Errorf("%w: it belongs to somebody else; name one of your own with --data", err)
	}
	return nil
}

func (d *dataDir) close() error { return d.lock.Close() }

func (d *dataDir) join(parts ...string) string {
	return filepath.Join(append([]string{d.path}, parts...)...)
}

// secret gives the content of secrets/NAME, made of 32 random bytes the first time.
func (d *dataDir) secret(name string) (string, error) {
	raw, err := d.once(filepath.Join("secrets", name), func() ([]byte, error) {
		random := make([]byte, 32)
		if _, err := rand.Read(random); err != nil {
			return nil, err
		}
		return []byte(base64.RawURLEncoding.EncodeToString(random)), nil
	})
	return string(raw), err
}

// key gives the private key in keys/NAME.pem, made the first time, and keeps its public half beside it in keys/NAME.pub.pem.
func (d *dataDir) key(name string) (*ecdsa.PrivateKey, error) {
	if err := os.MkdirAll(d.join("keys"), 0o700); err != nil {
		return nil, err
	}
	private, err := auth.EnsureKey(d.join("keys", name+".pem"))
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", name, err)
	}
	public, err := auth.PublicPEM(&private.PublicKey)
	if err != nil {
		return nil, err
	}
	_, err = d.once(filepath.Join("keys", name+".pub.pem"), func() ([]byte, error) { return public, nil })
	return private, err
}

// once reads a private file, or makes it whole and durable the first time.
func (d *dataDir) once(name string, make func() ([]byte, error)) ([]byte, error) {
	path := d.join(name)
	raw, err := os.ReadFile(path)
	if err == nil || !errors.Is(err, os.ErrNotExist) {
		return raw, err
	}
	if raw, err = make(); err != nil {
		return nil, err
	}
	return raw, writeFile(path, raw, 0o600)
}

// writeFile replaces a file in one step: a reader sees the old or the new content, never half of it.
func writeFile(path string, content []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return err
	}
	temporary, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	_, err = temporary.Write(content)
	err = errors.Join(err, temporary.Chmod(mode), temporary.Sync(), temporary.Close())
	if err == nil {
		err = os.Rename(temporary.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temporary.Name()))
	}
	return nil
}

const portsFile = "ports.json"

// ports gives stable loopback ports by name. Those not chosen yet are chosen free; a chosen one that is taken now is an error where it is used.
func (d *dataDir) ports(names ...string) (map[string]int, error) {
	path := d.join(portsFile)
	chosen := map[string]int{}
	raw, err := os.ReadFile(path)
	switch {
	case err == nil:
		if err := json.Unmarshal(raw, &chosen); err != nil {
			return nil, fmt.Errorf("ports.json: %w", err)
		}
	case !errors.Is(err, os.ErrNotExist):
		return nil, err
	}
	var held []net.Listener // until all are chosen, so that none is chosen twice
	defer func() {
		for _, listener := range held {
			_ = listener.Close()
		}
	}()
	for _, name := range names {
		if chosen[name] != 0 {
			continue
		}
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		held = append(held, listener)
		chosen[name] = listener.Addr().(*net.TCPAddr).Port
	}
	if len(held) == 0 {
		return chosen, nil
	}
	if raw, err = json.MarshalIndent(chosen, "", "  "); err != nil {
		return nil, err
	}
	return chosen, writeFile(path, append(raw, '\n'), 0o600)
}
