package pipeline

import (
	"slices"

	"hyper2kvm/agent/api"
)

// checkSectors keeps sectors of 4096 bytes from becoming such of 512: every
// number in a partition table would then mean another place.
func (r *run) checkSectors() error {
	for i, s := range r.sources {
		size := s.SectorSize()
		if size != 512 && slices.Contains([]string{"vmdk", "vhd", "vdi"}, r.plan.Target.Format) {
			return api.Errorf(api.CodeSectorSize, "convert", r.plan.Sources[i].Name(),
				"its sectors have %d bytes, and a %s image can only have sectors of 512", size, r.plan.Target.Format)
		}
	}
	return nil
}

// warnOfSectors: what a format does not record the machine must be told. The
// domain that we write is; whoever makes bytes only has to do it. VHDX records
// it, and such a disk is one for Hyper-V only.
func (r *run) warnOfSectors(i int) {
	size, vhdx := r.sources[i].SectorSize(), r.plan.Target.Format == "vhdx"
	switch {
	case size == 512:
	case vhdx && r.plan.Target.Domain:
		r.warn(api.Convert, "%s has sectors of %d bytes: QEMU opens no VHDX with such sectors, the result is for Hyper-V; choose qcow2 or raw for KVM",
			r.plan.Sources[i].Path, size)
	case !vhdx && !r.plan.Target.Domain:
		r.warn(api.Convert, "%s has sectors of %d bytes, which %s does not record: attach the result with logical_block_size=%d",
			r.plan.Sources[i].Name(), size, r.plan.Target.Format, size)
	}
}
