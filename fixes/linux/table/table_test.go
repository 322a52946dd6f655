package table

import (
	"strings"
	"testing"
)

func TestSetKeepsColumns(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"/dev/sda1        /     ext4\n", "UUID=1           /     ext4\n"},
		{"/dev/sda1\t/\text4\n", "UUID=1\t/\text4\n"},
		{"  /dev/sda1 / ext4", "  UUID=1 / ext4"},
		{"/dev/sda1 / ext4  \r\n", "UUID=1 / ext4  \r\n"},
		{"/d  /     ext4\n", "UUID=1 /     ext4\n"},
	} {
		f := Parse([]byte(c.in))
		f.Rows()[0].Set(0, "UUID=1")
		if got := string(f.Bytes()); got != c.want {
			t.Errorf("set in %q: got %q, want %q", c.in, got, c.want)
		}
	}
}

func TestSetAddsAField(t *testing.T) {
	f := Parse([]byte("a b c \n"))
	row := f.Rows()[0]
	row.Set(3, "d")
	row.Set(5, "never") // would leave a hole
	if got := string(f.Bytes()); got != "a b c d\n" {
		t.Errorf("got %q", got)
	}
}

func TestEscape(t *testing.T) {
	const label = "my disk\t\\1"
	if got := Unescape(Escape(label)); got != label {
		t.Errorf("round trip of %q gives %q", label, got)
	}
	if got := Unescape(`a\04b\999\`); got != `a\04b\999\` {
		t.Errorf("what is no escape changed: %q", got)
	}
}

// FuzzTable holds that a file comes out as it went in, and that a set field
// changes its own line only.
func FuzzTable(f *testing.F) {
	f.Add("# c\n/dev/sda1 / ext4 defaults 0 1\n\n\t#x\nb\tc\r\nlast", 1)
	f.Add("", 0)
	f.Add("\x00 \xff\n \n", 3)
	f.Fuzz(func(t *testing.T, in string, at int) {
		file := Parse([]byte(in))
		if got := string(file.Bytes()); got != in {
			t.Fatalf("unchanged %q came out as %q", in, got)
		}
		rows := file.Rows()
		if len(rows) == 0 {
			return
		}
		row := rows[(at%len(rows)+len(rows))%len(rows)]
		row.Set(0, "UUID=new")
		old, now := strings.SplitAfter(in, "\n"), strings.SplitAfter(string(file.Bytes()), "\n")
		if len(old) != len(now) {
			t.Fatalf("%d lines became %d", len(old), len(now))
		}
		for i := range old {
			if i+1 != row.Line && old[i] != now[i] {
				t.Fatalf("line %d changed from %q to %q", i+1, old[i], now[i])
			}
		}
		again := Parse(file.Bytes())
		if got := again.Rows()[(at%len(rows)+len(rows))%len(rows)].Field(0); got != "UUID=new" {
			t.Fatalf("field reads back as %q", got)
		}
	})
}
