package linux

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hyper2kvm/fixes/bootmenu"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/guest/guesttest"
	"hyper2kvm/fixes/linux/cmdline"
	"hyper2kvm/fixes/linux/lvmconf"
)

// outside returns a folder of real inputs.
func outside(t *testing.T, name string) string {
	t.Helper()
	root := os.Getenv("H2K_TESTDATA")
	if root == "" {
		t.Skip("H2K_TESTDATA is not set: real configuration files are not at hand")
	}
	return filepath.Join(root, name)
}

// twoDisks has an ext4, a swap and a volume group.
func twoDisks() *guest.Facts {
	return &guest.Facts{
		OS: guest.OS{Family: "linux", ID: "x"}, Arch: "x86_64", Firmware: "bios", Init: "systemd",
		Disks: []guest.Disk{{Index: 0, Partitions: []guest.Partition{{Number: 1, UUID: "d0-01"}, {Number: 2, UUID: "d0-02"}}}},
		Filesystems: []guest.Filesystem{
			{Disk: 0, Partition: 1, Type: "ext4", UUID: "10000000-0000-4000-8000-000000000001", PartUUID: "d0-01"},
			{Disk: 0, Partition: 2, Type: "swap", UUID: "10000000-0000-4000-8000-000000000002", PartUUID: "d0-02"},
			{Disk: -1, Volume: "vg00/lv00", Type: "ext3", UUID: "10000000-0000-4000-8000-000000000003"},
		},
	}
}

// TestRealBootConfigurations runs the fixes over grubby's collection of real
// boot loader configurations: only lines of kernel arguments change, nothing
// but root=, resume= and console= in them, and a second run finds nothing.
func TestRealBootConfigurations(t *testing.T) {
	dir := outside(t, "bootcfg/grubby")
	for pattern, name := range map[string]string{
		"grub2.[0-9]*": "boot/grub2/grub.cfg", "grub.[0-9]*": "boot/grub/menu.lst", "extlinux.[0-9]*": "boot/extlinux.conf",
	} {
		files, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil || len(files) == 0 {
			t.Fatalf("no files match %s: %v", pattern, err)
		}
		changed := 0
		for _, file := range files {
			if strings.Contains(file, "support_files") {
				continue
			}
			old, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			now := rewriteTwice(t, name, old)
			if !bytes.Equal(old, now) {
				changed++
			}
			compareLines(t, filepath.Base(file), string(old), string(now))
		}
		if changed == 0 {
			t.Errorf("nothing was changed in any of %s", pattern)
		}
	}
}

