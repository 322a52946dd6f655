package guesttest_test

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/guest/guesttest"
)

func TestConformance(t *testing.T) {
	guesttest.TestFS(t, func() guest.FS { return guesttest.Empty() })
}

func TestArchive(t *testing.T) {
	f := guesttest.New(t, `
-- etc/shadow mode=0640 gid=42 xattr.security.selinux=system_u:object_r:shadow_t:s0 --
root:*:
-- lib link=usr/lib --
-- usr/lib/os-release --
ID=debian
-- var/log/ mode=0750 uid=7 --
`)
	if got := f.ReadFile(t, "lib/os-release"); got != "ID=debian\n" {
		t.Errorf("through the link: %q", got)
	}
	attr, err := f.Attr("etc/shadow")
	if err != nil || attr.Mode != 0o640 || attr.GID != 42 || len(attr.Xattrs["security.selinux"]) == 0 {
		t.Errorf("etc/shadow: %+v, %v", attr, err)
	}
	if attr, err = f.Attr("var/log"); err != nil || attr.Mode != fs.ModeDir|0o750 || attr.UID != 7 {
		t.Errorf("var/log: %+v, %v", attr, err)
	}
	if _, err := guesttest.Parse([]byte("-- a colour=red --\n")); err == nil {
		t.Error("an unknown attribute is accepted")
	}
}

func TestSpecialAndSpace(t *testing.T) {
	f := guesttest.Empty()
	f.Special("dev/sda", fs.ModeDevice|0o660)
	if _, err := f.Open("dev/sda"); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("opening a device gives %v", err)
	}
	f.Limit(4)
	if err := f.Write("a", strings.NewReader("12345"), guest.Attr{Mode: 0o644}); !errors.Is(err, guesttest.ErrSpace) {
		t.Errorf("writing past the limit gives %v", err)
	}
}
