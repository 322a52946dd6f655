package fixes

import (
	"testing"

	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/guest/guesttest"
)

func TestOverlayConformance(t *testing.T) {
	guesttest.TestFS(t, func() guest.FS { return newOverlay(guesttest.Empty()) })
}

// TestOverlayOverLinks checks that a link of the base that the overlay replaced
// by a folder no longer leads anywhere.
func TestOverlayOverLinks(t *testing.T) {
	base := guesttest.New(t, "-- usr/lib/x --\nbase\n-- lib link=usr/lib --\n")
	o := newOverlay(base)
	if err := o.Remove("lib"); err != nil {
		t.Fatal(err)
	}
	if err := o.Mkdir("lib", guest.Attr{Mode: 0o755}); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Stat("lib/x"); err == nil {
		t.Error("the removed link still leads to usr/lib")
	}
	if got := base.ReadFile(t, "lib/x"); got != "base\n" {
		t.Errorf("the base changed: %q", got)
	}
}
