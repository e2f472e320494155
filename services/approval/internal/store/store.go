// Package store is approval's SQL: rows to cases and back. Every function runs in the caller's transaction, whose scope internal/pg has set.
package store

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/internal/pg"
	"github.com/pratique-io/pratique/services/approval/internal/domain"
)

//go:embed migrations/*.sql
var files embed.FS

// Migrations makes approval's tables.
var Migrations = pg.Embedded("approval", files)

// ErrNone is a row that does not exist in the scope.
var ErrNone = errors.New("no such case")

// ErrMoved is a guarded change that met another version than it was made for.
var ErrMoved = errors.New("the case moved in between")

const caseColumns = `id, tenant_id, kind, subject_id, requester, chain_requesters, state, required_approvals, digest, evidence_hash, policy_hash,
	facts, due_at, created_at, decided_at, decided_by, decision_reason, version`

func scanCase(row pgx.CollectableRow) (*domain.Case, error) {
	c := &domain.Case{}
	var facts []byte
	err := row.Scan(&c.ID, &c.Tenant, &c.Kind, &c.Subject, &c.Requester, &c.ChainRequesters, &c.State, &c.Required, &c.Bound.Digest,
		&c.Bound.EvidenceHash, &c.Bound.PolicyHash, &facts, &c.DueAt, &c.CreatedAt, &c.DecidedAt, &c.DecidedBy, &c.Reason, &c.Version)
	if err != nil {
		return nil, err
	}
	return c, json.Unmarshal(facts, &c.Facts)
}

const insertCases = `
insert into decision_case (id, tenant_id, kind, subject_id, requester, chain_requesters, state, required_approvals, digest, evidence_hash,
	policy_hash, facts, due_at, decided_at, decided_by, decision_reason, version, created_at, updated_at)
select id, tenant_id, kind, subject_id, requester, string_to_array(chain, ','), state, required, digest, '', '', facts, due_at, decided_at,
	decided_by, reason, 1, created_at, created_at
from unnest(@id::uuid[], @tenant::uuid[], @kind::text[], @subject::uuid[], @requester::text[], @chain::text[], @state::text[],
	@required::int[], @digest::text[], @facts::jsonb[], @due_at::timestamptz[], @decided_at::timestamptz[], @decided_by::text[],
	@reason::text[], @created_at::timestamptz[])
	as new (id, tenant_id, kind, subject_id, requester, chain, state, required, digest, facts, due_at, decided_at, decided_by, reason, created_at)
on conflict on constraint decision_case_subject do nothing
returning id`

// Insert adds cases, in one statement, and answers which were new; a subject that has a case keeps it.
func Insert(ctx context.Context, tx pgx.Tx, cases []*domain.Case) (map[uuid.UUID]bool, error) {
	n := len(cases)
	ids, tenants, subjects := make([]uuid.UUID, n), make([]uuid.UUID, n), make([]uuid.UUID, n)
	text := map[string][]string{}
	for _, key := range []string{"kind", "requester", "chain", "state", "digest", "facts", "decided_by", "reason"} {
		text[key] = make([]string, n)
	}
	required := make([]int32, n)
	due, decided, created := make([]*time.Time, n), make([]*time.Time, n), make([]time.Time, n)
	for i, c := range cases {
		facts, err := json.Marshal(c.Facts)
		if err != nil {
			return nil, fmt.Errorf("insert cases: %w", err)
		}
		ids[i], tenants[i], subjects[i], required[i] = c.ID, c.Tenant, c.Subject, int32(c.Required)
		text["kind"][i], text["requester"][i], text["chain"][i] = string(c.Kind), c.Requester, joinIDs(c.ChainRequesters)
		text["state"][i], text["digest"][i], text["facts"][i] = string(c.State), c.Bound.Digest, string(facts)
		text["decided_by"][i], text["reason"][i] = c.DecidedBy, c.Reason
		due[i], decided[i], created[i] = c.DueAt, c.DecidedAt, c.CreatedAt
	}
	args := pgx.NamedArgs{"id": ids, "tenant": tenants, "subject": subjects, "required": required, "due_at": due, "decided_at": decided, "created_at": created}
	for key, values := range text {
		args[key] = values
	}
	rows, err := tx.Query(ctx, insertCases, args)
	if err != nil {
		return nil, fmt.Errorf("insert cases: %w", err)
	}
	inserted, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, fmt.Errorf("insert cases: %w", err)
	}
	fresh := make(map[uuid.UUID]bool, n)
	for _, id := range inserted {
		fresh[id] = true
	}
	return fresh, nil
}

