package main

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// sample is one measurement: how much was done in which time.
type sample struct {
	count int
	took  time.Duration
}

func (s sample) rate() float64 {
	if s.took <= 0 {
		return 0
	}
	return float64(s.count) / s.took.Seconds()
}

// series are the measurements of one side. Its rate is that of all of them together, so a slow half is not averaged away.
type series []sample

func (s series) rate() float64 {
	var all sample
	for _, one := range s {
		all.count += one.count
		all.took += one.took
	}
	return all.rate()
}

func (s series) String() string {
	parts := make([]string, len(s))
	for i, one := range s {
		parts[i] = fmt.Sprintf("%s/s (%d in %s)", number(one.rate()), one.count, one.took.Round(time.Millisecond))
	}
	return fmt.Sprintf("%s/s of %s", number(s.rate()), strings.Join(parts, ", "))
}

func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 1:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

// side measures one side once.
type side func(ctx context.Context) (sample, error)

// mirrored runs the sides in order and then backwards (A-B-B-A; A-B-C-C-B-A), so that what drifts weighs on all alike.
func mirrored(ctx context.Context, sides ...side) ([]series, error) {
	out := make([]series, len(sides))
	for turn := range 2 * len(sides) {
		i := turn
		if turn >= len(sides) {
			i = 2*len(sides) - 1 - turn
		}
		one, err := sides[i](ctx)
		if err != nil {
			return nil, err
		}
		out[i] = append(out[i], one)
	}
	return out, nil
}

// result is one comparison, ready to be printed.
type result struct {
	name, what string
	value      series
	limit      series
	limitOf    string
	bar, goal  float64 // of value / limit
	barName    string  // "first bar" unless said otherwise
	remarks    []string
}

func (r result) ratio() float64 {
	if limit := r.limit.rate(); limit > 0 {
		return r.value.rate() / limit
	}
	return 0
}

func (r result) met() bool { return r.ratio() >= r.bar }

// String renders the result.
func (r result) String() string {
	verdict := "MISSED"
	if r.met() {
		verdict = "met"
	}
	barName := r.barName
	if barName == "" {
		barName = "first bar"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s  %s\n    value       %s\n    limit       %s\n                %s\n", r.name, r.what, r.value, r.limit, r.limitOf)
	fmt.Fprintf(&b, "    ratio       %.2f   %s %.2f: %s", r.ratio(), barName, r.bar, verdict)
	if r.goal > 0 {
		fmt.Fprintf(&b, "   (goal %.2f)", r.goal)
	}
	fmt.Fprintln(&b)
	for _, remark := range r.remarks {
		fmt.Fprintf(&b, "    note        %s\n", remark)
	}
	return b.String()
}
