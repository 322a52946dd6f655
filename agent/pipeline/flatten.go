package pipeline

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"hyper2kvm/agent/api"
	"hyper2kvm/formats"
	"hyper2kvm/image/chain"
	"hyper2kvm/image/convert"
)

// flatten writes every source that stands on parents as one image into the job
// folder, which later stages then read. Without this stage they read the chain
// itself, which costs nothing before: that is the usual way.
func (r *run) flatten(ctx context.Context) error {
	r.fillDisks()
	for i, src := range r.sources {
		if len(src.Images()) == 1 {
			continue
		}
		out := r.job.Flat(i)
		// What has its name is whole; the job folder is this run's alone.
		if _, err := os.Stat(out); err == nil {
			continue
		}
		res, err := convert.Run(ctx, src, out, convert.Options{
			Bandwidth: r.plan.Target.Bandwidth, Progress: r.progress(api.Flatten, i), Sources: r.sourceFiles(),
			Identity: r.identity(i), Checkpoint: r.job.Checkpoint(api.Flatten, i), CheckpointEvery: r.cfg.CheckpointEvery,
		})
		if err != nil {
			return outputError("flatten to", out, err)
		}
		r.noticeResumed(api.Flatten, i, res)
		r.notice(api.Flatten, "%s and its parents joined: %d bytes", r.plan.Sources[i].Name(), res.Written)
	}
	return r.openFlat()
}

// openFlat opens what FLATTEN wrote.
func (r *run) openFlat() error {
	r.flat = make([]*chain.Chain, len(r.sources))
	for i := range r.sources {
		c, err := chain.Open(r.job.Flat(i), chain.Policy{Format: "qcow2"})
		if errors.Is(err, fs.ErrNotExist) {
			continue // it had no parents
		}
		if err != nil {
			return api.NewError(api.CodeJob, "open flattened source", r.job.Flat(i), err)
		}
		r.flat[i] = c
	}
	return nil
}

// bases are the disks as stages read them before any repair: what FLATTEN
// wrote, or the sources themselves. What is known of a disk beside its bytes,
// its name and sector size, is only ever the source's.
func (r *run) bases() []formats.Disk {
	var out []formats.Disk
	for i, src := range r.sources {
		if r.flat != nil && r.flat[i] != nil {
			out = append(out, r.flat[i])
			continue
		}
		out = append(out, src)
	}
	return out
}
