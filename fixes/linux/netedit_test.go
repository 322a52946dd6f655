package linux

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/guest/guesttest"
)

const (
	oldMAC = "00:50:56:aa:00:01" // of the source's card ens192
	newMAC = "52:54:00:0a:0b:0c" // of the target's
)

// netCase is one file before and after, in the words of who asks for it.
type netCase struct {
	name, file, before, after string
	os                        guest.OS
	init                      string
	nics                      []guest.NIC // nil is one card with a new address
	note                      string      // part of a note that is to come
}

func movedCard() []guest.NIC { return []guest.NIC{{MAC: newMAC, Name: "ens192", Was: oldMAC}} }

func netCases() []netCase {
	upper := strings.ToUpper
	rhel := guest.OS{Family: "linux", ID: "rhel", IDLike: []string{"fedora"}, Version: "7.9"}
	return []netCase{
		{name: "my RHEL 7 card has a new address and its ifcfg names the old one",
			file:   "etc/sysconfig/network-scripts/ifcfg-ens192",
			before: "# LAN\nDEVICE=ens192\nHWADDR=" + upper(oldMAC) + "   # card\nIPADDR=10.0.0.5\n",
			after:  "# LAN\nDEVICE=ens192\nHWADDR=" + upper(newMAC) + "   # card\nIPADDR=10.0.0.5\n", os: rhel},
		{name: "an address that I gave the card myself stays",
			file:   "etc/sysconfig/network-scripts/ifcfg-ens192",
			before: "DEVICE=ens192\nMACADDR=" + oldMAC + "\n"},
		{name: "SUSE binds by the file's name, nothing is to change",
			file:   "etc/sysconfig/network/ifcfg-ens192",
			before: "BOOTPROTO='static'\nLLADDR='" + oldMAC + "'\nIPADDR='10.0.0.5/24'\n"},
		{name: "a card that is a port of Open vSwitch",
			file:   "etc/sysconfig/network-scripts/ifcfg-ens192",
			before: "DEVICE=ens192\r\nDEVICETYPE=ovs\r\nTYPE=OVSPort\r\nHWADDR=" + oldMAC + "\r\nHWADDR_BLACKLIST='" + upper(oldMAC) + "'",
			after:  "DEVICE=ens192\r\nDEVICETYPE=ovs\r\nTYPE=OVSPort\r\nHWADDR=" + newMAC + "\r\nHWADDR_BLACKLIST='" + upper(newMAC) + "'", os: rhel},
		{name: "a bond's slave on SUSE keeps its name, its HWADDR follows",
			file:   "etc/sysconfig/network/ifcfg-ens192",
			before: "HWADDR='" + oldMAC + "'\nSTARTMODE='hotplug'\n",
			after:  "HWADDR='" + newMAC + "'\nSTARTMODE='hotplug'\n"},
		{name: "a NetworkManager profile is tied to the address",
			file:   "etc/NetworkManager/system-connections/LAN.nmconnection",
			before: "[connection]\nid=LAN\ntype=ethernet\ninterface-name=ens192\n\n[ethernet]\nmac-address=" + upper(oldMAC) + "\ncloned-mac-address=" + oldMAC + "\n\n[match]\ndriver=vmxnet3;\npath=pci-0000:0b:00.0;\n",
			after:  "[connection]\nid=LAN\ntype=ethernet\ninterface-name=ens192\n\n[ethernet]\nmac-address=" + upper(newMAC) + "\ncloned-mac-address=" + oldMAC + "\n\n[match]\ndriver=vmxnet3;virtio_net;\npath=pci-*;\n"},
		{name: "a profile in the old form, without spaces changed",
			file:   "etc/NetworkManager/system-connections/Wired",
			before: "[connection]\ntype = 802-3-ethernet\n[802-3-ethernet]\nmac-address = " + oldMAC + "\n",
			after:  "[connection]\ntype = 802-3-ethernet\n[802-3-ethernet]\nmac-address = " + newMAC + "\n"},
		{name: "NetworkManager is told to leave a card alone, by address and by driver",
			file:   "etc/NetworkManager/conf.d/90-mine.conf",
			before: "[keyfile]\nunmanaged-devices=mac:" + oldMAC + ";interface-name:docker*\n[device-x]\nmatch-device=driver:vmxnet3\n[main]\nno-auto-default=" + oldMAC + "\n",
			after:  "[keyfile]\nunmanaged-devices=mac:" + newMAC + ";interface-name:docker*\n[device-x]\nmatch-device=driver:vmxnet3;driver:virtio_net\n[main]\nno-auto-default=" + newMAC + "\n"},
		{name: "netplan matches the address, in quotes and with a comment",
			file:   "etc/netplan/50-cloud-init.yaml",
			before: "# hand-made\nnetwork:\n  version: 2\n  ethernets:\n    ens192:\n      match: {macaddress: '" + oldMAC + "'} # LAN\n      set-name: ens192\n      macaddress: " + oldMAC + "\n",
			after:  "# hand-made\nnetwork:\n  version: 2\n  ethernets:\n    ens192:\n      match: {macaddress: '" + newMAC + "'} # LAN\n      set-name: ens192\n      macaddress: " + oldMAC + "\n"},
		{name: "netplan matches VMware's driver in one line",
			file:   "etc/netplan/a.yaml",
			before: "network: {ethernets: {lan: {match: {driver: vmxnet3}, dhcp4: true}}}\n",
			after:  "network: {ethernets: {lan: {match: {driver: \"v[im][rx]*net*\"}, dhcp4: true}}}\n"},
		{name: "netplan's file has a tab in it and is not YAML",
			file: "etc/netplan/a.yaml", before: "network:\n\tethernets: {}\n", note: "left as it is"},
		{name: "networkd matches the address of the card",
			file:   "etc/systemd/network/10-lan.network",
			before: "[Match]\nMACAddress=" + oldMAC + " 00:50:56:aa:00:ff\nType=ether\n[Link]\nMACAddress=" + oldMAC + "\n",
			after:  "[Match]\nMACAddress=" + newMAC + " 00:50:56:aa:00:ff\nType=ether\n[Link]\nMACAddress=" + oldMAC + "\n"},
		{name: "my own .link file names the card",
			file:   "etc/systemd/network/10-lan.link",
			before: "[Match]\nPermanentMACAddress=" + oldMAC + "\n[Link]\nName=ens192\n",
			after:  "[Match]\nPermanentMACAddress=" + newMAC + "\n[Link]\nName=ens192\n"},
		{name: "ifupdown maps the card by a script",
			file:   "etc/network/interfaces",
			before: "mapping eth0\n\tscript get-mac-address.sh\n\tmap " + upper(oldMAC) + " lan\nauto mac/" + oldMAC + "=lan\niface lan inet static\n\thwaddress ether " + oldMAC + "\n",
			after:  "mapping eth0\n\tscript get-mac-address.sh\n\tmap " + upper(newMAC) + " lan\nauto mac/" + newMAC + "=lan\niface lan inet static\n\thwaddress ether " + oldMAC + "\n"},
		{name: "nameif's table", file: "etc/mactab", before: "ens192  " + oldMAC + "\n", after: "ens192  " + newMAC + "\n"},
		{name: "wicked knows the card by its permanent address",
			file:   "etc/wicked/ifconfig/lan.xml",
			before: "<interface>\n <name namespace=\"ethernet\"><permanent-address>" + oldMAC + "</permanent-address></name>\n <link-layer><address>" + oldMAC + "</address></link-layer>\n</interface>\n",
			after:  "<interface>\n <name namespace=\"ethernet\"><permanent-address>" + newMAC + "</permanent-address></name>\n <link-layer><address>" + oldMAC + "</address></link-layer>\n</interface>\n"},
		{name: "a udev rule of my own", file: "etc/udev/rules.d/10-names.rules",
			before: "ACTION==\"add\", SUBSYSTEM==\"net\", ATTR{address}==\"" + oldMAC + "\", NAME=\"ens192\"\nKERNEL==\"sda\", NAME=\"x\"\n",
			after:  "ACTION==\"add\", SUBSYSTEM==\"net\", ATTR{address}==\"" + newMAC + "\", NAME=\"ens192\"\nKERNEL==\"sda\", NAME=\"x\"\n"},
		{name: "SLES 12 tied the card to a slot", file: rulesFile, nics: []guest.NIC{{MAC: oldMAC, Name: "eth0"}},
			before: "SUBSYSTEM==\"net\", ACTION==\"add\", DRIVERS==\"?*\", KERNELS==\"0000:0b:00.0\", ATTR{dev_id}==\"0x0\", ATTR{type}==\"1\", KERNEL==\"eth*\", NAME=\"eth0\"\n",
			after:  "SUBSYSTEM==\"net\", ACTION==\"add\", DRIVERS==\"?*\", ATTR{type}==\"1\", KERNEL==\"eth*\", ATTR{address}==\"" + oldMAC + "\", NAME=\"eth0\"\n"},
		{name: "SLES 10 calls a program to rename", file: "etc/udev/rules.d/30-net_persistent_names.rules",
			os: guest.OS{Family: "linux", ID: "sles", IDLike: []string{"suse"}, Version: "10"}, init: "sysv",
			before: "SUBSYSTEM==\"net\", ACTION==\"add\", SYSFS{address}==\"" + oldMAC + "\", IMPORT=\"/lib/udev/rename_netiface %k ens192\"\n",
			after:  "SUBSYSTEM==\"net\", ACTION==\"add\", SYSFS{address}==\"" + newMAC + "\", IMPORT=\"/lib/udev/rename_netiface %k ens192\"\n"},
		{name: "RHEL 5 finds its card by HWADDR alone", file: "etc/sysconfig/network-scripts/ifcfg-eth0", nics: []guest.NIC{{MAC: oldMAC, Name: "eth0"}},
			os: guest.OS{Family: "linux", ID: "rhel", Version: "5.11"}, init: "sysv",
			before: "DEVICE=eth0\nBOOTPROTO=dhcp\n", after: "DEVICE=eth0\nBOOTPROTO=dhcp\nHWADDR=\"" + upper(oldMAC) + "\"\n"},
		{name: "RHEL 5 loads VMware's driver for eth0", file: "etc/modprobe.conf",
			before: "alias eth0 vmxnet3\nalias scsi_hostadapter mptspi\n alias eth1 pcnet32 # second\noptions vmxnet3 x=1\n",
			after:  "alias eth0 virtio_net\nalias scsi_hostadapter mptspi\n alias eth1 virtio_net # second\noptions vmxnet3 x=1\n"},
		{name: "the disk is unlocked over the network before the root is there", file: "boot/loader/entries/a.conf",
			before: "linux /vmlinuz\noptions root=/dev/vg/root ip=10.0.0.5::10.0.0.1:24:h:ens192:none ifname=ens192:" + oldMAC + " rd.neednet=1 BOOTIF=01-" + strings.ReplaceAll(oldMAC, ":", "-") + "\n",
			after:  "linux /vmlinuz\noptions root=/dev/vg/root ip=10.0.0.5::10.0.0.1:24:h:ens192:none ifname=ens192:" + newMAC + " rd.neednet=1 BOOTIF=01-" + strings.ReplaceAll(newMAC, ":", "-") + "\n"},
		{name: "my DHCP server knows the old address; that is mine to change", file: "etc/dhcp/dhcpd.conf",
			before: "host me { hardware ethernet " + oldMAC + "; }\n", note: "etc/dhcp/dhcpd.conf: names the address " + oldMAC},
		{name: "two cards swapped places and the plan does not say which is which", file: "etc/systemd/network/a.network",
			nics:   []guest.NIC{{MAC: "52:54:00:00:00:01"}, {MAC: "52:54:00:00:00:02"}},
			before: "[Match]\nMACAddress=00:50:56:00:00:01 00:50:56:00:00:02\n", note: "cannot be told"},
		{name: "two files call one card by two names", file: "etc/network/interfaces", nics: []guest.NIC{{MAC: oldMAC}},
			before: "mapping a\n map " + oldMAC + " lan\n map " + oldMAC + " wan\n", note: "is called lan and wan by different files"},
	}
}

