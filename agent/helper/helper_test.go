package helper

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/qemu"
	"hyper2kvm/formats/cpio"
	"hyper2kvm/initramfs"
)

// imageDir finds the helper image, or skips.
func imageDir(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("boots a virtual machine")
	}
	dir := os.Getenv("H2K_IMAGE_DIR")
	if dir == "" {
		dir = "../../build/image"
	}
	_, err := findImage(dir)
	if err == nil {
		_, err = exec.LookPath(qemu.DefaultProgram)
	}
	if err != nil && os.Getenv("H2K_REQUIRE_VM") != "" {
		t.Fatal(err)
	}
	if err != nil {
		t.Skip("run make appliance:", err)
	}
	return dir
}

// changedImage is a copy of the image folder in which change may replace files.
func changedImage(t *testing.T, change func(dir string)) string {
	t.Helper()
	from, err := filepath.Abs(imageDir(t))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range []string{"vmlinux", "vmlinuz", "initramfs.img", "tools.img", initramfs.ContractFile} {
		if err := os.Symlink(filepath.Join(from, name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	change(dir)
	return dir
}

func replace(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func run(t *testing.T, args ...string) {
	t.Helper()
	if _, err := exec.LookPath(args[0]); err != nil {
		t.Skip(err)
	}
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// serve serves an image file over NBD and gives the disk to attach.
func serve(t *testing.T, image string) Disk {
	t.Helper()
	program, err := exec.LookPath("qemu-nbd")
	if err != nil {
		t.Skip("install qemu-utils:", err)
	}
	socket := filepath.Join(t.TempDir(), "nbd")
	cmd := exec.Command(program, "-f", "raw", "--persistent", "-x", "disk", "-k", socket, "--discard=unmap", image)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for range 500 {
		if _, err := os.Stat(socket); err == nil {
			return Disk{Socket: socket, Export: "disk"}
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("qemu-nbd does not listen within 5 s")
	return Disk{}
}

// image makes a sparse file with a file system on it.
func image(t *testing.T, size int64, mkfs ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		t.Fatal(err)
	}
	run(t, append(mkfs, path)...)
	return path
}

// temps lists what temporary files there are, those of other programs aside.
func temps(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, p := range []string{"h2k*", "qemu*", "*.sock"} {
		found, err := filepath.Glob(filepath.Join(os.TempDir(), p))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, found...)
	}
	return out
}

func gone(pid int) bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

type sink struct {
	mu  sync.Mutex
	all []api.Event
}

func (s *sink) Emit(e api.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, e)
}

func plan(vm *VM, disks int) *api.Plan {
	p := &api.Plan{Version: api.Version, Name: "test", Stages: []api.Stage{api.Inspect}}
	for i := range disks {
		p.Sources = append(p.Sources, api.Source{Path: vm.Device(i), Format: "raw"})
	}
	return p
}

// helperError checks that err says, with this code, what happened, and that
// the console's last lines are with it.
func helperError(t *testing.T, err error, words ...string) {
	t.Helper()
	e, ok := errors.AsType[*api.Error](err)
	if !ok || e.Code != api.CodeHelper {
		t.Fatalf("error = %v; want one with code %s", err, api.CodeHelper)
	}
	text := e.Error() + "\n" + e.Detail
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("error lacks %q:\n%s", w, text)
		}
	}
}

// TestPlanRunsOnAttachedDisks has the agent look at two disks of which neither
// holds a guest: it mounts what it finds, needing modules of the tools image,
// and says so with its own error.
func TestPlanRunsOnAttachedDisks(t *testing.T) {
	dir := imageDir(t)
	disks := []Disk{
		serve(t, image(t, 64<<20, "mkfs.ext4", "-q", "-F")),
		serve(t, image(t, 400<<20, "mkfs.xfs", "-q")),
	}
	start := time.Now()
	vm, err := Start(t.Context(), Config{ImageDir: dir, Disks: disks})
	if err != nil {
		t.Fatal(err, "\n", api.AsError(err).Detail)
	}
	t.Logf("ready after %v on %v", time.Since(start), vm.Accel())
	_, err = vm.Agent().Run(t.Context(), plan(vm, 2), "", &sink{})
	if e, ok := errors.AsType[*api.Error](err); !ok || e.Code != api.CodeNoRoot {
		t.Errorf("Run = %v; want code %s from the agent\n%s", err, api.CodeNoRoot, vm.Console())
	}
	t.Logf("first plan ended after %v", time.Since(start))
	if err := vm.Close(); err != nil {
		t.Errorf("Close = %v", err)
	}
	if !gone(vm.PID()) {
		t.Error("QEMU is still there after Close")
	}
}

func TestKilledQEMUEndsTheRun(t *testing.T) {
	dir := imageDir(t)
	before := temps(t)
	vm, err := Start(t.Context(), Config{ImageDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(vm.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	_, err = vm.Agent().Run(t.Context(), plan(vm, 0), "", &sink{})
	helperError(t, err, "QEMU ended", "killed", "h2k-agent: ready")
	helperError(t, vm.Close(), "killed")
	if took := time.Since(start); took > time.Minute {
		t.Errorf("that took %v", took)
	}
	if after := temps(t); len(after) > len(before) {
		t.Errorf("temporary files: %v before, %v after", before, after)
	}
}

func TestContextEndsTheMachine(t *testing.T) {
	dir := imageDir(t)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(300*time.Millisecond, cancel)
	start := time.Now()
	if _, err := Start(ctx, Config{ImageDir: dir}); !errors.Is(err, context.Canceled) {
		t.Errorf("Start = %v, want context.Canceled", err)
	}
	if took := time.Since(start); took > time.Minute {
		t.Errorf("that took %v", took)
	}
}

// TestPanickingAgent boots an initramfs whose agent panics.
func TestPanickingAgent(t *testing.T) {
	source := filepath.Join(t.TempDir(), "main.go")
	program := filepath.Join(t.TempDir(), "agent")
	text := "package main\n\nfunc main() { panic(\"the agent of this test panics\") }\n"
	if err := os.WriteFile(source, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-o", program, source)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	dir := changedImage(t, func(dir string) {
		path := filepath.Join(dir, "initramfs.img")
		// The kernel unpacks what follows over what came before.
		var more bytes.Buffer
		agent := cpio.Member{Name: "bin/h2k-agent", Mode: cpio.TypeFile | 0o755, Data: read(t, program)}
		if err := cpio.Write(&more, []cpio.Member{agent}); err != nil {
			t.Fatal(err)
		}
		replace(t, path, append(read(t, path), more.Bytes()...))
	})
	_, err := Start(t.Context(), Config{ImageDir: dir})
	helperError(t, err, "the agent of this test panics", "QEMU ended")
}

// TestSilentKernel boots a kernel that halts at its first instruction.
func TestSilentKernel(t *testing.T) {
	dir := changedImage(t, func(dir string) {
		path := filepath.Join(dir, "vmlinux")
		data := read(t, path)
		at := pvhEntry(t, data)
		copy(data[at:], []byte{0xf4, 0xeb, 0xfd}) // hlt; jmp back
		replace(t, path, data)
	})
	start := time.Now()
	_, err := Start(t.Context(), Config{ImageDir: dir, StartTimeout: 3 * time.Second})
	helperError(t, err, "does not answer within 3s")
	if took := time.Since(start); took > time.Minute {
		t.Errorf("that took %v", took)
	}
}

// pvhEntry is the file offset of the instruction that QEMU starts a kernel at:
// the address is in the Xen note of type 18 (XEN_ELFNOTE_PHYS32_ENTRY).
func pvhEntry(t *testing.T, data []byte) int {
	t.Helper()
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	var entry uint64
	notes, err := f.Section(".notes").Data()
	if err != nil {
		t.Fatal(err)
	}
	for len(notes) >= 12 {
		name := (binary.LittleEndian.Uint32(notes) + 3) &^ 3
		desc := (binary.LittleEndian.Uint32(notes[4:]) + 3) &^ 3
		if binary.LittleEndian.Uint32(notes[8:]) == 18 && string(notes[12:15]) == "Xen" {
			entry = uint64(binary.LittleEndian.Uint32(notes[12+name:]))
		}
		notes = notes[12+name+desc:]
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_LOAD && entry >= p.Paddr && entry < p.Paddr+p.Filesz {
			return int(p.Off + entry - p.Paddr)
		}
	}
	t.Fatalf("no segment holds the entry %#x", entry)
	return 0
}

func TestMissingImageIsNamed(t *testing.T) {
	_, err := Start(t.Context(), Config{ImageDir: t.TempDir()})
	if e, ok := errors.AsType[*api.Error](err); !ok || e.Code != api.CodeHelperImage || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Start = %v; want code %s", err, api.CodeHelperImage)
	}
}

func TestImageOfAnotherBuildIsNamed(t *testing.T) {
	dir := changedImage(t, func(dir string) { replace(t, filepath.Join(dir, initramfs.ContractFile), []byte("0\n")) })
	_, err := Start(t.Context(), Config{ImageDir: dir})
	if e, ok := errors.AsType[*api.Error](err); !ok || e.Code != api.CodeHelperImage || !errors.Is(err, initramfs.ErrContract) {
		t.Errorf("Start = %v; want code %s", err, api.CodeHelperImage)
	}
}

func TestAbsentDiskIsNamed(t *testing.T) {
	dir := imageDir(t)
	_, err := Start(t.Context(), Config{ImageDir: dir, Disks: []Disk{{Socket: "/nonexistent/nbd", Export: "disk0"}}})
	helperError(t, err, "/nonexistent/nbd")
}

func TestKeysAreNotInArguments(t *testing.T) {
	k, err := newKeys()
	if err != nil {
		t.Fatal(err)
	}
	c := machine(Config{}, qemu.Accel{Name: qemu.TCG}, boot{}, k)
	for _, a := range c.Args {
		if strings.Contains(a, "PRIVATE KEY") {
			t.Errorf("argument %q holds the host key", a)
		}
	}
	if len(c.Blobs) != 2 {
		t.Errorf("%d blobs, want the two keys", len(c.Blobs))
	}
}
