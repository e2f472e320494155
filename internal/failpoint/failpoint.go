// Package failpoint names the places where a fault test may kill the process. In an ordinary build Hit is empty and is inlined away; a build
// with the tag `failpoints` (see armed.go) reads PRATIQUE_FAILPOINT and dies there by SIGKILL, without running a single deferred call,
// which is what a crash looks like.
package failpoint
