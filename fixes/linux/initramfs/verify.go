package initramfs

import (
	"context"
	"fmt"
	"strings"

	"hyper2kvm/fixes/guest"
)

// Finding is an initramfs that is not fit for KVM.
type Finding struct {
	Kernel, Initramfs string
	// Default says that it belongs to the kernel that the guest starts.
	Default bool
	Missing []string // modules
	Stale   []string // members that are still as they were on the old machine
	Err     error    // the image cannot be read
}

// Fatal reports whether the guest will not start because of it.
func (f Finding) Fatal() bool { return f.Default && (f.Err != nil || len(f.Missing) > 0) }

// String says it in one line.
func (f Finding) String() string {
	switch {
	case f.Err != nil:
		return fmt.Sprintf("kernel %s: %v", f.Kernel, f.Err)
	case len(f.Missing) > 0:
		return fmt.Sprintf("kernel %s: %s lacks %s", f.Kernel, f.Initramfs, strings.Join(f.Missing, " "))
	}
	return fmt.Sprintf("kernel %s: %s still has old %s", f.Kernel, f.Initramfs, strings.Join(f.Stale, " "))
}

// Verify reads every initramfs back, and every module that was put in must be
// there. It returns what is wrong; nothing is the proof.
func Verify(ctx context.Context, g *guest.Guest) ([]Finding, error) {
	var out []Finding
	kernels := images(g)
	for _, k := range kernels {
		if err := ctx.Err(); err != nil {
			return out, err
		}
		if k.Initramfs != "" {
			c, err := check(g, k)
			out = appendFinding(out, Finding{Kernel: k.Version, Initramfs: k.Initramfs, Default: k.Default, Err: err}, c)
		}
	}
	unified := ukis(g)
	for _, name := range unified {
		if err := ctx.Err(); err != nil {
			return out, err
		}
		f := Finding{Initramfs: name, Default: len(kernels) == 0 && len(unified) == 1}
		c, u, err := checkUKI(g, name)
		if f.Err = err; u != nil {
			f.Kernel = u.version
		}
		out = appendFinding(out, f, c)
	}
	return out, nil
}

// appendFinding appends what is wrong with an image, if something is.
func appendFinding(out []Finding, f Finding, c *checked) []Finding {
	if f.Err == nil && c != nil {
		f.Missing = c.missing
		for _, s := range c.stale {
			f.Stale = append(f.Stale, s.Name)
		}
	}
	if f.Err == nil && len(f.Missing) == 0 && len(f.Stale) == 0 {
		return out
	}
	return append(out, f)
}
