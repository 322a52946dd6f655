package validate

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"hyper2kvm/agent/canary/watch"
	"hyper2kvm/agent/qemu"
)

// Character devices that agent/qemu joins to us.
const (
	canaryID   = "canary"
	firmwareID = "firmware"
)

// machine is QEMU's arguments and the files made for them.
type machine struct {
	args  []string
	files []string
}

func newMachine(cfg Config) (*machine, error) {
	if len(cfg.Disks) == 0 {
		return nil, errors.New("boot: no disk given")
	}
	m := &machine{}
	m.add("-M", cfg.Machine, "-cpu", cfg.Accel.CPU(), "-smp", strconv.Itoa(cfg.CPUs), "-m", fmt.Sprintf("%dB", cfg.Memory),
		// A panic must leave its words standing, a reset must not hide it.
		"-action", "panic=none", "-rtc", "base=utc",
		"-device", "VGA",
		"-device", "virtio-rng-pci",
		"-serial", "chardev:"+qemu.ConsoleID,
		// SeaBIOS tells its debug port what it tries.
		"-device", "isa-debugcon,iobase=0x402,chardev="+firmwareID,
		"-device", "virtio-serial-pci", "-device", "virtserialport,chardev="+canaryID+",name="+watch.Port)
	if err := m.firmware(cfg); err != nil {
		return nil, errors.Join(err, m.remove())
	}
	if err := m.disks(cfg); err != nil {
		return nil, errors.Join(err, m.remove())
	}
	for i, mac := range cfg.NICs {
		if strings.ContainsAny(mac, ", =") {
			return nil, errors.Join(fmt.Errorf("boot: %q is no MAC address", mac), m.remove())
		}
		if mac != "" {
			mac = ",mac=" + mac
		}
		// No option ROM and no PXE: a disk that does not boot must say so.
		m.add("-netdev", fmt.Sprintf("user,id=net%d,restrict=on", i),
			"-device", fmt.Sprintf("%s,netdev=net%d,romfile=%s", cfg.NICModel, i, mac))
	}
	return m, nil
}

func (m *machine) add(args ...string) { m.args = append(m.args, args...) }

// disks attaches the disks in order.
func (m *machine) disks(cfg Config) error {
	switch cfg.Bus {
	case VirtioSCSI:
		m.add("-device", "virtio-scsi-pci,id=scsi")
	case VirtioBlk, SATA:
	default:
		return fmt.Errorf("boot on bus %q: not known", cfg.Bus)
	}
	for i, d := range cfg.Disks {
		node := fmt.Sprintf("disk%d", i)
		if err := m.drive(d, node); err != nil {
			return err
		}
		index := i + 1
		if i == cfg.BootDisk {
			index = 0
		}
		m.add("-device", fmt.Sprintf("%s,drive=%s,bootindex=%d", device(cfg, i), node, index)+qemu.DiskOptions(d.Sector))
	}
	return nil
}

func device(cfg Config, i int) string {
	switch cfg.Bus {
	case VirtioSCSI:
		return fmt.Sprintf("scsi-hd,bus=scsi.0,scsi-id=%d", i)
	case SATA:
		if cfg.Machine == "pc" { // two cables with two drives each
			return fmt.Sprintf("ide-hd,bus=ide.%d,unit=%d", i/2, i%2)
		}
		return fmt.Sprintf("ide-hd,bus=ide.%d", i)
	}
	return "virtio-blk-pci"
}

// drive makes the block node. Nothing that the guest writes has to last.
func (m *machine) drive(d Disk, node string) error {
	switch {
	case d.Socket != "":
		m.add("-drive", fmt.Sprintf("if=none,id=%s,format=raw,cache=unsafe,discard=unmap,file.driver=nbd,file.server.type=unix,file.server.path=%s",
			node, escape(d.Socket)))
	case d.Path != "" && d.Format != "":
		path, err := filepath.Abs(d.Path)
		if err != nil {
			return fmt.Errorf("boot: %w", err)
		}
		m.add("-drive", fmt.Sprintf("if=none,id=%s,snapshot=on,cache=unsafe,format=%s,file.driver=file,file.filename=%s",
			node, escape(d.Format), escape(path)))
	default:
		return errors.New("boot: a disk has neither socket nor path and format")
	}
	return nil
}

