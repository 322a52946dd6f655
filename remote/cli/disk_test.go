package cli

import (
	"encoding/json"
	"strings"
	"testing"

	"hyper2kvm/agent/api"
	"hyper2kvm/formats"
	"hyper2kvm/image/chain"
)

// TestDiskInfoReadsTheSameHereAndOverTheWire: a report of this process holds
// Go values, one of another machine what JSON made of them.
func TestDiskInfoReadsTheSameHereAndOverTheWire(t *testing.T) {
	here := &api.Report{Status: api.Done, Disks: []api.DiskReport{{
		Source: "/vm/child.qcow2", Format: "qcow2", Variant: "v3", Size: 1 << 30, Allocated: 65536,
		Info: []chain.Opened{
			{Path: "/vm/child.qcow2", Info: formats.Info{Format: "qcow2", Variant: "v3", Size: 1 << 30, ClusterSz: 65536, Sector: 512,
				Parent: &formats.Claim{Name: "base.vmdk", Format: "vmdk"}, Fields: []formats.Field{{Name: "refcount bits", Value: "16"}}}},
			{Path: "/vm/base.vmdk", Info: formats.Info{Format: "vmdk", Variant: "monolithicFlat", Size: 1 << 30, Sector: 512, ContentID: "fffffffe",
				Fields: []formats.Field{{Name: "ddb.\x1b]0;owned\x07", Value: "lsi\nlogic\x9b2J"}}, Warnings: []string{"no ddb.uuid"}},
				Files: []string{"/vm/base-flat.vmdk"}},
		},
	}}}
	data, err := json.Marshal(here)
	if err != nil {
		t.Fatal(err)
	}
	wire := &api.Report{}
	if err := json.Unmarshal(data, wire); err != nil {
		t.Fatal(err)
	}
	want := `image         /vm/child.qcow2
format        qcow2 v3
virtual size  1.0 GiB (1073741824 bytes)
allocated     64.0 KiB (65536 bytes)

/vm/child.qcow2
  format: qcow2 v3
  virtual size: 1.0 GiB (1073741824 bytes)
  cluster size: 64.0 KiB (65536 bytes)
  sector size: 512 bytes
  parent: base.vmdk
  parent format: vmdk
  refcount bits: 16

/vm/base.vmdk
  format: vmdk monolithicFlat
  virtual size: 1.0 GiB (1073741824 bytes)
  sector size: 512 bytes
  content id: fffffffe
  ddb.·]0;owned·: lsi·logic�2J
  data in: /vm/base-flat.vmdk
  warning: no ddb.uuid
`
	for name, report := range map[string]*api.Report{"here": here, "wire": wire} {
		got := run(t, &recorder{report: report}, "disk", "info", "child.qcow2")
		if got.code != 0 || got.out != want {
			t.Errorf("%s: exit %d, printed\n%s\nwant\n%s", name, got.code, got.out, want)
		}
	}
}

func TestDiskInfoOfAnAgentThatSaysLess(t *testing.T) {
	report := &api.Report{Status: api.Done, Disks: []api.DiskReport{{Source: "a", Format: "raw", Info: "nothing known"}}}
	if got := run(t, &recorder{report: report}, "disk", "info", "a"); got.code != 0 || !strings.Contains(got.out, "raw") {
		t.Errorf("%+v", got)
	}
}

// TestOnlyTheCommandLineGivesUsageErrors: an agent's error is none, whatever
// its words are.
func TestOnlyTheCommandLineGivesUsageErrors(t *testing.T) {
	r := &recorder{err: errText("unknown command in the guest")}
	if got := run(t, r, "inspect", "a"); got.code != exitFailed || !strings.Contains(got.errOut, string(api.CodeInternal)) {
		t.Errorf("%+v", got)
	}
}

type errText string

func (e errText) Error() string { return string(e) }
