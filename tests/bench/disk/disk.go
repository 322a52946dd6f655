// Package disk measures conversions beside qemu-img, in one run and in turn,
// so that a slow machine slows both.
//
//	go test -run '^$' -bench . -benchtime 1x ./tests/bench/disk
package disk
