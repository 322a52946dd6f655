package qemu

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestForcedAccelerator(t *testing.T) {
	for _, name := range []string{KVM, TCG} {
		t.Setenv(AccelEnv, name)
		if got, err := Accelerator(t.Context()); err != nil || got.Name != name {
			t.Errorf("%s=%s: %v, %v", AccelEnv, name, got, err)
		}
	}
	t.Setenv(AccelEnv, "xen")
	if _, err := Accelerator(t.Context()); err == nil || !strings.Contains(err.Error(), "xen") {
		t.Errorf("%s=xen: %v, want an error that names it", AccelEnv, err)
	}
}

// TestProbeGuestRuns runs the probe where it must succeed: TCG runs any guest.
func TestProbeGuestRuns(t *testing.T) {
	needQEMU(t)
	why, _, err := disproveKVM(t.Context(), DefaultProgram, TCG)
	if why != "" || err != nil {
		t.Errorf("probe under TCG: %q, %v; want success", why, err)
	}
	why, lasting, err := disproveKVM(t.Context(), DefaultProgram, "no-such-accelerator")
	if why == "" || lasting || err != nil {
		t.Errorf("probe without accelerator: %q, %v, %v; want a reason", why, lasting, err)
	}
}

// TestAcceleratorIsProven holds the choice to what a guest really does here.
func TestAcceleratorIsProven(t *testing.T) {
	needQEMU(t)
	t.Setenv(AccelEnv, "")
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	first, err := Accelerator(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Log(first)
	again, err := Accelerator(t.Context())
	if err != nil || again.Name != first.Name {
		t.Errorf("second choice %v, %v; first %v", again, err, first)
	}
}

func TestVerdictEndsWithWhatItDependsOn(t *testing.T) {
	path, err := exec.LookPath("true")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	s := newVerdictStore(path)
	s.remember("it hangs")
	if got := newVerdictStore(path).recall(); got != "it hangs" {
		t.Errorf("recall = %q, want the verdict", got)
	}
	s.key = strings.Replace(s.key, s.key[:8], "00000000", 1) // another boot
	if got := s.recall(); got != "" {
		t.Errorf("recall after a reboot = %q, want none", got)
	}
	if err := os.Truncate(s.path, 3); err != nil {
		t.Fatal(err)
	}
	if got := newVerdictStore(path).recall(); got != "" {
		t.Errorf("recall of a damaged file = %q, want none", got)
	}
	if left, err := filepath.Glob(s.path + ".*"); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
