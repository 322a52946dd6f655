package guest_test

import (
	"slices"
	"strings"
	"testing"

	"hyper2kvm/fixes/guest"
)

func TestCardOrder(t *testing.T) {
	for names, want := range map[string][]int{
		"eth0 eth1 eth2":  {0, 1, 2},
		"eth1 eth0":       {1, 0},
		"eth10 eth9 eth0": {2, 1, 0},
		"eth1 eth0 -":     {1, 0, 2},
		"eth2 - eth0 -":   {2, 1, 0, 3},
		"- -":             {0, 1},
		"ens192 eth0":     {1, 0},
		"eth1 eth1":       {0, 1},
		"ethernet eth0":   {1, 0},
		"ens192 ens160":   {0, 1},
		"ens192 eth1":     {0, 1},
		"eth1 eth":        {1, 0},
		"":                {},
	} {
		var nics []guest.NIC
		for _, name := range strings.Fields(names) {
			nics = append(nics, guest.NIC{Name: strings.Trim(name, "-")})
		}
		if got := guest.CardOrder(nics); !slices.Equal(got, want) {
			t.Errorf("%s are ordered %v, want %v", names, got, want)
		}
	}
}

func TestOrderOfNames(t *testing.T) {
	for _, names := range []string{
		"ens160 ens192 ens224 ens256 ens161 ens193", // VMware
		"eno16777736 eno33554960 eno50332184",       // VMware, as RHEL 7.0 called them
		"enp0s3 enp0s8 enp0s10",                     // VirtualBox
		"enp2s0 enp2s0f1 enp2s1 enp10s0",
		"eth0 eth1 eth2 eth10",
		"eno1 eno2 enp3s0 ens192",
	} {
		want := strings.Fields(names)
		got := slices.Clone(want)
		slices.Reverse(got)
		slices.SortStableFunc(got, guest.CompareNames)
		if !slices.Equal(got, want) {
			t.Errorf("%s are ordered %s", names, strings.Join(got, " "))
		}
	}
}
