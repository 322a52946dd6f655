package repair

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hyper2kvm/agent/blockdev"
	"hyper2kvm/agent/mounted"
	"hyper2kvm/fixes/guest"
)

// session is the guest as it hangs on this machine: its devices, what is
// mounted of them, and where.
type session struct {
	need    func(string) error
	devices *blockdev.Devices
	base    string
	rw      bool // journals are replayed, and mounts become writable in the end
	mounts  []*mount
	root    *mounted.Root
}

// mount is one mounted file system. at is its path on this machine.
type mount struct {
	fs    *guest.Filesystem
	at    string
	facts guest.Mount
}

// mountable gives the kernel's driver for a type of blkid's, "" for what is not
// mounted here.
func mountable(kind string) string {
	switch kind {
	case "ext2", "ext3", "ext4":
		return "ext4" // drives all three
	case "xfs", "btrfs", "vfat", "f2fs", "jfs", "reiserfs":
		return kind
	}
	return ""
}

// options are the mount options for a driver: without replay a read-only mount
// leaves the device as it is, journal and all (ext4(5), xfs(5), btrfs(5)). A
// clone's UUID may be in use already, which only XFS minds.
func options(driver string, replay bool) []string {
	switch {
	case driver == "xfs" && replay:
		return []string{"nouuid"}
	case driver == "xfs":
		return []string{"nouuid", "norecovery"}
	case driver == "ext4" && !replay:
		return []string{"noload"}
	case driver == "btrfs" && !replay:
		return []string{"rescue=nologreplay"}
	case driver == "f2fs" && !replay:
		return []string{"norecovery"}
	}
	return nil
}

// mountFlags keep the guest's device nodes and set-uid programs without effect.
const mountFlags = unix.MS_NODEV | unix.MS_NOSUID | unix.MS_NOATIME

func (s *session) driver(fs *guest.Filesystem) (string, error) {
	driver := mountable(fs.Type)
	if driver == "" {
		return "", fmt.Errorf("%s: %w", fs.Type, errors.ErrUnsupported)
	}
	if s.need == nil {
		return driver, nil
	}
	if err := s.need(driver); err != nil {
		return "", err
	}
	if driver == "vfat" {
		for _, charset := range []string{"nls_cp437", "nls_ascii", "nls_iso8859_1"} {
			_ = s.need(charset) // which one FAT wants is the kernel's configuration
		}
	}
	return driver, nil
}

// mountNew mounts a file system read-only on a new folder of its own.
func (s *session) mountNew(fs *guest.Filesystem, extra ...string) (*mount, error) {
	driver, err := s.driver(fs)
	if err != nil {
		return nil, err
	}
	at, err := os.MkdirTemp(s.base, "fs-")
	if err != nil {
		return nil, fmt.Errorf("make folder to mount on: %w", err)
	}
	data := strings.Join(append(options(driver, s.rw), extra...), ",")
	if err := unix.Mount(fs.Device, at, driver, mountFlags|unix.MS_RDONLY, data); err != nil {
		return nil, errors.Join(fmt.Errorf("mount %s (%s): %w", sourceName(fs), driver, err), os.Remove(at))
	}
	m := &mount{fs: fs, at: at, facts: guest.Mount{Type: driver, Device: fs.Device, UUID: fs.UUID, Opts: strings.Join(extra, ",")}}
	s.mounts = append(s.mounts, m)
	return m, nil
}

// mountBelow mounts a file system read-only on a folder of the guest's root.
func (s *session) mountBelow(fs *guest.Filesystem, point string, extra ...string) error {
	driver, err := s.driver(fs)
	if err != nil {
		return err
	}
	data := strings.Join(append(options(driver, s.rw), extra...), ",")
	at, err := s.root.Mount(fs.Device, strings.Trim(point, "/"), driver, mountFlags|unix.MS_RDONLY, data)
	if err != nil {
		return err
	}
	s.mounts = append(s.mounts, &mount{fs: fs, at: at,
		facts: guest.Mount{Point: point, Type: driver, Device: fs.Device, UUID: fs.UUID, Opts: strings.Join(extra, ",")}})
	return nil
}

