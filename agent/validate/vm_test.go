package validate

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/qemu"
)

// needVM skips a test that runs virtual machines where the parts are missing,
// and fails it where CI promised that they are there.
func needVM(t *testing.T, files ...string) {
	t.Helper()
	missing := ""
	if _, err := exec.LookPath(qemu.DefaultProgram); err != nil {
		missing = qemu.DefaultProgram
	}
	if _, err := FindUEFI(); err != nil {
		missing = err.Error()
	}
	for _, f := range files {
		if _, err := os.Stat(f); err != nil {
			missing = f
		}
	}
	switch {
	case missing == "":
	case os.Getenv("H2K_REQUIRE_VM") != "":
		t.Fatalf("missing: %s", missing)
	default:
		t.Skipf("missing: %s", missing)
	}
}

func boot(t *testing.T, cfg Config) api.Verdict {
	t.Helper()
	cfg.WorkDir = t.TempDir()
	cfg.Accel = qemu.Accel{Name: qemu.TCG, Why: "tests run alike everywhere"}
	cfg.Progress = func(line string) { t.Log(line) }
	v, err := Boot(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s after %.1f s: %s", v.State, v.Seconds, v.Why)
	if dir := os.Getenv("H2K_KEEP"); dir != "" {
		keep(t, dir, v.Console, v.Screenshot)
	}
	if s, err := os.Stat(v.Screenshot); err != nil || s.Size() == 0 {
		t.Errorf("no screenshot: %v", err)
	}
	return v
}

// keep copies the evidence for a developer to look at.
func keep(t *testing.T, dir string, files ...string) {
	for _, f := range files {
		data, err := os.ReadFile(f)
		name := strings.ReplaceAll(t.Name(), "/", "-") + "-" + filepath.Base(f)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), data, 0o644)
		}
		if err != nil {
			t.Log(err)
		}
	}
}

func emptyDisk(t *testing.T, boot ...byte) Disk {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk,one.raw") // a comma must do no harm
	sector := make([]byte, 512)
	copy(sector, boot)
	if len(boot) > 0 {
		sector[510], sector[511] = 0x55, 0xaa
	}
	if err := os.WriteFile(path, sector, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 16<<20); err != nil {
		t.Fatal(err)
	}
	return Disk{Path: path, Format: "raw"}
}

func TestEmptyDiskHasNoLoader(t *testing.T) {
	needVM(t)
	if testing.Short() {
		t.Skip("starts virtual machines")
	}
	for _, c := range []Config{
		{Firmware: BIOS, Bus: VirtioBlk},
		{Firmware: BIOS, Bus: VirtioSCSI},
		{Firmware: BIOS, Bus: SATA},
		{Firmware: UEFI, Bus: VirtioSCSI},
	} {
		t.Run(c.Firmware+"-"+c.Bus, func(t *testing.T) {
			c.Disks, c.Memory, c.Timeout = []Disk{emptyDisk(t)}, 256<<20, 2*time.Minute
			c.NICs = []string{"52:54:00:01:02:03"}
			if v := boot(t, c); v.State != api.NoLoader {
				t.Errorf("an empty disk is %q: %s", v.State, v.Why)
			}
		})
	}
}

// TestBootSectorThatHangs holds the timeout, and the reading of the screen: the
// sector writes "HELLO" by the BIOS and stops.
func TestBootSectorThatHangs(t *testing.T) {
	needVM(t)
	if testing.Short() {
		t.Skip("starts virtual machines")
	}
	code := []byte{
		0xfc,                   // cld
		0xbe, 0x12, 0x7c, 0xac, // mov $0x7c12,%si; 4: lodsb
		0x84, 0xc0, 0x74, 0x06, // test %al,%al; jz 0f
		0xb4, 0x0e, 0xcd, 0x10, // mov $0xe,%ah; int $0x10
		0xeb, 0xf5, // jmp 4
		0xf4, 0xeb, 0xfd, // 0f: hlt; jmp 0f
		'H', 'E', 'L', 'L', 'O', 0,
	}
	v := boot(t, Config{Disks: []Disk{emptyDisk(t, code...)}, Memory: 64 << 20, Timeout: 6 * time.Second})
	if v.State != api.Timeout || !strings.Contains(v.Why, "HELLO") {
		t.Errorf("got %q: %s; want a timeout that quotes the screen", v.State, v.Why)
	}
	if text, err := os.ReadFile(v.Console); err != nil || !strings.Contains(string(text), "HELLO") {
		t.Errorf("the console's text lacks what the screen shows: %v\n%s", err, text)
	}
}
