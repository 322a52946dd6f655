package linux

import (
	"path"
	"slices"
	"strings"

	"hyper2kvm/fixes/linux/shellvars"
)

// outsideModules are modules that only the installers of hypervisors' tools bring: no
// kernel has them itself.
func outsideModules() []string {
	return []string{"vmxnet", "pvscsi", "vmmemctl", "vmhgfs", "vmblock", "vmsync", "vmci", "vboxguest", "vboxsf", "vboxvideo",
		"prl_tg", "prl_eth", "prl_fs", "prl_fs_freeze", "prl_vid"}
}

// missingDrivers takes drivers out of dracut's lists that such an installer put
// there and that no kernel has: dracut complains about each in every image it
// makes, and versions of it end with an error (dracut.conf(5): add_drivers).
func missingDrivers(p *planner) {
	if len(p.facts.Kernels) == 0 {
		return
	}
	gone := slices.DeleteFunc(outsideModules(), func(m string) bool { return p.someKernelHas(m) })
	for _, name := range p.once(append([]string{"etc/dracut.conf"}, p.list("etc/dracut.conf.d", ".conf")...)) {
		data, ok := p.read(name)
		if !ok {
			continue
		}
		file := shellvars.Parse(data)
		for _, v := range file.Vars() {
			if v.Name != "add_drivers" && v.Name != "force_drivers" && v.Name != "drivers" {
				continue
			}
			words := strings.Fields(v.Value)
			kept := slices.DeleteFunc(slices.Clone(words), func(w string) bool {
				return slices.Contains(gone, strings.ReplaceAll(strings.TrimSuffix(w, ".ko"), "-", "_"))
			})
			if len(kept) < len(words) {
				// The blanks inside the quotes are part of the syntax.
				v.Value = " " + strings.Join(append(kept, ""), " ")
			}
		}
		p.write(name, data, file.Bytes())
	}
}

// someKernelHas reports whether a kernel has a module, as a file or built in.
func (p *planner) someKernelHas(module string) bool {
	for _, k := range p.facts.Kernels {
		for _, list := range []string{"modules.dep", "modules.builtin"} {
			data, ok := p.read(path.Join(k.Modules, list))
			if ok && strings.Contains(strings.ReplaceAll(string(data), "-", "_"), "/"+module+".ko") {
				return true
			}
		}
		if !p.exists(path.Join(k.Modules, "modules.dep")) {
			return true // nobody knows
		}
	}
	return false
}
