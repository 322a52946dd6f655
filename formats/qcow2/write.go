package qcow2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
)

// Options choose the shape of an image to write.
type Options struct {
	// ClusterSize in bytes: a power of two from 512 to 2 MiB; 0 is 64 KiB.
	ClusterSize int64
	// Compression is "none" (or ""), "zlib" or "zstd".
	Compression string
}

// ErrOptions says that an image cannot be written with these options.
var ErrOptions = errors.New("impossible image options")

// Writer lays out a new version 3 image without parent, front to back: data
// clusters in guest order with the L2 table and refcount block that they fill
// right behind, the L1 and refcount tables at the end, the header last.
//
// Places are given by one goroutine at a time, in ascending guest order; the
// caller then writes the bytes there in any order. The image depends only on
// what is placed, not on when it is written.
type Writer struct {
	out         io.WriterAt
	size        int64 // virtual size, a multiple of 512
	cluster     int64
	compression string

	head int64 // clusters taken so far, all without gaps
	// packed is where the next compressed cluster goes, in bytes; packedEnd is
	// the end of the host clusters that were taken for compressed data.
	packed, packedEnd int64

	l1    []uint64
	l2    []uint64
	index int64 // of the L2 table in l2; -1 before the first
	last  int64 // guest offset up to which places were given
	refs  refcounts
}

// NewWriter begins an image of size bytes in out, which must be empty. A size
// that is not a multiple of 512 is rounded up, as QEMU does.
func NewWriter(out io.WriterAt, size int64, opt Options) (*Writer, error) {
	if opt.ClusterSize == 0 {
		opt.ClusterSize = 64 << 10
	}
	switch cs := opt.ClusterSize; {
	case bits.OnesCount64(uint64(cs)) != 1 || cs < 1<<minClusterBits || cs > 1<<maxClusterBits:
		return nil, fmt.Errorf("qcow2 cluster size %d: %w", cs, ErrOptions)
	case size < 0 || size > 1<<62:
		return nil, fmt.Errorf("qcow2 of %d bytes: %w", size, ErrOptions)
	}
	switch opt.Compression {
	case "", "none":
		opt.Compression = ""
	case "zlib", "zstd":
	default:
		return nil, fmt.Errorf("qcow2 compression %q: %w", opt.Compression, ErrOptions)
	}
	w := &Writer{out: out, size: (size + sectorSize - 1) &^ (sectorSize - 1), cluster: opt.ClusterSize,
		compression: opt.Compression, index: -1}
	tables := (w.size + w.l2Covers() - 1) / w.l2Covers()
	if tables > maxL1Bytes/8 {
		return nil, fmt.Errorf("qcow2 of %d bytes with clusters of %d: the L1 table takes %d bytes, QEMU allows %d: %w",
			size, w.cluster, tables*8, maxL1Bytes, ErrOptions)
	}
	w.l1 = make([]uint64, tables)
	w.l2 = make([]uint64, w.cluster/8)
	w.refs = refcounts{perBlock: w.cluster / 2, pending: make(map[int64][]uint16)}
	w.take(1) // the header
	return w, nil
}

// Unit is the cluster size in bytes: places begin at multiples of it.
func (w *Writer) Unit() int64 { return w.cluster }

// l2Covers is the number of guest bytes behind one L2 table.
func (w *Writer) l2Covers() int64 { return w.cluster * (w.cluster / 8) }

// take reserves n clusters at the end and returns the offset of the first.
func (w *Writer) take(n int64) int64 {
	off := w.head * w.cluster
	for i := range n {
		w.refs.add(w.head + i)
	}
	w.head += n
	return off
}

// Place gives room to the clusters that begin at guest and cover length
// bytes. placed may be less than length: then Place is called again for the
// rest.
func (w *Writer) Place(guest, length int64) (host, placed int64, err error) {
	if err := w.begin(guest); err != nil {
		return 0, 0, err
	}
	first := guest % w.l2Covers() / w.cluster
	n := min((length+w.cluster-1)/w.cluster, w.cluster/8-first)
	host = w.take(n)
	for i := range n {
		w.l2[first+i] = uint64(host+i*w.cluster) | entryCopied
	}
	w.last = guest + n*w.cluster
	return host, min(n*w.cluster, length), nil
}

