// The bench program measures what docs/benchmarks.md describes. Each benchmark prints its value, a limit measured in the same run on the same
// Postgres and the same kind of broker, the ratio of the two and the first bar of that ratio. Only ratios of one run mean anything: machines
// differ and are noisy, so the order is A-B-B-A and both halves count.
//
// It starts a Postgres and brokers of its own, durable as in production, in a temporary directory, and leaves nothing behind. A missed bar is
// printed as missed; the exit code says only whether the measuring itself worked.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"syscall"
	"time"
)

// sizes say how much each half of a benchmark does. The slow sides get less: what counts are rates.
type sizes struct {
	relayed, textbook int // P3: events
	batched, single   int // P2: events
	lifecycles        int // P1
	patience          time.Duration
}

var (
	full  = sizes{relayed: 30_000, textbook: 3_000, batched: 20_000, single: 1_000, lifecycles: 400, patience: 25 * time.Second}
	quick = sizes{relayed: 4_000, textbook: 300, batched: 4_000, single: 200, lifecycles: 40, patience: 10 * time.Second}
)

// benchmark is one line of the table.
type benchmark struct {
	name string
	run  func(ctx context.Context, s *stand, size sizes) ([]result, error)
}

// benchmarks are in the order they run: the most basic first.
var benchmarks = []benchmark{{"P3", relayBench}, {"P2", batchBench}, {"P1", lifecycleBench}}

type options struct {
	quick      bool
	only       string
	dir        string
	lifecycles int
	cpuProfile string
	verbose    bool
	statements int
}

func main() {
	var o options
	flag.BoolVar(&o.quick, "quick", false, "small sizes, under a minute: shows that it works, its numbers mean little")
	flag.StringVar(&o.only, "only", "", "comma-separated benchmarks: P1,P2,P3")
	flag.StringVar(&o.dir, "dir", os.TempDir(), "where to make the temporary directory; a disk, not memory")
	flag.IntVar(&o.lifecycles, "lifecycles", 0, "P1: lifecycles per half, instead of the default")
	flag.StringVar(&o.cpuProfile, "cpuprofile", "", "write a CPU profile of this process to a file")
	flag.IntVar(&o.statements, "statements", 0, "show this many of Postgres's costliest statements (pg_stat_statements; slows it a little)")
	flag.BoolVar(&o.verbose, "v", false, "show the product's log on stderr")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	size := full
	if o.quick {
		size = quick
	}
	if o.lifecycles > 0 {
		size.lifecycles = o.lifecycles
	}
	log := slog.New(slog.DiscardHandler)
	if o.verbose {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	slog.SetDefault(log)
	if o.cpuProfile != "" {
		file, err := os.Create(o.cpuProfile)
		if err != nil {
			return err
		}
		defer file.Close()
		if err := pprof.StartCPUProfile(file); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	return measure(ctx, os.Stdout, o, size, log)
}

// measure sets up once and runs the chosen benchmarks. One that fails does not keep the next from running.
func measure(ctx context.Context, out *os.File, o options, size sizes, log *slog.Logger) (err error) {
	chosen, err := choose(o.only)
	if err != nil {
		return err
	}
	began := time.Now()
	s, err := newStand(ctx, o.dir, o.statements > 0, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	facts, err := s.facts(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s, %d cores, %s/%s, %s\n%s\n", time.Now().UTC().Format(time.RFC3339), runtime.NumCPU(), runtime.GOOS, runtime.GOARCH,
		runtime.Version(), facts)
	var problems []error
	for _, b := range chosen {
		started := time.Now()
		results, err := b.run(ctx, s, size)
		for _, r := range results {
			fmt.Fprint(out, r)
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", b.name, err))
			fmt.Fprintf(out, "\n%s  could not be measured: %v\n", b.name, err)
		}
		fmt.Fprintf(out, "    took        %s\n", time.Since(started).Round(100*time.Millisecond))
	}
	if o.statements > 0 {
		text, err := s.costliest(ctx, o.statements)
		problems = append(problems, err)
		fmt.Fprint(out, text)
	}
	fmt.Fprintf(out, "\nwhole run %s\n", time.Since(began).Round(100*time.Millisecond))
	return errors.Join(problems...)
}

func choose(only string) ([]benchmark, error) {
	if only == "" {
		return benchmarks, nil
	}
	var chosen []benchmark
	for _, name := range strings.Split(strings.ToUpper(only), ",") {
		i := slices.IndexFunc(benchmarks, func(b benchmark) bool { return b.name == strings.TrimSpace(name) })
		if i < 0 {
			return nil, fmt.Errorf("there is no benchmark %q; there are P1, P2, P3", name)
		}
		chosen = append(chosen, benchmarks[i])
	}
	return chosen, nil
}
