package outbox

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pratique-io/pratique/internal/event"
)

const appendSQL = `insert into outbox (event_id, subject, tenant_id, body)
select id::uuid, subject, nullif(tenant, '')::uuid, body
from unnest(@ids::text[], @subjects::text[], @tenants::text[], @bodies::bytea[])
	with ordinality as row(id, subject, tenant, body, n) order by n`

// Append stores events in the transaction that makes them true. One statement, however many; events of one transaction are
// published in the order given. A caller's transaction may append only for a tenant in its scope, or of no tenant.
func Append(ctx context.Context, tx pgx.Tx, events ...event.Envelope) error {
	if len(events) == 0 {
		return nil
	}
	n := len(events)
	ids, subjects, tenants, bodies := make([]string, n), make([]string, n), make([]string, n), make([][]byte, n)
	for i, e := range events {
		body, err := e.Encode()
		if err != nil {
			return fmt.Errorf("append event: %w", err)
		}
		ids[i], subjects[i], tenants[i], bodies[i] = e.ID, event.SubjectOf(e), e.TenantID, body
	}
	_, err := tx.Exec(ctx, appendSQL, pgx.NamedArgs{"ids": ids, "subjects": subjects, "tenants": tenants, "bodies": bodies})
	if err != nil {
		return fmt.Errorf("append %d events: %w", n, err)
	}
	return nil
}
