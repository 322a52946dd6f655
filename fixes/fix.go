// Package fixes holds deterministic repairs of a guest and the engine that
// plans, shows, applies and undoes them.
//
// A Fix only reads. What it wants is a list of Changes, which print themselves
// as unified diffs; the engine makes them, with backup and journal, and a
// second run finds nothing left to do.
package fixes

import (
	"context"

	"hyper2kvm/fixes/guest"
)

// Fix is one repair, written once for every kind of guest.
type Fix interface {
	// ID is the stable name that --fix and --skip take: "linux/fstab".
	ID() string
	// Why says in one sentence what breaks without it.
	Why() string
	// Applies reports whether the facts call for this fix at all.
	Applies(*guest.Facts) bool
	// Plan reads the guest, with the changes of earlier fixes already visible,
	// and proposes what to change. No change means that all is well.
	Plan(context.Context, *guest.Guest) (Proposal, error)
}

// Proposal is what a fix wants to do and what it decided to leave alone.
type Proposal struct {
	Changes []Change
	// Notes say what was seen and left, and why; they go to the report.
	Notes []string
}
