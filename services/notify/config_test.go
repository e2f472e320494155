package notify_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/internal/config"
	"github.com/pratique-io/pratique/services/notify"
)

func TestConfigTellsEveryProblem(t *testing.T) {
	t.Parallel()
	problems := config.NewProblems()
	notify.Default().Validate(problems)
	require.NoError(t, problems.Err())
	for _, bad := range []notify.Config{{}, {ReceiptRetentionDays: 3651, ReceiptCleanupIntervalHours: 169}} {
		_, err := notify.New(bad, notify.Deps{DB: newRoom(t).db})
		require.ErrorContains(t, err, "notify.receipt_retention_days")
		require.ErrorContains(t, err, "notify.receipt_cleanup_interval_hours")
	}
	_, err := notify.New(notify.Default(), notify.Deps{})
	require.ErrorContains(t, err, "database")
}