// rewriteTwice applies all fixes that edit command lines to one file, twice.
func rewriteTwice(t *testing.T, name string, content []byte) []byte {
	t.Helper()
	tree := guesttest.Empty()
	tree.Put(name, content)
	g := &guest.Guest{FS: tree, Facts: twoDisks()}
	for range 2 {
		for _, f := range []fix{resume(Options{}), grub(Options{}), serialConsole()} {
			p, err := f.Plan(t.Context(), g)
			if err != nil {
				t.Fatal(err)
			}
			applyTo(t, tree, p.Changes)
		}
	}
	for _, f := range []fix{resume(Options{}), grub(Options{}), serialConsole()} {
		if p, _ := f.Plan(t.Context(), g); len(p.Changes) > 0 {
			t.Errorf("%s: %s wants to change it again", name, f.ID())
		}
	}
	data, err := fs.ReadFile(tree, name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func compareLines(t *testing.T, file, old, now string) {
	a, b := strings.SplitAfter(old, "\n"), strings.SplitAfter(now, "\n")
	if len(a) != len(b) {
		t.Fatalf("%s: %d lines became %d", file, len(a), len(b))
	}
	mine := func(arg string) bool {
		key, value, _ := cmdline.Split(arg)
		// A number in vga= is a mode of the old machine's card.
		return slices.Contains([]string{"root", "resume", "console"}, key) || key == "vga" && strings.HasPrefix(value, "0x")
	}
	for i := range a {
		if a[i] == b[i] {
			continue
		}
		x := slices.DeleteFunc(strings.Fields(a[i]), mine)
		y := slices.DeleteFunc(strings.Fields(b[i]), mine)
		if !slices.Equal(x, y) {
			t.Errorf("%s line %d: %q became %q", file, i+1, a[i], b[i])
		}
	}
}

// TestRealGrubEnv holds the size of real environment blocks, edited or not.
func TestRealGrubEnv(t *testing.T) {
	files, _ := filepath.Glob(filepath.Join(outside(t, "bootcfg/grubby"), "grub2-support_files/grubenv.*"))
	if len(files) == 0 {
		t.Fatal("no environment blocks")
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if now := inGrubEnv("x", data, func(_ place, a *cmdline.Args) { a.Add("x") }); len(data) == bootmenu.EnvSize && len(now) != bootmenu.EnvSize {
			t.Errorf("%s became %d bytes", filepath.Base(file), len(now))
		}
	}
}

func TestGrubEnv(t *testing.T) {
	block := func(vars string) []byte {
		return []byte(bootmenu.EnvHeader + vars + strings.Repeat("#", bootmenu.EnvSize-len(bootmenu.EnvHeader)-len(vars)))
	}
	add := func(_ place, a *cmdline.Args) { a.Add("console=tty0") }
	got := inGrubEnv("x", block("a=b##\nkernelopts=root=/dev/sda1 ro\nz=#\n"), add)
	if want := block("a=b##\nkernelopts=root=/dev/sda1 ro console=tty0\nz=#\n"); !bytes.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	full := block("kernelopts=" + strings.Repeat("x", bootmenu.EnvSize-len(bootmenu.EnvHeader)-12) + "\n")
	if got := inGrubEnv("x", full, add); got != nil {
		t.Errorf("a full block became %d bytes", len(got))
	}
	for _, odd := range []string{"", "kernelopts=a\n", string(block("")[:1000])} {
		if got := inGrubEnv("x", []byte(odd), add); string(got) != odd {
			t.Errorf("%q changed", odd)
		}
	}
}

// TestRealFstab runs over a system's real fstab, all volumes of which are there.
func TestRealFstab(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(outside(t, "netcfg/augeas-root"), "etc/fstab"))
	if err != nil {
		t.Fatal(err)
	}
	facts := twoDisks()
	for i, lv := range []string{"home", "local", "images", "swap"} {
		facts.Filesystems = append(facts.Filesystems, guest.Filesystem{Disk: -1, Volume: "vg00/" + lv, Type: "ext3", UUID: string(rune('a' + i))})
	}
	facts.Filesystems[0].Label = "/boot"
	tree := guesttest.Empty()
	tree.Put("etc/fstab", data)
	p, err := fstab(Options{}).Plan(t.Context(), &guest.Guest{FS: tree, Facts: facts})
	if err != nil || len(p.Changes) > 0 {
		t.Errorf("names that hold were changed: %v, %v", p.Changes, err)
	}
}

func TestFilterSees(t *testing.T) {
	for list, want := range map[string]struct{ sees, ok bool }{
		`"a|.*|"`:                           {true, true},
		`"r|/dev/cdrom|"`:                   {true, true},
		`"a|^/dev/sda|", "r|.*|"`:           {false, true},
		`"a|^/dev/disk/by-id/.*|", "r/.*/"`: {false, true},
		`"a|^/dev/[sv]d[a-z]|", "r|.*|"`:    {true, true},
		`"r|(|"`:                            {false, false},
		`"x|a|"`:                            {false, false},
		`'a|loop|', 'r|.*|'`:                {false, true},
		`"a|^/dev/vdz|", "r|.*"`:            {false, false},
	} {
		if sees, ok := filterSees(lvmconf.Parse([]byte("a = [" + list + "]")).Settings()[0].Values); sees != want.sees || ok != want.ok {
			t.Errorf("filter %s: got %v %v, want %v", list, sees, ok, want)
		}
	}
}

func TestCompareNames(t *testing.T) {
	names := []string{"ens257", "eth10", "ens160", "ens161", "eth2", "ens224", "ens193", "ens33"}
	slices.SortFunc(names, guest.CompareNames)
	want := "ens33 ens160 ens224 ens161 ens193 ens257 eth2 eth10"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestFallbackLoader(t *testing.T) {
	for _, c := range []struct{ name, arch, tree, want string }{
		{"grub alone", "x86_64", "-- efi/EFI/fedora/grubx64.efi --\n", "efi/EFI/BOOT/BOOTX64.EFI<efi/EFI/fedora/grubx64.efi"},
		{"own system first", "x86_64", "-- efi/EFI/arch/grubx64.efi --\n-- efi/EFI/debian/grubx64.efi --\n", "efi/EFI/BOOT/BOOTX64.EFI<efi/EFI/debian/grubx64.efi"},
		{"systemd-boot", "aarch64", "-- efi/EFI/systemd/systemd-bootaa64.efi --\n", "efi/EFI/BOOT/BOOTAA64.EFI<efi/EFI/systemd/systemd-bootaa64.efi"},
		{"there in other case", "x86_64", "-- efi/efi/boot/bootx64.efi --\n-- efi/efi/debian/grubx64.efi --\n", ""},
		{"folder in other case", "x86_64", "-- efi/efi/Boot/x --\n-- efi/efi/debian/SHIMX64.EFI --\n-- efi/efi/debian/grubx64.efi --\n",
			"efi/efi/Boot/BOOTX64.EFI<efi/efi/debian/SHIMX64.EFI efi/efi/Boot/grubx64.efi<efi/efi/debian/grubx64.efi"},
		{"never Microsoft's", "x86_64", "-- efi/EFI/Microsoft/grubx64.efi --\n", ""},
		{"unified kernels", "x86_64", "-- efi/EFI/Linux/a-6.1.efi --\n-- efi/EFI/Linux/a-6.2.efi --\n", "efi/EFI/BOOT/BOOTX64.EFI<efi/EFI/Linux/a-6.2.efi"},
		{"grub beside is kept", "x86_64", "-- efi/EFI/BOOT/grubx64.efi --\n-- efi/EFI/a/shimx64.efi --\n-- efi/EFI/a/grubx64.efi --\n", "efi/EFI/BOOT/BOOTX64.EFI<efi/EFI/a/shimx64.efi"},
	} {
		t.Run(c.name, func(t *testing.T) {
			facts := &guest.Facts{OS: guest.OS{Family: "linux", ID: "debian"}, Arch: c.arch, Firmware: "uefi", Loader: guest.BootLoader{ESP: "efi"}}
			p, err := fallbackLoader(Options{}).Plan(t.Context(), guesttest.NewGuest(t, c.tree, facts))
			if err != nil {
				t.Fatal(err)
			}
			if got := copies(p.Changes); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}
