package step

import (
	"context"
	"fmt"
	"runtime/debug"
	"strings"
	"time"
)

// ModuleVersion is the version of a module this program was built with, without the leading "v"; "unknown" in a binary
// without build information.
func ModuleVersion(path string) string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == path {
				return strings.TrimPrefix(m.Version, "v")
			}
		}
	}
	return "unknown"
}

// Within bounds a context; 0 leaves it as it is.
func Within(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	if limit <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, limit, fmt.Errorf("not done within %s: %w", limit, context.DeadlineExceeded))
}
