package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"hyper2kvm/agent/helper"
)

// Parts are the built things that the works run.
type Parts struct {
	H2K      string // bin/h2k
	ImageDir string // build/image
	Guest    string // the first broken guest, VMDK
}

// Works lists what is measured.
func Works(p Parts) []Work {
	peer := &v2v{p: p}
	works := []Work{
		{
			Name: "helper VM ready for the first command", Limit: 0.3, PeerName: "guestfish run",
			Ours: p.helperReady, Peer: p.guestfish,
		},
		p.wholeConvert(peer),
		p.repair("inject", 0.1, peer),
		p.repair("regenerate", 1.0, peer),
		livefix(),
		p.disk("sparse VMDK to qcow2", p.Guest, "qcow2", 1.0, p.raw),
		p.stream(),
		p.packed("zlib", 0.5),
		p.packed("zstd", 0.8),
		p.disk("raw to qcow2", rawInput, "qcow2", 1.0, p.raw),
		p.disk("sparse VMDK to raw", p.Guest, "raw", 1.0, p.raw),
	}
	for _, s := range []struct{ name, file, format string }{
		{"VHD", "guest.vhd", "vpc"}, {"VHDX", "guest.vhdx", "vhdx"}, {"VDI", "guest.vdi", "vdi"},
	} {
		for _, to := range []string{"qcow2", "raw"} {
			works = append(works, p.disk(s.name+" to "+to, s.file, to, 1.0, both(p.raw, p.input(s.file, "-O", s.format))))
		}
	}
	return append(works, p.chained(), p.memory("zstd"), p.memory("none"), p.hugeDisk())
}

// both prepares two inputs.
func both(a, b func(context.Context, string) error) func(context.Context, string) error {
	return func(ctx context.Context, dir string) error {
		if err := a(ctx, dir); err != nil {
			return err
		}
		return b(ctx, dir)
	}
}

// disk is one conversion that only moves bytes; its limit is a copy.
func (p Parts) disk(name, src, format string, limit float64, prepare func(context.Context, string) error) Work {
	return Work{
		Name: name, Limit: limit, Prepare: prepare,
		Ours: p.h2k(src, "--format", format),
		Peer: qemuImg(src, "-O", format), PeerName: "qemu-img -W -m 16",
		Floor: copyFile, FloorName: "cp --sparse",
	}
}

func (p Parts) stream() Work {
	w := p.disk("streamOptimized VMDK to qcow2", streamInput, "qcow2", 0.5, p.input(streamInput, "-O", "vmdk", "-o", "subformat=streamOptimized"))
	w.Floor, w.FloorName = readAlone(streamInput), "inflate alone, all cores"
	return w
}

// packed is a conversion that compresses; its limit is the compressor alone.
// Its note says how large the outputs are.
func (p Parts) packed(how string, limit float64) Work {
	var ours, peer int64
	w := p.disk("raw to qcow2 "+how, rawInput, "qcow2", limit, p.raw)
	w.Floor, w.FloorName = packAlone(how), "compressor alone, all cores"
	w.Ours = sized(&ours, p.h2k(rawInput, "--format", "qcow2", "--compress", how))
	w.Peer = sized(&peer, qemuImg(rawInput, "-c", "-O", "qcow2", "-o", "compression_type="+how))
	w.Note = func() string {
		return fmt.Sprintf("%d bytes, qemu-img %d: %.3f of its size", ours, peer, float64(ours)/float64(peer))
	}
	return w
}

// sized notes the size of a side's output.
func sized(size *int64, side Side) Side {
	return func(ctx context.Context, dir string) (Took, error) {
		took, err := side(ctx, dir)
		if err != nil {
			return Took{}, err
		}
		info, err := os.Stat(filepath.Join(dir, "out"))
		if err != nil {
			return Took{}, err
		}
		*size = info.Size()
		return took, nil
	}
}

// chained compares a chain of four with one flat file of the same content.
func (p Parts) chained() Work {
	return Work{
		Name: "qcow2 chain of four to qcow2", Limit: 1.1, Prepare: p.chain,
		Ours: p.h2k(chainInput), Peer: p.h2k(flatInput), PeerName: "ours, one flat qcow2",
		Floor: copyFile, FloorName: "cp --sparse",
	}
}

func (p Parts) memory(how string) Work {
	flags := []string{"-O", "qcow2"}
	if how != "none" {
		flags = append(flags, "-c", "-o", "compression_type="+how)
	}
	return Work{
		Name: "memory of raw to qcow2, compression " + how, Memory: true, AtMost: 256, Prepare: p.raw,
		Ours: p.h2k(rawInput, "--format", "qcow2", "--compress", how), PeerName: "qemu-img -W -m 16",
		Peer: qemuImg(rawInput, flags...),
	}
}

func (p Parts) hugeDisk() Work {
	return Work{
		Name: "8 TiB with 1 MiB used, raw to qcow2", AtMost: 1, Prepare: huge,
		Ours: p.h2k(hugeInput, "--source-format", "raw"), Peer: qemuImg(hugeInput, "-f", "raw", "-O", "qcow2"), PeerName: "qemu-img -W -m 16",
	}
}

// at is an input: a file of its own, or one in the bench's folder, which is the
// one that the round's lies in.
func at(dir, src string) string {
	if filepath.Base(src) != src {
		return src
	}
	return filepath.Join(filepath.Dir(dir), src)
}

// h2k converts src to the file "out".
func (p Parts) h2k(src string, flags ...string) Side {
	return func(ctx context.Context, dir string) (Took, error) {
		return command(ctx, p.H2K, append([]string{"disk", "convert", at(dir, src), "-o", filepath.Join(dir, "out")}, flags...)...)
	}
}

func qemuImg(src string, flags ...string) Side {
	return func(ctx context.Context, dir string) (Took, error) {
		args := append([]string{"convert", "-W", "-m", "16"}, flags...)
		return command(ctx, "qemu-img", append(args, at(dir, src), filepath.Join(dir, "out"))...)
	}
}

// helperReady starts the VM until its agent answers and, as guestfish does,
// ends it.
func (p Parts) helperReady(ctx context.Context, _ string) (Took, error) {
	vm, err := helper.Start(ctx, helper.Config{ImageDir: p.ImageDir})
	if err != nil {
		return Took{}, err
	}
	return Took{}, vm.Close()
}

func (p Parts) guestfish(ctx context.Context, _ string) (Took, error) {
	_, err := libguestfs(ctx, "guestfish", "-a", "/dev/null", "run")
	return Took{}, err
}
