package shellvars

import (
	"os/exec"
	"strings"
	"testing"
)

const sample = `# GRUB_CMDLINE_LINUX="no"
GRUB_DEFAULT=0
GRUB_CMDLINE_LINUX="root=/dev/sda1 \"q\"" # why
export A='x y'
B+=" more"
MULTI=" one
GRUB_FAKE=inside
"
D=` + "`lsb_release -i || echo Debian`" + `
E="a"'b'
F=
`

func TestVars(t *testing.T) {
	f := Parse([]byte(sample))
	var got []string
	for _, v := range f.Vars() {
		got = append(got, v.Name+"="+v.Value)
	}
	want := `GRUB_DEFAULT=0|GRUB_CMDLINE_LINUX=root=/dev/sda1 \"q\"|A=x y|B= more|F=`
	if s := strings.Join(got, "|"); s != want {
		t.Errorf("got  %s\nwant %s", s, want)
	}
	f.Last("GRUB_CMDLINE_LINUX").Value = "root=UUID=1"
	f.Last("GRUB_DEFAULT").Value = "a b"
	f.Add("NEW", "v")
	out := strings.Replace(sample, `root=/dev/sda1 \"q\"`, "root=UUID=1", 1)
	out = strings.Replace(out, "GRUB_DEFAULT=0", `GRUB_DEFAULT="a b"`, 1) + "NEW=\"v\"\n"
	if s := string(f.Bytes()); s != out {
		t.Errorf("got:\n%s\nwant:\n%s", s, out)
	}
}

// TestValuesOfOneWord has values that a shell would take for more than a word.
func TestValuesOfOneWord(t *testing.T) {
	for _, value := range []string{"a>b", "a b", "a*", "(a)", "a&b"} {
		f := Parse([]byte("A=0\n"))
		f.Last("A").Value = value
		out, err := exec.CommandContext(t.Context(), "sh", "-c", string(f.Bytes())+`printf %s "$A"`).CombinedOutput()
		if err != nil || string(out) != value {
			t.Errorf("a shell reads %q from %q, %v", out, f.Bytes(), err)
		}
	}
}

func TestAddToEmptyAndUnended(t *testing.T) {
	f := Parse(nil)
	f.Add("A", "1")
	if s := string(f.Bytes()); s != "A=\"1\"\n" {
		t.Errorf("got %q", s)
	}
	f = Parse([]byte("x"))
	f.Add("A", "1")
	f.Add("B", "2")
	if s := string(f.Bytes()); s != "x\nA=\"1\"\nB=\"2\"\n" {
		t.Errorf("got %q", s)
	}
}

func TestAddBehindAnOpenQuote(t *testing.T) {
	if f := Parse([]byte("A=\"x\ny\n")); f.Add("B", "1") {
		t.Errorf("added inside a quote: %q", f.Bytes())
	}
}

// FuzzParse holds that a file comes out as it went in, and that a changed
// value changes its own line only and reads back.
func FuzzParse(f *testing.F) {
	f.Add(sample, 1)
	f.Add("A=\"\\", 0)
	f.Add("A=1;B=2\r\nC='", 0)
	f.Fuzz(func(t *testing.T, in string, at int) {
		file := Parse([]byte(in))
		if got := string(file.Bytes()); got != in {
			t.Fatalf("unchanged %q came out as %q", in, got)
		}
		if len(file.Vars()) == 0 {
			return
		}
		i := (at%len(file.Vars()) + len(file.Vars())) % len(file.Vars())
		v := file.Vars()[i]
		v.Value = "new value"
		old, now := strings.SplitAfter(in, "\n"), strings.SplitAfter(string(file.Bytes()), "\n")
		if len(old) != len(now) {
			t.Fatalf("%d lines became %d", len(old), len(now))
		}
		for j := range old {
			if j != v.line && old[j] != now[j] {
				t.Fatalf("line %d changed from %q to %q", j+1, old[j], now[j])
			}
		}
		if got := Parse(file.Bytes()).Vars()[i].Value; got != "new value" {
			t.Fatalf("value reads back as %q", got)
		}
	})
}
