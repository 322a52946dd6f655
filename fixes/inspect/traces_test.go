package inspect_test

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/guest/guesttest"
	"hyper2kvm/fixes/inspect"
)

const cardMAC = "00:50:56:aa:00:01"

// dhcpMessage is a server's answer, as dhcpcd keeps it.
func dhcpMessage(mac [6]byte, ip [4]byte) []byte {
	data := make([]byte, 300)
	data[0], data[1], data[2] = 2, 1, 6
	copy(data[16:], ip[:])
	copy(data[28:], mac[:])
	binary.BigEndian.PutUint32(data[236:], 0x63825363)
	return data
}

// TestNamesThatWereLeftBehind finds the old name of a card that no
// configuration names by address.
func TestNamesThatWereLeftBehind(t *testing.T) {
	const uuid = "01234567-89ab-cdef-0123-456789abcdef"
	lease := func(iface, ip, id, expire string) string {
		return fmt.Sprintf("lease {\n  interface %q;\n  fixed-address %s;\n%s  expire 2 %s;\n}\n", iface, ip, id, expire)
	}
	const id = "  option dhcp-client-identifier 1:0:50:56:aa:0:1;\n"
	for name, test := range map[string]struct {
		tree string
		ips  []string // that the hypervisor knew
		want string
		from string
		why  string // part of what makes it unsure
	}{
		"NetworkManager's own client": {tree: "-- var/lib/NetworkManager/internal-" + uuid + "-ens192.lease --\nADDRESS=10.0.0.5\nCLIENTID=01005056aa0001\n",
			want: "ens192", from: "internal-"},
		"two leases of NetworkManager, the newer counts": {tree: "-- var/lib/NetworkManager/internal-" + uuid + "-ens192.lease --\nCLIENTID=01005056aa0001\n" +
			"-- var/lib/NetworkManager/internal-11111111-89ab-cdef-0123-456789abcdef-eth0.lease --\nCLIENTID=01005056aa0001\n" +
			"-- var/lib/NetworkManager/timestamps --\n[timestamps]\n" + uuid + "=1700000000\n11111111-89ab-cdef-0123-456789abcdef=1600000000\n", want: "ens192"},
		"two leases, and none is newer": {tree: "-- var/lib/NetworkManager/internal-" + uuid + "-ens192.lease --\nCLIENTID=01005056aa0001\n" +
			"-- var/lib/NetworkManager/internal-11111111-89ab-cdef-0123-456789abcdef-eth0.lease --\nCLIENTID=01005056aa0001\n", why: "calls it ens192"},
		"dhclient, the last lease counts": {tree: "-- var/lib/dhclient/dhclient.leases --\n" +
			lease("eth0", "10.0.0.4", id, "2019/01/01 00:00:00") + lease("ens192", "10.0.0.5", id, "2024/01/01 00:00:00"), want: "ens192", from: "var/lib/dhclient/dhclient.leases"},
		"dhclient of RHEL 7": {tree: "-- var/lib/dhclient/dhclient-" + uuid + "-ens192.lease --\n" + strings.Replace(lease("", "10.0.0.5", id, "2024/01/01 00:00:00"), "  interface \"\";\n", "", 1), want: "ens192"},
		"dhclient told no address, the hypervisor knew the IP": {tree: "-- var/lib/dhcp/dhclient.ens192.leases --\n" + lease("ens192", "10.0.0.5", "", "2024/01/01 00:00:00") +
			"-- var/lib/dhcp/dhclient.ens224.leases --\n" + lease("ens224", "10.0.0.50", "", "2024/01/01 00:00:00"), ips: []string{"10.0.0.5"}, want: "ens192"},
		"wicked": {tree: "-- var/lib/wicked/lease-eth3-dhcp-ipv4.xml --\n<lease><family>ipv4</family><acquired>1700000000</acquired><ipv4:dhcp><client-id>01:00:50:56:aa:00:01</client-id></ipv4:dhcp><addresses><address><local>10.0.0.5/24</local></address></addresses></lease>\n",
			want: "eth3"},
		"SUSE's old dhcpcd": {tree: "-- var/lib/dhcpcd/dhcpcd-eth2.info --\nIPADDR=10.0.0.5\nDHCPCHADDR=00:50:56:aa:00:01\n", want: "eth2"},
		"cloud-init's last network": {tree: "-- var/lib/cloud/instance/network-config.json --\n" +
			`{"version": 1, "config": [{"type": "physical", "name": "ens5", "mac_address": "00:50:56:aa:00:01"}]}` + "\n", want: "ens5"},
		"an address in netplan that the hypervisor knew": {tree: "-- etc/netplan/a.yaml --\nnetwork: {ethernets: {ens192: {addresses: [10.0.0.50/24]}, ens224: {addresses: [10.0.0.5/24, \"2001:db8::5/64\"]}}}\n",
			ips: []string{"2001:db8::5"}, want: "ens224", from: "etc/netplan/a.yaml"},
		"several addresses of one card are no conflict": {tree: "-- etc/network/interfaces --\niface ens192 inet static\n\taddress 10.0.0.5/24\niface ens192:1 inet static\n\taddress 10.0.0.6\niface ens224 inet static\n\taddress 10.0.0.7\n",
			ips: []string{"10.0.0.5", "10.0.0.6", "fe80::1%eth0"}, want: "ens192"},
		"addresses of two interfaces on one card are": {tree: "-- etc/sysconfig/network/ifcfg-eth0 --\nIPADDR='10.0.0.5/24'\n-- etc/sysconfig/network/ifcfg-eth1 --\nIPADDR_0='10.0.0.6/24'\n",
			ips: []string{"10.0.0.5", "10.0.0.6"}, why: "calls it eth"},
		"a profile of NetworkManager": {tree: "-- etc/NetworkManager/system-connections/a --\n[connection]\ntype=ethernet\ninterface-name=ens192\n[ipv4]\naddress1=10.0.0.5/24,10.0.0.1\n-- etc/NetworkManager/system-connections/b --\n[connection]\ntype=ethernet\ninterface-name=ens224\n",
			ips: []string{"10.0.0.5"}, want: "ens192"},
		"networkd": {tree: "-- etc/systemd/network/a.network --\n[Match]\nName=ens192\n[Network]\nAddress=10.0.0.5/24\n-- etc/systemd/network/b.network --\n[Match]\nName=ens224\n[Address]\nAddress=10.0.0.50/24\n",
			ips: []string{"10.0.0.5"}, want: "ens192"},
		"a lease from before the interface was renamed": {tree: "-- var/lib/dhcp/dhclient.eth0.leases --\n" + lease("eth0", "10.0.0.5", id, "2024/01/01 00:00:00") +
			"-- etc/network/interfaces --\niface ens192 inet dhcp\n", want: ""},
		"dhclient's log": {tree: "-- var/log/syslog --\nJan  1 dhclient[7]: Listening on LPF/eth0/00:50:56:aa:00:01\nJan  2 dhclient[7]: Listening on LPF/ens192/00:50:56:aa:00:01\n", want: "ens192", from: "var/log/syslog"},
		"cloud-init's log": {tree: "-- var/log/cloud-init-output.log --\nci-info: | ens192 | True | 10.0.0.5 | 255.255.255.0 | global | 00:50:56:aa:00:01 |\n" +
			"ci-info: |  lo  | True | 127.0.0.1 | 255.0.0.0 | host | . |\n", want: "ens192"},
		"the kernel's log": {tree: "-- var/log/dmesg --\n[ 1.0] e1000 0000:02:01.0 eth0: (PCI:66MHz:32-bit) 00:50:56:aa:00:01\n[ 1.1] e1000 0000:02:01.0 ens33: renamed from eth0\n", want: "ens33"},
		"ip link in a log": {tree: "-- var/log/messages --\n2: ens192: <BROADCAST,UP> mtu 1500\n    link/ether 00:50:56:aa:00:01 brd ff:ff:ff:ff:ff:ff\n", want: "ens192"},
		"NetworkManager's log and an address of the hypervisor": {tree: "-- var/log/messages --\n<info> dhcp4 (ens192): state changed new lease, address=10.0.0.5\n<info> dhcp4 (ens224):   address 10.0.0.50\n",
			ips: []string{"10.0.0.5"}, want: "ens192"},
		"networkd's in the journal": {tree: "-- var/log/journal/0123/system.journal --\nLPKSHHRH\x01_PID=1\x00\x00MESSAGE=ens192: DHCPv4 address 10.0.0.5/24, gateway 10.0.0.1 acquired from 10.0.0.1\x00\x00\x05\n",
			ips: []string{"10.0.0.5"}, want: "ens192", from: "system.journal"},
		"the kernel's in the journal":             {tree: "-- var/log/journal/0123/system.journal --\n\x01MESSAGE=e1000 0000:02:01.0 eth0: (PCI:66MHz:32-bit) 00:50:56:aa:00:01\x00\x00MESSAGE=e1000 0000:02:01.0 ens33: renamed from eth0\x00\n", want: "ens33"},
		"a journal of two names":                  {tree: "-- var/log/journal/0123/system.journal --\n\x01MESSAGE=Listening on LPF/eth0/00:50:56:aa:00:01\x00MESSAGE=Listening on LPF/ens192/00:50:56:aa:00:01\x00\n", why: "calls it eth0"},
		"logs that differ":                        {tree: "-- var/log/messages --\n LPF/eth0/00:50:56:aa:00:01\n-- var/log/dmesg --\n LPF/ens192/00:50:56:aa:00:01\n", why: "var/log"},
		"netplan calls the match after the card":  {tree: "-- etc/netplan/a.yaml --\nnetwork: {ethernets: {ens192: {match: {macaddress: '" + cardMAC + "'}}}}\n", want: "ens192"},
		"netplan calls the match after its use":   {tree: "-- etc/netplan/a.yaml --\nnetwork: {ethernets: {ensemble: {match: {macaddress: '" + cardMAC + "'}}}}\n", want: ""},
		"a profile that is called after the card": {tree: "-- etc/NetworkManager/system-connections/a --\n[connection]\nid=enp0s3\ntype=ethernet\n[ethernet]\nmac-address=" + cardMAC + "\n", want: "enp0s3"},
		"Red Hat's file of another name":          {tree: "-- etc/sysconfig/network-scripts/ifcfg-Auto_eth0 --\nHWADDR=" + cardMAC + "\n", want: ""},
		"a rule with blanks":                      {tree: "-- etc/udev/rules.d/a.rules --\nSUBSYSTEM == \"net\", ATTR{address} == \"" + cardMAC + "\", NAME = \"lan0\"\n", want: "lan0"},
		"SUSE gives the card another address":     {tree: "-- etc/sysconfig/network/ifcfg-eth0 --\nLLADDR='" + cardMAC + "'\n", want: ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := look(t, test.tree, guest.Facts{NICs: []guest.NIC{{MAC: cardMAC, Addresses: test.ips}}}).NICs
			if len(got) != 1 || got[0].Name != test.want || !strings.Contains(got[0].From, test.from) {
				t.Fatalf("got %+v", got)
			}
			if test.why == "" != (got[0].Unsure == "") || !strings.Contains(got[0].Unsure, test.why) {
				t.Errorf("unsure because %q", got[0].Unsure)
			}
		})
	}
}

