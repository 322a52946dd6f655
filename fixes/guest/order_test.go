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
