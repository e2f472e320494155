package api

import "sync"

// Bell tells waiting streams that something was committed in this process. Ringing never blocks.
type Bell struct {
	mu sync.Mutex
	ch chan struct{}
}

// NewBell makes a bell that nobody has heard yet.
func NewBell() *Bell { return &Bell{ch: make(chan struct{})} }

// Wait is closed by the next Ring.
func (b *Bell) Wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ch
}

// Ring wakes everybody who waits.
func (b *Bell) Ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.ch)
	b.ch = make(chan struct{})
}
