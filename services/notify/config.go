package notify

import (
	"time"

	"github.com/pratique-io/pratique/internal/config"
)

// Config is what an operator may set.
type Config struct {
	// ReceiptRetentionDays is how long the proof that a person was told is kept, 1-3650. Afterwards a replay still tells nobody.
	ReceiptRetentionDays int `yaml:"receipt_retention_days"`
	// ReceiptCleanupIntervalHours is how often old receipts are looked for, 1-168.
	ReceiptCleanupIntervalHours int `yaml:"receipt_cleanup_interval_hours"`
}

// Default keeps receipts for 90 days and looks once a day.
func Default() Config {
	return Config{ReceiptRetentionDays: 90, ReceiptCleanupIntervalHours: 24}
}

// Validate tells every value out of bounds.
func (c Config) Validate(p *config.Problems) {
	if c.ReceiptRetentionDays < 1 || c.ReceiptRetentionDays > 3650 {
		p.Add("receipt_retention_days", "must be 1 to 3650")
	}
	if c.ReceiptCleanupIntervalHours < 1 || c.ReceiptCleanupIntervalHours > 168 {
		p.Add("receipt_cleanup_interval_hours", "must be 1 to 168")
	}
}

func (c Config) retention() time.Duration {
	return time.Duration(c.ReceiptRetentionDays) * 24 * time.Hour
}
func (c Config) cleanup() time.Duration {
	return time.Duration(c.ReceiptCleanupIntervalHours) * time.Hour
}
