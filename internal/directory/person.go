package directory

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/internal/auth"
)

// Person is somebody known: at the first call with a valid token, or by a binding.
type Person struct {
	ID      uuid.UUID
	Subject string // "iss|sub"
	Name    string
	Email   string // empty when the token had none
}

const selectPeople = `
select distinct p.person_id, p.subject, p.name, p.email
from directory_binding b
join directory_person p on (b.subject <> '' and b.subject = p.subject) or (b.group_name <> '' and b.group_name = any(p.groups))
where b.active and b.role = @role and b.tenant_id is not distinct from @tenant
order by p.person_id`

// People are the known people who hold the role now, by their subject or a group, each once, ordered by id. The tenant counts
// for tenant roles and is ignored for system roles.
func People(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, role auth.Role) ([]Person, error) {
	var t *uuid.UUID
	if !role.System() {
		t = &tenant
	}
	rows, err := tx.Query(ctx, selectPeople, pgx.NamedArgs{"role": string(role), "tenant": t})
	if err != nil {
		return nil, fmt.Errorf("people with role %s: %w", role, err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Person])
	if err != nil {
		return nil, fmt.Errorf("people with role %s: %w", role, err)
	}
	return out, nil
}

const selectPersonBySubject = `
select person_id, subject, name, email from directory_person where subject = @subject order by sequence desc limit 1`

// PersonBySubject finds somebody by "iss|sub"; false when not heard of yet.
func PersonBySubject(ctx context.Context, tx pgx.Tx, subject string) (Person, bool, error) {
	return onePerson(ctx, tx, selectPersonBySubject, pgx.NamedArgs{"subject": subject})
}

const selectPersonByID = `
select person_id, subject, name, email from directory_person where person_id = @person`

// PersonByID finds somebody by id; false when not heard of yet.
func PersonByID(ctx context.Context, tx pgx.Tx, id uuid.UUID) (Person, bool, error) {
	return onePerson(ctx, tx, selectPersonByID, pgx.NamedArgs{"person": id})
}

func onePerson(ctx context.Context, tx pgx.Tx, sql string, args pgx.NamedArgs) (Person, bool, error) {
	rows, err := tx.Query(ctx, sql, args)
	if err != nil {
		return Person{}, false, fmt.Errorf("find person: %w", err)
	}
	p, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Person])
	if errors.Is(err, pgx.ErrNoRows) {
		return Person{}, false, nil
	}
	if err != nil {
		return Person{}, false, fmt.Errorf("find person: %w", err)
	}
	return p, true, nil
}
