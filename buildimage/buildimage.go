// Package buildimage builds the appliance: a kernel, an initramfs with the
// agent, and the tools image, from this machine's packages.
//
// The same inputs give the same bytes: members are sorted, times and owners
// are zero, and nothing of the build's surroundings is written.
package buildimage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"hyper2kvm/initramfs"
)

// The files of an image folder.
const (
	// Vmlinuz is the kernel as its package brings it.
	Vmlinuz = "vmlinuz"
	// Vmlinux is the same, unpacked: QEMU starts it directly (PVH). It is there
	// where the kernel's compression is one that we read.
	Vmlinux   = "vmlinux"
	Initramfs = "initramfs.img"
	Tools     = "tools.img"
	Sums      = "SHA256SUMS"
)

// Helper is the profile of the helper VM.
const Helper = "helper"

// Options say what to build.
type Options struct {
	Profile string // "" is Helper
	// Kernel is the folder of an unpacked kernel package, with boot/vmlinuz-*
	// and lib/modules/*; "" fetches a package into KernelCache.
	Kernel string
	// KernelCache keeps fetched kernels, "" is a folder of the user's cache.
	KernelCache string
	// Out is the folder to write. Files of ours in it are replaced.
	Out string
	// Agent and Canary are the programs' paths; "" takes h2k-agent and
	// h2k-canary from beside the running program, else builds them from the
	// source tree that the working directory is in.
	Agent, Canary string
	Log           *slog.Logger // nil is silent
}

// Build builds an image into o.Out. The folder holds a whole image or, until
// its last file is there, none that is used.
func Build(ctx context.Context, o Options) error {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Profile != "" && o.Profile != Helper {
		return fmt.Errorf("build image: unknown profile %q", o.Profile)
	}
	if o.Out == "" {
		return errors.New("build image: no folder to write")
	}
	if err := os.MkdirAll(o.Out, 0o755); err != nil {
		return fmt.Errorf("make image folder: %w", err)
	}
	temp, err := os.MkdirTemp(o.Out, ".build-")
	if err != nil {
		return fmt.Errorf("make temporary folder: %w", err)
	}
	err = build(ctx, o, temp)
	return errors.Join(err, os.RemoveAll(temp))
}

func build(ctx context.Context, o Options, temp string) error {
	programs, err := findPrograms()
	if err != nil {
		return err
	}
	agent, err := ownProgram(ctx, o.Agent, "h2k-agent", temp, o.Log)
	if err != nil {
		return err
	}
	canary, err := ownProgram(ctx, o.Canary, "h2k-canary", temp, o.Log)
	if err != nil {
		return err
	}
	tree := o.Kernel
	if tree == "" {
		if tree, err = FetchKernel(ctx, o.KernelCache, o.Log); err != nil {
			return err
		}
	}
	kernel, err := openKernel(tree)
	if err != nil {
		return err
	}
	o.Log.Info("kernel", "version", kernel.version)
	out := filepath.Join(temp, "out")
	if err := os.Mkdir(out, 0o755); err != nil {
		return fmt.Errorf("make temporary folder: %w", err)
	}
	if err := kernel.write(out); err != nil {
		return err
	}
	if err := writeInitramfs(filepath.Join(out, Initramfs), temp, agent, kernel); err != nil {
		return err
	}
	if err := writeTools(filepath.Join(out, Tools), programs, canary, kernel, o.Log); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(out, initramfs.ContractFile), []byte(initramfs.Contract+"\n"), 0o644); err != nil {
		return fmt.Errorf("write contract: %w", err)
	}
	return publish(out, o.Out)
}
