package blockdev

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"hyper2kvm/fixes/guest"
)

// startVolumes activates the volume groups on what was found and adds their
// volumes. A group that does not start is a warning: the root may lie elsewhere,
// or another part of the group in what is not opened yet.
func (d *Devices) startVolumes(ctx context.Context) error {
	members := d.members("LVM2_member")
	if len(members) == 0 || slices.Equal(members, d.groups) {
		return nil
	}
	d.groups, d.incomplete = members, nil
	for _, name := range []string{"dm_mod", "lvm"} {
		if err := d.need(name); err != nil {
			return fmt.Errorf("activate logical volumes: %w", err)
		}
	}
	if _, err := d.lvm(ctx, members, "vgchange", "--activate", "y"); err != nil {
		d.incomplete = append(d.incomplete, fmt.Sprintf("activate logical volumes: %v", err))
	}
	volumes, err := d.listVolumes(ctx, members)
	if err != nil {
		return err
	}
	var groups []string
	for _, v := range volumes {
		if !slices.Contains(groups, v.group) && !d.hasGroup(v.group) {
			groups = append(groups, v.group)
		}
	}
	if len(groups) > 0 {
		d.down = append(d.down, func(ctx context.Context) error { return d.stopGroups(ctx, groups) })
	}
	for _, v := range volumes {
		if err := d.addVolume(v); err != nil {
			return err
		}
	}
	return nil
}

// volume is a logical volume as lvs(8) lists it.
type volume struct{ group, name, state, node, kind, origin string }

func (v volume) String() string { return v.group + "/" + v.name }

func (d *Devices) listVolumes(ctx context.Context, members []string) ([]volume, error) {
	const sep = "|"
	out, err := d.lvm(ctx, members, "lvs", "--noheadings", "--separator", sep, "--options", "vg_name,lv_name,lv_active,lv_dm_path,segtype,origin")
	if err != nil {
		return nil, fmt.Errorf("list logical volumes: %w", err)
	}
	var list []volume
	for line := range strings.Lines(out) {
		if f := strings.Split(strings.TrimSpace(line), sep); len(f) == 6 {
			list = append(list, volume{f[0], f[1], f[2], f[3], f[4], f[5]})
		}
	}
	return list, nil
}

// addVolume notes what a logical volume holds, once.
func (d *Devices) addVolume(v volume) error {
	switch {
	case strings.HasSuffix(v.kind, "-pool"):
		return nil // holds others' blocks, no content of its own
	case slices.ContainsFunc(d.Filesystems, func(f guest.Filesystem) bool { return f.Volume == v.String() }):
		return nil
	case v.state != "active":
		d.incomplete = append(d.incomplete, fmt.Sprintf("logical volume %s (%s) was not activated", v, v.kind))
		return nil
	}
	before := len(d.Filesystems)
	if err := d.addNode(v.node, v.String()); err != nil {
		return err
	}
	if v.origin != "" && len(d.Filesystems) > before {
		// It shows what its origin held once, under the same UUID.
		d.Filesystems[before].Note = "snapshot of " + v.group + "/" + v.origin
	}
	return nil
}

// hasGroup reports whether volumes of the group were found in an earlier pass,
// which then takes it down.
func (d *Devices) hasGroup(name string) bool {
	return slices.ContainsFunc(d.Filesystems, func(f guest.Filesystem) bool { return strings.HasPrefix(f.Volume, name+"/") })
}

func (d *Devices) stopGroups(ctx context.Context, groups []string) error {
	_, err := d.lvm(ctx, d.groups, "vgchange", append([]string{"--activate", "n"}, groups...)...)
	if err != nil {
		return fmt.Errorf("deactivate logical volumes: %w", err)
	}
	return nil
}

// lvm runs one command of the lvm program on the given devices alone, with
// nothing taken from configuration: no devices file, no udev, no hints, no
// backups of metadata, no thin_check or cache_check, which are not here.
func (d *Devices) lvm(ctx context.Context, devices []string, command string, args ...string) (string, error) {
	if err := os.MkdirAll("/run/lvm", 0o700); err != nil {
		return "", fmt.Errorf("make folder for locks: %w", err)
	}
	return d.run(ctx, append([]string{"lvm", command, "--config", lvmConfig(devices)}, args...)...)
}

func lvmConfig(devices []string) string {
	var filter strings.Builder
	for _, dev := range devices {
		fmt.Fprintf(&filter, "%q,", "a|^"+regexp.QuoteMeta(dev)+"$|")
	}
	return `devices{use_devicesfile=0 hints="none" obtain_device_list_from_udev=0 external_device_info_source="none"` +
		` multipath_component_detection=0 md_component_detection=0 write_cache_state=0 filter=[` + filter.String() + `"r|.*|"]}` +
		` activation{udev_sync=0 udev_rules=0 verify_udev_operations=0 monitoring=0}` +
		` global{locking_dir="/run/lvm" use_lvmlockd=0 use_lvmpolld=0 notify_dbus=0 event_activation=0` +
		` thin_check_executable="" cache_check_executable=""}` +
		` backup{backup=0 archive=0} log{silent=0}`
}
