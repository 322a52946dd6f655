package inspect_test

import (
	"testing"

	"hyper2kvm/fixes/guest/guesttest"
	"hyper2kvm/fixes/inspect"
)

func TestBSDIsNoLinux(t *testing.T) {
	tree := guesttest.New(t, "-- etc/os-release --\nNAME=FreeBSD\nVERSION_ID=\"14.1\"\nID=freebsd\nPRETTY_NAME=\"FreeBSD 14.1-RELEASE\"\n")
	if os := inspect.Identify(tree); os.Family != "bsd" || os.Name != "FreeBSD 14.1-RELEASE" {
		t.Errorf("FreeBSD is %+v", os)
	}
}

func TestOSTree(t *testing.T) {
	tree := guesttest.New(t, "-- ostree/repo/config --\n-- ostree/deploy/fedora-coreos/deploy/1a2b.0/etc/os-release --\nID=fedora\n-- boot/x --\n")
	if !inspect.IsOSTree(tree) || inspect.IsRoot(tree) {
		t.Error("the store of an OSTree system is not known as that")
	}
	if inspect.IsOSTree(guesttest.New(t, "-- etc/os-release --\nID=debian\n-- ostree/repo/config --\n")) {
		t.Error("a repository on an ordinary system makes it an OSTree system")
	}
}
