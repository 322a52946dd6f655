package mounted_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"hyper2kvm/agent/mounted"
	"hyper2kvm/fixes/guest"
)

// TestMain lets this test program be the program that a guest has.
func TestMain(m *testing.M) {
	if what := os.Getenv("H2K_GUEST_PROGRAM"); what != "" {
		os.Exit(guestProgram(what))
	}
	os.Exit(m.Run())
}

func guestProgram(what string) int {
	switch what {
	case "look":
		for _, name := range []string{"/etc/os", "/proc/self/status", "/dev/null", "/sys/kernel", "/run/lock"} {
			if _, err := os.Stat(name); err != nil {
				fmt.Println("missing:", err)
			}
		}
		ifaces, _ := net.Interfaces()
		for _, i := range ifaces {
			fmt.Println("interface", i.Name)
		}
		fmt.Println("path", os.Getenv("PATH"), "extra", os.Getenv("EXTRA"))
		_ = os.WriteFile("/run/left", nil, 0o644)
		_ = os.WriteFile("/etc/written", []byte("by the guest"), 0o644)
	case "rearrange":
		if err := rearrange(); err != nil {
			fmt.Println(err)
			return 1
		}
	case "loud":
		for i := range 100_000 {
			fmt.Println("line", i)
		}
	case "fail":
		fmt.Fprintln(os.Stderr, "no space")
		return 3
	case "hang", "daemon":
		if what == "daemon" {
			cmd := exec.Command("/usr/sbin/prog")
			cmd.Env = []string{"H2K_GUEST_PROGRAM=hang"}
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
			if err := cmd.Start(); err != nil {
				fmt.Println(err)
			}
			return 0
		}
		time.Sleep(time.Minute)
	}
	return 0
}

// withProgram makes a guest whose /usr/sbin/prog is this test program.
func withProgram(t *testing.T) (string, *mounted.Runner) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root for chroot and mount namespaces")
	}
	dir := t.TempDir()
	for _, d := range []string{"dev", "proc", "sys", "run", "etc", "usr/sbin"} {
		must(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	must(t, os.WriteFile(filepath.Join(dir, "etc/os"), nil, 0o644))
	self, err := os.Executable()
	must(t, err)
	copyFile(t, self, filepath.Join(dir, "usr/sbin/prog"))
	libs, _ := exec.Command("ldd", self).Output() // fails for a static program, which needs none
	for _, lib := range regexp.MustCompile(`/\S+`).FindAllString(string(libs), -1) {
		must(t, os.MkdirAll(filepath.Join(dir, filepath.Dir(lib)), 0o755))
		copyFile(t, lib, filepath.Join(dir, lib))
	}
	return dir, mounted.NewRunner(open(t, dir))
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	must(t, err)
	must(t, os.WriteFile(to, data, 0o755))
}

func run(ctx context.Context, r *mounted.Runner, what string) (string, error) {
	out, err := r.Run(ctx, guest.Command{Args: []string{"prog"}, Env: []string{"H2K_GUEST_PROGRAM=" + what, "EXTRA=yes"}})
	return string(out), err
}

func TestRun(t *testing.T) {
	dir, r := withProgram(t)
	out, err := run(t.Context(), r, "look")
	must(t, err)
	if strings.Contains(out, "missing") || !strings.Contains(out, "extra yes") || !strings.Contains(out, "/usr/sbin:") {
		t.Errorf("the program saw:\n%s", out)
	}
	if n := strings.Count(out, "interface"); n > 1 || strings.Contains(out, "interface eth0") {
		t.Errorf("the program sees interfaces beside its own lo:\n%s", out)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "etc/written")); err != nil || string(data) != "by the guest" {
		t.Errorf("what the program wrote: %q, %v", data, err)
	}
	if left, err := os.ReadDir(filepath.Join(dir, "run")); err != nil || len(left) != 0 {
		t.Errorf("/run of the guest holds %v, %v", left, err)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	must(t, err)
	if strings.Contains(string(mounts), dir) {
		t.Errorf("still mounted:\n%s", mounts)
	}
}

func TestRunFails(t *testing.T) {
	_, r := withProgram(t)
	out, err := run(t.Context(), r, "fail")
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 3 || out != "no space\n" {
		t.Errorf("a failing program gives %q, %v", out, err)
	}
	if _, err := r.Run(t.Context(), guest.Command{Args: []string{"absent"}}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a program that is not there gives %v", err)
	}
	out, err = run(t.Context(), r, "loud")
	must(t, err)
	if len(out) > 300<<10 || !strings.HasSuffix(out, "line 99999\n") || !strings.HasPrefix(out, "[…]\n") {
		t.Errorf("a loud program gives %d bytes from %.20q to %q", len(out), out, out[max(0, len(out)-20):])
	}
}

func TestRunEndsWithContext(t *testing.T) {
	_, r := withProgram(t)
	ctx, stop := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer stop()
	start := time.Now()
	if _, err := run(ctx, r, "hang"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a program cut off gives %v", err)
	}
	if took := time.Since(start); took > time.Minute {
		t.Errorf("it took %v to end it", took)
	}
}

func TestRunKillsWhatIsLeft(t *testing.T) {
	dir, r := withProgram(t)
	_, err := run(t.Context(), r, "daemon")
	must(t, err)
	for range 50 {
		if len(running(t, dir)) == 0 {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("left running in the guest: %v", running(t, dir))
}

func running(t *testing.T, dir string) []string {
	t.Helper()
	roots, err := filepath.Glob("/proc/[0-9]*/root")
	must(t, err)
	var out []string
	for _, root := range roots {
		if to, err := os.Readlink(root); err == nil && to == dir {
			out = append(out, root)
		}
	}
	return out
}

// TestRunRefusesLinks has a guest whose /dev is a link to another folder.
func TestRunRefusesLinks(t *testing.T) {
	dir, r := withProgram(t)
	must(t, os.Remove(filepath.Join(dir, "dev")))
	must(t, os.Symlink("../../../../etc", filepath.Join(dir, "dev")))
	if out, err := run(t.Context(), r, "look"); err == nil {
		t.Errorf("a guest with a link for /dev ran: %s", out)
	}
}
