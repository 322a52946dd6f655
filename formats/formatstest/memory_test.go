package formatstest_test

import (
	"bytes"
	"io"
	"testing"

	"hyper2kvm/formats"
	"hyper2kvm/formats/formatstest"
)

// The disk that other tests trust keeps the contract itself.
func TestMemory(t *testing.T) {
	m := formatstest.NewMemory(100_001)
	want := make([]byte, 100_001)
	for _, off := range []int{0, 9000, 50_000, 99_990} {
		copy(want[off:], "something")
		if _, err := m.WriteAt([]byte("something"), int64(off)); err != nil {
			t.Fatal(err)
		}
	}
	formatstest.Disk(t, m.Ready(), bytes.NewReader(want))
	if err := formatstest.Every(m, 1<<20); err != nil {
		t.Error(err)
	}
	formatstest.Disk(t, m.Child(), bytes.NewReader(want))
}

// lying is a disk that gives made-up zeroes with an error.
type lying struct{ *formatstest.Memory }

func (l lying) ReadAt(p []byte, off int64) (int, error) {
	n, err := l.Memory.ReadAt(p, off)
	if n == len(p) && err == nil {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// The check can fail.
func TestEveryFindsABrokenDisk(t *testing.T) {
	var d formats.Disk = lying{formatstest.NewMemory(1 << 20).Ready()}
	if err := formatstest.Every(d, 1<<20); err == nil {
		t.Error("a full read with an error passed")
	}
}
