package inspect

import (
	"bytes"
	"io"
	"io/fs"
	"iter"
	"net/netip"
	"path"
	"regexp"
	"strings"
)

// How much of a log is read, at its end, in bytes. A journal grows by 8 MiB at a
// time, and what is behind its last message is empty.
const (
	maxLog     = 1 << 20
	maxJournal = 12 << 20
)

// maxJournals is of how many machines journals are read where the guest's own is
// not known: beside it may lie those that were received from others.
const maxJournals = 4

// journals lists the journals to read.
func (n *names) journals() []string {
	const dir, file = "var/log/journal", "system.journal"
	id, _ := n.read("etc/machine-id")
	if own := path.Join(dir, strings.TrimSpace(string(id)), file); fs.ValidPath(own) && len(bytes.TrimSpace(id)) > 0 && n.exists(own) {
		return []string{own}
	}
	var out []string
	for _, name := range n.list(dir, "") {
		if len(out) < maxJournals {
			out = append(out, path.Join(name, file))
		}
	}
	return out
}

// logs looks for names and addresses of cards in the guest's logs.
func (n *names) logs() {
	for _, name := range n.journals() {
		for _, t := range logged(journalLines(n.tail(name, maxJournal))) {
			// A message that comes again is stored once, so that its place tells no time.
			t.from, t.source = name, fromLog
			n.left(t)
		}
	}
	for _, name := range []string{"var/log/cloud-init-output.log", "var/log/cloud-init.log", "var/log/messages", "var/log/syslog",
		"var/log/daemon.log", "var/log/dmesg", "var/log/dmesg.0", "var/log/kern.log", "var/log/boot.msg"} {
		for i, t := range logged(bytes.Lines(n.tail(name, maxLog))) {
			t.from, t.source, t.at = name, fromLog, int64(i+1) // what comes later in a log is newer
			n.left(t)
		}
	}
}

// tail gives the end of a file, nothing where it cannot be read: a log is a
// last resort.
func (n *names) tail(name string, limit int64) []byte {
	f, err := n.tree.Open(name)
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }() // read only
	info, err := f.Stat()
	if err != nil || info.IsDir() {
		return nil
	}
	if s, ok := f.(io.Seeker); ok && info.Size() > limit {
		if _, err := s.Seek(-limit, io.SeekEnd); err != nil {
			return nil
		}
	}
	data, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return nil
	}
	return data
}

// journalLines gives the texts in a journal. Short fields stand in it as they
// are, each as NAME=text, among numbers (systemd: docs/JOURNAL_FILE_FORMAT.md,
// "Data Objects").
func journalLines(data []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for {
			i := bytes.Index(data, []byte("MESSAGE="))
			if i < 0 {
				return
			}
			data = data[i+len("MESSAGE="):]
			end := bytes.IndexFunc(data, func(r rune) bool { return r < ' ' && r != '\t' })
			if end < 0 {
				end = len(data)
			}
			if !yield(data[:end]) {
				return
			}
		}
	}
}

var (
	// NetworkManager: "dhcp4 (ens192): state changed …, address=10.0.0.5", and
	// networkd: "ens192: DHCPv4 address 10.0.0.5/24".
	logManager  = regexp.MustCompile(`\bdhcp4 \(([^)\s]+)\):.*\baddress[= ]+([0-9]{1,3}(?:\.[0-9]{1,3}){3})\b`)
	logNetworkd = regexp.MustCompile(`(?:^|\s)([^:\s]+): DHCPv4 address ([0-9]{1,3}(?:\.[0-9]{1,3}){3})/`)
	// dhclient: "Listening on LPF/ens192/00:50:56:aa:00:01".
	logClient = regexp.MustCompile(`\bLPF/([^/\s]+)/((?:[0-9a-f]{2}:){5}[0-9a-f]{2})\b`)
	// cloud-init's table: "| ens192 | True | 10.0.0.5 | … | 00:50:56:aa:00:01 |".
	logTable = regexp.MustCompile(`\|\s*(\S+)\s*\|\s*True\s*\|.*\|\s*((?:[0-9a-f]{2}:){5}[0-9a-f]{2})\s*\|`)
	// ip link: "2: ens192: <BROADCAST,…" and, a line on, "link/ether 00:50:…".
	logLink  = regexp.MustCompile(`\b[0-9]+: ([^:@\s]+)(?:@[^:\s]+)?: <`)
	logEther = regexp.MustCompile(`\blink/ether ((?:[0-9a-f]{2}:){5}[0-9a-f]{2})\b`)
	// The kernel: "e1000 0000:02:01.0 eth0: (PCI:66MHz:32-bit) 00:0c:29:…", then
	// "e1000 0000:02:01.0 ens33: renamed from eth0".
	logCard    = regexp.MustCompile(`\b([0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]):? \S+: .*\b((?:[0-9a-f]{2}:){5}[0-9a-f]{2})\b`)
	logRenamed = regexp.MustCompile(`\b([0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]):? (\S+): renamed from `)
)

// logged lists what a log says, in its order.
func logged(lines iter.Seq[[]byte]) []trace {
	var out []trace
	link := ""
	cards := map[string]string{} // address by place on the bus
	for line := range lines {
		l := string(line)
		for _, re := range []*regexp.Regexp{logClient, logTable} {
			if m := re.FindStringSubmatch(l); m != nil {
				out = append(out, trace{name: m[1], mac: m[2]})
			}
		}
		for _, re := range []*regexp.Regexp{logManager, logNetworkd} {
			if m := re.FindStringSubmatch(l); m != nil {
				ip, _ := netip.ParseAddr(m[2]) // none is no trace
				out = append(out, trace{name: m[1], ip: ip})
			}
		}
		if m := logLink.FindStringSubmatch(l); m != nil {
			link = m[1]
		}
		if m := logEther.FindStringSubmatch(l); m != nil && link != "" {
			out = append(out, trace{name: link, mac: m[1]})
			link = ""
		}
		switch m := logRenamed.FindStringSubmatch(l); {
		case m != nil && cards[m[1]] != "":
			out = append(out, trace{name: strings.TrimSuffix(m[2], ":"), mac: cards[m[1]]})
		case m == nil:
			if c := logCard.FindStringSubmatch(l); c != nil {
				cards[c[1]] = c[2]
			}
		}
	}
	return out
}
