package page

import (
	"math"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	"github.com/pratique-io/pratique/internal/fault"
)

func ptr[T any](v T) *T { return &v }

func TestParse(t *testing.T) {
	t.Parallel()
	key := Key{At: time.Date(2026, 1, 2, 3, 4, 5, 678_000, time.UTC), ID: uuid.MustParse("01900000-0000-7000-8000-000000000001")}

	t.Run("nothing asked is the first twenty", func(t *testing.T) {
		req, err := Parse(nil, nil, nil)
		require.NoError(t, err)
		require.Equal(t, Request{Limit: 20, Page: 1}, req)
	})
	t.Run("the last reachable page is reached", func(t *testing.T) {
		req, err := Parse(ptr(int32(200)), ptr(int32(50)), nil)
		require.NoError(t, err)
		require.Equal(t, 9800, req.Offset)
	})
	t.Run("a token names the row after which to go on", func(t *testing.T) {
		req, err := Parse(ptr(int32(5)), nil, ptr(encode(key)))
		require.NoError(t, err)
		require.Equal(t, &key, req.After)
		require.Zero(t, req.Offset)
	})
	for name, bad := range map[string]struct {
		limit, page *int32
		token       *string
		fields      []string
	}{
		"limit zero":              {limit: ptr(int32(0)), fields: []string{"limit"}},
		"limit 201":               {limit: ptr(int32(201)), fields: []string{"limit"}},
		"negative limit and page": {limit: ptr(int32(-1)), page: ptr(int32(-1)), fields: []string{"limit", "page"}},
		"page zero":               {page: ptr(int32(0)), fields: []string{"page"}},
		"page beyond the reach":   {limit: ptr(int32(200)), page: ptr(int32(51)), fields: []string{"page"}},
		"largest page":            {limit: ptr(int32(200)), page: ptr(int32(math.MaxInt32)), fields: []string{"page"}},
		"token of nothing":        {token: ptr("AAAA"), fields: []string{"page_token"}},
		"token not base64":        {token: ptr("%%%"), fields: []string{"page_token"}},
		"token with a page":       {page: ptr(int32(2)), token: ptr(encode(key)), fields: []string{"page_token"}},
	} {
		t.Run(name+" is refused", func(t *testing.T) {
			_, err := Parse(bad.limit, bad.page, bad.token)
			require.True(t, fault.Is(err, errorsv1.Reason_REASON_VALIDATION_FAILED))
			got := fault.Of(err).FieldErrors()
			require.Len(t, got, len(bad.fields))
			for _, f := range bad.fields {
				require.Contains(t, got, f)
			}
		})
	}
}

func TestResult(t *testing.T) {
	t.Parallel()
	req := Request{Limit: 2, Page: 1}
	keyOf := func(n int) Key { return Key{At: time.UnixMicro(int64(n)).UTC(), ID: uuid.UUID{15: byte(n)}} }

	rows, last, more := Cut(req, []int{3, 2, 1}, keyOf)
	require.Equal(t, []int{3, 2}, rows)
	require.True(t, more)
	got := Result(req, CountLimit, false, last, more)
	require.EqualValues(t, MaxReach, got.GetTotal())
	require.True(t, got.GetTotalIsCapped())
	key, err := decode(got.GetNextPageToken())
	require.NoError(t, err)
	require.Equal(t, keyOf(2), key)

	rows, last, more = Cut(req, []int{1}, keyOf)
	require.Len(t, rows, 1)
	require.Empty(t, Result(req, 1, false, last, more).GetNextPageToken(), "the last page has no successor")

	_, last, _ = Cut(req, nil, keyOf)
	require.Nil(t, last)
}

func TestID(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", "x", "00000000-0000-0000-0000-000000000000", "{01900000-0000-7000-8000-000000000001}", "urn:uuid:01900000-0000-7000-8000-000000000001"} {
		_, err := ID("id", bad)
		require.True(t, fault.Is(err, errorsv1.Reason_REASON_INVALID_ID), bad)
	}
	_, err := ID("id", "01900000-0000-7000-8000-000000000001")
	require.NoError(t, err)
}

func FuzzDecode(f *testing.F) {
	f.Add(encode(Key{At: time.UnixMicro(1).UTC(), ID: uuid.UUID{1}}))
	f.Fuzz(func(t *testing.T, token string) {
		key, err := decode(token)
		if err != nil {
			return
		}
		require.Equal(t, token, encode(key), "one row has one token")
	})
}
