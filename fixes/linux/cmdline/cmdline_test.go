package cmdline

import (
	"slices"
	"testing"
)

func TestArgs(t *testing.T) {
	a := Parse(`root=/dev/sda1  ro dyndbg="file a.c +p" opt='x y' "acpi_osi=Linux 1" quiet `)
	want := []string{"root=/dev/sda1", "ro", `dyndbg="file a.c +p"`, `opt='x y'`, `"acpi_osi=Linux 1"`, "quiet"}
	if got := a.All(); !slices.Equal(got, want) {
		t.Fatalf("got %q", got)
	}
	if got := a.Values("acpi_osi"); !slices.Equal(got, []string{"Linux 1"}) {
		t.Errorf("quoted argument reads %q", got)
	}
	a.Set(0, "root=UUID=1")
	a.Remove(1)
	a.Add("console=tty0")
	if got, want := a.String(), `root=UUID=1 dyndbg="file a.c +p" opt='x y' "acpi_osi=Linux 1" quiet console=tty0 `; got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestEnds(t *testing.T) {
	a := Parse("ro --- quiet")
	a.Add("x")
	a.Insert(0, "first")
	if got := a.String(); got != "first ro x --- quiet" {
		t.Errorf("got %q", got)
	}
	empty := Parse("")
	empty.Add("a", "b")
	if got := empty.String(); got != "a b" {
		t.Errorf("got %q", got)
	}
	one := Parse("  one")
	one.Remove(0)
	if got := one.String(); got != "" {
		t.Errorf("got %q", got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(`a "b c`)
	f.Add(`\`)
	f.Add(" \t'a\\' b=\" ")
	f.Fuzz(func(t *testing.T, s string) {
		a := Parse(s)
		if got := a.String(); got != s {
			t.Fatalf("%q came out as %q", s, got)
		}
		n := len(a.All())
		if a.Open() {
			return
		}
		a.Add("root=UUID=1")
		if got := Parse(a.String()); len(got.All()) != n+1 || !got.Has("root") {
			t.Fatalf("%q with one more argument has %d", s, len(got.All()))
		}
	})
}
