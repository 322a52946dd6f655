package cli_test

import (
	"testing"
	"time"
)

// BenchmarkLivefix is one whole repair over loopback, from login to the proof,
// without the guest's generator; and over a network of 20 ms there and back,
// where round trips are what counts.
func BenchmarkLivefix(b *testing.B) {
	s := startGuest(b, "")
	for name, delay := range map[string]time.Duration{"loopback": 0, "20ms": 10 * time.Millisecond} {
		b.Run(name, func(b *testing.B) {
			w := newWire(b, s)
			w.Delay(delay)
			for b.Loop() {
				livefix(b.Context(), b, s, "deploy", w.Port(), "--yes", "--initramfs", "inject", "--quiet").must(b, 0)
				b.StopTimer()
				livefix(b.Context(), b, s, "deploy", s.Port, "--undo", "--quiet").must(b, 0)
				b.StartTimer()
			}
		})
	}
}
