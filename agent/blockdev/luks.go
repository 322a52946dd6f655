package blockdev

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/secret"
	"hyper2kvm/fixes/guest"
)

// ErrWrongKey says that a key does not open a volume.
var ErrWrongKey = errors.New("the key does not open it")

// unlockGiven opens the encrypted volumes that a key was given for. One that is
// not opened is a warning: it may not be needed.
func (d *Devices) unlockGiven(ctx context.Context) error {
	for _, node := range d.fresh("crypto_LUKS") {
		i := slices.IndexFunc(d.Filesystems, func(f guest.Filesystem) bool { return f.Device == node })
		f := d.Filesystems[i]
		var keys []secret.Value
		for _, k := range slices.Concat(d.keysFor(f, false), d.keysFor(f, true)) {
			keys = append(keys, k.Value)
		}
		if len(keys) == 0 {
			continue
		}
		// The name that systemd and dracut give a volume that crypttab does not name.
		if err := d.unlock(ctx, i, "luks-"+f.UUID, keys); err != nil {
			d.warn("open encrypted volume %s: %v", f.UUID, err)
		}
	}
	return ctx.Err()
}

// keysFor are the keys given for a volume itself or, with all, for every one.
func (d *Devices) keysFor(f guest.Filesystem, all bool) []secret.Key {
	var out []secret.Key
	for _, k := range d.cfg.Keys {
		if (k.Volume == api.AllVolumes) == all && (all || d.means(k.Volume, f)) {
			out = append(out, k)
		}
	}
	return out
}

// means reports whether a key's volume is f: by UUID, with dashes or without, or
// by what the source calls the device.
func (d *Devices) means(volume string, f guest.Filesystem) bool {
	bare := func(s string) string { return strings.ToLower(strings.ReplaceAll(s, "-", "")) }
	if f.UUID != "" && bare(strings.TrimPrefix(volume, "UUID=")) == bare(f.UUID) {
		return true
	}
	facts := guest.Facts{Disks: d.Disks, Filesystems: d.Filesystems}
	for _, spec := range []string{volume, "/dev/" + volume} {
		if found, ok := facts.Resolve(spec); ok {
			return found.Device == f.Device
		}
	}
	return false
}

// warnUnused tells of keys whose volume is not there: most likely it is misspelt.
func (d *Devices) warnUnused() {
	for _, k := range d.cfg.Keys {
		if k.Volume == api.AllVolumes || slices.ContainsFunc(d.Filesystems, func(f guest.Filesystem) bool {
			return f.Type == "crypto_LUKS" && d.means(k.Volume, f)
		}) {
			continue
		}
		d.warn("a key was given for %s, and no encrypted volume is called that", k.Volume)
	}
}

// Unlock opens an encrypted volume that was found, under a name, with one of
// several keys, and finds what is in it.
func (d *Devices) Unlock(ctx context.Context, device, name string, keys ...secret.Value) error {
	i := slices.IndexFunc(d.Filesystems, func(f guest.Filesystem) bool { return f.Device == device && f.Type == "crypto_LUKS" })
	if i < 0 {
		return fmt.Errorf("open encrypted volume %s: no such volume", name)
	}
	if err := d.unlock(ctx, i, name, keys); err != nil {
		return fmt.Errorf("open encrypted volume %s: %w", name, err)
	}
	return d.assemble(ctx)
}

func (d *Devices) unlock(ctx context.Context, i int, name string, keys []secret.Value) error {
	for _, need := range []string{"dm_mod", "dm_crypt", "cryptsetup"} {
		if err := d.need(need); err != nil {
			return err
		}
	}
	device := d.Filesystems[i].Device
	if err := d.tryKeys(ctx, device, name, keys); err != nil {
		return err
	}
	d.Filesystems[i].LUKS.Opened = true
	node := mapperNode(name)
	d.down = append(d.down, func(ctx context.Context) error { return d.lock(ctx, device) })
	d.Unlocked = append(d.Unlocked, d.Filesystems[i].UUID)
	return d.addNode(node, "luks/"+name)
}

func mapperNode(name string) string { return "/dev/mapper/" + name }

