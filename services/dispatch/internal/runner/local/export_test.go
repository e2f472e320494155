package local

import "context"

func contextOf() context.Context { return context.Background() }

func (r *run) pid() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state.Process.PID
}
