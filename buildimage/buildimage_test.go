package buildimage

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hyper2kvm/initramfs"
)

// tree is an unpacked kernel package, or the test is skipped.
func tree(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("fetches a kernel package")
	}
	for _, program := range []string{"apt-get", "dpkg-deb"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip(err)
		}
	}
	dir, err := FetchKernel(t.Context(), "", slog.New(slog.DiscardHandler))
	if err != nil {
		if os.Getenv("H2K_REQUIRE_VM") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	return dir
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// ownPrograms are stand-ins for our programs: anything static will do.
func ownPrograms(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	source := filepath.Join(dir, "main.go")
	if err := os.WriteFile(source, []byte("package main\n\nfunc main() {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(dir, "program"), source)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return filepath.Join(dir, "program")
}

func TestSameInputsGiveSameBytes(t *testing.T) {
	kernel, program := tree(t), ownPrograms(t)
	if missing := needPrograms(t); missing != nil {
		t.Skip(missing)
	}
	var sums []string
	for range 2 {
		out := t.TempDir()
		if err := Build(t.Context(), Options{Kernel: kernel, Out: out, Agent: program, Canary: program}); err != nil {
			t.Fatal(err)
		}
		sums = append(sums, string(read(t, filepath.Join(out, Sums))))
		left, err := filepath.Glob(filepath.Join(out, ".*"))
		if err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
		// The digests are those of the files (sha256sum is the judge).
		check := exec.Command("sha256sum", "--check", "--strict", Sums)
		check.Dir = out
		if text, err := check.CombinedOutput(); err != nil {
			t.Errorf("sha256sum: %v\n%s", err, text)
		}
		checkInitramfs(t, filepath.Join(out, Initramfs))
		checkTools(t, filepath.Join(out, Tools))
	}
	if sums[0] != sums[1] {
		t.Errorf("two builds differ:\n%s\n%s", sums[0], sums[1])
	}
}

func needPrograms(t *testing.T) error {
	t.Helper()
	_, err := findPrograms()
	if err != nil && os.Getenv("H2K_REQUIRE_VM") != "" {
		t.Fatal(err)
	}
	return err
}

// checkInitramfs has cpio list the archive.
func checkInitramfs(t *testing.T, path string) {
	t.Helper()
	cmd := exec.Command("cpio", "--list", "--quiet")
	cmd.Stdin = bytes.NewReader(read(t, path))
	out, err := cmd.Output()
	if errors.Is(err, exec.ErrNotFound) {
		t.Log("install cpio to have the archive listed")
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	names := strings.Fields(string(out))
	for _, want := range []string{"init", "dev/console", initramfs.AgentPath, initramfs.Modprobe, initramfs.BootModules} {
		if !slices.Contains(names, want) {
			t.Errorf("initramfs lacks %s", want)
		}
	}
}

// checkTools reads the image back: every program runs nothing that the image
// does not hold, and every module's needs are there.
func checkTools(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, data, err := initramfs.ReadManifest(f)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range initramfs.Programs() {
		if len(m.Programs[p.Name]) == 0 {
			t.Errorf("no program %s", p.Name)
		}
		for _, file := range m.Programs[p.Name] {
			if _, ok := m.Files[file]; !ok {
				t.Errorf("%s needs %s, which is not there", p.Name, file)
			}
		}
	}
	for name, mod := range m.Modules {
		for _, n := range mod.Needs {
			if _, ok := m.Modules[n]; !ok && !slices.Contains(m.Builtin, n) {
				t.Errorf("module %s needs %s, which is not there", name, n)
			}
		}
	}
	lvm := m.Programs["lvm"][0]
	got := make([]byte, m.Files[lvm].Size)
	if _, err := f.ReadAt(got, data+m.Files[lvm].Offset); err != nil || !bytes.Equal(got, read(t, "/"+lvm)) {
		t.Errorf("lvm in the image differs from /%s: %v", lvm, err)
	}
}

// TestLibrariesAreWhatTheLinkerLoads compares with ldd.
func TestLibrariesAreWhatTheLinkerLoads(t *testing.T) {
	finder := &libraryFinder{dirs: libraryDirs("/etc/ld.so.conf")}
	tried := 0
	for _, p := range initramfs.Programs() {
		for _, path := range p.Paths {
			if _, err := os.Stat(path); err != nil {
				continue
			}
			tried++
			got, err := finder.closure(path)
			if err != nil {
				t.Error(err)
				break
			}
			out, err := exec.Command("ldd", path).Output()
			if err != nil {
				break // a static program
			}
			for line := range strings.Lines(string(out)) {
				name := strings.Fields(line)[0]
				if strings.HasPrefix(name, "linux-vdso") {
					continue
				}
				base := filepath.Base(name)
				if !slices.ContainsFunc(got, func(g string) bool { return filepath.Base(g) == base }) {
					t.Errorf("%s: ldd loads %s, we do not have it: %v", p.Name, base, got)
				}
			}
			break
		}
	}
	if tried == 0 {
		t.Skip("no program of the list is installed")
	}
}

func TestMissingProgramsAreNamedWithTheirPackages(t *testing.T) {
	err := error(&MissingError{Programs: []initramfs.Program{
		{Name: "xfs_repair", Package: "xfsprogs"}, {Name: "lvm", Package: "lvm2"}, {Name: "mkfs.xfs", Package: "xfsprogs"},
	}})
	for _, want := range []string{"xfs_repair (package xfsprogs)", "lvm (package lvm2)"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q lacks %q", err, want)
		}
	}
	missing, ok := errors.AsType[*MissingError](err)
	if !ok {
		t.Fatalf("err = %v; want a *MissingError", err)
	}
	if got := missing.Packages(); !slices.Equal(got, []string{"lvm2", "xfsprogs"}) {
		t.Errorf("Packages = %v", got)
	}
}

func TestDynamicAgentIsRefused(t *testing.T) {
	path, err := exec.LookPath("ls")
	if err != nil {
		t.Skip(err)
	}
	if err := mustBeStatic(path); err == nil || !strings.Contains(err.Error(), "libc.so") {
		t.Errorf("mustBeStatic(%s) = %v, want an error that names libc", path, err)
	}
}

func TestBadKernelTrees(t *testing.T) {
	empty := t.TempDir()
	noModules := t.TempDir()
	if err := os.MkdirAll(filepath.Join(noModules, "boot"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(noModules, "boot", "vmlinuz-6.1"), []byte("kernel"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{empty, noModules} {
		if _, err := openKernel(dir); err == nil {
			t.Errorf("openKernel(%s) succeeded", dir)
		}
	}
}

func TestSoftBefore(t *testing.T) {
	got := softBefore("pre: crypto-x sha256 post: late pre: more")
	if !slices.Equal(got, []string{"crypto_x", "sha256", "more"}) {
		t.Errorf("softBefore = %v", got)
	}
}

func FuzzUnpackKernel(f *testing.F) {
	image := make([]byte, 0x400)
	copy(image[0x202:], "HdrS")
	f.Add(image)
	f.Add([]byte("MZ"))
	f.Fuzz(func(t *testing.T, in []byte) {
		if out, err := unpackKernel(in); (out == nil) == (err == nil) {
			t.Errorf("%d bytes with error %v", len(out), err)
		}
	})
}

func TestCommandLine(t *testing.T) {
	var stdout, stderr strings.Builder
	for want, args := range map[int][]string{2: {"-no-such-flag"}, 0: {"-h"}, 1: {"-profile", "toaster", "-o", t.TempDir()}} {
		if got := Main(t.Context(), args, &stdout, &stderr); got != want {
			t.Errorf("h2k-image %v = %d, want %d\n%s", args, got, want, stderr.String())
		}
	}
	if !strings.Contains(stderr.String(), "toaster") {
		t.Errorf("stderr %q does not name the profile", stderr.String())
	}
}
