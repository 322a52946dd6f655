package pipeline

import (
	"context"
	"errors"
	"fmt"

	"hyper2kvm/agent/api"
	"hyper2kvm/formats"
	"hyper2kvm/image/convert"
)

// fillDisks puts what the sources are into the report, once.
func (r *run) fillDisks() {
	if len(r.report.Disks) > 0 {
		return
	}
	for i, src := range r.sources {
		images := src.Images()
		top := images[0].Info
		d := api.DiskReport{Source: images[0].Path, Number: r.plan.Sources[i].Disk, Format: top.Format, Variant: top.Variant, Size: top.Size}
		r.report.Disks = append(r.report.Disks, d)
	}
}

// info reports every field of every image of each source's chain.
func (r *run) info(context.Context) error {
	r.fillDisks()
	for i, src := range r.sources {
		d := &r.report.Disks[i]
		d.Info = src.Images()
		n, err := allocated(src)
		if err != nil {
			return sourceError("read the map of", d.Source, err)
		}
		d.Allocated = n
	}
	return nil
}

func allocated(d formats.Disk) (int64, error) {
	var sum int64
	for off := int64(0); off < d.Size(); {
		e, err := d.Extent(off, d.Size()-off)
		if err != nil {
			return 0, err
		}
		if e.Kind == formats.Data {
			sum += e.Length
		}
		off += e.Length
	}
	return sum, nil
}

var errTwoDisks = errors.New("takes two disks")

// compare compares the guest-visible content of two disks.
func (r *run) compare(ctx context.Context) error {
	if len(r.sources) != 2 {
		return api.NewError(api.CodeUsage, "compare", "", errTwoDisks)
	}
	r.fillDisks()
	a, b := r.sources[0], r.sources[1]
	off, err := convert.Compare(ctx, a, b, r.progress(api.Compare, 0))
	if err != nil && !errors.Is(err, convert.ErrDiffer) {
		return sourceError("compare", r.plan.Sources[0].Name(), err)
	}
	c := &api.Comparison{Equal: err == nil, Offset: off}
	switch {
	case err != nil:
		c.Detail = fmt.Sprintf("first difference at byte %d", off)
	case a.Size() != b.Size():
		c.Detail = fmt.Sprintf("the longer one has only zeroes beyond the other's end (%d and %d bytes)", a.Size(), b.Size())
	}
	r.report.Compare = c
	return nil
}
