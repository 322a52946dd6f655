package lvmconf

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const sample = `# filter = [ "r|.*|" ]
config {
	checks = 1
}
devices {
	dir = "/dev" # where
	filter = [
		"a|^/dev/sd|", # disks
		'r|.*|',
	]
	types = [ "fd", 16 ]
	empty=[]
}
devices/global_filter = [ "a|\"|" ]
`

func TestSettings(t *testing.T) {
	f := Parse([]byte(sample))
	if !f.Sound() {
		t.Fatal("not understood")
	}
	got := map[string][]string{}
	for _, s := range f.Settings() {
		got[s.Path] = s.Values
	}
	want := map[string][]string{
		"config/checks": {"1"}, "devices/dir": {"/dev"}, "devices/filter": {"a|^/dev/sd|", "r|.*|"}, "devices/types": {"fd", "16"},
		"devices/empty": nil, "devices/global_filter": {`a|"|`},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestPrependLeavesAllElse(t *testing.T) {
	f := Parse([]byte(sample))
	for _, s := range f.Settings() {
		if s.List {
			s.Prepend("a|x|")
		}
	}
	now := string(f.Bytes())
	if strings.ReplaceAll(strings.ReplaceAll(now, `"a|x|", `, ""), `"a|x|"`, "") != sample {
		t.Errorf("changed more:\n%s", now)
	}
	if n := strings.Count(now, "a|x|"); n != 4 {
		t.Errorf("%d lists were edited", n)
	}
}

func TestMistakesAreSeen(t *testing.T) {
	for _, bad := range []string{"a", "a {", "a = [", "a = \"x", "}", "a = ]", "a = [ = ]", strings.Repeat("a {", 20)} {
		if Parse([]byte(bad)).Sound() {
			t.Errorf("%q is taken for sound", bad)
		}
	}
}

// TestRealFile reads what the lvm2 package installs.
func TestRealFile(t *testing.T) {
	data, err := os.ReadFile("/etc/lvm/lvm.conf")
	if err != nil {
		t.Skip("lvm2 is not installed")
	}
	f := Parse(data)
	if !f.Sound() || !bytes.Equal(f.Bytes(), data) {
		t.Errorf("sound %v, or changed by reading", f.Sound())
	}
}

// FuzzParse: what is not edited stays, and what is edited reads as edited.
func FuzzParse(f *testing.F) {
	f.Add(sample)
	f.Add("a=[1,\"x\"]")
	f.Fuzz(func(t *testing.T, text string) {
		file := Parse([]byte(text))
		if string(file.Bytes()) != text {
			t.Fatal("parsing changes the file")
		}
		if !file.Sound() {
			return
		}
		for i, s := range file.Settings() {
			if !s.List {
				continue
			}
			s.Prepend("a|x|")
			again := Parse(file.Bytes())
			if !again.Sound() || len(again.Settings()) != len(file.Settings()) || cmp.Diff(again.Settings()[i].Values, s.Values) != "" {
				t.Fatalf("%q becomes %q", text, file.Bytes())
			}
			return
		}
	})
}
