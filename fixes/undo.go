package fixes

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"hyper2kvm/fixes/guest"
)

// ErrNoJournal says that there is nothing to undo.
var ErrNoJournal = errors.New("this guest has no journal of changes")

// EditedError says which files somebody changed after the fixes did.
type EditedError struct{ Files []string }

func (e *EditedError) Error() string {
	return "changed since the fixes were applied: " + strings.Join(e.Files, ", ")
}

// UndoOptions steer Undo. Force gives back the original of a file even where
// it was changed by somebody else since.
type UndoOptions struct{ Force bool }

// Undo gives every file, link and attribute that fixes changed, in however many
// runs, back as it was, removes what they made, and removes the journal. It
// returns the names that it dealt with. Without Force nothing is written when
// a file was changed since: the error is an *EditedError.
func Undo(ctx context.Context, g *guest.Guest, opt UndoOptions) ([]string, error) {
	names, err := undo(ctx, g.FS, opt.Force)
	if err != nil {
		return names, fmt.Errorf("undo: %w", err)
	}
	return names, nil
}

func undo(ctx context.Context, tree guest.FS, force bool) ([]string, error) {
	j, repaired, err := settle(tree)
	switch {
	case err != nil || j == nil && repaired:
		return nil, err
	case j == nil:
		return nil, ErrNoJournal
	}
	if edited, err := j.edited(tree); err != nil {
		return nil, err
	} else if len(edited) > 0 && !force {
		return nil, &EditedError{Files: edited}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return j.restoreAll(tree)
}

// settle loads the journal, nil if there is none, once a run that was cut short
// is taken back; repaired reports that there was one.
func settle(tree guest.FS) (j *journal, repaired bool, err error) {
	j, err = load(tree)
	if err != nil {
		return nil, false, err
	}
	if j == nil {
		return nil, false, (&journal{}).discard(tree)
	}
	if j.Phase != phaseApplying {
		return j, false, j.sweep(tree)
	}
	if err := j.rollBack(tree); err != nil {
		return nil, true, fmt.Errorf("take back an interrupted run: %w", err)
	}
	if len(j.Entries) == 0 {
		return nil, true, nil
	}
	return j, true, nil
}

// recoverRun takes back what an interrupted run did, or finishes an interrupted
// undo.
func recoverRun(tree guest.FS) error {
	j, _, err := settle(tree)
	if err != nil || j == nil || j.Phase != phaseUndoing {
		return err
	}
	edited, err := j.edited(tree)
	if err != nil {
		return err
	}
	if len(edited) > 0 {
		return fmt.Errorf("finish an interrupted undo: %w", &EditedError{Files: edited})
	}
	_, err = j.restoreAll(tree)
	return err
}

// interrupted reports whether recoverRun has anything to do.
func interrupted(tree guest.FS) (bool, error) {
	j, err := load(tree)
	return j != nil && j.Phase != phaseApplied, err
}

// rollBack takes back the run in progress: all that earlier runs did stays.
func (j *journal) rollBack(tree guest.FS) error {
	for _, e := range slices.Backward(j.Entries) {
		if e.Run == nil {
			continue
		}
		if err := restore(tree, e.Path, e.Run); err != nil {
			return err
		}
	}
	for _, e := range j.Entries {
		e.Run = nil
	}
	j.Entries = slices.DeleteFunc(j.Entries, func(e *entry) bool { return e.Original == nil })
	if len(j.Entries) == 0 {
		return j.discard(tree)
	}
	j.Phase = phaseApplied
	if err := j.save(tree); err != nil {
		return err
	}
	return j.sweep(tree)
}

// edited lists the files that are neither as the fixes left them nor as they
// were before.
func (j *journal) edited(tree guest.FS) ([]string, error) {
	var out []string
	for _, e := range j.Entries {
		if e.Now.Kind == kindDir {
			continue
		}
		mine, err := j.mine(tree, e)
		if err != nil {
			return nil, err
		}
		if !mine || e.Edited {
			out = append(out, e.Path)
		}
	}
	return out, nil
}

func (j *journal) mine(tree guest.FS, e *entry) (bool, error) {
	now, err := look(tree, e.Path)
	if err != nil {
		return false, err
	}
	if now.Kind == kindFile && (now.Size == e.Now.Size || now.Size == e.Original.Size) {
		if now, _, err = measure(tree, e.Path); err != nil {
			return false, err
		}
	}
	// A link is removed before the file that it replaced is written again.
	between := j.Phase == phaseUndoing && now.Kind == kindAbsent && e.Now.Kind == kindLink
	return between || now.same(e.Now) || now.same(e.Original), nil
}

// restoreAll gives the originals back, newest change first, and removes the
// journal. What cannot be given back stays in the journal.
func (j *journal) restoreAll(tree guest.FS) ([]string, error) {
	j.Phase = phaseUndoing
	if err := j.save(tree); err != nil {
		return nil, err
	}
	var names []string
	var left []*entry
	var errs []error
	for _, e := range slices.Backward(j.Entries) {
		if err := restore(tree, e.Path, e.Original); err != nil {
			left = append(left, e)
			errs = append(errs, err)
			continue
		}
		names = append(names, e.Path)
	}
	slices.Reverse(names)
	if len(left) > 0 {
		slices.Reverse(left)
		j.Entries = left
		return names, errors.Join(append(errs, j.save(tree))...)
	}
	return names, j.discard(tree)
}
