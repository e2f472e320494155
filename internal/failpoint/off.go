//go:build !failpoints

package failpoint

// Hit marks a place just before or just after a durable step. Names are <service>.<place>, for example release.before_tag.
func Hit(string) {}

// Armed reports whether this build can die at failpoints.
const Armed = false
