package initramfs

import (
	"testing"

	"hyper2kvm/fixes"
	"hyper2kvm/formats/cpio"
)

// TestStaleStorageConfigs: the image's copies follow what was repaired in the
// guest, and keep what the generator wrote into them.
func TestStaleStorageConfigs(t *testing.T) {
	for name, c := range map[string]struct{ have, own, want string }{
		"etc/crypttab": {
			"root /dev/sda2 none luks,tpm2-device=auto,x-initrd.attach\nother /dev/sdz none\n",
			"root UUID=12 none luks\nmore UUID=3 none\n",
			"root UUID=12 none luks,x-initrd.attach\nother /dev/sdz none\n",
		},
		"cryptroot/crypttab": {"root UUID=12 none luks\n", "root UUID=12 none luks,initramfs\n", "root UUID=12 none luks\n"},
		"etc/lvm/lvm.conf": {
			"devices {\n filter=[ \"a|/dev/sda|\", \"r|.*|\" ]\n}\nglobal { use_lvmetad = 0 }\n",
			"devices {\n\tfilter = [ \"a|new|\", \"a|/dev/sda|\", \"r|.*|\" ]\n}\n",
			"devices {\n filter=[ \"a|new|\", \"a|/dev/sda|\", \"r|.*|\" ]\n}\nglobal { use_lvmetad = 0 }\n",
		},
		"etc/mdadm.conf":       {"DEVICE /dev/sd*\nARRAY /dev/md0 UUID=1\n", "DEVICE partitions\nARRAY /dev/md0 UUID=1\n", "DEVICE partitions\nARRAY /dev/md0 UUID=1\n"},
		"etc/mdadm/mdadm.conf": {"# DEVICE /dev/sd*\nARRAY /dev/md0 UUID=1\n", "HOMEHOST x\n", "# DEVICE /dev/sd*\nARRAY /dev/md0 UUID=1\n"},
	} {
		tree, g := newGuest(t, string(dracut), "gzip", append(vmwareImage(), cpio.File(name, []byte(c.have))))
		own := storageConfigs()[name]
		tree.Put(own, []byte(c.own))
		apply(t, g, Inject)
		img, err := readImage(g.FS, initrd)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(img.members[name].data); got != c.want {
			t.Errorf("%s is %q, want %q", name, got, c.want)
		}
		if again := apply(t, g, Inject); again.Results[0].State != fixes.Unchanged {
			t.Errorf("%s: a second run changes it again", name)
		}
	}
}
