package initramfs

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// fw_cfg on x86 (QEMU, docs/specs/fw_cfg.rst): a 16-bit selector at 0x510, the
// selected item byte by byte at 0x511. The kernel's driver for it needs ACPI;
// without both the machine is up a fifth sooner.
const (
	fwcfgSelector = 0x510
	fwcfgData     = 0x511
	// Selectors of the signature "QEMU" and of the list of files.
	fwcfgSignature = 0x0000
	fwcfgDirectory = 0x0019
	// A file in that list: size and selector, big endian, and its name.
	fwcfgEntry = 64
	fwcfgName  = 8
	// Bounds, well above what QEMU has.
	fwcfgFiles   = 4096
	fwcfgMaxFile = 1 << 20
)

func outw(port, value uint16)
func inb(port uint16) uint8

// handedIn reads the files that the host handed in, by their names in
// KeyFolder.
func handedIn(names ...string) (map[string][]byte, error) {
	// The right to use ports belongs to the thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Iopl(3); err != nil {
		return nil, fmt.Errorf("reach fw_cfg: %w", err)
	}
	defer func() { _ = unix.Iopl(0) }() // giving up a right cannot fail
	item := func(selector uint16) func(n int) []byte {
		outw(fwcfgSelector, selector)
		return func(n int) []byte {
			data := make([]byte, n)
			for i := range data {
				data[i] = inb(fwcfgData)
			}
			return data
		}
	}
	if got := string(item(fwcfgSignature)(4)); got != "QEMU" {
		return nil, fmt.Errorf("reach fw_cfg: signature %q, want QEMU", got)
	}
	return readFiles(item, names)
}

// readFiles finds the files in the list and reads them.
func readFiles(item func(uint16) func(int) []byte, names []string) (map[string][]byte, error) {
	next := item(fwcfgDirectory)
	count := binary.BigEndian.Uint32(next(4))
	if count > fwcfgFiles {
		return nil, fmt.Errorf("read list of fw_cfg files: %d files", count)
	}
	list := next(int(count) * fwcfgEntry)
	out := map[string][]byte{}
	for _, name := range names {
		for e := list; len(e) > 0; e = e[fwcfgEntry:] {
			text, _, _ := strings.Cut(string(e[fwcfgName:fwcfgEntry]), "\x00")
			size := binary.BigEndian.Uint32(e)
			if text != KeyFolder+name || size > fwcfgMaxFile {
				continue
			}
			out[name] = item(binary.BigEndian.Uint16(e[4:]))(int(size))
		}
		if _, ok := out[name]; !ok {
			return nil, fmt.Errorf("read fw_cfg file %s: %w", KeyFolder+name, fs.ErrNotExist)
		}
	}
	return out, nil
}
