// Package qemu runs QEMU as a child process that cannot outlive its parent,
// with the guest's console, a QMP monitor and any number of byte channels
// joined to Go values.
//
// Nothing of it lies in the file system: the console, the monitor and the
// channels are socket pairs inherited by QEMU, and a screen picture comes back
// through anonymous memory. So there is nothing to clean up, whatever happens.
package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// DefaultProgram is the QEMU that runs x86-64 guests.
const DefaultProgram = "qemu-system-x86_64"

// ConsoleID is the character device that Start joins to VM.Console. Arguments
// name it: "-serial chardev:console".
const ConsoleID = "console"

const (
	monitorID = "monitor"
	// tailBytes of console and messages are kept for errors.
	tailBytes = 64 << 10
	// startTimeout bounds QEMU's own start up to an answering monitor. It is
	// about 50 ms on an idle machine.
	startTimeout = 30 * time.Second
	// quitTimeout is how long QEMU may take to flush its disks and end.
	quitTimeout = 5 * time.Second
)

// Config says which machine to run.
type Config struct {
	// Program is QEMU's name or path, "" is DefaultProgram.
	Program string
	// Accel is what Accelerator gave; the zero value lets QEMU use TCG.
	Accel Accel
	// Args are all other arguments. Default devices, user configuration, a
	// display and the standard monitor are off already.
	Args []string
	// Console gets all that the guest writes on its console, nil drops it. The
	// last lines are kept either way.
	Console io.Writer
	// Channels are ids of character devices that Args use; each is joined to
	// the connection that VM.Channel gives.
	Channels []string
	// Blobs are contents for files that QEMU reads while it starts. Where Args
	// say "{NAME}" QEMU gets the path of an anonymous file. So secrets stand
	// neither in an argument nor in a file system.
	Blobs map[string][]byte
	// Event, if not nil, is called with each QMP event, from one goroutine.
	Event func(Event)
}

// VM is a running QEMU.
type VM struct {
	child   *child
	monitor *monitor
	// console and messages are what the guest and QEMU itself said last.
	console, messages *tail
	consoleConn       net.Conn
	channels          map[string]net.Conn
	screen            *os.File // memory that QEMU writes screen pictures into
	screenArg         string
	readers           sync.WaitGroup
	closing           sync.Once
	unwatch           func() bool
}

// Error is a machine that did not do what was asked, with what it said last.
type Error struct {
	Action string
	Cause  error
	// Messages are the last lines of QEMU itself, Console those of the guest.
	Messages, Console string
}

func (e *Error) Error() string {
	text := e.Action + ": " + e.Cause.Error()
	if e.Messages != "" {
		text += ": " + lastLine(e.Messages)
	}
	return text
}

func (e *Error) Unwrap() error { return e.Cause }

// consoleLines of the console are shown: a panic of the agent and that of the
// kernel which follows it take some 50.
const consoleLines = 70

// Detail is the last lines of QEMU and of the guest's console.
func (e *Error) Detail() string {
	var b strings.Builder
	if e.Messages != "" {
		fmt.Fprintf(&b, "QEMU said:\n%s\n", lastLines(e.Messages, 5))
	}
	if e.Console != "" {
		fmt.Fprintf(&b, "the console's last lines:\n%s\n", lastLines(e.Console, consoleLines))
	}
	return strings.TrimRight(b.String(), "\n")
}

// ErrExited says that QEMU is not running any more.
var ErrExited = errors.New("QEMU ended")

// Start runs QEMU and returns when its monitor answers; the guest runs from
// the start. When ctx ends the machine is killed.
func Start(ctx context.Context, cfg Config) (*VM, error) {
	program := cfg.Program
	if program == "" {
		program = DefaultProgram
	}
	path, err := exec.LookPath(program)
	if err != nil {
		return nil, fmt.Errorf("find QEMU: %w", err)
	}
	v := &VM{console: newTail(tailBytes), messages: newTail(tailBytes), channels: map[string]net.Conn{}}
	w := &wiring{}
	monitorConn, err := v.wire(w, cfg)
	if err == nil {
		cmd := exec.Command(path, w.args...)
		cmd.ExtraFiles, cmd.Stdout, cmd.Stderr = w.files, v.messages, v.messages
		v.child, err = spawn(cmd)
	}
	err = errors.Join(err, w.close(v.screen))
	if err != nil {
		if monitorConn != nil {
			err = errors.Join(err, monitorConn.Close())
		}
		return nil, errors.Join(fmt.Errorf("start %s: %w", path, err), v.closeConns())
	}
	v.unwatch = context.AfterFunc(ctx, v.child.kill)
	v.readers.Go(func() { v.readConsole(cfg.Console) })
	v.monitor = newMonitor(monitorConn, cfg.Event)
	startCtx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := v.monitor.handshake(startCtx); err != nil {
		err = v.Failure("start "+program, err)
		return nil, errors.Join(err, v.Close())
	}
	return v, nil
}

