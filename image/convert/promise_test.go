package convert

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"hyper2kvm/formats"
	"hyper2kvm/image/publish"
)

func (o Options) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s %s%s %d", o.Format, o.Variant, o.Compress, o.ClusterSize))
}

// However many work at it, and in which order they come to an end.
func TestSameBytesFromAnyWorkers(t *testing.T) {
	disk := long(t)
	for _, opt := range layouts() {
		t.Run(opt.String(), func(t *testing.T) {
			dir := quickDir(t)
			one, many := filepath.Join(dir, "1", "disk"), filepath.Join(dir, "8", "disk")
			for out, workers := range map[string]int{one: 1, many: 8} {
				if err := os.Mkdir(filepath.Dir(out), 0o700); err != nil {
					t.Fatal(err)
				}
				opt.Workers = workers
				if _, err := Run(t.Context(), disk, out, opt); err != nil {
					t.Fatal(err)
				}
			}
			same(t, one, many)
		})
	}
}

// strict is a disk whose holes must not be read.
type strict struct{ formats.Disk }

var errHole = errors.New("a hole was read")

func (d strict) ReadAt(p []byte, off int64) (int, error) {
	for at := off; at < min(off+int64(len(p)), d.Size()); {
		e, err := d.Extent(at, off+int64(len(p))-at)
		if err != nil {
			return 0, err
		}
		if e.Kind == formats.Zero {
			return 0, errHole
		}
		at += e.Length
	}
	return d.Disk.ReadAt(p, off)
}

// dense is a disk that calls everything data.
type dense struct{ formats.Disk }

func (d dense) Extent(off, limit int64) (formats.Extent, error) {
	return formats.Extent{Offset: off, Length: min(limit, d.Size()-off), Kind: formats.Data}, nil
}

// What is a hole in the source is not read, by the verification neither; what is
// zero is found and not written: both take no room in the output, and give the
// same bytes.
func TestHolesAndZeroes(t *testing.T) {
	for _, opt := range layouts() {
		t.Run(opt.String(), func(t *testing.T) {
			dir := t.TempDir()
			holes, zeroes := filepath.Join(dir, "a", "disk"), filepath.Join(dir, "b", "disk")
			disk := memory(t, sources()["sparse"])
			// The pages with something in them take 56 KiB. Tables come in whole clusters.
			limit := max(1<<20, 6*opt.ClusterSize)
			for out, d := range map[string]formats.Disk{holes: strict{disk}, zeroes: dense{disk}} {
				if err := os.Mkdir(filepath.Dir(out), 0o700); err != nil {
					t.Fatal(err)
				}
				opt.Verify = out == holes
				res, err := Run(t.Context(), d, out, opt)
				if err != nil {
					t.Fatal(err)
				}
				if res.Allocated > limit {
					t.Errorf("%s takes %d bytes, %d at most", out, res.Allocated, limit)
				}
			}
			same(t, holes, zeroes)
		})
	}
}

// A bit that changes between the writing of the output and its name is found by
// the verification, whatever the format, and without it is not.
func TestVerifyReadsTheOutput(t *testing.T) {
	content := sources()["compressible"]
	for _, opt := range layouts() {
		for _, verify := range []bool{true, false} {
			t.Run(fmt.Sprintf("%v %v", opt, verify), func(t *testing.T) {
				dir := t.TempDir()
				out := filepath.Join(dir, "out")
				opt.Verify, opt.Workers = verify, 1
				opt.Progress = func(done, total int64) {
					if done < total {
						return
					}
					change(t, publish.Partial(out), func(b []byte) []byte {
						// Within the last that was written: data, whatever the format.
						b[len(bytes.TrimRight(b, "\x00"))-2000] ^= 0x10
						return b
					})
				}
				_, err := Run(t.Context(), memory(t, content), out, opt)
				if verify != errors.Is(err, ErrVerify) || !verify && err != nil {
					t.Fatalf("got %v", err)
				}
				if verify {
					nothingLeft(t, dir)
				}
			})
		}
	}
}