func (c netCase) guest() *guest.Guest {
	tree := guesttest.Empty()
	tree.Put(c.file, []byte(c.before))
	facts := &guest.Facts{OS: c.os, Init: c.init, NICs: c.nics, Network: []string{"x"}, Arch: "x86_64"}
	if facts.OS.ID == "" {
		facts.OS = guest.OS{Family: "linux", ID: "x"}
	}
	if facts.Init == "" {
		facts.Init = "systemd"
	}
	if facts.NICs == nil {
		facts.NICs = movedCard()
	}
	return &guest.Guest{FS: tree, Facts: facts}
}

func TestNetworkEdits(t *testing.T) {
	for _, c := range netCases() {
		t.Run(c.name, func(t *testing.T) {
			g := c.guest()
			tree := g.FS.(*guesttest.FS)
			p, err := network().Plan(t.Context(), g)
			if err != nil {
				t.Fatal(err)
			}
			applyTo(t, tree, p.Changes)
			want := c.after
			if want == "" {
				want = c.before
			}
			if diff := cmp.Diff(want, tree.ReadFile(t, c.file)); diff != "" {
				t.Error(diff)
			}
			if c.note != "" && !strings.Contains(strings.Join(p.Notes, "\n"), c.note) {
				t.Errorf("notes are %q", p.Notes)
			}
			if again, _ := network().Plan(t.Context(), g); len(again.Changes) > 0 {
				t.Errorf("a second run changes %v", again.Changes)
			}
			checkRules(t, g)
		})
	}
}

