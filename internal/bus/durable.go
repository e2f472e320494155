package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// ErrNotDurable: the broker acknowledges messages before they are on disk.
var ErrNotDurable = errors.New("broker does not sync what it acknowledges (sync_interval: always)")

// CheckDurable refuses a broker that may lose acknowledged messages at power loss. Only a user of the system account may ask;
// conn is such a user's. Nothing would be lost for good, the outboxes refill the stream, but nobody should find out that way.
func CheckDurable(ctx context.Context, conn *Conn) error {
	ctx, cancel := conn.call(ctx)
	defer cancel()
	reply, err := conn.nc.RequestWithContext(ctx, "$SYS.REQ.SERVER.PING.JSZ", []byte(`{"config":true}`))
	if err != nil {
		return fmt.Errorf("ask broker for its sync setting: %w", err)
	}
	var answer struct {
		Data struct {
			Disabled bool `json:"disabled"`
			Config   struct {
				SyncAlways   bool          `json:"sync_always"`
				SyncInterval time.Duration `json:"sync_interval"`
			} `json:"config"`
		} `json:"data"`
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return fmt.Errorf("broker's sync setting: %w", err)
	}
	switch {
	case answer.Data.Disabled:
		return errors.New("broker runs without JetStream")
	case !answer.Data.Config.SyncAlways:
		return fmt.Errorf("%w: it syncs every %s", ErrNotDurable, answer.Data.Config.SyncInterval)
	}
	return nil
}
