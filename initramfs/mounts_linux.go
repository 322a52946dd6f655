package initramfs

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// step is one thing that bring-up does. The list of them is the documentation.
type step interface {
	do() error
	fmt.Stringer
}

type mountStep struct {
	target, kind string
	flags        uintptr
	data         string
}

func (m mountStep) String() string { return fmt.Sprintf("mount %s on %s", m.kind, m.target) }

func (m mountStep) do() error {
	if err := os.MkdirAll(m.target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(m.kind, m.target, m.kind, m.flags, m.data); err != nil && !errors.Is(err, unix.EBUSY) {
		return err
	}
	return nil
}

type linkStep struct{ target, name string }

func (l linkStep) String() string { return fmt.Sprintf("link %s to %s", l.name, l.target) }

func (l linkStep) do() error {
	if err := os.Symlink(l.target, l.name); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}

type dirStep struct{ name string }

func (d dirStep) String() string { return "make folder " + d.name }

func (d dirStep) do() error { return os.MkdirAll(d.name, 0o755) }

const safe = unix.MS_NOSUID | unix.MS_NODEV

// namespace is the tree that programs expect to find. /tmp lies in the root,
// which is memory already; so do the programs' own folders.
func namespace() []step {
	return []step{
		mountStep{"/proc", "proc", safe | unix.MS_NOEXEC, ""},
		mountStep{"/sys", "sysfs", safe | unix.MS_NOEXEC, ""},
		mountStep{"/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
		mountStep{"/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0620"},
		mountStep{"/dev/shm", "tmpfs", safe, "mode=1777"},
		mountStep{"/run", "tmpfs", safe, "mode=0755"},
		dirStep{"/run/lock/lvm"}, dirStep{"/run/lvm"}, dirStep{"/run/cryptsetup"}, dirStep{"/run/mdadm"},
		dirStep{"/tmp"}, dirStep{"/var/lib"}, dirStep{"/mnt"}, dirStep{"/root"},
		linkStep{"/run", "/var/run"}, linkStep{"/run/lock", "/var/lock"}, linkStep{"/tmp", "/var/tmp"},
		linkStep{"/proc/self/mounts", "/etc/mtab"},
		linkStep{"/proc/self/fd", "/dev/fd"}, linkStep{"/proc/self/fd/0", "/dev/stdin"},
		linkStep{"/proc/self/fd/1", "/dev/stdout"}, linkStep{"/proc/self/fd/2", "/dev/stderr"},
	}
}

func takeSteps(steps []step) error {
	for _, s := range steps {
		if err := s.do(); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	return nil
}
