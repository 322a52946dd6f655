package linux

import (
	"bytes"
	"io"
	"strings"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/inspect"
	"hyper2kvm/formats/pe"
)

// startup helps a guest whose firmware started the kernel itself: its arguments
// were in the boot entry that stayed behind. The shell that firmwares for
// virtual machines bring runs startup.nsh when nothing else can be started (UEFI
// Shell specification, 3.3), so the kernel gets them there, if the guest keeps
// them in a file. A kernel with arguments built in needs no more than a copy.
func (e *espFolder) startup() bool {
	k := e.stubKernel()
	if k == nil {
		return false
	}
	inside := e.builtIn(k)
	if inside && k.Initramfs == "" {
		if e.fits([]fixes.Change{fixes.CopyFile{From: k.Image, Name: e.want}}) {
			e.p.note("%s: a copy of %s, which has its arguments built in; it must be renewed by hand when that is updated", e.want, k.Image)
		}
		return true
	}
	data, _ := e.p.read("etc/kernel/cmdline")
	args := strings.Join(strings.Fields(uncommented(data)), " ")
	if args == "" {
		e.p.note("the firmware started %s itself, and the arguments for it stayed in the old machine's NVRAM: make a boot entry for it in the new one's (efibootmgr -c -l '%s' -u 'root=…')",
			k.Image, e.backslashed(k.Image))
		return true
	}
	line := e.backslashed(k.Image) + " " + args
	if initrd := e.backslashed(k.Initramfs); initrd != "" && !strings.Contains(args, "initrd=") {
		line += " initrd=" + initrd
	}
	name := e.p.fold(e.esp, "startup.nsh")
	if !e.p.exists(name) {
		e.p.create(name, line+"\r\n")
		e.p.note("%s: the firmware's shell starts %s with it; a boot entry (efibootmgr) is faster, a firmware without a shell needs one", name, k.Image)
	}
	return true
}

// stubKernel is the kernel to start that is a program for UEFI and on the ESP.
func (e *espFolder) stubKernel() *guest.Kernel {
	var found *guest.Kernel
	for i := range e.p.facts.Kernels {
		k := &e.p.facts.Kernels[i]
		if !strings.HasPrefix(k.Image, e.esp+"/") || found != nil && !k.Default {
			continue
		}
		if inspect.ReadPE(e.p.fs, k.Image, func(*pe.Image) error { return nil }) == nil {
			found = k
		}
	}
	return found
}

// builtIn reports whether a kernel has arguments of its own.
func (e *espFolder) builtIn(k *guest.Kernel) bool {
	for _, name := range []string{"boot/config-" + k.Version, k.Modules + "/config"} {
		if data, ok := e.p.read(name); ok {
			_, value, found := bytes.Cut(data, []byte("\nCONFIG_CMDLINE=\""))
			return found && len(value) > 0 && value[0] != '"'
		}
	}
	return false
}

// backslashed is a file on the ESP as programs of the firmware call it.
func (e *espFolder) backslashed(name string) string {
	rest, ok := strings.CutPrefix(name, e.esp+"/")
	if !ok {
		return ""
	}
	return `\` + strings.ReplaceAll(rest, "/", `\`)
}

// isShim reports whether a program is shim, by the component that it declares in
// its section for SBAT (SBAT.md of shim).
func isShim(p *planner, name string) bool {
	found := false
	err := inspect.ReadPE(p.fs, name, func(img *pe.Image) error {
		text, err := img.Text(".sbat", maxSBAT)
		found = strings.Contains("\n"+text, "\nshim,")
		return err
	})
	return err == nil && found
}

// maxSBAT is more than the few lines of that section take, in bytes.
const maxSBAT = 64 << 10

// sameFile reports whether two files have the same content.
func (p *planner) sameFile(a, b string) bool {
	x, err := p.fs.Open(a)
	if err != nil {
		return false
	}
	defer x.Close()
	y, err := p.fs.Open(b)
	if err != nil {
		return false
	}
	defer y.Close()
	xi, err1 := x.Stat()
	yi, err2 := y.Stat()
	if err1 != nil || err2 != nil || xi.Size() != yi.Size() || xi.Size() > maxConfig {
		return false
	}
	left, err1 := io.ReadAll(io.LimitReader(x, maxConfig))
	right, err2 := io.ReadAll(io.LimitReader(y, maxConfig))
	return err1 == nil && err2 == nil && bytes.Equal(left, right)
}
