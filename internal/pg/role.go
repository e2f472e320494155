package pg

import (
	"context"
	"fmt"
	"regexp"

	"github.com/jackc/pgx/v5"
)

func ownerRole(schema string) string  { return schema + "_owner" }
func apiRole(schema string) string    { return schema + "_api" }
func workerRole(schema string) string { return schema + "_worker" }

// plainName keeps generated SQL free of quoting surprises and role names under
// Postgres' 63 bytes.
var plainName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,39}$`)

func checkName(what, name string) error {
	if !plainName.MatchString(name) {
		return fmt.Errorf("%s %q: must be lower case letters, digits and _, at most 40", what, name)
	}
	return nil
}

// lockKey is the advisory lock of everything here that changes roles or schemas;
// per database, as advisory locks are.
const lockKey = int64(0x7072617469717565) // "pratique"

// provision creates what only an administrator can: roles, the schema, and who
// may connect. It may run again at any time and from several programs at once.
func provision(ctx context.Context, admin *pgx.Conn, schema string, pw Passwords) error {
	return pgx.BeginFunc(ctx, admin, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "select pg_advisory_xact_lock($1)", lockKey); err != nil {
			return fmt.Errorf("lock: %w", err)
		}
		for _, r := range []struct{ kind, name, password string }{
			{"owner", ownerRole(schema), pw.Owner},
			{"api", apiRole(schema), pw.API},
			{"worker", workerRole(schema), pw.Worker},
		} {
			if err := provisionRole(ctx, tx, schema, r.kind, r.name, r.password); err != nil {
				return fmt.Errorf("role %s: %w", r.name, err)
			}
		}
		if err := provisionSchema(ctx, tx, schema); err != nil {
			return fmt.Errorf("schema %s: %w", schema, err)
		}
		return closeDatabase(ctx, tx, schema)
	})
}

func provisionRole(ctx context.Context, tx pgx.Tx, schema, kind, role, password string) error {
	verifier, err := scramVerifier(password)
	if err != nil {
		return err
	}
	var exists, above bool
	err = tx.QueryRow(ctx, `select count(*) > 0, coalesce(bool_or(rolsuper or rolbypassrls), false)
		from pg_catalog.pg_roles where rolname = $1`, role).Scan(&exists, &above)
	if err != nil {
		return err
	}
	if above {
		return fmt.Errorf("is a superuser or bypasses row-level security; refusing to use it")
	}
	verb := "create"
	if exists {
		verb = "alter"
	}
	// The verifier is base64, digits, $ and : only.
	if _, err := tx.Exec(ctx, fmt.Sprintf("%s role %s login password '%s'", verb, role, verifier)); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, fmt.Sprintf("alter role %s set search_path = %s", role, schema)); err != nil {
		return err
	}
	for setting, value := range roleLimits[kind] {
		if _, err := tx.Exec(ctx, fmt.Sprintf("alter role %s set %s = '%s'", role, setting, value)); err != nil {
			return err
		}
	}
	return nil
}

func provisionSchema(ctx context.Context, tx pgx.Tx, schema string) error {
	owner := ownerRole(schema)
	// An administrator who is no superuser may hand a schema only to a role that he
	// can take on; since 16, having made a role does not include that.
	var can bool
	err := tx.QueryRow(ctx, `select pg_has_role($1,
		case when current_setting('server_version_num')::int >= 160000 then 'set' else 'member' end)`, owner).Scan(&can)
	if err != nil {
		return err
	}
	if !can {
		if _, err := tx.Exec(ctx, fmt.Sprintf("grant %s to current_user", owner)); err != nil {
			return err
		}
	}
	if _, err := tx.Exec(ctx, fmt.Sprintf("create schema if not exists %s authorization %s", schema, owner)); err != nil {
		return err
	}
	var is string
	err = tx.QueryRow(ctx, "select pg_get_userbyid(nspowner) from pg_catalog.pg_namespace where nspname = $1", schema).Scan(&is)
	if err != nil {
		return err
	}
	if is != owner {
		return fmt.Errorf("belongs to %q, not to %q", is, owner)
	}
	_, err = tx.Exec(ctx, fmt.Sprintf("grant usage on schema %s to %s, %s", schema, apiRole(schema), workerRole(schema)))
	return err
}

// closeDatabase leaves the database to the roles named: PUBLIC may neither
// connect, nor make temporary tables, nor use the schema "public". These
// privileges are not part of a template: a clone starts open again.
func closeDatabase(ctx context.Context, tx pgx.Tx, schema string) error {
	var database string
	if err := tx.QueryRow(ctx, "select current_database()").Scan(&database); err != nil {
		return err
	}
	db := pgx.Identifier{database}.Sanitize()
	_, err := tx.Exec(ctx, fmt.Sprintf(`revoke all on database %[1]s from public;
		grant connect on database %[1]s to %[2]s, %[3]s, %[4]s;
		do $$ begin
			if to_regnamespace('public') is not null then revoke all on schema public from public; end if;
		end $$`, db, ownerRole(schema), apiRole(schema), workerRole(schema)))
	if err != nil {
		return fmt.Errorf("close database %s: %w", database, err)
	}
	return nil
}

func connectAdmin(ctx context.Context, adminURL string) (*pgx.Conn, error) {
	cc, err := pgx.ParseConfig(adminURL)
	if err != nil {
		return nil, hideURL(err)
	}
	cc.RuntimeParams["application_name"] = "pratique migrate"
	conn, err := pgx.ConnectConfig(ctx, cc)
	if err != nil {
		return nil, fmt.Errorf("connect as administrator: %w", err)
	}
	return conn, nil
}
