package blockdev

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
)

// startVolumes activates the volume groups on what was found and adds their
// volumes. A group that does not start is a warning: the root may lie elsewhere.
func (d *Devices) startVolumes(ctx context.Context) error {
	members := d.members("LVM2_member")
	if len(members) == 0 {
		return nil
	}
	for _, name := range []string{"dm_mod", "lvm"} {
		if err := d.need(name); err != nil {
			return fmt.Errorf("activate logical volumes: %w", err)
		}
	}
	d.groups = true
	if _, err := d.lvm(ctx, members, "vgchange", "--activate", "y"); err != nil {
		d.warn("activate logical volumes: %v", err)
	}
	const sep = "|"
	out, err := d.lvm(ctx, members, "lvs", "--noheadings", "--separator", sep, "--options", "vg_name,lv_name,lv_active,lv_dm_path,segtype,origin")
	if err != nil {
		return fmt.Errorf("list logical volumes: %w", err)
	}
	for line := range strings.Lines(out) {
		f := strings.Split(strings.TrimSpace(line), sep)
		if len(f) != 6 {
			continue
		}
		vg, lv, active, node, kind, origin := f[0], f[1], f[2], f[3], f[4], f[5]
		switch {
		case strings.HasSuffix(kind, "-pool"):
			continue // holds others' blocks, no content of its own
		case active != "active":
			d.warn("logical volume %s/%s (%s) was not activated", vg, lv, kind)
			continue
		}
		before := len(d.Filesystems)
		if err := d.addNode(node, vg+"/"+lv); err != nil {
			return err
		}
		if origin != "" && len(d.Filesystems) > before {
			// It shows what its origin held once, under the same UUID.
			d.Filesystems[before].Note = "snapshot of " + vg + "/" + origin
		}
	}
	return nil
}

func (d *Devices) stopVolumes(ctx context.Context) error {
	if !d.groups {
		return nil
	}
	d.groups = false
	_, err := d.lvm(ctx, d.members("LVM2_member"), "vgchange", "--activate", "n")
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
