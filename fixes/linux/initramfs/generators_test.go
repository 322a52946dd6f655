package initramfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/guest/guesttest"
	"hyper2kvm/formats/cpio"
)

// without runs nothing and writes a fit image where the generator would.
type without struct {
	tree *guesttest.FS
	ran  []string
}

func (r *without) Run(_ context.Context, c guest.Command) ([]byte, error) {
	r.ran = append(r.ran, strings.Join(append(slices.Clone(c.Env), c.Args...), " "))
	g := &fakeGenerator{tree: r.tree}
	_, err := g.Run(context.Background(), c)
	return nil, err
}

// TestConfiguration holds what each generator is told for the images of future
// kernels, with the drivers of the old machine kept.
func TestConfiguration(t *testing.T) {
	const drivers = "virtio_pci virtio_blk virtio_scsi sd_mod"
	for _, test := range []struct {
		name, generator string
		files           map[string]string // before
		want            map[string]string // what is there afterwards
		notes           []string
	}{
		{"dracut", "dracut", map[string]string{
			"etc/dracut.conf.d/slim.conf": "# slim\nomit_drivers+=\" floppy virtio_blk virtio-scsi \"\nomit_dracutmodules+=\" plymouth \"\n",
		}, map[string]string{
			"etc/dracut.conf.d/slim.conf": "# slim\nomit_drivers+=\" floppy \"\nomit_dracutmodules+=\" plymouth \"\n",
			dracutConf:                    comment + "add_drivers+=\" " + drivers + " \"\n# and of the machine that the guest came from\nadd_drivers+=\" vmw_pvscsi \"\n",
		}, []string{"virtio-scsi is taken out of omit_drivers"}},
		{"dracut, told by packages and patterns", "dracut", map[string]string{
			vendorDir + "/ec2.conf": "omit_drivers+=\" virtio_pci \"\n", dracutMain: "omit_drivers+=\" virtio.* \"\n",
		}, map[string]string{
			vendorDir + "/ec2.conf": "omit_drivers+=\" virtio_pci \"\n", dracutMain: "omit_drivers+=\" virtio.* \"\n",
		}, []string{"a package brought it", "keeps drivers out of the images of future kernels"}},
		{"dracut 004", "dracut", map[string]string{
			"sbin/dracut": "#!/bin/bash\n# no options\n", dracutMain: "# dracut config\nadd_dracutmodules+=\"lvm\"",
		}, map[string]string{
			dracutMain: "# dracut config\nadd_dracutmodules+=\"lvm\"\n" + comment + "add_drivers+=\" " + drivers + " \"\n# and of the machine that the guest came from\nadd_drivers+=\" vmw_pvscsi \"\n",
		}, nil},
		{"mkinitcpio 36", "mkinitcpio", map[string]string{
			"usr/bin/mkinitcpio": "#!/bin/bash\n_d_config=\n", mkinitcpioMain: "MODULES=()\n", mkinitcpioPresets + "/linux.preset": "#ALL_config=\"/etc/mkinitcpio.conf\"\n",
		}, map[string]string{
			mkinitcpioMain: "MODULES=()\n", mkinitcpioConf: comment + "MODULES+=(" + drivers + " vmw_pvscsi)\n",
		}, nil},
		{"mkinitcpio with a preset's configuration", "mkinitcpio", map[string]string{
			"usr/bin/mkinitcpio": "#!/bin/bash\n_d_config=\n", mkinitcpioMain: "# MODULES=(x)\nMODULES=(ext4 virtio_blk) # mine\n",
			"etc/other.conf": "MODULES=\"dm_mod\"\n", mkinitcpioPresets + "/linux.preset": "ALL_config=\"/etc/other.conf\"\ndefault_uki=/efi/EFI/Linux/x.efi\n",
		}, map[string]string{
			mkinitcpioMain:   "# MODULES=(x)\nMODULES=(ext4 virtio_blk virtio_pci virtio_scsi sd_mod vmw_pvscsi) # mine\n",
			"etc/other.conf": "MODULES=\"dm_mod " + drivers + " vmw_pvscsi\"\n",
		}, []string{"mkinitcpio -P"}},
		{"mkinitcpio 30", "mkinitcpio", map[string]string{
			"usr/bin/mkinitcpio": "#!/bin/bash\n", mkinitcpioMain: "MODULES=(\n  ext4\n)\nHOOKS=(base)",
		}, map[string]string{
			mkinitcpioMain: "MODULES=(\n  ext4\n)\nHOOKS=(base)\n" + comment + "MODULES+=(" + drivers + " vmw_pvscsi)\n",
		}, nil},
		{"mkinitfs", "mkinitfs", map[string]string{
			mkinitfsConf: "features=\"ata base ext4\"\n", mkinitfsFeatures + "/virtio.modules": "", mkinitfsFeatures + "/scsi.modules": "",
		}, map[string]string{mkinitfsConf: "features=\"ata base ext4 virtio scsi\"\n"}, nil},
		{"mkinitfs without the feature", "mkinitfs", map[string]string{mkinitfsConf: "features=\"ata scsi\"\n"},
			map[string]string{mkinitfsConf: "features=\"ata scsi\"\n"}, []string{"no feature virtio"}},
		{"Red Hat's mkinitrd", "mkinitrd", map[string]string{
			modprobeConf: "alias eth0 vmxnet\nalias scsi_hostadapter mptbase\nalias scsi_hostadapter1 mptspi\n",
		}, map[string]string{
			modprobeConf: "alias eth0 vmxnet\nalias scsi_hostadapter mptbase\nalias scsi_hostadapter1 mptspi\nalias scsi_hostadapter2 virtio_pci\nalias scsi_hostadapter3 virtio_blk\nalias scsi_hostadapter4 virtio_scsi\n",
		}, nil},
		{"SUSE's mkinitrd", "mkinitrd", map[string]string{
			suseKernel: "## Path: System/Kernel\nINITRD_MODULES=\"mptspi ext3 sd_mod\"\nDOMU_INITRD_MODULES=\"xennet xenblk\"\n",
		}, map[string]string{
			suseKernel: "## Path: System/Kernel\nINITRD_MODULES=\"mptspi ext3 sd_mod virtio_pci virtio_blk virtio_scsi\"\nDOMU_INITRD_MODULES=\"xennet xenblk\"\n",
		}, nil},
		{"another", "booster", nil, nil, []string{"nothing is configured for \"booster\"; add to them: " + drivers}},
	} {
		t.Run(test.name, func(t *testing.T) {
			members := append(vmwareImage(), cpio.Link("init", "usr/lib/systemd/systemd")) // whatever made it
			members = slices.DeleteFunc(members, func(m cpio.Member) bool { return m.Name == "init" && m.Mode&cpio.TypeMask == cpio.TypeFile })
			tree, g := newGuest(t, test.generator, "gzip", members)
			for name, text := range test.files {
				tree.Put(name, []byte(text))
			}
			before := tree.Dump()
			p := apply(t, g, Inject)
			wantFit(t, g)
			for name, want := range test.want {
				if diff := cmp.Diff(want, tree.ReadFile(t, name)); diff != "" {
					t.Errorf("%s:\n%s", name, diff)
				}
			}
			wantNotes(t, p, test.notes)
			if again := apply(t, g, Inject); again.Results[0].State != fixes.Unchanged {
				t.Errorf("a second run changes:\n%s", again.Results[0].Diff)
			}
			undone(t, g, tree, before)
		})
	}
}

