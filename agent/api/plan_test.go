package api_test

import (
	"testing"

	"hyper2kvm/agent/api"
)

// No job and no report belongs into the folder of devices; /dev/shm is none.
func TestHomeOfATarget(t *testing.T) {
	for path, want := range map[string]string{
		"out.qcow2": "out.qcow2", "/vm/out": "/vm/out", "/dev/vg0/web01": "web01", "/dev/sdb": "sdb", "/dev/shm/out.raw": "/dev/shm/out.raw",
	} {
		if got := (api.Target{Path: path}).Home(); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}
