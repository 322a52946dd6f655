package nbd

import (
	"slices"
	"sync"

	"hyper2kvm/formats"
)

// keptReplies is how many answers about the map are kept. A disk is mostly
// looked at from front to back, several times over.
const keptReplies = 16

// blockMap keeps what the server last said of where the export has data, so
// that not every look costs a round trip.
type blockMap struct {
	mu   sync.Mutex
	kept []stretch // newest last
}

// stretch is a part of the disk whose runs are known.
type stretch struct {
	start int64
	runs  []run
}

// find gives the kind of the byte at off and where that ends.
func (m *blockMap) find(off int64) (run, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range slices.Backward(m.kept) {
		if off < s.start || off >= s.runs[len(s.runs)-1].end {
			continue
		}
		i, _ := slices.BinarySearchFunc(s.runs, off, func(r run, off int64) int {
			if r.end <= off {
				return -1
			}
			return 1
		})
		return s.runs[i], true
	}
	return run{}, false
}

// keep adds an answer, which has at least one run.
func (m *blockMap) keep(s stretch) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.kept) == keptReplies {
		m.kept = slices.Delete(m.kept, 0, 1)
	}
	m.kept = append(m.kept, s)
}

// maxAsked is the longest range whose map is asked for at once: lengths have 32
// bits, and it must be in whole blocks, which have at most 64 KiB.
const maxAsked = 1<<32 - 64<<10

// Extent implements formats.Disk. Without a map all is data.
func (c *Client) Extent(offset, limit int64) (formats.Extent, error) {
	if offset < 0 || offset >= c.first.size || limit <= 0 {
		return formats.Extent{}, c.outside("extent", offset, limit)
	}
	limit = min(limit, c.first.size-offset)
	if !c.first.hasContext {
		return formats.Extent{Offset: offset, Length: limit, Kind: formats.Data}, nil
	}
	r, ok := c.blocks.find(offset)
	if !ok {
		var err error
		if r, err = c.askMap(offset); err != nil {
			return formats.Extent{}, err
		}
	}
	return formats.Extent{Offset: offset, Length: min(limit, r.end-offset), Kind: r.kind}, nil
}

// askMap asks for the map from off on, as far as one answer goes.
func (c *Client) askMap(off int64) (run, error) {
	least := int64(c.first.blocks[0])
	start := off - off%least
	q := &call{kind: cmdBlockStatus, off: start, span: min(maxAsked, c.first.size-start)}
	if err := c.ask(q); err != nil {
		return run{}, c.failed("map", start, q.span, err)
	}
	s := stretch{start: start, runs: slices.Clone(q.runs)}
	c.blocks.keep(s)
	for _, r := range s.runs {
		if r.end > off {
			return r, nil
		}
	}
	// The answer ends before off, which is in the same block: no server cuts
	// blocks, but one might.
	return run{}, c.failed("map", start, q.span, ErrProtocol)
}
