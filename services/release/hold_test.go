package release_test

import (
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/internal/pg/pgtest"
	"github.com/pratique-io/pratique/internal/sample"
)

// A database that hangs cannot say that the lease is over; who holds it must know by the clock, and write nothing more.
func TestALeaseEndsThoughTheDatabaseHangs(t *testing.T) {
	t.Parallel()
	r := open(t)
	r.cfg.Promotion.Lease = time.Second
	svc, _ := r.start()
	image := sample.Clean()
	id := r.approved(image)
	lock, err := pgtest.Admin(t, r.db).Begin(t.Context())
	require.NoError(t, err)
	var once sync.Once
	held := make(chan time.Duration, 1)
	r.trusted.meet(func(next http.Handler, w http.ResponseWriter, req *http.Request) {
		first := false
		once.Do(func() { first = true })
		if !first {
			next.ServeHTTP(w, req)
			return
		}
		_, err := lock.Exec(t.Context(), `select from promotion where record_id = $1 for update`, id)
		began := time.Now()
		if err == nil {
			select {
			case <-req.Context().Done():
			case <-time.After(20 * time.Second):
			}
		}
		held <- time.Since(began)
	})
	did, err := promoteLoop(svc).Run(t.Context())
	require.NoError(t, err)
	require.True(t, did)
	require.Less(t, <-held, 3*time.Second, "the promoter went on under a lease that was over")
	require.NoError(t, lock.Rollback(t.Context()))
	r.trusted.meet(nil)
	r.pass(2 * time.Minute)
	require.True(t, r.turn())
	r.whole(id, image)
}
