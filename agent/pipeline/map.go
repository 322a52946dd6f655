package pipeline

import (
	"context"
	"fmt"

	"hyper2kvm/agent/api"
	"hyper2kvm/formats"
	"hyper2kvm/image/chain"
)

// maxMap is how many stretches a report lists of one disk: with all of them it
// takes some 150 MB.
const maxMap = 1 << 20

// mapDisks lists what lies where on each source.
func (r *run) mapDisks(ctx context.Context) error {
	r.fillDisks()
	for i, src := range r.sources {
		list, err := mapOf(ctx, src, r.plan.MapPart)
		if err != nil {
			return sourceError("read the map of", r.plan.Sources[i].Name(), err)
		}
		r.report.Disks[i].Map = list
	}
	return nil
}

func mapOf(ctx context.Context, c *chain.Chain, part api.MapOptions) ([]api.Stretch, error) {
	end := c.Size()
	if part.Length > 0 && part.Length < end-part.Offset {
		end = part.Offset + part.Length
	}
	var list []api.Stretch
	for off := part.Offset; off < end; {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		e, layer, err := c.Layer(off, end-off)
		if err != nil {
			return nil, err
		}
		s := api.Stretch{Offset: off, Length: e.Length, Kind: e.Kind.String(), Image: layer}
		if e.Plain != nil {
			s.File, s.At = fileName(e.Plain), e.Plain.Offset
		}
		list = appendStretch(list, s)
		if len(list) > maxMap {
			return nil, fmt.Errorf("more than %d stretches up to byte %d: ask for a part with an offset and a length: %w",
				maxMap, off, formats.ErrUnsupported)
		}
		off += e.Length
	}
	return list, nil
}

// fileName is the name of the file that bytes lie in, "" where it has none.
func fileName(l *formats.Location) string {
	if f, ok := l.File.(interface{ Name() string }); ok {
		return f.Name()
	}
	return ""
}

// appendStretch joins what is one stretch, although the format tells it piece by
// piece.
func appendStretch(list []api.Stretch, s api.Stretch) []api.Stretch {
	if n := len(list); n > 0 {
		last := &list[n-1]
		at := last.At
		if last.File != "" {
			at += last.Length
		}
		if last.Kind == s.Kind && last.Image == s.Image && last.File == s.File && at == s.At {
			last.Length += s.Length
			return list
		}
	}
	return append(list, s)
}
