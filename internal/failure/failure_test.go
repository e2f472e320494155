package failure

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// The contract's table, section 6.
func TestEveryCodeOfTheContractHasItsClassAndAHint(t *testing.T) {
	contract := map[string][]string{
		"dispatch":     {"dispatcher_unavailable", "dispatch_timeout", "dispatch_error"},
		"connectivity": {"connectivity_error", "source_rate_limited"},
		"auth":         {"auth_error"},
		"policy":       {"quarantined_by_policy", "policy_blocked", "image_unacceptable"},
		"runtime":      {"runtime_failed", "run_timeout", "step_out_of_memory", "scanner_error"},
	}
	n := 0
	for class, codes := range contract {
		require.Contains(t, Classes(), class)
		for _, code := range codes {
			n++
			require.Equal(t, class, ClassOf(code), code)
			require.NotEmpty(t, HintOf(code), code)
		}
	}
	require.Len(t, Codes(), n, "codes that the contract does not have")
	require.Len(t, Classes(), len(contract))
	require.Empty(t, ClassOf("invented"))
	require.Empty(t, HintOf("invented"))
}
