// Package arch owns no code: its tests hold the whole repository, all three modules, to what ARCHITECTURE.md and CONTRIBUTING.md say. They read
// sources with go/parser and never run the go command, so they are quick and need nothing but the checkout. Where a rule has an exception, the
// exception stands in a table with its reason, and a test fails when the exception is no longer needed.
package arch
