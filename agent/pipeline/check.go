package pipeline

import (
	"context"
	"errors"
	"fmt"

	"hyper2kvm/agent/api"
	"hyper2kvm/formats"
	"hyper2kvm/image/chain"
	"hyper2kvm/image/mend"
)

// maxListed is how many problems of an image a report lists; all are counted.
const maxListed = 1000

// checkImages checks the structure of each image of each source's chain, and
// mends the named one or takes that back, where that is asked for.
func (r *run) checkImages(ctx context.Context) error {
	r.fillDisks()
	for i := range r.sources {
		if r.plan.CheckHow.Undo {
			if err := r.undoRepair(i); err != nil {
				return err
			}
		}
		checks, patches, err := checkChain(ctx, r.sources[i])
		if err != nil {
			return sourceError("check", r.plan.Sources[i].Name(), err)
		}
		if r.plan.CheckHow.Repair && len(patches) > 0 {
			if checks, err = r.mendImage(ctx, i, checks[0].Problems, patches); err != nil {
				return err
			}
		}
		r.report.Checks = append(r.report.Checks, checks...)
	}
	return nil
}

// checkChain checks the images of a chain, and gives what mends the named one.
func checkChain(ctx context.Context, c *chain.Chain) (checks []api.ImageCheck, patches []formats.Patch, err error) {
	for i, img := range c.Layers() {
		opened := c.Images()[i]
		check := api.ImageCheck{Image: opened.Path, Format: opened.Info.Format}
		checker, ok := img.(formats.Checker)
		if !ok {
			check.Note = unchecked(opened.Info.Format)
			checks = append(checks, check)
			continue
		}
		check.Checked = true
		err := checker.Check(ctx, func(p formats.Problem) error {
			if check.Found++; len(check.Problems) < maxListed {
				check.Problems = append(check.Problems, api.Problem{Kind: p.Kind, Offset: p.Offset, Message: p.Message,
					Harmless: p.Harmless, Repairable: i == 0 && len(p.Patches) > 0})
			}
			if i == 0 {
				patches = append(patches, p.Patches...)
			}
			return ctx.Err()
		})
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", opened.Path, err)
		}
		checks = append(checks, check)
	}
	return checks, patches, nil
}

// unchecked says why an image is not checked.
func unchecked(format string) string {
	if format == "raw" || format == "nbd" {
		return "a " + format + " disk has no structure of its own: there is nothing to check"
	}
	return "the structure of " + format + " images cannot be checked beyond what opening them checks"
}

// mendImage mends the image that the user named, and checks it again.
func (r *run) mendImage(ctx context.Context, i int, found []api.Problem, patches []formats.Patch) ([]api.ImageCheck, error) {
	s := r.plan.Sources[i]
	path, err := r.ownFile(i)
	if err != nil {
		return nil, err
	}
	kept, err := mend.Apply(path, patches)
	if err != nil {
		return nil, mendError("repair", s.Path, err)
	}
	if err := r.reopen(i); err != nil {
		return nil, err
	}
	checks, _, err := checkChain(ctx, r.sources[i])
	if err != nil {
		return nil, sourceError("check after the repair", s.Path, err)
	}
	for _, p := range found {
		if p.Repairable {
			checks[0].Repaired = append(checks[0].Repaired, p)
		}
	}
	checks[0].Backup = kept
	return checks, nil
}

// undoRepair takes back the last repair of the image that the user named.
func (r *run) undoRepair(i int) error {
	path, err := r.ownFile(i)
	if err != nil {
		return err
	}
	if err := mend.Undo(path); err != nil {
		return mendError("undo repair of", r.plan.Sources[i].Path, err)
	}
	return r.reopen(i)
}

// ownFile is the file of the image that the user named. One inside an archive,
// or on a server, is only read.
func (r *run) ownFile(i int) (string, error) {
	path := r.plan.Sources[i].Path
	if files := r.sources[i].Files(); len(files) == 0 || files[0] != path || r.sources[i].Images()[0].Path != path {
		return "", api.Errorf(api.CodeUnsupported, "repair", path, "the image is no file of its own")
	}
	return path, nil
}

// reopen opens source i again, after its file was written.
func (r *run) reopen(i int) error {
	s := r.plan.Sources[i]
	c, err := chain.Open(s.Path, chain.Policy{Format: s.Format, Outside: s.Outside})
	if err != nil {
		return sourceError("open again", s.Path, err)
	}
	old := r.sources[i]
	r.sources[i] = c
	closeAll([]*chain.Chain{old})
	return nil
}

func mendError(action, path string, err error) error {
	code := api.CodeOutput
	switch {
	case errors.Is(err, mend.ErrBusy):
		code = api.CodeBusy
	case errors.Is(err, mend.ErrNone), errors.Is(err, mend.ErrChanged):
		code = api.CodeUndo
	case errors.Is(err, mend.ErrTooMuch):
		code = api.CodeUnsupported
	case errors.Is(err, formats.ErrCorrupt):
		code = api.CodeCorrupt
	}
	return api.NewError(code, action, path, err)
}

// finishRepairs ends repairs of the sources that were killed while they were
// written. A plan that does not repair must not: it is told that the image
// cannot be read as it is.
func (r *run) finishRepairs() error {
	for _, s := range r.plan.Sources {
		if s.Remote() || !mend.Pending(s.Path) {
			continue
		}
		if !r.plan.CheckHow.Repair && !r.plan.CheckHow.Undo {
			return api.Errorf(api.CodeJob, "read", s.Path, "a repair was ended while it was written; h2k disk check --repair %s finishes it", s.Path)
		}
		if _, err := mend.Finish(s.Path); err != nil {
			return mendError("finish repair of", s.Path, err)
		}
	}
	return nil
}
