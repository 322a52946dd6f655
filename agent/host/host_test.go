package host

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/qemu"
	"hyper2kvm/agent/validate"
	"hyper2kvm/initramfs"
)

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// bare is a host on which nothing is installed.
func bare(t *testing.T, osRelease string) Host {
	dir := t.TempDir()
	return Host{
		ImageDir:  filepath.Join(dir, "image"),
		Folders:   []string{dir},
		OSRelease: write(t, filepath.Join(dir, "os-release"), osRelease),
		MemInfo:   write(t, filepath.Join(dir, "meminfo"), "MemTotal: 9 kB\nMemAvailable:    1024 kB\n"),
		KVM:       filepath.Join(dir, "kvm"),
		Program:   "qemu-that-nobody-has",
		Accelerator: func(context.Context) (qemu.Accel, error) {
			return qemu.Accel{Name: qemu.TCG, Why: "there is no /dev/kvm"}, nil
		},
		UEFI: func() (validate.UEFIImage, error) { return validate.UEFIImage{}, errors.New("none") },
		Now:  time.Now,
	}
}

func find(t *testing.T, checks []api.Check, name string) api.Check {
	t.Helper()
	for _, c := range checks {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("no check %q", name)
	return api.Check{}
}

func TestBareHostIsToldWhatToInstall(t *testing.T) {
	for osRelease, want := range map[string][2]string{
		"ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n": {"apt-get install --no-install-recommends qemu-system-x86", "apt-get install --no-install-recommends ovmf"},
		"ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n":        {"apt-get install --no-install-recommends qemu-system-x86", "apt-get install --no-install-recommends ovmf"},
		"ID=fedora\n": {"dnf install qemu-system-x86-core", "dnf install edk2-ovmf"},
		"ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n": {"qemu-kvm", "dnf install edk2-ovmf"},
		"ID=opensuse-leap\nID_LIKE=\"suse opensuse\"\n":  {"zypper install qemu-x86", "zypper install qemu-ovmf-x86_64"},
		"ID=arch\n":      {"pacman -S qemu-system-x86", "pacman -S edk2-ovmf"},
		"ID=slackware\n": {"package manager", "package manager"},
	} {
		checks := bare(t, osRelease).Checks(t.Context())
		for i, name := range []string{"QEMU", "UEFI firmware"} {
			c := find(t, checks, name)
			if c.OK || !strings.Contains(c.Fix, want[i]) {
				t.Errorf("%q: %s = %+v, want a fix with %q", osRelease, name, c, want[i])
			}
		}
		for _, name := range []string{"helper image", "memory", "accelerator"} {
			if c := find(t, checks, name); c.OK || c.Fix == "" {
				t.Errorf("%s = %+v, want it missing, with what to do", name, c)
			}
		}
	}
}

func TestImage(t *testing.T) {
	h := bare(t, "ID=debian\n")
	if err := os.Mkdir(h.ImageDir, 0o755); err != nil {
		t.Fatal(err)
	}
	sums := ""
	for _, name := range imageFiles() {
		write(t, filepath.Join(h.ImageDir, name), name)
		sums += fmt.Sprintf("%x  %s\n", sha256.Sum256([]byte(name)), name)
	}
	write(t, filepath.Join(h.ImageDir, sumsFile), sums)
	if c := h.image(); c.OK || !c.Needed || c.Fix == "" {
		t.Errorf("image of another build: %+v", c)
	}
	write(t, filepath.Join(h.ImageDir, initramfs.ContractFile), initramfs.Contract+"\n")
	if c := h.image(); !c.OK || !strings.Contains(c.Detail, "0 minutes ago") {
		t.Errorf("good image: %+v", c)
	}
	list := filepath.Join(h.ImageDir, sumsFile)
	write(t, list, sums[:strings.Index(sums, "\n")+1])
	if c := h.image(); c.OK || !c.Needed || !strings.Contains(c.Detail, "does not name initramfs.img") {
		t.Errorf("list of half an image: %+v", c)
	}
	if err := os.Remove(list); err != nil {
		t.Fatal(err)
	}
	if c := h.image(); c.OK || c.Needed || c.Fix == "" {
		t.Errorf("image without a list: %+v", c)
	}
	write(t, list, sums+strings.Repeat("0", 64)+"  tools.img\n")
	if c := h.image(); c.OK || !c.Needed || !strings.Contains(c.Detail, "tools.img") {
		t.Errorf("image without a part that its list names: %+v", c)
	}
	write(t, list, sums)
	h.Now = func() time.Time { return time.Now().Add(2 * imageMaxAge) }
	if c := h.image(); c.OK || c.Needed || c.Fix == "" {
		t.Errorf("old image: %+v", c)
	}
	write(t, filepath.Join(h.ImageDir, "vmlinuz"), "half of it")
	if c := h.image(); c.OK || !c.Needed || !strings.Contains(c.Detail, "vmlinuz") {
		t.Errorf("damaged image: %+v", c)
	}
	if err := os.Remove(filepath.Join(h.ImageDir, "vmlinuz")); err != nil {
		t.Fatal(err)
	}
	if c := h.image(); c.OK || !strings.Contains(c.Detail, "no vmlinuz") {
		t.Errorf("half an image: %+v", c)
	}
}

func TestThisHost(t *testing.T) {
	checks := This(t.TempDir()).Checks(t.Context())
	for _, c := range checks {
		t.Logf("%+v", c)
		if c.Detail == "" {
			t.Errorf("%s says nothing", c.Name)
		}
		if !c.OK && c.Fix == "" {
			t.Errorf("%s is not well and no way out is given: %+v", c.Name, c)
		}
	}
	if c := find(t, checks, "memory"); !strings.HasSuffix(c.Detail, "GiB available") {
		t.Errorf("memory = %+v", c)
	}
}
