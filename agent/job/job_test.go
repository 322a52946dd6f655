package job

import (
	"bufio"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"hyper2kvm/agent/api"
)

func plan(name string) *api.Plan {
	return &api.Plan{Version: api.Version, Name: name, Sources: []api.Source{{Path: "a.vmdk"}}, Stages: []api.Stage{api.Convert}}
}

func open(t *testing.T, dir string, p *api.Plan, resume bool) *Job {
	t.Helper()
	j, err := Open(dir, p, resume)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// kill gives up the job as a killed process would: nothing is cleaned.
func kill(j *Job) {
	j.events.file.Close()
	j.unlock()
}

func TestResumeTakesOverFinishedStages(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "job")
	j := open(t, dir, plan("web01"), false)
	if err := j.Finish(api.Inspect, &api.Report{Name: "web01"}); err != nil {
		t.Fatal(err)
	}
	kill(j)

	j = open(t, dir, plan("web01"), true)
	defer j.Close(true)
	if !j.Resumed || !j.Done(api.Inspect) || j.Done(api.Convert) {
		t.Errorf("Resumed = %v, finished = %v; want resumed with inspect finished", j.Resumed, j.State.Finished)
	}
	if j.State.Report == nil || j.State.Report.Name != "web01" {
		t.Errorf("report of the finished stages is lost: %+v", j.State.Report)
	}
}

func TestNextRunStartsClean(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "job")
	j := open(t, dir, plan("web01"), false)
	if err := os.WriteFile(j.Overlay("disk", 0), []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := j.Finish(api.Inspect, nil); err != nil {
		t.Fatal(err)
	}
	kill(j)

	j = open(t, dir, plan("web01"), false)
	defer j.Close(true)
	if j.Resumed || j.Done(api.Inspect) {
		t.Error("a run that was not asked to resume took over an old state")
	}
	if _, err := os.Stat(j.Overlay("disk", 0)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("old overlay is still there: %v", err)
	}
}

func TestResumeRefusesAnotherPlan(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "job")
	kill(open(t, dir, plan("web01"), false))
	if _, err := Open(dir, plan("web02"), true); !errors.Is(err, ErrOtherPlan) {
		t.Errorf("Open = %v; want ErrOtherPlan", err)
	}
}

func TestLivingJobIsNotTaken(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "job")
	j := open(t, dir, plan("web01"), false)
	defer j.Close(true)
	if _, err := Open(dir, plan("web01"), false); !errors.Is(err, ErrBusy) {
		t.Errorf("Open = %v; want ErrBusy", err)
	}
}

func TestUsersFolderIsNeverEmptied(t *testing.T) {
	dir := t.TempDir()
	precious := filepath.Join(dir, "thesis.tex")
	if err := os.WriteFile(precious, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, plan("web01"), false); err == nil {
		t.Error("Open took a folder with foreign files")
	}
	if _, err := os.Stat(precious); err != nil {
		t.Errorf("a user's file is gone: %v", err)
	}
}

type collect struct{ events []api.Event }

func (c *collect) Emit(e api.Event) { c.events = append(c.events, e) }

func TestEventNumbersGoOnAfterACutLine(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "job")
	j := open(t, dir, plan("web01"), false)
	sink := j.Sink(nil)
	sink.Emit(api.Event{Level: api.Notice, Message: "one"})
	sink.Emit(api.Event{Level: api.Progress, Done: 1, Total: 2})
	sink.Emit(api.Event{Level: api.Notice, Message: "three"})
	if _, err := j.events.file.WriteString(`{"seq":4,"mess`); err != nil {
		t.Fatal(err)
	}
	kill(j)

	j = open(t, dir, plan("web01"), true)
	var seen collect
	j.Sink(&seen).Emit(api.Event{Level: api.Notice, Message: "four"})
	if got := seen.events[0].Seq; got != 4 {
		t.Errorf("next number = %d; want 4", got)
	}
	var whole []string
	f, err := os.Open(j.Path(eventsFile))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		var e api.Event
		if json.Unmarshal(s.Bytes(), &e) == nil {
			whole = append(whole, e.Message)
		}
	}
	if len(whole) != 3 || whole[2] != "four" {
		t.Errorf("events on file = %q; want one, three, four", whole)
	}
	if err := j.Close(true); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("folder is left behind: %v", err)
	}
}

func TestTempSweepsKilledRunsOnly(t *testing.T) {
	dir := t.TempDir()
	dead, err := Temp(dir, plan("dead"))
	if err != nil {
		t.Fatal(err)
	}
	kill(dead)
	alive, err := Temp(dir, plan("alive"))
	if err != nil {
		t.Fatal(err)
	}
	defer alive.Close(true)
	other, err := Temp(dir, plan("other"))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(true)
	if _, err := os.Stat(dead.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Error("folder of a killed run is left")
	}
	if _, err := os.Stat(alive.Dir); err != nil {
		t.Error("folder of a living run was removed")
	}
}

// Many runs begin at once, each sweeping while others make their folders: none
// may take a newborn one for that of a killed run.
func TestRunsThatBeginTogetherDoNotSweepEachOther(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				s, err := NewScratch(dir)
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := os.Stat(s.Dir); err != nil {
					t.Errorf("the folder of a run that just began is gone: %v", err)
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func TestScratchOfAKilledRunIsSwept(t *testing.T) {
	dir := t.TempDir()
	dead, err := NewScratch(dir)
	if err != nil {
		t.Fatal(err)
	}
	dead.lock.Close() // as a kill does
	alive, err := NewScratch(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dead.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Error("scratch folder of a killed run is left")
	}
	if err := alive.Close(); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