// checkRules holds that all that gives a card a name gives it the same one.
func checkRules(t *testing.T, g *guest.Guest) {
	t.Helper()
	n := &naming{planner: &planner{fs: g.FS, facts: g.Facts}}
	names := map[string]string{}
	for _, c := range n.readClaims() {
		if !c.rule || c.name == "" {
			continue
		}
		if other := names[c.mac]; other != "" && other != c.name {
			t.Errorf("the card %s is named %s and %s", c.mac, other, c.name)
		}
		names[c.mac] = c.name
	}
}

func TestAddressesInFileNames(t *testing.T) {
	tree := guesttest.New(t, "-- etc/sysconfig/network/ifcfg-eth-id-"+oldMAC+" mode=0600 --\nBOOTPROTO='dhcp'\n"+
		"-- etc/sysconfig/network/ifroute-eth-id-"+oldMAC+" --\ndefault 10.0.0.1\n"+
		"-- etc/sysconfig/network/ifcfg-eth-id-"+oldMAC+".bak --\n")
	g := &guest.Guest{FS: tree, Facts: &guest.Facts{OS: guest.OS{Family: "linux", ID: "sles", Version: "10"}, Init: "sysv", NICs: []guest.NIC{{MAC: newMAC, Was: oldMAC}}}}
	planned, err := fixes.Plan(t.Context(), g, []fixes.Fix{network()}, fixes.Selection{})
	if err != nil {
		t.Fatal(err)
	}
	if err := fixes.Apply(t.Context(), g, planned, nil); err != nil {
		t.Fatal(err)
	}
	attr, err := tree.Attr("etc/sysconfig/network/ifcfg-eth-id-" + newMAC)
	if err != nil || attr.Mode.Perm() != 0o600 {
		t.Errorf("mode %v, %v", attr.Mode, err)
	}
	if got := tree.ReadFile(t, "etc/sysconfig/network/ifroute-eth-id-"+newMAC); got != "default 10.0.0.1\n" {
		t.Errorf("route is %q", got)
	}
	if _, err := tree.Stat("etc/sysconfig/network/ifcfg-eth-id-" + oldMAC); err == nil {
		t.Error("the old file is still there")
	}
	again, err := fixes.Plan(t.Context(), g, []fixes.Fix{network()}, fixes.Selection{})
	if err != nil || again.Pending() {
		t.Errorf("a second run changes more, or %v", err)
	}
	slot := guesttest.New(t, "-- etc/sysconfig/network/ifcfg-bus-pci-0000:02:00.0 --\nX=1\n")
	p, _ := network().Plan(t.Context(), &guest.Guest{FS: slot, Facts: g.Facts})
	applyTo(t, slot, p.Changes)
	slot.ReadFile(t, "etc/sysconfig/network/ifcfg-eth-id-"+newMAC)
}

