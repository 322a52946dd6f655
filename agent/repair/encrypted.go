package repair

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/mounted"
	"hyper2kvm/agent/secret"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/inspect"
)

// cryptEntry is a line of crypttab(5).
type cryptEntry struct {
	name, spec, key string
	options         []string
}

func (e cryptEntry) option(name string) (string, bool) {
	return guest.FstabEntry{Options: e.options}.Option(name)
}

// crypttab reads the guest's list of encrypted volumes.
func (r *run) crypttab() []cryptEntry {
	data, err := inspect.ReadFile(r.session.root, "etc/crypttab")
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			r.warn("read crypttab: %v", err)
		}
		return nil
	}
	var out []cryptEntry
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) < 2 || strings.HasPrefix(f[0], "#") {
			continue
		}
		e := cryptEntry{name: f[0], spec: f[1]}
		if len(f) > 2 {
			e.key = f[2]
		}
		if len(f) > 3 {
			e.options = strings.Split(f[3], ",")
		}
		out = append(out, e)
	}
	return out
}

// namesOfVolumes gives opened volumes the names that the guest has for them: its
// fstab uses them, and a generator of initramfs looks for them. The root may be
// in one; then it is mounted anew.
func (r *run) namesOfVolumes(ctx context.Context, given *guest.Facts, root *mount) (*mount, error) {
	for _, e := range r.crypttab() {
		f, ok := given.Resolve(e.spec)
		if !ok || f.LUKS == nil || !f.LUKS.Opened || strings.ContainsAny(e.name, "/\x00") || e.name == "." || e.name == ".." {
			continue
		}
		old := "luks-" + f.UUID
		if old == e.name {
			continue
		}
		if root.fs.Volume != "luks/"+old {
			r.rename(ctx, given, old, e.name)
			continue
		}
		at := slices.IndexFunc(given.Filesystems, func(f guest.Filesystem) bool { return f.Device == root.fs.Device })
		if err := r.leave(root); err != nil {
			return nil, err
		}
		r.rename(ctx, given, old, e.name)
		root.fs = &given.Filesystems[at] // nothing is added by a new name
		again, err := r.enter(root)
		if err != nil {
			return nil, err
		}
		root = again
	}
	return root, nil
}

func (r *run) rename(ctx context.Context, given *guest.Facts, from, to string) {
	if err := r.session.devices.Rename(ctx, from, to); err != nil {
		r.warn("%v", err)
	}
	r.refresh(given)
}

// leave unmounts the root.
func (r *run) leave(root *mount) error {
	err := errors.Join(r.session.root.Close(), r.session.unmount(root))
	r.session.root = nil
	if err != nil {
		return api.NewError(api.CodeInternal, "unmount guest", root.at, err)
	}
	return nil
}

// enter mounts a root again that was left.
func (r *run) enter(root *mount) (*mount, error) {
	var extra []string
	if root.facts.Opts != "" {
		extra = strings.Split(root.facts.Opts, ",")
	}
	again, err := r.session.mountNew(root.fs, extra...)
	if err != nil {
		return nil, api.NewError(api.CodeInternal, "mount guest", sourceName(root.fs), err)
	}
	again.facts.Point = root.facts.Point
	if r.session.root, err = mounted.Open(again.at); err != nil {
		return nil, api.NewError(api.CodeInternal, "open guest", again.at, err)
	}
	return again, nil
}

// refresh takes over what was found since the facts were made. What is mounted
// stays what it was, at its new place in them.
func (r *run) refresh(given *guest.Facts) {
	given.Filesystems = slices.Clone(r.session.devices.Filesystems)
	for _, m := range r.session.mounts {
		i := slices.IndexFunc(given.Filesystems, func(f guest.Filesystem) bool { return f.Device == m.fs.Device })
		if i >= 0 {
			m.fs = &given.Filesystems[i]
		}
	}
}

// unlockMore opens the volumes that crypttab has a key file for, in the guest
// itself: such volumes open without anybody's doing when the guest boots.
func (r *run) unlockMore(ctx context.Context, given *guest.Facts) {
	for _, e := range r.crypttab() {
		f, ok := given.Resolve(e.spec)
		if !ok || f.LUKS == nil || f.LUKS.Opened {
			continue
		}
		before := len(r.session.devices.Warnings)
		value, err := r.keyInGuest(e)
		if err == nil && value != nil {
			err = r.session.devices.Unlock(ctx, f.Device, e.name, value)
		}
		if err != nil {
			r.warn("encrypted volume %s (%s) was not opened with the key that crypttab names, %s: %v", e.name, sourceName(f), e.key, err)
		}
		r.refresh(given)
		for _, w := range r.session.devices.Warnings[before:] {
			given.Warnings = append(given.Warnings, w)
			r.warn("%s", w)
		}
	}
	for i := range given.Filesystems {
		if f := &given.Filesystems[i]; f.LUKS != nil && !f.LUKS.Opened {
			r.warn("encrypted volume %s: no key was given, so nothing in it was looked at or repaired; --key %s:file:PATH gives one", volumeName(f), f.UUID)
		}
	}
}

// maxKeyFile bounds a key file of the guest, in bytes, as cryptsetup does.
const maxKeyFile = 8 << 20

// keyInGuest reads the key file that crypttab names, nil where it names none
// that can be read here: a passphrase, a device, a script, a random key.
func (r *run) keyInGuest(e cryptEntry) (secret.Value, error) {
	name := strings.TrimPrefix(path.Clean("/"+e.key), "/")
	_, script := e.option("keyscript")
	_, header := e.option("header")
	if !strings.HasPrefix(e.key, "/") || strings.HasPrefix(e.key, "/dev/") || strings.Contains(e.key, ":") || script || header {
		return nil, nil
	}
	f, err := r.session.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	data, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	switch {
	case err != nil:
		return nil, err
	case len(data) == 0 || len(data) > maxKeyFile:
		return nil, fmt.Errorf("a key has 1 to %d bytes", maxKeyFile)
	}
	return part(data, e)
}

// part cuts out of a key file what crypttab's options say, in bytes.
func part(data []byte, e cryptEntry) (secret.Value, error) {
	for _, o := range []string{"keyfile-offset", "keyfile-size"} {
		text, ok := e.option(o)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(text, 10, 31)
		if err != nil || int(n) > len(data) {
			return nil, fmt.Errorf("option %s=%s does not fit a key file of %d bytes", o, text, len(data))
		}
		if o == "keyfile-offset" {
			data = data[n:]
		} else {
			data = data[:n]
		}
	}
	return data, nil
}

// volumeName is an encrypted volume as a user finds it again.
func volumeName(f *guest.Filesystem) string {
	name := sourceName(f) + " (" + f.Type
	if f.UUID != "" {
		name += ", UUID " + f.UUID
	}
	name += ")"
	if f.LUKS == nil {
		return name
	}
	for _, t := range f.LUKS.Tokens {
		name += ", bound to " + tokenName(t)
	}
	return name
}

func tokenName(t guest.LUKSToken) string {
	switch {
	case t.Pin == "tang":
		return "the Tang server " + t.Server
	case t.Pin != "":
		return t.Type + " " + t.Pin
	}
	return t.Type
}