// writable makes every mount writable.
func (s *session) writable() error {
	for _, m := range s.mounts {
		var data string
		if m.facts.Type == "xfs" {
			data = "nouuid"
		}
		if err := unix.Mount("", m.at, "", mountFlags|unix.MS_REMOUNT, data); err != nil {
			return fmt.Errorf("mount %s for writing: %w", sourceName(m.fs), err)
		}
	}
	return nil
}

// prove writes a file to each mount and removes it: some drivers mount what they
// do not write to, and a subvolume may be set to read-only.
func (s *session) prove() error {
	for _, m := range s.mounts {
		f, err := os.CreateTemp(m.at, ".h2k-")
		if err != nil {
			return fmt.Errorf("write to %s: %w", sourceName(m.fs), err)
		}
		if err := errors.Join(f.Close(), os.Remove(f.Name())); err != nil {
			return fmt.Errorf("write to %s: %w", sourceName(m.fs), err)
		}
	}
	return nil
}

// readOnly takes the right to write back, which flushes what was written.
func (s *session) readOnly() error {
	for _, m := range slices.Backward(s.mounts) {
		if err := unix.Mount("", m.at, "", mountFlags|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			return fmt.Errorf("flush %s: %w", sourceName(m.fs), err)
		}
	}
	return nil
}

// measure fills in what each mount has free.
func (s *session) measure() error {
	for _, m := range s.mounts {
		free, inodes, err := s.root.Space(pointName(m.facts.Point))
		if err != nil {
			return err
		}
		m.facts.Free, m.facts.Inodes = free, inodes
	}
	return nil
}

// pointName is a mount point as a name of guest.FS.
func pointName(point string) string {
	if name := strings.Trim(point, "/"); name != "" {
		return name
	}
	return "."
}

// unmount takes one mount down.
func (s *session) unmount(m *mount) error {
	s.mounts = slices.DeleteFunc(s.mounts, func(o *mount) bool { return o == m })
	err := unmount(m.at)
	if filepath.Dir(m.at) == s.base {
		err = errors.Join(err, os.Remove(m.at))
	}
	return err
}

// unmount waits a little for what was just killed to let go.
func unmount(at string) error {
	const tries, pause = 20, 50 * time.Millisecond
	for i := 0; ; i++ {
		err := unix.Unmount(at, unix.UMOUNT_NOFOLLOW)
		if err == nil {
			return nil
		}
		if err != unix.EBUSY || i == tries {
			// Detached it is at least gone from the tree; that it was in use is told.
			_ = unix.Unmount(at, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
			return fmt.Errorf("unmount %s: %w", at, err)
		}
		time.Sleep(pause)
	}
}

// close takes everything down, in the reverse order, and flushes the disks.
func (s *session) close(ctx context.Context) error {
	var errs []error
	if s.root != nil {
		errs = append(errs, s.root.Close())
		s.root = nil
	}
	for _, m := range slices.Backward(slices.Clone(s.mounts)) {
		errs = append(errs, s.unmount(m))
	}
	if s.devices != nil {
		errs = append(errs, s.devices.Close(ctx))
		if s.rw {
			for _, d := range s.devices.Disks {
				errs = append(errs, flush(d.Device))
			}
		}
	}
	if s.base != "" {
		errs = append(errs, os.Remove(s.base))
	}
	return errors.Join(errs...)
}

// flush has a disk write what it holds back.
func flush(device string) error {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("flush disk: %w", err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("flush disk: %w", err)
	}
	return nil
}

// sourceName is what the source machine most likely called a file system: the
// device names of this machine mean nothing to the user.
func sourceName(fs *guest.Filesystem) string {
	if fs.Disk < 0 {
		return "/dev/" + fs.Volume
	}
	name := "/dev/sd"
	if fs.Disk >= 26 {
		name += string(rune('a' + fs.Disk/26 - 1))
	}
	name += string(rune('a' + fs.Disk%26))
	if fs.Partition > 0 {
		name += fmt.Sprint(fs.Partition)
	}
	return name
}
