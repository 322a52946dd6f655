package convert

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"hyper2kvm/formats"
	"hyper2kvm/formats/formatstest"
	"hyper2kvm/image/publish"
)

// layouts are outputs whose layouts differ.
func layouts() []Options {
	return []Options{
		{Format: "qcow2"}, {Format: "qcow2", Compress: "zlib"}, {Format: "qcow2", Compress: "zstd", ClusterSize: 2 << 20},
		{Format: "qcow2", ClusterSize: 2 << 20}, {Format: "qcow2", ClusterSize: 512}, {Format: "raw"},
		{Format: "vmdk"}, {Format: "vmdk", Variant: "streamOptimized"},
		{Format: "vhdx"}, {Format: "vhdx", Variant: "fixed", Sector: 4096},
		{Format: "vhd"}, {Format: "vhd", Variant: "fixed"}, {Format: "vdi"}, {Format: "vdi", Variant: "fixed"},
	}
}

// long is a disk of many windows, with holes, zeroes and noise.
func long(t *testing.T) *formatstest.Memory {
	t.Helper()
	r := rand.New(rand.NewPCG(7, 7))
	content := make([]byte, 24<<20+512)
	for off := 0; off+64<<10 < len(content); off += 64 << 10 {
		switch r.IntN(4) {
		case 0:
		case 1:
			copy(content[off+r.IntN(60<<10):], "a little")
		default:
			for i := range 60 << 10 {
				content[off+i] = byte(r.Uint32() & 0x3f)
			}
		}
	}
	return memory(t, content)
}

// ends is a disk whose reads fail once so many bytes of it have been read. It
// counts those before an offset.
type ends struct {
	formats.Disk
	after, before int64
	end           func()
	read, early   atomic.Int64
}

func (d *ends) ReadAt(p []byte, off int64) (int, error) {
	if off < d.before {
		d.early.Add(int64(len(p)))
	}
	if d.read.Add(int64(len(p))) > d.after {
		d.end()
		return 0, errEnded
	}
	return d.Disk.ReadAt(p, off)
}

var errEnded = errors.New("the source went away")

// interrupt runs the conversion until so many bytes were read, and returns how
// far its checkpoint got.
func interrupt(t *testing.T, disk formats.Disk, out string, opt Options, after int64) int64 {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	src := &ends{Disk: disk, after: after, end: cancel}
	if _, err := Run(ctx, src, out, opt); err == nil {
		t.Fatal("the run was not interrupted")
	}
	if _, err := os.Stat(out); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("final name after an interrupted run: %v", err)
	}
	opt.name = filepath.Base(out)
	if err := opt.check(); err != nil {
		t.Fatal(err)
	}
	from := opt.lastCheckpoint(disk.Size(), out)
	return from.marked
}

func TestResumedOutputIsTheSame(t *testing.T) {
	disk := long(t)
	for _, opt := range layouts() {
		t.Run(fmt.Sprintf("%s %s%s %d", opt.Format, opt.Variant, opt.Compress, opt.ClusterSize), func(t *testing.T) {
			dir := quickDir(t)
			whole, out := filepath.Join(dir, "whole", "disk"), filepath.Join(dir, "disk")
			if err := os.Mkdir(filepath.Dir(whole), 0o700); err != nil {
				t.Fatal(err)
			}
			if _, err := Run(t.Context(), disk, whole, opt); err != nil {
				t.Fatal(err)
			}
			opt.Checkpoint, opt.Identity = filepath.Join(dir, "checkpoint"), "source"
			opt.Workers, opt.CheckpointEvery = 3, time.Hour
			last := int64(0)
			for range 2 {
				marked := interrupt(t, disk, out, opt, 4<<20)
				if marked <= last {
					t.Fatalf("marked %d after %d", marked, last)
				}
				last = marked
			}
			src := &ends{Disk: disk, after: 1 << 40, before: last}
			res, err := Run(t.Context(), src, out, opt)
			if err != nil {
				t.Fatal(err)
			}
			if early := src.early.Load(); early > 0 {
				t.Errorf("read %d bytes of what was safe already", early)
			}
			same(t, out, whole)
			if want, err := Run(t.Context(), disk, whole, Options{Format: opt.Format, Variant: opt.Variant, Compress: opt.Compress,
				ClusterSize: opt.ClusterSize, Force: true}); err != nil || want.Written != res.Written {
				t.Errorf("wrote %d bytes in all, %v; want %d", res.Written, err, want.Written)
			}
			if list, err := filepath.Glob(filepath.Join(dir, ".*")); err != nil || len(list) > 0 {
				t.Errorf("left %v, %v", list, err)
			}
			if _, err := os.Stat(opt.Checkpoint); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("checkpoint at the end: %v", err)
			}
		})
	}
}

