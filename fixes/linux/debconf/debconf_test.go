package debconf

import (
	"strings"
	"testing"
)

const sample = `Name: grub-pc/install_devices
Template: grub-pc/install_devices
Value: /dev/sda
Owners: grub-pc
Flags: seen
Variables:
 CHOICES = /dev/sda (8589 MB; Virtual_disk)
 RAW_CHOICES = /dev/sda

Name: grub-pc/install_devices_empty
Template: grub-pc/install_devices_empty
Owners: grub-pc

Name: last/one
Template: last/one
Owners: x`

func TestSet(t *testing.T) {
	d := Parse([]byte(sample))
	if v, ok := d.Get("grub-pc/install_devices"); v != "/dev/sda" || !ok {
		t.Errorf("got %q, %v", v, ok)
	}
	if _, ok := d.Get("grub-pc/install_devices_empty"); ok {
		t.Error("an answer that is not there was found")
	}
	d.Set("grub-pc/install_devices", "/dev/vda")
	d.Set("grub-pc/install_devices_empty", "true")
	d.Set("last/one", "1")
	if d.Set("not/there", "x") {
		t.Error("a question that is not there was answered")
	}
	want := strings.NewReplacer(
		"Value: /dev/sda", "Value: /dev/vda",
		"devices_empty\nOwners: grub-pc\n", "devices_empty\nValue: true\nOwners: grub-pc\nFlags: seen\n",
		"last/one\nOwners: x", "last/one\nValue: 1\nOwners: x\nFlags: seen\n",
	).Replace(sample)
	if got := string(d.Bytes()); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func FuzzSet(f *testing.F) {
	f.Add(sample)
	f.Add("Name: grub-pc/install_devices")
	f.Add("\nName:grub-pc/install_devices\r\nFlags: a, b\nValue:\n")
	f.Fuzz(func(t *testing.T, in string) {
		d := Parse([]byte(in))
		if got := string(d.Bytes()); got != in {
			t.Fatalf("unchanged %q came out as %q", in, got)
		}
		const q = "grub-pc/install_devices"
		if !d.Set(q, "/dev/vda") {
			return
		}
		again := Parse(d.Bytes())
		if v, _ := again.Get(q); v != "/dev/vda" || !again.Flag(q, "seen") {
			t.Fatalf("reads back %q from %q", v, d.Bytes())
		}
		again.Set(q, "/dev/vda")
		if string(again.Bytes()) != string(d.Bytes()) {
			t.Fatal("a second run changes more")
		}
	})
}
