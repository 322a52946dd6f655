package xzlimit

import (
	"bytes"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"

	"hyper2kvm/formats"
)

func pack(t testing.TB, data string, args ...string) []byte {
	t.Helper()
	if _, err := exec.LookPath("xz"); err != nil {
		t.Skip("xz is the oracle and is not here")
	}
	cmd := exec.Command("xz", args...)
	cmd.Stdin = strings.NewReader(data)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestDictionary(t *testing.T) {
	text := strings.Repeat("some text ", 1000)
	for _, test := range []struct {
		args []string
		want int64
	}{
		{[]string{"--lzma2=dict=1MiB"}, 1 << 20},
		{[]string{"--lzma2=dict=96MiB"}, 96 << 20},
		{[]string{"-6"}, 8 << 20},
		{[]string{"--check=crc32", "--block-size=1000", "-T2"}, 0},
	} {
		packed := pack(t, text, test.args...)
		r, err := New(bytes.NewReader(packed), 128<<20)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || string(got) != text {
			t.Errorf("%v: %d bytes, %v", test.args, len(got), err)
		}
		if test.want == 0 {
			continue
		}
		if _, err := New(bytes.NewReader(packed), test.want); err != nil {
			t.Errorf("%v: %v", test.args, err)
		}
		if _, err := New(bytes.NewReader(packed), test.want-1); !errors.Is(err, formats.ErrUnsupported) {
			t.Errorf("%v is read with a smaller limit: %v", test.args, err)
		}
	}
}

// FuzzNewReader: no header makes it allocate more than the limit, or panic.
func FuzzNewReader(f *testing.F) {
	f.Add(pack(f, "text", "-0"))
	f.Add(pack(f, "text", "--check=crc32", "--lzma2=dict=4KiB"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := New(bytes.NewReader(data), 1<<20)
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, io.LimitReader(r, 1<<20))
	})
}
