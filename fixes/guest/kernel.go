package guest

import (
	"path"
	"slices"
	"strings"
)

// Support is what a kernel can do on KVM, as its modules and its configuration
// tell. All of it is empty for a kernel of which neither was found.
type Support struct {
	// Buses are those that it finds a disk on, the best first: "virtio", "scsi"
	// (virtio-scsi), "sata", "ide".
	Buses []string `json:"buses,omitempty"`
	// NICs are the cards that it has drivers for, the best first: "virtio",
	// "e1000e", "e1000", "rtl8139".
	NICs []string `json:"nics,omitempty"`
	// Unfit says why it should not be the one that is started on KVM: it runs
	// under Xen only, or has no virtio drivers for disks. "" where it is fit or
	// nothing is known.
	Unfit string `json:"unfit,omitempty"`
	Debug bool   `json:"debug,omitempty"` // built for debugging, slow
}

// Emulated reports whether a kernel that has no virtio drivers can still run,
// from a disk that a machine of QEMU's emulates.
func (s Support) Emulated() bool { return s.Unfit != "" && len(s.Buses) > 0 }

// Unified reports whether a kernel is a unified kernel image: its initramfs and
// its command line are inside, where nothing is edited.
func (k *Kernel) Unified() bool { return strings.EqualFold(path.Ext(k.Image), ".efi") }

// BootEntry is one entry of a boot loader's menu.
type BootEntry struct {
	// File holds it: "boot/grub2/grub.cfg", "boot/loader/entries/x.conf", a
	// unified kernel image.
	File string `json:"file"`
	// Name is what a setting calls it that makes it the default: GRUB 2's id or
	// title, with those of its submenus before it; the number of GRUB legacy; the
	// name of a file; a label.
	Name  string `json:"name"`
	Title string `json:"title,omitempty"`
	// Image and Initramfs are guest paths, "" where there is no such file.
	Image     string `json:"image,omitempty"`
	Initramfs string `json:"initramfs,omitempty"`
	Version   string `json:"version,omitempty"` // of the kernel
	Xen       bool   `json:"xen,omitempty"`     // it starts a hypervisor, which starts the kernel
	Default   bool   `json:"default,omitempty"`
}

// Needs is what a guest needs of its virtual machine. Empty means the usual.
type Needs struct {
	CPU     string `json:"cpu,omitempty"`     // least level of the processor: "x86-64-v2", "x86-64-v3"
	Machine string `json:"machine,omitempty"` // "pc" for guests that do not know PCI Express
	// Virtio is "transitional" for drivers older than version 1.0 of virtio.
	Virtio string `json:"virtio,omitempty"`
	NIC    string `json:"nic,omitempty"` // model, where virtio has no driver
}

// DefaultKernel is the kernel that the boot loader starts, nil where there is
// none.
func (f *Facts) DefaultKernel() *Kernel {
	for i := range f.Kernels {
		if f.Kernels[i].Default {
			return &f.Kernels[i]
		}
	}
	return nil
}

// KVMKernel is the kernel to start on KVM: the default where it is fit, else the
// best of the others, else one that needs emulated disks. It is nil where none
// can run.
//
// Facts.Kernels has the newest first. One with a boot entry comes before one
// without, and one that is made for debugging last.
func (f *Facts) KVMKernel() *Kernel {
	return f.kernelThat(func(k *Kernel) bool { return k.Unfit == "" }, func(k *Kernel) bool { return k.Emulated() })
}

func (f *Facts) kernelThat(tests ...func(*Kernel) bool) *Kernel {
	for _, fits := range tests {
		if k := f.DefaultKernel(); k != nil && fits(k) && !f.startsXen() {
			return k
		}
		var fit []*Kernel
		for i := range f.Kernels {
			if fits(&f.Kernels[i]) {
				fit = append(fit, &f.Kernels[i])
			}
		}
		slices.SortStableFunc(fit, func(a, b *Kernel) int { return a.penalty(f) - b.penalty(f) })
		if len(fit) > 0 {
			return fit[0]
		}
	}
	return nil
}

// startsXen reports whether the default entry starts a hypervisor: then its
// kernel is not the kernel of the machine.
func (f *Facts) startsXen() bool {
	return slices.ContainsFunc(f.Loader.Entries, func(e BootEntry) bool { return e.Default && e.Xen })
}

func (k *Kernel) penalty(f *Facts) int {
	p := 0
	if k.Debug {
		p += 2
	}
	if !slices.ContainsFunc(f.Loader.Entries, func(e BootEntry) bool { return e.Image == k.Image && !e.Xen }) {
		p++
	}
	return p
}
