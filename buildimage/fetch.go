package buildimage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// kernelPackages are the packages that stand for the newest kernel of a kind,
// best first. The small "cloud" kernels have all that a virtual machine needs;
// 6.12 reads the file systems that Debian 13 makes.
func kernelPackages() []string {
	return []string{"linux-image-6.12-cloud-amd64", "linux-image-cloud-amd64", "linux-image-amd64"}
}

// ErrNoKernelPackage says that apt knows none of the packages.
var ErrNoKernelPackage = errors.New("apt knows no kernel package")

// FetchKernel downloads the newest fitting kernel package of this machine's
// Debian release and unpacks it below cache; nothing is installed. A kernel
// that is there already is not fetched again. It returns the unpacked tree.
func FetchKernel(ctx context.Context, cache string, log *slog.Logger) (string, error) {
	if cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("find cache folder: %w", err)
		}
		cache = filepath.Join(dir, "hyper2kvm", "kernel")
	}
	name, version, err := newestKernel(ctx)
	if err != nil {
		if have, _ := filepath.Glob(filepath.Join(cache, "*", "boot", "vmlinuz-*")); len(have) > 0 {
			tree := filepath.Dir(filepath.Dir(have[len(have)-1]))
			log.Warn("taking the kernel fetched before", "folder", tree, "because", err)
			return tree, nil
		}
		return "", err
	}
	tree := filepath.Join(cache, name+"_"+strings.ReplaceAll(version, ":", "_"))
	if have, _ := filepath.Glob(filepath.Join(tree, "boot", "vmlinuz-*")); len(have) > 0 {
		return tree, nil
	}
	log.Info("fetching", "package", name, "version", version)
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", fmt.Errorf("make folder for kernels: %w", err)
	}
	temp, err := os.MkdirTemp(cache, ".fetch-")
	if err != nil {
		return "", fmt.Errorf("make folder for kernel: %w", err)
	}
	err = fetchInto(ctx, temp, name+"="+version, tree)
	return tree, errors.Join(err, os.RemoveAll(temp))
}

func fetchInto(ctx context.Context, temp, pkg, tree string) error {
	if _, err := output(ctx, temp, "apt-get", "-q", "download", pkg); err != nil {
		return fmt.Errorf("download kernel package: %w", err)
	}
	files, err := filepath.Glob(filepath.Join(temp, "*.deb"))
	if err != nil || len(files) != 1 {
		return fmt.Errorf("download kernel package %s: %d files came: %w", pkg, len(files), errors.Join(err, os.ErrNotExist))
	}
	unpacked := filepath.Join(temp, "tree")
	if _, err := output(ctx, temp, "dpkg-deb", "-x", files[0], unpacked); err != nil {
		return fmt.Errorf("unpack kernel package: %w", err)
	}
	if err := os.Rename(unpacked, tree); err != nil {
		return fmt.Errorf("keep kernel package: %w", err)
	}
	return nil
}

// newestKernel asks apt which package the first known one of kernelPackages
// stands for.
func newestKernel(ctx context.Context) (name, version string, err error) {
	image := regexp.MustCompile(`(?m)^\s*Depends: (linux-image-[0-9]\S*)`)
	candidate := regexp.MustCompile(`(?m)^\s*Candidate: (\S+)`)
	for _, meta := range kernelPackages() {
		text, err := output(ctx, "", "apt-cache", "depends", meta)
		if errors.Is(err, exec.ErrNotFound) {
			return "", "", fmt.Errorf("look for kernel package: %w", err)
		}
		found := image.FindStringSubmatch(text)
		if err != nil || found == nil {
			continue
		}
		text, err = output(ctx, "", "apt-cache", "policy", found[1])
		if v := candidate.FindStringSubmatch(text); err == nil && v != nil && v[1] != "(none)" {
			return found[1], v[1], nil
		}
	}
	return "", "", fmt.Errorf("%w: looked for %s in the lists that apt-get update brings",
		ErrNoKernelPackage, strings.Join(kernelPackages(), ", "))
}

// output runs a program of this machine and returns what it prints.
func output(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
}
