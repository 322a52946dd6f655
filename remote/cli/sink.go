package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"hyper2kvm/agent/api"
)

// closer is a sink that has something to finish.
type closer interface {
	api.Sink
	io.Closer
}

// sink shows events the way that was asked for.
func (a *app) sink(plan *api.Plan) (closer, error) {
	all := &sinks{}
	switch {
	case a.events != "":
		f, err := createEvents(a.events, plan)
		if err != nil {
			return nil, err
		}
		all.list = append(all.list, &lines{w: f, c: f})
	case a.json:
		all.list = append(all.list, &lines{w: a.Stderr})
	}
	switch {
	case a.quiet || a.json:
	case a.StderrTerminal && a.Getenv("TERM") != "dumb":
		all.list = append(all.list, newBars(a.Stderr, plan))
	default:
		all.list = append(all.list, &plain{w: a.Stderr})
	}
	return all, nil
}

// createEvents opens the file for events; a slip of the keyboard must not make
// it one of the disks, of which some are only named in files: a file that is
// there is replaced where it holds events.
func createEvents(path string, plan *api.Plan) (*os.File, error) {
	if there, err := os.Stat(path); err == nil {
		for _, s := range plan.Sources {
			if src, err := os.Stat(s.Path); err == nil && os.SameFile(there, src) {
				return nil, usage("--events %s is the source", path)
			}
		}
		if there.Mode().IsRegular() && there.Size() > 0 && !holdsEvents(path) {
			return nil, usage("--events %s is there, and holds no events", path)
		}
	}
	f, err := os.Create(path)
	if err != nil {
		return nil, api.NewError(api.CodeOutput, "write events to", path, err)
	}
	return f, nil
}

// holdsEvents reports whether a file begins as one with events does.
func holdsEvents(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	first := make([]byte, 1)
	_, err = f.Read(first)
	return err == nil && first[0] == '{'
}

// sinks gives every event to each of a list, one at a time.
type sinks struct {
	mu   sync.Mutex
	list []closer
}

// Emit passes the event on.
func (s *sinks) Emit(e api.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.list {
		t.Emit(e)
	}
}

// Close finishes all.
func (s *sinks) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	for _, t := range s.list {
		err = errors.Join(err, t.Close())
	}
	return err
}

// lines writes events as JSON lines.
type lines struct {
	w   io.Writer
	c   *os.File // nil when w is not ours to close
	err error    // the first line that could not be written
}

// Emit writes one line. A reader that went away must not stop a conversion.
func (l *lines) Emit(e api.Event) {
	data, err := json.Marshal(e)
	if err == nil {
		_, err = l.w.Write(append(data, '\n'))
	}
	if l.err == nil {
		l.err = err
	}
}

// Close closes the file, and says whether all events are in it.
func (l *lines) Close() error {
	if l.c == nil {
		return nil
	}
	if err := errors.Join(l.err, l.c.Close()); err != nil {
		return api.NewError(api.CodeOutput, "write events to", l.c.Name(), err)
	}
	return nil
}

// plain prints messages as lines and progress rarely, for logs and pipes.
type plain struct {
	w    io.Writer
	last time.Time
}

const plainEvery = 10 * time.Second

// Emit prints what is worth a line.
func (p *plain) Emit(e api.Event) {
	if e.Level != api.Progress {
		fmt.Fprintf(p.w, "%-8s %s%s\n", e.Stage, mark(e.Level), safe(e.Message))
		return
	}
	if now := time.Now(); e.Total > 0 && (now.Sub(p.last) >= plainEvery || p.last.IsZero() || e.Done == e.Total) {
		p.last = now
		fmt.Fprintf(p.w, "%-8s %3d%% of %s\n", e.Stage, 100*e.Done/e.Total, size(e.Total))
	}
}

// Close has nothing to do.
func (*plain) Close() error { return nil }

func mark(l api.Level) string {
	switch l {
	case api.Warning:
		return "warning: "
	case api.Failure:
		return "error: "
	}
	return ""
}

// bars shows progress bars with rate and time left.
type bars struct {
	progress *mpb.Progress
	plan     *api.Plan
	open     map[string]*bar
}

type bar struct {
	*mpb.Bar
	last time.Time
}

// barEvery is how far apart the samples are that a bar's rate is made of:
// bytes are done in bursts, and a rate that jumps tells nothing.
const barEvery = 250 * time.Millisecond

func newBars(w io.Writer, plan *api.Plan) *bars {
	return &bars{progress: mpb.New(mpb.WithOutput(w), mpb.WithWidth(40)), plan: plan, open: map[string]*bar{}}
}

// Emit moves a bar, or prints a line above them.
func (b *bars) Emit(e api.Event) {
	if e.Level != api.Progress {
		fmt.Fprintf(b.progress, "%-8s %s%s\n", e.Stage, mark(e.Level), safe(e.Message))
		return
	}
	if e.Total <= 0 {
		return
	}
	name := string(e.Stage)
	if first := b.plan.Sources[0]; len(b.plan.Sources) > 1 || describes(first.Path) && first.Disk == 0 {
		name = fmt.Sprintf("%s disk %d", e.Stage, e.Disk+1)
	}
	one, ok := b.open[name]
	if !ok {
		one = &bar{Bar: b.add(name, e.Total), last: time.Now()}
		b.open[name] = one
	}
	if since := time.Since(one.last); since >= barEvery || e.Done >= e.Total {
		one.EwmaSetCurrent(e.Done, since)
		one.last = time.Now()
	}
	if e.Done >= e.Total {
		one.SetTotal(e.Total, true)
		delete(b.open, name)
	}
}

func (b *bars) add(name string, total int64) *mpb.Bar {
	const age = 30 // samples that the rate is averaged over
	return b.progress.AddBar(total,
		mpb.PrependDecorators(decor.Name(name, decor.WC{W: 9, C: decor.DindentRight}), decor.CountersKibiByte("% .1f / % .1f", decor.WC{W: 22})),
		mpb.AppendDecorators(decor.Percentage(decor.WC{W: 5}), decor.EwmaSpeed(decor.SizeB1024(0), " % .1f", age, decor.WC{W: 14}),
			decor.EwmaETA(decor.ET_STYLE_GO, age, decor.WC{W: 8}), decor.Name(" left")),
	)
}

// Close takes unfinished bars away and flushes.
func (b *bars) Close() error {
	for _, one := range b.open {
		one.Abort(true)
	}
	b.progress.Wait()
	return nil
}
