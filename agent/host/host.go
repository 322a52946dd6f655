// Package host looks at the machine that plans run on: what is there, what is
// missing, and which package brings it.
package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/qemu"
	"hyper2kvm/agent/validate"
	"hyper2kvm/initramfs"
)

// Host is what the checks look at; a test looks at another one.
type Host struct {
	ImageDir  string   // folder of the helper image
	Folders   []string // where outputs and temporary files go
	OSRelease string   // file in the format of os-release(5)
	MemInfo   string   // file in the format of /proc/meminfo
	KVM       string   // the device
	Program   string   // QEMU
	// Accelerator proves what virtual machines can use.
	Accelerator func(context.Context) (qemu.Accel, error)
	// UEFI finds the firmware for guests.
	UEFI func() (validate.UEFIImage, error)
	Now  func() time.Time
}

// This is the machine that the program runs on.
func This(imageDir string) Host {
	return Host{
		ImageDir:  imageDir,
		Folders:   []string{".", os.TempDir()},
		OSRelease: "/etc/os-release", MemInfo: memInfo, KVM: "/dev/kvm",
		Program:     qemu.DefaultProgram,
		Accelerator: qemu.Accelerator,
		UEFI:        validate.FindUEFI,
		Now:         time.Now,
	}
}

// Checks looks at everything, in the order in which a user would mend it.
func (h Host) Checks(ctx context.Context) []api.Check {
	install := readInstaller(h.OSRelease)
	checks := []api.Check{
		h.system(install),
		h.qemu(ctx, install),
		h.kvm(ctx),
		h.uefi(install),
		h.image(),
	}
	for _, dir := range h.Folders {
		checks = append(checks, space(dir))
	}
	return append(checks, h.memory(), h.rights())
}

func (h Host) system(in installer) api.Check {
	c := api.Check{Name: "system", Needed: true, OK: runtime.GOOS == "linux"}
	c.Detail = fmt.Sprintf("%s, %s/%s", in.name, runtime.GOOS, runtime.GOARCH)
	if !c.OK {
		c.Fix = "run h2k on Linux"
	}
	return c
}

// qemuTimeout bounds how long QEMU may take to say its version.
const qemuTimeout = 10 * time.Second

func (h Host) qemu(ctx context.Context, in installer) api.Check {
	c := api.Check{Name: "QEMU", Needed: true}
	path, err := exec.LookPath(h.Program)
	if err != nil {
		c.Detail, c.Fix = h.Program+" is not installed", in.install(packageQEMU)
		if in.family == rhel && isFile(rhelQEMU) {
			// RHEL names it otherwise and keeps it out of PATH.
			c.Detail = h.Program + " is not in PATH; " + rhelQEMU + " is there"
			c.Fix = "ln -s " + rhelQEMU + " /usr/local/bin/" + h.Program
		}
		return c
	}
	ctx, cancel := context.WithTimeout(ctx, qemuTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		c.Detail, c.Fix = fmt.Sprintf("%s does not run: %v", path, err), in.install(packageQEMU)
		return c
	}
	line, _, _ := bytes.Cut(out, []byte("\n"))
	c.OK, c.Detail = true, strings.TrimPrefix(string(line), "QEMU emulator version ")+" ("+path+")"
	return c
}

func (h Host) kvm(ctx context.Context) api.Check {
	c := api.Check{Name: "accelerator"}
	a, err := h.Accelerator(ctx)
	if err != nil {
		c.Detail = err.Error()
		return c
	}
	c.OK, c.Detail = a.Name == qemu.KVM, a.String()
	if c.OK {
		return c
	}
	switch _, err := os.Stat(h.KVM); {
	case os.Getenv(qemu.AccelEnv) != "":
		c.Fix = "all works without KVM, slower; unset " + qemu.AccelEnv + " to have it tried"
	case err != nil:
		c.Fix = "all works without KVM, slower; to have it, switch virtualisation on in the firmware or, in a virtual machine, nested virtualisation"
	case !writable(h.KVM):
		c.Fix = "all works without KVM, slower; to have it: usermod -aG kvm " + userName() + ", then log in anew"
	default:
		c.Fix = "all works without KVM, slower; it is this machine's own hypervisor that does not give it"
	}
	return c
}

func (h Host) uefi(in installer) api.Check {
	fw, err := h.UEFI()
	if err != nil {
		return api.Check{Name: "UEFI firmware", Detail: "none found: UEFI guests cannot be validated", Fix: in.install(packageUEFI)}
	}
	return api.Check{Name: "UEFI firmware", OK: true, Detail: fw.Code}
}

func isFile(path string) bool {
	s, err := os.Stat(path)
	return err == nil && s.Mode().IsRegular()
}

// imageMaxAge is when a helper image is old enough that its kernel and tools
// miss what newer guests' file systems need.
const imageMaxAge = 365 * 24 * time.Hour

// imageFiles are the parts without which no helper VM starts.
func imageFiles() []string { return []string{"vmlinuz", "initramfs.img"} }

const imageFix = "make appliance, or h2k image build"

func (h Host) image() api.Check {
	c := api.Check{Name: "helper image", Needed: true, Fix: imageFix}
	var newest time.Time
	for _, name := range imageFiles() {
		s, err := os.Stat(filepath.Join(h.ImageDir, name))
		if err != nil {
			c.Detail = fmt.Sprintf("no %s in %s", name, h.ImageDir)
			return c
		}
		if s.ModTime().After(newest) {
			newest = s.ModTime()
		}
	}
	if err := initramfs.CheckContract(h.ImageDir); err != nil {
		c.Detail = err.Error()
		return c
	}
	switch err := verifySums(h.ImageDir); {
	case errors.Is(err, errNoSums):
		c.Needed, c.Detail = false, fmt.Sprintf("%s, not verified: %v", h.ImageDir, err)
		return c
	case err != nil:
		c.Detail = err.Error()
		return c
	}
	age := h.Now().Sub(newest)
	c.Detail = fmt.Sprintf("%s, built %s", h.ImageDir, ago(age))
	if age > imageMaxAge {
		c.Needed, c.Detail = false, c.Detail+": old"
		return c
	}
	c.OK, c.Fix = true, ""
	return c
}

func ago(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < 2*time.Hour:
		return fmt.Sprintf("%.0f minutes ago", max(d, 0).Minutes())
	case d < 2*day:
		return fmt.Sprintf("%.0f hours ago", d.Hours())
	}
	return fmt.Sprintf("%d days ago", d/day)
}
