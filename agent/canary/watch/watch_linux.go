package watch

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	tick = time.Second
	// portWait is how long the port may take to appear; a virtio_console that
	// has not come by itself is asked for half-way.
	portWait = 60 * time.Second
	// tellEvery is how often a guest that is still starting is described.
	tellEvery = 15 * time.Second
	// addressWait is how long an interface that is up may stay without an
	// address once the guest is up: DHCP clients answer late.
	addressWait = 20 * time.Second
	// linkWait is how long to wait for the first address of a guest none of
	// whose interfaces is up: NetworkManager gets to them after the default
	// target, where nothing waits for the network. A guest without a network
	// takes as long.
	linkWait = 10 * time.Second
	// lingerWait is how long after the default target jobs may still run; some
	// guests have units that wait forever.
	lingerWait = 60 * time.Second
)

// Run watches the guest it runs in and reports until the final event.
func Run(ctx context.Context) error {
	out, err := openPort(ctx)
	if err != nil {
		return err
	}
	defer out.Close()
	if err := send(out, describe(ctx, Alive, "")); err != nil {
		return err
	}
	event, state, err := settle(ctx, func() error { return send(out, describe(ctx, Alive, "")) })
	if err != nil {
		return err
	}
	if event == Up {
		waitForAddresses(ctx)
	}
	return send(out, describe(ctx, event, state))
}

// openPort opens the canary's port, or, where the kernel knows none, the first
// serial line.
func openPort(ctx context.Context) (io.WriteCloser, error) {
	deadline := time.Now().Add(portWait)
	asked := false
	for time.Now().Before(deadline) {
		if dev := findPort("/sys/class/virtio-ports"); dev != "" {
			if f, err := os.OpenFile(filepath.Join("/dev", dev), os.O_WRONLY, 0); err == nil {
				return f, nil
			}
		}
		if !asked && time.Until(deadline) < portWait/2 {
			asked = true
			_ = exec.CommandContext(ctx, "modprobe", "virtio_console").Run() // the next look tells
		}
		if err := sleep(ctx, tick); err != nil {
			return nil, err
		}
	}
	// O_NOCTTY: the console must not become ours.
	f, err := os.OpenFile("/dev/ttyS0", os.O_WRONLY|syscall.O_NOCTTY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open serial line in place of port %s: %w", Port, err)
	}
	return marked{f}, nil
}

// findPort looks a port up by its name: udev's link is not there yet, or never.
func findPort(class string) string {
	names, _ := filepath.Glob(filepath.Join(class, "*", "name")) // the pattern is right
	for _, n := range names {
		text, err := os.ReadFile(n)
		if err == nil && strings.TrimSpace(string(text)) == Port {
			return filepath.Base(filepath.Dir(n))
		}
	}
	return ""
}

// marked writes lines that can be told from those of others.
type marked struct{ io.WriteCloser }

func (m marked) Write(p []byte) (int, error) {
	if _, err := m.WriteCloser.Write(append([]byte("\r\n"+Mark), p...)); err != nil {
		return 0, err
	}
	return len(p), nil
}

func send(w io.Writer, r Report) error {
	line, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode report: %w", err)
	}
	if _, err := w.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("send report: %w", err)
	}
	return nil
}

// settle waits until the guest is up, or has given up; every now and then it
// says what the guest is waiting for.
func settle(ctx context.Context, tell func() error) (Event, string, error) {
	var reached time.Time
	told := time.Now()
	for {
		if time.Since(told) > tellEvery {
			told = time.Now()
			if err := tell(); err != nil {
				return "", "", err
			}
		}
		state := systemctl(ctx, "is-system-running")
		switch {
		case state == "maintenance": // emergency.target or rescue.target
			return Down, state, nil
		case systemctl(ctx, "is-active", "default.target") != "active":
			reached = time.Time{}
		case state == "running" || state == "degraded":
			return Up, state, nil
		case reached.IsZero():
			reached = time.Now()
		case time.Since(reached) > lingerWait:
			return Up, state, nil
		}
		if err := sleep(ctx, tick); err != nil {
			return "", "", err
		}
	}
}

