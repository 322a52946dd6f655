// Package validate proves that a disk boots: it starts it in a virtual machine
// of the kind it is meant for and waits until the guest says that it is up, or
// shows that it never will be.
//
// Proof is the canary's report (agent/canary) or, for a guest without one, a
// login prompt. Evidence against is read from the serial line, from the
// firmware's own messages and from the screen, so a guest that was never told
// to use a serial line is judged, too.
package validate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/qemu"
	"hyper2kvm/agent/secret"
)

// The buses that a guest's disks can be attached to.
const (
	VirtioBlk  = "virtio-blk"
	VirtioSCSI = "virtio-scsi"
	SATA       = "sata"
)

// The kinds of firmware.
const (
	BIOS = "bios"
	UEFI = "uefi"
)

// DefaultMemory is what a guest gets that nothing is known of, in bytes.
const DefaultMemory = 2 << 30

const (
	defaultCPUs    = 2
	defaultTimeout = 10 * time.Minute
)

// Disk is one disk of the machine, in order: either an NBD server's unix
// socket, whose export "" is used and may be written, or an image file, which
// is never written.
type Disk struct {
	Socket string
	Path   string
	Format string // of Path, in QEMU's words: "qcow2", "raw", "vmdk"
	Sector int64  // logical sector size in bytes, 0 is 512
}

// Config says what to boot and how.
type Config struct {
	Disks    []Disk
	BootDisk int      // which of Disks to boot from, from 0; the others follow in order
	Firmware string   // BIOS (also "") or UEFI, the latter with no boot entries stored
	Bus      string   // VirtioBlk (also ""), VirtioSCSI or SATA, which is IDE on a pc machine
	NICs     []string // MAC addresses, "" for any; no entry is one interface. They reach nothing outside.
	NICModel string   // QEMU's device; "" is virtio-net-pci
	Machine  string   // "q35" (also "") or "pc", for guests that do not know PCI Express
	Memory   int64    // bytes; 0 is 2 GiB
	CPUs     int      // 0 is 2
	Timeout  time.Duration
	// Keys are typed where the guest asks for the passphrase of an encrypted volume.
	Keys []secret.Value
	// WorkDir gets console.txt and screenshot.png, and, while the machine runs,
	// its UEFI variables.
	WorkDir string
	// Accel is the accelerator; the zero value lets qemu.Accelerator choose.
	Accel qemu.Accel
	// Progress, if not nil, is told in words what is going on.
	Progress func(string)
}

// Boot boots once and gives its verdict. err is only about not having been able
// to try.
func Boot(ctx context.Context, cfg Config) (api.Verdict, error) {
	cfg.fill()
	verdict := api.Verdict{Bus: cfg.Bus}
	if cfg.Accel.Name == "" {
		accel, err := qemu.Accelerator(ctx)
		if err != nil {
			return verdict, fmt.Errorf("choose accelerator: %w", err)
		}
		cfg.Accel = accel
	}
	verdict, err := once(ctx, cfg)
	if err == nil && deadTimer(cfg.Accel, verdict) {
		cfg.Progress("the emulated timer did not tick on this busy host: booting again")
		return once(ctx, cfg)
	}
	return verdict, err
}

// deadTimer reports whether a kernel gave up on the machine's timer before it
// looked at anything of the guest: on a busy host QEMU's emulation may not tick
// in the few milliseconds that it is watched (check_timer in Linux's
// arch/x86/kernel/apic/io_apic.c).
func deadTimer(accel qemu.Accel, v api.Verdict) bool {
	return accel.Name == qemu.TCG && v.State == api.Panic && strings.Contains(v.Why, "IO-APIC + timer doesn't work")
}

func once(ctx context.Context, cfg Config) (api.Verdict, error) {
	verdict := api.Verdict{Bus: cfg.Bus}
	m, err := newMachine(cfg)
	if err != nil {
		return verdict, err
	}
	defer func() { _ = m.remove() }() // what stays behind lies in WorkDir, the caller's to remove
	consolePath := filepath.Join(cfg.WorkDir, "console.txt")
	console, err := os.Create(consolePath)
	if err != nil {
		return verdict, fmt.Errorf("record console: %w", err)
	}
	verdict, err = run(ctx, cfg, m, console)
	if err := errors.Join(err, console.Close()); err != nil {
		return verdict, err
	}
	verdict.Console = consolePath
	return verdict, nil
}

func (c *Config) fill() {
	if c.Bus == "" {
		c.Bus = VirtioBlk
	}
	if c.Firmware == "" {
		c.Firmware = BIOS
	}
	if len(c.NICs) == 0 {
		c.NICs = []string{""}
	}
	if c.Machine == "" {
		c.Machine = "q35"
	}
	if c.NICModel == "" {
		c.NICModel = "virtio-net-pci"
	}
	if c.Memory == 0 {
		c.Memory = DefaultMemory
	}
	if c.CPUs == 0 {
		c.CPUs = defaultCPUs
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	if c.Progress == nil {
		c.Progress = func(string) {}
	}
}

// run starts the machine and watches it until the verdict.
func run(ctx context.Context, cfg Config, m *machine, console *os.File) (v api.Verdict, err error) {
	w := newObserver(cfg, console)
	start := time.Now()
	vm, err := qemu.Start(ctx, qemu.Config{
		Accel: cfg.Accel, Args: m.args, Console: w.serial,
		Channels: []string{canaryID, firmwareID}, Event: w.event,
	})
	if err != nil {
		return api.Verdict{Bus: cfg.Bus}, fmt.Errorf("start machine to boot: %w", err)
	}
	w.follow(vm)
	v, err = w.wait(ctx, vm)
	v.Seconds = time.Since(start).Seconds()
	if err == nil {
		v.Screenshot = w.picture(ctx, vm)
	}
	err = errors.Join(err, vm.Close())
	w.readers.Wait()
	return v, errors.Join(err, w.finish(), w.typist.hideIn(console.Name()))
}