// corpus lists the real files of a folder under the name that a guest has them
// at.
func corpus(t *testing.T) map[string][]byte {
	root := outside(t, "netcfg")
	out := map[string][]byte{}
	for pattern, dir := range map[string]string{
		"netplan-examples/*.yaml": "etc/netplan",
		"nm-keyfile/*":            "etc/NetworkManager/system-connections",
		"augeas-root/etc/sysconfig/network-scripts/ifcfg-[elbw]*": redHatScripts,
		"augeas-root/etc/network/interfaces":                      "etc/network",
		"augeas-root/etc/modules.conf":                            "etc",
		"augeas-root/etc/inittab":                                 "etc",
	} {
		names, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil || len(names) == 0 {
			t.Fatalf("nothing matches %s: %v", pattern, err)
		}
		for _, name := range names {
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			out[dir+"/"+filepath.Base(name)] = data
		}
	}
	return out
}

// TestRealNetworkFiles puts each real file alone into a guest: nothing changes
// when the cards keep their addresses, and only lines with the card's address,
// driver or place when they do not.
func TestRealNetworkFiles(t *testing.T) {
	touched := 0
	for name, data := range corpus(t) {
		for _, kind := range []string{"same", "moved"} {
			macs := macText.FindAllString(string(data), -1)
			facts := &guest.Facts{OS: guest.OS{Family: "linux", ID: "x"}, Init: "systemd"}
			for i, m := range macs {
				nic := guest.NIC{MAC: m}
				if kind == "moved" {
					nic = guest.NIC{MAC: "52:54:00:00:00:0" + string(rune('0'+i%10)), Was: m}
				}
				if !slices.ContainsFunc(facts.NICs, func(o guest.NIC) bool { return o.MAC == nic.MAC || o.Was != "" && strings.EqualFold(o.Was, m) }) {
					facts.NICs = append(facts.NICs, nic)
				}
			}
			tree := guesttest.Empty()
			tree.Put(name, data)
			p, err := network().Plan(t.Context(), &guest.Guest{FS: tree, Facts: facts})
			if err != nil {
				t.Fatal(err)
			}
			applyTo(t, tree, p.Changes)
			got, _ := fs.ReadFile(tree, name)
			if onlyPins(t, name, string(data), string(got), kind == "same") {
				touched++
			}
		}
	}
	if touched < 4 {
		t.Errorf("only %d files were touched", touched)
	}
}

