package digest_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"testing"
	"time"

	"hyper2kvm/formats"
	"hyper2kvm/formats/formatstest"
	"hyper2kvm/image/digest"
)

// sample is a disk with data in places, and its bytes.
func sample(t testing.TB, size int64) (*formatstest.Memory, []byte) {
	t.Helper()
	m, b := formatstest.NewMemory(size), make([]byte, size)
	for i, off := range []int64{0, 5000, 1<<20 - 100, 3 << 20, size - 700} {
		p := bytes.Repeat([]byte{byte(i + 1)}, 600)
		copy(b[off:], p)
		if _, err := m.WriteAt(p, off); err != nil {
			t.Fatal(err)
		}
	}
	return m.Ready(), b
}

func TestAgainstPlainHash(t *testing.T) {
	const size = 9<<20 + 12345
	m, b := sample(t, size)
	last := int64(0)
	got, err := digest.Whole(t.Context(), m, func(done, total int64) {
		if done < last || total != size {
			t.Errorf("progress %d of %d after %d", done, total, last)
		}
		last = done
	})
	if err != nil || got != sha256.Sum256(b) || last != size {
		t.Errorf("whole: %x, %v, progress to %d", got, err, last)
	}
	for _, n := range []int64{4096, 1 << 20, 3<<20 + 7, size, 1 << 40} {
		sums, err := digest.Ranges(t.Context(), m, n, nil)
		if err != nil || int64(len(sums)) != (size+n-1)/n {
			t.Fatalf("ranges of %d: %d, %v", n, len(sums), err)
		}
		for i, s := range sums {
			if off := int64(i) * n; s != sha256.Sum256(b[off:min(off+n, size)]) {
				t.Errorf("range %d of %d bytes is wrong", i, n)
			}
		}
	}
}

// TestHolesAreNotRead: what a huge, empty disk costs does not grow with it.
func TestHolesAreNotRead(t *testing.T) {
	m := formatstest.NewMemory(8 << 40)
	if _, err := m.WriteAt([]byte("x"), 4<<40); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	sums, err := digest.Ranges(t.Context(), m.Ready(), 16<<20, nil)
	if err != nil {
		t.Fatal(err)
	}
	different := 0
	for _, s := range sums {
		if s != sums[0] {
			different++
		}
	}
	if different != 1 || len(sums) != 512<<10 {
		t.Errorf("%d of %d ranges differ from the first", different, len(sums))
	}
	t.Logf("8 TiB in %v", time.Since(start))
}

func TestImpossibleRanges(t *testing.T) {
	m := formatstest.NewMemory(8 << 40).Ready()
	for _, n := range []int64{0, -1, 4096} {
		if _, err := digest.Ranges(t.Context(), m, n, nil); !errors.Is(err, digest.ErrRange) {
			t.Errorf("%d: %v", n, err)
		}
	}
}

type broken struct{ *formatstest.Memory }

var errBroken = errors.New("broken")

func (b broken) ReadAt(p []byte, off int64) (int, error) { return 0, errBroken }

func TestErrorsAndCancelling(t *testing.T) {
	m, _ := sample(t, 9<<20)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for what, x := range map[string]struct {
		ctx  context.Context
		disk formats.Disk
		want error
	}{"broken": {t.Context(), broken{m}, errBroken}, "cancelled": {ctx, m, context.Canceled}} {
		if _, err := digest.Whole(x.ctx, x.disk, nil); !errors.Is(err, x.want) {
			t.Errorf("%s, whole: %v", what, err)
		}
		if _, err := digest.Ranges(x.ctx, x.disk, 1<<20, nil); !errors.Is(err, x.want) {
			t.Errorf("%s, ranges: %v", what, err)
		}
	}
}
