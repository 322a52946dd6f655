package ini

import (
	"slices"
	"strings"
	"testing"
)

const sample = `# [Match]
[Match]
MACAddress = 00:50:56:aa:bb:cc  00:50:56:aa:bb:cd
;Name=x
Name=ens192

[Network]
Address=10.0.0.5/24
Description=a \
  Name=b
DNS=
`

func TestEntries(t *testing.T) {
	f := Parse([]byte(sample))
	if got := f.Values("match", "macaddress"); !slices.Equal(got, []string{"00:50:56:aa:bb:cc", "00:50:56:aa:bb:cd"}) {
		t.Errorf("got %q", got)
	}
	if got := len(f.Entries()); got != 4 {
		t.Errorf("%d entries", got)
	}
	f.Entries()[0].Value = "52:54:00:00:00:01"
	f.Entries()[3].Value = "1.1.1.1"
	want := strings.Replace(sample, "00:50:56:aa:bb:cc  00:50:56:aa:bb:cd", "52:54:00:00:00:01", 1)
	want = strings.Replace(want, "DNS=", "DNS=1.1.1.1", 1)
	if got := string(f.Bytes()); got != want {
		t.Errorf("got:\n%s", got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(sample, 1)
	f.Add("=\n a=b\\\n#\n c=d\r\n[x", 0)
	f.Fuzz(func(t *testing.T, in string, at int) {
		file := Parse([]byte(in))
		if got := string(file.Bytes()); got != in {
			t.Fatalf("unchanged %q came out as %q", in, got)
		}
		if len(file.Entries()) == 0 {
			return
		}
		i := (at%len(file.Entries()) + len(file.Entries())) % len(file.Entries())
		e := file.Entries()[i]
		e.Value = "new"
		old, now := strings.SplitAfter(in, "\n"), strings.SplitAfter(string(file.Bytes()), "\n")
		if len(old) != len(now) {
			t.Fatalf("%d lines became %d", len(old), len(now))
		}
		for j := range old {
			if j != e.line && old[j] != now[j] {
				t.Fatalf("line %d changed from %q to %q", j+1, old[j], now[j])
			}
		}
		if got := Parse(file.Bytes()).Entries()[i].Value; got != "new" {
			t.Fatalf("value reads back as %q", got)
		}
	})
}
