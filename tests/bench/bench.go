// Package bench measures this project beside its peers in one run: the same
// input, the same machine, alternating, medians of several rounds. It prints
// ratios, because seconds mean little on another machine; and beside them what
// the machine itself allows: a plain copy, or the compressor alone.
package bench

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// Side is one way to do a work, in a fresh folder. It returns the largest
// memory of the process that did it, in bytes, where that is known.
type Side func(ctx context.Context, dir string) (memory int64, err error)

// Work is one thing that both do.
type Work struct {
	Name string
	// Prepare makes the inputs in dir, which all works share; nil needs none.
	Prepare func(ctx context.Context, dir string) error
	Ours    Side
	Peer    Side // nil where there is nobody to compare with
	// PeerName is how the table calls the peer; Limit is the ratio to reach.
	PeerName string
	Limit    float64
	// Floor is what bounds both: the physical limit; nil where none was found.
	Floor     Side
	FloorName string
	// Memory says that memory is measured, not time. AtMost is a bound that
	// holds without a peer, in MiB or seconds; 0 is none.
	Memory bool
	AtMost float64
	// Note says what the time goes to.
	Note func() string
}

// Row is a measured Work: medians, in seconds or MiB; 0 where a side is nil.
type Row struct {
	Work
	OurValue, PeerValue, FloorValue float64
}

// Ratio is our value as a share of the peer's.
func (r Row) Ratio() float64 { return r.OurValue / r.PeerValue }

// Measure runs each side rounds times, alternating, and takes the medians.
// Each round works in a fresh folder under dir.
func Measure(ctx context.Context, log io.Writer, dir string, w Work, rounds int) (Row, error) {
	if w.Prepare != nil {
		if err := w.Prepare(ctx, dir); err != nil {
			return Row{}, fmt.Errorf("prepare %s: %w", w.Name, err)
		}
	}
	sides := []struct {
		name string
		run  Side
		got  []float64
	}{{name: "ours", run: w.Ours}, {name: w.PeerName, run: w.Peer}, {name: w.FloorName, run: w.Floor}}
	for i := range rounds {
		fmt.Fprintf(log, "%s, round %d of %d:", w.Name, i+1, rounds)
		for j := range sides {
			s := &sides[j]
			if s.run == nil {
				continue
			}
			v, err := measure(ctx, dir, w, s.run)
			if err != nil {
				fmt.Fprintln(log)
				return Row{}, fmt.Errorf("measure %s: %s: %w", w.Name, s.name, err)
			}
			fmt.Fprintf(log, " %s %.2f %s", s.name, v, w.unit())
			s.got = append(s.got, v)
		}
		fmt.Fprintln(log)
	}
	return Row{Work: w, OurValue: median(sides[0].got), PeerValue: median(sides[1].got), FloorValue: median(sides[2].got)}, nil
}

func (w Work) unit() string {
	if w.Memory {
		return "MiB"
	}
	return "s"
}

// measure runs one side once. It begins with nothing left to write from the
// round before, so that nobody pays for another.
func measure(ctx context.Context, dir string, w Work, f Side) (float64, error) {
	work, err := os.MkdirTemp(dir, "round-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(work)
	if err := exec.CommandContext(ctx, "sync", "-f", work).Run(); err != nil {
		return 0, fmt.Errorf("sync %s: %w", work, err)
	}
	start := time.Now()
	memory, err := f(ctx, work)
	if w.Memory {
		return float64(memory) / (1 << 20), err
	}
	return time.Since(start).Seconds(), err
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	slices.Sort(v)
	return v[len(v)/2]
}

// Table prints the rows as Markdown.
func Table(rows []Row) string {
	var b strings.Builder
	b.WriteString("| work | ours | peer | ratio | to reach | physical limit |\n|---|---|---|---|---|---|\n")
	for _, r := range rows {
		u := r.unit()
		peer, ratio, reach, floor := "–", "–", "–", "–"
		if r.Peer != nil {
			peer, ratio = fmt.Sprintf("%s %.2f %s", r.PeerName, r.PeerValue, u), fmt.Sprintf("%.3f ×", r.Ratio())
		}
		switch {
		case r.Limit > 0:
			reach = fmt.Sprintf("≤ %.2f ×", r.Limit)
		case r.AtMost > 0:
			reach = fmt.Sprintf("≤ %g %s", r.AtMost, u)
		}
		if r.Floor != nil {
			floor = fmt.Sprintf("%s %.2f %s", r.FloorName, r.FloorValue, u)
		}
		fmt.Fprintf(&b, "| %s | %.2f %s | %s | %s | %s | %s |\n", r.Name, r.OurValue, u, peer, ratio, reach, floor)
	}
	for _, r := range rows {
		if r.Note != nil {
			fmt.Fprintf(&b, "\n%s: %s\n", r.Name, r.Note())
		}
	}
	return b.String()
}
