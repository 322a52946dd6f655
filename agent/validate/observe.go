package validate

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"image"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/canary/watch"
	"hyper2kvm/agent/qemu"
)

const (
	lookEvery = time.Second
	// screenEvery is how often the screen is read: a picture costs some 20 ms.
	screenEvery = 3 * time.Second
	// canaryGrace is how long a final text may stand before it decides: the
	// canary may still have better to say.
	canaryGrace = 6 * time.Second
	// loginGrace is how long after a login prompt the canary's first word may
	// take.
	loginGrace = 30 * time.Second
	// idleLimit ends a boot in which nothing happens at all: nothing written,
	// nothing read from disk, nothing new on the screen. systemd's own limit
	// for a device is 90 s, 240 with the canary; dracut counts 360 turns of half
	// a second and more.
	idleLimit = 330 * time.Second
	// maxResets is how often a guest may restart: some do once after a relabel
	// or when their boot entries were made anew.
	maxResets = 4
)

// observer gathers the evidence of one boot.
type observer struct {
	cfg      Config
	console  *os.File
	serial   io.Writer
	text     *stream // of the serial line
	firmware *stream // of the firmware's debug port
	clean    cleaner
	book     rulebook
	font     font
	readers  sync.WaitGroup
	reports  chan watch.Report

	mu     sync.Mutex
	resets int
	ended  bool

	screen    string // the screen's text as last read
	looked    time.Time
	alive     *watch.Report
	suspected time.Time // when a final text was first seen
	login     time.Time // when a login prompt was first seen
	quiet     idleness
	typist    *typist
}

func newObserver(cfg Config, console *os.File) *observer {
	o := &observer{cfg: cfg, console: console, text: &stream{}, firmware: &stream{}, clean: newCleaner(), book: newRulebook(),
		reports: make(chan watch.Report, 16), typist: newTypist(cfg.Keys)}
	o.serial = io.MultiWriter(console, o.text)
	f, err := loadFont(vgaBIOSes())
	if err != nil {
		cfg.Progress(fmt.Sprintf("the screen cannot be read: %v", err))
	}
	o.font = f
	return o
}

// event counts what QEMU tells by itself.
func (o *observer) event(e qemu.Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch e.Name {
	case "RESET":
		o.resets++
	case "SHUTDOWN":
		o.ended = true
	}
}

// follow reads the channels until the machine ends.
func (o *observer) follow(vm *qemu.VM) {
	o.readers.Go(func() { o.readReports(vm.Channel(canaryID)) })
	o.readers.Go(func() {
		_, _ = io.Copy(o.firmware, vm.Channel(firmwareID)) // ends with the machine
	})
}

// readReports hands on what the canary says; a guest may send anything.
func (o *observer) readReports(conn net.Conn) {
	lines := bufio.NewScanner(conn)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		o.report(lines.Bytes())
	}
	_, _ = io.Copy(io.Discard, conn) // a guest that talks too long must not stall
}

func (o *observer) report(line []byte) {
	r, err := watch.Parse(line)
	if err != nil {
		return
	}
	select {
	case o.reports <- r:
	default: // more than any canary says
	}
}

// wait looks until there is a verdict.
func (o *observer) wait(ctx context.Context, vm *qemu.VM) (api.Verdict, error) {
	timeout := time.NewTimer(o.cfg.Timeout)
	defer timeout.Stop()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return api.Verdict{Bus: o.cfg.Bus}, fmt.Errorf("boot on %s: %w", o.cfg.Bus, ctx.Err())
		case r := <-o.reports:
			if v, final := o.heard(r); final {
				return v, nil
			}
		case <-vm.Done():
			return o.gone(vm)
		case <-timeout.C:
			o.look(ctx, vm, true)
			return o.late(fmt.Sprintf("not up after %v", o.cfg.Timeout)), nil
		case <-tick.C:
			o.look(ctx, vm, false)
			o.unlock(ctx, vm)
			if v, final := o.decide(time.Now()); final {
				return v, nil
			}
		}
	}
}

// heard takes a word of the canary.
func (o *observer) heard(r watch.Report) (api.Verdict, bool) {
	switch r.Event {
	case watch.Up:
		return o.verdict(api.Booted, upLine(r), &r), true
	case watch.Down:
		why := "canary: the guest is in its emergency target"
		if _, text := o.judgeAll(); text != "" {
			why += ": " + text
		} else if len(r.Failed) > 0 {
			why += ": failed: " + strings.Join(r.Failed, ", ")
		}
		return o.verdict(api.Emergency, why, &r), true
	}
	if o.alive == nil {
		o.cfg.Progress(fmt.Sprintf("kernel %s runs, root is %s", r.Kernel, r.Root))
	} else if len(r.Waiting) > 0 && !slices.Equal(r.Waiting, o.alive.Waiting) {
		o.cfg.Progress("waiting for " + strings.Join(r.Waiting, ", "))
	}
	o.alive = &r
	return api.Verdict{}, false
}

func upLine(r watch.Report) string {
	line := fmt.Sprintf("canary: default target reached, system %s, kernel %s, root %s (%s)", r.State, r.Kernel, r.Root, r.RootType)
	if len(r.Waiting) > 0 {
		line += ", still starting: " + strings.Join(r.Waiting, ", ")
	}
	return line
}

func (o *observer) verdict(state api.VerdictState, why string, r *watch.Report) api.Verdict {
	v := api.Verdict{Bus: o.cfg.Bus, State: state, Why: o.typist.hide(why)}
	if r != nil {
		v.FailedUnits = r.Failed
		for _, i := range r.Interfaces {
			v.Interfaces = append(v.Interfaces, api.Interface(i))
		}
	}
	return v
}

