package main

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSidesRunThereAndBack(t *testing.T) {
	t.Parallel()
	order := ""
	note := func(name string, took time.Duration) side {
		return func(context.Context) (sample, error) { order += name; return sample{count: 10, took: took}, nil }
	}
	all, err := mirrored(t.Context(), note("a", time.Second), note("b", 2*time.Second), note("c", time.Second))
	require.NoError(t, err)
	require.Equal(t, "abccba", order)
	require.Len(t, all, 3)
	require.InDelta(t, 5.0, all[1].rate(), 1e-9)
}

func TestTheRateOfASeriesWeighsByTimeAndTheBarIsHeld(t *testing.T) {
	t.Parallel()
	fast, slow := sample{count: 100, took: time.Second}, sample{count: 100, took: 9 * time.Second}
	require.InDelta(t, 20.0, series{fast, slow}.rate(), 1e-9, "not the mean of 100 and 11")
	r := result{name: "P0", value: series{fast}, limit: series{slow}, bar: 9.1}
	require.InDelta(t, 9.0, r.ratio(), 1e-9)
	require.False(t, r.met())
	require.Contains(t, r.String(), "9.10: MISSED")
	r.bar = 9
	require.Contains(t, r.String(), "9.00: met")
	require.Zero(t, result{value: series{fast}}.ratio(), "no limit, no ratio")
}

func TestTheLimitWritesTheSameRowsInAsManyTransactions(t *testing.T) {
	t.Parallel()
	l := &load{transactions: 2.5, tables: []tableLoad{{name: "a.x", inserted: 3, update: 0.5}, {name: "b.y", inserted: 0.25}}}
	for _, n := range []int{1, 7, 400} {
		plan := l.plan(n)
		require.Len(t, plan, int(2.5*float64(n)+0.5))
		rows := make([]int, 2)
		for _, inserts := range plan {
			for _, in := range inserts {
				rows[in.table] += in.rows
			}
		}
		require.Equal(t, []int{int(3.5*float64(n) + 0.5), int(0.25*float64(n) + 0.5)}, rows)
	}
}

// The whole program, as small as it gets: its numbers mean nothing, but every part of it runs and nothing stays behind.
func TestMeasuringWorksAndLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "pratique-benchtest-") // t.TempDir is closed to the user that Postgres runs as
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o711))
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	require.NoError(t, err)
	defer out.Close()
	tiny := sizes{relayed: 200, textbook: 20, batched: 300, single: 10, lifecycles: 6, patience: 30 * time.Second}
	require.NoError(t, measure(t.Context(), out, options{dir: dir}, tiny, slog.New(slog.DiscardHandler)))
	raw, err := os.ReadFile(out.Name())
	require.NoError(t, err)
	for _, line := range []string{"P1  lifecycles/s", "P2  consumer: events/s", "P3  relay: durable events/s", "(6 in ", "(200 in ", "fsync=on"} {
		require.Contains(t, string(raw), line)
	}
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
}
