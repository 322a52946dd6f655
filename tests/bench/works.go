package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"hyper2kvm/agent/api"
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
	return []Work{
		{
			Name: "helper VM ready for the first command", Limit: 0.3, PeerName: "guestfish run",
			Ours: p.helperReady, Peer: p.guestfish,
		},
		p.wholeConvert(),
		{
			Name: "sparse VMDK to qcow2", Limit: 1.0, PeerName: "qemu-img -W -m 16",
			Ours: p.diskConvert, Peer: p.qemuImg,
		},
	}
}

// helperReady starts the VM until its agent answers and, as guestfish does,
// ends it.
func (p Parts) helperReady(ctx context.Context, _ string) error {
	vm, err := helper.Start(ctx, helper.Config{ImageDir: p.ImageDir})
	if err != nil {
		return err
	}
	return vm.Close()
}

func (p Parts) guestfish(ctx context.Context, _ string) error {
	return p.libguestfs(ctx, "guestfish", "-a", "/dev/null", "run")
}

// wholeConvert is the main job; its note says what our last round spent where.
func (p Parts) wholeConvert() Work {
	var spent []string
	return Work{
		Name: "whole convert of the Debian 12 guest", Limit: 0.15, PeerName: "virt-v2v",
		Ours: func(ctx context.Context, dir string) error {
			out, err := exec.CommandContext(ctx, p.H2K, "convert", p.Guest, "-o", filepath.Join(dir, "out.qcow2"), "--json").Output()
			if err != nil {
				return fmt.Errorf("run h2k convert: %w", err)
			}
			var report api.Report
			if err := json.Unmarshal(out, &report); err != nil {
				return fmt.Errorf("read report: %w", err)
			}
			spent = nil
			for _, s := range report.Stages {
				spent = append(spent, fmt.Sprintf("%s %.1f s (%s)", s.Stage, s.Seconds, s.Detail))
			}
			return nil
		},
		Peer: p.virtV2V,
		Note: func() string { return "stages of the last round: " + strings.Join(spent, ", ") },
	}
}

func (p Parts) virtV2V(ctx context.Context, dir string) error {
	return p.libguestfs(ctx, "virt-v2v", "-i", "disk", p.Guest, "-o", "local", "-of", "qcow2", "-os", dir)
}

func (p Parts) diskConvert(ctx context.Context, dir string) error {
	return command(ctx, nil, p.H2K, "disk", "convert", p.Guest, "-o", filepath.Join(dir, "out.qcow2"))
}

func (p Parts) qemuImg(ctx context.Context, dir string) error {
	return command(ctx, nil, "qemu-img", "convert", "-W", "-m", "16", "-O", "qcow2", p.Guest, filepath.Join(dir, "out.qcow2"))
}

// libguestfs runs a peer under the same accelerator as ours: TCG.
func (p Parts) libguestfs(ctx context.Context, name string, args ...string) error {
	return command(ctx, []string{"LIBGUESTFS_BACKEND=direct", "LIBGUESTFS_BACKEND_SETTINGS=force_tcg"}, name, args...)
}

func command(ctx context.Context, env []string, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("run %s: %w\n%s", name, err, out)
	}
	return nil
}