// tryKeys tries each key as it is and then, because an editor ends a line where
// the passphrase has none, without the end of the line.
func (d *Devices) tryKeys(ctx context.Context, device, name string, keys []secret.Value) error {
	var tries []secret.Value
	for _, k := range keys {
		tries = append(tries, k)
		if bare := bytes.TrimRight(k, "\r\n"); len(bare) > 0 && len(bare) < len(k) {
			tries = append(tries, bare)
		}
	}
	err := ErrWrongKey
	for _, key := range tries {
		// From standard input, as a key file: all bytes count, none shows in argv.
		_, err = d.runWith(ctx, bytes.NewReader(key), "cryptsetup", "open", "--type", "luks", "--batch-mode", "--key-file", "-", device, name)
		if err == nil {
			return nil
		}
		const noPermission = 2 // cryptsetup(8), RETURN CODES: bad passphrase
		if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == noPermission {
			err = ErrWrongKey
			continue
		}
		return err
	}
	return err
}

// lock closes the volume on device, whatever name it has by now.
func (d *Devices) lock(ctx context.Context, device string) error {
	for _, name := range d.mapped(device) {
		if _, err := d.run(ctx, "cryptsetup", "close", name); err != nil {
			return fmt.Errorf("close encrypted volume: %w", err)
		}
	}
	return nil
}

// mapped are the names of the mappings that stand on a device.
func (d *Devices) mapped(device string) []string {
	dir, err := sysDir(device)
	if err != nil {
		return nil
	}
	found, err := filepath.Glob(dir + "/holders/*/dm/name")
	if err != nil {
		return nil
	}
	var names []string
	for _, f := range found {
		if name, err := os.ReadFile(f); err == nil {
			names = append(names, strings.TrimSpace(string(name)))
		}
	}
	return names
}

// Rename gives an opened volume the name that the guest has for it, which its
// own programs look for. It must not be mounted.
func (d *Devices) Rename(ctx context.Context, from, to string) error {
	if from == to {
		return nil
	}
	if err := d.need("dmsetup"); err != nil {
		return fmt.Errorf("rename encrypted volume: %w", err)
	}
	if _, err := d.run(ctx, "dmsetup", "rename", from, to); err != nil {
		return fmt.Errorf("rename encrypted volume: %w", err)
	}
	for i := range d.Filesystems {
		if f := &d.Filesystems[i]; f.Device == mapperNode(from) {
			f.Device, f.Volume = mapperNode(to), "luks/"+to
		}
	}
	for i, m := range d.groups {
		if m == mapperNode(from) {
			d.groups[i] = mapperNode(to)
		}
	}
	return nil
}

// sysDir is a block device's folder in sysfs.
func sysDir(device string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(device, &st); err != nil {
		return "", &os.PathError{Op: "stat", Path: device, Err: err}
	}
	return fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)), nil
}

// within gives the UUIDs of the encrypted volumes below a device, the nearest
// first. The kernel knows an opened one by CRYPT-LUKS2-UUID-NAME, the UUID
// without dashes (cryptsetup, lib/libdevmapper.c: dm_prepare_uuid).
func (d *Devices) within(node string) []string {
	dir, err := sysDir(node)
	if err != nil {
		return nil
	}
	var out []string
	for level := []string{dir}; len(level) > 0; {
		var below []string
		for _, dir := range level {
			if id, err := os.ReadFile(dir + "/dm/uuid"); err == nil {
				out = append(out, d.cryptUUID(string(id))...)
			}
			slaves, err := filepath.Glob(dir + "/slaves/*")
			if err == nil {
				below = append(below, slaves...)
			}
		}
		level = below
	}
	return slices.Compact(out)
}

func (d *Devices) cryptUUID(id string) []string {
	parts := strings.SplitN(id, "-", 4)
	if len(parts) < 3 || parts[0] != "CRYPT" || !strings.HasPrefix(parts[1], "LUKS") {
		return nil
	}
	for _, f := range d.Filesystems {
		if f.Type == "crypto_LUKS" && strings.ReplaceAll(f.UUID, "-", "") == parts[2] {
			return []string{f.UUID}
		}
	}
	return nil
}
