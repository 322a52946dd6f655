// Package layers lists configuration that packages and the administrator keep
// in several folders: of files with one name that in the first folder counts
// (systemd's units and .network files, NetworkManager's profiles, netplan).
package layers

import (
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Tree is the part of a guest's files that listing needs.
type Tree interface {
	ReadDir(name string) ([]fs.DirEntry, error)
	ReadLink(name string) (string, error)
}

// null is what an administrator links a name to that is not to count
// (systemd.unit(5), "masked").
const null = "/dev/null"

// List gives the files whose names end in suffix, of one name only that in the
// first of dirs, sorted by name. Hidden ones, and those that are masked, are
// left out.
func List(tree Tree, suffix string, dirs ...string) []string {
	var out []string
	seen := map[string]bool{}
	for _, dir := range dirs {
		entries, err := tree.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			if !strings.HasSuffix(e.Name(), suffix) || strings.HasPrefix(e.Name(), ".") || seen[e.Name()] {
				continue
			}
			seen[e.Name()] = true
			name := path.Join(dir, e.Name())
			if target, err := tree.ReadLink(name); err == nil && target == null {
				continue
			}
			out = append(out, name)
		}
	}
	slices.SortStableFunc(out, func(a, b string) int { return strings.Compare(path.Base(a), path.Base(b)) })
	return out
}

// DropIns gives the files that add to those named (file.d/*.conf), whichever of
// dirs they are in; names are without a folder.
func DropIns(tree Tree, names []string, dirs ...string) []string {
	var out []string
	for _, name := range names {
		var folders []string
		for _, dir := range dirs {
			folders = append(folders, path.Join(dir, name+".d"))
		}
		out = append(out, List(tree, ".conf", folders...)...)
	}
	return out
}

// Networkd are the folders of systemd-networkd's files, first the one that
// counts most (systemd.network(5)). That in run is left out: what is there was
// made since the last boot, and will be made anew.
func Networkd() []string {
	return []string{"etc/systemd/network", "usr/local/lib/systemd/network", "usr/lib/systemd/network", "lib/systemd/network"}
}

// Keyfiles are the folders of NetworkManager's profiles
// (nm-settings-keyfile(5)), without that in run.
func Keyfiles() []string {
	return []string{"etc/NetworkManager/system-connections", "usr/lib/NetworkManager/system-connections"}
}

// ManagerConf are the folders of NetworkManager.conf(5)'s parts.
func ManagerConf() []string {
	return []string{"etc/NetworkManager/conf.d", "usr/lib/NetworkManager/conf.d"}
}

// Netplan are netplan's folders.
func Netplan() []string {
	return []string{"etc/netplan", "usr/lib/netplan", "lib/netplan"}
}

// Own gives the name that a file of a package has where the administrator
// overrides it: that in the first of the folders it is below. One that is not
// below any, or there already, is given back.
func Own(name string, sets ...[]string) string {
	for _, dirs := range sets {
		for _, dir := range dirs {
			if rest, ok := strings.CutPrefix(name, dir+"/"); ok {
				return path.Join(dirs[0], rest)
			}
		}
	}
	return name
}
