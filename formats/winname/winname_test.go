package winname_test

import (
	"encoding/binary"
	"testing"

	"hyper2kvm/formats/winname"
)

func TestFirst(t *testing.T) {
	for _, c := range []struct {
		relative string
		absolute []string
		want     string
	}{
		{`.\base.vhdx`, []string{`C:\other.vhdx`}, "base.vhdx"},
		{`.\.\\base.vhdx`, nil, "base.vhdx"},
		{`..\Virtual Hard Disks\base.vhdx`, nil, "../Virtual Hard Disks/base.vhdx"},
		{"", []string{"", `\\?\Volume{26a21bda}\d\base.vhdx`, `C:\other.vhdx`}, "base.vhdx"},
		{"", []string{"base.vhd"}, "base.vhd"},
		{"", nil, ""},
	} {
		if got := winname.First(c.relative, c.absolute...); got != c.want {
			t.Errorf("First(%q, %q) = %q, want %q", c.relative, c.absolute, got, c.want)
		}
	}
}

func TestUTF16(t *testing.T) {
	for want, b := range map[string]string{
		"äb": "\xe4\x00b\x00", "a": "a\x00\x00\x00b\x00", "": "", "x": "x\x00y", "😀": "\x3d\xd8\x00\xde",
	} {
		if got := winname.UTF16([]byte(b), binary.LittleEndian); got != want {
			t.Errorf("%q: %q, want %q", b, got, want)
		}
	}
	if got := winname.UTF16([]byte("\x00a\x00b"), binary.BigEndian); got != "ab" {
		t.Errorf("big-endian: %q", got)
	}
}