func TestLeasesOfDHCPCD(t *testing.T) {
	tree := guesttest.Empty()
	tree.Put("var/lib/dhcpcd/eth7.lease", dhcpMessage([6]byte{0, 0x50, 0x56, 0xaa, 0, 1}, [4]byte{10, 0, 0, 5}))
	tree.Put("var/lib/dhcpcd5/dhcpcd-eth8.lease", dhcpMessage([6]byte{0, 0x50, 0x56, 0xaa, 0, 2}, [4]byte{10, 0, 0, 6}))
	tree.Put("var/lib/dhcpcd/eth9.lease", []byte("short"))
	got := inspect.Inspect(tree, guest.Facts{NICs: []guest.NIC{{MAC: cardMAC}, {MAC: "00:50:56:aa:00:02"}}}).NICs
	if got[0].Name != "eth7" || got[1].Name != "eth8" {
		t.Errorf("got %+v", got)
	}
}

// TestOneNameForTwoCards leaves both cards without it.
func TestOneNameForTwoCards(t *testing.T) {
	got := look(t, "-- var/log/syslog --\n LPF/eth0/00:50:56:aa:00:01\n LPF/eth0/00:50:56:aa:00:02\n",
		guest.Facts{NICs: []guest.NIC{{MAC: cardMAC}, {MAC: "00:50:56:aa:00:02"}}}).NICs
	for _, n := range got {
		if n.Name != "" || !strings.Contains(n.Unsure, "two cards") {
			t.Errorf("got %+v", n)
		}
	}
}

