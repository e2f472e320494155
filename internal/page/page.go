// Package page owns how every list of the product is cut: limits and their errors, page numbers up to a bound, and opaque keyset tokens that
// stay stable under inserts. Lists are ordered (created_at desc, id desc) unless their owner says otherwise; a token only names the last row
// seen, so it fits either direction.
package page

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"math"
	"time"

	"github.com/google/uuid"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	rpcv1 "github.com/pratique-io/pratique/gen/pratique/rpc/v1"
	"github.com/pratique-io/pratique/internal/fault"
)

const (
	// DefaultLimit is the number of rows of a page when the caller says nothing.
	DefaultLimit = 20
	// MaxLimit bounds one page.
	MaxLimit = 200
	// MaxReach is how many rows page numbers reach; beyond it only tokens go.
	MaxReach = 10_000
	// CountLimit is the limit inside a count: `select count(*) from (select 1 from ... limit 10001) as counted`. One more than is shown,
	// so that a capped total is told from an exact one.
	CountLimit = MaxReach + 1
)

// Key names a row in the list's order.
type Key struct {
	At time.Time // microseconds, UTC
	ID uuid.UUID
}

// Request is one asked page. Exactly one of After and Offset applies: with After set, Offset is 0.
type Request struct {
	Limit  int // 1-200
	Page   int // from 1; 1 with a token
	Offset int // rows to skip
	After  *Key
}

// Parse reads the three list parameters. All problems are told at once, as validation_failed naming limit, page and page_token.
func Parse(limit, page *int32, token *string) (Request, error) {
	req := Request{Limit: DefaultLimit, Page: 1}
	problems := fault.Fields()
	if limit != nil {
		req.Limit = int(*limit)
		if req.Limit < 1 || req.Limit > MaxLimit {
			problems.Addf("limit", "must be 1 to %d", MaxLimit)
			req.Limit = DefaultLimit
		}
	}
	if page != nil {
		req.Page = int(*page)
		req.Offset = (req.Page - 1) * req.Limit
		switch {
		case req.Page < 1:
			problems.Add("page", "counts from 1")
		case req.Page*req.Limit > MaxReach:
			problems.Addf("page", "pages reach %d rows; go on with page_token", MaxReach)
		}
	}
	if token != nil && *token != "" {
		key, err := decode(*token)
		switch {
		case err != nil:
			problems.Add("page_token", "is not a token of this list")
		case page != nil && *page > 1:
			problems.Add("page_token", "cannot be combined with page")
		}
		req.After, req.Offset, req.Page = &key, 0, 1
	}
	if err := problems.Err(); err != nil {
		return Request{}, err
	}
	return req, nil
}

// Result describes the page for the answer. total is what the count query found (capped at CountLimit), last the key of the last row of the
// page, hasMore whether another row follows: ask for Limit+1 rows and cut.
func Result(req Request, total int, capped bool, last *Key, hasMore bool) *rpcv1.Pagination {
	if total > MaxReach {
		total, capped = MaxReach, true
	}
	out := &rpcv1.Pagination{Page: bounded(req.Page), Limit: bounded(req.Limit), Total: bounded(total), TotalIsCapped: capped}
	if hasMore && last != nil {
		out.NextPageToken = encode(*last)
	}
	return out
}

// Cut takes the surplus row off a page that was read with Limit+1 and answers the key of its last row and whether more follow.
func Cut[T any](req Request, rows []T, key func(T) Key) (page []T, last *Key, hasMore bool) {
	if hasMore = len(rows) > req.Limit; hasMore {
		rows = rows[:req.Limit]
	}
	if len(rows) > 0 {
		k := key(rows[len(rows)-1])
		last = &k
	}
	return rows, last, hasMore
}

// ID reads an identifier of a path or a query; invalid_id naming the field when it is not a UUID.
func ID(field, text string) (uuid.UUID, error) {
	id, err := uuid.Parse(text)
	if err != nil || len(text) != 36 || id == uuid.Nil {
		return uuid.Nil, fault.New(errorsv1.Reason_REASON_INVALID_ID, field+" is not a UUID", fault.Field(field, "must be a UUID"))
	}
	return id, nil
}

func bounded(n int) int32 { return int32(min(max(n, 0), math.MaxInt32)) }

const (
	tokenVersion = 1
	tokenBytes   = 1 + 8 + 16
)

// encode packs version, microseconds and id. Nothing in it is secret, and a forged one only starts the list elsewhere.
func encode(k Key) string {
	raw := make([]byte, 0, tokenBytes)
	raw = append(raw, tokenVersion)
	raw = binary.BigEndian.AppendUint64(raw, uint64(k.At.UnixMicro()))
	raw = append(raw, k.ID[:]...)
	return base64.RawURLEncoding.EncodeToString(raw)
}

var errToken = errors.New("not a page token")

func decode(token string) (Key, error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(raw) != tokenBytes || raw[0] != tokenVersion {
		return Key{}, errToken
	}
	micros := int64(binary.BigEndian.Uint64(raw[1:9]))
	at := time.UnixMicro(micros).UTC()
	if at.Year() < 1970 || at.Year() > 9999 { // what Postgres would refuse
		return Key{}, errToken
	}
	id, err := uuid.FromBytes(raw[9:])
	if err != nil {
		return Key{}, errToken
	}
	return Key{At: at, ID: id}, nil
}
