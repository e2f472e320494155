// Package registry is an OCI registry that runs inside the process: the four
// registries of `pratique up` and of the system tests (upstream, quarantine,
// evidence, trusted). In production they are the operator's own.
//
// It owns one directory per registry. Storage and protocol are olareg's; who
// may do what, which paths exist at all, and what survives a crash is decided
// here, because olareg has no authorisation and never calls fsync.
//
// # Access
//
// Default deny. A request is authenticated, its path is parsed by this package
// (olareg sees only what that parse rebuilt), and then one action on exactly
// one repository is checked: pull, push or delete. A mount also needs pull on
// the repository it mounts from. An upload session answers only to the
// principal and repository that opened it. The catalogue needs pull on
// everything. No or wrong credentials are 401, a known principal without the
// right is 403, whether or not the thing exists. Ordinary clients ask before
// they write, so whoever pushes needs pull as well.
//
// Users come from the configuration. Runs come with a credential from Mint:
// user name "run", password a signed statement naming one repository, the
// actions and an expiry. It cannot be revoked, so expiries are short.
//
// # What survives
//
// An answer 201 or 202 to a push or delete is given after the bytes and the
// directory entries were fsynced (unless Config.Volatile). After kill -9
// everything acknowledged is there: olareg writes to a temporary file and
// renames. After power loss too: olareg renames an index.json that is not yet
// on disk over one that is, so a copy of the last synced index is kept beside
// it (_index.json) and Open puts it back when index.json is missing or torn.
// With Volatile, acknowledged data can be lost on power failure, never on
// process kill. Upload sessions do not survive a restart; clients start again.
//
// # What is collected
//
// Manifests are never collected while they are listed: untagged ones, empty
// repositories and referrers of absent subjects stay. Blobs that no manifest
// names are collected when they are older than a day, so a push may take that
// long; a client that skipped an upload because an unreferenced blob was there
// can be refused with MANIFEST_BLOB_UNKNOWN and must push again. Two things to
// know about olareg: children of an index and referrers of a subject are listed
// through their parent unless they carry a tag of their own, and deleting a
// manifest leaves its bytes readable as a blob until they are deleted or
// collected.
//
// The host's http.Server must set header, read and write timeouts: Close waits
// for requests in flight.
package registry