// TestAddressFromALease lets the target machine keep the address of a card that
// nobody described.
func TestAddressFromALease(t *testing.T) {
	got := look(t, "-- etc/network/interfaces --\nauto ens192\niface ens192 inet dhcp\niface ens224 inet dhcp\n"+
		"-- var/lib/dhcp/dhclient.ens192.leases --\nlease {\n  interface \"ens192\";\n  option dhcp-client-identifier 1:0:50:56:aa:0:1;\n}\n", guest.Facts{}).NICs
	want := []guest.NIC{{MAC: cardMAC, Name: "ens192", From: "var/lib/dhcp/dhclient.ens192.leases"}, {Name: "ens224", From: "etc/network/interfaces", MAC: "52:54:00:d6:d2:d3", Made: true}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestAddressesThatAreGiven holds that several cards without an address get one
// that is the same each time and another in another guest; a single card, and
// cards with the kernel's names, need none.
func TestAddressesThatAreGiven(t *testing.T) {
	macs := func(id, names string) (out []string) {
		tree := "-- etc/machine-id --\n" + id + "\n-- etc/network/interfaces --\n"
		for name := range strings.FieldsSeq(names) {
			tree += "iface " + name + " inet dhcp\n"
		}
		for _, n := range look(t, tree, guest.Facts{}).NICs {
			if n.Made != (n.MAC != "") {
				t.Errorf("%+v", n)
			}
			out = append(out, n.MAC)
		}
		return out
	}
	a, again, b := macs("1", "ens192 ens224"), macs("1", "ens224 ens192"), macs("2", "ens192 ens224")
	if !slices.Equal(a, again) || a[0] == "" || a[0] == a[1] || a[0] == b[0] {
		t.Errorf("got %q, %q and %q", a, again, b)
	}
	for _, names := range []string{"ens192", "eth0 eth1"} {
		if got := macs("1", names); strings.Join(got, "") != "" {
			t.Errorf("%s got %q", names, got)
		}
	}
}

// FuzzTraces puts hostile bytes where clients keep leases, and holds that
// inspection ends and that no name of a path or with a blank comes out.
func FuzzTraces(f *testing.F) {
	names := []string{"var/lib/NetworkManager/internal-01234567-89ab-cdef-0123-456789abcdef-a.lease", "var/lib/dhcp/dhclient.leases",
		"var/lib/wicked/lease-a-dhcp-ipv4.xml", "var/lib/dhcpcd/a.lease", "var/lib/dhcpcd/dhcpcd-a.info", "var/lib/cloud/instance/network-config.json", "var/log/syslog", "var/log/journal/0123/system.journal"}
	f.Add(uint8(1), []byte("lease {\n interface \"a b/../c\";\n option dhcp-client-identifier 1:0:50:56:aa:0:1;\n}"))
	f.Add(uint8(3), dhcpMessage([6]byte{0, 0x50, 0x56, 0xaa, 0, 1}, [4]byte{10, 0, 0, 5}))
	f.Add(uint8(5), []byte(`{"network":{"ethernets":{"a":{"match":{"macaddress":"00:50:56:aa:00:01"}}}}}`))
	f.Add(uint8(6), []byte("LPF/../../x/00:50:56:aa:00:01 LPF/a\tb/00:50:56:aa:00:01"))
	f.Add(uint8(7), []byte("\x00MESSAGE=ens192: DHCPv4 address 10.0.0.5/24\x00MESSAGE=a/b: DHCPv4 address 10.0.0.5/24"))
	f.Fuzz(func(t *testing.T, at uint8, data []byte) {
		tree := guesttest.Empty()
		tree.Put(names[int(at)%len(names)], data)
		for _, n := range inspect.Inspect(tree, guest.Facts{NICs: []guest.NIC{{MAC: cardMAC, Addresses: []string{"10.0.0.5"}}}}).NICs {
			if strings.ContainsAny(n.Name, "/ \t\n") {
				t.Fatalf("a card is called %q", n.Name)
			}
		}
	})
}