func wantNotes(t testing.TB, p *fixes.Planned, want []string) {
	t.Helper()
	notes := strings.Join(p.Results[0].Notes, "\n")
	for _, text := range want {
		if !strings.Contains(notes, text) {
			t.Errorf("no note says %q:\n%s", text, notes)
		}
	}
}

func undone(t testing.TB, g *guest.Guest, tree *guesttest.FS, before string) {
	t.Helper()
	if _, err := fixes.Undo(t.Context(), g, fixes.UndoOptions{}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, tree.Dump()); diff != "" {
		t.Error(diff)
	}
}

// TestCommands holds how each generator is called.
func TestCommands(t *testing.T) {
	const add = "--add-drivers virtio_pci virtio_blk virtio_scsi sd_mod /" + initrd + " " + version
	for _, test := range []struct {
		name, generator string
		files           map[string]string
		want            string
	}{
		{"dracut 004", "dracut", map[string]string{"sbin/dracut": "#!/bin/bash\n--hostonly) x;;\n"}, "dracut --force " + add},
		{"dracut 033", "dracut", map[string]string{"usr/sbin/dracut": "#!/bin/bash\n--long no-hostonly \\\n"}, "dracut --force --no-hostonly " + add},
		{"dracut 059", "dracut", map[string]string{"usr/bin/dracut": "#!/bin/bash\n--no-hostonly) x;;\n--no-hostonly-cmdline) y;;\n"}, "dracut --force --no-hostonly --no-hostonly-cmdline " + add},
		{"mkinitcpio", "mkinitcpio", nil, "mkinitcpio -k " + version + " -g /" + initrd + " -S autodetect"},
		{"mkinitfs", "mkinitfs", nil, "mkinitfs -o /" + initrd + " " + version},
		{"Red Hat's mkinitrd", "mkinitrd", map[string]string{modprobeConf: "alias scsi_hostadapter mptspi\n"},
			"mkinitrd -f --with=virtio --with=virtio_ring --with=virtio_pci --with=virtio_blk --with=scsi_mod --with=virtio_scsi --with=sd_mod /" + initrd + " " + version},
		{"SUSE's mkinitrd", "mkinitrd", map[string]string{suseKernel: "INITRD_MODULES=\"\"\n"},
			"mkinitrd -k vmlinuz-" + version + " -i " + path.Base(initrd) + " -d /dev/disk/by-uuid/1111-22"},
	} {
		t.Run(test.name, func(t *testing.T) {
			tree, g := newGuest(t, test.generator, "gzip", vmwareImage())
			for name, text := range test.files {
				tree.Put(name, []byte(text))
			}
			run := &without{tree: tree}
			g.Run = run
			apply(t, g, Regenerate)
			if !slices.Equal(run.ran, []string{test.want}) {
				t.Errorf("ran\n%q, want\n%q", run.ran, test.want)
			}
			wantFit(t, g)
		})
	}
}