// joinIDs packs person ids for string_to_array: unnest cannot carry a list per row. An id holds no comma.
func joinIDs(ids []string) string {
	out := ""
	for i, id := range ids {
		if i > 0 {
			out += ","
		}
		out += id
	}
	return out
}

const lockCase = `select ` + caseColumns + ` from decision_case where id = @id for update`

// Lock loads a case with its votes for a change.
func Lock(ctx context.Context, tx pgx.Tx, id uuid.UUID) (*domain.Case, error) {
	return one(ctx, tx, lockCase, pgx.NamedArgs{"id": id})
}

const lockSubject = `select ` + caseColumns + ` from decision_case where kind = @kind and subject_id = @subject for update`

// LockSubject loads the case of a subject for a change.
func LockSubject(ctx context.Context, tx pgx.Tx, kind domain.Kind, subject uuid.UUID) (*domain.Case, error) {
	return one(ctx, tx, lockSubject, pgx.NamedArgs{"kind": string(kind), "subject": subject})
}

const getCase = `select ` + caseColumns + ` from decision_case where id = @id`

// Get loads a case whole.
func Get(ctx context.Context, tx pgx.Tx, id uuid.UUID) (*domain.Case, error) {
	return one(ctx, tx, getCase, pgx.NamedArgs{"id": id})
}

const findSubject = `select id from decision_case where kind = @kind and subject_id = @subject`

// Find answers the id of a subject's case.
func Find(ctx context.Context, tx pgx.Tx, kind domain.Kind, subject uuid.UUID) (uuid.UUID, error) {
	var id uuid.UUID
	err := tx.QueryRow(ctx, findSubject, pgx.NamedArgs{"kind": string(kind), "subject": subject}).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		return uuid.Nil, ErrNone
	}
	return id, err
}

func one(ctx context.Context, tx pgx.Tx, query string, args pgx.NamedArgs) (*domain.Case, error) {
	rows, err := tx.Query(ctx, query, args)
	if err != nil {
		return nil, fmt.Errorf("load case: %w", err)
	}
	c, err := pgx.CollectExactlyOneRow(rows, scanCase)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, ErrNone
	}
	if err != nil {
		return nil, fmt.Errorf("load case: %w", err)
	}
	return c, fill(ctx, tx, []*domain.Case{c})
}

const selectVotes = `select case_id, voter, approve, reason, at from vote where case_id = any(@ids) order by at, voter`

const selectComments = `select case_id, author, text, at from comment where case_id = any(@ids) order by at, id`

// fill adds votes and comments to loaded cases.
func fill(ctx context.Context, tx pgx.Tx, cases []*domain.Case) error {
	byID := map[uuid.UUID]*domain.Case{}
	ids := make([]uuid.UUID, len(cases))
	for i, c := range cases {
		ids[i], byID[c.ID] = c.ID, c
	}
	rows, err := tx.Query(ctx, selectVotes, pgx.NamedArgs{"ids": ids})
	if err != nil {
		return fmt.Errorf("load votes: %w", err)
	}
	var id uuid.UUID
	var vote domain.Vote
	if _, err := pgx.ForEachRow(rows, []any{&id, &vote.By, &vote.Yes, &vote.Reason, &vote.At}, func() error {
		byID[id].Votes = append(byID[id].Votes, vote)
		return nil
	}); err != nil {
		return fmt.Errorf("load votes: %w", err)
	}
	if rows, err = tx.Query(ctx, selectComments, pgx.NamedArgs{"ids": ids}); err != nil {
		return fmt.Errorf("load comments: %w", err)
	}
	var remark domain.Comment
	if _, err := pgx.ForEachRow(rows, []any{&id, &remark.By, &remark.Text, &remark.At}, func() error {
		byID[id].Comments = append(byID[id].Comments, remark)
		return nil
	}); err != nil {
		return fmt.Errorf("load comments: %w", err)
	}
	return nil
}
