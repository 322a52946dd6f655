package bench

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

// heading is the head of the table.
const heading = "| work | ours | peer | ratio | ratio of CPU | to reach | physical limit |\n|---|---|---|---|---|---|---|\n"

// line prints the row as Markdown.
func (r Row) line() string {
	u := r.unit()
	peer, ratio, cpu := "–", "–", "–"
	if r.Peer != nil {
		peer = r.PeerName + " " + r.amount(r.PeerValue)
		ratio = fmt.Sprintf("%.3f ×", r.OurValue.Main/r.PeerValue.Main)
		if !r.Memory && r.PeerValue.CPU > 0 {
			cpu = fmt.Sprintf("%.3f ×", r.OurValue.CPU/r.PeerValue.CPU)
		}
	}
	reach := "–"
	switch {
	case r.Limit > 0:
		reach = fmt.Sprintf("≤ %.2f ×", r.Limit)
	case r.AtMost > 0:
		reach = fmt.Sprintf("≤ %g %s", r.AtMost, u)
	}
	return fmt.Sprintf("| %s | %s | %s | %s | %s | %s | %s |", r.Name, r.amount(r.OurValue), peer, ratio, cpu, reach, r.limit())
}

// amount prints what a side took.
func (r Row) amount(v Value) string {
	if r.Memory {
		return fmt.Sprintf("%.2f MiB", v.Main)
	}
	if v.CPU == 0 { // a part of a run
		return fmt.Sprintf("%.2f s", v.Main)
	}
	return fmt.Sprintf("%.2f s (CPU %.2f)", v.Main, v.CPU)
}

// limit prints the physical limit, and says where that alone is above what is to
// be reached.
func (r Row) limit() string {
	if r.Floor == nil {
		return "–"
	}
	text := r.FloorName + " " + r.amount(r.FloorValue)
	if r.Limit > 0 && r.FloorValue.Main > r.Limit*r.PeerValue.Main {
		text += fmt.Sprintf(": %.2f × the peer, above what is to be reached", r.FloorValue.Main/r.PeerValue.Main)
	}
	return text
}

// results are the lines of a table, and what is noted below it, by the names of
// works: those measured, and those kept of an earlier run.
type results struct{ lines, notes map[string]string }

// readResults takes up what is in a table that was written before.
func readResults(text string) results {
	r := results{make(map[string]string), make(map[string]string)}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if name, _, ok := strings.Cut(strings.TrimPrefix(line, "| "), " | "); ok && strings.HasPrefix(line, "| ") {
			r.lines[name] = line
		} else if name, note, ok := strings.Cut(line, ": "); ok && r.lines[name] != "" {
			r.notes[name] = note
		}
	}
	return r
}

// add puts a measured row in the place of an older one.
func (r results) add(row Row) {
	r.lines[row.Name] = row.line()
	delete(r.notes, row.Name)
	if row.Note != nil {
		r.notes[row.Name] = row.Note()
	}
}

// text prints the table, in the order of the works.
func (r results) text(works []Work) string {
	var b strings.Builder
	b.WriteString("# Measured beside the peers\n" + machine() + "\n\n" + heading)
	for _, w := range works {
		if line := r.lines[w.Name]; line != "" {
			b.WriteString(line + "\n")
		}
	}
	for _, w := range works {
		if note := r.notes[w.Name]; note != "" {
			fmt.Fprintf(&b, "\n%s: %s\n", w.Name, note)
		}
	}
	return b.String()
}

// machine says where and how was measured.
func machine() string {
	qemu := "no qemu-img"
	if out, err := exec.Command("qemu-img", "--version").Output(); err == nil {
		qemu, _, _ = strings.Cut(string(out), "\n")
	}
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		kernel = []byte("unknown")
	}
	return fmt.Sprintf("%s, %d cores, Linux %s, %s, %s. Seconds mean little elsewhere; each ratio is of one run, ours and the peer's alternating, medians.\n"+
		"Ours ends when the output is on the disk; qemu-img leaves it to the page cache. `make bench` measures all; "+
		"`make bench ONLY='zstd, VDI to raw'` puts those rows in the place of the older ones.",
		time.Now().Format("January 2006"), runtime.NumCPU(), strings.TrimSpace(string(kernel)), runtime.Version(), qemu)
}
