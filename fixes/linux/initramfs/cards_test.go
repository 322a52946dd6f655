package initramfs

import (
	"testing"

	"hyper2kvm/fixes/guest"
)

func TestCommandLineFollowsCards(t *testing.T) {
	nics := []guest.NIC{{MAC: "52:54:00:00:00:01", Was: "00:50:56:00:00:01"}, {MAC: "52:54:00:00:00:02", Name: "ens224"}, {MAC: "52:54:00:00:00:03", Name: "ens256"}}
	c := &checked{img: &image{name: initrd}}
	for text, want := range map[string]string{
		" rd.neednet=1 ifname=ens192:00:50:56:00:00:01 ip=ens192:dhcp\n": " rd.neednet=1 ifname=ens192:52:54:00:00:00:01 ip=ens192:dhcp\n",
		" ifname=ens224:00:50:56:00:00:02\n":                             " ifname=ens224:52:54:00:00:00:02\n",
		" ifname=ens256:52:54:00:00:00:03  ip=dhcp\n":                    " ifname=ens256:52:54:00:00:00:03  ip=dhcp\n",
		" ifname=other:00:50:56:00:00:09\n":                              " ifname=other:00:50:56:00:00:09\n",
	} {
		if got := c.commandLine("etc/cmdline.d/01.conf", text, &guest.Facts{NICs: nics}); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
}
