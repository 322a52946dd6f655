package qemu

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
)

// wiring is what QEMU inherits, and the arguments that name it.
type wiring struct {
	files []*os.File
	args  []string
}

// inherit adds a file and gives the number that it has in QEMU.
func (w *wiring) inherit(f *os.File) int {
	w.files = append(w.files, f)
	return firstFD + len(w.files) - 1
}

// join makes a character device of QEMU's and gives our end of it.
func (w *wiring) join(id string) (net.Conn, error) {
	ours, theirs, err := socketPair(id)
	if err != nil {
		return nil, err
	}
	w.args = append(w.args, "-chardev", fmt.Sprintf("socket,id=%s,fd=%d", id, w.inherit(theirs)))
	return ours, nil
}

// close closes this process's copies, but for the one that it keeps.
func (w *wiring) close(keep *os.File) error {
	var err error
	for _, f := range w.files {
		if f != keep {
			err = errors.Join(err, f.Close())
		}
	}
	return err
}

// inheritedPath is how QEMU opens an inherited file anew.
func inheritedPath(number int) string { return fmt.Sprintf("/proc/self/fd/%d", number) }

// wire connects the machine to this process and returns our end of the monitor.
func (v *VM) wire(w *wiring, cfg Config) (monitor net.Conn, err error) {
	w.args = []string{
		"-nodefaults", "-no-user-config", "-display", "none",
		// QEMU parses what an untrusted guest sends; it needs no right to run
		// programs or to gain privileges.
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-accel", cfg.Accel.arg(),
	}
	if monitor, err = w.join(monitorID); err != nil {
		return nil, err
	}
	if v.consoleConn, err = w.join(ConsoleID); err != nil {
		return monitor, err
	}
	for _, id := range cfg.Channels {
		conn, err := w.join(id)
		if err != nil {
			return monitor, err
		}
		v.channels[id] = conn
	}
	if v.screen, err = memoryFile("screen"); err != nil {
		return monitor, err
	}
	v.screenArg = inheritedPath(w.inherit(v.screen))
	rest := cfg.Args
	for _, name := range slices.Sorted(maps.Keys(cfg.Blobs)) {
		f, err := memoryFile(name)
		if err != nil {
			return monitor, err
		}
		rest = replaceAll(rest, "{"+name+"}", inheritedPath(w.inherit(f)))
		if _, err := f.Write(cfg.Blobs[name]); err != nil {
			return monitor, fmt.Errorf("write %s: %w", name, err)
		}
	}
	w.args = append(append(w.args, "-mon", "chardev="+monitorID+",mode=control"), rest...)
	return monitor, nil
}

func replaceAll(args []string, from, to string) []string {
	out := make([]string, len(args))
	for i, a := range args {
		out[i] = strings.ReplaceAll(a, from, to)
	}
	return out
}
