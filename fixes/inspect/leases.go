package inspect

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"net"
	"net/netip"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// maxLeases bounds how many files are read of one folder: old leases pile up.
const maxLeases = 500

// leases reads what DHCP clients and cloud-init left, which ties names to
// addresses where no configuration does.
func (n *names) leases() {
	times := n.managerTimes()
	for _, kind := range []struct {
		dir  string
		read func(name string, data []byte)
	}{
		{"var/lib/NetworkManager", func(name string, data []byte) { n.managerLease(name, data, times) }},
		{"var/lib/dhcp", n.dhclient},
		{"var/lib/dhcp3", n.dhclient},
		{"var/lib/dhclient", n.dhclient},
		{"var/lib/wicked", n.wicked},
		{"var/lib/dhcpcd", n.dhcpcd},
		{"var/lib/dhcpcd5", n.dhcpcd},
		{"var/db/dhcpcd", n.dhcpcd},
		{"var/lib/cloud/instance", n.cloudNetwork},
	} {
		files := n.list(kind.dir, "")
		for _, name := range files[:min(len(files), maxLeases)] {
			if base := path.Base(name); !strings.Contains(base, "lease") && !strings.HasSuffix(base, ".info") && base != "network-config.json" {
				continue
			}
			if data, ok := n.read(name); ok {
				kind.read(name, data)
			}
		}
	}
}

var (
	nmLease = regexp.MustCompile(`^(internal|dhclient)-([0-9a-f-]{36})-(.+)\.lease$`)
	// dhclientFile matches the names that Debian's and Red Hat's scripts give.
	dhclientFile = regexp.MustCompile(`^dhclient6?(?:\.|-[0-9a-f-]{36}-|--?)(.+?)\.leases?$`)
	wickedFile   = regexp.MustCompile(`^lease-(.+)-dhcp-ipv[46]\.xml$`)
	dhcpcdFile   = regexp.MustCompile(`^(?:dhcpcd-)?([^.]+)\.(?:lease|info)$`)
)

// managerTimes reads when NetworkManager last used each profile.
func (n *names) managerTimes() map[string]int64 {
	out := map[string]int64{}
	data, ok := n.read("var/lib/NetworkManager/timestamps")
	if !ok {
		return out
	}
	for uuid, values := range ini(data, "timestamps").values {
		out[uuid], _ = strconv.ParseInt(values[len(values)-1], 10, 64) // 0 is not known
	}
	return out
}

// managerLease reads a lease of NetworkManager: its own client's, or
// dhclient's. The client id is 01 and the card's address, or of no use.
func (n *names) managerLease(name string, data []byte, times map[string]int64) {
	m := nmLease.FindStringSubmatch(path.Base(name))
	if m == nil {
		return
	}
	if m[1] == "dhclient" {
		n.dhclientLeases(name, m[3], data)
		return
	}
	v := shellVars(data)
	t := trace{name: m[3], from: name, at: times[m[2]]}
	if id, err := hex.DecodeString(strings.ReplaceAll(v["CLIENTID"], ":", "")); err == nil && len(id) == 7 && id[0] == 1 {
		t.mac = net.HardwareAddr(id[1:]).String()
	}
	t.ip, _ = netip.ParseAddr(v["ADDRESS"])
	n.left(t)
}

func (n *names) dhclient(name string, data []byte) {
	iface := ""
	if m := dhclientFile.FindStringSubmatch(path.Base(name)); m != nil {
		iface = m[1]
	}
	n.dhclientLeases(name, iface, data)
}

var (
	leaseMAC  = regexp.MustCompile(`(?i)(?:hardware ethernet|dhcp-client-identifier)[ =]+"?(?:(?:01|1):)?((?:[0-9a-f]{1,2}:){5}[0-9a-f]{1,2})\s*;`)
	leaseName = regexp.MustCompile(`(?m)^\s*interface "([^"]+)"`)
	leaseIP   = regexp.MustCompile(`(?m)^\s*fixed-address ([0-9.]+)\s*;`)
	leaseTime = regexp.MustCompile(`(?m)^\s*expire [0-6] ([0-9]{4}/[0-9]{2}/[0-9]{2} [0-9:]{8})`)
)

