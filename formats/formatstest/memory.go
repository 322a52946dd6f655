package formatstest

import (
	"fmt"
	"io"
	"slices"

	"hyper2kvm/formats"
)

// pageSize is the granularity in which a Memory is empty or not, in bytes.
const pageSize = 4096

// Memory is a disk in memory, as large as one likes and as small as its
// content. It must not be written to while others read it.
type Memory struct {
	size    int64
	pages   map[int64][]byte
	sorted  []int64 // keys of pages, once Extent was called
	missing formats.Kind
}

// NewMemory makes an empty disk of size bytes.
func NewMemory(size int64) *Memory {
	return &Memory{size: size, pages: make(map[int64][]byte)}
}

// Child makes the disk Absent, instead of Zero, where nothing was written.
func (m *Memory) Child() *Memory {
	m.missing = formats.Absent
	return m
}

// Size implements formats.Disk.
func (m *Memory) Size() int64 { return m.size }

// WriteAt puts bytes into the disk.
func (m *Memory) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > m.size {
		return 0, fmt.Errorf("write %d bytes at %d of %d", len(p), off, m.size)
	}
	m.sorted = nil
	done := 0
	for done < len(p) {
		page, in := (off+int64(done))/pageSize, (off+int64(done))%pageSize
		if m.pages[page] == nil {
			m.pages[page] = make([]byte, pageSize)
		}
		done += copy(m.pages[page][in:], p[done:])
	}
	return done, nil
}

// Ready prepares the disk to be read by several goroutines.
func (m *Memory) Ready() *Memory {
	m.sorted = make([]int64, 0, len(m.pages))
	for page := range m.pages {
		m.sorted = append(m.sorted, page)
	}
	slices.Sort(m.sorted)
	return m
}

// ReadAt implements formats.Disk.
func (m *Memory) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at %d", off)
	}
	if off >= m.size {
		return 0, io.EOF
	}
	var eof error
	if int64(len(p)) > m.size-off {
		p, eof = p[:m.size-off], io.EOF
	}
	for done := 0; done < len(p); {
		page, in := (off+int64(done))/pageSize, (off+int64(done))%pageSize
		n := min(len(p)-done, int(pageSize-in))
		switch b := m.pages[page]; {
		case b != nil:
			copy(p[done:done+n], b[in:])
		case m.missing == formats.Absent:
			return done, fmt.Errorf("read at %d: %w", off+int64(done), formats.ErrAbsent)
		default:
			clear(p[done : done+n])
		}
		done += n
	}
	return len(p), eof
}

// Extent implements formats.Disk. Ready must have been called.
func (m *Memory) Extent(offset, limit int64) (formats.Extent, error) {
	if offset < 0 || offset >= m.size || limit <= 0 {
		return formats.Extent{}, fmt.Errorf("extent at %d, limit %d of %d", offset, limit, m.size)
	}
	end := offset + min(limit, m.size-offset)
	page := offset / pageSize
	i, found := slices.BinarySearch(m.sorted, page)
	e := formats.Extent{Offset: offset, Kind: m.missing, Length: end - offset}
	if !found {
		if i < len(m.sorted) {
			e.Length = min(end, m.sorted[i]*pageSize) - offset
		}
		return e, nil
	}
	e.Kind = formats.Data
	for ; i < len(m.sorted) && m.sorted[i] == page; i++ {
		page++
	}
	e.Length = min(end, page*pageSize) - offset
	return e, nil
}
