package arch_test

import (
	"go/ast"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var speaksSQL = regexp.MustCompile(`(?is)^\s*(select\s+\S|insert\s+into\s|update\s+\w+(\s+\w+)?\s+set\s|delete\s+from\s|with\s+(recursive\s+)?\w+\s*(\([^)]*\)\s*)?as\s+(not\s+)?(materialized\s+)?\(|` +
	`create\s+(or\s+replace\s+)?(table|role|schema|index|unique|function|policy|database|sequence)\s|alter\s+(table|role|schema|database|default)\s|` +
	`drop\s+(table|role|schema|database|index)\s|truncate\s|grant\s+\w+.*\sto\s|revoke\s+\w+.*\sfrom\s|set\s+local\s|set_config\()`)

// sqlRooms are the folders that may speak SQL.
func mayQuery(dir string) bool {
	if s := service(dir); s != "" {
		return under(dir, "services/"+s+"/internal/store")
	}
	return under(dir, "internal/pg", "internal/outbox", "internal/bus", "internal/idempotency", "internal/directory", "internal/lease",
		"internal/deadletter", "internal/postgres", "test")
}

func TestOnlyStoresSpeakSQL(t *testing.T) {
	t.Parallel()
	v := newTally(exceptions{})
	for _, s := range sources(t) {
		if s.test || mayQuery(s.dir) {
			continue
		}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			lit, ok := n.(*ast.BasicLit)
			if !ok || lit.Kind != token.STRING {
				return true
			}
			text, err := strconv.Unquote(lit.Value)
			if err == nil && isSQL(text) {
				v.add(s.path, s.at(lit))
			}
			return true
		})
	}
	v.check(t, "SQL lives in store packages and in the mechanisms that own tables")
}

// isSQL tells a statement from an English sentence that begins with one of its words.
func isSQL(text string) bool {
	if !speaksSQL.MatchString(text) {
		return false
	}
	lower := strings.ToLower(strings.TrimSpace(text))
	return !strings.HasPrefix(lower, "select ") || regexp.MustCompile(`(?s)\s(from|where|as|for)\s|\(|^select\s+1$`).MatchString(lower)
}

func TestSQLIsToldFromEnglish(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"select id from request", " \n\tSELECT count(*) from x", "insert into a (b) values (1)", "update request set x = 1", "update request r set x = 1",
		"delete from a where b", "with x as (select 1) select * from x", "with recursive t(n) as (values (1)) select n from t", "truncate outbox",
		"set local role x", "select 1", "select pg_notify('a', 'b')", "create table x (id uuid)", "grant select on x to y",
	} {
		require.True(t, isSQL(text), text)
	}
	for _, text := range []string{
		"select a tenant", "update the record", "with care", "delete request", "update needs a name", "insert the disk", "create a request",
		"select one of those", "with a body as long as (x", "set the header", "grant access",
	} {
		require.False(t, isSQL(text), text)
	}
}

// withoutTenant lists the tables that belong to no tenant, and why that is right.
var withoutTenant = map[string]string{
	"dispatch.provider":          "a place where runs can happen serves every tenant",
	"intake.person":              "a person may belong to several tenants; roles bind people to tenants",
	"intake.capability_default":  "what a tenant has when nobody has said otherwise: one row for all",
	"notify.notify_start":        "one row: since when this service listens",
	"notify.mailbox":             "numbers the notifications of a person, who reads over all tenants",
	"directory.directory_person": "read by authorisation before a tenant is selected",
	"bus.inbox":                  "claims of events by id; holds no content",
	"bus.inbox_default":          "partition of inbox",
	"bus.inbox_consumer":         "one row per consumer",
	"bus.inbox_attempt":          "counts of failed deliveries by event id; holds no content but the error",
	"bus.inbox_sequence":         "one number per aggregate; holds no content",
	"outbox.outbox_default":      "partition of outbox",
	"outbox.outbox_cursor":       "one row: how far the relay came",
	"outbox.outbox_mark":         "positions in the broker's streams",
}

// notProtected lists the tables on which neither pratique_protect nor pratique_share is called, and what stands there instead.
var notProtected = map[string]string{
	"bus.inbox":             "granted to the worker only, in a block of its own",
	"bus.inbox_default":     "partition of inbox",
	"bus.inbox_consumer":    "granted to the worker only, in a block of its own",
	"bus.inbox_attempt":     "granted to the worker only, in a block of its own",
	"bus.inbox_sequence":    "granted to the worker only, in a block of its own",
	"bus.dead_letter":       "granted to the worker only, in a block of its own",
	"outbox.outbox":         "has policies of its own: callers append and read nothing",
	"outbox.outbox_default": "partition of outbox",
	"outbox.outbox_cursor":  "granted to the worker only",
	"outbox.outbox_mark":    "granted to the worker only",
}