// dhclientLeases reads dhclient.leases(5). The last lease of an interface counts.
func (n *names) dhclientLeases(name, iface string, data []byte) {
	for _, block := range strings.Split(string(data), "}") {
		t := trace{name: iface, from: name}
		if m := leaseName.FindStringSubmatch(block); m != nil {
			t.name = m[1]
		}
		if m := leaseMAC.FindStringSubmatch(block); m != nil {
			t.mac = padMAC(m[1])
		}
		if m := leaseIP.FindStringSubmatch(block); m != nil {
			t.ip, _ = netip.ParseAddr(m[1])
		}
		if m := leaseTime.FindStringSubmatch(block); m != nil {
			if at, err := time.Parse("2006/01/02 15:04:05", m[1]); err == nil {
				t.at = at.Unix()
			}
		}
		n.left(t)
	}
}

// padMAC gives each byte two digits: dhclient writes 0:50:56:aa:0:7.
func padMAC(mac string) string {
	bytes := strings.Split(mac, ":")
	for i, b := range bytes {
		if len(b) == 1 {
			bytes[i] = "0" + b
		}
	}
	return strings.Join(bytes, ":")
}

// plainMAC gives an Ethernet address in lower case with colons, "" for what is none.
func plainMAC(s string) string {
	if hw, err := net.ParseMAC(strings.TrimSpace(s)); err == nil && len(hw) == 6 {
		return hw.String()
	}
	return ""
}

// wicked reads a lease of wicked's, named after the interface.
func (n *names) wicked(name string, data []byte) {
	m := wickedFile.FindStringSubmatch(path.Base(name))
	if m == nil {
		return
	}
	t := trace{name: m[1], from: name}
	last := ""
	d := xml.NewDecoder(strings.NewReader(string(data)))
	for {
		token, err := d.Token()
		if err != nil {
			break // at the end, or as far as it reads
		}
		switch x := token.(type) {
		case xml.StartElement:
			last = x.Name.Local
		case xml.EndElement:
			last = ""
		case xml.CharData:
			text := strings.TrimSpace(string(x))
			switch last {
			case "client-id", "hwaddr":
				if id := strings.TrimPrefix(text, "01:"); plainMAC(id) != "" {
					t.mac = id
				}
			case "acquired":
				t.at, _ = strconv.ParseInt(text, 10, 64) // 0 is not known
			case "address", "local":
				text, _, _ = strings.Cut(text, "/")
				if ip, err := netip.ParseAddr(text); err == nil && !t.ip.IsValid() {
					t.ip = ip
				}
			}
		}
	}
	n.left(t)
}

// Places in a DHCP message (RFC 2131, section 2).
const (
	bootpAddress  = 16 // yiaddr
	bootpHardware = 28 // chaddr
	bootpOptions  = 236
	bootpMagic    = 0x63825363
)

// dhcpcd reads a lease of dhcpcd's, the server's message as it came, or the
// variables that its old releases wrote.
func (n *names) dhcpcd(name string, data []byte) {
	m := dhcpcdFile.FindStringSubmatch(path.Base(name))
	if m == nil {
		return
	}
	t := trace{name: m[1], from: name}
	switch {
	case strings.HasSuffix(name, ".info"):
		v := shellVars(data)
		t.mac = v["DHCPCHADDR"]
		t.ip, _ = netip.ParseAddr(v["IPADDR"])
	case len(data) >= bootpOptions+4 && data[1] == 1 && data[2] == 6 && binary.BigEndian.Uint32(data[bootpOptions:]) == bootpMagic:
		t.mac = net.HardwareAddr(data[bootpHardware : bootpHardware+6]).String()
		t.ip, _ = netip.AddrFromSlice(data[bootpAddress : bootpAddress+4])
	}
	n.left(t)
}

// cloudNetwork reads the network that cloud-init last made, in either version
// of its format.
func (n *names) cloudNetwork(name string, data []byte) {
	type document struct {
		Config []struct {
			Type, Name string
			MAC        string `json:"mac_address"`
		}
		Ethernets map[string]struct {
			Match   struct{ MACAddress string }
			SetName string `json:"set-name"`
		}
	}
	var doc struct {
		document
		Network document
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return // of a release that writes another one
	}
	for _, d := range []document{doc.document, doc.Network} {
		for _, c := range d.Config {
			if c.Type == "physical" {
				n.left(trace{mac: c.MAC, name: c.Name, from: name})
			}
		}
		for id, e := range d.Ethernets {
			if e.SetName != "" {
				id = e.SetName
			}
			n.left(trace{mac: e.Match.MACAddress, name: id, from: name})
		}
	}
}