// escape writes a value of a QEMU option: a comma ends it unless doubled.
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }

// remove removes what newMachine made.
func (m *machine) remove() error {
	var err error
	for _, f := range m.files {
		err = errors.Join(err, os.Remove(f))
	}
	m.files = nil
	return err
}

func (m *machine) firmware(cfg Config) error {
	switch cfg.Firmware {
	case BIOS:
		return nil
	case UEFI:
	default:
		return fmt.Errorf("boot with firmware %q: not known", cfg.Firmware)
	}
	fw, err := findUEFI(uefiImages())
	if err != nil {
		return err
	}
	vars := filepath.Join(cfg.WorkDir, "uefi-vars.fd")
	m.files = append(m.files, vars)
	if err := copyFile(fw.Vars, vars); err != nil {
		return fmt.Errorf("make empty UEFI variables: %w", err)
	}
	m.add("-drive", "if=pflash,unit=0,format=raw,readonly=on,file="+escape(fw.Code),
		"-drive", "if=pflash,unit=1,format=raw,file="+escape(vars),
		"-fw_cfg", "name=opt/org.tianocore/IPv4PXESupport,string=no",
		"-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=no")
	return nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// UEFIImage is an OVMF build: its code and an empty variable store.
type UEFIImage struct{ Code, Vars string }

// uefiImages lists where distributions put OVMF for x86-64, builds without
// Secure Boot first: a guest's own loader need not be signed.
func uefiImages() []UEFIImage {
	return []UEFIImage{
		{"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"},                         // Debian, Ubuntu
		{"/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"},                               // the same, older
		{"/usr/share/edk2/ovmf/OVMF_CODE_4M.fd", "/usr/share/edk2/ovmf/OVMF_VARS_4M.fd"},               // Fedora
		{"/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"},                     // RHEL, Fedora
		{"/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"},                 // Arch
		{"/usr/share/edk2-ovmf/x64/OVMF_CODE.fd", "/usr/share/edk2-ovmf/x64/OVMF_VARS.fd"},             // Arch, older
		{"/usr/share/qemu/ovmf-x86_64-4m-code.bin", "/usr/share/qemu/ovmf-x86_64-4m-vars.bin"},         // SUSE
		{"/usr/share/qemu/ovmf-x86_64-code.bin", "/usr/share/qemu/ovmf-x86_64-vars.bin"},               // SUSE, older
		{"/usr/share/edk2-ovmf/OVMF_CODE.fd", "/usr/share/edk2-ovmf/OVMF_VARS.fd"},                     // Gentoo
		{"/usr/share/OVMF/OVMF_CODE_4M.secboot.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"},                 // Debian
		{"/usr/share/edk2/ovmf/OVMF_CODE.secboot.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"},             // RHEL
		{"/usr/share/qemu/edk2-x86_64-code.fd", "/usr/share/qemu/edk2-i386-vars.fd"},                   // QEMU's own
		{"/usr/local/share/qemu/edk2-x86_64-code.fd", "/usr/local/share/qemu/edk2-i386-vars.fd"},       // the same
		{"/opt/homebrew/share/qemu/edk2-x86_64-code.fd", "/opt/homebrew/share/qemu/edk2-i386-vars.fd"}, // the same
	}
}

// ErrNoUEFI says that no UEFI firmware for guests is installed.
var ErrNoUEFI = errors.New("no UEFI firmware for virtual machines found")

// FindUEFI finds the installed firmware; the package that brings it is ovmf in
// Debian and Ubuntu, edk2-ovmf elsewhere, qemu-ovmf-x86_64 in SUSE.
func FindUEFI() (UEFIImage, error) { return findUEFI(uefiImages()) }

func findUEFI(list []UEFIImage) (UEFIImage, error) {
	for _, fw := range list {
		if isFile(fw.Code) && isFile(fw.Vars) {
			return fw, nil
		}
	}
	return UEFIImage{}, fmt.Errorf("%w: install the package ovmf (edk2-ovmf, qemu-ovmf-x86_64)", ErrNoUEFI)
}

func isFile(path string) bool {
	s, err := os.Stat(path)
	return err == nil && s.Mode().IsRegular()
}
