package sshguest

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"hyper2kvm/agent/api"
)

// maxAnswer bounds what one script may print, in bytes.
const maxAnswer = 64 << 20

// shell is a POSIX shell of root's that stays for the session, so that small
// things, which SFTP has no word for, cost one round trip each.
type shell struct {
	mu   sync.Mutex
	p    *process
	who  string
	mark string
	dead error
}

// prelude is what scripts rely on. Programs of every kind of guest are in PATH,
// busybox's too, and they speak English.
// h2k_plain says that a file lies on a file system that has neither owners nor
// modes nor extended attributes of its own, such as an ESP.
const prelude = `PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; export PATH
LC_ALL=C; export LC_ALL; HOME=/root; export HOME; unset LANG LANGUAGE ENV IFS CDPATH GREP_OPTIONS
set +e +u; umask 077; cd /
h2k_lock=
h2k_plain() {
	df -P -- "$1" | { read -r x; read -r dev x; while read -r d p t x; do
		[ "$d" = "$dev" ] && case $t in *fat*|msdos) exit 0;; esac
	done </proc/mounts; exit 1; }
}
`

func newShell(p *process, who string) (*shell, error) {
	s := &shell{p: p, who: who, mark: "h2k-" + rand.Text()}
	if _, err := io.WriteString(p.in, prelude); err != nil {
		return nil, lost("start a shell on", who, err)
	}
	_, _, err := s.run(":")
	return s, err
}

// run runs a script in the shell itself and gives what it prints, both streams,
// and its exit code.
func (s *shell) run(script string) ([]byte, int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead != nil {
		return nil, 0, s.dead
	}
	out, code, err := s.exchange(script)
	if err != nil {
		s.dead = lost("run a script on", s.who, err)
		return nil, 0, s.dead
	}
	return out, code, nil
}

func (s *shell) exchange(script string) ([]byte, int, error) {
	text := fmt.Sprintf("{ %s\n} </dev/null 2>&1; printf '\\n%s %%d\\n' $?\n", script, s.mark)
	if _, err := io.WriteString(s.p.in, text); err != nil {
		return nil, 0, err
	}
	var out bytes.Buffer
	for out.Len() < maxAnswer {
		line, err := s.p.out.ReadSlice('\n')
		if rest, ok := bytes.CutPrefix(line, []byte(s.mark+" ")); ok && err == nil {
			var code int
			if _, err := fmt.Sscanf(string(rest), "%d", &code); err != nil {
				return nil, 0, err
			}
			return bytes.TrimSuffix(out.Bytes(), []byte("\n")), code, nil
		}
		out.Write(line)
		if err != nil && len(line) == 0 {
			return nil, 0, err
		}
	}
	return nil, 0, fmt.Errorf("it prints more than %d bytes", maxAnswer)
}

// quote is a word as a POSIX shell takes it.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// words are several.
func words(list ...string) string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = quote(s)
	}
	return strings.Join(out, " ")
}

// lockScript takes the guest for this session: exit code 9 says who has it. A
// folder is made in one step; what is in it tells whether its maker lives. It
// lies where a reboot empties it. A cut session's SFTP server, too, works off
// what has reached it.
const lockScript = `h2k_leave() {
	for f in "$h2k_lock/files" "$h2k_lock/command"; do
		read p <"$f" 2>/dev/null && kill -0 "$p" 2>/dev/null && return
	done
	rm -rf "$h2k_lock"
}
h2k_take() {
	for d in /run /var/run /dev/shm; do
		[ -d "$d" ] && [ -w "$d" ] || continue
		l=$d/h2k-livefix
		if ! mkdir "$l" 2>/dev/null; then
			for f in "$l/shell" "$l/files" "$l/command"; do
				read p <"$f" 2>/dev/null || continue
				kill -0 "$p" 2>/dev/null && { echo "$p"; return 9; }
			done
			rm -rf "$l"; mkdir "$l" || return 1
		fi
		echo $$ >"$l/shell"; [ -z "$1" ] || echo "$1" >"$l/files"; h2k_lock=$l
		trap 'h2k_leave' 0
		return 0
	done
	return 1
}
h2k_take `

// Waiting for a session that was cut off: its shell ends with the connection,
// but the program that it ran goes on to its end.
const (
	lockTries = 120
	lockPause = time.Second
)

// lock keeps other sessions from writing to the guest until this one ends.
func (s *shell) lock(ctx context.Context, files string, notice func(string, ...any)) error {
	for i := 0; ; i++ {
		out, code, err := s.run(lockScript + quote(files))
		if err != nil {
			return err
		}
		if code == 0 {
			return nil
		}
		if code != 9 {
			return api.Errorf(api.CodeGuestReadOnly, "lock guest", s.who, "neither /run, /var/run nor /dev/shm can be written: %s", bytes.TrimSpace(out))
		}
		if i == lockTries {
			return api.Errorf(api.CodeBusy, "lock guest", s.who, "another h2k-livefix works on it (process %s in the guest)", bytes.TrimSpace(out))
		}
		if i == 0 {
			notice("another h2k-livefix works on this guest, or what one began there is not over: waiting")
		}
		select {
		case <-ctx.Done():
			return api.NewError(api.CodeInterrupted, "lock guest", s.who, ctx.Err())
		case <-time.After(lockPause):
		}
	}
}
