package initramfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/guest/guesttest"
	"hyper2kvm/formats"
	"hyper2kvm/formats/cpio"
)

const (
	version = "6.1.0-25-amd64"
	modDir  = "usr/lib/modules/" + version
	initrd  = "boot/initrd.img-" + version
	elf     = "\x7fELF "
)

// guestDeps is the modules.dep of the guest: packed in every way there is.
const guestDeps = `kernel/drivers/virtio/virtio.ko:
kernel/drivers/virtio/virtio_ring.ko.xz:
kernel/drivers/virtio/virtio_pci.ko.gz: kernel/drivers/virtio/virtio_ring.ko.xz kernel/drivers/virtio/virtio.ko
kernel/drivers/block/virtio_blk.ko.zst: kernel/drivers/virtio/virtio_ring.ko.xz kernel/drivers/virtio/virtio.ko
kernel/drivers/scsi/scsi_mod.ko:
kernel/drivers/scsi/sd_mod.ko: kernel/drivers/scsi/scsi_mod.ko
kernel/drivers/scsi/virtio_scsi.ko: kernel/drivers/scsi/scsi_mod.ko kernel/drivers/virtio/virtio_ring.ko.xz kernel/drivers/virtio/virtio.ko
kernel/drivers/net/virtio_net.ko: kernel/drivers/virtio/virtio_ring.ko.xz kernel/drivers/virtio/virtio.ko
kernel/drivers/scsi/vmw_pvscsi.ko: kernel/drivers/scsi/scsi_mod.ko
`

const guestAliases = `alias pci:v00001AF4d*sv*sd*bc*sc*i* virtio_pci
alias virtio:d00000002v* virtio_blk
alias virtio:d00000008v* virtio_scsi
alias virtio:d00000001v* virtio_net
alias pci:v000015ADd000007C0sv*sd*bc*sc*i* vmw_pvscsi
`

