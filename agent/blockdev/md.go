package blockdev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// startArrays assembles Linux MD arrays of what was found and adds them. An
// array that does not start is a warning.
func (d *Devices) startArrays(ctx context.Context) error {
	members := d.fresh("linux_raid_member")
	if len(members) == 0 {
		return nil
	}
	// The kernel itself asks for the module of an array's level.
	for _, name := range []string{"md_mod", "mdadm"} {
		if err := d.need(name); err != nil {
			d.warn("RAID members %s were found but not put together: %v", strings.Join(members, " "), err)
			return nil
		}
	}
	before := arrayNodes()
	conf, err := mdConfig(members)
	if err != nil {
		return fmt.Errorf("assemble arrays: %w", err)
	}
	defer os.Remove(conf)
	// --run starts a mirror whose other half was not brought along.
	if _, err := d.run(ctx, "mdadm", "--assemble", "--scan", "--run", "--config", conf); err != nil {
		d.warn("assemble arrays: %v", err)
	}
	for _, node := range arrayNodes() {
		if slices.Contains(before, node) {
			continue
		}
		d.down = append(d.down, func(ctx context.Context) error { return d.stopArray(ctx, node) })
		if err := d.addNode(node, "md/"+d.arrayName(ctx, node)); err != nil {
			return err
		}
	}
	return nil
}

// arrayName is what the guest calls an array below /dev/md: the name on its
// members without their home, which is the number of /dev/md0, too; else the number
// that the kernel gave it here.
func (d *Devices) arrayName(ctx context.Context, node string) string {
	number := strings.TrimPrefix(filepath.Base(node), "md")
	out, err := d.run(ctx, "mdadm", "--detail", "--export", node)
	if err != nil {
		return number
	}
	for line := range strings.Lines(out) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "MD_NAME="); ok {
			name = name[strings.LastIndexByte(name, ':')+1:]
			if name != "" && !strings.ContainsAny(name, "/ \t") {
				return name
			}
		}
	}
	return number
}

// mdConfig writes a configuration that names the guest's devices alone and
// gives every array the name it has at home (mdadm.conf(5)).
func mdConfig(members []string) (string, error) {
	f, err := os.CreateTemp("", "mdadm-*.conf")
	if err != nil {
		return "", err
	}
	_, err = fmt.Fprintf(f, "DEVICE %s\nHOMEHOST <ignore>\nAUTO +all\n", strings.Join(members, " "))
	return f.Name(), errors.Join(err, f.Close())
}

func arrayNodes() []string {
	names, err := filepath.Glob("/sys/block/md*")
	if err != nil {
		return nil
	}
	for i, n := range names {
		names[i] = "/dev/" + filepath.Base(n)
	}
	return names
}

func (d *Devices) stopArray(ctx context.Context, node string) error {
	if _, err := d.run(ctx, "mdadm", "--stop", node); err != nil {
		return fmt.Errorf("stop array: %w", err)
	}
	return nil
}
