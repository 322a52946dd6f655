package mounted

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hyper2kvm/fixes/guest"
)

// maxOutput is how much of a program's output is kept: the end of it.
const maxOutput = 256 << 10

// grace is how long output is awaited that a killed program's children hold.
const grace = 3 * time.Second

// programPath is the PATH that guest programs run with.
const programPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Runner runs programs of a mounted guest, with the rights of this process: only
// for the helper VM, where nothing but the guest's own disks is in reach. Each
// runs in a mount namespace of its own with /dev, /proc and /sys bound and an
// empty /run, without network, in a chroot.
type Runner struct {
	root *Root
}

var _ guest.Runner = (*Runner)(nil)

// NewRunner gives a Runner for the tree.
func NewRunner(root *Root) *Runner { return &Runner{root: root} }

// Run runs one program and returns the end of what it printed. When ctx ends,
// or the program has ended, everything it started is killed.
func (r *Runner) Run(ctx context.Context, command guest.Command) ([]byte, error) {
	if len(command.Args) == 0 {
		return nil, errors.New("run guest program: no program named")
	}
	program, err := r.look(command.Args[0])
	if err != nil {
		return nil, fmt.Errorf("run guest program %s: %w", command.Args[0], err)
	}
	out := &tail{}
	cmd := r.command(ctx, program, command, out)
	done := make(chan error, 1)
	go inNamespace(done, func() error {
		if err := r.enter(); err != nil {
			return fmt.Errorf("prepare guest root %s: %w", r.root.path, err)
		}
		return cmd.Run()
	})
	err = <-done
	if e := r.killLeft(); err == nil {
		err = e
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		err = fmt.Errorf("run guest program %s: %w", strings.Join(command.Args, " "), err)
	}
	return out.Bytes(), err
}

func (r *Runner) command(ctx context.Context, program string, c guest.Command, out *tail) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program)
	cmd.Path, cmd.Args, cmd.Err = program, c.Args, nil
	cmd.Env = append([]string{"PATH=" + programPath, "HOME=/root", "LC_ALL=C", "TERM=dumb"}, c.Env...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = grace
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Chroot:     r.root.path,
		Setpgid:    true,
		Pdeathsig:  syscall.SIGKILL,
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
	}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	return cmd
}

// look finds a program as the guest's PATH would.
func (r *Runner) look(name string) (string, error) {
	if strings.Contains(name, "/") {
		return path.Clean("/" + name), nil
	}
	for dir := range strings.SplitSeq(programPath, ":") {
		full := path.Join(dir, name)
		info, err := r.root.Stat(full[1:])
		if err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return full, nil
		}
	}
	return "", fmt.Errorf("no such program in the guest: %w", fs.ErrNotExist)
}

// inNamespace calls do on a thread that has a mount namespace of its own and
// ends with it. Never on the process's first thread: that cannot end, and
// /proc/self would show its namespace for ever.
func inNamespace(done chan<- error, do func() error) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		inner := make(chan error, 1)
		go inNamespace(inner, do)
		done <- <-inner
		runtime.UnlockOSThread()
		return
	}
	// Not unlocked: the runtime ends a thread whose goroutine ends locked.
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		done <- fmt.Errorf("make mount namespace: %w", err)
		return
	}
	done <- do()
}

// enter mounts what programs need into the guest's tree, in this thread's
// namespace alone.
func (r *Runner) enter() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	// The root's descriptor belongs to the old namespace.
	here, err := Open(r.root.path)
	if err != nil {
		return err
	}
	defer func() { _ = here.Close() }() // opens nothing
	for _, m := range []struct {
		name, source, kind string
		flags              uintptr
		must               bool
	}{
		{"dev", "/dev", "", unix.MS_BIND | unix.MS_REC, true},
		{"proc", "/proc", "", unix.MS_BIND | unix.MS_REC, true},
		{"sys", "/sys", "", unix.MS_BIND | unix.MS_REC, true},
		{"run", "tmpfs", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, false},
	} {
		// No link may stand in for the folder: it would be mounted over another.
		fd, err := here.openat("open mount point", m.name, unix.O_PATH|unix.O_DIRECTORY, unix.RESOLVE_NO_SYMLINKS)
		if err != nil && !m.must {
			continue // guests older than /run
		}
		if err != nil {
			return err
		}
		err = unix.Mount(m.source, "/proc/self/fd/"+strconv.Itoa(fd), m.kind, m.flags, "")
		closeFD(fd)
		if err != nil {
			return fmt.Errorf("mount /%s: %w", m.name, err)
		}
	}
	if err := here.Mkdir("run/lock", guest.Attr{Mode: 0o1777}); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// killLeft kills what a program left running: whatever has the guest's root as
// its own.
func (r *Runner) killLeft() error {
	var want unix.Stat_t
	if err := unix.Fstat(r.root.fd, &want); err != nil {
		return fmt.Errorf("look for programs left running: %w", err)
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return fmt.Errorf("look for programs left running: %w", err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		var st unix.Stat_t
		if unix.Stat("/proc/"+e.Name()+"/root", &st) != nil {
			continue // ended, or a kernel thread
		}
		if st.Dev == want.Dev && st.Ino == want.Ino {
			_ = unix.Kill(pid, unix.SIGKILL) // it may have ended by itself
		}
	}
	return nil
}

// tail keeps the last maxOutput bytes written to it.
type tail struct {
	buf bytes.Buffer
	cut bool
}

func (t *tail) Write(p []byte) (int, error) {
	n := len(p)
	if t.buf.Len()+n > 2*maxOutput {
		t.cut = true
		keep := append(bytes.Clone(t.buf.Bytes()), p...)
		t.buf.Reset()
		p = keep[max(0, len(keep)-maxOutput):]
	}
	t.buf.Write(p)
	return n, nil
}

// Bytes gives what is kept, whole lines where something was cut.
func (t *tail) Bytes() []byte {
	out := t.buf.Bytes()
	if over := len(out) - maxOutput; over > 0 {
		out, t.cut = out[over:], true
	}
	if t.cut {
		if _, rest, ok := bytes.Cut(out, []byte{'\n'}); ok {
			return append([]byte("[…]\n"), rest...)
		}
	}
	return out
}
