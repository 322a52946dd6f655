package pipeline

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/job"
	"hyper2kvm/formats/formatstest"
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

// Each kind of image that can be changed in place stays what it is; what holds
// more than a disk is refused, as it was.
func TestCommitKeepsTheKindOfImage(t *testing.T) {
	for name, c := range map[string]struct {
		args   string
		refuse string
	}{
		"v3.qcow2":     {args: "-f qcow2"},
		"v2.qcow2":     {args: "-f qcow2 -o compat=0.10"},
		"vmdk.vmdk":    {args: "-f vmdk"},
		"stream.vmdk":  {args: "-f vmdk -o subformat=streamOptimized"},
		"dynamic.vhd":  {args: "-f vpc -o force_size=on"},
		"fixed.vhd":    {args: "-f vpc -o force_size=on,subformat=fixed"},
		"dynamic.vhdx": {args: "-f vhdx"},
		"fixed.vhdx":   {args: "-f vhdx -o subformat=fixed"},
		"dynamic.vdi":  {args: "-f vdi"},
		"flat.vmdk":    {args: "-f vmdk -o subformat=monolithicFlat", refuse: "monolithicFlat"},
		"snap.qcow2":   {args: "-f qcow2", refuse: "1 internal snapshot"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), name)
			formatstest.QemuImg(t, append(append([]string{"create", "-q"}, strings.Fields(c.args)...), path, "8M")...)
			if c.refuse == "1 internal snapshot" {
				formatstest.QemuImg(t, "snapshot", "-c", "before", path)
			}
			src, err := chain.Open(path, chain.Policy{})
			if err != nil {
				t.Fatal(err)
			}
			defer src.Close()
			o, err := overlay.Create(path+".overlay", src)
			if err != nil {
				t.Fatal(err)
			}
			defer o.Close()
			if _, err := o.WriteAt([]byte("repaired"), 4<<20); err != nil {
				t.Fatal(err)
			}
			r := &run{plan: &api.Plan{Sources: []api.Source{{Path: path}}}, overlays: []*overlay.Overlay{o}, events: silent{}}
			err = r.commitOne(t.Context(), api.Fix, 0, src)
			if c.refuse != "" {
				if e := api.AsError(err); err == nil || e.Code != api.CodeUnsupported || !strings.Contains(err.Error(), c.refuse) {
					t.Errorf("got %v; want a refusal that names %q", err, c.refuse)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			after, err := chain.Open(path, chain.Policy{})
			if err != nil {
				t.Fatal(err)
			}
			defer after.Close()
			got := make([]byte, 8)
			if _, err := after.ReadAt(got, 4<<20); err != nil || string(got) != "repaired" {
				t.Errorf("%q, %v", got, err)
			}
			was, is := src.Images()[0].Info, after.Images()[0].Info
			if is.Format != was.Format || is.Variant != was.Variant && was.Format != "qcow2" || is.Size != was.Size {
				t.Errorf("it was %s %s of %d bytes, and is %s %s of %d", was.Format, was.Variant, was.Size, is.Format, is.Variant, is.Size)
			}
		})
	}
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

type silent struct{}

func (silent) Emit(api.Event) {}