// onRead is a disk that tells of its reads.
type onRead struct {
	formats.Disk
	tell func()
}

func (d onRead) ReadAt(p []byte, off int64) (int, error) {
	d.tell()
	return d.Disk.ReadAt(p, off)
}

// The verification reads the disk, not what is still in memory of the writing.
func TestVerifyReadsTheDisk(t *testing.T) {
	dir := t.TempDir()
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil || fs.Type == unix.TMPFS_MAGIC {
		t.Skipf("a file system in memory has no disk below: %v", err)
	}
	out := filepath.Join(dir, "out")
	var written atomic.Bool
	var once sync.Once
	pages, all := -1, 0
	disk := onRead{memory(t, sources()["full"]), func() {
		if written.Load() {
			once.Do(func() { pages = cached(t, publish.Partial(out)) })
		}
	}}
	res, err := Run(t.Context(), disk, out, Options{Format: "raw", Verify: true, Progress: func(done, total int64) { written.Store(done == total) }})
	if err != nil {
		t.Fatal(err)
	}
	if all = int(res.Allocated) / os.Getpagesize(); pages < 0 || pages > all/2 {
		t.Errorf("%d of %d pages were in the page cache when the verification began", pages, all)
	}
}

// made is a disk of which each byte is computed, so that it takes no memory: for
// each GiB, so much data that compresses to a quarter.
type made struct{ size, perGiB int64 }

func (d made) Size() int64 { return d.size }

func (d made) Extent(off, limit int64) (formats.Extent, error) {
	in := off % (1 << 30)
	e := formats.Extent{Offset: off, Kind: formats.Data, Length: d.perGiB - in}
	if in >= d.perGiB {
		e.Kind, e.Length = formats.Zero, 1<<30-in
	}
	e.Length = min(e.Length, limit, d.size-off)
	return e, nil
}

func (d made) ReadAt(p []byte, off int64) (int, error) {
	if off >= d.size {
		return 0, io.EOF
	}
	x := uint64(off)*0x9E3779B97F4A7C15 | 1
	for i := range p {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		p[i] = "ab c"[x>>62]
	}
	return len(p), nil
}

// memoryOf is what a child of TestMemoryIsBounded is told: folder and layout.
const memoryOf = "H2K_TEST_CONVERT_MEMORY"

// memoryChild converts a disk of 1 TiB and prints the most memory it took.
func memoryChild(what string) error {
	dir, layout, _ := strings.Cut(what, " ")
	i, err := strconv.Atoi(layout)
	if err != nil {
		return err
	}
	opt := memoryLayouts()[i]
	opt.Workers, opt.Checkpoint = maxWorkers, filepath.Join(dir, "checkpoint")
	if _, err := Run(context.Background(), made{1 << 40, 512 << 10}, filepath.Join(dir, "out"), opt); err != nil {
		return err
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	_, peak, _ := strings.Cut(string(status), "VmHWM:")
	peak, _, _ = strings.Cut(peak, "kB")
	fmt.Println(strings.TrimSpace(peak))
	return nil
}

func memoryLayouts() []Options {
	return []Options{
		{Format: "qcow2"}, {Format: "qcow2", Compress: "zstd", ClusterSize: 2 << 20}, {Format: "vmdk", Variant: "streamOptimized"}, {Format: "vhd"},
	}
}

// Half a GiB of data, strewn over 1 TiB, is converted in 256 MiB, with the most
// workers that there are and a checkpoint.
func TestMemoryIsBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("converts half a GiB several times")
	}
	for i, opt := range memoryLayouts() {
		t.Run(opt.String(), func(t *testing.T) {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d", memoryOf, t.TempDir(), i))
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("child: %v\n%s", err, out)
			}
			peak, err := strconv.Atoi(strings.TrimSpace(string(out)))
			if err != nil || peak < 1<<10 || peak > 256<<10 {
				t.Errorf("took %d KiB at most, %v", peak, err)
			}
			t.Logf("%d MiB", peak>>10)
		})
	}
}