// look reads the screen, when it is time to, and notes whether anything moves.
func (o *observer) look(ctx context.Context, vm *qemu.VM, now bool) {
	if o.font != nil && (now || time.Since(o.looked) >= screenEvery) {
		o.looked = time.Now()
		if p, err := vm.Screenshot(ctx); err == nil { // the screen is off while its mode changes
			if rgba, ok := p.(*image.RGBA); ok {
				o.screen = o.font.read(rgba)
			}
		}
	}
	o.quiet.note(time.Now(), o.activity(ctx, vm))
}

// unlock answers a guest that asks for a passphrase.
func (o *observer) unlock(ctx context.Context, vm *qemu.VM) {
	serial, _ := o.text.text(o.clean)
	o.typist.answer(ctx, vm, serial, o.screen, o.cfg.Progress)
}

// judgeAll judges every source; the serial line first, as it scrolls nothing away.
func (o *observer) judgeAll() (api.VerdictState, string) {
	serial, _ := o.text.text(o.clean)
	firmware, _ := o.firmware.text(o.clean)
	for _, text := range []string{serial, o.screen, firmware} {
		if state, why := o.book.judge(text); state != "" {
			return state, why
		}
	}
	return "", ""
}

// decide judges by what can be read.
func (o *observer) decide(now time.Time) (api.Verdict, bool) {
	o.serialReports()
	if o.count() > maxResets {
		return o.verdict(api.Timeout, fmt.Sprintf("the guest restarts again and again (%d times)", o.count()), nil), true
	}
	if state, why := o.judgeAll(); state != "" {
		if o.suspected.IsZero() {
			o.suspected = now
		}
		if state != api.Emergency || o.alive == nil || now.Sub(o.suspected) > canaryGrace {
			return o.verdict(state, why, o.alive), true
		}
	}
	if v, final := o.decideLogin(now); final {
		return v, true
	}
	if why := o.typist.stuck(now); why != "" {
		return o.verdict(api.Timeout, why, o.alive), true
	}
	if d := o.quiet.since(now); d > idleLimit {
		return o.late(fmt.Sprintf("nothing has happened for %v", d.Round(time.Second))), true
	}
	return api.Verdict{}, false
}

// decideLogin takes a login prompt as proof where no canary speaks.
func (o *observer) decideLogin(now time.Time) (api.Verdict, bool) {
	if o.alive != nil {
		return api.Verdict{}, false
	}
	serial, _ := o.text.text(o.clean)
	line, found := o.book.hasLogin(serial)
	if !found {
		line, found = o.book.hasLogin(o.screen)
	}
	switch {
	case !found:
		o.login = time.Time{}
	case o.login.IsZero():
		o.login = now
	case now.Sub(o.login) > loginGrace:
		return o.verdict(api.Booted, "login prompt: "+line, nil), true
	}
	return api.Verdict{}, false
}

// serialReports looks for a canary that had only the serial line to speak on.
func (o *observer) serialReports() {
	text, _ := o.text.text(o.clean)
	for {
		_, after, found := strings.Cut(text, watch.Mark)
		if !found {
			return
		}
		line, rest, whole := strings.Cut(after, "\n")
		if !whole {
			return
		}
		text = rest
		if r, err := watch.Parse([]byte(line)); err == nil && (o.alive == nil || r.Event != watch.Alive) {
			o.report([]byte(line))
		}
	}
}

func (o *observer) count() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.resets
}

// gone says what it means that the machine ended by itself.
func (o *observer) gone(vm *qemu.VM) (api.Verdict, error) {
	o.mu.Lock()
	ended := o.ended
	o.mu.Unlock()
	if !ended {
		return api.Verdict{Bus: o.cfg.Bus}, vm.Failure("boot on "+o.cfg.Bus, errors.New("the machine ended"))
	}
	if state, why := o.judgeAll(); state != "" {
		return o.verdict(state, why, o.alive), nil
	}
	return o.verdict(api.Timeout, "the guest switched itself off", o.alive), nil
}

// late is the verdict when time is up: the text decides even without the
// canary's word, else the last line says how far the guest came.
func (o *observer) late(reason string) api.Verdict {
	if state, why := o.judgeAll(); state != "" {
		return o.verdict(state, why, o.alive)
	}
	serial, _ := o.text.text(o.clean)
	switch last := lastLine(serial); {
	case o.alive != nil && len(o.alive.Waiting) > 0:
		reason += "; still waiting for " + strings.Join(o.alive.Waiting, ", ")
	case last != "":
		reason += "; last on the serial line: " + last
	case lastLine(o.screen) != "":
		reason += "; last on the screen: " + lastLine(o.screen)
	}
	return o.verdict(api.Timeout, reason, o.alive)
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}

// picture saves what the screen shows; a verdict without a picture is still one.
func (o *observer) picture(ctx context.Context, vm *qemu.VM) string {
	path := filepath.Join(o.cfg.WorkDir, "screenshot.png")
	if err := vm.SavePNG(ctx, path); err != nil {
		o.cfg.Progress(fmt.Sprintf("no picture of the screen: %v", err))
		return ""
	}
	return path
}

// finish adds the other sources to the console's text.
func (o *observer) finish() error {
	firmware, _ := o.firmware.text(o.clean)
	for _, part := range []struct{ title, text string }{
		{"the firmware's debug port", firmware},
		{"the screen, as read last", o.screen},
	} {
		text := strings.TrimSpace(part.text)
		if text == "" {
			continue
		}
		if _, err := fmt.Fprintf(o.console, "\n--- %s ---\n%s\n", part.title, text); err != nil {
			return fmt.Errorf("record console: %w", err)
		}
	}
	return nil
}
