package sshguest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"hyper2kvm/fixes/guest"
)

// programPath is the PATH that guest programs run with.
const programPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Run runs one program and returns the end of what it printed. When ctx ends
// the program is told to. One that runs when the connection breaks goes on to
// its end, since it does not write to the connection.
func (g *Guest) Run(ctx context.Context, command guest.Command) ([]byte, error) {
	if len(command.Args) == 0 {
		return nil, errors.New("run guest program: no program named")
	}
	g.fs.forget()
	defer g.fs.forget()
	out, err := g.runProgram(ctx, command)
	if err != nil {
		err = fmt.Errorf("run guest program %s: %w", strings.Join(command.Args, " "), err)
	}
	return out, err
}

func (g *Guest) runProgram(ctx context.Context, command guest.Command) ([]byte, error) {
	out, code, err := g.shell.run(fmt.Sprintf(startScript, quote(command.Args[0]), environment(command), words(command.Args...)))
	switch {
	case err != nil:
		return nil, err
	case code == 127:
		return nil, fmt.Errorf("no such program in the guest: %w", fs.ErrNotExist)
	case code != 0:
		return out, fmt.Errorf("cannot start it: exit code %d", code)
	}
	for told := false; ; {
		out, _, err := g.shell.run(pollScript)
		if err != nil {
			return nil, err
		}
		first, rest, _ := bytes.Cut(out, []byte("\n"))
		if status, ok := strings.CutPrefix(string(first), "ended "); ok {
			return programResult(ctx, status, rest)
		}
		if ctx.Err() != nil && !told {
			told = true
			if _, _, err := g.shell.run(endScript); err != nil {
				return nil, err
			}
		}
	}
}

func programResult(ctx context.Context, status string, out []byte) ([]byte, error) {
	if ctx.Err() != nil {
		return out, ctx.Err()
	}
	if code, err := strconv.Atoi(status); err != nil {
		return out, errors.New("it was killed")
	} else if code != 0 {
		return out, fmt.Errorf("exit status %d", code)
	}
	return out, nil
}

func environment(c guest.Command) string {
	return words(append([]string{"PATH=" + programPath, "HOME=/root", "LC_ALL=C", "TERM=dumb"}, c.Env...)...)
}

// startScript starts a program apart from the shell, its output in a file: it
// does not notice when the connection goes. pollScript waits a second at most,
// so that a program can be told to end while it runs.
const (
	startScript = `h2k_start() {
	[ -n "$h2k_lock" ] || { echo "not locked"; return 1; }
	command -v %[1]s >/dev/null || return 127
	cd "$h2k_lock" && rm -f out status command || return 1
	apart=; command -v setsid >/dev/null && apart=setsid
	( $apart /bin/sh -c 'echo $$ >command; cd /; umask 022; exec "$@"' h2k env -i %[2]s %[3]s >out 2>&1 </dev/null; echo $? >status.new; mv status.new status ) >/dev/null 2>&1 </dev/null &
	h2k_pid=$!; cd /
}
h2k_start`
	pollScript = `n=0
while [ ! -s "$h2k_lock/status" ] && kill -0 "$h2k_pid" 2>/dev/null && [ $n -lt 10 ]; do
	n=$((n+1)); sleep 0.1 2>/dev/null || { sleep 1; n=10; }
done
if [ -s "$h2k_lock/status" ]; then
	echo "ended $(cat "$h2k_lock/status")"; tail -c 65536 "$h2k_lock/out"; rm -f "$h2k_lock/command"
elif ! kill -0 "$h2k_pid" 2>/dev/null && [ ! -s "$h2k_lock/status" ]; then
	echo "ended killed"; tail -c 65536 "$h2k_lock/out"; rm -f "$h2k_lock/command"
fi`
	endScript = `read p <"$h2k_lock/command" && { kill -TERM -- "-$p" 2>/dev/null || kill -TERM "$p" 2>/dev/null; }`
)

// Relabel gives files the security labels that the guest's policy has for them,
// where the guest has SELinux.
func (g *Guest) Relabel(names []string) error {
	if !g.fs.selinux || len(names) == 0 {
		return nil
	}
	full := make([]string, len(names))
	for i, n := range names {
		full[i] = path.Join("/", n)
	}
	out, code, err := g.shell.run("restorecon -i " + words(full...) + " || restorecon " + words(full...))
	if err != nil {
		return err
	}
	if code != 0 {
		return fmt.Errorf("restore SELinux labels: %s", bytes.TrimSpace(out))
	}
	return nil
}
