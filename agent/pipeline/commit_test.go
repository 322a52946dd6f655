package pipeline

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/job"
	"hyper2kvm/image/chain"
	"hyper2kvm/image/overlay"
)

// killedCommit leaves what a run leaves that was killed while it wrote repairs
// into a raw image: the job, and the image with only the first of two changes.
// It returns the image's path and what the image must hold in the end.
func killedCommit(t *testing.T) (path string, want []byte) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "disk.raw")
	want = make([]byte, 1<<20)
	want[510], want[511] = 0x55, 0xAA
	if err := os.WriteFile(path, want, 0o600); err != nil {
		t.Fatal(err)
	}
	plan := &api.Plan{Version: api.Version, Name: "disk", Sources: []api.Source{{Path: path}},
		Stages: []api.Stage{api.Inspect, api.Fix}, Fix: api.FixOptions{InPlace: true}}
	j, err := job.Open(path+JobSuffix, plan, false)
	if err != nil {
		t.Fatal(err)
	}
	base, err := chain.Open(path, chain.Policy{})
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()
	o, err := overlay.Create(j.Overlay("disk", 0), base)
	if err != nil {
		t.Fatal(err)
	}
	for _, off := range []int{8192, 512 << 10} {
		n := copy(want[off:], "repaired")
		if _, err := o.WriteAt(want[off:off+n], int64(off)); err != nil {
			t.Fatal(err)
		}
	}
	j.State.Committing = true
	if err := errors.Join(o.Close(), j.SaveState(), j.Close(false)); err != nil {
		t.Fatal(err)
	}
	half := bytes.Clone(want)
	clear(half[512<<10:])
	if err := os.WriteFile(path, half, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, want
}

func TestHalfRepairedSourceIsNotRead(t *testing.T) {
	path, _ := killedCommit(t)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	plan := &api.Plan{Version: api.Version, Name: "disk", Sources: []api.Source{{Path: path}}, Stages: []api.Stage{api.Info}}
	_, err = New(Config{}).Run(t.Context(), plan, "", nil)
	if e := api.AsError(err); e == nil || e.Code != api.CodeJob {
		t.Errorf("Run = %v; want an error that says to resume", err)
	}
	if after, _ := os.ReadFile(path); !bytes.Equal(after, before) {
		t.Error("a plan that only looks wrote into its source")
	}
}

func TestNextRepairFinishesTheKilledOne(t *testing.T) {
	path, want := killedCommit(t)
	r := &run{plan: &api.Plan{Sources: []api.Source{{Path: path}}, Fix: api.FixOptions{InPlace: true}}}
	if err := r.finishCommits(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); !bytes.Equal(got, want) {
		t.Error("the image does not hold both changes")
	}
	if _, err := os.Stat(path + JobSuffix); !errors.Is(err, os.ErrNotExist) {
		t.Error("the finished job is left behind")
	}
}
