package layers_test

import (
	"slices"
	"testing"

	"hyper2kvm/fixes/guest/guesttest"
	"hyper2kvm/fixes/linux/layers"
)

const tree = `
-- etc/systemd/network/20-b.network --
-- etc/systemd/network/30-off.network link=/dev/null --
-- etc/systemd/network/.hidden.network --
-- usr/lib/systemd/network/10-a.network --
-- usr/lib/systemd/network/20-b.network --
-- usr/lib/systemd/network/30-off.network --
-- usr/lib/systemd/network/10-a.network.d/x.conf --
-- etc/systemd/network/10-a.network.d/x.conf --
-- etc/systemd/network/10-a.network.d/y.conf --
-- etc/systemd/network/10-a.network.d/README --
`

func TestTheFirstFolderCounts(t *testing.T) {
	got := layers.List(guesttest.New(t, tree), ".network", layers.Networkd()...)
	if want := []string{"usr/lib/systemd/network/10-a.network", "etc/systemd/network/20-b.network"}; !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

func TestDropIns(t *testing.T) {
	got := layers.DropIns(guesttest.New(t, tree), []string{"10-a.network", "gone.network"}, layers.Networkd()...)
	if want := []string{"etc/systemd/network/10-a.network.d/x.conf", "etc/systemd/network/10-a.network.d/y.conf"}; !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

func TestOwn(t *testing.T) {
	for in, want := range map[string]string{
		"usr/lib/systemd/network/80-ec2.network":                   "etc/systemd/network/80-ec2.network",
		"lib/netplan/a.yaml":                                       "etc/netplan/a.yaml",
		"etc/netplan/a.yaml":                                       "etc/netplan/a.yaml",
		"etc/network/interfaces":                                   "etc/network/interfaces",
		"usr/lib/NetworkManager/system-connections/x.nmconnection": "etc/NetworkManager/system-connections/x.nmconnection",
	} {
		if got := layers.Own(in, layers.Networkd(), layers.Netplan(), layers.Keyfiles()); got != want {
			t.Errorf("%s becomes %s", in, got)
		}
	}
}
