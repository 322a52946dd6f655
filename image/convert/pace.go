package convert

import (
	"context"

	"golang.org/x/time/rate"

	"hyper2kvm/formats"
)

// pace gives the function that waits until so many bytes may be read at
// perSecond bytes a second; 0 never waits.
func pace(perSecond int64) func(ctx context.Context, bytes int64) error {
	if perSecond <= 0 {
		return func(context.Context, int64) error { return nil }
	}
	// What may be read at once is a window, so that one can ever be.
	l := rate.NewLimiter(rate.Limit(perSecond), windowBytes)
	return func(ctx context.Context, bytes int64) error {
		for bytes > 0 {
			n := min(bytes, windowBytes)
			if err := l.WaitN(ctx, int(n)); err != nil {
				if ctx.Err() != nil {
					err = context.Cause(ctx)
				}
				return err
			}
			bytes -= n
		}
		return nil
	}
}

// paced is a disk whose reads wait. It hides where the bytes lie, so that there
// is no way around it.
type paced struct {
	formats.Disk
	wait func(bytes int64) error
}

// ReadAt implements formats.Disk.
func (d paced) ReadAt(p []byte, off int64) (int, error) {
	if err := d.wait(int64(len(p))); err != nil {
		return 0, err
	}
	return d.Disk.ReadAt(p, off)
}

// Extent implements formats.Disk.
func (d paced) Extent(offset, limit int64) (formats.Extent, error) {
	e, err := d.Disk.Extent(offset, limit)
	e.Plain = nil
	return e, err
}
