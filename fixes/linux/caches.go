package linux

import (
	"bytes"
	"path"
	"regexp"
	"slices"
	"strings"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/linux/shellvars"
)

// caches removes what only remembers the old machine's devices. It stands before
// the initramfs, which gets copies.
func caches() fix {
	return fix{
		id:  "linux/device-caches",
		why: "Caches of device names (blkid's, that of ZFS) name the old machine's disks, and are believed before the disks are looked at.",
		plan: func(p *planner) error {
			// Debian's is a link to one in memory: such names are left.
			for _, name := range []string{"etc/blkid.tab", "etc/blkid.tab.old", "etc/blkid/blkid.tab", "etc/blkid/blkid.tab.old"} {
				info, err := p.fs.Lstat(name)
				if err == nil && info.Mode().IsRegular() {
					p.changes = append(p.changes, fixes.Remove{Name: name})
				}
			}
			zpoolCache(p)
			zpoolPath(p)
			return nil
		},
	}
}

// devInBytes finds names of devices in a file that is no text.
var devInBytes = regexp.MustCompile(`/dev/[A-Za-z0-9_./:+-]+`)

// zpoolCache makes ZFS look for its pools on the disks instead of where they were:
// zfs-import-cache.service imports what the cache lists by the paths in it, and
// zfs-import-scan.service does its work where there is no cache, if it is enabled,
// which distributions leave to the administrator (their units' conditions).
func zpoolCache(p *planner) {
	const (
		cache = "etc/zfs/zpool.cache"
		wants = "etc/systemd/system/zfs-import.target.wants"
		scan  = "zfs-import-scan.service"
	)
	data, ok := p.read(cache)
	if !ok {
		return
	}
	stale := false
	for _, name := range devInBytes.FindAll(data, -1) {
		stale = stale || guest.Unstable(string(name))
	}
	if !stale {
		return
	}
	unit := ""
	for _, dir := range []string{"usr/lib/systemd/system", "lib/systemd/system"} {
		if unit == "" && p.exists(path.Join(dir, scan)) {
			unit = path.Join(dir, scan)
		}
	}
	switch {
	case unit == "" && p.facts.Init == "systemd":
		p.note("%s lists pools by names that break, and the guest has no %s to find them without; left", cache, scan)
		return
	case unit != "" && !p.exists(path.Join(wants, scan)):
		p.changes = append(p.changes, fixes.Symlink{Name: path.Join(wants, scan), To: "/" + unit})
	}
	p.changes = append(p.changes, fixes.Remove{Name: cache})
	if hostID, ok := p.read("etc/hostid"); !ok || len(bytes.Trim(hostID, "\x00")) == 0 {
		p.note("ZFS pools are imported by scanning; the guest has no etc/hostid, so a pool that was not exported may want zpool import -f once")
	}
}

// zpoolPath has pools looked for in /dev, too, where that is restricted to links
// that KVM's disks do not all have (ZPOOL_IMPORT_PATH of zfs's defaults).
func zpoolPath(p *planner) {
	const name = "etc/default/zfs"
	data, ok := p.read(name)
	if !ok {
		return
	}
	file := shellvars.Parse(data)
	for _, v := range file.Vars() {
		if v.Name == "ZPOOL_IMPORT_PATH" && v.Value != "" && !slices.Contains(strings.Split(v.Value, ":"), "/dev") {
			v.Value += ":/dev"
		}
	}
	p.write(name, data, file.Bytes())
}
