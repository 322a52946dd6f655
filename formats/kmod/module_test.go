package kmod

import (
	"bytes"
	"errors"
	"os/exec"
	"strings"
	"testing"

	"hyper2kvm/formats"
)

func TestReadModule(t *testing.T) {
	plain := []byte("\x7fELF" + strings.Repeat("code", 5000))
	for ext, args := range map[string][]string{
		".ko": {"cat"}, ".ko.gz": {"gzip"}, ".ko.xz": {"xz", "--check=crc32"}, ".ko.zst": {"zstd", "-q", "-c", "-"},
	} {
		if _, err := exec.LookPath(args[0]); err != nil {
			t.Logf("%s is the oracle and is not here", args[0])
			continue
		}
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Stdin = bytes.NewReader(plain)
		packed, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		got, err := ReadModule(bytes.NewReader(packed), "kernel/virtio_blk"+ext)
		if err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%s: %d bytes, %v", ext, len(got), err)
		}
		if ext == ".ko" {
			continue
		}
		if _, err := ReadModule(bytes.NewReader(packed[:len(packed)/2]), "x"+ext); err == nil {
			t.Errorf("%s: half a file is a module", ext)
		}
	}
	if _, err := ReadModule(strings.NewReader("#!/bin/sh\n"), "x.ko"); !errors.Is(err, formats.ErrFormat) {
		t.Errorf("a script is a module: %v", err)
	}
}

// FuzzReadModule: what comes out is an ELF file.
func FuzzReadModule(f *testing.F) {
	f.Add([]byte("\x7fELF"), "x.ko")
	f.Add([]byte("\x28\xb5\x2f\xfd"), "x.ko.zst")
	f.Add([]byte("\xfd7zXZ\x00"), "x.ko.xz")
	f.Fuzz(func(t *testing.T, data []byte, name string) {
		out, err := ReadModule(bytes.NewReader(data), name)
		if err == nil && !bytes.HasPrefix(out, []byte("\x7fELF")) {
			t.Errorf("%s: %q is no module", name, out)
		}
	})
}