func (v *VM) readConsole(to io.Writer) {
	w := io.Writer(v.console)
	if to != nil {
		w = io.MultiWriter(v.console, to)
	}
	_, err := io.Copy(w, v.consoleConn)
	if err != nil {
		// The taker refused: the guest must not stall for that.
		_, _ = io.Copy(v.console, v.consoleConn)
	}
}

// Channel is our end of the character device that Config.Channels named.
func (v *VM) Channel(id string) net.Conn { return v.channels[id] }

// Type sends bytes to the guest's console.
func (v *VM) Type(p []byte) error {
	if _, err := v.consoleConn.Write(p); err != nil {
		return fmt.Errorf("type on the console: %w", err)
	}
	return nil
}

// Console is what the guest wrote last on its console, 64 KiB at most.
func (v *VM) Console() string { return v.console.String() }

// PID is QEMU's process id.
func (v *VM) PID() int { return v.child.cmd.Process.Pid }

// Done is closed when QEMU has ended.
func (v *VM) Done() <-chan struct{} { return v.child.done }

// Failure describes a failed action with what QEMU and the guest said last. If
// QEMU has ended, that is said.
func (v *VM) Failure(action string, cause error) *Error {
	select {
	case <-v.child.done:
		cause = fmt.Errorf("%w (%s): %w", ErrExited, v.child.state(), cause)
	case <-time.After(200 * time.Millisecond): // a closed socket is seen before the exit is
	}
	return &Error{Action: action, Cause: cause, Messages: v.messages.String(), Console: v.console.String()}
}

// Kill ends the machine at once, as a power cut does. Close is still needed.
func (v *VM) Kill() { v.child.kill() }

// Shutdown presses the power button and waits for the guest to end, but no
// longer than grace; then it closes the machine.
func (v *VM) Shutdown(ctx context.Context, grace time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	err := v.Execute(ctx, "system_powerdown", nil, nil)
	if err == nil {
		select {
		case <-v.child.done:
		case <-ctx.Done():
			err = v.Failure("shut the guest down", ctx.Err())
		}
	}
	return errors.Join(err, v.Close())
}

// Close ends the machine: QEMU is told to quit, killed if it does not within
// five seconds, and waited for. It may be called more than once.
func (v *VM) Close() error {
	var err error
	v.closing.Do(func() { err = v.close() })
	return err
}

func (v *VM) close() error {
	select {
	case <-v.child.done:
	default:
		// Cleanup goes on after the caller's context has ended.
		ctx, cancel := context.WithTimeout(context.Background(), quitTimeout)
		if v.monitor.execute(ctx, "quit", nil, nil) == nil {
			select {
			case <-v.child.done:
			case <-ctx.Done():
			}
		}
		cancel()
	}
	v.unwatch()
	v.child.kill()
	<-v.child.done
	err := v.closeConns()
	v.monitor.close()
	v.readers.Wait()
	return err
}

func (v *VM) closeConns() error {
	var err error
	if v.consoleConn != nil {
		// What the guest wrote before QEMU ended is still to be read.
		err = v.consoleConn.SetReadDeadline(time.Now().Add(time.Second))
		v.readers.Wait()
		err = errors.Join(err, v.consoleConn.Close())
	}
	for _, c := range v.channels {
		err = errors.Join(err, ignoreClosed(c.Close()))
	}
	if v.screen != nil {
		err = errors.Join(err, v.screen.Close())
	}
	return err
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func lastLine(s string) string { return lastLines(s, 1) }

// lastLines gives the last n lines, without the control characters that a
// guest may use to confuse a terminal.
func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimRight(s, "\r\n\t "), "\n")
	lines = lines[max(0, len(lines)-n):]
	for i, l := range lines {
		lines[i] = strings.Map(printable, strings.TrimRight(l, "\r"))
	}
	return strings.Join(lines, "\n")
}

func printable(r rune) rune {
	if r == '\t' || r >= ' ' && r != 0x7f {
		return r
	}
	return -1
}

// tail keeps the last bytes written to it.
type tail struct {
	mu  sync.Mutex
	buf bytes.Buffer
	max int
}

func newTail(limit int) *tail { return &tail{max: limit} }

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(p)
	p = p[max(0, n-t.max):]
	if over := t.buf.Len() + len(p) - t.max; over > 0 {
		t.buf.Next(over)
	}
	t.buf.Write(p)
	return n, nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.String()
}
