// Package job keeps a run's folder: the plan, the numbered events, which
// stages are finished, and the overlays, so that a run that was killed can go
// on where it was.
package job

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
	"golang.org/x/sys/unix"

	"hyper2kvm/agent/api"
)

// ErrBusy says that a living process works in the folder.
var ErrBusy = errors.New("another h2k works in this job folder")

// ErrOtherPlan says that the folder belongs to a run of another plan.
var ErrOtherPlan = errors.New("the job folder belongs to another plan")

// names inside the folder.
const (
	planFile   = "plan.yaml"
	stateFile  = "journal"
	eventsFile = "events.jsonl"
	lockFile   = "lock"
	overlayDir = "overlay"

	checkpointPrefix = "checkpoint-"
)

// State is what a resumed run needs to know; it is replaced atomically after
// each stage.
type State struct {
	Finished []api.Stage `json:"finished"`
	// Sources are the fingerprints of the source files; a source that changed
	// in between cannot be resumed.
	Sources []string `json:"sources"`
	// Begun are the outputs whose final names were free when the run began to
	// write them: one that is there when the run is resumed is ours, and whole.
	Begun []string `json:"begun,omitempty"`
	// Converted are the outputs that are complete, with what is reported of them.
	Converted []api.DiskReport `json:"converted,omitempty"`
	// Committing says that the overlays are being written into the sources:
	// until that is done a source is neither what it was nor repaired.
	Committing bool `json:"committing,omitempty"`
	// Report is the report as far as the finished stages got.
	Report *api.Report `json:"report,omitempty"`
}

// Job is an open, locked job folder.
type Job struct {
	Dir   string
	Plan  *api.Plan
	State State
	// Resumed says that the folder held an unfinished run of the same plan.
	Resumed bool

	lock   *os.File
	events *eventLog
}

// Open locks the folder dir for plan, making it where it is missing. With
// resume, the state of an unfinished run of the same plan is taken over;
// without, anything found there from a dead run is thrown away.
func Open(dir string, plan *api.Plan, resume bool) (*Job, error) {
	if err := os.RemoveAll(ended(dir)); err != nil {
		return nil, fmt.Errorf("remove ended job: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make job folder: %w", err)
	}
	j := &Job{Dir: dir, Plan: plan}
	if err := j.acquire(); err != nil {
		return nil, err
	}
	if err := j.begin(resume); err != nil {
		j.unlock()
		return nil, err
	}
	return j, nil
}

// begin makes a locked folder ready for work.
func (j *Job) begin(resume bool) error {
	if err := os.MkdirAll(j.Path(overlayDir), 0o700); err != nil {
		return fmt.Errorf("make job folder: %w", err)
	}
	return j.load(resume)
}

func (j *Job) acquire() error {
	f, err := os.OpenFile(j.Path(lockFile), os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("open lock of job folder: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return fmt.Errorf("lock %s: %w", j.Dir, ErrBusy)
		}
		return fmt.Errorf("lock %s: %w", j.Dir, err)
	}
	j.lock = f
	return nil
}

func (j *Job) unlock() {
	if j.lock != nil {
		j.lock.Close()
		j.lock = nil
	}
}

// load takes over the state of an unfinished run, or clears the folder.
func (j *Job) load(resume bool) error {
	old, err := ReadPlan(j.Dir)
	if resume && err == nil {
		if !samePlan(old, j.Plan) {
			return fmt.Errorf("resume %s: %w", j.Dir, ErrOtherPlan)
		}
		if err := j.readState(); err != nil {
			return err
		}
		j.Resumed = true
	} else if err := j.clear(); err != nil {
		return err
	}
	if err := writePlan(j.Path(planFile), j.Plan); err != nil {
		return err
	}
	j.events, err = openEvents(j.Path(eventsFile))
	return err
}

// clear removes what an earlier run left, all but the lock.
func (j *Job) clear() error {
	entries, err := os.ReadDir(j.Dir)
	if err != nil {
		return fmt.Errorf("read job folder: %w", err)
	}
	for _, e := range entries {
		if e.Name() == lockFile {
			continue
		}
		if !ours(e.Name()) {
			return fmt.Errorf("use %s as job folder: it holds %q, which is not of a job", j.Dir, e.Name())
		}
		if err := os.RemoveAll(j.Path(e.Name())); err != nil {
			return fmt.Errorf("clear job folder: %w", err)
		}
	}
	if err := os.MkdirAll(j.Path(overlayDir), 0o700); err != nil {
		return fmt.Errorf("make job folder: %w", err)
	}
	return nil
}

// ours reports whether a name in the folder is one that a job makes; a user's
// folder given by mistake is never emptied.
func ours(name string) bool {
	return slices.Contains([]string{planFile, stateFile, eventsFile, lockFile, overlayDir, "validate"}, name) ||
		strings.HasPrefix(name, "console") || strings.HasPrefix(name, checkpointPrefix) || strings.HasPrefix(name, ".tmp-")
}

