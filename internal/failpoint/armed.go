//go:build failpoints

package failpoint

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// Armed reports whether this build can die at failpoints.
const Armed = true

var (
	mu      sync.Mutex
	pending = parse(os.Getenv("PRATIQUE_FAILPOINT"))
)

// parse reads "release.before_tag=1,notify.before_commit=3": the n-th Hit of the name kills the process.
func parse(spec string) map[string]int {
	points := map[string]int{}
	for _, item := range strings.Split(spec, ",") {
		name, count, found := strings.Cut(strings.TrimSpace(item), "=")
		if name == "" {
			continue
		}
		n := 1
		if found {
			if parsed, err := strconv.Atoi(count); err == nil && parsed > 0 {
				n = parsed
			}
		}
		points[name] = n
	}
	return points
}

// Hit kills the process by SIGKILL when the place was named in PRATIQUE_FAILPOINT and this is its n-th visit.
func Hit(name string) {
	mu.Lock()
	defer mu.Unlock()
	n, named := pending[name]
	if !named {
		return
	}
	if n > 1 {
		pending[name] = n - 1
		return
	}
	fmt.Fprintf(os.Stderr, "failpoint %s: dying\n", name)
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // SIGKILL is on its way; run nothing more
}
