package mounted_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hyper2kvm/fixes/guest"
)

// TestWriteImmutable replaces a file that chattr +i protects, and it stays
// protected.
func TestWriteImmutable(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to set flags of files")
	}
	dir := t.TempDir()
	name := filepath.Join(dir, "resolv.conf")
	must(t, os.WriteFile(name, []byte("old"), 0o644))
	if out, err := exec.Command("chattr", "+i", name).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("chattr", "-i", name).Run() })
	must(t, open(t, dir).Write("resolv.conf", strings.NewReader("new"), guest.Attr{Mode: 0o644}))
	data, err := os.ReadFile(name)
	must(t, err)
	out, err := exec.Command("lsattr", name).CombinedOutput()
	must(t, err)
	if string(data) != "new" || !strings.Contains(strings.Fields(string(out))[0], "i") {
		t.Errorf("%q with flags %s", data, out)
	}
	left, err := os.ReadDir(dir)
	must(t, err)
	if len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}
