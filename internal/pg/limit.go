package pg

import "time"

// Sizes and limits of every service's database access, in one place. One machine
// runs seven programs' worth of pools against ServerMaxConns connections:
// 7 x 2 x DefaultMaxConns = 112, plus migrations and a person with psql.
const (
	DefaultMaxConns = 8   // connections per pool; each service has two pools
	ServerMaxConns  = 200 // max_connections of a server we start ourselves

	maxConnIdle = 5 * time.Minute
)

// TxLimit bounds a write transaction, because the outbox relay cannot pass the
// oldest one still open.
const TxLimit = 5 * time.Second

// roleLimits are settings of the login roles themselves, so that they also hold
// for a stopped or partitioned client.
var roleLimits = map[string]map[string]string{
	"api":    {"statement_timeout": "5s", "idle_in_transaction_session_timeout": "5s", "lock_timeout": "3s"},
	"worker": {"statement_timeout": "5s", "idle_in_transaction_session_timeout": "5s", "lock_timeout": "3s"},
	// A migration may take long, but must not queue everybody behind its lock.
	"owner": {"statement_timeout": "0", "idle_in_transaction_session_timeout": "60s", "lock_timeout": "10s"},
}
