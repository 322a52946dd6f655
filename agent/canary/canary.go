// Package canary says what has to be put into a guest so that it tells, once
// booted, that it came up: a small static program and the systemd unit that
// starts it. It only ever goes into a throw-away overlay, never into a result.
package canary

import (
	"errors"
	"io/fs"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
)

// ErrInit says that the guest's init is none that starts the canary; such a
// guest is judged by its console.
var ErrInit = errors.New("the guest's init is not systemd")

// Where the canary lies in a guest, as in the helper VM's image.
const (
	Program = "usr/lib/hyper2kvm/h2k-canary"
	unit    = "etc/systemd/system/h2k-canary.service"
	wanted  = "etc/systemd/system/sysinit.target.wants/h2k-canary.service"
	patient = "etc/systemd/system.conf.d/zz-h2k-canary.conf"
)

// patientText makes systemd wait longer than its 90 seconds: on an emulated
// processor that others use, too, they are the work of a few, and a device that
// is only late must not count as one that is missing. Before version 252
// DefaultTimeoutStartSec= was for devices as well (systemd-system.conf(5)).
const patientText = `[Manager]
DefaultTimeoutStartSec=240
DefaultDeviceTimeoutSec=240
`

// unitText starts the canary first of all: with no dependencies it also lives
// through a fall into emergency.target, where it has something to tell. A
// simple service holds nothing up.
const unitText = `[Unit]
Description=Tells hyper2kvm that this boot came up
DefaultDependencies=no
Conflicts=shutdown.target
Before=shutdown.target

[Service]
Type=simple
ExecStart=/` + Program + `
StandardInput=null
StandardOutput=null
StandardError=journal
`

// Changes are what plants the program bin in a guest.
func Changes(bin []byte, facts *guest.Facts) ([]fixes.Change, error) {
	if facts.Init != "systemd" {
		return nil, ErrInit
	}
	return []fixes.Change{
		fixes.WriteFile{Name: Program, Content: bin, Attr: attr(facts, 0o755, "bin_t")},
		fixes.WriteFile{Name: unit, Content: []byte(unitText), Attr: attr(facts, 0o644, "systemd_unit_file_t")},
		fixes.Symlink{Name: wanted, To: "/" + unit},
		fixes.WriteFile{Name: patient, Content: []byte(patientText), Attr: attr(facts, 0o644, "etc_t")},
	}, nil
}

// attr labels the files where SELinux would else keep init from running them.
func attr(facts *guest.Facts, mode fs.FileMode, label string) *guest.Attr {
	a := &guest.Attr{Mode: mode}
	if facts.SELinux != "" && facts.SELinux != "disabled" {
		a.Xattrs = map[string][]byte{"security.selinux": []byte("system_u:object_r:" + label + ":s0\x00")}
	}
	return a
}
