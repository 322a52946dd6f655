// Package bench measures this project beside its peers in one run: the same
// input, the same machine, alternating, medians of several rounds. It prints
// ratios, because seconds mean little on another machine; and beside them what
// the machine itself allows: a plain copy, or the compressor alone. Time of the
// processors is counted too: on a busy machine it says more than the clock.
package bench

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// Took is what a side says of its run: the largest memory of the process that did
// it, in bytes, where that is known, and the seconds of the part that is measured,
// where that is not all of it.
type Took struct {
	Memory int64
	Part   float64
}

// Side is one way to do a work, in a fresh folder.
type Side func(ctx context.Context, dir string) (Took, error)

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

// Value is what one side took: seconds or MiB, and seconds of all processors.
type Value struct{ Main, CPU float64 }

// Row is a measured Work: medians; zero where a side is nil.
type Row struct {
	Work
	OurValue, PeerValue, FloorValue Value
}

// Measure runs each side rounds times, alternating, and takes the medians. Each
// round begins with another side. Each run works in a fresh folder under dir.
func Measure(ctx context.Context, log io.Writer, dir string, w Work, rounds int) (Row, error) {
	if w.Prepare != nil {
		if err := w.Prepare(ctx, dir); err != nil {
			return Row{}, fmt.Errorf("prepare %s: %w", w.Name, err)
		}
	}
	sides := []struct {
		name string
		run  Side
		got  []Value
	}{{name: "ours", run: w.Ours}, {name: w.PeerName, run: w.Peer}, {name: w.FloorName, run: w.Floor}}
	for i := range rounds {
		fmt.Fprintf(log, "%s, round %d of %d:", w.Name, i+1, rounds)
		for j := range sides {
			s := &sides[(i+j)%len(sides)]
			if s.run == nil {
				continue
			}
			v, err := measure(ctx, dir, w, s.run)
			if err != nil {
				fmt.Fprintln(log)
				return Row{}, fmt.Errorf("measure %s: %s: %w", w.Name, s.name, err)
			}
			fmt.Fprintf(log, " %s %.2f %s, CPU %.2f s;", s.name, v.Main, w.unit(), v.CPU)
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
// round before, and with memory that is at hand, so that nobody pays for another.
func measure(ctx context.Context, dir string, w Work, f Side) (Value, error) {
	work, err := os.MkdirTemp(dir, "round-")
	if err != nil {
		return Value{}, err
	}
	defer os.RemoveAll(work)
	if err := exec.CommandContext(ctx, "sync", "-f", work).Run(); err != nil {
		return Value{}, fmt.Errorf("sync %s: %w", work, err)
	}
	if err := warm(work); err != nil {
		return Value{}, fmt.Errorf("warm up: %w", err)
	}
	start, cpu := time.Now(), processors()
	took, err := f(ctx, work)
	v := Value{Main: time.Since(start).Seconds(), CPU: processors() - cpu}
	switch {
	case w.Memory:
		v.Main = float64(took.Memory) / (1 << 20)
	case took.Part > 0: // whose part of the processors' time is not known
		v = Value{Main: took.Part}
	}
	return v, err
}

// warmBytes is more than an output takes.
const warmBytes = 1 << 30

// warm fills and frees as much of the page cache as a run does: a virtual machine
// gives memory that was free for a second or two back to its host, and getting
// it again costs three times what the copy into it does.
func warm(dir string) error {
	f, err := os.Create(filepath.Join(dir, "warm"))
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	for buf, n := make([]byte, 1<<20), 0; n < warmBytes; n += len(buf) {
		if _, err := f.Write(buf); err != nil {
			return err
		}
	}
	return nil
}

// processors is the time, in seconds, that this process and those it waited for
// have had.
func processors() float64 {
	var sum time.Duration
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		if syscall.Getrusage(who, &u) == nil {
			sum += time.Duration(u.Utime.Nano() + u.Stime.Nano())
		}
	}
	return sum.Seconds()
}

func median(v []Value) Value {
	if len(v) == 0 {
		return Value{}
	}
	var m Value
	for _, part := range []func(v *Value) *float64{
		func(v *Value) *float64 { return &v.Main }, func(v *Value) *float64 { return &v.CPU },
	} {
		var all []float64
		for i := range v {
			all = append(all, *part(&v[i]))
		}
		slices.Sort(all)
		*part(&m) = all[len(all)/2]
	}
	return m
}
