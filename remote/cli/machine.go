package cli

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"hyper2kvm/agent/api"
)

// machineHelp says how described machines are given, for the help of commands.
const machineHelp = "An OVA, OVF or VMX file stands for the machine that it describes; web01.ova#2 is its second disk."

// sourceOf is the source that an argument names; s says what holds for each. A
// number behind the name of a machine's description chooses one of its disks.
func sourceOf(arg string, s api.Source) api.Source {
	s.Path = arg
	at := strings.LastIndexByte(arg, '#')
	if at < 0 || s.Remote() || !describes(arg[:at]) {
		return s
	}
	if n, err := strconv.Atoi(arg[at+1:]); err == nil && n > 0 {
		s.Path, s.Disk = arg[:at], n
	}
	return s
}

// describes reports whether the path is called like a machine's description.
func describes(path string) bool {
	return slices.Contains([]string{".ova", ".ovf", ".vmx"}, strings.ToLower(filepath.Ext(path)))
}

// nameFor is the name of a machine: that which was chosen, else that of its
// first source.
func nameFor(s api.Source) string {
	if name := s.Machine; name != "" && safe(name) == name && !strings.Contains(name, "/") && name != "." && name != ".." {
		return name
	}
	return nameOf(s.Path)
}

// showMachine prints what the source machine is described as.
func (a *app) showMachine(m *api.MachineReport) {
	if m == nil {
		return
	}
	unknown := func(known bool, text string) string {
		if !known {
			return "not said"
		}
		return text
	}
	firmware := unknown(m.Firmware != "", m.Firmware)
	if m.SecureBoot {
		firmware += ", Secure Boot"
	}
	a.table([][]string{
		{"machine", m.Name},
		{"described by", short(m.Path)},
		{"guest", unknown(m.Guest != "", m.Guest)},
		{"CPUs", unknown(m.CPUs > 0, strconv.Itoa(m.CPUs))},
		{"memory", unknown(m.Memory > 0, bytesOf(m.Memory))},
		{"firmware", firmware},
		{"manifest", manifestText(m.Manifest)},
	})
	rows := [][]string{{"DISK", "AT", "ID", "CAPACITY", "FILE"}}
	for _, d := range m.Disks {
		rows = append(rows, []string{fmt.Sprintf("%s#%d", short(m.Path), d.Number), placeOf(d), d.ID, unknown(d.Capacity > 0, size(d.Capacity)), d.File})
	}
	a.printf("\n")
	a.table(rows)
	rows = [][]string{{"NIC", "MAC", "NETWORK", "MODEL"}}
	for i, n := range m.NICs {
		rows = append(rows, []string{strconv.Itoa(i + 1), unknown(n.MAC != "", n.MAC), n.Network, n.Model})
	}
	if len(m.NICs) > 0 {
		a.printf("\n")
		a.table(rows)
	}
	a.printf("\n")
}

func manifestText(m *api.ManifestReport) string {
	switch {
	case m == nil:
		return "none"
	case m.Signed:
		return counted(m.Listed, "file") + ", signed"
	}
	return counted(m.Listed, "file")
}

// placeOf is where the source machine has a disk: "scsi0:1".
func placeOf(d api.DescribedDisk) string {
	if d.Bus == "" {
		return "not said"
	}
	place := fmt.Sprintf("%s%d:%d", d.Bus, d.Controller, d.Unit)
	if d.Boot {
		place += ", boots"
	}
	return place
}
