package initramfs

import (
	"testing"

	"hyper2kvm/fixes"
	"hyper2kvm/formats/cpio"
)

// TestResumeOff: the guest's setting became none because its swap is on no disk
// that was given; an image with the old one waits for it for half a minute.
func TestResumeOff(t *testing.T) {
	tree, g := newGuest(t, "initramfs-tools", "gzip", append(vmwareImage(), cpio.File("conf/conf.d/resume", []byte("RESUME=UUID=gone\n"))))
	tree.Put("etc/initramfs-tools/conf.d/resume", []byte("RESUME=none\n"))
	apply(t, g, Inject)
	img, err := readImage(g.FS, initrd)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(img.members["conf/conf.d/resume"].data); got != "RESUME=none\n" {
		t.Errorf("the image has %q", got)
	}
	if again := apply(t, g, Inject); again.Results[0].State != fixes.Unchanged {
		t.Errorf("second run: %+v", again.Results[0])
	}
}
