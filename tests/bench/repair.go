package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"hyper2kvm/agent/api"
)

// v2v runs virt-v2v. A run takes minutes, so the time until it begins to copy,
// which is what it inspects and repairs in, is kept for the works that compare
// with that part alone.
type v2v struct {
	p     Parts
	mu    sync.Mutex
	parts []float64
}

// whole converts the guest.
func (v *v2v) whole(ctx context.Context, dir string) (Took, error) {
	out, err := libguestfs(ctx, "virt-v2v", "-i", "disk", v.p.Guest, "-o", "local", "-of", "qcow2", "-os", dir)
	if err != nil {
		return Took{}, err
	}
	part, err := untilCopying(out)
	if err != nil {
		return Took{}, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.parts = append(v.parts, part)
	return Took{}, nil
}

// repair gives the n-th run's time until the copy; runs that there were serve.
func (v *v2v) repair() Side {
	n := 0
	return func(ctx context.Context, dir string) (Took, error) {
		for n >= len(v.parts) {
			if _, err := v.whole(ctx, dir); err != nil {
				return Took{}, err
			}
		}
		n++
		return Took{Part: v.parts[n-1]}, nil
	}
}

// copying is the line of virt-v2v that ends the part in which it repairs.
var copying = regexp.MustCompile(`(?m)^\[ *([0-9.]+)\] Copying disk 1/`)

func untilCopying(out []byte) (float64, error) {
	m := copying.FindSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("read virt-v2v's progress: no time of its copy in\n%s", out)
	}
	return strconv.ParseFloat(string(m[1]), 64)
}

// convert converts the guest and gives the report.
func (p Parts) convert(ctx context.Context, dir string, flags ...string) (*api.Report, error) {
	args := append([]string{"convert", p.Guest, "-o", filepath.Join(dir, "out.qcow2"), "--json"}, flags...)
	out, err := exec.CommandContext(ctx, p.H2K, args...).Output()
	if err != nil {
		return nil, fmt.Errorf("run h2k convert: %w", err)
	}
	report := new(api.Report)
	if err := json.Unmarshal(out, report); err != nil {
		return nil, fmt.Errorf("read report: %w", err)
	}
	return report, nil
}

// wholeConvert is the main job; its note says what our last round spent where.
func (p Parts) wholeConvert(peer *v2v) Work {
	var spent []string
	return Work{
		Name: "whole convert of the Debian 12 guest", Limit: 0.15, PeerName: "virt-v2v", Peer: peer.whole,
		Ours: func(ctx context.Context, dir string) (Took, error) {
			report, err := p.convert(ctx, dir)
			if err != nil {
				return Took{}, err
			}
			spent = nil
			for _, s := range report.Stages {
				spent = append(spent, fmt.Sprintf("%s %.1f s (%s)", s.Stage, s.Seconds, s.Detail))
			}
			return Took{}, nil
		},
		Note: func() string { return "stages of the last round: " + strings.Join(spent, ", ") },
	}
}

// repair is INSPECT and FIX of the main job, the start of the helper VM included.
func (p Parts) repair(how string, limit float64, peer *v2v) Work {
	return Work{
		Name: "INSPECT and FIX of the Debian 12 guest, " + how, Limit: limit, PeerName: "virt-v2v until it copies", Peer: peer.repair(),
		Ours: func(ctx context.Context, dir string) (Took, error) {
			report, err := p.convert(ctx, dir, "--initramfs", how)
			if err != nil {
				return Took{}, err
			}
			for _, s := range report.Stages {
				if s.Stage == api.Fix {
					return Took{Part: s.Seconds}, nil
				}
			}
			return Took{}, fmt.Errorf("read report: it has no stage %s", api.Fix)
		},
	}
}

// livefix is a whole repair of a running guest over loopback, from login to the
// proof: the benchmark of its package, against a real sshd.
func livefix() Work {
	return Work{
		Name: "h2k-livefix over loopback, without the guest's generator", AtMost: 5,
		Ours: func(ctx context.Context, _ string) (Took, error) {
			out, err := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "Livefix/loopback", "-benchtime", "1x", "./livefix/cli").CombinedOutput()
			if err != nil {
				return Took{}, fmt.Errorf("run benchmark of livefix: %w\n%s", err, out)
			}
			m := nanoseconds.FindSubmatch(out)
			if m == nil {
				return Took{}, fmt.Errorf("read benchmark of livefix: no time in\n%s", out)
			}
			ns, err := strconv.ParseFloat(string(m[1]), 64)
			return Took{Part: ns / 1e9}, err
		},
	}
}

var nanoseconds = regexp.MustCompile(`([0-9.]+) ns/op`)

// libguestfs runs a peer under the same accelerator as ours: TCG.
func libguestfs(ctx context.Context, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LIBGUESTFS_BACKEND=direct", "LIBGUESTFS_BACKEND_SETTINGS=force_tcg")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("run %s: %w\n%s", name, err, out.Bytes())
	}
	return out.Bytes(), nil
}
