//go:build linux && amd64

package initramfs

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"testing"
)

// TestFilesAreFound reads a list of files as QEMU lays it out.
func TestFilesAreFound(t *testing.T) {
	files := map[uint16][]byte{0x21: []byte("secret"), 0x22: []byte("2")}
	list := binary.BigEndian.AppendUint32(nil, 3)
	for _, f := range []struct {
		name     string
		selector uint16
		size     uint32
	}{{"etc/acpi/tables", 0x20, 99}, {KeyFolder + HostKey, 0x21, 6}, {KeyFolder + DiskCount, 0x22, 1}} {
		e := binary.BigEndian.AppendUint32(nil, f.size)
		e = binary.BigEndian.AppendUint16(e, f.selector)
		list = append(list, append(append(e, 0, 0), append([]byte(f.name), make([]byte, 56-len(f.name))...)...)...)
	}
	files[fwcfgDirectory] = list
	item := func(selector uint16) func(int) []byte {
		data := files[selector]
		return func(n int) []byte {
			out := data[:n]
			data = data[n:]
			return out
		}
	}
	got, err := readFiles(item, []string{HostKey, DiskCount})
	if err != nil || string(got[HostKey]) != "secret" || string(got[DiskCount]) != "2" {
		t.Errorf("readFiles = %q, %v", got, err)
	}
	if _, err := readFiles(item, []string{ClientKey}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}
