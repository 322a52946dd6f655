// Package pipeline runs a plan on the host: it opens the sources, has the
// helper VM inspect and repair them on an overlay, converts, and boots the
// result. One file holds one stage.
package pipeline

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/job"
	"hyper2kvm/agent/secret"
	"hyper2kvm/image/chain"
	"hyper2kvm/image/overlay"
)

// Config says where the pipeline finds what it needs on the host.
type Config struct {
	// ImageDir holds the helper VM's kernel and initramfs.
	ImageDir string
	// TempDir takes the folders of runs that leave nothing behind, "" is the system's.
	TempDir string
	// CheckpointEvery is how much of a copy a kill may cost; 0 is two seconds.
	CheckpointEvery time.Duration
	// Secrets is where keys of encrypted volumes are taken from; the zero value
	// asks nobody.
	Secrets secret.Source
	// Memory is the helper VM's memory in bytes, 0 is the default.
	Memory int64
}

// Agent runs plans in this process.
type Agent struct{ cfg Config }

// New returns an agent that runs plans in this process.
func New(cfg Config) *Agent {
	if cfg.TempDir == "" {
		cfg.TempDir = os.TempDir()
	}
	return &Agent{cfg: cfg}
}

// JobSuffix is what a run's job folder is called after its output.
const JobSuffix = ".h2k-job"

// run is one run of a plan.
type run struct {
	cfg    Config
	plan   *api.Plan
	job    *job.Job
	events api.Sink
	report *api.Report

	machines []*described // whose descriptions are among the plan's sources
	sources  []*chain.Chain
	flat     []*chain.Chain     // what FLATTEN wrote, by source; nil where it did not
	overlays []*overlay.Overlay // one a source, nil until a stage needs them
	keys     []secret.Key       // what the plan's keys refer to
	spent    []string           // what the time of the current stage went to
}

// step is a stage as the pipeline runs it.
type step struct {
	stage api.Stage
	run   func(*run, context.Context) error
}

// steps is the pipeline on a host. FLATTEN needs no step unless the plan names
// it: opening the sources joins their chains into one disk each.
func steps() []step {
	return []step{
		{api.Info, (*run).info},
		{api.Map, (*run).mapDisks},
		{api.Structure, (*run).checkImages},
		{api.Digest, (*run).digest},
		{api.Compare, (*run).compare},
		{api.Serve, (*run).export},
		{api.Fetch, (*run).fetch},
		{api.Flatten, (*run).flatten},
		{api.Inspect, (*run).inspect},
		{api.Fix, (*run).fix},
		{api.Undo, (*run).undo},
		{api.Convert, (*run).convert},
		{api.Validate, (*run).validate},
	}
}

// Run implements api.Agent. A job folder given by name is taken up where an
// earlier run of the same plan left it; the default one always starts clean.
func (a *Agent) Run(ctx context.Context, plan *api.Plan, dir string, events api.Sink) (*api.Report, error) {
	r := &run{cfg: a.cfg, plan: plan, report: &api.Report{Version: api.Version, Name: plan.Name}}
	err := r.whole(ctx, dir, events)
	r.conclude(err)
	return r.report, err
}

func (r *run) whole(ctx context.Context, dir string, events api.Sink) error {
	if err := r.plan.Check(); err != nil {
		return api.NewError(api.CodeUsage, "check plan", r.plan.Name, err)
	}
	if err := r.getKeys(ctx); err != nil {
		return err
	}
	if err := r.finishCommits(ctx); err != nil {
		return err
	}
	if err := r.finishRepairs(); err != nil {
		return err
	}
	defer r.closeSources()
	if err := r.resolve(); err != nil {
		return err
	}
	if err := r.openSources(ctx); err != nil {
		return err
	}
	defer r.interruptible(ctx)()
	if err := r.checkTarget(dir); err != nil {
		return err
	}
	if err := r.openJob(dir, events); err != nil {
		return err
	}
	err := r.stages(ctx)
	if err == nil {
		err = r.publishReport()
	}
	return errors.Join(err, r.closeOverlays(), r.closeJob(err))
}

// interruptible ends reads that wait for a server when ctx does, until the
// function that it returns is called.
func (r *run) interruptible(ctx context.Context) (stop func() bool) {
	sources := slices.Clone(r.sources)
	return context.AfterFunc(ctx, func() {
		for _, s := range sources {
			s.Interrupt()
		}
	})
}

