package registry

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// repair undoes what a crash may leave: a torn or missing index or layout
// file, temporary files, uploads nobody can continue. It touches no blob.
func repair(root string) error {
	return walkRepositories(root, func(_, dir string) error {
		if err := os.RemoveAll(filepath.Join(dir, uploadsDir)); err != nil {
			return err
		}
		leftovers, err := filepath.Glob(filepath.Join(escapeGlob(dir), indexFile+".*"))
		if err != nil {
			return err
		}
		for _, name := range leftovers {
			if err := os.Remove(name); err != nil {
				return err
			}
		}
		return repairIndex(dir)
	})
}

func repairIndex(dir string) error {
	name := filepath.Join(dir, indexFile)
	_, err := readIndex(name)
	if err != nil {
		synced, readErr := os.ReadFile(filepath.Join(dir, syncedFile))
		if errors.Is(readErr, fs.ErrNotExist) {
			return nil // nothing was ever acknowledged here, or it is no repository
		}
		if readErr != nil {
			return readErr
		}
		if bad := parseIndex(synced, &repositoryIndex{}); bad != nil {
			return fmt.Errorf("%s: neither the index nor its copy can be read: %w", dir, bad)
		}
		if err := replace(name, synced); err != nil {
			return err
		}
	}
	layout := filepath.Join(dir, layoutFile)
	if raw, err := os.ReadFile(layout); err == nil && bytes.Contains(raw, []byte("imageLayoutVersion")) && json.Valid(raw) {
		return nil
	}
	return replace(layout, []byte(layoutText))
}

// replace writes a file so that a crash leaves the old or the new one.
func replace(name string, content []byte) error {
	temporary := name + ".repair"
	if err := os.WriteFile(temporary, content, 0o644); err != nil {
		return err
	}
	if err := syncPath(temporary); err != nil {
		return err
	}
	if err := os.Rename(temporary, name); err != nil {
		return err
	}
	return syncPath(filepath.Dir(name))
}

func escapeGlob(dir string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(dir)
}
