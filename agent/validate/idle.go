package validate

import (
	"context"
	"fmt"
	"strings"
	"time"

	"hyper2kvm/agent/qemu"
)

// idleness knows since when nothing has changed.
type idleness struct {
	last  string
	start time.Time
}

// note takes a description of all that can move.
func (i *idleness) note(now time.Time, activity string) {
	if activity != i.last || i.start.IsZero() {
		i.last, i.start = activity, now
	}
}

func (i *idleness) since(now time.Time) time.Duration {
	if i.start.IsZero() {
		return 0
	}
	return now.Sub(i.start)
}

// blockStats is the part of QMP's query-blockstats that tells work.
type blockStats struct {
	Stats struct {
		Reads  int64 `json:"rd_operations"`
		Writes int64 `json:"wr_operations"`
	} `json:"stats"`
}

// activity describes what the guest has written and read so far.
func (o *observer) activity(ctx context.Context, vm *qemu.VM) string {
	_, serial := o.text.text(o.clean)
	var stats []blockStats
	if vm.Execute(ctx, "query-blockstats", nil, &stats) != nil {
		stats = nil // the machine is just ending
	}
	var b strings.Builder
	fmt.Fprintln(&b, serial, o.count())
	for _, s := range stats {
		fmt.Fprintln(&b, s.Stats.Reads, s.Stats.Writes)
	}
	b.WriteString(o.screen)
	return b.String()
}