// onlyPins holds that lines differ in a pin alone, and reports whether any do.
func onlyPins(t *testing.T, name, before, after string, same bool) bool {
	t.Helper()
	a, b := strings.SplitAfter(before, "\n"), strings.SplitAfter(after, "\n")
	if len(a) != len(b) {
		t.Errorf("%s: %d lines became %d", name, len(a), len(b))
		return true
	}
	changed := false
	for i := range a {
		if a[i] == b[i] {
			continue
		}
		changed = true
		driver := strings.Contains(a[i], "driver") || strings.Contains(a[i], "alias eth")
		if !driver && (same || macText.ReplaceAllString(a[i], "") != macText.ReplaceAllString(b[i], "")) {
			t.Errorf("%s line %d: %q became %q", name, i+1, a[i], b[i])
		}
	}
	return changed
}

// TestDriverPatterns holds that what stands for a driver in netplan's files
// takes that driver and KVM's, and none of the others.
func TestDriverPatterns(t *testing.T) {
	all := []string{"vmxnet3", "vmxnet", "e1000", "e1000e", "pcnet32", "hv_netvsc", "xen_netfront", "vif", "ena", "virtio_net",
		"igb", "ixgbe", "veth", "bnx2", "mlx5_core", "tg3", "ice", "i40e"}
	for _, driver := range all[:9] {
		tree := guesttest.New(t, "-- etc/netplan/a.yaml --\nnetwork: {ethernets: {lan: {match: {driver: "+driver+"}}}}\n")
		p, err := network().Plan(t.Context(), &guest.Guest{FS: tree, Facts: &guest.Facts{OS: guest.OS{Family: "linux"}, Init: "systemd"}})
		if err != nil {
			t.Fatal(err)
		}
		applyTo(t, tree, p.Changes)
		_, pattern, _ := strings.Cut(tree.ReadFile(t, "etc/netplan/a.yaml"), "driver: ")
		pattern = strings.Trim(strings.SplitN(pattern, "}", 2)[0], `"`)
		for _, other := range all {
			takes, kin := matches(pattern, other), other == driver || other == "virtio_net" || strings.HasPrefix(other, driver) || strings.HasPrefix(driver, other)
			if takes != kin && (kin || !slices.Contains(all[:9], other)) {
				t.Errorf("%s became %s, which takes %s: %v", driver, pattern, other, takes)
			}
		}
	}
}