// TestRootOnLVM is said to Red Hat's mkinitrd, which does not see it.
func TestRootOnLVM(t *testing.T) {
	tree, g := newGuest(t, "mkinitrd", "gzip", vmwareImage())
	tree.Put(modprobeConf, nil)
	g.Facts.Filesystems = []guest.Filesystem{{Disk: -1, Volume: "VolGroup00/LogVol00", UUID: "1111-22"}}
	run := &without{tree: tree}
	g.Run = run
	apply(t, g, Regenerate)
	if len(run.ran) != 1 || !strings.HasPrefix(run.ran[0], "root_lvm=1 mkinitrd -f --with=virtio ") {
		t.Errorf("ran %q", run.ran)
	}
}

// TestNetworkLegacy: dracut stops on a module that cannot be installed.
func TestNetworkLegacy(t *testing.T) {
	const conf, text = "etc/dracut.conf.d/50-network-legacy.conf", "add_dracutmodules+=\" network-legacy lvm \"\n"
	for _, dhclient := range []bool{false, true} {
		tree, g := newGuest(t, "dracut", "gzip", vmwareImage())
		tree.Put(conf, []byte(text))
		want := "add_dracutmodules+=\" lvm \"\n"
		if dhclient {
			tree.Put("usr/sbin/dhclient", nil)
			want = text
		}
		g.Run = &without{tree: tree}
		p := apply(t, g, Regenerate)
		if got := tree.ReadFile(t, conf); got != want {
			t.Errorf("dhclient %v: %q", dhclient, got)
		}
		if !dhclient {
			wantNotes(t, p, []string{"there is no dhclient"})
		}
	}
}

// redHat5 is what mkinitrd of Red Hat 5 makes: its own shell, modules in one
// folder, a line for each.
const redHat5 = `#!/bin/nash

mount -t proc /proc /proc
setquiet
echo Creating block device nodes.
mkblkdevs
echo "Loading scsi_mod.ko module"
insmod /lib/scsi_mod.ko
echo "Loading sd_mod.ko module"
insmod /lib/sd_mod.ko
echo "Loading vmw_pvscsi.ko module"
insmod /lib/vmw_pvscsi.ko
echo Waiting for driver initialization.
stabilized --hash --interval 250 /proc/scsi/scsi
mkblkdevs
echo Scanning logical volumes
lvm vgscan --ignorelockingfailure
echo "Loading dm-mirror.ko module"
insmod /lib/dm-mirror.ko
mkrootdev -t ext3 -o defaults,ro /dev/VolGroup00/LogVol00
`

func redHat5Image() []cpio.Member {
	return []cpio.Member{
		{Name: "init", Mode: cpio.TypeFile | 0o755, Data: []byte(redHat5)}, cpio.Dir("lib"), cpio.Dir("bin"),
		cpio.File("bin/nash", []byte(elf)), cpio.File("lib/scsi_mod.ko", []byte(elf)), cpio.File("lib/sd_mod.ko", []byte(elf)),
		cpio.File("lib/vmw_pvscsi.ko", []byte(elf)), cpio.File("lib/dm-mirror.ko", []byte(elf)),
	}
}

