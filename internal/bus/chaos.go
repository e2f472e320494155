package bus

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Chaos makes delivery as bad as the contract allows, repeatably: every message arrives Duplicate more times, now or in later
// batches, and with Reorder batches are shuffled and part of them is held back. For tests and the fault story; the host
// refuses it in production.
type Chaos struct {
	Seed      uint64
	Duplicate int
	Reorder   bool
}

// ChaosVariable is the environment variable that ParseChaos reads the value of.
const ChaosVariable = "PRATIQUE_BUS_CHAOS"

const (
	chaosPatience = 50 * time.Millisecond
	chaosMost     = 4 * fetchMax
)

// ParseChaos reads "seed,duplicates,reorder", e.g. "42,5,true". Empty is no chaos.
func ParseChaos(s string) (Chaos, error) {
	if s == "" {
		return Chaos{}, nil
	}
	parts := strings.Split(s, ",")
	if len(parts) != 3 {
		return Chaos{}, fmt.Errorf("%s: %q is not seed,duplicates,reorder", ChaosVariable, s)
	}
	seed, err := strconv.ParseUint(parts[0], 10, 64)
	if err != nil {
		return Chaos{}, fmt.Errorf("%s: seed %q is not a number", ChaosVariable, parts[0])
	}
	duplicate, err := strconv.Atoi(parts[1])
	if err != nil || duplicate < 0 || duplicate > 100 {
		return Chaos{}, fmt.Errorf("%s: duplicates %q is not a number from 0 to 100", ChaosVariable, parts[1])
	}
	reorder, err := strconv.ParseBool(parts[2])
	if err != nil {
		return Chaos{}, fmt.Errorf("%s: reorder %q is neither true nor false", ChaosVariable, parts[2])
	}
	return Chaos{Seed: seed, Duplicate: duplicate, Reorder: reorder}, nil
}

// mixer is nil without chaos, and a nil mixer changes nothing.
func (c Chaos) mixer() *mixer {
	if c.Duplicate == 0 && !c.Reorder {
		return nil
	}
	return &mixer{chaos: c, random: rand.New(rand.NewPCG(c.Seed, c.Seed))}
}

type mixer struct {
	chaos  Chaos
	mu     sync.Mutex
	random *rand.Rand
	held   []jetstream.Msg
}

// mix adds duplicates, shuffles, and holds some messages back for a later call; with an empty batch it lets go of what it
// holds.
func (m *mixer) mix(batch []jetstream.Msg) []jetstream.Msg {
	if m == nil {
		return batch
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	flush := len(batch) == 0
	out := m.held
	m.held = nil
	for _, msg := range batch {
		for range 1 + m.chaos.Duplicate {
			out = append(out, msg)
		}
	}
	if m.chaos.Reorder {
		m.random.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	}
	if flush && len(out) <= chaosMost {
		return out
	}
	keep := min(len(out)/2, chaosMost)
	m.held = append(m.held, out[len(out)-keep:]...)
	return out[:len(out)-keep]
}
