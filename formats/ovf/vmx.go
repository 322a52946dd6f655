package ovf

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"hyper2kvm/formats"
)

// maxVMX bounds a VMX file, in bytes. Real ones have some KiB.
const maxVMX = 1 << 20

// IsVMX reports whether a text is a VMX file: it has one of the keys that all
// of them begin with.
func IsVMX(text []byte) bool {
	for l := range bytes.Lines(unmark(text)) {
		key, _, ok := vmxLine(string(l))
		if ok && slices.Contains([]string{"config.version", "virtualhw.version"}, key) {
			return true
		}
	}
	return false
}

// ParseVMX reads a VMX file: lines of key = "value", keys in any case.
func ParseVMX(text []byte) (*Machine, error) {
	if len(text) > maxVMX {
		return nil, fmt.Errorf("read VMX file: %d bytes, at most %d: %w", len(text), maxVMX, formats.ErrUnsupported)
	}
	if !IsVMX(text) {
		return nil, fmt.Errorf("not a VMX file: %w", formats.ErrFormat)
	}
	v, err := vmxKeys(unmark(text))
	if err != nil {
		return nil, fmt.Errorf("read VMX file: %w", err)
	}
	return v.machine()
}

// vmx has the values by key, in small letters.
type vmx map[string]string

// vmxKeys reads the lines. Of a key that is there twice the last one counts.
func vmxKeys(text []byte) (vmx, error) {
	encoding := ""
	for l := range bytes.Lines(text) {
		if key, value, ok := vmxLine(string(l)); ok && key == ".encoding" {
			encoding = value
			break
		}
	}
	s, err := decode(encoding, text)
	if err != nil {
		return nil, err
	}
	v := vmx{}
	for l := range strings.Lines(s) {
		if key, value, ok := vmxLine(l); ok {
			v[key] = value
		}
	}
	return v, nil
}

// vmxLine reads one line. What cannot stand in a value is written as | and two
// hexadecimal digits.
func vmxLine(l string) (key, value string, ok bool) {
	l = strings.TrimSpace(l)
	key, value, ok = strings.Cut(l, "=")
	if !ok || strings.HasPrefix(l, "#") {
		return "", "", false
	}
	value = strings.TrimSpace(value)
	if inner, quoted := strings.CutPrefix(value, `"`); quoted {
		value, _, _ = strings.Cut(inner, `"`)
	}
	return strings.ToLower(strings.TrimSpace(key)), vmxUnescape(value), true
}

func vmxUnescape(s string) string {
	if !strings.Contains(s, "|") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '|' && i+3 <= len(s) {
			if c, err := hex.DecodeString(s[i+1 : i+3]); err == nil {
				b.Write(c)
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func (v vmx) machine() (*Machine, error) {
	m := &Machine{Name: cut(v["displayname"]), Guest: cut(v["guestos"]), CPUs: 1, Firmware: "bios"}
	m.ID = m.Name
	if f := v["firmware"]; f != "" {
		m.Firmware = firmware(f)
	}
	m.SecureBoot = m.Firmware == "uefi" && isTrue(v["uefi.secureboot.enabled"])
	if n, err := strconv.Atoi(v["numvcpus"]); err == nil && n > 0 && n <= maxCPUs {
		m.CPUs = n
	}
	if n, ok := bytesIn(v["memsize"], "MB", ""); ok {
		m.Memory = n
	}
	if err := v.disks(m); err != nil {
		return nil, err
	}
	v.nics(m)
	m.bound()
	return m, nil
}

// device is a key of a device: "scsi0:1.filename" is unit 1 of scsi0.
type device struct {
	bus              string
	controller, unit int
}

// vmxDevice reads "scsi0:1"; ok is false for what is no place of a disk.
func vmxDevice(name string) (d device, ok bool) {
	for _, bus := range []string{"scsi", "sata", "nvme", "ide"} {
		rest, ok := strings.CutPrefix(name, bus)
		if !ok {
			continue
		}
		c, u, ok := strings.Cut(rest, ":")
		controller, err := strconv.ParseUint(c, 10, 8)
		unit, err2 := strconv.ParseUint(u, 10, 8)
		return device{bus, int(controller), int(unit)}, ok && err == nil && err2 == nil
	}
	return device{}, false
}

func (v vmx) disks(m *Machine) error {
	first := v.bootDisk()
	for _, key := range slices.Sorted(maps.Keys(v)) {
		file := v[key]
		name, ok := strings.CutSuffix(key, ".filename")
		if !ok || file == "" {
			continue
		}
		place, ok := vmxDevice(name)
		if !ok || !v.isDisk(name, file) {
			continue
		}
		on := fmt.Sprintf("%s%d", place.bus, place.controller)
		if !isTrue(v[name+".present"]) || v[on+".present"] != "" && !isTrue(v[on+".present"]) {
			m.Warnings = append(m.Warnings, fmt.Sprintf("%s (%s) is switched off in the machine: left out", name, cut(file)))
			continue
		}
		if len(m.Disks) >= maxDisks {
			return fmt.Errorf("more than %d disks: %w", maxDisks, formats.ErrUnsupported)
		}
		m.Disks = append(m.Disks, Disk{
			ID: name, Bus: place.bus, Controller: place.controller, Unit: place.unit, Model: cut(v[on+".virtualdev"]),
			Boot: name == first, File: &File{ID: name, Name: file, Size: -1},
		})
	}
	sortDisks(m.Disks)
	return nil
}

// isDisk tells disks from CD drives by their type or, where there is none, by
// the name of the file.
func (v vmx) isDisk(name, file string) bool {
	switch t := strings.ToLower(v[name+".devicetype"]); {
	case strings.Contains(t, "cdrom"), strings.Contains(t, "floppy"):
		return false
	case strings.Contains(t, "disk"):
		return true
	}
	return strings.HasSuffix(strings.ToLower(file), ".vmdk")
}

// bootDisk is the disk that the machine's BIOS is set to try first.
func (v vmx) bootDisk() string {
	first, _, _ := strings.Cut(v["bios.hddorder"], ",")
	return strings.ToLower(strings.TrimSpace(first))
}

// maxNICs is how many interfaces a virtual machine of VMware can have.
const maxNICs = 10

func (v vmx) nics(m *Machine) {
	for i := range maxNICs {
		on := fmt.Sprintf("ethernet%d.", i)
		if !isTrue(v[on+"present"]) {
			continue
		}
		address := v[on+"generatedaddress"]
		if static := v[on+"address"]; address == "" || static != "" && strings.EqualFold(v[on+"addresstype"], "static") {
			address = static
		}
		m.addNIC(address, NIC{Network: cut(v[on+"networkname"]), Model: cut(v[on+"virtualdev"])})
	}
}
