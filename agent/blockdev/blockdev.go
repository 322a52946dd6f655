// Package blockdev finds what is on a guest's disks: partitions, file systems,
// logical volumes, arrays. It works on block devices beside the bytes, in the
// helper VM or the rescue image, and writes nothing.
//
// Partition tables and contents are read by this project's own parsers; only
// putting volumes together takes programs (lvm, mdadm) and the kernel.
package blockdev

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"hyper2kvm/agent/blockdev/probe"
	"hyper2kvm/agent/blockdev/table"
	"hyper2kvm/agent/secret"
	"hyper2kvm/fixes/guest"
)

// Config says where the helpers come from.
type Config struct {
	// Need makes a program ("lvm") or kernel module ("dm_mod") available that
	// the running image may not hold; nil takes what is there.
	Need func(name string) error
	// Keys open encrypted volumes.
	Keys []secret.Key
	Log  *slog.Logger // nil is silent
}

// Devices is what was found, and what is to be taken down again.
type Devices struct {
	Disks       []guest.Disk
	Filesystems []guest.Filesystem
	// Warnings are for the report: damaged tables, groups that did not start.
	Warnings []string
	// Unlocked says which encrypted volumes were opened, in words.
	Unlocked []string

	cfg        Config
	down       []func(context.Context) error // what takes down what was put up, in the order of putting up
	tried      map[string]bool               // members that an array or a key was tried for
	groups     []string                      // members that LVM has last seen
	incomplete []string                      // what LVM last said of groups that did not start
	partitions []added
}

// Scan reads the disks whose device nodes are given, in the order in which the
// source machine had them, opens encrypted volumes that there is a key for, and
// starts arrays and volume groups. The caller closes the result even if Scan gives an error beside it.
func Scan(ctx context.Context, nodes []string, cfg Config) (*Devices, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	d := &Devices{cfg: cfg, tried: map[string]bool{}}
	for i, node := range nodes {
		if err := d.scanDisk(i, node); err != nil {
			return d, err
		}
	}
	err := d.assemble(ctx)
	d.warnUnused()
	return d, err
}

// maxLayers bounds how often what was put together is looked into: LVM on LUKS
// on an array is three.
const maxLayers = 8

// assemble puts together what lies on what was found, until nothing new comes
// to light.
func (d *Devices) assemble(ctx context.Context) error {
	for range maxLayers {
		before := len(d.Filesystems)
		for _, layer := range []func(context.Context) error{d.startArrays, d.unlockGiven, d.startVolumes} {
			if err := layer(ctx); err != nil {
				return err
			}
		}
		if len(d.Filesystems) == before {
			break
		}
	}
	for _, w := range d.incomplete {
		if !slices.Contains(d.Warnings, w) {
			d.Warnings = append(d.Warnings, w)
		}
	}
	return nil
}

// Close takes down volumes, arrays and opened volumes, the last first, and drops
// partitions that the kernel was told of. None may be in use any more.
func (d *Devices) Close(ctx context.Context) error {
	var errs []error
	for _, down := range slices.Backward(d.down) {
		errs = append(errs, down(ctx))
	}
	d.down = nil
	return errors.Join(append(errs, d.dropPartitions())...)
}

func (d *Devices) warn(format string, args ...any) {
	d.Warnings = append(d.Warnings, fmt.Sprintf(format, args...))
}

func (d *Devices) need(name string) error {
	if d.cfg.Need == nil {
		return nil
	}
	return d.cfg.Need(name)
}

// geometry is the size of an opened device and of its sectors, in bytes. A plain
// file counts as a disk with sectors of 512.
func geometry(f *os.File) (size, sector int64, err error) {
	info, err := f.Stat()
	if err != nil {
		return 0, 0, fmt.Errorf("ask for size of %s: %w", f.Name(), err)
	}
	if info.Mode().IsRegular() {
		return info.Size(), 512, nil
	}
	size, err = f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, 0, fmt.Errorf("ask for size of %s: %w", f.Name(), err)
	}
	n, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET)
	if err != nil {
		return 0, 0, fmt.Errorf("ask for sector size of %s: %w", f.Name(), err)
	}
	return size, int64(n), nil
}

