// Package convert writes the content of a Disk to a new image file: on all
// cores, in bounded memory, without reading or writing what is empty, and with
// the same bytes in the file however many workers there were.
package convert

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"hyper2kvm/formats"
	"hyper2kvm/image/publish"
)

// Sentinels to branch on.
var (
	// ErrNoSpace says that the output does not fit on its file system.
	ErrNoSpace = errors.New("no space for the output")
	// ErrVerify says that the output reads differently from the source.
	ErrVerify = errors.New("output differs from the source")
	// ErrOptions says that the options make no sense together.
	ErrOptions = errors.New("impossible conversion options")
)

// Options choose what is written, and how.
type Options struct {
	Format      string   // "qcow2" ("" is that), "raw", "vmdk", "vhd", "vhdx", "vdi"
	Variant     string   // vmdk: "monolithicSparse" ("" is that), "streamOptimized"; vhd, vhdx, vdi: "dynamic" ("" is that), "fixed"
	Compress    string   // qcow2: "none" ("" is that), "zlib", "zstd"
	ClusterSize int64    // allocation unit in bytes; 0 is the format's usual one
	Sector      int64    // logical sector size, for a format that records it (vhdx); 0 is 512
	Force       bool     // replace an output that exists
	Sources     []string // files that the output must not be
	Verify      bool     // read the output back and compare it with the source
	Digest      bool     // fill Result.Digest; reads every byte the guest sees
	Workers     int      // 0 is one for each core, up to 32
	Bandwidth   int64    // bytes of the source to read a second, at most; 0 is no limit

	// Checkpoint names a file that keeps how far Run got. When it is there from
	// a run that was killed or cancelled, of the same Identity and options, Run
	// goes on where that one was; with another one it starts clean. The file is
	// removed at the end.
	Checkpoint      string
	CheckpointEvery time.Duration // 0 is two seconds
	Identity        string        // of the source's content, as far as the caller knows it

	// Progress is told how many of the bytes that hold data are done, from one
	// goroutine at a time; nil is silent.
	Progress func(done, total int64)

	name    string // what a descriptor calls the output
	offload *bool  // tests: have the kernel copy, or not, whatever the file system
}

// Result says what a conversion did.
type Result struct {
	Size      int64  // virtual size of the output, in bytes
	Written   int64  // bytes of guest data that went into the output
	Resumed   int64  // bytes of the guest that an earlier run had made safe
	Allocated int64  // bytes that the output takes on its file system
	Digest    string // sha256 of what the guest sees, in hexadecimal; "" unless asked for
}

// maxWorkers and maxWindows, in bytes, bound the memory of a conversion: 32
// workers that compress take 140 MB in all, and feed any disk.
const (
	maxWorkers = 32
	maxWindows = maxWorkers * windowBytes
)

// Run writes disk to the file out. Nothing is seen under that name before the
// output is complete and synced (and verified, if asked). When Run gives an
// error nothing is left, unless Options.Checkpoint was named and something is
// safe to go on from. disk must not have Absent extents.
//
// A block device has no name that could appear: it is written in place, and
// what is on it after an error is worth nothing.
func Run(ctx context.Context, disk formats.Disk, out string, opt Options) (Result, error) {
	if opt.Workers <= 0 {
		opt.Workers = min(runtime.GOMAXPROCS(0), maxWorkers)
	}
	if opt.CheckpointEvery <= 0 {
		opt.CheckpointEvery = checkpointEvery
	}
	if err := opt.check(); err != nil {
		return Result{}, err
	}
	opt.name = filepath.Base(out)
	from := opt.lastCheckpoint(disk.Size(), out)
	res, err := run(ctx, disk, out, opt, from)
	if errors.Is(err, errStale) {
		from.marked = 0
		res, err = run(ctx, disk, out, opt, from)
	}
	return res, noSpace(err)
}

func run(ctx context.Context, disk formats.Disk, out string, opt Options, from checkpoint) (Result, error) {
	create := publish.Create
	if from.marked > 0 {
		create = publish.TakeUp
	}
	o, err := create(out, opt.Force, opt.Sources...)
	if err != nil {
		return Result{}, err
	}
	c := &copier{disk: disk, out: o.File(), progress: opt.Progress, wait: pace(opt.Bandwidth), ended: make(map[int64]int64)}
	res, err := c.write(ctx, o, opt, from)
	switch {
	case err == nil:
		if err := o.Commit(); err != nil {
			c.log.remove()
			return Result{}, err
		}
		c.log.remove()
		return res, nil
	case c.log != nil && !lasting(err):
		// Where this fails, the mark before is still good.
		_ = c.mark()
		if c.log.upTo > 0 {
			c.log.close()
			return Result{}, errors.Join(err, o.Keep())
		}
	}
	c.log.remove()
	if c.keepsOld {
		err = errors.Join(err, c.abandonDevice())
	}
	return Result{}, errors.Join(err, o.Abort())
}

