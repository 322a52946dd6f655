package xmltext

import (
	"strings"
	"testing"
)

const sample = `<?xml version="1.0" encoding="utf-8"?>
<!-- two cards -->
<interface>
  <name namespace="ethernet">
    <permanent-address> 00:50:56:aa:00:01 </permanent-address><!-- LAN -->
  </name>
  <ipv4:static><address><local>10.0.0.5/24</local></address></ipv4:static>
  <alias>a &amp; b</alias><empty/><mixed>text<b>bold</b></mixed>
</interface>
`

func TestEdit(t *testing.T) {
	f, err := Parse([]byte(sample))
	if err != nil {
		t.Fatal(err)
	}
	var seen []string
	for _, x := range f.Texts() {
		seen = append(seen, strings.Join(x.Path, "/")+"="+x.Text)
		if x.Path[len(x.Path)-1] == "permanent-address" {
			x.Text = "52:54:00:aa:00:01"
		}
	}
	want := "interface/name/permanent-address=00:50:56:aa:00:01 interface/static/address/local=10.0.0.5/24 interface/mixed/b=bold"
	if got := strings.Join(seen, " "); got != want {
		t.Errorf("texts are %s", got)
	}
	if got := string(f.Bytes()); got != strings.Replace(sample, "00:50:56", "52:54:00", 1) {
		t.Errorf("got\n%s", got)
	}
}

func TestRefused(t *testing.T) {
	for _, bad := range []string{"<a>", "<a></b>", strings.Repeat("<a>", maxDepth+1)} {
		if _, err := Parse([]byte(bad)); err == nil {
			t.Errorf("%q is read", bad)
		}
	}
}

// FuzzParse holds that a file without an edit comes out as it went in, and that
// a changed text reads back.
func FuzzParse(f *testing.F) {
	f.Add([]byte(sample))
	f.Add([]byte("<a>x</a>"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Parse(data)
		if err != nil {
			return
		}
		if got := file.Bytes(); string(got) != string(data) {
			t.Fatalf("%q became %q", data, got)
		}
		if len(file.Texts()) == 0 {
			return
		}
		file.Texts()[0].Text = "<new & better>"
		if !strings.Contains(string(file.Bytes()), "&lt;new &amp; better&gt;") {
			t.Fatalf("a text of %q is not replaced", data)
		}
		if _, err := Parse(file.Bytes()); err != nil {
			t.Fatalf("%q became %q: %v", data, file.Bytes(), err)
		}
	})
}
