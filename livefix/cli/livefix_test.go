package cli_test

import (
	"testing"
	"time"

	"hyper2kvm/agent/api"
)

func TestRepairsARunningGuest(t *testing.T) {
	s := startGuest(t, "")
	before := state(t, s)

	dry := livefix(t.Context(), t, s, "deploy", s.Port, "--dry-run")
	dry.must(t, 0, "linux/fstab (planned)", "+UUID=0b6c5f3e-7a51-4c1d-9c3b-6f1f5f0a1201", "update-initramfs -u", "nothing was written")
	wantSame(t, "after a dry run", before, state(t, s))

	start := time.Now()
	done := livefix(t.Context(), t, s, "admin", s.Port, "--yes", "--sudo-password", "env:SUDO_WORD")
	t.Logf("with regenerate: %.1f s\n%s\n%s", time.Since(start).Seconds(), done.out, done.err)
	done.must(t, 0, "linux/initramfs (changed)", "brings back what was there before")
	after := state(t, s)

	again := livefix(t.Context(), t, s, "root", s.Port, "--yes", "--json")
	again.must(t, 0)
	report := again.report(t)
	for _, f := range report.Fixes {
		if f.State == "changed" {
			t.Errorf("a second run changes %s:\n%s", f.ID, f.Diff)
		}
	}
	if g := report.Guest; g == nil || len(g.NICs) != 1 || g.NICs[0].Name != "ens192" || g.NICs[0].MAC != "00:50:56:01:0c:02" || g.Firmware != "bios" {
		t.Errorf("the facts are %+v", g)
	}
	wantSame(t, "after a second run", after, state(t, s))

	livefix(t.Context(), t, s, "deploy", s.Port, "--undo").must(t, 0, "undone")
	wantSame(t, "after undo", before, state(t, s))
	none := livefix(t.Context(), t, s, "deploy", s.Port, "--undo", "--json")
	none.must(t, 1)
	if e := none.report(t).Error; e == nil || e.Code != api.CodeUndo {
		t.Errorf("undoing twice gives %+v", e)
	}
}
