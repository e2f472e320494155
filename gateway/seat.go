package gateway

import (
	"crypto/sha256"
	"net/http"
	"sync"
	"time"

	errorsv1 "github.com/pratique-io/pratique/gen/pratique/errors/v1"
	"github.com/pratique-io/pratique/internal/fault"
)

// Streams travel on the one connection that all calls to a service share, and that carries 1000 at once (internal/rpc): without these bounds
// one caller who opens enough of them keeps everybody else waiting.
const (
	mostStreams = 800 // open at once
	mostOfOne   = 20  // of one credential
	seatRetry   = 5 * time.Second
)

// seats counts the open streams. The zero value is ready.
type seats struct {
	mu    sync.Mutex
	taken int
	of    map[[sha256.Size]byte]int // by credential, hashed so that no token stays in memory
}

// take gives a seat until leave is called; false when there is none.
func (s *seats) take(credential string) (leave func(), ok bool) {
	key := sha256.Sum256([]byte(credential))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken >= mostStreams || s.of[key] >= mostOfOne {
		return nil, false
	}
	if s.of == nil {
		s.of = map[[sha256.Size]byte]int{}
	}
	s.taken++
	s.of[key]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.taken--
		if s.of[key]--; s.of[key] == 0 {
			delete(s.of, key)
		}
	}, true
}

// seated serves a stream if there is a seat for its caller. Who holds a token that is none is refused by the service at once and leaves.
func (g *Gateway) seated(serve http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		leave, ok := g.seats.take(r.Header.Get(headerAuthorization))
		if !ok {
			g.renderHTTP(w, r, fault.New(errorsv1.Reason_REASON_RATE_LIMITED, "too many streams are open", fault.RetryAfter(seatRetry)))
			return
		}
		defer leave()
		serve(w, r)
	}
}
