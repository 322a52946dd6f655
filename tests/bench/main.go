package bench

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Main measures every work whose name holds -only and prints the table; -o
// keeps it in a file as well.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("h2k-bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	var p Parts
	flags.StringVar(&p.H2K, "h2k", "bin/h2k", "the h2k to measure")
	flags.StringVar(&p.ImageDir, "image", "build/image", "folder of the helper image")
	flags.StringVar(&p.Guest, "guest", "build/guests/debian12-bios.vmdk", "the broken guest")
	kernel := flags.String("kernel", kernelCache(), "folder of the kernel package that the image was built from")
	rounds := flags.Int("rounds", 5, "rounds of each measurement")
	only := flags.String("only", "", "measure only works whose name holds this")
	out := flags.String("o", "", "file to keep the table in")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var err error
	if p.Kernel, p.Modules, err = peerKernel(*kernel); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "h2k-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var rows []Row
	for _, w := range Works(p) {
		if !strings.Contains(w.Name, *only) {
			continue
		}
		row, err := Measure(ctx, stderr, dir, w, *rounds)
		if err != nil {
			return err
		}
		rows = append(rows, row)
	}
	table := Table(rows)
	fmt.Fprint(stdout, table)
	if *out == "" {
		return nil
	}
	return os.WriteFile(*out, []byte(table), 0o644)
}

// kernelCache is where buildimage keeps the kernel package it fetched, the
// newest one.
func kernelCache() string {
	cache, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	found, err := filepath.Glob(filepath.Join(cache, "hyper2kvm", "kernel", "*"))
	if err != nil || len(found) == 0 {
		return ""
	}
	return found[len(found)-1]
}

// peerKernel finds kernel and modules for libguestfs's appliance.
func peerKernel(dir string) (kernel, modules string, err error) {
	for _, part := range []struct {
		pattern string
		to      *string
	}{{"boot/vmlinuz-*", &kernel}, {"usr/lib/modules/*", &modules}, {"lib/modules/*", &modules}} {
		found, err := filepath.Glob(filepath.Join(dir, part.pattern))
		if err != nil {
			return "", "", fmt.Errorf("look for a kernel in %s: %w", dir, err)
		}
		if len(found) > 0 {
			*part.to = found[0]
		}
	}
	if kernel == "" || modules == "" {
		return "", "", fmt.Errorf("find a kernel for the peers: %q holds none", dir)
	}
	return kernel, modules, nil
}
