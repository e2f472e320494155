package local

import (
	"fmt"
	"net"
	"os"
	"time"

	"github.com/pratique-io/pratique/services/dispatch/internal/runner"
)

// sweepTime bounds how long processes may take to die.
const sweepTime = 5 * time.Second

// slot is the place of one run: with isolation by uid a user of its own, for as long as the run lasts.
type slot struct {
	uid  int // 0: the runner's own user
	hold net.Listener
}

// takeSlot finds a user that no other run on this machine has. The claim is an abstract socket: the kernel gives it up with the process,
// and another dispatch process on the same machine sees it too. What an earlier holder left running is killed first.
func (r *Local) takeSlot() (slot, error) {
	if r.level != LevelUID {
		return slot{}, nil
	}
	for n := range uidSpan {
		place, err := claim(r.cfg.BaseUID + n)
		if err != nil || place.uid != 0 {
			return place, err
		}
	}
	return slot{}, fmt.Errorf("%w: all users from %d to %d are taken", runner.ErrBusy, r.cfg.BaseUID, r.cfg.BaseUID+uidSpan-1)
}

// claim takes one user, or answers the zero slot when somebody else has it.
func claim(uid int) (slot, error) {
	hold, err := net.Listen("unix", fmt.Sprintf("@pratique-dispatch-uid-%d", uid))
	if err != nil {
		return slot{}, nil //nolint:nilerr // the name is taken: that is the answer
	}
	if err := sweep(uid, 0, sweepTime); err != nil {
		hold.Close()
		return slot{}, fmt.Errorf("free a user: %w", err)
	}
	return slot{uid: uid, hold: hold}, nil
}

// uidSpan is how many users from BaseUID on may be tried.
const uidSpan = 256

func (s slot) free() {
	if s.hold != nil {
		s.hold.Close()
	}
}

// own gives a path to the slot's user.
func (s slot) own(path string) error {
	if s.uid == 0 {
		return nil
	}
	return os.Lchown(path, s.uid, s.uid)
}
