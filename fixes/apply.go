package fixes

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"slices"
	"strings"

	"hyper2kvm/fixes/guest"
)

// Progress is told of each change before it is made: that it is number done of
// total, of which fix, and what it is. It may be nil.
type Progress func(done, total int, fix, what string)

// StaleError says that a file is no longer as it was when the fixes were
// planned.
type StaleError struct{ Name string }

func (e *StaleError) Error() string { return e.Name + " changed after the fixes were planned" }

// CommandError says that a program of the guest failed, and what it printed.
type CommandError struct {
	Args   []string
	Output string // its last lines
	Err    error
}

func (e *CommandError) Error() string {
	return fmt.Sprintf("run %s: %v", strings.Join(e.Args, " "), e.Err)
}
func (e *CommandError) Unwrap() error { return e.Err }

// Apply makes the planned changes and sets the states of planned to Changed.
// Either all of them are made and in the journal, or, after an error, none: the
// guest is as it was. A run that was cut short before is taken back first, and
// planned is planned again.
func Apply(ctx context.Context, g *guest.Guest, planned *Planned, progress Progress) error {
	if progress == nil {
		progress = func(int, int, string, string) {}
	}
	if err := apply(ctx, g, planned, progress); err != nil {
		return fmt.Errorf("apply fixes: %w", err)
	}
	return nil
}

func apply(ctx context.Context, g *guest.Guest, planned *Planned, progress Progress) error {
	cut, err := interrupted(g.FS)
	if err != nil {
		return err
	}
	if err := recoverRun(g.FS); err != nil {
		return err
	}
	if cut {
		again, err := Plan(ctx, g, planned.list, planned.sel)
		if err != nil {
			return err
		}
		*planned = *again
	}
	if !planned.Pending() {
		return nil
	}
	r := &run{tree: label(g), planned: planned, hashes: map[string]hash.Hash{}}
	if err := r.prepare(); err != nil {
		return errors.Join(err, r.abandon())
	}
	err = r.perform(ctx, g.Run, progress)
	if err == nil {
		err = r.commit()
	}
	if err != nil {
		if back := r.j.rollBack(g.FS); back != nil {
			err = errors.Join(err, fmt.Errorf("take back what was changed: %w", back))
		}
		return err
	}
	for i := range planned.Results {
		if planned.Results[i].State == Pending {
			planned.Results[i].State = Changed
		}
	}
	return nil
}

// run is one Apply.
type run struct {
	tree    guest.FS
	planned *Planned
	j       *journal
	paths   []*touched
	// hashes go on where the content before a run ended, for files that are
	// only appended to: a large file is read once.
	hashes map[string]hash.Hash
}

// touched is a path that a run changes.
type touched struct {
	name, fix string
	appended  int64 // bytes; -1 when something else than an append happens to it
}

// prepare backs up all that is going to change and writes the journal.
func (r *run) prepare() error {
	if err := r.list(); err != nil {
		return err
	}
	var err error
	if r.j, err = load(r.tree); err != nil {
		return err
	}
	if r.j == nil {
		r.j, err = openJournal(r.tree)
	} else {
		err = makeBackupDir(r.tree)
	}
	if err != nil {
		return err
	}
	for _, t := range r.paths {
		if err := r.record(t); err != nil {
			return err
		}
	}
	r.j.Phase = phaseApplying
	return r.j.save(r.tree)
}

// abandon removes what prepare made. What earlier runs left is on the disk as
// it was.
func (r *run) abandon() error {
	if r.j == nil {
		return nil
	}
	if old, err := load(r.tree); err != nil || old != nil {
		return errors.Join(err, recoverRun(r.tree))
	}
	return r.j.discard(r.tree)
}