// begin makes sure that the L2 table of guest is the current one.
func (w *Writer) begin(guest int64) error {
	switch {
	case guest%w.cluster != 0 || guest < w.last || guest >= w.size:
		return fmt.Errorf("place at guest offset %d after %d of %d", guest, w.last, w.size)
	}
	if at := guest / w.l2Covers(); at != w.index {
		if err := w.flushL2(); err != nil {
			return err
		}
		w.index = at
	}
	return w.flushRefcounts(w.settled())
}

// abandonAfter is how many clusters may lie behind a host cluster that has
// room left for compressed data before that room is given up: counts of old
// clusters need not be kept for ever.
const abandonAfter = 64

// settled is the cluster up to which reference counts can no longer change.
func (w *Writer) settled() int64 {
	open := w.packed / w.cluster
	if w.packed == w.packedEnd || w.head-open > abandonAfter {
		w.packed, w.packedEnd = 0, 0
		return w.head
	}
	return open
}

// PlacePacked gives room to one compressed cluster of size bytes that begins
// at guest. Packed clusters follow each other without gaps where they can.
func (w *Writer) PlacePacked(guest int64, size int) (host int64, err error) {
	if err := w.begin(guest); err != nil {
		return 0, err
	}
	n := int64(size)
	if w.packed+n > w.packedEnd || !w.refs.canAdd(w.packed/w.cluster) {
		w.growPacked(n)
	}
	host = w.packed
	w.packed += n
	// A host cluster counts one reference for each compressed cluster that
	// touches it.
	sectors := (host+n-1)/sectorSize - host/sectorSize
	for c := host / w.cluster; c <= (host+n-1)/w.cluster; c++ {
		w.refs.add(c)
	}
	shift := 62 - (bits.TrailingZeros64(uint64(w.cluster)) - 8)
	w.l2[guest%w.l2Covers()/w.cluster] = uint64(host) | uint64(sectors)<<shift | entryCompressed
	w.last = guest + w.cluster
	return host, nil
}

// growPacked takes another host cluster for compressed data: behind the last
// one where that is free, so that data may go across, else a fresh start.
func (w *Writer) growPacked(n int64) {
	free := w.head * w.cluster
	if w.packedEnd != free || !w.refs.canAdd(w.packed/w.cluster) {
		w.packed, w.packedEnd = free, free
	}
	for w.packed+n > w.packedEnd {
		w.head++ // its references are counted as clusters are put there
		w.packedEnd += w.cluster
	}
}

func (w *Writer) flushL2() error {
	if w.index < 0 {
		return nil
	}
	off := w.take(1)
	w.l1[w.index] = uint64(off) | entryCopied
	err := w.writeWords(off, w.l2)
	clear(w.l2)
	return err
}

// flushRefcounts writes the blocks of clusters before limit, whose counts can
// no longer change.
func (w *Writer) flushRefcounts(limit int64) error {
	for block := w.refs.flushed(); (block+1)*w.refs.perBlock <= limit; block++ {
		if err := w.writeRefcounts(block, w.take(1)); err != nil {
			return err
		}
	}
	return nil
}

func (w *Writer) writeRefcounts(block, off int64) error {
	b := make([]byte, w.cluster)
	for i, n := range w.refs.pending[block] {
		binary.BigEndian.PutUint16(b[i*2:], n)
	}
	w.refs.done(block, off)
	_, err := w.out.WriteAt(b, off)
	return err
}

// Finish writes what is still in memory, the header last, and returns the size
// of the file. Nothing may be placed after it.
func (w *Writer) Finish() (int64, error) {
	if err := w.flushL2(); err != nil {
		return 0, err
	}
	l1 := w.take(max(1, (int64(len(w.l1))*8+w.cluster-1)/w.cluster))
	if err := w.writeWords(l1, w.l1); err != nil {
		return 0, err
	}
	table, tableClusters, err := w.finishRefcounts()
	if err != nil {
		return 0, err
	}
	if err := w.writeHeader(l1, table, tableClusters); err != nil {
		return 0, err
	}
	return w.head * w.cluster, nil
}

