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
	Format      string   // "qcow2" ("" is that), "raw", "vmdk"
	Variant     string   // vmdk: "monolithicSparse" ("" is that), "streamOptimized"
	Compress    string   // qcow2: "none" ("" is that), "zlib", "zstd"
	ClusterSize int64    // allocation unit in bytes; 0 is the format's usual one
	Force       bool     // replace an output that exists
	Sources     []string // files that the output must not be
	Verify      bool     // read the output back and compare it with the source
	Digest      bool     // fill Result.Digest; reads every byte the guest sees
	Workers     int      // 0 is one for each core
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
	Allocated int64  // bytes that the output takes on its file system
	Digest    string // sha256 of what the guest sees, in hexadecimal; "" unless asked for
}

// Run writes disk to the file out. Nothing is seen under that name before the
// output is complete and synced (and verified, if asked); nothing is left when
// Run gives an error. disk must not have Absent extents.
func Run(ctx context.Context, disk formats.Disk, out string, opt Options) (Result, error) {
	if opt.Workers <= 0 {
		opt.Workers = runtime.GOMAXPROCS(0)
	}
	if err := opt.check(); err != nil {
		return Result{}, err
	}
	opt.name = filepath.Base(out)
	o, err := publish.Create(out, opt.Force, opt.Sources...)
	if err != nil {
		return Result{}, noSpace(err)
	}
	res, err := write(ctx, disk, o.File(), opt)
	if err != nil {
		return Result{}, errors.Join(noSpace(err), o.Abort())
	}
	if err := o.Commit(); err != nil {
		return Result{}, noSpace(err)
	}
	return res, nil
}

// noSpace marks the errors of a full file system with the sentinel.
func noSpace(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}

// write fills the file and proves it.
func write(ctx context.Context, disk formats.Disk, f *os.File, opt Options) (Result, error) {
	offload := opt.offload == nil && sharesBlocks(f) || opt.offload != nil && *opt.offload
	total, shared, err := survey(ctx, disk, f)
	if err != nil {
		return Result{}, fmt.Errorf("survey of the source: %w", err)
	}
	if !offload {
		shared = 0
	}
	if err := checkSpace(f, total-shared, opt); err != nil {
		return Result{}, err
	}
	t, err := newTarget(f, disk.Size(), opt)
	if err != nil {
		return Result{}, err
	}
	c := &copier{disk: disk, out: f, target: t, total: total, progress: opt.Progress}
	c.noOffload.Store(!offload)
	if err := c.run(ctx, opt.Workers); err != nil {
		return Result{}, err
	}
	size, err := t.Finish()
	if err != nil {
		return Result{}, err
	}
	if err := f.Truncate(size); err != nil {
		return Result{}, fmt.Errorf("set size of output: %w", err)
	}
	res := Result{Size: disk.Size(), Written: c.written.Load()}
	if err := prove(ctx, disk, f, opt, &res); err != nil {
		return Result{}, err
	}
	// Delayed allocation settles the number of blocks only at the sync.
	if err := f.Sync(); err != nil {
		return Result{}, fmt.Errorf("sync output: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return Result{}, &fs.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	res.Allocated = st.Blocks * 512 // st_blocks counts 512-byte units whatever the block size
	return res, nil
}

// survey counts the bytes that hold data, and those of them that the output
// may come to share with a source on its own file system. It refuses a disk
// that needs a parent before anything is written.
func survey(ctx context.Context, disk formats.Disk, out *os.File) (total, shared int64, err error) {
	shares := map[*os.File]bool{}
	for off := int64(0); off < disk.Size(); {
		if err := ctx.Err(); err != nil {
			return 0, 0, context.Cause(ctx)
		}
		e, err := disk.Extent(off, disk.Size()-off)
		if err != nil {
			return 0, 0, err
		}
		switch e.Kind {
		case formats.Data:
			total += e.Length
		case formats.Absent:
			return 0, 0, fmt.Errorf("guest offset %d: %w", off, formats.ErrAbsent)
		}
		if e.Plain != nil {
			if src := osFile(e.Plain.File); src != nil {
				same, known := shares[src]
				if !known {
					same = sameDevice(src, out)
					shares[src] = same
				}
				if same {
					shared += e.Length
				}
			}
		}
		off += e.Length
	}
	return total, shared, nil
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