// sharedWithTenant lists the tables with tenant_id that are shared on purpose.
var sharedWithTenant = map[string]string{
	"directory.directory_tenant":  "read by authorisation before a tenant is selected",
	"directory.directory_binding": "read by authorisation before a tenant is selected; system bindings have no tenant",
}

type table struct {
	name   string // <room>.<table>
	body   string
	guards string // protect, share or empty
}

var (
	createTable = regexp.MustCompile(`(?m)^create table (?:if not exists )?(\w+)([\s\S]*?);$`)
	guardCall   = regexp.MustCompile(`pratique_(protect|share)\('(\w+)'\)`)
	lineComment = regexp.MustCompile(`--[^\n]*`)
)

// tables reads every migration. The order of statements within a room decides nothing: the call may stand anywhere in it.
func tables(t *testing.T) []table {
	t.Helper()
	var out []table
	for _, pattern := range []string{"services/*/internal/store/migrations", "internal/*/migrations"} {
		dirs, err := filepath.Glob(filepath.Join(root, pattern))
		require.NoError(t, err)
		for _, dir := range dirs {
			rel, err := filepath.Rel(root, dir)
			require.NoError(t, err)
			room := service(filepath.ToSlash(rel))
			if room == "" {
				room = strings.Split(filepath.ToSlash(rel), "/")[1]
			}
			files, err := filepath.Glob(filepath.Join(dir, "*.sql"))
			require.NoError(t, err)
			var text strings.Builder
			for _, file := range files {
				raw, err := os.ReadFile(file)
				require.NoError(t, err)
				require.Regexp(t, `^[0-9]{4}_[a-z0-9_]+\.sql$`, filepath.Base(file))
				text.WriteString(lineComment.ReplaceAllString(string(raw), ""))
			}
			guards := map[string]string{}
			for _, m := range guardCall.FindAllStringSubmatch(text.String(), -1) {
				guards[m[2]] = m[1]
			}
			for _, m := range createTable.FindAllStringSubmatch(text.String(), -1) {
				out = append(out, table{name: room + "." + m[1], body: m[2], guards: guards[m[1]]})
			}
		}
	}
	require.Greater(t, len(out), 30, "the scan has lost its way")
	return out
}

func TestEveryTableBelongsToATenantAndIsGuarded(t *testing.T) {
	t.Parallel()
	tenant := regexp.MustCompile(`(?m)^\s*tenant_id\s+uuid\b`)
	seen := map[string]bool{}
	for _, tab := range tables(t) {
		seen[tab.name] = true
		has := tenant.MatchString(tab.body)
		if why, listed := withoutTenant[tab.name]; has && listed {
			t.Errorf("%s has a tenant_id now: take it off the list (%s)", tab.name, why)
		} else if !has && !listed {
			t.Errorf("%s has no tenant_id and does not stand in withoutTenant with a reason", tab.name)
		}
		why, listed := notProtected[tab.name]
		if (tab.guards == "") != listed {
			t.Errorf("%s: pratique_%s is called, listed as unguarded %v (%s)", tab.name, tab.guards, listed, why)
		}
		_, shared := sharedWithTenant[tab.name]
		if has && tab.guards == "share" != shared {
			t.Errorf("%s has a tenant_id and is guarded by %q; listed as shared: %v", tab.name, tab.guards, shared)
		}
		if !has && tab.guards == "protect" {
			t.Errorf("%s is protected by a column it does not have", tab.name)
		}
	}
	for _, list := range []map[string]string{withoutTenant, notProtected, sharedWithTenant} {
		for name := range list {
			if !seen[name] {
				t.Errorf("there is no table %s any more", name)
			}
		}
	}
}

func TestTablesAreSingularSnakeCaseWithTimesThatSayAt(t *testing.T) {
	t.Parallel()
	column := regexp.MustCompile(`(?m)^\s*(\w+)\s+timestamptz\b`)
	for _, tab := range tables(t) {
		require.Regexp(t, `^[a-z]+\.[a-z][a-z0-9_]*$`, tab.name)
		for _, m := range column.FindAllStringSubmatch(tab.body, -1) {
			if m[1] != "at" && !strings.HasSuffix(m[1], "_at") && !strings.HasSuffix(m[1], "_until") {
				t.Errorf("%s.%s is a time: call it *_at, or *_until for the end of something", tab.name, m[1])
			}
		}
	}
}
