package convert

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"hyper2kvm/formats"
	"hyper2kvm/image/publish"
)

// checkpointEvery is how much work a kill may cost. A mark has the output
// synced; what was written so far is on its way to the disk already.
const checkpointEvery = 2 * time.Second

// run copies everything, and marks how far it got as often as asked.
func (c *copier) run(ctx context.Context, opt Options) error {
	workers := min(opt.Workers, int(max(maxWindows/c.window(), 1)))
	if c.log == nil {
		return c.copy(ctx, workers)
	}
	g, ctx := errgroup.WithContext(ctx)
	ended := make(chan struct{})
	g.Go(func() error {
		defer close(ended)
		return c.copy(ctx, workers)
	})
	g.Go(func() error { return c.markOften(opt.CheckpointEvery, ended) })
	return g.Wait()
}

func (c *copier) markOften(every time.Duration, ended <-chan struct{}) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ended:
			return nil
		case <-tick.C:
			if err := c.mark(); err != nil {
				return err
			}
		}
	}
}

// mark makes what is complete safe, and records that it is.
func (c *copier) mark() error {
	c.mu.Lock()
	safe := c.safe
	c.mu.Unlock()
	if safe <= c.log.upTo {
		return nil
	}
	info, err := c.out.Stat()
	if err == nil {
		err = unix.Fdatasync(int(c.out.Fd()))
	}
	if err != nil {
		return fmt.Errorf("sync output: %w", err)
	}
	return c.log.mark(safe, info.Size())
}

// begin lays out the output anew, or up to where an earlier run got.
func (c *copier) begin(o *publish.Output, opt Options, from checkpoint) error {
	meta := &layoutWriter{File: o.File()}
	t, err := newTarget(meta, c.disk.Size(), opt)
	if err != nil {
		return err
	}
	c.placer = newPlacer(t, c.disk.Size(), opt.packs())
	if from.marked == 0 {
		c.log, err = newJournal(opt.Checkpoint, from.id)
		return err
	}
	if c.log, err = replay(opt.Checkpoint, from, c.placer); err != nil {
		return err
	}
	c.from, c.safe = from.marked, from.marked
	return cutBack(o, max(meta.end, c.end))
}

// layoutWriter is the output as a format sees it. It knows how far the metadata
// reaches.
type layoutWriter struct {
	*os.File
	end int64
}

func (o *layoutWriter) WriteAt(p []byte, off int64) (int, error) {
	o.end = max(o.end, off+int64(len(p)))
	return o.File.WriteAt(p, off)
}

// cutBack removes from an output that is taken up what lies behind its last
// safe byte, so that new space there reads as zeroes again.
func cutBack(o *publish.Output, end int64) error {
	if o.Device() {
		return nil
	}
	if err := o.File().Truncate(end); err != nil {
		return fmt.Errorf("cut output back: %w", err)
	}
	return nil
}

// checkpoint is what an earlier run left.
type checkpoint struct {
	id     [sha256.Size]byte
	marked int64 // guest offset up to which the output is safe; 0 is a clean start
	size   int64 // of the output at that moment
}

// lastCheckpoint looks for what an earlier run of the same conversion left.
func (o *Options) lastCheckpoint(disk int64, out string) checkpoint {
	// Another journal belongs to another source, and to options that give
	// another layout.
	text, err := json.Marshal([]any{o.Format, o.Variant, o.Compress, o.ClusterSize, o.Sector, o.name, o.Identity, disk, windowBytes})
	if err != nil {
		return checkpoint{} // strings and numbers always marshal
	}
	c := checkpoint{id: sha256.Sum256(text)}
	c.marked, c.size = readMark(o.Checkpoint, c.id)
	info, err := os.Stat(out)
	if device := err == nil && info.Mode()&fs.ModeDevice != 0; device {
		return c
	}
	if info, err := os.Stat(publish.Partial(out)); err != nil || info.Size() < c.size {
		c.marked = 0
	}
	return c
}

// lasting reports whether an error stays when the run is tried again: then
// nothing is kept for that.
func lasting(err error) bool {
	for _, is := range []error{formats.ErrTruncated, formats.ErrCorrupt, formats.ErrUnsupported, formats.ErrAbsent,
		ErrVerify, ErrOptions, errStale} {
		if errors.Is(err, is) {
			return true
		}
	}
	return false
}
