package reporthtml

import (
	"bytes"
	"errors"
	"flag"
	"image"
	"image/color"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/html"

	"hyper2kvm/agent/api"
	"hyper2kvm/fixes/guest"
)

var keep = flag.String("keep", "", "folder that the pages of the tests are kept in, to be looked at")

// screen is a screenshot as a test has it.
func screen() []byte {
	m := image.NewRGBA(image.Rect(0, 0, 720, 400))
	for y := range 400 {
		for x := range 720 {
			m.Set(x, y, color.RGBA{10, 12, 16, 255})
			if y > 20 && y < 120 && (x*7+y/12*13)%9 < 4 && y%12 < 8 && x < 300+y*2 {
				m.Set(x, y, color.RGBA{190, 200, 205, 255})
			}
		}
	}
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func files(name string) ([]byte, error) {
	switch filepath.Ext(name) {
	case ".png":
		return screen(), nil
	case ".txt":
		return []byte("[    0.000000] Linux version 6.1.0-25-amd64\r\n\x1b[0;32m  OK  \x1b[0m Reached target \x1b[0;1;39mmulti-user.target\x1b[0m.\r\n\r\nDebian GNU/Linux 12 web01 ttyS0\r\n\r\nweb01 login: "), nil
	}
	return nil, errors.New("no such evidence")
}

const fstabDiff = `diff --git a/etc/fstab b/etc/fstab
index 3a1..9bc 100644
--- a/etc/fstab
+++ b/etc/fstab
@@ -1,5 +1,6 @@
 # /etc/fstab: static file system information.
-/dev/sda1	/	ext4	errors=remount-ro	0	1
+UUID=6f5d1c0e-9a3b-4d55-8a44-0c2f9b6d7e11	/	ext4	errors=remount-ro	0	1
-/dev/sdb1	/srv	ext4	defaults	0	2
+# hyper2kvm: no disk has this; kept for the day it is attached again
+#/dev/sdb1	/srv	ext4	defaults	0	2
 tmpfs	/tmp	tmpfs	defaults	0	0
diff --git a/etc/default/grub b/etc/default/grub
--- a/etc/default/grub
+++ b/etc/default/grub
@@ -8,3 +8,3 @@
 GRUB_CMDLINE_LINUX_DEFAULT="quiet"
-GRUB_DISABLE_LINUX_UUID=true
+#GRUB_DISABLE_LINUX_UUID=true
`

func good() *api.Report {
	return &api.Report{
		Version: 1, Name: "web01", Status: api.Done,
		Accel:    "TCG (KVM did not run a guest: no instruction in 5 s)",
		Stages:   []api.StageTime{{Stage: api.Fix, Seconds: 9.4}, {Stage: api.Convert, Seconds: 3.12}, {Stage: api.Validate, Seconds: 74.6}},
		Warnings: []string{"/dev/sdb1 in etc/fstab is on no disk of this machine: the line is commented out"},
		Disks: []api.DiskReport{{Source: "/vm/web01.vmdk", Format: "vmdk", Variant: "monolithicSparse", Size: 10 << 30, Allocated: 1288490188,
			Output: "/kvm/web01.qcow2", Written: 1310720000, Digest: "sha256:a3bcf05f07a1c06a1b2c3d4e5f60718293a4b5c6d7e8f90112233445566778899"}},
		Guest: &guest.Facts{OS: guest.OS{Family: "linux", ID: "debian", Version: "12", Name: "Debian GNU/Linux 12 (bookworm)"}, Arch: "x86_64",
			Hostname: "web01", Firmware: "bios", Init: "systemd", Initramfs: "initramfs-tools", Network: []string{"ifupdown"}, Tools: []string{"open-vm-tools"}, TargetBus: "virtio",
			Loader:  guest.BootLoader{Kind: "grub2"},
			Kernels: []guest.Kernel{{Version: "6.1.0-25-amd64", Default: true}},
			NICs:    []guest.NIC{{MAC: "00:50:56:ab:cd:ef", Name: "ens192", From: "etc/network/interfaces"}},
			Filesystems: []guest.Filesystem{{Disk: 0, Partition: 1, Type: "ext4", UUID: "6f5d1c0e-9a3b-4d55-8a44-0c2f9b6d7e11", Size: 9 << 30},
				{Disk: 0, Partition: 5, Type: "swap", UUID: "0a1b2c3d-0000-4d55-8a44-0c2f9b6d7e11", Size: 975 << 20}},
			Mounts: []guest.Mount{{Point: "/", UUID: "6f5d1c0e-9a3b-4d55-8a44-0c2f9b6d7e11"}}},
		Fixes: []api.FixReport{
			{ID: "linux/fstab", Why: "Names like /dev/sda1 change with the disk controller; UUIDs do not.", State: "changed", Diff: fstabDiff, Notes: []string{"/dev/sdb1 is on no disk"}},
			{ID: "linux/initramfs", Why: "The initramfs has only VMware's drivers: the root disk would never appear.", State: "changed",
				Diff: "diff --git a/boot/initrd.img-6.1.0-25-amd64 b/boot/initrd.img-6.1.0-25-amd64\nBinary files differ: 31,457,280 bytes, 31,871,502 bytes\n"},
			{ID: "linux/crypttab", Why: "Encrypted volumes are named by device.", State: "unchanged"},
			{ID: "linux/selinux", Why: "Changed files need a label.", State: "skipped", Notes: []string{"the guest has no SELinux"}},
		},
		Target: &api.TargetReport{Domain: "/kvm/web01.xml", Firmware: "bios", Machine: "q35", Bus: "virtio", MACs: []string{"00:50:56:ab:cd:ef"}},
		Verdicts: []api.Verdict{
			{Bus: "virtio-blk", State: api.Booted, Why: "canary: multi-user.target reached", Seconds: 38.2, Console: "a.txt", Screenshot: "a.png",
				Interfaces: []api.Interface{{Name: "ens192", MAC: "00:50:56:ab:cd:ef", Addresses: []string{"192.0.2.17/24", "fe80::250:56ff:feab:cdef/64"}}}},
			{Bus: "virtio-scsi", State: api.Booted, Why: "canary: multi-user.target reached", Seconds: 36.4, Console: "b.txt", Screenshot: "b.png",
				Interfaces: []api.Interface{{Name: "ens192", MAC: "00:50:56:ab:cd:ef", Addresses: []string{"192.0.2.17/24"}}}, FailedUnits: []string{"srv.mount"}},
		},
	}
}

// hostile fills every string that a guest or an image could have written.
func hostile(evil string) *api.Report {
	r := good()
	r.Name, r.Status, r.Accel = evil, api.Failed, evil
	r.Error = &api.Error{Code: api.CodeChain, Action: evil, Object: evil, Reason: evil, Detail: evil}
	r.Warnings = []string{evil}
	r.Stages[0].Stage = api.Stage(evil)
	r.Disks[0] = api.DiskReport{Source: evil, Format: evil, Variant: evil, Output: evil, Digest: evil}
	g := r.Guest
	g.OS.Name, g.Hostname, g.Arch, g.Firmware, g.Init, g.Initramfs, g.SELinux = evil, evil, evil, evil, evil, evil, evil
	g.Network, g.Tools, g.Loader = []string{evil}, []string{evil}, guest.BootLoader{Kind: evil, Loaders: []string{evil}}
	g.Kernels[0].Version = evil
	g.NICs[0] = guest.NIC{MAC: evil, Name: evil, From: evil}
	g.Filesystems[0] = guest.Filesystem{Volume: evil, Type: evil, UUID: evil, Label: evil, Note: evil}
	g.Mounts[0] = guest.Mount{Point: evil, UUID: evil}
	r.Fixes[0] = api.FixReport{ID: evil, Why: evil, State: "changed", Notes: []string{evil},
		Diff: "diff --git a/" + evil + " b/" + evil + "\n--- a/" + evil + "\n+++ b/" + evil + "\n" + evil + "\n@@ -1 +1 @@ " + evil + "\n-" + evil + "\n+" + evil + "\n"}
	r.Fixes[2].ID, r.Fixes[2].Why, r.Fixes[2].State, r.Fixes[2].Notes = evil, evil, evil, []string{evil}
	r.Machine = &api.MachineReport{Path: evil, ID: evil, Name: evil, Guest: evil, Firmware: evil,
		Disks: []api.DescribedDisk{{ID: evil, File: evil, Bus: evil}}, NICs: []api.DescribedNIC{{MAC: evil, Network: evil}}}
	r.Target = &api.TargetReport{Domain: evil, Firmware: evil, Machine: evil, Bus: evil, MACs: []string{evil}}
	r.Compare = &api.Comparison{Detail: evil}
	r.Verdicts[0] = api.Verdict{Bus: evil, State: api.VerdictState(evil), Why: evil, Console: "evil", Screenshot: "evil", FailedUnits: []string{evil},
		Interfaces: []api.Interface{{Name: evil, MAC: evil, Addresses: []string{evil}}}}
	return r
}

func render(t testing.TB, name string, r *api.Report, read func(string) ([]byte, error)) string {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, r, read); err != nil {
		t.Fatal(err)
	}
	if *keep != "" {
		if err := os.WriteFile(filepath.Join(*keep, name+".html"), b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if strings.Contains(b.String(), "ZgotmplZ") {
		t.Errorf("%s: the template refused one of our own values", name)
	}
	return b.String()
}

// elements lists the elements of a page and their attributes, as a browser
// would see them.
func elements(t testing.TB, page string) (tags, attrs []string) {
	t.Helper()
	z := html.NewTokenizer(strings.NewReader(page))
	for {
		switch z.Next() {
		case html.ErrorToken:
			if z.Err() != io.EOF {
				t.Fatal(z.Err())
			}
			return tags, attrs
		case html.StartTagToken, html.SelfClosingTagToken:
			tok := z.Token()
			tags = append(tags, tok.Data)
			for _, a := range tok.Attr {
				attrs = append(attrs, a.Key)
				if slices.Contains([]string{"src", "href"}, a.Key) && !strings.HasPrefix(a.Val, "data:image/png;base64,") {
					t.Errorf("<%s %s=%q>", tok.Data, a.Key, a.Val)
				}
			}
		}
	}
}

// TestHostile: whatever strings a report holds, the page has the same elements
// and attributes as with harmless ones, and all the strings are text.
func TestHostile(t *testing.T) {
	for i, evil := range []string{
		`<script>alert(1)</script>`, `"><img src=x onerror=alert(1)>`, `' onmouseover='alert(1)`, `</style><script>x</script>`,
		`{{.Name}}`, `javascript:alert(1)`, `--></details><svg onload=alert(1)>`, `</pre><iframe srcdoc="x">`, "\x00\x1b[2J<b>",
	} {
		read := func(text string) func(string) ([]byte, error) {
			return func(name string) ([]byte, error) {
				if name == "evil" {
					return []byte("\x89PNG\r\n\x1a\n" + text), nil
				}
				return files(name)
			}
		}
		tags, attrs := elements(t, render(t, "hostile", hostile(evil), read(evil)))
		harmless := strings.Repeat("h", len(evil)) // as long, since long words get another class
		wantTags, wantAttrs := elements(t, render(t, "harmless", hostile(harmless), read(harmless)))
		if !slices.Equal(tags, wantTags) || !slices.Equal(attrs, wantAttrs) {
			t.Errorf("string %d, %q, changes the page's structure", i, evil)
		}
		for _, bad := range []string{"script", "iframe", "svg", "object", "link"} {
			if slices.Contains(tags, bad) {
				t.Errorf("string %d, %q, gives a <%s>", i, evil, bad)
			}
		}
	}
}

func TestPageIsSelfContained(t *testing.T) {
	page := render(t, "good", good(), files)
	tags, attrs := elements(t, page)
	if n := strings.Count(page, `src="data:image/png;base64,iVBOR`); n != 2 {
		t.Errorf("%d screenshots, want 2", n)
	}
	if slices.Contains(tags, "script") || slices.ContainsFunc(attrs, func(a string) bool { return strings.HasPrefix(a, "on") }) {
		t.Error("the page has scripts")
	}
	if urls := regexp.MustCompile(`https?://|url\(|@import`).FindAllString(page, -1); len(urls) > 0 {
		t.Errorf("the page points elsewhere: %v", urls)
	}
	for _, want := range []string{
		"The machine boots: seen on virtio-blk and virtio-scsi.", "Debian GNU/Linux 12 (bookworm)", "192.0.2.17/24", "srv.mount",
		`<div class="del"><i>-</i>/dev/sda1`, `<div class="add"><i>&#43;</i>UUID=6f5d1c0e`, "Reached target multi-user.target.",
		"web01.qcow2", "1.2 GiB", "1m27s", "disk 1, partition 5", "2 more looked into",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
}

func TestOutcomes(t *testing.T) {
	for _, x := range []struct {
		status api.Status
		states []api.VerdictState
		class  string
		words  string
	}{
		{api.Done, []api.VerdictState{api.Booted}, "good", "The machine boots: seen on bus0."},
		{api.Done, nil, "good", "Booting was not part of this run"},
		{api.Unproven, []api.VerdictState{api.Booted, api.Panic}, "fair", "not seen to boot on bus1. It boots on bus0"},
		{api.Unproven, []api.VerdictState{api.Timeout}, "fair", "not seen to boot."},
		{api.Refused, nil, "bad", "before anything was changed"},
		{api.Interrupted, nil, "fair", "Interrupted"},
		{api.Failed, nil, "bad", "failed"},
	} {
		r := &api.Report{Status: x.status}
		for i, s := range x.states {
			r.Verdicts = append(r.Verdicts, api.Verdict{Bus: "bus" + string(rune('0'+i)), State: s})
		}
		class, words := outcome(r)
		if class != x.class || !strings.Contains(words, x.words) {
			t.Errorf("%s %v: %s, %q", x.status, x.states, class, words)
		}
		render(t, "outcome", r, files) // an empty report must do as well
	}
	failed := good()
	failed.Status, failed.Verdicts, failed.Target = api.Failed, nil, nil
	failed.Error = &api.Error{Code: api.CodeChain, Action: "open", Object: "web-000002.vmdk", Reason: "parent \"web.vmdk\" is missing",
		Detail: "web-000002.vmdk  vmdk monolithicSparse, id 5f3a2b01, over 9c01d2aa\n└─ web.vmdk  MISSING"}
	failed.Fixes[1].State = "failed"
	if page := render(t, "failed", failed, files); !strings.Contains(page, "└─ web.vmdk  MISSING") {
		t.Error("the error's detail is not shown")
	}
}

// The machine is shown as it was, and as it is.
func TestDescribedMachine(t *testing.T) {
	r := good()
	r.Target.SecureBoot = true
	r.Machine = &api.MachineReport{Path: "/in/web01.ova", Name: "web01", CPUs: 3, Memory: 1536 << 20, Firmware: "uefi", SecureBoot: true,
		Disks: []api.DescribedDisk{{Number: 1, ID: "vmdisk1", File: "a.vmdk", Bus: "scsi"}, {Number: 2, ID: "vmdisk2"}},
		NICs:  []api.DescribedNIC{{MAC: "00:50:56:9b:00:01", Network: "VM Network"}, {}}, Manifest: &api.ManifestReport{Listed: 3, Verified: true}}
	page := render(t, "machine", r, files)
	for _, want := range []string{"<code title=\"/in/web01.ova\">web01.ova</code>", "<dd>3</dd>", "<dd>1.5 GiB</dd>", "<dd>uefi, Secure Boot</dd>", "<code>a.vmdk</code> scsi",
		"<code>vmdisk2</code>", "<code>00:50:56:9b:00:01</code> VM Network", "no address", "3 files, all compared", "<dd>bios, Secure Boot</dd>"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page has no %s", want)
		}
	}
}

func TestMissingEvidence(t *testing.T) {
	r := good()
	r.Verdicts[0].Screenshot, r.Verdicts[1].Console, r.Verdicts[1].Screenshot = "b.txt", "gone", "gone"
	page := render(t, "missing", r, files)
	if !strings.Contains(page, "b.txt is no PNG") || !strings.Contains(page, "no such evidence; console text: no such evidence") {
		t.Error("the page does not say what is missing")
	}
}

func TestParseDiff(t *testing.T) {
	files, more := parseDiff(fstabDiff)
	if len(files) != 2 || more != 0 || files[0].Name != "etc/fstab" || files[0].Added != 3 || files[0].Removed != 2 || files[1].Added != 1 {
		t.Errorf("%+v", files)
	}
	// A removed line "-- x" looks like a header.
	files, _ = parseDiff("--- a/x.sql\n+++ b/x.sql\n@@ -1,2 +1,1 @@\n--- comment\n+++ other\n ctx\xc3\xa9\n")
	if len(files) != 1 || files[0].Name != "x.sql" || files[0].Removed != 1 || files[0].Added != 1 {
		t.Errorf("%+v", files)
	}
	files, more = parseDiff("@@ -0,0 +1,9999 @@\n" + strings.Repeat("+x\n", 9999))
	if len(files[0].Lines) != maxLines || more != 10000-maxLines {
		t.Errorf("%d lines kept, %d left out", len(files[0].Lines), more)
	}
	if got := visible("a\u202eb\x1b\u200b\tc"); got != "a⟨U+202E⟩b⟨U+001B⟩⟨U+200B⟩\tc" {
		t.Errorf("visible: %q", got)
	}
}

func FuzzParseDiff(f *testing.F) {
	f.Add(fstabDiff)
	f.Add("diff --git \n@@\n\n+")
	f.Fuzz(func(t *testing.T, diff string) {
		files, more := parseDiff(diff)
		shown := 0
		for _, x := range files {
			shown += len(x.Lines) + len(x.Notes)
		}
		if lines := strings.Count(diff, "\n") + 1; shown+more > lines {
			t.Fatalf("%d lines in, %d out", lines, shown+more)
		}
		for _, r := range cleanTerminal(diff) {
			if r < ' ' && r != '\n' && r != '\t' {
				t.Fatalf("%q got through", r)
			}
		}
	})
}

func TestFormats(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1 KiB", 10 << 30: "10 GiB", 1288490188: "1.2 GiB", 1<<20 - 1: "1 MiB"} {
		if got := formatBytes(n); got != want {
			t.Errorf("formatBytes(%d) = %s, want %s", n, got, want)
		}
	}
	for s, want := range map[float64]string{0.04: "0.0 s", 9.4: "9.4 s", 38.2: "38 s", 60: "1m", 87.1: "1m27s", 3600: "1h0m"} {
		if got := formatSeconds(s); got != want {
			t.Errorf("formatSeconds(%g) = %s, want %s", s, got, want)
		}
	}
}
