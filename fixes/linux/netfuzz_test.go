package linux

import (
	"bytes"
	"strings"
	"testing"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/guest/guesttest"
)

// fuzzedNet lists the files that the fixes of the network edit.
func fuzzedNet() []string {
	return []string{"etc/systemd/network/a.network", "etc/systemd/network/a.link", "usr/lib/systemd/network/b.network",
		"etc/systemd/network/b.network.d/c.conf", "etc/NetworkManager/system-connections/a", "etc/NetworkManager/conf.d/a.conf",
		"var/lib/NetworkManager/no-auto-default.state", "etc/netplan/a.yaml", "lib/netplan/b.yaml", "etc/network/interfaces",
		"etc/network/interfaces.d/a", "etc/mactab", "etc/wicked/ifconfig/a.xml", "etc/sysconfig/network/ifcfg-eth0",
		"etc/sysconfig/network/ifcfg-eth-id-00:50:56:aa:00:01", "etc/sysconfig/network-scripts/ifcfg-ens192", rulesFile,
		"etc/udev/rules.d/a.rules", "etc/modprobe.conf", "boot/grub/grub.cfg", "etc/cloud/cloud.cfg", "etc/cloud/cloud.cfg.d/a.cfg",
		"etc/cloud/ds-identify.cfg"}
}

// FuzzNetwork moves a guest with hostile bytes in one of its network's files.
// An edit keeps the number of lines and all but the lines with a pin, and a
// second run finds nothing to do.
func FuzzNetwork(f *testing.F) {
	const mac = "00:50:56:aa:00:01"
	f.Add(uint8(0), "[Match]\r\nMACAddress="+mac+"\r\nPath=pci-0000:0b:00.0\r\n[Match]\nDriver=vmxnet3")
	f.Add(uint8(1), "[Match]\n\tMACAddress=\t"+mac+"  "+mac+"\n[Link]\nName=ens192")
	f.Add(uint8(3), "[Match]\nPermanentMACAddress="+mac)
	f.Add(uint8(4), "[connection]\ntype=ethernet\n[ethernet]\nmac-address="+mac+"\n[match]\ndriver=vmxnet3;\npath=pci-0000:0b:00.0")
	f.Add(uint8(5), "[device]\nmatch-device=driver:vmxnet3,mac:"+mac+"\n")
	f.Add(uint8(7), "network: {ethernets: {a: {match: {macaddress: '"+mac+"', driver: [vmxnet3]}, set-name: x}}}")
	f.Add(uint8(9), "auto mac/"+mac+"=x\n\tmap "+mac+" y\r\nmapping *\n map \\\n "+mac+" y")
	f.Add(uint8(13), "HWADDR="+mac+"\nBONDING_SLAVE0='eth-id-"+mac+"'\nMATCH_PATH=pci-0000:0b:00.0\nMATCH_DRIVER=vmxnet3")
	f.Add(uint8(14), "X=1")
	f.Add(uint8(16), `SUBSYSTEM=="net", ATTR{address}=="`+mac+`", KERNELS=="0000:0b:00.0", NAME="ens192", ID=="x"`)
	f.Add(uint8(17), `SUBSYSTEM == "net", ATTR{address} == "`+mac+`", NAME = "ens192"`)
	f.Add(uint8(20), "datasource_list: [ Ec2, None ]\nnetwork: {config: x}\nmanual_cache_clean: 7")
	f.Add(uint8(21), "datasource_list: !!null\n- \t")
	f.Fuzz(func(t *testing.T, at uint8, content string) {
		name := fuzzedNet()[int(at&0x7f)%len(fuzzedNet())]
		facts := &guest.Facts{OS: guest.OS{Family: "linux", ID: "x"}, Init: "systemd", Arch: "x86_64", Network: []string{"x"}, NICs: movedCard()}
		tree := guesttest.New(t, "-- usr/bin/cloud-init --\n-- var/lib/cloud/instance/obj.pkl --\n-- lib/udev/rules.d/75-persistent-net-generator.rules --\n")
		if at&0x80 != 0 {
			facts.Init, facts.OS = "sysv", guest.OS{Family: "linux", ID: "sles", Version: "10"}
		}
		tree.Put(name, []byte(content))
		g := &guest.Guest{FS: tree, Facts: facts}
		for _, fix := range []fixes.Fix{network(), cloudInit()} {
			p, err := fix.Plan(t.Context(), g)
			if err != nil {
				t.Fatalf("%s: %v", fix.ID(), err)
			}
			for _, c := range p.Changes {
				if w, ok := c.(fixes.WriteFile); ok && w.Name == name {
					onlyEdited(t, name, content, string(w.Content))
				}
			}
			applyTo(t, tree, p.Changes)
			if again, _ := fix.Plan(t.Context(), g); len(again.Changes) > 0 {
				t.Fatalf("%s wants to change %s again: %q from %q", fix.ID(), name, again.Changes, content)
			}
		}
	})
}

// onlyEdited holds that lines without a pin of the moved card stay as they are,
// and that none is lost.
func onlyEdited(t *testing.T, name, before, after string) {
	a, b := strings.SplitAfter(before, "\n"), strings.SplitAfter(after, "\n")
	if more := bytes.Count([]byte(after), []byte("\n")) - bytes.Count([]byte(before), []byte("\n")); more < 0 || more > 2 {
		t.Fatalf("%s: %d lines became %d", name, len(a), len(b))
	}
	if len(a) != len(b) {
		return // a line was added: a rule, an item of a list
	}
	for i := range a {
		low := strings.ToLower(a[i])
		pin := macText.MatchString(a[i]) || strings.Contains(low, "pci-") || strings.Contains(low, "driver") || strings.Contains(low, "name") ||
			strings.Contains(low, "alias") || strings.Contains(low, "vmxnet") || strings.Contains(low, "ifname") || strings.Contains(low, "mac")
		if a[i] != b[i] && !pin && !strings.Contains(name, ".yaml") {
			t.Fatalf("%s: line %d %q became %q", name, i+1, a[i], b[i])
		}
	}
}
