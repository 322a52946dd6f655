package linux

import (
	"slices"
	"strings"
	"testing"
)

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
		slices.SortStableFunc(got, compareNames)
		if !slices.Equal(got, want) {
			t.Errorf("%s are ordered %s", names, strings.Join(got, " "))
		}
	}
}