func (d *Devices) scanDisk(index int, node string) error {
	f, err := os.Open(node)
	if err != nil {
		return fmt.Errorf("scan disk: %w", err)
	}
	defer f.Close()
	size, sector, err := geometry(f)
	if err != nil {
		return err
	}
	t, err := table.Read(f, size, sector)
	if err != nil {
		return fmt.Errorf("scan disk %s: %w", node, err)
	}
	for _, w := range t.Warnings {
		d.warn("disk %d: %s", index, w)
	}
	d.Disks = append(d.Disks, guest.Disk{
		Index: index, Device: node, Size: size, SectorSize: sector,
		Table: t.Kind, TableID: t.ID, Partitions: t.Partitions, BootCode: t.BootCode,
	})
	if t.Kind == "none" {
		return d.addContent(f, guest.Filesystem{Device: node, Disk: index, Size: size})
	}
	for _, p := range t.Partitions {
		if err := d.ensurePartition(f, p); err != nil {
			d.warn("disk %d: %v", index, err)
			continue
		}
		part := io.NewSectionReader(f, p.Start, p.Size)
		err := d.addContent(part, guest.Filesystem{
			Device: PartitionNode(node, p.Number), Disk: index, Partition: p.Number, PartUUID: p.UUID, Size: p.Size,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// addContent probes r and notes what it holds, if anything.
func (d *Devices) addContent(r io.ReaderAt, fs guest.Filesystem) error {
	c, err := probe.Probe(r, fs.Size)
	if err != nil {
		return fmt.Errorf("scan %s: %w", fs.Device, err)
	}
	if c.Type == "" {
		return nil
	}
	fs.Type, fs.UUID, fs.Label, fs.Note, fs.LUKS = c.Type, c.UUID, c.Label, c.Note, c.LUKS
	if fs.Type == "swsuspend" {
		fs.Type = "swap" // what it is for the guest; the note tells the rest
	}
	d.Filesystems = append(d.Filesystems, fs)
	return nil
}

// addNode probes a device node of its own: a volume or an array.
func (d *Devices) addNode(node, volume string) error {
	f, err := os.Open(node)
	if err != nil {
		return fmt.Errorf("scan volume %s: %w", volume, err)
	}
	defer f.Close()
	size, _, err := geometry(f)
	if err != nil {
		return err
	}
	return d.addContent(f, guest.Filesystem{Device: node, Disk: -1, Volume: volume, Size: size, Within: d.within(node)})
}

// PartitionNode is the kernel's node for a partition: a p goes between a disk's
// name that ends in a digit and the number (Linux block/genhd.c, disk_name).
func PartitionNode(disk string, number int) string {
	if last := disk[len(disk)-1]; last >= '0' && last <= '9' {
		return fmt.Sprintf("%sp%d", disk, number)
	}
	return fmt.Sprintf("%s%d", disk, number)
}

// fresh are those members of a kind that were not tried yet; they count as tried
// from now on.
func (d *Devices) fresh(kind string) []string {
	var out []string
	for _, m := range d.members(kind) {
		if !d.tried[m] {
			d.tried[m] = true
			out = append(out, m)
		}
	}
	return out
}

// members are the device nodes whose content is of a type.
func (d *Devices) members(kind string) []string {
	var out []string
	for _, fs := range d.Filesystems {
		if fs.Type == kind {
			out = append(out, fs.Device)
		}
	}
	slices.Sort(out)
	return out
}

// run runs a helper program and returns what it printed on standard output.
func (d *Devices) run(ctx context.Context, args ...string) (string, error) {
	return d.runWith(ctx, nil, args...)
}

// runWith is run with something to read, which is never logged.
func (d *Devices) runWith(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdin = stdin
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	cmd.Env = append(os.Environ(), "LC_ALL=C", "LVM_SUPPRESS_FD_WARNINGS=1", "DM_DISABLE_UDEV=1")
	out, err := cmd.Output()
	d.cfg.Log.Debug("ran", "args", args, "stdout", string(out), "stderr", stderr.String(), "err", err)
	if err != nil {
		return string(out), fmt.Errorf("run %s: %w: %s", filepath.Base(args[0]), err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
}