// quickDir is a folder in memory where there is one: syncs take most of the
// time of these tests, and a kill, other than a power cut, does not ask for them.
func quickDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "h2k-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func same(t *testing.T, a, b string) {
	t.Helper()
	x, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	if y, err := os.ReadFile(b); err != nil || !bytes.Equal(x, y) {
		t.Errorf("%s and %s differ, %v", a, b, err)
	}
}

// A checkpoint that is not of this run, or damaged, costs its work and nothing
// else.
func TestForeignCheckpoint(t *testing.T) {
	disk := long(t)
	for name, spoil := range map[string]func(t *testing.T, opt *Options, out string){
		"other source":  func(_ *testing.T, opt *Options, _ string) { opt.Identity = "another" },
		"other options": func(_ *testing.T, opt *Options, _ string) { opt.ClusterSize = 4096 },
		"no output":     func(t *testing.T, _ *Options, out string) { remove(t, publish.Partial(out)) },
		"short output": func(t *testing.T, _ *Options, out string) {
			if err := os.Truncate(publish.Partial(out), 1<<20); err != nil {
				t.Fatal(err)
			}
		},
		"no checkpoint": func(t *testing.T, opt *Options, _ string) { remove(t, opt.Checkpoint) },
		"cut checkpoint": func(t *testing.T, opt *Options, _ string) {
			change(t, opt.Checkpoint, func(b []byte) []byte { return b[:len(b)/2] })
		},
		"changed": func(t *testing.T, opt *Options, _ string) {
			change(t, opt.Checkpoint, func(b []byte) []byte { b[len(b)/3] ^= 4; return b })
		},
		"empty checkpoint": func(t *testing.T, opt *Options, _ string) {
			change(t, opt.Checkpoint, func([]byte) []byte { return nil })
		},
		"noise behind mark": func(t *testing.T, opt *Options, _ string) {
			change(t, opt.Checkpoint, func(b []byte) []byte { return append(b, "w\xff\xff\xff\xff"...) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := quickDir(t)
			out := filepath.Join(dir, "out.qcow2")
			opt := Options{Checkpoint: filepath.Join(dir, "checkpoint"), Identity: "source", Workers: 2}
			if marked := interrupt(t, disk, out, opt, 4<<20); marked == 0 {
				t.Fatal("nothing was marked")
			}
			spoil(t, &opt, out)
			opt.Verify = true
			if _, err := Run(t.Context(), disk, out, opt); err != nil {
				t.Fatal(err)
			}
			formatstest.QemuImg(t, "check", "-q", out)
		})
	}
}

func remove(t *testing.T, name string) {
	t.Helper()
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
}

func change(t *testing.T, name string, f func([]byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err == nil {
		err = os.WriteFile(name, f(b), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// What no second try can mend leaves nothing, checkpoint or not.
func TestLastingErrorLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	opt := Options{Checkpoint: filepath.Join(dir, "checkpoint"), Workers: 2}
	d := faulty{long(t), 12 << 20, func() error { return formats.ErrCorrupt }}
	if _, err := Run(t.Context(), d, filepath.Join(dir, "out"), opt); !errors.Is(err, formats.ErrCorrupt) {
		t.Errorf("got %v", err)
	}
	nothingLeft(t, dir)
}

// Whatever a journal holds, what is placed lies within the disk.
func FuzzJournal(f *testing.F) {
	f.Add(byte(recordWindow), []byte("\x00\x00\x01\x00"))
	f.Add(byte(recordMark), []byte("\x80\x80\x40\x05"))
	f.Fuzz(func(t *testing.T, kind byte, body []byte) {
		rec, err := decode(kind, body)
		if err != nil {
			return
		}
		p := newPlacer(rawTarget{24 << 20}, 24<<20, false)
		if rec.number%p.window() == 0 && rec.number < p.size && rec.check(p) == nil {
			if err := p.place(rec.number, rec.pieces, nil); err != nil || p.end > p.size {
				t.Errorf("placed up to %d of %d, %v", p.end, p.size, err)
			}
		}
	})
}

func TestBandwidth(t *testing.T) {
	disk := memory(t, sources()["full"]) // 3 MiB, the first of which is free
	start := time.Now()
	if _, err := Run(t.Context(), disk, filepath.Join(t.TempDir(), "out"), Options{Bandwidth: 4 << 20}); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took < 400*time.Millisecond {
		t.Errorf("3 MiB at 4 MiB a second took %v", took)
	}
	why := errors.New("the user pressed ^C")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(50*time.Millisecond, func() { cancel(why) })
	if _, err := Run(ctx, disk, filepath.Join(t.TempDir(), "out"), Options{Bandwidth: 1000}); !errors.Is(err, why) {
		t.Errorf("cancelled while it waits: %v", err)
	}
}