// list finds every path that the run will change by making the changes in an
// overlay.
func (r *run) list() error {
	scratch := newOverlay(r.tree)
	for _, result := range r.planned.Results {
		if result.State != Pending {
			continue
		}
		for _, c := range result.Changes {
			if command, ok := c.(Command); ok {
				for _, name := range command.Touches {
					real, err := resolveNew(scratch, name, guest.Resolve)
					if err != nil {
						return fmt.Errorf("back up %s: %w", name, err)
					}
					r.touch(real, result.ID, -1)
				}
				continue
			}
			if err := r.listChange(scratch, result.ID, c); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *run) listChange(scratch *overlay, fix string, c Change) error {
	name, err := target(scratch, c)
	if err != nil {
		return err
	}
	if planned, ok := r.planned.sizes[name]; !ok || planned != sizeOf(r.tree, name) {
		return &StaleError{Name: name}
	}
	dirs, err := missingDirs(scratch, name)
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		r.touch(dir, fix, -1)
	}
	added := int64(-1)
	if a, ok := c.(AppendFile); ok {
		added = int64(len(a.Content))
	}
	r.touch(name, fix, added)
	return perform(scratch, c)
}

func (r *run) touch(name, fix string, appended int64) {
	for _, t := range r.paths {
		if t.name != name {
			continue
		}
		if t.appended < 0 || appended < 0 {
			t.appended = -1
		} else {
			t.appended += appended
		}
		return
	}
	r.paths = append(r.paths, &touched{name, fix, appended})
}

// record adds what is at a path now to the journal, with a backup of it.
func (r *run) record(t *touched) error {
	e := r.j.find(t.name)
	if e == nil {
		e = &entry{Path: t.name, Fix: t.fix}
		r.j.Entries = append(r.j.Entries, e)
	}
	if t.appended >= 0 {
		s, h, err := measure(r.tree, t.name)
		if err != nil {
			return err
		}
		s.Prefix = true
		e.Run, r.hashes[t.name] = s, h
		return nil
	}
	if e.Original != nil && e.Original.Prefix {
		if err := r.keepOriginal(e); err != nil {
			return err
		}
	}
	s, err := backUp(r.tree, t.name, r.j.newBackup())
	e.Run = s
	return err
}

// keepOriginal makes a backup of a file that earlier runs only appended to,
// before its beginning goes. Where somebody else has changed the beginning
// there is none to keep; the entry is marked as edited when the run ends.
func (r *run) keepOriginal(e *entry) error {
	backup := r.j.newBackup()
	size, sum, err := copyOut(r.tree, e.Path, backup, e.Original.Size)
	if err != nil {
		return err
	}
	if size == e.Original.Size && sum == e.Original.SHA256 {
		kept := *e.Original
		kept.Prefix, kept.Backup = false, backup
		e.Original = &kept
	}
	return nil
}

func (r *run) perform(ctx context.Context, runner guest.Runner, progress Progress) error {
	total, done := 0, 0
	for _, result := range r.planned.Results {
		if result.State == Pending {
			total += len(result.Changes)
		}
	}
	for _, result := range r.planned.Results {
		if result.State != Pending {
			continue
		}
		for _, c := range result.Changes {
			if err := ctx.Err(); err != nil {
				return err
			}
			done++
			progress(done, total, result.ID, what(c))
			if err := r.do(ctx, runner, c); err != nil {
				return fmt.Errorf("%s: %w", result.ID, err)
			}
		}
	}
	return nil
}

func what(c Change) string {
	if command, ok := c.(Command); ok {
		return "run " + strings.Join(command.Command.Args, " ")
	}
	return c.Target()
}

func (r *run) do(ctx context.Context, runner guest.Runner, c Change) error {
	command, ok := c.(Command)
	if !ok {
		if err := perform(r.tree, c); err != nil {
			return fmt.Errorf("change %s: %w", c.Target(), err)
		}
		return r.follow(c)
	}
	if runner == nil {
		return &CommandError{Args: command.Command.Args, Err: errors.New("programs of this guest cannot be run here")}
	}
	output, err := runner.Run(ctx, command.Command)
	if err != nil {
		return &CommandError{Args: command.Command.Args, Output: lastLines(output), Err: err}
	}
	for _, name := range command.Touches {
		if err := labelNew(r.tree, name); err != nil {
			return fmt.Errorf("label %s: %w", name, err)
		}
	}
	return nil
}

// follow keeps the digest of an appended file up to date.
func (r *run) follow(c Change) error {
	a, ok := c.(AppendFile)
	if !ok {
		return nil
	}
	name, err := target(r.tree, a)
	if err != nil {
		return err
	}
	if h := r.hashes[name]; h != nil {
		h.Write(a.Content)
	}
	return nil
}

// lastLines keeps what a program printed last, which says why it failed.
func lastLines(output []byte) string {
	const most = 4096
	if len(output) > most {
		output = output[len(output)-most:]
	}
	return strings.ToValidUTF8(strings.TrimSpace(string(output)), "?")
}

// commit writes into the journal what the run has left. From then on it can be
// undone, and no longer be taken back by accident.
func (r *run) commit() error {
	done := &journal{Version: 1, Phase: phaseApplied, Dirs: r.j.Dirs, Next: r.j.Next}
	for _, e := range r.j.Entries {
		next := *e
		if t := r.touched(e.Path); t != nil {
			now, err := r.after(t, e)
			if err != nil {
				return fmt.Errorf("read %s back: %w", e.Path, err)
			}
			next.settle(now)
		}
		if !next.Now.equal(next.Original) || next.Edited {
			done.Entries = append(done.Entries, &next)
		}
	}
	if len(done.Entries) == 0 {
		return r.j.rollBack(r.tree) // the commands wrote nothing
	}
	if err := done.save(r.tree); err != nil {
		return err
	}
	// The run is complete now: a backup that stays is swept by the next one.
	_ = done.sweep(r.tree)
	return nil
}

// settle turns what a run found and left into what undo needs.
func (e *entry) settle(now *state) {
	if e.Original == nil {
		e.Original = e.Run
	} else if !e.Run.same(e.Now) {
		e.Edited = true
	}
	e.Now, e.Run = now, nil
}

func (r *run) touched(name string) *touched {
	i := slices.IndexFunc(r.paths, func(t *touched) bool { return t.name == name })
	if i < 0 {
		return nil
	}
	return r.paths[i]
}

// after describes what the run left at a path.
func (r *run) after(t *touched, e *entry) (*state, error) {
	h := r.hashes[t.name]
	if h == nil {
		now, _, err := measure(r.tree, t.name)
		return now, err
	}
	now, err := look(r.tree, t.name)
	if err != nil {
		return nil, err
	}
	if want := e.Run.Size + t.appended; now.Size != want {
		return nil, fmt.Errorf("%d bytes long, not %d", now.Size, want)
	}
	now.SHA256 = digest(h)
	return now, nil
}
