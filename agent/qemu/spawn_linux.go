package qemu

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// firstFD is the number that the first inherited file has in the child.
const firstFD = 3

// child is a process in a group of its own that the kernel kills when this
// process ends, however it ends.
type child struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has been waited for
	err  error         // what Wait said; read after done
}

// spawn starts cmd. The kernel sends the death signal when the thread that
// forked ends, not the process (prctl(2), PR_SET_PDEATHSIG), so one thread is
// kept for the child's whole life.
func spawn(cmd *exec.Cmd) (*child, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	c := &child{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		c.err = cmd.Wait()
		close(c.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return c, nil
}

// kill ends the process group at once. The group's id stays valid until the
// process has been waited for.
func (c *child) kill() {
	select {
	case <-c.done:
	default:
		_ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL)
	}
}

// state says how the process ended; only after done.
func (c *child) state() string { return c.cmd.ProcessState.String() }

// cpuSeconds is the processor time that the process took; only after done.
func (c *child) cpuSeconds() float64 {
	return (c.cmd.ProcessState.UserTime() + c.cmd.ProcessState.SystemTime()).Seconds()
}

// socketPair makes two joined stream sockets: a connection for us and a file
// for the child to inherit.
func socketPair(name string) (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair for %s: %w", name, err)
	}
	theirs := os.NewFile(uintptr(fds[1]), name)
	file := os.NewFile(uintptr(fds[0]), name)
	defer file.Close()
	ours, err := net.FileConn(file)
	if err != nil {
		_ = theirs.Close()
		return nil, nil, fmt.Errorf("use socket pair for %s: %w", name, err)
	}
	return ours, theirs, nil
}

// memoryFile makes a file without a name in any file system.
func memoryFile(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make memory file for %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}