// waitForAddresses waits while an interface may still get its address.
func waitForAddresses(ctx context.Context) {
	for start := time.Now(); time.Since(start) < patience(interfaces(), "/sys/class/net"); {
		if sleep(ctx, tick) != nil {
			return
		}
	}
}

// patience is how long to wait for the addresses of the interfaces, which class
// tells the state of.
func patience(list []Interface, class string) time.Duration {
	some := false
	for _, i := range list {
		state, err := os.ReadFile(filepath.Join(class, i.Name, "operstate"))
		if err == nil && strings.TrimSpace(string(state)) == "up" && !routable(i) {
			return addressWait
		}
		some = some || routable(i)
	}
	if len(list) > 0 && !some {
		return linkWait
	}
	return 0
}

func routable(i Interface) bool {
	for _, a := range i.Addresses {
		if ip, _, err := net.ParseCIDR(a); err == nil && !ip.IsLinkLocalUnicast() {
			return true
		}
	}
	return false
}

func describe(ctx context.Context, e Event, state string) Report {
	r := Report{Event: e, State: state, Interfaces: interfaces(), Uptime: uptime()}
	var u syscall.Utsname
	if syscall.Uname(&u) == nil {
		r.Kernel = text(u.Release[:])
	}
	if f, err := os.Open("/proc/self/mountinfo"); err == nil {
		r.Root, r.RootType = rootOf(f)
		_ = f.Close() // only read
	}
	r.Failed = firstFields(systemctl(ctx, "list-units", "--failed", "--plain", "--no-legend", "--no-pager"), 0)
	r.Waiting = running(systemctl(ctx, "list-jobs", "--plain", "--no-legend", "--no-pager"))
	return r
}

func interfaces() []Interface {
	list, err := net.Interfaces()
	if err != nil {
		return nil
	}
	var out []Interface
	for _, i := range list {
		if i.Flags&net.FlagLoopback != 0 {
			continue
		}
		entry := Interface{Name: i.Name, MAC: i.HardwareAddr.String()}
		addrs, _ := i.Addrs() // an interface that is just going away has none
		for _, a := range addrs {
			entry.Addresses = append(entry.Addresses, a.String())
		}
		out = append(out, entry)
	}
	return out
}

// rootOf finds the last file system mounted on "/": fields 5, 9 and 10 of
// /proc/PID/mountinfo, proc(5).
func rootOf(r io.Reader) (device, fstype string) {
	for s := bufio.NewScanner(r); s.Scan(); {
		before, after, found := strings.Cut(s.Text(), " - ")
		f, g := strings.Fields(before), strings.Fields(after)
		if found && len(f) > 4 && len(g) > 1 && f[4] == "/" {
			device, fstype = g[1], g[0]
		}
	}
	return device, fstype
}

func uptime() float64 {
	data, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(data), " ")
	seconds, _ := strconv.ParseFloat(first, 64) // 0 is as good as any other
	return seconds
}

// systemctl gives what the guest's systemctl prints. Its exit status says no
// more than its words do.
func systemctl(ctx context.Context, args ...string) string {
	cmd := exec.CommandContext(ctx, "systemctl", args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "SYSTEMD_COLORS=0")
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		return ""
	}
	return strings.TrimSpace(string(out))
}

// running takes the units of the jobs that run; the others wait for them. A
// line of list-jobs is: number, unit, kind, state.
func running(jobs string) []string {
	var out []string
	for line := range strings.Lines(jobs) {
		if f := strings.Fields(line); len(f) == 4 && f[3] == "running" {
			out = append(out, f[1])
		}
	}
	return out
}

// firstFields takes one column of a listing.
func firstFields(listing string, column int) []string {
	var out []string
	for line := range strings.Lines(listing) {
		if f := strings.Fields(line); len(f) > column {
			out = append(out, f[column])
		}
	}
	return out
}

func text(chars []int8) string {
	b := make([]byte, len(chars))
	for i, c := range chars {
		b[i] = byte(c)
	}
	before, _, _ := bytes.Cut(b, []byte{0})
	return string(before)
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