// TestRedHat5 puts the drivers in where a driver of disks belongs, in the order
// in which they need one another.
func TestRedHat5(t *testing.T) {
	tree, g := newGuest(t, "mkinitrd", "gzip", redHat5Image())
	tree.Put(modprobeConf, []byte("alias scsi_hostadapter vmw_pvscsi\n"))
	before := tree.Dump()
	p := apply(t, g, Auto)
	wantFit(t, g)
	wantNotes(t, p, []string{"proven by reading it back and by no boot"})
	root := unpack(t, tree)
	lines := ""
	for _, name := range []string{"virtio", "virtio_ring", "virtio_pci", "virtio_blk", "virtio_scsi"} {
		lines += fmt.Sprintf("echo \"Loading %s.ko module\"\ninsmod /lib/%s.ko\n", name, name)
		if got := read(t, root, "lib/"+name+".ko"); !strings.HasPrefix(got, elf) {
			t.Errorf("%s holds %q", name, got)
		}
	}
	want := strings.Replace(redHat5, "echo Waiting", lines+"echo Waiting", 1)
	if diff := cmp.Diff(want, read(t, root, "init")); diff != "" {
		t.Error(diff)
	}
	if again := apply(t, g, Auto); again.Results[0].State != fixes.Unchanged {
		t.Errorf("a second run changes:\n%s", again.Results[0].Diff)
	}
	undone(t, g, tree, before)

	// A module that is there and that nobody loads is as good as none.
	members := append(redHat5Image(), cpio.File("lib/virtio_blk.ko", []byte(elf)))
	_, g = newGuest(t, "mkinitrd", "gzip", members)
	findings, err := Verify(t.Context(), g)
	if err != nil || len(findings) != 1 || !slices.Contains(findings[0].Missing, "virtio_blk") {
		t.Errorf("%v, %v", findings, err)
	}
}

// TestPlaces are where in a script the lines go that load the drivers.
func TestPlaces(t *testing.T) {
	for _, test := range []struct{ name, script, want string }{
		{"after the disks were looked at, but for what is needed", "#!/bin/nash\ninsmod /lib/ehci-hcd.ko\nmkblkdevs\ninsmod /lib/scsi_mod.ko\nstabilized /proc\ninsmod /lib/dm-mod.ko\n", "stabilized /proc"},
		{"no module so far", "#!/bin/nash\nmount -t proc /proc /proc\nmkblkdevs\nmkrootdev -t ext3 /dev/root\n", "mkblkdevs"},
		{"modprobe, and no new line at the end", "#!/bin/sh\n/sbin/modprobe ext3", ""},
		{"not in a function", "#!/bin/sh\nload() {\n  modprobe $1\n}\nmodprobe ext3\nresume /dev/sda1\n", "resume /dev/sda1"},
	} {
		members := []cpio.Member{{Name: "init", Mode: cpio.TypeFile | 0o755, Data: []byte(test.script)}}
		tree, g := newGuest(t, "mkinitrd", "gzip", members)
		apply(t, g, Inject)
		wantFit(t, g)
		got := read(t, unpack(t, tree), "init")
		rest, _ := strings.CutPrefix(got, test.script[:strings.LastIndex(test.script, test.want)])
		if _, tail, ok := strings.Cut(rest, "virtio_scsi"); !ok || test.want != "" && !strings.Contains(tail, "\n"+test.want) || strings.Contains(got, "ext3echo") {
			t.Errorf("%s:\n%s", test.name, got)
		}
	}
}

// TestOldKernelLeavesTheEnd: before 2.6.21 a shorter file does not replace all of
// a longer one.
func TestOldKernelLeavesTheEnd(t *testing.T) {
	img := &image{members: map[string]member{"etc/x": {mode: cpio.TypeFile, data: []byte("0123456789")}}}
	for version, want := range map[string]string{"2.6.18-128.el5": "ab\n\n\n\n\n\n\n\n", "2.6.32-71.el6": "ab"} {
		members := []cpio.Member{cpio.File("etc/x", []byte("ab")), cpio.File("etc/new", []byte("a"))}
		(&checked{img: img, version: version}).noShorter(members)
		if got := string(members[0].Data); got != want || string(members[1].Data) != "a" {
			t.Errorf("%s: %q, want %q", version, got, want)
		}
	}
}

