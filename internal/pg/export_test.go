package pg

import "time"

// SetTxLimit shortens what TxLimit allows, before the DB is used.
func (db *DB) SetTxLimit(d time.Duration) { db.txLimit = d }