// noSpace marks the errors of a full file system with the sentinel.
func noSpace(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}

// write fills the output and proves it.
func (c *copier) write(ctx context.Context, o *publish.Output, opt Options, from checkpoint) (Result, error) {
	offload := opt.offload == nil && sharesBlocks(c.out) || opt.offload != nil && *opt.offload
	c.noOffload.Store(!offload)
	c.devices = make(map[*os.File]*os.File)
	defer c.closeDirect()
	s, err := c.survey(ctx, from.marked)
	if err != nil {
		return Result{}, fmt.Errorf("survey of the source: %w", err)
	}
	if o.Device() {
		if err := c.checkDevice(opt); err != nil {
			return Result{}, err
		}
	}
	if err := c.begin(o, opt, from); err != nil {
		return Result{}, err
	}
	c.total, c.done = s.data, s.before
	if !offload {
		s.shared = 0
	}
	if o.Device() {
		err = c.beginDevice(ctx)
	} else {
		err = checkSpace(c.out, s.data-s.before-s.shared, opt)
	}
	if err != nil {
		return Result{}, err
	}
	if err := c.run(ctx, opt); err != nil {
		return Result{}, err
	}
	if err := c.complete(o.Device()); err != nil {
		return Result{}, err
	}
	res := Result{Size: c.size, Written: c.written, Resumed: c.from}
	if err := prove(ctx, c.disk, c.out, opt, &res); err != nil {
		return Result{}, err
	}
	res.Allocated, err = allocated(c.out)
	return res, err
}

// complete ends the layout. A run that takes long is not to be redone because
// of what comes after the copy.
func (c *copier) complete(device bool) error {
	size, err := c.target.Finish()
	switch {
	case err != nil:
		return err
	case device:
		err = c.completeDevice()
	default:
		err = c.out.Truncate(size)
	}
	if err != nil {
		return fmt.Errorf("complete output: %w", err)
	}
	c.safe = c.size
	if c.log != nil && c.log.upTo > 0 {
		return c.mark()
	}
	return nil
}

// allocated is the space that a file takes, in bytes.
func allocated(f *os.File) (int64, error) {
	// Delayed allocation settles the number of blocks only at the sync.
	if err := f.Sync(); err != nil {
		return 0, fmt.Errorf("sync output: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0, &fs.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	return st.Blocks * 512, nil // st_blocks counts 512-byte units whatever the block size
}

// surveyed is what a walk over the extents found, in bytes.
type surveyed struct {
	data   int64 // that hold something
	before int64 // of these, that the output has already
	shared int64 // of the others, that it may share with a source
}

// survey counts the bytes that hold data, and those of them that the output
// may come to share with a source on its own file system. It refuses a disk
// that needs a parent before anything is written.
func (c *copier) survey(ctx context.Context, from int64) (s surveyed, err error) {
	disk, shares := c.disk, map[*os.File]bool{}
	for off := int64(0); off < disk.Size(); {
		if err := ctx.Err(); err != nil {
			return s, context.Cause(ctx)
		}
		e, err := disk.Extent(off, disk.Size()-off)
		if err != nil {
			return s, err
		}
		switch e.Kind {
		case formats.Absent:
			return s, fmt.Errorf("guest offset %d: %w", off, formats.ErrAbsent)
		case formats.Data:
			s.data += e.Length
			done := min(max(from-off, 0), e.Length)
			s.before += done
			if e.Plain != nil && c.onSame(shares, osFile(e.Plain.File)) {
				s.shared += e.Length - done
			}
		}
		off += e.Length
	}
	return s, nil
}

// onSame reports whether a file of the source lies on the output's file system.
// It asks once for each file.
func (c *copier) onSame(known map[*os.File]bool, src *os.File) bool {
	if src == nil {
		return false
	}
	same, ok := known[src]
	if !ok {
		same = sameDevice(src, c.out)
		known[src] = same
		info, err := src.Stat()
		if err == nil && info.Mode()&fs.ModeDevice != 0 {
			c.devices[src] = openDirect(src, os.O_RDONLY)
		}
	}
	return same
}

// checkSpace compares what will be written with what is free. How small
// compressed data becomes is not known: then only the writing itself tells.
func checkSpace(f *os.File, need int64, opt Options) error {
	if opt.packs() {
		return nil
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("free space of %s: %w", filepath.Dir(f.Name()), err)
	}
	if free := int64(st.Bavail) * st.Bsize; need > free {
		return fmt.Errorf("%s: %d bytes to write, %d free: %w", filepath.Dir(f.Name()), need, free, ErrNoSpace)
	}
	return nil
}
