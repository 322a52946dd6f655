package formatstest

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"

	"hyper2kvm/formats"
)

// File is bytes in memory as a parser sees a file.
func File(name string, b []byte) formats.File {
	return formats.File{ReaderAt: bytes.NewReader(b), Size: int64(len(b)), Name: name}
}

// Problems are those that the check of an image finds.
func Problems(t testing.TB, img formats.Checker) []formats.Problem {
	t.Helper()
	var list []formats.Problem
	if err := img.Check(t.Context(), func(p formats.Problem) error { list = append(list, p); return nil }); err != nil {
		t.Fatal(err)
	}
	return list
}

// QemuImg runs qemu-img, which must succeed, and gives what it said. Without it
// the test is skipped, but where all prerequisites are promised.
func QemuImg(t testing.TB, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("qemu-img"); err != nil && os.Getenv("H2K_REQUIRE_VM") == "" {
		t.Skip("needs qemu-img (package qemu-utils)")
	}
	out, err := exec.Command("qemu-img", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("qemu-img %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}
