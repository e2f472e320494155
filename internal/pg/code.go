package pg

import (
	"errors"

	"github.com/jackc/pgx/v5/pgconn"
)

// Code is the SQLSTATE of err, or "" when it does not come from the server.
func Code(err error) string {
	var pe *pgconn.PgError
	if errors.As(err, &pe) {
		return pe.Code
	}
	return ""
}

// violates reports a violation with the given SQLSTATE of the named constraint;
// an empty name means any.
func violates(err error, code, constraint string) bool {
	var pe *pgconn.PgError
	return errors.As(err, &pe) && pe.Code == code && (constraint == "" || pe.ConstraintName == constraint)
}

// IsUnique reports a duplicate under the named unique constraint or index ("" = any).
func IsUnique(err error, constraint string) bool { return violates(err, "23505", constraint) }

// IsCheck reports a violated CHECK ("" = any).
func IsCheck(err error, constraint string) bool { return violates(err, "23514", constraint) }

// IsForeignKey reports a violated foreign key ("" = any).
func IsForeignKey(err error, constraint string) bool { return violates(err, "23503", constraint) }

// IsDenied reports a missing privilege or a row that row-level security refused.
func IsDenied(err error) bool { return Code(err) == "42501" }

// IsRetryable reports a serialisation failure, deadlock or lock timeout: the same
// transaction may succeed when it is run again from its beginning.
func IsRetryable(err error) bool {
	switch Code(err) {
	case "40001", "40P01", "55P03":
		return true
	}
	return false
}
