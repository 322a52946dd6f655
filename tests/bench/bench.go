// Package bench measures this project beside its peers in one run: the same
// input, the same machine, alternating, medians of several rounds. It prints
// ratios, because seconds mean little on another machine.
package bench

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// Work is one thing that both do.
type Work struct {
	Name string
	Ours func(ctx context.Context, dir string) error
	Peer func(ctx context.Context, dir string) error
	// PeerName is how the table calls the peer; Limit is the ratio to reach.
	PeerName string
	Limit    float64
	// Note says what the time goes to.
	Note func() string
}

// Row is a measured Work.
type Row struct {
	Work
	OurTime, PeerTime time.Duration
}

// Ratio is our time as a share of the peer's.
func (r Row) Ratio() float64 { return float64(r.OurTime) / float64(r.PeerTime) }

// Measure runs each side rounds times, alternating, and takes the medians.
// Each round works in a fresh folder under dir.
func Measure(ctx context.Context, log io.Writer, dir string, w Work, rounds int) (Row, error) {
	var ours, peer []time.Duration
	for i := range rounds {
		a, err := timed(ctx, dir, w.Ours)
		if err != nil {
			return Row{}, fmt.Errorf("measure %s: ours: %w", w.Name, err)
		}
		b, err := timed(ctx, dir, w.Peer)
		if err != nil {
			return Row{}, fmt.Errorf("measure %s: %s: %w", w.Name, w.PeerName, err)
		}
		fmt.Fprintf(log, "%s, round %d of %d: %.2f s, %s %.2f s\n", w.Name, i+1, rounds, a.Seconds(), w.PeerName, b.Seconds())
		ours, peer = append(ours, a), append(peer, b)
	}
	return Row{Work: w, OurTime: median(ours), PeerTime: median(peer)}, nil
}

func timed(ctx context.Context, dir string, f func(context.Context, string) error) (time.Duration, error) {
	work, err := os.MkdirTemp(dir, "round-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(work)
	start := time.Now()
	err = f(ctx, work)
	return time.Since(start), err
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

// Table prints the rows as Markdown.
func Table(rows []Row) string {
	var b strings.Builder
	b.WriteString("| work | ours | peer | ratio | to reach |\n|---|---|---|---|---|\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s | %.2f s | %s %.2f s | %.3f × | ≤ %.2f × |\n",
			r.Name, r.OurTime.Seconds(), r.PeerName, r.PeerTime.Seconds(), r.Ratio(), r.Limit)
	}
	for _, r := range rows {
		if r.Note != nil {
			fmt.Fprintf(&b, "\n%s: %s\n", r.Name, r.Note())
		}
	}
	return b.String()
}
