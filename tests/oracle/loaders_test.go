package oracle

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hyper2kvm/agent/validate"
	"hyper2kvm/fixes/bootmenu"
)

// Debian's boot loaders. The two GRUBs are told apart by where each looks for
// its configuration.
const (
	realGrub    = "/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed" // EFI/debian/grub.cfg
	realGrubCD  = "/usr/lib/grub/x86_64-efi-signed/gcdx64.efi.signed"  // boot/grub/grub.cfg
	realSystemd = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi"
)

// bootESP boots a folder as EFI system partition and gives what the loaders in
// it said with CHOSEN, until they said CHOSEN-end.
func bootESP(t *testing.T, dir string) []string {
	t.Helper()
	fw, err := validate.FindUEFI()
	if err != nil {
		t.Fatal(err)
	}
	vars, err := os.ReadFile(fw.Vars)
	if err != nil {
		t.Fatal(err)
	}
	varsFile := filepath.Join(t.TempDir(), "vars.fd")
	put(t, varsFile, vars)
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-m", "256", "-nographic", "-no-reboot", "-net", "none",
		"-drive", "if=pflash,unit=0,format=raw,readonly=on,file="+fw.Code, "-drive", "if=pflash,unit=1,format=raw,file="+varsFile,
		"-drive", "if=virtio,format=raw,readonly=on,file=fat:"+strings.ReplaceAll(dir, ",", ",,"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said []string
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	lines.Split(bufio.ScanWords)
	word := regexp.MustCompile(`CHOSEN-[a-z0-9-]+`)
	for lines.Scan() {
		if w := word.FindString(lines.Text()); w != "" && !slices.Contains(said, w) {
			said = append(said, w)
		}
		if slices.Contains(said, "CHOSEN-end") {
			break
		}
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // killed
	return said
}

// needLoaders skips where the loaders are missing, and fails where CI promised
// them.
func needLoaders(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("boots virtual machines")
	}
	_, missing := exec.LookPath("qemu-system-x86_64")
	if _, err := validate.FindUEFI(); missing == nil {
		missing = err
	}
	for _, name := range []string{realGrub, realGrubCD, realSystemd} {
		if _, err := os.Stat(name); missing == nil {
			missing = err
		}
	}
	switch {
	case missing == nil:
	case os.Getenv("H2K_REQUIRE_VM") != "":
		t.Fatalf("packages ovmf, grub-efi-amd64-signed and systemd-boot-efi are needed: %v", missing)
	default:
		t.Skipf("packages ovmf, grub-efi-amd64-signed and systemd-boot-efi: %v", missing)
	}
}

func put(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func program(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	put(t, to, data)
}

// TestGrubDefault asks the real GRUB which entry it starts, for one way after
// the other to name a default: each entry says who it is, and goes on with the
// next configuration.
func TestGrubDefault(t *testing.T) {
	needLoaders(t)
	dir := t.TempDir()
	program(t, realGrub, filepath.Join(dir, "EFI/BOOT/BOOTX64.EFI"))
	var want []string
	defaults := []struct{ setting, saved string }{
		{"id-sub>Three >> y", ""}, {"1>0", ""}, {"${saved_entry}", "id-sub>id-two"}, {"Sub >> x>1", ""}, {"It's four", ""},
		{"gone", ""}, {"${saved_entry}", "It's four"}, {"1", ""}, {"id-sub>gone", ""}, {"2", ""}, {"${saved_entry}", ""}, {"written", ""},
	}
	for i, d := range defaults {
		next := fmt.Sprintf("configfile /EFI/debian/%d.cfg", i+1)
		text := fmt.Sprintf(`set saved_entry=
load_env -f /EFI/debian/%[1]d.env
set timeout=0
set timeout_style=hidden
set default="%[3]s"
menuentry 'One' --id id-one { echo CHOSEN-%[1]d-one ; %[2]s; }
submenu 'Sub > x' --id id-sub {
	menuentry 'Two' --id id-two { echo CHOSEN-%[1]d-two ; %[2]s; }
	menuentry 'Three > y' { echo CHOSEN-%[1]d-three ; %[2]s; }
}
menuentry "It's four" { echo CHOSEN-%[1]d-four ; %[2]s; }
`, i, next, d.setting)
		if d.setting == "written" {
			text = string(bootmenu.SetGrubDefault([]byte(text), "id-sub>Three >> y"))
		}
		env, _ := bootmenu.ParseEnv([]byte(bootmenu.EnvHeader + strings.Repeat("#", bootmenu.EnvSize-len(bootmenu.EnvHeader))))
		if d.saved != "" {
			env.Set("saved_entry", d.saved)
		}
		block, _ := env.Bytes()
		put(t, filepath.Join(dir, fmt.Sprintf("EFI/debian/%d.env", i)), block)
		name := fmt.Sprintf("EFI/debian/%d.cfg", i)
		if i == 0 {
			name = "EFI/debian/grub.cfg"
		}
		put(t, filepath.Join(dir, name), []byte(text))
		want = append(want, fmt.Sprintf("CHOSEN-%d-%s", i, grubChoice(t, text, d.saved)))
	}
	put(t, filepath.Join(dir, fmt.Sprintf("EFI/debian/%d.cfg", len(defaults))), []byte("echo CHOSEN-end\nhalt\n"))
	if diff := cmp.Diff(append(want, "CHOSEN-end"), bootESP(t, dir)); diff != "" {
		t.Errorf("what we expect and what GRUB does: %s", diff)
	}
}

// grubChoice is what we believe GRUB to start.
func grubChoice(t *testing.T, text, saved string) string {
	t.Helper()
	// The entries of this menu have their commands on one line.
	g := bootmenu.ParseGrub([]byte(strings.NewReplacer(" { echo", " {\necho", "; }", ";\n}").Replace(text)))
	name := g.Default
	if name == "${saved_entry}" {
		name = saved
	}
	n := bootmenu.Find(g.Nodes, name)
	if n == nil {
		t.Fatalf("no entry for %q", name)
	}
	return map[string]string{"One": "one", "Two": "two", "Three > y": "three", "It's four": "four"}[n.Title]
}

// TestSystemdBootDefault asks the real systemd-boot: the entry that we expect
// starts one program, all others another.
func TestSystemdBootDefault(t *testing.T) {
	if os.Getenv("H2K_GUESTS") != "all" {
		t.Skip("boots firmware several times; runs in make test-guests")
	}
	needLoaders(t)
	for name, test := range map[string]struct {
		conf    string
		entries []string // file names, with sort key and version after blanks
	}{
		"sort keys and versions and used up attempts": {"", []string{"z - 9", "d1 debian 6.1.0-9", "d2 debian 6.1.0-25", "a1 arch 6.9~rc1", "a2 arch 6.9", "a3+0-3 arch 7.0"}},
		"a pattern in other letters":                  {"default M-6*\n", []string{"m-6.1.0-9", "m-6.1.0-25", "m-6.1-rc9", "n-1 debian 1"}},
		"file names":                                  {"", []string{"m-6.1.0-9.el8", "m-6.1.0-9.5.1.el8_1", "m-6.1.0-9~x"}},
		"written":                                     {"timeout 0\ndefault m-2*\n", []string{"m-1", "m-2", "m-3"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			program(t, realSystemd, filepath.Join(dir, "EFI/BOOT/BOOTX64.EFI"))
			program(t, realGrub, filepath.Join(dir, "other.efi"))
			program(t, realGrubCD, filepath.Join(dir, "chosen.efi"))
			put(t, filepath.Join(dir, "EFI/debian/grub.cfg"), []byte("echo CHOSEN-wrong\necho CHOSEN-end\nhalt\n"))
			put(t, filepath.Join(dir, "boot/grub/grub.cfg"), []byte("echo CHOSEN-right\necho CHOSEN-end\nhalt\n"))
			conf := []byte(test.conf)
			if name == "written" {
				conf = bootmenu.SetLoaderDefault(conf, "m-1.conf")
			}
			put(t, filepath.Join(dir, "loader/loader.conf"), conf)
			expected := systemdChoice(test.entries, bootmenu.LoaderDefault(conf))
			for _, e := range test.entries {
				target := "other"
				if e == expected {
					target = "chosen"
				}
				file, text := entryText(e)
				put(t, filepath.Join(dir, "loader/entries", file), []byte(text+"efi /"+target+".efi\n"))
			}
			if diff := cmp.Diff([]string{"CHOSEN-right", "CHOSEN-end"}, bootESP(t, dir)); diff != "" {
				t.Errorf("%s is not what systemd-boot starts: %s", expected, diff)
			}
		})
	}
}

// entryText is the file of an entry that is written "name key version".
func entryText(e string) (file, text string) {
	w := append(strings.Fields(e), "-", "-")
	text = "title " + w[0] + "\n"
	if w[1] != "-" {
		text += "sort-key " + w[1] + "\n"
	}
	if w[2] != "-" {
		text += "version " + w[2] + "\n"
	}
	return w[0] + ".conf", text
}

// systemdChoice is what we believe systemd-boot to start.
func systemdChoice(entries []string, pattern string) string {
	var list []bootmenu.BLS
	byID := map[string]string{}
	for _, e := range entries {
		file, text := entryText(e)
		b := bootmenu.ParseBLS(file, []byte(text))
		byID[b.ID] = e
		list = append(list, b)
	}
	bootmenu.SortBLS(list)
	for _, b := range list {
		if pattern != "" && bootmenu.MatchLoader(pattern, b.ID+".conf") {
			return byID[b.ID]
		}
	}
	return byID[list[0].ID]
}
