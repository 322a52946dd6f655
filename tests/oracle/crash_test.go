package oracle

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/pipeline"
)

// Variables of the environment: what makes the test binary the run that is to
// be killed, and how often TestCrash kills.
const (
	childPlan   = "H2K_CRASH_PLAN" // as JSON
	childJob    = "H2K_CRASH_JOB"  // the job folder, for a run that is resumed
	crashRounds = "H2K_CRASH_ROUNDS"
)

func TestMain(m *testing.M) {
	if text := os.Getenv(childPlan); text != "" {
		if err := child(text, os.Getenv(childJob)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child runs a plan as h2k does, with marks so close to each other that a small
// disk has many.
func child(text, job string) error {
	plan := &api.Plan{}
	if err := json.Unmarshal([]byte(text), plan); err != nil {
		return err
	}
	agent := pipeline.New(pipeline.Config{TempDir: filepath.Dir(plan.Sources[0].Path), CheckpointEvery: 2 * time.Millisecond})
	_, err := agent.Run(context.Background(), plan, job, nil)
	return err
}

// crash is a run to be killed and what it has to give.
type crash struct {
	plan *api.Plan
	// outputs are the files under their final names, by their content in an
	// undisturbed run.
	outputs map[string][]byte
	dirs    []string // that may hold nothing but sources and outputs at the end
	keep    []string // the sources' names
}

// TestCrash kills runs at random moments, CONVERT and FLATTEN, resumes them,
// kills those again, and compares what they give in the end with what an
// undisturbed run gives: the same bytes, under final names only when whole,
// and nothing else left.
func TestCrash(t *testing.T) {
	rounds := 200
	if testing.Short() {
		rounds = 10
	}
	if n, err := strconv.Atoi(os.Getenv(crashRounds)); err == nil {
		rounds = n
	}
	dir := workDir(t)
	list := crashes(t, dir)
	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	kills, resumed := 0, 0
	in := make(map[api.Stage]int) // kills while a stage had something to go on from
	for kills < rounds && !t.Failed() {
		c := list[r.IntN(len(list))]
		k, again := c.run(t, r, in)
		kills, resumed = kills+k, resumed+again
		for name := range c.outputs {
			if err := os.Remove(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("%d kills, %d runs resumed; in the middle of stages: %v", kills, resumed, in)
	if _, err := exec.LookPath("qemu-img"); err == nil && rounds >= 200 && (in[api.Flatten] == 0 || in[api.Convert] == 0) {
		t.Error("not both FLATTEN and CONVERT were killed in the middle")
	}
}

// run takes one run to its end, killing it on the way, and counts in which
// stages.
func (c *crash) run(t *testing.T, r *rand.Rand, in map[api.Stage]int) (kills, resumed int) {
	t.Helper()
	home := c.plan.Target.Path + pipeline.JobSuffix
	for {
		job := ""
		if _, err := os.Stat(filepath.Join(home, "plan.yaml")); err == nil {
			job = home
			resumed++
		}
		if job == "" && kills > 0 && c.complete() {
			c.afterEnd(t)
			return kills, resumed
		}
		// What is done in one go, the verification, needs longer lives at last.
		ended, msg := c.start(t, job, time.Duration(r.IntN(220+40*kills))*time.Millisecond)
		c.whole(t)
		if ended {
			if msg != "" {
				t.Fatalf("%s: after %d kills, resumed %q: %s\n%s", c.plan.Name, kills, job, msg, listing(c.dirs, home))
			}
			c.end(t)
			return kills, resumed
		}
		kills++
		for _, stage := range c.plan.Stages {
			if left, err := filepath.Glob(filepath.Join(home, "checkpoint-"+string(stage)+"-*")); err == nil && len(left) > 0 {
				in[stage]++
			}
		}
	}
}

// listing is what lies in some folders, for a failure to be understood by.
func listing(dirs []string, more ...string) string {
	var b strings.Builder
	for _, dir := range append(slices.Clone(dirs), more...) {
		list, err := os.ReadDir(dir)
		fmt.Fprintln(&b, dir, list, err)
	}
	return b.String()
}

// complete reports whether all outputs are there: then the last kill came
// between the end of the run and that of its process.
func (c *crash) complete() bool {
	for name := range c.outputs {
		if _, err := os.Stat(name); err != nil {
			return false
		}
	}
	return true
}

// afterEnd runs the plan again after it was done: the outputs are not touched,
// and what was still to be cleaned up is.
func (c *crash) afterEnd(t *testing.T) {
	t.Helper()
	if _, msg := c.start(t, "", time.Hour); !strings.Contains(msg, "output exists") {
		t.Errorf("%s: again after its end: %s", c.plan.Name, msg)
	}
	c.whole(t)
	c.end(t)
}

// start runs the plan in a process that is killed after a while; ended says
// that it was faster, msg how it failed then.
func (c *crash) start(t *testing.T, job string, after time.Duration) (ended bool, msg string) {
	t.Helper()
	text, err := json.Marshal(c.plan)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childPlan+"="+string(text), childJob+"="+job)
	var out bytes.Buffer
	cmd.Stderr = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(after, func() { cmd.Process.Kill() })
	err = cmd.Wait()
	if !timer.Stop() && err != nil {
		return false, ""
	}
	if err != nil {
		return true, fmt.Sprintf("%v: %s", err, out.String())
	}
	return true, ""
}

// whole reports outputs that have their final name and are not what an
// undisturbed run gives.
func (c *crash) whole(t *testing.T) {
	t.Helper()
	for name, want := range c.outputs {
		if got, err := os.ReadFile(name); err == nil && !bytes.Equal(got, want) {
			t.Errorf("%s: %s has its name and other bytes", c.plan.Name, filepath.Base(name))
		}
	}
}

// end reports what is missing at the end, and what is left.
func (c *crash) end(t *testing.T) {
	t.Helper()
	for name := range c.outputs {
		if _, err := os.Stat(name); err != nil {
			t.Errorf("%s: at the end: %v", c.plan.Name, err)
		}
	}
	for _, dir := range c.dirs {
		list, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			path := filepath.Join(dir, e.Name())
			if _, ok := c.outputs[path]; !ok && !slices.Contains(c.keep, e.Name()) && !slices.Contains(c.dirs, path) {
				t.Errorf("%s: left behind: %s", c.plan.Name, e.Name())
			}
		}
	}
}

// crashes makes one run of each kind, and runs it undisturbed.
func crashes(t *testing.T, dir string) []*crash {
	t.Helper()
	data := make([]byte, 10<<20)
	for _, p := range patterns()[1:4] { // full, sparse, compressible
		copy(data[len(data)-len(p.data):], p.data)
		data = append(data, make([]byte, 1<<20)...)
	}
	var list []*crash
	for _, to := range targets() {
		list = append(list, single(t, dir, to, data))
	}
	list = append(list, several(t, dir, data))
	if _, err := exec.LookPath("qemu-img"); err == nil {
		list = append(list, flatten(t, dir))
	}
	for _, c := range list {
		c.undisturbed(t)
	}
	// The last one is the only of its kind: it comes as often as a quarter of them.
	for range len(list) / 4 {
		list = append(list, list[len(list)-1])
	}
	return list
}

// undisturbed runs the plan without a kill and keeps what it gives.
func (c *crash) undisturbed(t *testing.T) {
	t.Helper()
	for name := range c.outputs {
		c.outputs[name] = nil
	}
	plan := *c.plan
	plan.Target.Bandwidth = 0
	if _, err := pipeline.New(pipeline.Config{TempDir: c.dirs[0]}).Run(t.Context(), &plan, "", nil); err != nil {
		t.Fatalf("%s: %v", c.plan.Name, err)
	}
	for name := range c.outputs {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		c.outputs[name] = data
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(c.plan.Target.Path + pipeline.JobSuffix); err == nil {
		t.Fatalf("%s: an undisturbed run left its job folder", c.plan.Name)
	}
}

// slow makes a run of some MiB take about a fifth of a second.
const slow = 50 << 20

func newCrash(t *testing.T, dir, name string, stages ...api.Stage) *crash {
	t.Helper()
	home := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	return &crash{dirs: []string{home}, outputs: make(map[string][]byte), plan: &api.Plan{Version: api.Version, Name: "disk", Stages: stages,
		Target: api.Target{Path: filepath.Join(home, "out"), Bandwidth: slow}}}
}

func (c *crash) source(t *testing.T, name string, data []byte) {
	t.Helper()
	path := filepath.Join(c.dirs[0], name)
	write(t, path, data)
	c.keep = append(c.keep, name)
	c.plan.Sources = append(c.plan.Sources, api.Source{Path: path, Format: "raw"})
}

// single converts one disk.
func single(t *testing.T, dir string, to target, data []byte) *crash {
	c := newCrash(t, dir, to.name, api.Convert)
	c.source(t, "src", data)
	c.plan.Target.Format, c.plan.Target.Variant, c.plan.Target.Compress = to.opt.Format, to.opt.Variant, to.opt.Compress
	c.plan.Target.Verify = true
	c.outputs[c.plan.Target.Path] = nil
	return c
}

// several converts three disks into a folder.
func several(t *testing.T, dir string, data []byte) *crash {
	c := newCrash(t, dir, "several", api.Convert)
	for i := range 3 {
		c.source(t, fmt.Sprintf("src%d", i), data[i<<20:8<<20])
		c.outputs[filepath.Join(c.plan.Target.Path, fmt.Sprintf("disk-sd%c.qcow2", 'a'+i))] = nil
	}
	c.plan.Target.Format = "qcow2"
	c.dirs = append(c.dirs, c.plan.Target.Path)
	return c
}

// flatten writes a chain of four as one image, and converts that.
func flatten(t *testing.T, dir string) *crash {
	c := newCrash(t, dir, "flatten", api.Flatten, api.Convert)
	top, _ := fourDeep(t, c.dirs[0], "qcow2")
	c.keep = []string{"base.raw", "0.qcow2", "1.qcow2", "2.qcow2", "3.qcow2"}
	c.plan.Sources = []api.Source{{Path: top}}
	c.plan.Target.Bandwidth = slow / 5 // it is small
	c.plan.Target.Format = "vmdk"
	c.outputs[c.plan.Target.Path] = nil
	return c
}