// Path is a path inside the folder.
func (j *Job) Path(elem ...string) string {
	return filepath.Join(append([]string{j.Dir}, elem...)...)
}

// Overlay is the path of the overlay of source disk i; name tells overlays of
// one disk apart.
func (j *Job) Overlay(name string, i int) string {
	return j.Path(overlayDir, fmt.Sprintf("%s-%d", name, i))
}

// Checkpoint is the path of the file that keeps how far the stage got with
// disk i.
func (j *Job) Checkpoint(s api.Stage, i int) string {
	return j.Path(fmt.Sprintf("%s%s-%d", checkpointPrefix, s, i))
}

// Checkpointed reports whether a stage was ended in the middle and left
// something to go on from.
func (j *Job) Checkpointed() bool {
	found, err := filepath.Glob(j.Path(checkpointPrefix + "*"))
	return err == nil && len(found) > 0
}

// Flat is the path of source disk i where FLATTEN wrote it.
func (j *Job) Flat(i int) string { return j.Path(overlayDir, fmt.Sprintf("flat-%d", i)) }

// Done reports whether an earlier run finished the stage.
func (j *Job) Done(s api.Stage) bool { return slices.Contains(j.State.Finished, s) }

// Finish records that a stage is finished, with the report so far. Stage after
// stage, whatever Finish has returned from survives a power cut.
func (j *Job) Finish(s api.Stage, r *api.Report) error {
	if !j.Done(s) {
		j.State.Finished = append(j.State.Finished, s)
	}
	j.State.Report = r
	return j.SaveState()
}

// SaveState writes the state.
func (j *Job) SaveState() error {
	data, err := json.MarshalIndent(j.State, "", " ")
	if err != nil {
		return fmt.Errorf("encode job state: %w", err)
	}
	return replace(j.Path(stateFile), data)
}

func (j *Job) readState() error {
	data, err := os.ReadFile(j.Path(stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read job state: %w", err)
	}
	if err := json.Unmarshal(data, &j.State); err != nil {
		return fmt.Errorf("read job state %s: %w", j.Path(stateFile), err)
	}
	return nil
}

// Sink returns the sink that numbers events, keeps them in the folder, and
// passes them on to next.
func (j *Job) Sink(next api.Sink) api.Sink { return j.events.then(next) }

// Close unlocks the folder; with remove it is removed as a whole.
func (j *Job) Close(remove bool) error {
	err := j.events.close()
	if remove {
		err = errors.Join(err, os.Rename(j.Dir, ended(j.Dir)), os.RemoveAll(ended(j.Dir)))
	}
	j.unlock()
	if err != nil {
		return fmt.Errorf("close job %s: %w", j.Dir, err)
	}
	return nil
}

// ended is the name of a folder whose job is done, while it is removed: a kill
// in the middle of that must not leave half a job to be taken for one.
func ended(dir string) string {
	return filepath.Join(filepath.Dir(dir), "."+filepath.Base(dir)+"-ended")
}

// ReadPlan reads the plan of a job folder.
func ReadPlan(dir string) (*api.Plan, error) {
	data, err := os.ReadFile(filepath.Join(dir, planFile))
	if err != nil {
		return nil, fmt.Errorf("read plan of job: %w", err)
	}
	var tree any
	if err := yaml.Unmarshal(data, &tree); err != nil {
		return nil, fmt.Errorf("read plan of job %s: %w", dir, err)
	}
	// The plan's field names are those of its JSON form.
	data, err = json.Marshal(tree)
	if err != nil {
		return nil, fmt.Errorf("read plan of job %s: %w", dir, err)
	}
	plan := &api.Plan{}
	if err := json.Unmarshal(data, plan); err != nil {
		return nil, fmt.Errorf("read plan of job %s: %w", dir, err)
	}
	return plan, nil
}

func writePlan(path string, plan *api.Plan) error {
	data, err := json.Marshal(plan)
	if err != nil {
		return fmt.Errorf("encode plan: %w", err)
	}
	var tree any
	if err := json.Unmarshal(data, &tree); err != nil {
		return fmt.Errorf("encode plan: %w", err)
	}
	if data, err = yaml.Marshal(tree); err != nil {
		return fmt.Errorf("encode plan: %w", err)
	}
	return replace(path, data)
}

func samePlan(a, b *api.Plan) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && string(x) == string(y)
}

// replace writes a file so that it is there whole, old or new, after a power cut.
func replace(path string, data []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".tmp-")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Begun reads, without opening the job, which outputs an earlier run in dir
// had begun; none where there is no such run.
func Begun(dir string) []string { return peek(dir).Begun }

// Committing reports, without opening the job, whether a run in dir was ended
// while it wrote into its sources.
func Committing(dir string) bool { return peek(dir).Committing }

// peek reads the state of a job that is not open; it is empty where there is none.
func peek(dir string) State {
	var s State
	data, err := os.ReadFile(filepath.Join(dir, stateFile))
	if dir == "" || err != nil || json.Unmarshal(data, &s) != nil {
		return State{}
	}
	return s
}
