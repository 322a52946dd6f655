package e2e

import (
	"hyper2kvm/formats/formatstest"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// killOnce starts h2k and kills it with SIGKILL once when says so; it reports
// whether the run had ended by itself before.
func killOnce(t *testing.T, when func() bool, args ...string) (ended bool) {
	t.Helper()
	cmd := exec.Command(filepath.Join(root, "bin/h2k"), args...)
	cmd.Env = append(os.Environ(), ofTest(t))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	for !when() {
		select {
		case <-done:
			return true
		case <-time.After(time.Millisecond):
		}
	}
	_ = cmd.Process.Kill()
	<-done
	return false
}

// killAfter kills h2k after d.
func killAfter(t *testing.T, d time.Duration, args ...string) (ended bool) {
	t.Helper()
	end := time.Now().Add(d)
	return killOnce(t, func() bool { return time.Now().After(end) }, args...)
}

// killWhen kills h2k as soon as the file holds the text; it fails the test where
// the run ends before.
func killWhen(t *testing.T, file, text string, args ...string) {
	t.Helper()
	says := func() bool {
		data, err := os.ReadFile(file)
		return err == nil && strings.Contains(string(data), text)
	}
	if killOnce(t, says, args...) {
		t.Fatalf("the run ended before %s said %s", file, text)
	}
}

// virtualMachines lists the QEMU processes that this test's runs of h2k have
// started: their environment names the test.
func virtualMachines(t *testing.T) string {
	t.Helper()
	found, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, path := range found {
		env, err := os.ReadFile(path)
		if err != nil || !strings.Contains("\x00"+string(env), "\x00"+ofTest(t)+"\x00") {
			continue // gone, somebody else's, or of another test
		}
		line, err := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
		if err == nil && strings.Contains(string(line), "qemu-system") {
			list = append(list, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return strings.Join(list, "\n")
}

// ofTest is a word of the environment of what a test starts.
func ofTest(t *testing.T) string { return "H2K_TEST=" + t.Name() }

func waitNoVM(t *testing.T) {
	t.Helper()
	for range 50 {
		if virtualMachines(t) == "" {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Errorf("virtual machines outlive h2k:\n%s", virtualMachines(t))
}

func TestKilledCopyIsResumedOrStartsClean(t *testing.T) {
	t.Parallel()
	requireVM(t)
	dir := t.TempDir()
	src := diskWithData(t, dir, "vmdk", "src.vmdk")
	unchanged(t, src)
	for i := range 12 {
		out := filepath.Join(dir, "out.qcow2")
		wait := time.Duration(rand.IntN(120)) * time.Millisecond
		ended := killAfter(t, wait, "convert", "--no-fix", src, "-o", out)
		if _, err := os.Stat(out); err == nil {
			formatstest.QemuImg(t, "compare", src, out) // whole, whenever it is there
		} else if ended {
			t.Fatal("the run ended without an output")
		} else if _, err := os.Stat(filepath.Join(out+".h2k-job", "plan.yaml")); err == nil && i%2 == 0 {
			h2k(t, "resume", out).want(t, 0)
			formatstest.QemuImg(t, "compare", src, out)
		} else {
			h2k(t, "convert", "--no-fix", src, "-o", out).want(t, 0)
			formatstest.QemuImg(t, "compare", src, out)
		}
		for _, f := range []string{out, filepath.Join(dir, "out.xml"), filepath.Join(dir, "out.report.json"), filepath.Join(dir, "out.report.html")} {
			_ = os.Remove(f)
		}
	}
	_ = os.RemoveAll(filepath.Join(dir, "out.qcow2.h2k-job"))
	nothingLeft(t, dir, "src.vmdk")
}

// TestKilledRepairInPlace kills a repair in place early, and while the image is
// being written: an image that is half of each can neither be read nor stays.
func TestKilledRepairInPlace(t *testing.T) {
	t.Parallel()
	requireVM(t)
	dir := t.TempDir()
	disk := tinyDisk(t, dir, ext4(t, dir, "root", tinyGuest(), 256*mib))
	before := diffs(h2k(t, "fix", "--dry-run", "--json", disk).want(t, 0))
	sum := digest(t, disk)
	if killAfter(t, 1500*time.Millisecond, "fix", "--in-place", disk) {
		t.Log("the repair was done before it could be killed")
	} else if digest(t, disk) != sum {
		t.Error("killed before anything was repaired, and yet the image changed")
	}
	waitNoVM(t)
	killWhen(t, filepath.Join(disk+".h2k-job", "journal"), `"committing": true`, "fix", "--in-place", disk)
	waitNoVM(t)
	h2k(t, "fix", "--in-place", "--json", disk).want(t, 0)
	if after := diffs(h2k(t, "fix", "--dry-run", "--json", disk).want(t, 0)); after != "" {
		t.Errorf("the repair that was finished is not whole; a second run would change:\n%s", after)
	}
	h2k(t, "undo", "--json", disk).want(t, 0)
	if again := diffs(h2k(t, "fix", "--dry-run", "--json", disk).want(t, 0)); again != before {
		t.Errorf("undo did not give the files back; a plan says\n%s\nand said before\n%s", again, before)
	}
	nothingLeft(t, dir, "root.d", "root.ext4", "tiny.raw")
}

func TestKilledRepairIsResumed(t *testing.T) {
	t.Parallel()
	src := guest(t, "debian12-bios")
	unchanged(t, src)
	dir := t.TempDir()
	out := filepath.Join(dir, "out.qcow2")
	if killOnce(t, func() bool { return virtualMachines(t) != "" }, "convert", src, "-o", out) {
		t.Fatal("the run ended, and no virtual machine was seen")
	}
	waitNoVM(t)
	for _, wait := range []time.Duration{2 * time.Second, 4 * time.Second, 7 * time.Second} {
		if killAfter(t, wait, "convert", src, "-o", out) {
			break
		}
		waitNoVM(t)
	}
	if _, err := os.Stat(filepath.Join(out+".h2k-job", "plan.yaml")); err == nil {
		h2k(t, "resume", out).want(t, 0)
	}
	waitNoVM(t)
	formatstest.QemuImg(t, "check", out)
	secondRunChangesNothing(t, out)
	nothingLeft(t, dir, "out.qcow2", "out.xml", "out.report.json", "out.report.html")
}
