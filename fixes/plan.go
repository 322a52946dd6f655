package fixes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"hyper2kvm/fixes/guest"
)

// Selection names fixes by ID. An empty Only is all of them.
type Selection struct {
	Only, Skip []string
}

// State says what became of one fix.
type State string

// The states; those of a plan are Pending, Unchanged, Skipped and Failed.
const (
	Pending   State = "planned"
	Changed   State = "changed"
	Unchanged State = "unchanged"
	Skipped   State = "skipped"
	Failed    State = "failed"
)

// Result is one fix of a plan: what it wants to change and why.
type Result struct {
	ID, Why string
	State   State
	Changes []Change // only those that change something
	Diff    string
	Notes   []string
	Err     error // why it Failed
}

// Planned is what Plan proposes for a guest. Apply sets the states.
type Planned struct {
	Results []Result

	// To plan again when an interrupted run has to be taken back first.
	list []Fix
	sel  Selection
	// sizes holds the size of every file that is going to change, as planned;
	// -1 for what is no file.
	sizes map[string]int64
}

// Pending reports whether there is anything to apply.
func (p *Planned) Pending() bool {
	return slices.ContainsFunc(p.Results, func(r Result) bool { return r.State == Pending })
}

// Failures joins the errors of the fixes that failed to plan.
func (p *Planned) Failures() error {
	var errs []error
	for _, r := range p.Results {
		if r.Err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", r.ID, r.Err))
		}
	}
	return errors.Join(errs...)
}

// UnknownFixError says that a selection names a fix that does not exist.
type UnknownFixError struct {
	ID    string
	Known []string
}

func (e *UnknownFixError) Error() string {
	return fmt.Sprintf("unknown fix %q (known: %s)", e.ID, strings.Join(e.Known, ", "))
}

// FatalError is what a fix returns when the guest must not be touched at all:
// planning stops.
type FatalError struct{ Err error }

func (e *FatalError) Error() string { return e.Err.Error() }
func (e *FatalError) Unwrap() error { return e.Err }

// SpaceError says that a file system of the guest has too little room. Sizes
// are in bytes.
type SpaceError struct {
	Name       string // the file or folder that has to grow
	Need, Free int64
}

func (e *SpaceError) Error() string {
	return fmt.Sprintf("%s needs %d bytes, %d are free", e.Name, e.Need, e.Free)
}

// Plan asks every selected fix, in order, what it would change, each with the
// changes of the earlier ones in sight. Nothing is written. A fix that fails is
// reported and the others go on, unless its error is a *FatalError.
func Plan(ctx context.Context, g *guest.Guest, list []Fix, sel Selection) (*Planned, error) {
	if err := sel.check(list); err != nil {
		return nil, err
	}
	tree := newOverlay(g.FS)
	if err := recoverRun(tree); err != nil {
		return nil, fmt.Errorf("plan fixes: %w", err)
	}
	planned := &Planned{list: list, sel: sel, sizes: map[string]int64{}}
	for _, f := range list {
		if err := ctx.Err(); err != nil {
			return planned, err
		}
		r := Result{ID: f.ID(), Why: f.Why()}
		switch {
		case !sel.has(f.ID()):
			r.State = Skipped
			r.Notes = []string{"not selected"}
		case !f.Applies(g.Facts):
			r.State = Skipped
			r.Notes = []string{"does not apply to this guest"}
		default:
			tree = planOne(ctx, g, f, tree, planned, &r)
		}
		planned.Results = append(planned.Results, r)
		if fatal, ok := errors.AsType[*FatalError](r.Err); ok {
			return planned, fmt.Errorf("%s: %w", f.ID(), fatal)
		}
	}
	return planned, nil
}

func (s Selection) has(id string) bool {
	return (len(s.Only) == 0 || slices.Contains(s.Only, id)) && !slices.Contains(s.Skip, id)
}

func (s Selection) check(list []Fix) error {
	var known []string
	for _, f := range list {
		known = append(known, f.ID())
	}
	for _, id := range slices.Concat(s.Only, s.Skip) {
		if !slices.Contains(known, id) {
			return &UnknownFixError{ID: id, Known: known}
		}
	}
	return nil
}

// planOne fills in r and returns the tree with its changes made, or the tree as
// it was if the fix failed.
func planOne(ctx context.Context, g *guest.Guest, f Fix, tree *overlay, planned *Planned, r *Result) *overlay {
	view := &guest.Guest{FS: readOnly{tree}, Facts: g.Facts}
	view.Run = planRunner(g.Run)
	proposal, err := f.Plan(ctx, view)
	r.Notes = proposal.Notes
	next := tree.fork()
	if err == nil {
		err = preview(g, tree, next, ordered(proposal.Changes), planned, r)
	}
	switch {
	case err != nil:
		r.State, r.Err, r.Changes, r.Diff = Failed, err, nil, ""
		return tree
	case len(r.Changes) == 0:
		r.State = Unchanged
		return tree
	}
	r.State = Pending
	return next
}

