package e2e

import (
	"archive/tar"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hyper2kvm/formats/formatstest"
)

// TestMachineInAnOVA converts a machine of two disks as it was exported: the
// guest is repaired, the new machine is the one that was described, and the
// archive is only read.
func TestMachineInAnOVA(t *testing.T) {
	requireVM(t)
	dir := t.TempDir()
	files := tinyGuest()
	files["etc/network/interfaces"] = "auto ens192\niface ens192 inet static\n\taddress 10.0.2.50/24\n" +
		"auto ens224\niface ens224 inet static\n\taddress 10.0.3.50/24\n"
	files["usr/lib/systemd/network/99-default.link"] = "[Link]\nNamePolicy=path\n"
	raw := tinyDisk(t, dir, ext4(t, dir, "root", files, 256*mib))
	data := ext4(t, dir, "data", tree{"precious": "data\n"}, 64*mib)
	machine := formatstest.Described{
		Name: "web01", Firmware: "bios", Disks: []string{"web01-disk1.vmdk", "web01-disk2.vmdk"}, Capacity: 258 * mib,
		MACs: []string{"00:50:56:9b:00:02", "00:50:56:9b:00:01"},
	}
	members := []formatstest.Member{{Name: "web01.ovf", Content: machine.OVF()}, {Name: "web01.mf"}}
	for i, source := range []string{raw, data.file} {
		path := filepath.Join(dir, machine.Disks[i])
		formatstest.QemuImg(t, "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", source, path)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		members = append(members, formatstest.Member{Name: machine.Disks[i], Content: b})
	}
	for i, m := range members {
		if i != 1 {
			members[1].Content = fmt.Appendf(members[1].Content, "SHA256(%s)= %x\n", m.Name, sha256.Sum256(m.Content))
		}
	}
	ova := filepath.Join(dir, "web01.ova")
	if err := os.WriteFile(ova, formatstest.Tar(t, tar.FormatUSTAR, members...), 0o600); err != nil {
		t.Fatal(err)
	}
	unchanged(t, ova)

	top := t.TempDir()
	out := filepath.Join(top, "web01")
	r := h2k(t, "convert", ova, "-o", out, "--json").want(t, 0)
	for _, id := range []string{"linux/fstab", "linux/network"} {
		if !changed(r.report.Fixes, id) {
			t.Errorf("%s is not among the repairs: %+v", id, r.report.Fixes)
		}
	}
	for i, name := range []string{"ens192", "ens224"} {
		if link := "+MACAddress=" + machine.MACs[i] + "\n+Path=*\n+\n+[Link]\n+Name=" + name; !strings.Contains(diffs(r), link) {
			t.Errorf("%s is not the card %s", name, machine.MACs[i])
		}
	}
	if m := r.report.Machine; m == nil || m.Manifest == nil || !m.Manifest.Verified {
		t.Errorf("the machine is reported as %+v", m)
	}
	nothingLeft(t, top, "web01")
	nothingLeft(t, out, "web01-sda.qcow2", "web01-sdb.qcow2", "web01.xml", "web01.report.json", "web01.report.html")
	formatstest.QemuImg(t, "compare", "-f", "raw", "-F", "qcow2", data.file, filepath.Join(out, "web01-sdb.qcow2"))
	text, err := os.ReadFile(filepath.Join(out, "web01.xml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"<memory unit=\"KiB\">1572864</memory>", "<vcpu>3</vcpu>", "web01-sda.qcow2", "web01-sdb.qcow2"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the domain has no %s:\n%s", want, text)
		}
	}
	first, second := strings.Index(string(text), machine.MACs[0]), strings.Index(string(text), machine.MACs[1])
	if first < 0 || second < first || strings.Contains(string(text), "firmware=") {
		t.Errorf("addresses or firmware of the domain:\n%s", text)
	}
	secondRunChangesNothing(t, filepath.Join(out, "web01-sda.qcow2"))
}
