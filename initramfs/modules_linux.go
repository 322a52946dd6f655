package initramfs

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// loadBootModules loads what the boot list names. A device that is not there is
// no reason to stop: the list serves machines of several kinds.
func loadBootModules() error {
	list, err := os.ReadFile("/" + BootModules)
	if err != nil {
		return fmt.Errorf("read list of modules: %w", err)
	}
	for path := range strings.Lines(string(list)) {
		if err := loadModule("/" + strings.TrimSpace(path)); err != nil {
			return err
		}
	}
	return nil
}

// loadModule loads one module whose dependencies are loaded. One that the
// kernel has already, or that finds no hardware, is fine.
func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("load module: %w", err)
	}
	defer f.Close()
	err = unix.FinitModule(int(f.Fd()), "", 0)
	if err != nil && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("load module %s: %w", path, err)
	}
	return nil
}

// ServeModprobe does what the kernel asks of /sbin/modprobe:
// "modprobe -q -- NAME" (kernel/module/kmod.c).
func ServeModprobe(args []string) error {
	tools, err := OpenTools()
	if err != nil {
		return err
	}
	defer tools.Close()
	for _, name := range args {
		if strings.HasPrefix(name, "-") {
			continue
		}
		if err := tools.Modprobe(name); err != nil {
			return err
		}
	}
	return nil
}
