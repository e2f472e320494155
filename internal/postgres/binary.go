package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// BinVariable names a directory that holds postgres and initdb; it is then the
// only one looked at.
const BinVariable = "PRATIQUE_POSTGRES_BIN"

// oldestMajor is the first version with everything our SQL uses.
const oldestMajor = 15

// binary is one installation.
type binary struct {
	postgres, initdb string
	major            int
}

var versionLine = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

// find lists the installations, best first: the variable, PATH, Debian's
// directories with the newest first.
func find(ctx context.Context) ([]binary, error) {
	var dirs []string
	if dir := os.Getenv(BinVariable); dir != "" {
		dirs = []string{dir}
	} else {
		dirs = append(dirs, filepath.SplitList(os.Getenv("PATH"))...)
		debian, _ := filepath.Glob("/usr/lib/postgresql/*/bin") // the pattern is well formed
		slices.SortFunc(debian, func(a, b string) int { return majorOf(b) - majorOf(a) })
		dirs = append(dirs, debian...)
	}
	var found []binary
	seen := map[string]bool{}
	for _, dir := range dirs {
		b, ok := inspect(ctx, dir)
		if ok && !seen[b.postgres] {
			seen[b.postgres] = true
			found = append(found, b)
		}
	}
	if len(found) == 0 {
		return nil, notFound()
	}
	return found, nil
}

func majorOf(debianDir string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(debianDir))) // 0 sorts last
	return n
}

func notFound() error {
	if dir := os.Getenv(BinVariable); dir != "" {
		return fmt.Errorf("no postgres and initdb %d or newer in %s (from %s)", oldestMajor, dir, BinVariable)
	}
	return fmt.Errorf("PostgreSQL %d or newer not found: install it (Debian: apt-get install postgresql) or set %s to the directory of postgres and initdb",
		oldestMajor, BinVariable)
}

// inspect looks into one directory. Links are followed: initdb must be the one
// that belongs to this postgres.
func inspect(ctx context.Context, dir string) (binary, bool) {
	path, err := filepath.EvalSymlinks(filepath.Join(dir, "postgres"))
	if err != nil {
		return binary{}, false
	}
	b := binary{postgres: path, initdb: filepath.Join(filepath.Dir(path), "initdb")}
	if _, err := os.Stat(b.initdb); err != nil {
		return binary{}, false
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return binary{}, false
	}
	match := versionLine.FindSubmatch(out)
	if match == nil {
		return binary{}, false
	}
	b.major, _ = strconv.Atoi(string(match[1])) // digits by the pattern
	return b, b.major >= oldestMajor
}

// choose picks the installation for a cluster: the best one for a new cluster,
// the one of its own major version for an old one.
func choose(found []binary, data string) (binary, error) {
	text, err := os.ReadFile(filepath.Join(data, "PG_VERSION"))
	if errors.Is(err, os.ErrNotExist) {
		return found[0], nil
	}
	if err != nil {
		return binary{}, fmt.Errorf("read the cluster's version: %w", err)
	}
	want := strings.TrimSpace(string(text))
	var have []string
	for _, b := range found {
		if strconv.Itoa(b.major) == want {
			return b, nil
		}
		have = append(have, strconv.Itoa(b.major))
	}
	return binary{}, fmt.Errorf("%s was made by PostgreSQL %s, but only %s is installed: install version %s, or dump and restore",
		data, want, strings.Join(have, ", "), want)
}
