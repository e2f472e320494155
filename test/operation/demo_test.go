package operation

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pratique-io/pratique/cmd/pratique/demo"
	"github.com/pratique-io/pratique/internal/sample"
)

// summary is what `demo --summary` writes.
type summary struct {
	Verified bool           `json:"verified"`
	Images   []demo.Outcome `json:"images"`
}

func readSummary(t *testing.T, path string) summary {
	t.Helper()
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	var s summary
	require.NoError(t, json.Unmarshal(raw, &s))
	require.NotNil(t, s.Images)
	return s
}

// left is what a program left in its temporary directory.
func left(t *testing.T, place string) []os.DirEntry {
	t.Helper()
	entries, err := os.ReadDir(place)
	require.NoError(t, err)
	return entries
}

func TestTheDemoTakesAnImageOfOnesOwnThrough(t *testing.T) {
	t.Parallel()
	place, report := folder(t), filepath.Join(t.TempDir(), "summary.json")
	image := elsewhere(t) + "/team/app:1.0"
	c := pratique("demo", "--summary", report, "--image", image)
	c.env = []string{"TMPDIR=" + place}
	p, code := c.run(t, 5*time.Minute)
	require.Zero(t, code, p.errors.String())
	require.Contains(t, p.out.String(), "every step was verified")
	got := readSummary(t, report)
	require.True(t, got.Verified)
	require.Len(t, got.Images, 6)
	own := got.Images[5]
	require.Equal(t, image, own.Source)
	require.Equal(t, "released", own.ReleaseState)
	require.Equal(t, sample.Clean().Root.Digest.String(), own.Digest)
	require.Equal(t, own.Digest, own.DestinationDigest)
	require.NotEmpty(t, own.Destination)
	require.Empty(t, left(t, place))
	require.Empty(t, users(place))
}

func TestTheDemoInterruptedInTheMiddle(t *testing.T) {
	t.Parallel()
	place, report := folder(t), filepath.Join(t.TempDir(), "summary.json")
	c := pratique("demo", "--summary", report)
	c.env = []string{"TMPDIR=" + place}
	p := c.start(t)
	p.says(t, " 8/15 ", 2*time.Minute) // approved: runs are under way
	require.Equal(t, 130, p.signal(t, os.Interrupt, stopLimit))
	require.Contains(t, p.errors.String(), "interrupted")
	require.NotContains(t, p.out.String(), "every step was verified")
	require.False(t, readSummary(t, report).Verified)
	require.Empty(t, left(t, place))
	require.Empty(t, users(place))
}

func TestTheDemoThatCannotBeginSaysSo(t *testing.T) {
	t.Parallel()
	place, report := folder(t), filepath.Join(t.TempDir(), "summary.json")
	require.NoError(t, os.WriteFile(report, []byte(`{"verified": true, "images": [{"name": "of yesterday"}]}`), 0o600))
	c := pratique("demo", "--summary", report, "--step", "/bin/true")
	c.env = []string{"TMPDIR=" + place}
	refused(t, c, place, "is not pratique-step")
	require.False(t, readSummary(t, report).Verified, "an old summary must not pass for a new one")
	require.Empty(t, left(t, place))
}

// A step that fails makes the exit code: here the image that is to be taken through does not exist.
func TestTheDemoFailsWhenAStepFails(t *testing.T) {
	t.Parallel()
	place, report := folder(t), filepath.Join(t.TempDir(), "summary.json")
	c := pratique("demo", "--summary", report, "--image", elsewhere(t)+"/team/app:2.0")
	c.env = []string{"TMPDIR=" + place}
	p, code := c.run(t, 5*time.Minute)
	require.Equal(t, 1, code)
	require.Contains(t, p.errors.String(), "team/app:2.0 was refused")
	require.NotContains(t, p.out.String(), "every step was verified")
	got := readSummary(t, report)
	require.False(t, got.Verified)
	require.Equal(t, "refused", got.Images[5].Status)
	require.Empty(t, left(t, place))
}
