package bench

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"syscall"

	"golang.org/x/sync/errgroup"

	"hyper2kvm/formats"
	"hyper2kvm/formats/qcow2"
	"hyper2kvm/image/chain"
)

// peak is the largest memory of a process that ended, in bytes.
func peak(s *os.ProcessState) int64 {
	if u, ok := s.SysUsage().(*syscall.Rusage); ok {
		return u.Maxrss << 10 // getrusage(2): in KiB on Linux
	}
	return 0
}

// copyFile is the limit of what only moves bytes: a plain copy of the guest's
// raw disk that keeps its holes, on the disk when it ends like our outputs.
func copyFile(ctx context.Context, dir string) (Took, error) {
	src, out := filepath.Join(filepath.Dir(dir), rawInput), filepath.Join(dir, "copy")
	return command(ctx, "sh", "-c", `cp --sparse=always "$1" "$2" && sync "$2"`, "sh", src, out)
}

// clusterBytes is the unit of the compressors.
const clusterBytes = 64 << 10

// readAlone reads every byte of an image on all cores and writes nothing: the
// decompressor alone.
func readAlone(name string) Side {
	return func(ctx context.Context, dir string) (Took, error) {
		return Took{}, clusters(ctx, filepath.Join(filepath.Dir(dir), name), func() func([]byte) error {
			return func([]byte) error { return nil }
		})
	}
}

// packAlone compresses the guest's disk on all cores, as the output is, and writes
// nothing.
func packAlone(how string) Side {
	return func(ctx context.Context, dir string) (Took, error) {
		w, err := qcow2.NewWriter(nowhere{}, clusterBytes, qcow2.Options{ClusterSize: clusterBytes, Compression: how})
		if err != nil {
			return Took{}, err
		}
		return Took{}, clusters(ctx, filepath.Join(filepath.Dir(dir), rawInput), func() func([]byte) error {
			p, err := w.NewPacker()
			var out []byte
			return func(cluster []byte) error {
				if err == nil {
					out, err = p.Pack(out[:0], 0, cluster)
				}
				return err
			}
		})
	}
}

// nowhere takes what is written.
type nowhere struct{}

func (nowhere) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

// clusters hands every cluster of an image that holds data to a worker on each
// core.
func clusters(ctx context.Context, name string, worker func() func([]byte) error) error {
	disk, err := chain.Open(name, chain.Policy{})
	if err != nil {
		return err
	}
	defer disk.Close() //nolint:errcheck // opened for reading only
	g, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range runtime.GOMAXPROCS(0) {
		do := worker()
		g.Go(func() error {
			buf, zero := make([]byte, 16*clusterBytes), make([]byte, clusterBytes)
			for ctx.Err() == nil {
				off := next.Add(int64(len(buf))) - int64(len(buf))
				if off >= disk.Size() {
					return nil
				}
				p := buf[:min(int64(len(buf)), disk.Size()-off)]
				if e, err := disk.Extent(off, int64(len(p))); err == nil && e.Kind == formats.Zero && e.Length == int64(len(p)) {
					continue
				}
				if _, err := disk.ReadAt(p, off); err != nil && err != io.EOF {
					return err
				}
				for len(p) > 0 {
					c := p[:min(clusterBytes, len(p))]
					p = p[len(c):]
					if bytes.Equal(c, zero[:len(c)]) {
						continue
					}
					if err := do(c); err != nil {
						return err
					}
				}
			}
			return ctx.Err()
		})
	}
	return g.Wait()
}
