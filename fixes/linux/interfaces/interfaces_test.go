package interfaces

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const sample = `# The loopback
auto lo
iface lo inet loopback
source-directory interfaces.d

auto mac/00:50:56:aa:00:01=lan
mapping eth0 eth1
	script /etc/network/get-mac.sh
	map 00:50:56:AA:00:02 \
	    wan # not a comment
iface bond0 inet static
	bond_slaves \
		ens192  ens224
	address 10.0.0.5/24
# iface off inet dhcp \
iface on inet dhcp
`

func TestLines(t *testing.T) {
	f := Parse([]byte(sample))
	var got []string
	for _, l := range f.Lines() {
		var words []string
		for _, w := range l.Words {
			words = append(words, w.Text)
			w.Text = strings.Replace(w.Text, "00:50:56", "52:54:00", 1)
		}
		got = append(got, l.Stanza.Word(1)+"/"+strings.Join(words, " "))
	}
	want := []string{"/auto lo", "/iface lo inet loopback", "/source-directory interfaces.d", "/auto mac/00:50:56:aa:00:01=lan",
		"/mapping eth0 eth1", "eth0/script /etc/network/get-mac.sh", "eth0/map 00:50:56:AA:00:02 wan # not a comment",
		"/iface bond0 inet static", "bond0/bond_slaves ens192 ens224", "bond0/address 10.0.0.5/24", "/iface on inet dhcp"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("lines are\n%s", strings.Join(got, "\n"))
	}
	if b := string(f.Bytes()); b != strings.ReplaceAll(sample, "00:50:56", "52:54:00") {
		t.Errorf("got\n%s", b)
	}
	if k := f.Lines()[8].Key(); k != "bond-slaves" {
		t.Errorf("key is %s", k)
	}
}

func TestRealFile(t *testing.T) {
	root := os.Getenv("H2K_TESTDATA")
	if root == "" {
		t.Skip("H2K_TESTDATA is not set: augeas's files are not at hand")
	}
	data, err := os.ReadFile(filepath.Join(root, "netcfg/augeas-root/etc/network/interfaces"))
	if err != nil {
		t.Fatal(err)
	}
	f := Parse(data)
	if string(f.Bytes()) != string(data) || len(f.Lines()) < 5 {
		t.Errorf("%d lines; the file is not the same", len(f.Lines()))
	}
}

// FuzzParse holds that a file without an edit comes out as it went in, and that
// one changed word is all that changes.
func FuzzParse(f *testing.F) {
	f.Add([]byte(sample), 3)
	f.Add([]byte("a \\\r\n b\\c\\\n"), 1)
	f.Fuzz(func(t *testing.T, data []byte, at int) {
		file := Parse(data)
		if string(file.Bytes()) != string(data) {
			t.Fatalf("%q became %q", data, file.Bytes())
		}
		var words []*Word
		for _, l := range file.Lines() {
			words = append(words, l.Words...)
		}
		if len(words) == 0 || at < 0 {
			return
		}
		w := words[at%len(words)]
		w.Text = "changed"
		got := string(file.Bytes())
		if want := string(data[:w.start]) + "changed" + string(data[w.start+len(w.old):]); got != want {
			t.Fatalf("%q became %q, want %q", data, got, want)
		}
	})
}
