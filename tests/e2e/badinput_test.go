package e2e

import (
	"hyper2kvm/formats/formatstest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// bad is an input that must be refused, and what the user is told.
type bad struct {
	name string
	// make makes the source in dir and returns its path.
	make func(t *testing.T, dir string) string
	args []string
	exit int
	code string
}

func badInputs() []bad {
	return []bad{
		{"missing", func(t *testing.T, dir string) string { return filepath.Join(dir, "none.vmdk") }, nil, 1, "H2K-SOURCE-MISSING"},
		{"empty", file("empty.vmdk", ""), nil, 1, "H2K-SOURCE-EMPTY"},
		{"text", file("notes.vmdk", strings.Repeat("not a disk image\n", 99)), nil, 1, "H2K-FORMAT-UNKNOWN"},
		{"directory", func(t *testing.T, dir string) string { return mkdir(t, dir, "folder.vmdk") }, nil, 1, "H2K-SOURCE-NOT-A-DISK"},
		{"truncated vmdk", truncated("vmdk", "trunc.vmdk"), nil, 1, "H2K-FORMAT-TRUNCATED"},
		{"truncated qcow2", truncated("qcow2", "trunc.qcow2"), nil, 1, "H2K-FORMAT-TRUNCATED"},
		{"parent elsewhere", backedBy("/etc/shadow"), nil, 3, "H2K-POLICY"},
		{"parent missing", backedBy("gone.qcow2"), nil, 1, "H2K-CHAIN-BROKEN"},
	}
}

func file(name, content string) func(*testing.T, string) string {
	return func(t *testing.T, dir string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
}

func mkdir(t *testing.T, dir, name string) string {
	path := filepath.Join(dir, name)
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// diskWithData makes an image of 64 MiB that holds a partition table and data
// at its end.
func diskWithData(t *testing.T, dir, format, name string) string {
	t.Helper()
	raw := filepath.Join(dir, "content.raw")
	data := make([]byte, 64<<20)
	copy(data[60<<20:], strings.Repeat("migrate me ", 300_000))
	data[510], data[511] = 0x55, 0xAA
	if err := os.WriteFile(raw, data, 0o644); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(raw)
	path := filepath.Join(dir, name)
	formatstest.QemuImg(t, "convert", "-f", "raw", "-O", format, raw, path)
	return path
}

func truncated(format, name string) func(*testing.T, string) string {
	return func(t *testing.T, dir string) string {
		path := diskWithData(t, dir, format, name)
		s, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, s.Size()/2); err != nil {
			t.Fatal(err)
		}
		return path
	}
}

func backedBy(parent string) func(*testing.T, string) string {
	return func(t *testing.T, dir string) string {
		path := filepath.Join(dir, "child.qcow2")
		formatstest.QemuImg(t, "create", "-f", "qcow2", "-u", "-b", parent, "-F", "raw", path, "1M")
		return path
	}
}

func TestBadInputIsRefused(t *testing.T) {
	t.Parallel()
	requireVM(t)
	for _, b := range badInputs() {
		t.Run(b.name, func(t *testing.T) {
			in, out := t.TempDir(), t.TempDir()
			src := b.make(t, in)
			if s, err := os.Stat(src); err == nil && s.Mode().IsRegular() {
				unchanged(t, src)
			}
			r := h2k(t, append([]string{"convert", src, "-o", filepath.Join(out, "x.qcow2")}, b.args...)...).want(t, b.exit)
			for _, part := range []string{b.code, filepath.Base(src), "next:"} {
				if !strings.Contains(r.stderr, part) {
					t.Errorf("the error does not say %q:\n%s", part, r.stderr)
				}
			}
			nothingLeft(t, out)
		})
	}
}

func TestUnreadableSource(t *testing.T) {
	t.Parallel()
	requireVM(t)
	if os.Geteuid() == 0 {
		// root reads everything, so the binary runs as nobody.
		if _, err := exec.LookPath("setpriv"); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	src := diskWithData(t, dir, "vmdk", "secret.vmdk")
	if err := os.Chmod(src, 0); err != nil {
		t.Fatal(err)
	}
	// A folder that nobody may enter says the same, for any user.
	r := h2kAsNobody(t, "convert", src, "-o", filepath.Join(dir, "x.qcow2")).want(t, 1)
	if !strings.Contains(r.stderr, "H2K-SOURCE-READ") {
		t.Errorf("the error does not say H2K-SOURCE-READ:\n%s", r.stderr)
	}
}

func h2kAsNobody(t *testing.T, args ...string) result {
	t.Helper()
	if os.Geteuid() != 0 {
		return h2k(t, args...)
	}
	bin := filepath.Join(t.TempDir(), "h2k")
	data, err := os.ReadFile(filepath.Join(root, "bin/h2k"))
	if err == nil {
		err = os.WriteFile(bin, data, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	for dir := filepath.Dir(bin); dir != "/" && dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	src := filepath.Dir(args[1])
	for dir := src; dir != "/" && dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("setpriv", append([]string{"--reuid=65534", "--regid=65534", "--clear-groups", bin}, args...)...)
	var errOut strings.Builder
	cmd.Stderr = &errOut
	_ = cmd.Run()
	return result{code: cmd.ProcessState.ExitCode(), stderr: errOut.String()}
}

func TestOutputThatExistsIsKept(t *testing.T) {
	t.Parallel()
	requireVM(t)
	dir := t.TempDir()
	src := diskWithData(t, dir, "vmdk", "src.vmdk")
	unchanged(t, src)
	out := file("out.qcow2", "precious")(t, dir)
	r := h2k(t, "convert", "--no-fix", src, "-o", out).want(t, 3)
	if !strings.Contains(r.stderr, "H2K-OUTPUT-EXISTS") || !strings.Contains(r.stderr, "--force") {
		t.Errorf("the error names neither code nor --force:\n%s", r.stderr)
	}
	if data, _ := os.ReadFile(out); string(data) != "precious" {
		t.Error("the existing output was touched")
	}
	h2k(t, "convert", "--no-fix", "--force", src, "-o", out).want(t, 0)
	formatstest.QemuImg(t, "compare", src, out)
}

func TestOutputOnSource(t *testing.T) {
	t.Parallel()
	requireVM(t)
	dir := t.TempDir()
	src := diskWithData(t, dir, "vmdk", "src.vmdk")
	unchanged(t, src)
	link := filepath.Join(dir, "link.qcow2")
	if err := os.Link(src, link); err != nil {
		t.Fatal(err)
	}
	for _, out := range []string{src, link} {
		r := h2k(t, "convert", "--no-fix", "--force", src, "-o", out).want(t, 3)
		if !strings.Contains(r.stderr, "H2K-OUTPUT-IS-SOURCE") {
			t.Errorf("the error does not say H2K-OUTPUT-IS-SOURCE:\n%s", r.stderr)
		}
	}
}

// small mounts a tmpfs of the given size.
func small(t *testing.T, size string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting a small tmpfs takes root")
	}
	dir := t.TempDir()
	if msg, err := exec.Command("mount", "-t", "tmpfs", "-o", "size="+size, "tmpfs", dir).CombinedOutput(); err != nil {
		t.Fatalf("mount tmpfs: %v\n%s", err, msg)
	}
	t.Cleanup(func() { _ = exec.Command("umount", "-l", dir).Run() })
	return dir
}

func TestNoSpaceBefore(t *testing.T) {
	t.Parallel()
	requireVM(t)
	src := diskWithData(t, t.TempDir(), "vmdk", "src.vmdk")
	unchanged(t, src)
	dir := small(t, "1m")
	r := h2k(t, "convert", "--no-fix", src, "-o", filepath.Join(dir, "x.qcow2")).want(t, 1)
	if !strings.Contains(r.stderr, "H2K-NO-SPACE") {
		t.Errorf("the error does not say H2K-NO-SPACE:\n%s", r.stderr)
	}
	nothingLeft(t, dir)
}

func TestUnknownGuestIsRefusedUnlessNoFix(t *testing.T) {
	t.Parallel()
	requireVM(t)
	dir := t.TempDir()
	src := diskWithData(t, dir, "vmdk", "src.vmdk")
	unchanged(t, src)
	out := filepath.Join(dir, "x.qcow2")
	r := h2k(t, "convert", src, "-o", out).want(t, 3)
	if !strings.Contains(r.stderr, "H2K-GUEST-UNKNOWN") || !strings.Contains(r.stderr, "--no-fix") {
		t.Errorf("the error names neither code nor --no-fix:\n%s", r.stderr)
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("an unknown guest was converted")
	}
	h2k(t, "convert", "--no-fix", src, "-o", out).want(t, 0)
	formatstest.QemuImg(t, "compare", src, out)
}
