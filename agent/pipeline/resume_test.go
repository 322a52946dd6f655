package pipeline

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/job"
	"hyper2kvm/image/convert"
)

// stopper ends a run once it has seen so many bytes of a stage done.
type stopper struct {
	stage  api.Stage
	disk   int
	after  int64
	stop   context.CancelFunc
	events []api.Event
}

func (s *stopper) Emit(e api.Event) {
	s.events = append(s.events, e)
	if s.stop != nil && e.Level == api.Progress && e.Stage == s.stage && e.Disk == s.disk && e.Done >= s.after {
		s.stop()
	}
}

func (s *stopper) said(text string) bool {
	for _, e := range s.events {
		if strings.Contains(e.Message, text) {
			return true
		}
	}
	return false
}

// noisy writes a raw image that no zero detection makes smaller.
func noisy(t *testing.T, path string, seed uint64) []byte {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 1))
	content := make([]byte, 8<<20)
	for i := range content {
		content[i] = byte(r.Uint32()) | 1
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return content
}

// interrupted runs the plan until the stage has done some bytes, and then as
// resume does it; it returns what the second run said.
func interrupted(t *testing.T, p *api.Plan, stage api.Stage, disk int) *stopper {
	t.Helper()
	agent := New(Config{TempDir: t.TempDir(), CheckpointEvery: time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	first := &stopper{stage: stage, disk: disk, after: 4 << 20, stop: cancel}
	_, err := agent.Run(ctx, p, "", first)
	if e := api.AsError(err); e == nil || e.Code != api.CodeInterrupted {
		t.Fatalf("the first run ended with %v", err)
	}
	dir := p.Target.Path + JobSuffix
	if _, err := os.Stat(dir); err != nil {
		t.Fatalf("job folder after an interruption: %v", err)
	}
	second := &stopper{}
	if _, err := agent.Run(t.Context(), p, dir, second); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("job folder at the end: %v", err)
	}
	return second
}

func TestConvertGoesOnWhereItWas(t *testing.T) {
	dir := t.TempDir()
	src := filepath.Join(dir, "src.raw")
	want := noisy(t, src, 1)
	out := filepath.Join(dir, "out.raw")
	p := &api.Plan{Version: api.Version, Name: "src", Sources: []api.Source{{Path: src, Format: "raw"}}, Stages: []api.Stage{api.Convert},
		Target: api.Target{Path: out, Format: "raw"}}
	if second := interrupted(t, p, api.Convert, 0); !second.said("went on at byte") {
		t.Errorf("the resumed run began anew: %+v", second.events)
	}
	if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, want) {
		t.Errorf("output differs, %v", err)
	}
	only(t, dir, "out.raw", "src.raw")
}

// Of several disks, the one that was complete is not written again, by force
// either.
func TestSecondDiskGoesOn(t *testing.T) {
	dir := t.TempDir()
	p := &api.Plan{Version: api.Version, Name: "vm", Stages: []api.Stage{api.Convert},
		Target: api.Target{Path: filepath.Join(dir, "out"), Format: "raw", Force: true}}
	var want [][]byte
	for i, name := range []string{"a.raw", "b.raw"} {
		path := filepath.Join(dir, name)
		want = append(want, noisy(t, path, uint64(i)))
		p.Sources = append(p.Sources, api.Source{Path: path, Format: "raw"})
	}
	second := interrupted(t, p, api.Convert, 1)
	if !second.said("b.raw: went on at byte") || second.said("sda.img written") {
		t.Errorf("the resumed run said %+v", second.events)
	}
	for i, name := range []string{"vm-sda.img", "vm-sdb.img"} {
		if got, err := os.ReadFile(filepath.Join(p.Target.Path, name)); err != nil || !bytes.Equal(got, want[i]) {
			t.Errorf("%s differs, %v", name, err)
		}
	}
	only(t, p.Target.Path, "vm-sda.img", "vm-sdb.img")
}

// A run that is begun anew has no use for what an interrupted one left.
func TestNewRunClearsWhatWasKept(t *testing.T) {
	dir := t.TempDir()
	src, out := filepath.Join(dir, "src.raw"), filepath.Join(dir, "out.raw")
	want := noisy(t, src, 3)
	p := &api.Plan{Version: api.Version, Name: "src", Sources: []api.Source{{Path: src, Format: "raw"}}, Stages: []api.Stage{api.Convert},
		Target: api.Target{Path: out, Format: "raw"}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	agent := New(Config{TempDir: t.TempDir(), CheckpointEvery: time.Millisecond})
	if _, err := agent.Run(ctx, p, "", &stopper{stage: api.Convert, after: 4 << 20, stop: cancel}); err == nil {
		t.Fatal("not interrupted")
	}
	events := &stopper{}
	if _, err := agent.Run(t.Context(), p, "", events); err != nil || events.said("went on") {
		t.Errorf("%v, %+v", err, events.events)
	}
	if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, want) {
		t.Errorf("output differs, %v", err)
	}
	only(t, dir, "out.raw", "src.raw")
}

func TestMaterialize(t *testing.T) {
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("needs qemu-img (package qemu-utils)")
	}
	dir := t.TempDir()
	base, top, out := filepath.Join(dir, "base.raw"), filepath.Join(dir, "top.qcow2"), filepath.Join(dir, "out.raw")
	want := noisy(t, base, 4)
	if msg, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", "base.raw", top).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img: %v\n%s", err, msg)
	}
	p := &api.Plan{Version: api.Version, Name: "top", Sources: []api.Source{{Path: top}}, Stages: []api.Stage{api.Flatten, api.Convert},
		Target: api.Target{Path: out, Format: "raw"}}
	if second := interrupted(t, p, api.Flatten, 0); !second.said("went on at byte") || !second.said("joined") {
		t.Errorf("the resumed run said %+v", second.events)
	}
	if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, want) {
		t.Errorf("output differs, %v", err)
	}
	only(t, dir, "base.raw", "out.raw", "top.qcow2")

	// After FLATTEN, the chain is not read any more.
	if err := os.Remove(out); err != nil {
		t.Fatal(err)
	}
	j, err := job.Temp(dir, p)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close(true)
	r := &run{plan: p, job: j, events: &stopper{}, report: &api.Report{}}
	if err := r.openSources(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer r.closeSources()
	if err := r.flatten(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := convert.Compare(t.Context(), r.disk(0), r.sources[0], nil); err != nil || r.disk(0) == r.sources[0] {
		t.Errorf("flattened disk: %v", err)
	}
}

func only(t *testing.T, dir string, want ...string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range list {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("folder holds %q; want %q", got, want)
	}
}