func (r *run) stages(ctx context.Context) error {
	for _, s := range steps() {
		if !r.todo(s.stage) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return api.NewError(api.CodeInterrupted, string(s.stage), r.plan.Name, context.Cause(ctx))
		}
		start := time.Now()
		r.spent = nil
		if err := s.run(r, ctx); err != nil {
			if ctx.Err() != nil {
				return api.Errorf(api.CodeInterrupted, string(s.stage), r.plan.Name, "%w (%w)", context.Cause(ctx), err)
			}
			return err
		}
		r.report.Stages = append(r.report.Stages, api.StageTime{
			Stage: s.stage, Seconds: time.Since(start).Seconds(), Detail: strings.Join(r.spent, ", "),
		})
		if err := r.job.Finish(s.stage, r.report); err != nil {
			return api.NewError(api.CodeJob, "record stage", string(s.stage), err)
		}
	}
	return nil
}

// todo reports whether stage s is still to be run. FIX inspects too, in one
// start of the VM: to count INSPECT as finished before it would keep the job
// folder of a run that did nothing yet.
func (r *run) todo(s api.Stage) bool {
	if s == api.Inspect && r.plan.Has(api.Fix) {
		return false
	}
	return r.plan.Has(s) && !r.job.Done(s)
}

// conclude writes the outcome into the report.
func (r *run) conclude(err error) {
	switch {
	case err == nil && r.proven():
		r.report.Status = api.Done
	case err == nil:
		r.report.Status = api.Unproven
	default:
		r.report.Error = api.AsError(err)
		r.report.Status = r.report.Error.Code.Status()
	}
}

// proven reports whether every boot that was asked for succeeded.
func (r *run) proven() bool {
	for _, v := range r.report.Verdicts {
		if v.State != api.Booted {
			return false
		}
	}
	return true
}

func (r *run) openJob(dir string, events api.Sink) error {
	var err error
	home := r.jobHome()
	switch {
	case dir != "":
		r.job, err = job.Open(dir, r.plan, true)
	case home != "":
		r.job, err = job.Open(home+JobSuffix, r.plan, false)
	default:
		r.job, err = job.Temp(r.cfg.TempDir, r.plan)
	}
	if err != nil {
		return api.NewError(api.CodeJob, "open job folder", dir, err)
	}
	r.events = r.job.Sink(events)
	if err := r.takeUp(); err != nil {
		return errors.Join(err, r.job.Close(false))
	}
	return nil
}

// jobHome is the file beside which the job folder lies: the output, or the
// image that is changed in place. A run that only looks has none.
func (r *run) jobHome() string {
	switch {
	case r.plan.Has(api.Convert):
		return r.plan.Target.Home()
	case r.plan.Fix.InPlace:
		return r.plan.Sources[0].Path
	}
	return ""
}

// takeUp brings back what an earlier run of this job had finished.
func (r *run) takeUp() error {
	prints, err := r.fingerprints()
	if err != nil {
		return api.NewError(api.CodeSourceRead, "look at source", r.plan.Sources[0].Path, err)
	}
	st := &r.job.State
	if st.Sources == nil {
		st.Sources = prints
		if err := r.job.SaveState(); err != nil {
			return api.NewError(api.CodeJob, "record sources", r.job.Dir, err)
		}
		return nil
	}
	if strings.Join(st.Sources, "\n") != strings.Join(prints, "\n") {
		return api.Errorf(api.CodeJob, "resume", r.job.Dir, "a source changed since the run was interrupted")
	}
	if st.Report != nil {
		r.report = st.Report
	}
	if r.job.Done(api.Flatten) {
		if err := r.openFlat(); err != nil {
			return err
		}
	}
	if r.job.Done(api.Fix) || r.job.Done(api.Undo) {
		return r.reopenOverlays()
	}
	return nil
}

// closeJob removes the folder unless a resumed run could use it: after an
// interruption or a failure that came when stages were already finished that made
// something, when a copy left a checkpoint, or while a source was being written.
func (r *run) closeJob(err error) error {
	useful := slices.ContainsFunc(r.job.State.Finished, func(s api.Stage) bool { return s != api.Fetch })
	keep := err != nil && (useful || r.job.State.Committing || r.job.Checkpointed())
	if e := r.job.Close(!keep); e != nil {
		return api.NewError(api.CodeJob, "close job folder", r.job.Dir, e)
	}
	return nil
}

func (r *run) notice(s api.Stage, format string, args ...any) {
	r.events.Emit(api.Event{Stage: s, Level: api.Notice, Message: fmt.Sprintf(format, args...)})
}

func (r *run) warn(s api.Stage, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	r.report.Warnings = append(r.report.Warnings, text)
	r.events.Emit(api.Event{Stage: s, Level: api.Warning, Message: text})
}

// progress returns a function that turns bytes done of disk i into events.
func (r *run) progress(s api.Stage, i int) func(done, total int64) {
	return func(done, total int64) {
		r.events.Emit(api.Event{Stage: s, Level: api.Progress, Disk: i, Done: done, Total: total})
	}
}

// baseName is the name of the output without folder and extension.
func baseName(path string) string {
	base := filepath.Base(path)
	return strings.TrimSuffix(base, filepath.Ext(base))
}
