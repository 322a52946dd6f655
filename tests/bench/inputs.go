package bench

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Names of the inputs in the bench's folder, all made of the guest's disk.
const (
	rawInput    = "guest.raw"
	streamInput = "stream.vmdk"
	flatInput   = "flat.qcow2"
	chainInput  = "chain3.qcow2"
	hugeInput   = "huge.raw"
)

// input makes an input with qemu-img, once.
func (p Parts) input(name string, options ...string) func(context.Context, string) error {
	return func(ctx context.Context, dir string) error {
		return once(filepath.Join(dir, name), func(out string) error {
			_, err := command(ctx, "qemu-img", append(append([]string{"convert"}, options...), p.Guest, out)...)
			return err
		})
	}
}

func (p Parts) raw(ctx context.Context, dir string) error {
	return p.input(rawInput, "-O", "raw")(ctx, dir)
}

func once(out string, build func(out string) error) error {
	if _, err := os.Stat(out); err == nil {
		return nil
	}
	return build(out)
}

// chain makes a flat qcow2 and, over three quarters of the same content, three
// snapshots that hold a part of the rest each: a guest that was in use.
func (p Parts) chain(ctx context.Context, dir string) error {
	if err := p.input(flatInput, "-O", "qcow2")(ctx, dir); err != nil {
		return err
	}
	if err := p.raw(ctx, dir); err != nil {
		return err
	}
	return once(filepath.Join(dir, chainInput), func(string) error {
		script := `set -e
cd "$1"
size=$(stat -c %s guest.raw) len=$((size / 256))
offset() { echo $((($2 * 8 + $1) * size / 64 / 65536 * 65536)); }
cp --sparse=always guest.raw layer.raw
# What the snapshots will hold is taken out of the base.
for i in 1 2 3; do for n in 0 1 2 3 4 5 6 7; do fallocate -p -o $(offset $i $n) -l $len layer.raw; done; done
qemu-img convert -O qcow2 layer.raw chain0.qcow2
for i in 1 2 3; do
	qemu-img create -q -f qcow2 -F qcow2 -b chain$((i - 1)).qcow2 chain$i.qcow2
	for n in 0 1 2 3 4 5 6 7; do
		dd if=guest.raw of=part bs=65536 iflag=skip_bytes,count_bytes skip=$(offset $i $n) count=$len status=none
		qemu-io -f qcow2 -c "write -q -s part $(offset $i $n) $len" chain$i.qcow2
	done
done
rm -f part layer.raw
`
		_, err := command(ctx, "bash", "-c", script, "bash", dir)
		return err
	})
}

// huge is a disk of 8 TiB with 1 MiB in it.
func huge(_ context.Context, dir string) error {
	return once(filepath.Join(dir, hugeInput), func(out string) error {
		f, err := os.Create(out)
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := f.WriteAt(bytes.Repeat([]byte("data"), 256<<10), 5<<40); err != nil {
			return err
		}
		return f.Truncate(8 << 40)
	})
}

// command runs a program and says how much memory it took.
func command(ctx context.Context, name string, args ...string) (Took, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return Took{}, fmt.Errorf("run %s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return Took{Memory: peak(cmd.ProcessState)}, nil
}
