package linux

import (
	"strings"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
)

// stores are folders whose files a package manager makes of a description of the
// whole system, and makes anew when that changes (Nix, Guix).
func stores() []string { return []string{"nix/store/", "gnu/store/"} }

// noteStores says which changes the next rebuild of such a system takes back. They
// are made all the same: the guest has to boot until then.
func noteStores(p *planner) {
	for _, c := range p.changes {
		w, ok := c.(fixes.WriteFile)
		if !ok {
			continue
		}
		real, err := guest.Resolve(p.fs, w.Name)
		if err != nil {
			continue
		}
		for _, store := range stores() {
			if strings.HasPrefix(real, store) {
				p.note("%s lies in /%s: say the same in the description of the system, or its next rebuild takes the change back", w.Name, strings.TrimSuffix(store, "/"))
			}
		}
	}
}
