package validate

import (
	"strings"
	"testing"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/qemu"
)

// A machine without PCI Express has its disks on two cables of IDE.
func TestOldMachine(t *testing.T) {
	m, err := newMachine(Config{Machine: "pc", NICModel: "e1000", Bus: SATA, Firmware: BIOS, NICs: []string{""}, CPUs: 1, Memory: 1 << 20,
		Disks: []Disk{{Socket: "/a"}, {Socket: "/b"}, {Socket: "/c"}}})
	if err != nil {
		t.Fatal(err)
	}
	args := strings.Join(m.args, " ")
	for _, want := range []string{"-M pc ", "ide-hd,bus=ide.0,unit=0,drive=disk0", "ide-hd,bus=ide.0,unit=1,drive=disk1", "ide-hd,bus=ide.1,unit=0,drive=disk2", "e1000,netdev=net0"} {
		if !strings.Contains(args, want) {
			t.Errorf("%s is not in %s", want, args)
		}
	}
}

// The disk that the machine boots from comes first, the others in their order;
// none changes its place on the bus.
func TestBootOrder(t *testing.T) {
	m := &machine{}
	if err := m.disks(Config{Bus: VirtioSCSI, BootDisk: 1, Disks: []Disk{{Socket: "/a"}, {Socket: "/b"}, {Socket: "/c"}}}); err != nil {
		t.Fatal(err)
	}
	args := strings.Join(m.args, " ")
	at := 0
	for _, want := range []string{"scsi-id=0,drive=disk0,bootindex=1", "scsi-id=1,drive=disk1,bootindex=0", "scsi-id=2,drive=disk2,bootindex=3"} {
		n := strings.Index(args[at:], want)
		if n < 0 {
			t.Fatalf("%s is not where it belongs in %s", want, args)
		}
		at += n
	}
}

// A kernel that an emulated timer failed says nothing of the guest; with KVM, or
// of any other panic, the verdict stands.
func TestDeadTimer(t *testing.T) {
	words := "Kernel panic - not syncing: IO-APIC + timer doesn't work!  Boot with apic=debug and send a report."
	for _, c := range []struct {
		accel string
		v     api.Verdict
		want  bool
	}{
		{qemu.TCG, api.Verdict{State: api.Panic, Why: words}, true},
		{qemu.KVM, api.Verdict{State: api.Panic, Why: words}, false},
		{qemu.TCG, api.Verdict{State: api.Panic, Why: "Kernel panic - not syncing: VFS: Unable to mount root fs"}, false},
		{qemu.TCG, api.Verdict{State: api.Timeout, Why: words}, false},
	} {
		if got := deadTimer(qemu.Accel{Name: c.accel}, c.v); got != c.want {
			t.Errorf("%s, %s: %t", c.accel, c.v.Why, got)
		}
	}
}
