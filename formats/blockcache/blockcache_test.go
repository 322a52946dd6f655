package blockcache_test

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"hyper2kvm/formats/blockcache"
)

func TestKeepsTheRecent(t *testing.T) {
	loads := map[int64]int{}
	c := blockcache.New(2, func(key int64) (int64, error) {
		loads[key]++
		return key * 10, nil
	})
	for _, key := range []int64{1, 2, 1, 3, 1, 2} { // 3 drives out 2, not 1
		if v, err := c.Get(key); err != nil || v != key*10 {
			t.Errorf("Get(%d) = %d, %v", key, v, err)
		}
	}
	if loads[1] != 1 || loads[2] != 2 || loads[3] != 1 {
		t.Errorf("loads %v", loads)
	}
}

func TestErrorsAreNotKept(t *testing.T) {
	fail := errors.New("once")
	first := true
	c := blockcache.New(4, func(int64) (int, error) {
		if first {
			first = false
			return 0, fail
		}
		return 7, nil
	})
	if _, err := c.Get(1); !errors.Is(err, fail) {
		t.Errorf("got %v", err)
	}
	if v, err := c.Get(1); err != nil || v != 7 {
		t.Errorf("again: %d, %v", v, err)
	}
}

func TestLoadsOnceForMany(t *testing.T) {
	var loads atomic.Int32
	c := blockcache.New(4, func(int64) (int, error) { loads.Add(1); return 1, nil })
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if _, err := c.Get(5); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if loads.Load() != 1 {
		t.Errorf("%d loads", loads.Load())
	}
}
