package initramfs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// System is a machine that has come up.
type System struct {
	// HostKey and ClientKey are what the host handed in for this run: a
	// private SSH key as PEM, and a line of authorized_keys.
	HostKey, ClientKey []byte
	// Port carries SSH.
	Port io.ReadWriteCloser

	disks int
}

const (
	// deviceTimeout bounds how long a device may take to appear. It is some
	// 10 ms, and a second or two on a very busy host without KVM.
	deviceTimeout = 30 * time.Second
	pollInterval  = 2 * time.Millisecond
)

// BringUp makes a machine of what the kernel left: file systems, modules, keys,
// and the port to the host. The disks are waited for by Disks.
func BringUp() (*System, error) {
	if err := takeSteps(namespace()); err != nil {
		return nil, err
	}
	if err := os.Setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"); err != nil {
		return nil, fmt.Errorf("set PATH: %w", err)
	}
	if err := loadBootModules(); err != nil {
		return nil, err
	}
	given, err := handedIn(HostKey, ClientKey, DiskCount)
	if err != nil {
		return nil, err
	}
	s := &System{HostKey: given[HostKey], ClientKey: given[ClientKey]}
	if s.disks, err = strconv.Atoi(strings.TrimSpace(string(given[DiskCount]))); err != nil {
		return nil, fmt.Errorf("number of disks: %w", err)
	}
	s.Port, err = openPort(Port)
	return s, err
}

// openPort opens the virtio-serial port of that name.
func openPort(name string) (*os.File, error) {
	var node string
	err := waitFor("virtio-serial port "+name, func() bool {
		found, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
		for _, f := range found {
			if text, err := os.ReadFile(f); err == nil && strings.TrimSpace(string(text)) == name {
				node = "/dev/" + filepath.Base(filepath.Dir(f))
				return true
			}
		}
		return false
	})
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(node, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open port %s: %w", name, err)
	}
	return f, nil
}

// Disks waits until all disks of the run are there and links them under
// DiskFolder.
func (s *System) Disks() error {
	if err := os.MkdirAll(DiskFolder, 0o755); err != nil {
		return fmt.Errorf("make folder for disks: %w", err)
	}
	for i := range s.disks {
		node, err := waitDisk(DiskTarget, i)
		if err != nil {
			return fmt.Errorf("find disk %d of %d: %w", i, s.disks, err)
		}
		link := DiskPath(i)
		if err := os.Symlink(node, link); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("name disk: %w", err)
		}
	}
	return nil
}

// waitDisk gives the node of a logical unit. The kernel names disks in the
// order in which it happens to find them; their SCSI addresses are certain.
func waitDisk(target, unit int) (string, error) {
	var node string
	pattern := fmt.Sprintf("/sys/class/scsi_disk/*:0:%d:%d/device/block/sd*", target, unit)
	err := waitFor(fmt.Sprintf("SCSI disk %d:%d", target, unit), func() bool {
		found, _ := filepath.Glob(pattern)
		if len(found) != 1 {
			return false
		}
		node = "/dev/" + filepath.Base(found[0])
		_, err := os.Stat(node)
		return err == nil
	})
	return node, err
}

func waitFor(what string, ready func() bool) error {
	for end := time.Now().Add(deviceTimeout); !ready(); time.Sleep(pollInterval) {
		if time.Now().After(end) {
			return fmt.Errorf("%s did not appear within %v", what, deviceTimeout)
		}
	}
	return nil
}

// Say writes a line on the console.
func Say(line string) {
	// Where there is no console there is nobody to tell.
	_, _ = os.Stderr.WriteString(line + "\n")
}

// Sync writes everything to the disks.
func Sync() { unix.Sync() }

// End writes everything to the disks and ends the machine. It asks for a
// restart, with which QEMU ends (-no-reboot): switching off needs ACPI, and
// bringing that up takes a fifth of the boot.
func End() error {
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART); err != nil {
		return fmt.Errorf("end machine: %w", err)
	}
	return nil
}
