package pipeline

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hyper2kvm/agent/api"
	"hyper2kvm/image/chain"
)

// A disk with sectors of 4096 bytes: what does not hold it is refused, and what
// holds it and cannot be used as it is gets a warning.
func TestSectors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.raw")
	b := make([]byte, 1<<20)
	copy(b[4096:], "EFI PART") // where such a disk has it
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	src, err := chain.Open(path, chain.Policy{Format: "raw"})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	for _, c := range []struct {
		format  string
		domain  bool
		refused bool
		warns   string
	}{
		{"vmdk", false, true, ""}, {"vhd", false, true, ""}, {"vdi", true, true, ""},
		{"qcow2", true, false, ""}, {"qcow2", false, false, "logical_block_size=4096"},
		{"raw", true, false, ""}, {"raw", false, false, "logical_block_size=4096"},
		{"vhdx", false, false, ""}, {"vhdx", true, false, "QEMU opens no VHDX"},
	} {
		r := &run{plan: &api.Plan{Sources: []api.Source{{Path: path}}, Target: api.Target{Format: c.format, Domain: c.domain}},
			sources: []*chain.Chain{src}, events: silent{}, report: &api.Report{}}
		if err := r.checkSectors(); (err != nil) != c.refused || err != nil && api.AsError(err).Code != api.CodeSectorSize {
			t.Errorf("%s: %v", c.format, err)
		}
		if c.refused {
			continue
		}
		r.warnOfSectors(0)
		if all := strings.Join(r.report.Warnings, ""); !strings.Contains(all, c.warns) || (c.warns == "") != (all == "") {
			t.Errorf("%s, domain %v: warnings %q, want %q", c.format, c.domain, all, c.warns)
		}
	}
}
