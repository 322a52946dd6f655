package sectormap_test

import (
	"bytes"
	"math/bits"
	"math/rand/v2"
	"testing"

	"hyper2kvm/formats/sectormap"
)

// Every run from every sector, against counting bit by bit.
func TestRun(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, b := range [][]byte{
		{0xFF, 0xFF, 0xFF, 0xFF}, {0, 0, 0, 0}, {0x0F, 0xFF, 0xFF, 0x80}, {0xF0, 0, 0, 1},
		{byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32())},
	} {
		turned := bytes.Clone(b)
		for i := range turned {
			turned[i] = bits.Reverse8(turned[i])
		}
		maps := []sectormap.Map{sectormap.New(b), sectormap.NewLowFirst(turned)}
		bit := func(i int64) bool { return b[i/8]>>(7-i%8)&1 == 1 }
		for first := range int64(32) {
			for n := int64(1); n <= 32-first; n++ {
				want := int64(1)
				for want < n && bit(first+want) == bit(first) {
					want++
				}
				for i, m := range maps {
					if got, has := m.Run(first, n); got != want || has != bit(first) {
						t.Fatalf("%x, map %d: Run(%d, %d) = %d, %v; want %d, %v", b, i, first, n, got, has, want, bit(first))
					}
				}
			}
		}
	}
}