func pack(t testing.TB, name string, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch name {
	case ".ko", "none":
		return data
	case ".gz", "gzip":
		w = gzip.NewWriter(&b)
	case ".xz", "xz":
		w, err = xz.NewWriter(&b)
	case ".zst", "zstd":
		w, err = zstd.NewWriter(&b)
	case "lzma":
		w, err = lzma.NewWriter(&b)
	case "lz4":
		z := lz4.NewWriter(&b)
		err = z.Apply(lz4.LegacyOption(true))
		w = z
	default:
		t.Fatalf("no packer %s", name)
	}
	if err == nil {
		_, err = w.Write(data)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// newGuest makes a guest whose image holds members.
func newGuest(t testing.TB, generator, compression string, members []cpio.Member) (*guesttest.FS, *guest.Guest) {
	t.Helper()
	tree := guesttest.New(t, "-- var/lib/ --\n-- etc/initramfs-tools/modules --\n# comment\nvmw_pvscsi\n-- etc/initramfs-tools/initramfs.conf --\nMODULES=dep\n")
	tree.Put(modDir+"/modules.dep", []byte(guestDeps))
	tree.Put(modDir+"/modules.alias", []byte(guestAliases))
	tree.Put(modDir+"/modules.builtin", []byte("kernel/fs/ext4/ext4.ko\n"))
	tree.Put(modDir+"/modules.softdep", []byte("softdep virtio_blk pre: crc\nsoftdep vmw_pvscsi pre: x\n"))
	for line := range strings.Lines(guestDeps) {
		file, _, _ := strings.Cut(line, ":")
		tree.Put(path.Join(modDir, file), pack(t, path.Ext(file), []byte(elf+file)))
	}
	var image bytes.Buffer
	if err := cpio.Write(&image, members); err != nil {
		t.Fatal(err)
	}
	tree.Put(initrd, pack(t, compression, image.Bytes()))
	tree.Put("boot/config-"+version, []byte("CONFIG_X=y\nCONFIG_RD_GZIP=y\n"))
	return tree, &guest.Guest{FS: tree, Facts: &guest.Facts{
		OS: guest.OS{Family: "linux"}, Initramfs: generator,
		Mounts: []guest.Mount{
			{Point: "/", UUID: "1111-22", Free: 1 << 30},
			{Point: "/boot", Free: 1 << 30},
			{Point: "/boot/efi", Free: 1},
		},
		Kernels: []guest.Kernel{{Version: version, Image: "boot/vmlinuz-" + version, Initramfs: initrd, Modules: modDir}},
	}}
}

// vmwareImage has the drivers of VMware alone.
func vmwareImage() []cpio.Member {
	return []cpio.Member{
		cpio.Link("lib", "usr/lib"), cpio.Dir("usr"), cpio.Dir("usr/lib"), cpio.Dir("usr/lib/modules"), cpio.Dir(modDir),
		cpio.Dir(modDir + "/kernel"), cpio.Dir(modDir + "/kernel/drivers"), cpio.Dir(modDir + "/kernel/drivers/scsi"),
		cpio.File(modDir+"/kernel/drivers/scsi/scsi_mod.ko", []byte(elf)),
		cpio.File(modDir+"/kernel/drivers/scsi/sd_mod.ko", []byte(elf)),
		cpio.File(modDir+"/kernel/drivers/scsi/vmw_pvscsi.ko", []byte(elf)),
		cpio.File(modDir+"/modules.dep", []byte("kernel/drivers/scsi/scsi_mod.ko:\nkernel/drivers/scsi/sd_mod.ko: kernel/drivers/scsi/scsi_mod.ko\nkernel/drivers/scsi/vmw_pvscsi.ko: kernel/drivers/scsi/scsi_mod.ko\n")),
		cpio.File(modDir+"/modules.alias", []byte("alias pci:v000015ADd000007C0sv*sd*bc*sc*i* vmw_pvscsi\n")),
		cpio.Dir("conf"), cpio.File("conf/modules", []byte("vmw_pvscsi")),
		cpio.File("init", []byte("#!/bin/sh\n")),
	}
}

func apply(t testing.TB, g *guest.Guest, mode string) *fixes.Planned {
	t.Helper()
	p, err := fixes.Plan(t.Context(), g, Fixes(Options{Mode: mode}), fixes.Selection{})
	if err != nil || p.Failures() != nil {
		t.Fatal(err, p.Failures())
	}
	if err := fixes.Apply(t.Context(), g, p, nil); err != nil {
		t.Fatal(err)
	}
	return p
}

func wantFit(t testing.TB, g *guest.Guest) {
	t.Helper()
	findings, err := Verify(t.Context(), g)
	if err != nil || len(findings) > 0 {
		t.Fatalf("not fit: %v, %v", findings, err)
	}
}

// TestInject does it for every compression an image may have.
func TestInject(t *testing.T) {
	for _, compression := range []string{"none", "gzip", "xz", "zstd", "lz4"} {
		t.Run(compression, func(t *testing.T) {
			tree, g := newGuest(t, string(initramfsTools), compression, vmwareImage())
			before := tree.Dump()
			findings, err := Verify(t.Context(), g)
			if err != nil || len(findings) != 1 {
				t.Fatalf("%v, %v", findings, err)
			}
			want := []string{"virtio", "virtio_ring", "virtio_pci", "virtio_blk", "virtio_scsi"}
			if diff := cmp.Diff(want, findings[0].Missing); diff != "" {
				t.Error(diff)
			}
			p := apply(t, g, Auto)
			wantFit(t, g)
			if !strings.Contains(p.Results[0].Diff, "virtio_blk.ko") {
				t.Errorf("the diff does not name what is put in:\n%s", p.Results[0].Diff)
			}
			if again := apply(t, g, Auto); again.Results[0].State != fixes.Unchanged {
				t.Errorf("second run: %+v", again.Results[0])
			}
			if got := tree.ReadFile(t, toolsModules); got != "# comment\nvmw_pvscsi\n"+comment+"virtio_pci\nvirtio_blk\nvirtio_scsi\nsd_mod\n" {
				t.Errorf("%s holds:\n%s", toolsModules, got)
			}
			checkUnpacked(t, unpack(t, tree))
			checkCpio(t, p)
			if _, err := fixes.Undo(t.Context(), g, fixes.UndoOptions{}); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(before, tree.Dump()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// unpack does what the kernel does with the members, onto a real folder.
func unpack(t testing.TB, tree *guesttest.FS) string {
	t.Helper()
	root := t.TempDir()
	r := cpio.NewReader(strings.NewReader(tree.ReadFile(t, initrd)), cpio.Limits{})
	for {
		h, err := r.Next()
		if err == io.EOF {
			return root
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := r.ReadAll(1 << 30)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(root, h.Name)
		if old, err := os.Lstat(name); err == nil && (old.Mode()&os.ModeSymlink != 0) != h.IsLink() {
			os.Remove(name) // another type replaces (clean_path, init/initramfs.c)
		}
		switch {
		case h.IsDir():
			err = os.Mkdir(name, 0o755)
			if os.IsExist(err) {
				err = nil
			}
		case h.IsLink():
			os.Remove(name)
			err = os.Symlink(string(data), name)
		default:
			err = os.WriteFile(name, data, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// checkUnpacked asks the real modprobe whether it finds the drivers, by name
// and by the alias that udev has, and through lib.
func checkUnpacked(t testing.TB, root string) {
	t.Helper()
	if target, err := os.Readlink(filepath.Join(root, "lib")); err != nil || target != "usr/lib" {
		t.Errorf("lib is no longer the link it was: %q, %v", target, err)
	}
	list, err := os.ReadFile(filepath.Join(root, "conf/modules"))
	if err != nil || string(list) != "vmw_pvscsi\nvirtio_pci\nvirtio_blk\nvirtio_scsi\nsd_mod\n" {
		t.Errorf("conf/modules holds %q, %v", list, err)
	}
	soft, err := os.ReadFile(filepath.Join(root, modDir, "modules.softdep"))
	if err != nil || string(soft) != "softdep virtio_blk pre: crc\n" {
		t.Errorf("modules.softdep holds %q, %v", soft, err)
	}
	if _, err := os.Stat("/usr/sbin/modprobe"); err != nil {
		t.Log("modprobe is the oracle and is not here")
		return
	}
	for query, want := range map[string]string{
		"vmw_pvscsi":                "vmw_pvscsi.ko",
		"virtio_scsi":               "virtio_scsi.ko",
		"virtio:d00000002v00001AF4": "virtio_blk.ko",
		"pci:v00001AF4d00001042sv00001AF4sd00001100bc01sc00i00": "virtio_pci.ko",
	} {
		out, err := exec.Command("/usr/sbin/modprobe", "-C", "/dev/null", "-d", root, "-S", version, "-D", "-a", query).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "/"+want) {
			t.Errorf("modprobe %s: %v: %s", query, err, out)
		}
		for line := range strings.Lines(string(out)) {
			file := strings.TrimSpace(strings.TrimPrefix(line, "insmod "))
			if data, err := os.ReadFile(file); err != nil || !bytes.HasPrefix(data, []byte(elf)) {
				t.Errorf("modprobe %s wants %s: %v", query, file, err)
			}
		}
	}
}

// checkCpio has GNU cpio and the real decompressors list what was appended.
func checkCpio(t testing.TB, p *fixes.Planned) {
	t.Helper()
	i := slices.IndexFunc(p.Results[0].Changes, func(c fixes.Change) bool { _, ok := c.(fixes.AppendFile); return ok })
	segment := bytes.TrimLeft(p.Results[0].Changes[i].(fixes.AppendFile).Content, "\x00")
	unpacker := "cat"
	switch segment[0] {
	case 0x1f:
		unpacker = "gzip"
	case 0x02:
		unpacker = "lz4"
	}
	for _, program := range []string{unpacker, "cpio"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Logf("%s is the oracle and is not here", program)
			return
		}
	}
	if unpacker != "cat" {
		segment = command(t, "", segment, unpacker, "-dcq")
	}
	list := string(command(t, "", segment, "cpio", "-t", "--quiet"))
	for _, want := range []string{"conf/modules", modDir + "/modules.dep.bin", modDir + "/kernel/drivers/block/virtio_blk.ko"} {
		if !strings.Contains(list, want+"\n") {
			t.Errorf("cpio does not list %s:\n%s", want, list)
		}
	}
}

func TestNothingToDo(t *testing.T) {
	t.Run("built in", func(t *testing.T) {
		tree, g := newGuest(t, string(initramfsTools), "gzip", []cpio.Member{cpio.File("init", nil)})
		tree.Put("etc/initramfs-tools/initramfs.conf", []byte("MODULES=most\n"))
		tree.Put(modDir+"/modules.builtin", []byte("kernel/virtio_pci.ko\nkernel/virtio_blk.ko\nkernel/virtio_scsi.ko\nkernel/sd_mod.ko\n"))
		wantFit(t, g)
		if p := apply(t, g, Auto); p.Results[0].State != fixes.Unchanged {
			t.Errorf("%+v", p.Results[0])
		}
	})
	t.Run("no modules", func(t *testing.T) {
		_, g := newGuest(t, string(initramfsTools), "gzip", nil)
		g.Facts.Kernels[0].Modules = "usr/lib/modules/0-rescue"
		if p := apply(t, g, Auto); p.Results[0].State != fixes.Unchanged || len(p.Results[0].Notes) != 1 {
			t.Errorf("%+v", p.Results[0])
		}
	})
	if Fixes(Options{Mode: None}) != nil {
		t.Error("mode none gives a fix")
	}
}

func TestFullBoot(t *testing.T) {
	_, g := newGuest(t, string(initramfsTools), "gzip", vmwareImage())
	g.Facts.Mounts[1].Free = 2000
	p, err := fixes.Plan(t.Context(), g, Fixes(Options{}), fixes.Selection{})
	if err != nil {
		t.Fatal(err)
	}
	space, ok := errors.AsType[*fixes.SpaceError](p.Failures())
	if !ok || space.Name != initrd || space.Free != 2000 || space.Need <= 2000 {
		t.Errorf("got %v", p.Failures())
	}
}

func TestUnreadableImages(t *testing.T) {
	for _, test := range []struct {
		name string
		data []byte
		want error
	}{
		{"lzo", []byte("\x89LZO\x00\r\n\x1a\n"), formats.ErrTruncated},
		{"junk", []byte("this is no image at all"), formats.ErrFormat},
		{"empty ELF", []byte(""), nil},
	} {
		tree, g := newGuest(t, string(initramfsTools), "gzip", nil)
		tree.Put(initrd, test.data)
		p, err := fixes.Plan(t.Context(), g, Fixes(Options{}), fixes.Selection{})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Failures(); test.want != nil && !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", test.name, err, test.want)
		}
	}
}

// fakeGenerator stands for the guest's program: it writes a fit image.
type fakeGenerator struct {
	t    *testing.T
	tree *guesttest.FS
	ran  []string
}

func (r *fakeGenerator) Run(_ context.Context, c guest.Command) ([]byte, error) {
	r.ran = append(r.ran, strings.Join(c.Args, " "))
	var members []cpio.Member
	for line := range strings.Lines(guestDeps) {
		file, _, _ := strings.Cut(line, ":")
		members = append(members, cpio.File(path.Join(modDir, file), []byte(elf)))
	}
	var b bytes.Buffer
	if err := cpio.Write(&b, members); err != nil {
		return nil, err
	}
	return nil, r.tree.Write(initrd, &b, guest.Attr{Mode: 0o644})
}

func TestRegenerate(t *testing.T) {
	for name, want := range map[layout]string{
		initramfsTools: "update-initramfs -u -k " + version,
		dracut:         "dracut --force --no-hostonly --no-hostonly-cmdline --add-drivers virtio_pci virtio_blk virtio_scsi sd_mod /" + initrd + " " + version,
	} {
		tree, g := newGuest(t, string(name), "gzip", vmwareImage())
		before := tree.Dump()
		run := &fakeGenerator{t: t, tree: tree}
		g.Run = run
		apply(t, g, Regenerate)
		if !slices.Equal(run.ran, []string{want}) {
			t.Errorf("ran %q, want %q", run.ran, want)
		}
		wantFit(t, g)
		if name == initramfsTools {
			if got := tree.ReadFile(t, toolsPolicy); got != comment+"MODULES=most\n" {
				t.Errorf("policy: %q", got)
			}
		} else if got := tree.ReadFile(t, dracutConf); !strings.Contains(got, `add_drivers+=" virtio_pci virtio_blk virtio_scsi sd_mod "`) {
			t.Errorf("dracut configuration: %q", got)
		}
		if again := apply(t, g, Regenerate); again.Results[0].State != fixes.Unchanged {
			t.Errorf("second run: %+v", again.Results[0])
		}
		if _, err := fixes.Undo(t.Context(), g, fixes.UndoOptions{}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before, tree.Dump()); diff != "" {
			t.Error(diff)
		}
	}
}

// TestRegenerateWhatIsConfigured: a generator that would write the same again is
// not run for it.
func TestRegenerateWhatIsConfigured(t *testing.T) {
	tree, g := newGuest(t, string(initramfsTools), "gzip", slices.Concat(vmwareImage(), []cpio.Member{
		cpio.File("conf/conf.d/resume", []byte("RESUME=/dev/sda2\n")),
	}))
	tree.Put("etc/initramfs-tools/conf.d/resume", []byte("RESUME=/dev/sda2\n"))
	apply(t, g, Inject)
	var more bytes.Buffer
	if err := cpio.Write(&more, []cpio.Member{cpio.File("conf/conf.d/resume", []byte("RESUME=/dev/sda2\n"))}); err != nil {
		t.Fatal(err)
	}
	tree.Put(initrd, slices.Concat([]byte(tree.ReadFile(t, initrd)), pack(t, "gzip", more.Bytes())))
	run := &fakeGenerator{t: t, tree: tree}
	g.Run = run
	if p := apply(t, g, Regenerate); p.Results[0].State != fixes.Unchanged || len(run.ran) > 0 || len(p.Results[0].Notes) != 1 {
		t.Errorf("ran %q: %+v", run.ran, p.Results[0])
	}
}

// TestAutoRegenerates where a segment cannot follow, or the generator's layout
// is not known.
func TestAutoRegenerates(t *testing.T) {
	tree, g := newGuest(t, string(initramfsTools), "lzma", vmwareImage())
	run := &fakeGenerator{t: t, tree: tree}
	g.Run = run
	apply(t, g, Auto)
	if len(run.ran) != 1 {
		t.Errorf("ran %q", run.ran)
	}
	_, g = newGuest(t, "booster", "gzip", vmwareImage())
	p, err := fixes.Plan(t.Context(), g, Fixes(Options{}), fixes.Selection{})
	if err != nil || p.Failures() == nil {
		t.Errorf("an unknown generator: %v, %v", err, p.Failures())
	}
}

const byPath = "/dev/disk/by-path/pci-0000:03:00.0-scsi-0:0:0:0-part4"

// TestStaleDracut replaces what --hostonly left of the old machine, and keeps
// what still holds.
func TestStaleDracut(t *testing.T) {
	const unit = `etc/systemd/system/dev-disk-by\x2dpath-pci\x2d0000:03:00.0\x2dscsi\x2d0:0:0:0\x2dpart4.device.d/timeout.conf`
	const hook = "var/lib/dracut/hooks/initqueue/finished/devexists-"
	keep := map[string]string{
		hook + "uuid.sh":           `[ -e "/dev/disk/by-uuid/1234" ]` + "\n",
		"etc/cmdline.d/90lvm.conf": " rd.lvm.lv=vg0/root root=/dev/mapper/vg0-root resume=UUID=77\n",
		`etc/systemd/system/dev-disk-by\x2duuid-1.device.d/timeout.conf`: "[Unit]\nJobTimeoutSec=0\n",
	}
	change := map[string][2]string{
		hook + "path.sh":              {`[ -e "` + byPath + `" ]` + "\n", ": hyper2kvm: not on KVM\n"},
		"etc/cmdline.d/95resume.conf": {" resume=" + byPath + " \n", " \n"},
		"etc/cmdline.d/95root.conf":   {"root=block:/dev/sda2 rootfstype=xfs", " root=UUID=1111-22 rootfstype=xfs\n"},
		unit:                          {"[Unit]\nJobTimeoutSec=0\n", shortWait},
	}
	members := vmwareImage()
	for name, text := range keep {
		members = append(members, cpio.File(name, []byte(text)))
	}
	for name, text := range change {
		members = append(members, cpio.File(name, []byte(text[0])))
	}
	members = append(members, cpio.Dir("etc"), cpio.File("etc/lvm/devices/system.devices", []byte("IDTYPE=sys_wwid\n")))
	_, g := newGuest(t, string(dracut), "zstd", members)
	apply(t, g, Inject)
	wantFit(t, g)
	img, err := readImage(g.FS, initrd)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range keep {
		if got := string(img.members[name].data); got != text {
			t.Errorf("%s became %q", name, got)
		}
	}
	for name, text := range change {
		if got := string(img.members[name].data); got != text[1] {
			t.Errorf("%s is %q, want %q", name, got, text[1])
		}
	}
	if m := img.members["etc/lvm/devices/system.devices"]; m.mode&cpio.TypeMask != cpio.TypeLink {
		t.Errorf("LVM's list of devices is still there: %+v", m)
	}
	if again := apply(t, g, Inject); again.Results[0].State != fixes.Unchanged {
		t.Errorf("second run: %+v", again.Results[0])
	}
}

// TestStaleTools: the image has all drivers and yet must change, once.
func TestStaleTools(t *testing.T) {
	members := slices.Concat(vmwareImage(), []cpio.Member{
		cpio.Dir("usr/lib/systemd"), cpio.Dir("usr/lib/systemd/network"),
		cpio.File("usr/lib/systemd/network/99-default.link", []byte("[Link]\n")),
		cpio.File("conf/conf.d/resume", []byte("RESUME=/dev/sda2\n")),
		cpio.File("conf/conf.d/zz-resume-auto", []byte("A=1\nRESUME="+byPath+"\n")),
	})
	tree, g := newGuest(t, string(initramfsTools), "gzip", members)
	apply(t, g, Inject)
	tree.Put("etc/initramfs-tools/conf.d/resume", []byte("RESUME=UUID=42\n"))
	tree.Put("etc/systemd/network/10-lan.link", []byte("[Match]\nMACAddress=00:50:56:00:00:01\n[Link]\nName=ens192\n"))
	tree.Put("etc/udev/rules.d/70-persistent-net.rules", []byte(`SUBSYSTEM=="net", NAME="ens192"`+"\n"))
	tree.Put("etc/udev/rules.d/99-other.rules", []byte("KERNEL==\"sda\"\n"))
	apply(t, g, Inject)
	wantFit(t, g)
	img, err := readImage(g.FS, initrd)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"usr/lib/systemd/network/10-lan.link": "[Match]\nMACAddress=00:50:56:00:00:01\n[Link]\nName=ens192\n",
		"conf/conf.d/resume":                  "RESUME=none\n", // of the first run; nothing to wait for
		"conf/conf.d/zz-resume-auto":          "A=1\nRESUME=none\n",
	} {
		if got := string(img.members[name].data); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	for name := range img.members {
		if strings.Contains(name, "99-other") || strings.Contains(name, "70-persistent") {
			t.Errorf("%s has no place in an image without udev rules", name)
		}
	}
	if _, ok := img.modules(modDir)["virtio_net"]; !ok {
		t.Error("virtio_net is not in an image that can name it")
	}
}

func TestUnstable(t *testing.T) {
	for dev, want := range map[string]bool{
		"/dev/sda2": true, "/dev/nvme0n1p2": true, "/dev/xvda1": true, byPath: true,
		"/dev/disk/by-id/scsi-36000c29": true, "/dev/disk/by-id/dm-uuid-LVM-x": false,
		"/dev/disk/by-uuid/1": false, "/dev/mapper/vg-root": false, "UUID=1": false, "/dev/md0": false, "": false,
	} {
		if got := unstable(dev); got != want {
			t.Errorf("unstable(%q) = %v", dev, got)
		}
	}
	if got := unescapeUnit(`dev-disk-by\x2dpath-pci\x2d0000:03`); got != "dev/disk/by-path/pci-0000:03" {
		t.Errorf("unescaped to %q", got)
	}
}

// FuzzImage: whatever the image, the fix plans or gives an error, and what it
// plans makes the image fit.
func FuzzImage(f *testing.F) {
	var b bytes.Buffer
	if err := cpio.Write(&b, vmwareImage()); err != nil {
		f.Fatal(err)
	}
	generators := []layout{initramfsTools, dracut, mkinitcpio, mkinitfs, suse, scripted, systemd}
	f.Add(b.Bytes(), uint8(0))
	f.Add(pack(f, "gzip", b.Bytes()), uint8(1))
	for i, members := range [][]cpio.Member{
		redHat5Image(), {cpio.File("run_all.sh", []byte("RESOLVED_INITRD_MODULES='ext3'\n"))}, {cpio.File("init", []byte("#!/bin/sh\nmodprobe ext3\n"))},
		{cpio.File("config", []byte("MODULES=\"ext4\"")), cpio.File("init_functions", nil)}, {cpio.File("sbin/nlplug-findfs", nil), cpio.File("etc/modules", []byte("af_packet"))},
	} {
		var b bytes.Buffer
		if err := cpio.Write(&b, members); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes(), uint8(i))
	}
	tree, g := newGuest(f, "", "none", nil)
	before, empty := tree.Dump(), []byte(tree.ReadFile(f, initrd))
	f.Fuzz(func(t *testing.T, data []byte, program uint8) {
		g.Facts.Initramfs = string(generators[int(program)%len(generators)])
		tree.Put(initrd, data)
		p, err := fixes.Plan(t.Context(), g, Fixes(Options{Mode: Inject}), fixes.Selection{})
		if err != nil {
			t.Fatal(err)
		}
		if p.Failures() != nil {
			return
		}
		if err := fixes.Apply(t.Context(), g, p, nil); err != nil {
			t.Fatal(err)
		}
		findings, err := Verify(t.Context(), g)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range findings {
			if len(found.Missing) > 0 || found.Err != nil {
				t.Fatal(fmt.Sprint(found))
			}
		}
		if _, err := fixes.Undo(t.Context(), g, fixes.UndoOptions{}); err != nil {
			t.Fatal(err)
		}
		if tree.Put(initrd, empty); tree.Dump() != before {
			t.Fatal("undo left something")
		}
	})
}
