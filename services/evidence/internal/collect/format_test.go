package collect

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A reader may hand out as much as fits at once: the bound must hold all the same.
func TestAnEndlessWordIsNotHeldHoweverItArrives(t *testing.T) {
	t.Parallel()
	r := strings.NewReader(`{"artifacts":"` + strings.Repeat("a", 18<<20) + `"}`)
	found, err := hasKey(r, "artifacts")
	require.ErrorIs(t, err, errShape)
	require.False(t, found)
	require.Greater(t, r.Len(), 1<<20, "it was not read to its end")
	found, err = hasKey(strings.NewReader(`{"other":"`+strings.Repeat("a", 15<<20)+`","artifacts":[]}`), "artifacts")
	require.NoError(t, err)
	require.True(t, found)
}