// TestSUSE11 adds to the list wherever it stands.
func TestSUSE11(t *testing.T) {
	const all = "[ \"$debug\" ] && echo preping 02-start.sh\n[ \"$RESOLVED_INITRD_MODULES\" ] || RESOLVED_INITRD_MODULES='vmw_pvscsi ext3'\nmodules=\" $RESOLVED_INITRD_MODULES\"\n"
	members := append(vmwareImage(), cpio.File("run_all.sh", []byte(all)), cpio.Dir("config"), cpio.File("config/start.sh", []byte("RESOLVED_INITRD_MODULES='vmw_pvscsi sd_mod'\n")))
	tree, g := newGuest(t, "mkinitrd", "gzip", members)
	tree.Put(suseKernel, []byte("INITRD_MODULES=\"vmw_pvscsi ext3\"\n"))
	before := tree.Dump()
	apply(t, g, Auto)
	wantFit(t, g)
	root := unpack(t, tree)
	for name, want := range map[string]string{
		"run_all.sh":      strings.Replace(all, "'vmw", "'virtio_pci virtio_blk virtio_scsi sd_mod vmw", 1),
		"config/start.sh": "RESOLVED_INITRD_MODULES='virtio_pci virtio_blk virtio_scsi vmw_pvscsi sd_mod'\n",
	} {
		if diff := cmp.Diff(want, read(t, root, name)); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
	if again := apply(t, g, Auto); again.Results[0].State != fixes.Unchanged {
		t.Errorf("a second run changes:\n%s", again.Results[0].Diff)
	}
	undone(t, g, tree, before)
}

// TestTold: what is known by name and not written to says what the user does.
func TestTold(t *testing.T) {
	for mark, want := range map[string]string{
		"etc/booster.init.yaml": "booster", "etc/initrd.defaults": "genkernel", "lib/initrd/all": "make-initrd",
	} {
		_, g := newGuest(t, "", "gzip", append(vmwareImage(), cpio.File(mark, nil), cpio.Dir(path.Dir(mark))))
		p, err := fixes.Plan(t.Context(), g, Fixes(Options{}), fixes.Selection{})
		if err != nil || p.Failures() == nil || !strings.Contains(p.Failures().Error(), want) {
			t.Errorf("%s: %v, %v", mark, err, p.Failures())
		}
	}
	tinyImage := &image{members: map[string]member{"modules": {mode: cpio.TypeFile}, "init": {mode: cpio.TypeFile}, "dev": {mode: cpio.TypeDir}}}
	if got := layoutOf(tinyImage); got != tiny || !strings.Contains(got.told(), "mktirfs") {
		t.Errorf("tiny-initramfs is taken for %q", got)
	}
	if layoutOf(&image{members: map[string]member{}}).told() == "" {
		t.Error("nothing is said of an unknown image")
	}
}

// TestUnreadableIsMadeAnew where the guest's generator can run.
func TestUnreadableIsMadeAnew(t *testing.T) {
	tree, g := newGuest(t, "initramfs-tools", "gzip", nil)
	tree.Put(initrd, []byte("this is no image at all"))
	run := &without{tree: tree}
	g.Run = run
	p := apply(t, g, Auto)
	wantFit(t, g)
	wantNotes(t, p, []string{"is made anew"})
}

func read(t testing.TB, root, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// secondKernel adds another kernel with an image in the place name.
func secondKernel(t testing.TB, tree *guesttest.FS, g *guest.Guest, version, name string) {
	t.Helper()
	var b bytes.Buffer
	if err := cpio.Write(&b, []cpio.Member{cpio.File("conf/arch.conf", nil), cpio.Dir("conf"), cpio.File("conf/modules", nil)}); err != nil {
		t.Fatal(err)
	}
	tree.Put(name, b.Bytes())
	modules := "usr/lib/modules/" + version
	for _, file := range []string{"modules.dep", "modules.alias", "modules.builtin"} {
		tree.Put(path.Join(modules, file), []byte(tree.ReadFile(t, path.Join(modDir, file))))
	}
	for line := range strings.Lines(guestDeps) {
		file, _, _ := strings.Cut(line, ":")
		tree.Put(path.Join(modules, file), []byte(tree.ReadFile(t, path.Join(modDir, file))))
	}
	if strings.HasPrefix(name, "boot/initrd") {
		g.Facts.Kernels = append(g.Facts.Kernels, guest.Kernel{Version: version, Image: "boot/vmlinuz-" + version, Initramfs: name, Modules: modules})
	}
}

// TestRoom: the default kernel gets the room that there is; what is left for the
// others is no reason to fail.
func TestRoom(t *testing.T) {
	const other = "6.1.0-30-amd64"
	tree, g := newGuest(t, "initramfs-tools", "gzip", vmwareImage())
	alone, err := fixes.Plan(t.Context(), g, Fixes(Options{}), fixes.Selection{})
	if err != nil {
		t.Fatal(err)
	}
	segment := alone.Results[0].Changes[0].(fixes.AppendFile).Content
	secondKernel(t, tree, g, other, "boot/initrd.img-"+other)
	slices.Reverse(g.Facts.Kernels) // the newest first, as inspection lists them
	g.Facts.Kernels[1].Default = true
	g.Facts.Mounts[1].Free = spare + int64(len(segment))
	p := apply(t, g, Auto)
	wantNotes(t, p, []string{"kernel " + other + ": boot/initrd.img-" + other + " is left as it is"})
	findings, err := Verify(t.Context(), g)
	if err != nil || len(findings) != 1 || findings[0].Kernel != other || findings[0].Fatal() {
		t.Errorf("%v, %v", findings, err)
	}
	_, g2 := newGuest(t, "initramfs-tools", "gzip", vmwareImage())
	g2.Facts.Mounts[1].Free = 100
	p, err = fixes.Plan(t.Context(), g2, Fixes(Options{}), fixes.Selection{})
	if _, ok := errors.AsType[*fixes.SpaceError](p.Failures()); err != nil || !ok {
		t.Errorf("%v, %v", err, p.Failures())
	}
}

// TestImagesOnESP: kernel-install puts images beside the boot loader's entries,
// and some kernels lie nowhere else; mkinitcpio has a fallback.
func TestImagesOnESP(t *testing.T) {
	const other, esp = "6.12.0-1", "boot/efi/0123456789abcdef/6.12.0-1/initrd-1234"
	tree, g := newGuest(t, "initramfs-tools", "gzip", vmwareImage())
	g.Facts.Mounts[2].Free = 1 << 30
	g.Facts.Loader.ESP = "boot/efi"
	if err := tree.Symlink("usr/lib", "lib"); err != nil {
		t.Fatal(err)
	}
	secondKernel(t, tree, g, other, esp)
	tree.Put("boot/efi/0123456789abcdef/6.12.0-1/initrd-1234.sha256", []byte("x"))
	tree.Put("boot/efi/0123456789abcdef/"+version+"/initrd", []byte(tree.ReadFile(t, initrd)))
	fallback := strings.Replace(initrd, "initrd.img-"+version, "initramfs-linux", 1)
	tree.Put(fallback+".img", []byte(tree.ReadFile(t, initrd)))
	tree.Put(fallback+"-fallback.img", []byte(tree.ReadFile(t, initrd)))
	g.Facts.Kernels[0].Initramfs = fallback + ".img"
	apply(t, g, Auto)
	wantFit(t, g)
	var got []string
	for _, k := range images(g) {
		got = append(got, k.Initramfs)
	}
	want := []string{fallback + ".img", fallback + "-fallback.img", "boot/efi/0123456789abcdef/" + version + "/initrd", esp}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestForbidden: a driver that a policy forbids is not loaded, in the image and
// out of it.
func TestForbidden(t *testing.T) {
	const conf = "etc/modprobe.d/hardening.conf"
	const text = "# keep\nblacklist floppy\nblacklist virtio-blk\ninstall virtio_scsi /bin/false\ninstall usb-storage /bin/true\noptions virtio_blk num_request_queues=1\n"
	const want = "# keep\nblacklist floppy\n# hyper2kvm: blacklist virtio-blk\n# hyper2kvm: install virtio_scsi /bin/false\ninstall usb-storage /bin/true\noptions virtio_blk num_request_queues=1\n"
	tree, g := newGuest(t, "initramfs-tools", "gzip", append(vmwareImage(), cpio.Dir("etc"), cpio.Dir("etc/modprobe.d"), cpio.File(conf, []byte(text))))
	tree.Put(conf, []byte(text))
	before := tree.Dump()
	p := apply(t, g, Auto)
	wantFit(t, g)
	wantNotes(t, p, []string{conf + " forbids virtio_blk virtio_scsi"})
	if diff := cmp.Diff(want, tree.ReadFile(t, conf)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(want, read(t, unpack(t, tree), conf)); diff != "" {
		t.Errorf("in the image:\n%s", diff)
	}
	if again := apply(t, g, Auto); again.Results[0].State != fixes.Unchanged {
		t.Errorf("a second run changes:\n%s", again.Results[0].Diff)
	}
	undone(t, g, tree, before)
}