// ordered puts commands after all else: they read what the fix wrote.
func ordered(changes []Change) []Change {
	out := slices.Clone(changes)
	slices.SortStableFunc(out, func(a, b Change) int {
		_, x := a.(Command)
		_, y := b.(Command)
		switch {
		case x == y:
			return 0
		case x:
			return 1
		}
		return -1
	})
	return out
}

// preview makes the changes in next, which starts as a copy of before, keeps
// those that have an effect, and writes the diff.
func preview(g *guest.Guest, before, next *overlay, changes []Change, planned *Planned, r *Result) error {
	var names []string // in the order of their first change
	var comments strings.Builder
	for _, c := range changes {
		if command, ok := c.(Command); ok {
			if g.Run == nil {
				return fmt.Errorf("run %s: programs of this guest cannot be run here", strings.Join(command.Command.Args, " "))
			}
			comments.WriteString(describeCommand(command))
			r.Changes = append(r.Changes, c)
			continue
		}
		name, err := target(next, c)
		if err != nil {
			return err
		}
		was := next.fork()
		if err := perform(next, c); err != nil {
			return err
		}
		same, err := unchanged(was, next, name)
		if err != nil {
			return err
		}
		if same {
			*next = *was
			continue
		}
		r.Changes = append(r.Changes, c)
		comment, err := commentOn(was, c, name)
		if err != nil {
			return err
		}
		if comment != "" {
			comments.WriteString(comment)
		} else if !slices.Contains(names, name) {
			names = append(names, name)
		}
		planned.remember(g.FS, name)
	}
	for _, name := range names {
		diff, err := diffName(before, next, name)
		if err != nil {
			return fmt.Errorf("show change of %s: %w", name, err)
		}
		r.Diff += diff
	}
	r.Diff += comments.String()
	return nil
}

// commentOn is what stands for a change in the diff whose content nobody reads;
// "" for all others.
func commentOn(was *overlay, c Change, name string) (string, error) {
	info, err := was.Lstat(name)
	switch c := c.(type) {
	case AppendFile:
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("# append to %s: %d bytes at %d: %s\n", quote(name), len(c.Content), info.Size(), clean(c.Note)), nil
	case Remove:
		if c.Note == "" || err != nil {
			return "", nil
		}
		what := fmt.Sprintf("%d bytes", info.Size())
		switch {
		case info.IsDir():
			what = "folder"
		case info.Mode()&fs.ModeSymlink != 0:
			what = "link"
		}
		return fmt.Sprintf("# remove %s: %s, %s\n", quote(name), what, clean(c.Note)), nil
	}
	return "", nil
}

func (p *Planned) remember(tree guest.FS, name string) {
	if _, ok := p.sizes[name]; !ok {
		p.sizes[name] = sizeOf(tree, name)
	}
}

func sizeOf(tree guest.FS, name string) int64 {
	if info, err := tree.Lstat(name); err == nil && info.Mode().IsRegular() {
		return info.Size()
	}
	return -1
}

func describeCommand(c Command) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# run in the guest: %s", clean(strings.Join(c.Command.Args, " ")))
	if c.Why != "" {
		fmt.Fprintf(&b, " (%s)", clean(c.Why))
	}
	b.WriteByte('\n')
	for _, name := range c.Touches {
		fmt.Fprintf(&b, "#   may write %s\n", quote(name))
	}
	return b.String()
}

// clean keeps a comment on its line.
func clean(s string) string { return strings.Join(strings.Fields(s), " ") }

// readOnly is what a fix sees while it plans.
type readOnly struct{ *overlay }

// noRunner stands for the guest's Runner while planning.
type noRunner struct{}

// planRunner is what a fix sees of a Runner while it plans: that there is one,
// and what leaves no trace.
func planRunner(r guest.Runner) guest.Runner {
	switch r := r.(type) {
	case nil:
		return nil
	case guest.Trier:
		return tryRunner{Trier: r}
	}
	return noRunner{}
}

// tryRunner is a noRunner that can try programs.
type tryRunner struct {
	noRunner
	guest.Trier
}

var errPlanning = errors.New("a fix only reads while it plans")

func (readOnly) Write(string, io.Reader, guest.Attr) error { return errPlanning }
func (readOnly) Append(string, io.Reader) error            { return errPlanning }
func (readOnly) Truncate(string, int64) error              { return errPlanning }
func (readOnly) Mkdir(string, guest.Attr) error            { return errPlanning }
func (readOnly) Symlink(string, string) error              { return errPlanning }
func (readOnly) Remove(string) error                       { return errPlanning }

func (noRunner) Run(context.Context, guest.Command) ([]byte, error) { return nil, errPlanning }