// finishRefcounts writes the rest of the refcount blocks and their table,
// which count themselves too.
func (w *Writer) finishRefcounts() (table, tableClusters int64, err error) {
	flushed := w.refs.flushed()
	blocks, total := int64(0), int64(0)
	for {
		b := (w.head + blocks + tableClusters + w.refs.perBlock - 1) / w.refs.perBlock
		t := (b*8 + w.cluster - 1) / w.cluster
		if b-flushed == blocks && t == tableClusters {
			total = b
			break
		}
		blocks, tableClusters = b-flushed, t
	}
	if tableClusters*w.cluster > maxRefTable {
		return 0, 0, fmt.Errorf("qcow2 file of %d clusters of %d bytes: the refcount table takes %d bytes, QEMU allows %d: %w",
			w.head, w.cluster, tableClusters*w.cluster, maxRefTable, ErrOptions)
	}
	at := w.take(blocks)
	table = w.take(tableClusters)
	for block := flushed; block < total; block++ {
		if err := w.writeRefcounts(block, at+(block-flushed)*w.cluster); err != nil {
			return 0, 0, err
		}
	}
	return table, tableClusters, w.writeWords(table, w.refs.table)
}

func (w *Writer) writeHeader(l1, table, tableClusters int64) error {
	b := make([]byte, w.cluster)
	be := binary.BigEndian
	be.PutUint32(b[0:], magic)
	be.PutUint32(b[4:], 3)
	be.PutUint32(b[20:], uint32(bits.TrailingZeros64(uint64(w.cluster))))
	be.PutUint64(b[24:], uint64(w.size))
	be.PutUint32(b[36:], uint32(len(w.l1)))
	be.PutUint64(b[40:], uint64(l1))
	be.PutUint64(b[48:], uint64(table))
	be.PutUint32(b[56:], uint32(tableClusters))
	if w.compression == "zstd" {
		be.PutUint64(b[72:], incompatCompression)
		b[104] = compressionZstd
	}
	be.PutUint32(b[96:], 4) // refcount_order: 16 bits
	be.PutUint32(b[100:], headerCompressType)
	_, err := w.out.WriteAt(b, 0)
	return err
}

// writeWords writes a table at off, filled up with zeroes to whole clusters.
func (w *Writer) writeWords(off int64, words []uint64) error {
	b := make([]byte, max(1, (int64(len(words))*8+w.cluster-1)/w.cluster)*w.cluster)
	for i, v := range words {
		binary.BigEndian.PutUint64(b[i*8:], v)
	}
	if _, err := w.out.WriteAt(b, off); err != nil {
		return fmt.Errorf("write qcow2 table at offset %d: %w", off, err)
	}
	return nil
}

// refcounts counts the references to the clusters of the file, in blocks that
// are written and forgotten once they are complete.
type refcounts struct {
	perBlock int64
	pending  map[int64][]uint16
	table    []uint64 // offsets of the blocks written so far
}

func (r *refcounts) add(cluster int64) {
	block := cluster / r.perBlock
	counts := r.pending[block]
	if counts == nil {
		counts = make([]uint16, r.perBlock)
		r.pending[block] = counts
	}
	counts[cluster%r.perBlock]++
}

// canAdd reports whether the count of cluster can take one more reference.
func (r *refcounts) canAdd(cluster int64) bool {
	counts := r.pending[cluster/r.perBlock]
	return counts == nil || counts[cluster%r.perBlock] < 1<<16-1
}

// flushed is the number of blocks written: they are written in order.
func (r *refcounts) flushed() int64 { return int64(len(r.table)) }

func (r *refcounts) done(block, off int64) {
	delete(r.pending, block)
	r.table = append(r.table, uint64(off))
}
