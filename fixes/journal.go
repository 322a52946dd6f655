package fixes

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"hyper2kvm/fixes/guest"
)

// Where the journal and the backups lie in the guest.
const (
	journalDir  = "var/lib/hyper2kvm"
	journalName = journalDir + "/journal.json"
	backupDir   = journalDir + "/backup"
)

// maxJournal is the largest journal that is read: a guest may be hostile.
const maxJournal = 16 << 20

// The phases of a journal. In the first and the last it describes work that was
// cut short, which the next Plan, Apply or Undo takes back or finishes.
const (
	phaseApplying = "applying"
	phaseApplied  = "applied"
	phaseUndoing  = "undoing"
)

// journal is written before anything changes, so that whatever happens between
// two writes to the guest can be repaired from it.
type journal struct {
	Version int    `json:"version"`
	Phase   string `json:"phase"`
	// Dirs are folders that were made for the journal itself, topmost first.
	Dirs    []string `json:"dirs,omitempty"`
	Next    int      `json:"next"` // number of the next backup
	Entries []*entry `json:"entries"`
}

// entry is one path that runs have changed, in the order of first change.
type entry struct {
	Path string `json:"path"` // resolved: no link in it
	Fix  string `json:"fix"`  // that changed it first
	// Original is what undo gives back; nil until the first run is complete.
	Original *state `json:"before,omitempty"`
	// Now is what the last complete run left.
	Now *state `json:"after,omitempty"`
	// Edited says that somebody changed the path between two runs.
	Edited bool `json:"edited,omitempty"`
	// Run is what the run in progress found; nil when no run is in progress.
	Run *state `json:"run,omitempty"`
}

func (j *journal) find(name string) *entry {
	for _, e := range j.Entries {
		if e.Path == name {
			return e
		}
	}
	return nil
}

func (j *journal) newBackup() string {
	j.Next++
	return strconv.Itoa(j.Next)
}

// load reads the journal; it is nil when there is none.
func load(tree guest.FS) (*journal, error) {
	f, err := tree.Open(journalName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxJournal+1))
	if err != nil {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	return parseJournal(data)
}

func parseJournal(data []byte) (*journal, error) {
	if len(data) > maxJournal {
		return nil, fmt.Errorf("read journal: larger than %d bytes", maxJournal)
	}
	j := &journal{}
	if err := json.Unmarshal(data, j); err != nil {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	if err := j.check(); err != nil {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	return j, nil
}

// check refuses what this program would not have written.
func (j *journal) check() error {
	if j.Version != 1 {
		return fmt.Errorf("version %d is not known", j.Version)
	}
	if !slices.Contains([]string{phaseApplying, phaseApplied, phaseUndoing}, j.Phase) {
		return fmt.Errorf("phase %q is not known", j.Phase)
	}
	for _, dir := range j.Dirs {
		if !fs.ValidPath(dir) || dir == "." {
			return fmt.Errorf("folder %q is no valid path", dir)
		}
	}
	for _, e := range j.Entries {
		if e == nil || !fs.ValidPath(e.Path) || e.Path == "." {
			return errors.New("an entry has no valid path")
		}
		if (e.Original == nil) != (e.Now == nil) || e.Original == nil && e.Run == nil {
			return fmt.Errorf("entry %s is not complete", e.Path)
		}
		for _, s := range []*state{e.Original, e.Now, e.Run} {
			if err := s.check(); err != nil {
				return fmt.Errorf("entry %s: %w", e.Path, err)
			}
		}
	}
	return nil
}

func (j *journal) save(tree guest.FS) error {
	data, err := json.MarshalIndent(j, "", "\t")
	if err != nil {
		return err
	}
	attr, err := newAttr(tree, journalName, &guest.Attr{Mode: 0o600})
	if err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	if err := tree.Write(journalName, strings.NewReader(string(data)+"\n"), attr); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	return nil
}

// openJournal makes the journal's folders and a journal without entries.
func openJournal(tree guest.FS) (*journal, error) {
	name, err := resolveNew(tree, journalName, guest.Resolve)
	if err != nil {
		return nil, fmt.Errorf("make journal: %w", err)
	}
	dirs, err := missingDirs(tree, name)
	if err != nil {
		return nil, fmt.Errorf("make journal: %w", err)
	}
	j := &journal{Version: 1, Dirs: dirs}
	for _, dir := range dirs {
		attr := guest.Attr{Mode: 0o755}
		if path.Base(dir) == path.Base(journalDir) {
			attr.Mode = 0o700 // backups hold what others may not read
		}
		if err := tree.Mkdir(dir, attr); err != nil {
			return j, fmt.Errorf("make journal: %w", err)
		}
	}
	return j, makeBackupDir(tree)
}

func makeBackupDir(tree guest.FS) error {
	err := tree.Mkdir(backupDir, guest.Attr{Mode: 0o700})
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("make backup folder: %w", err)
	}
	return nil
}

// sweep removes backups that no entry needs, left by a run that was cut short.
func (j *journal) sweep(tree guest.FS) error {
	entries, err := tree.ReadDir(backupDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	needed := map[string]bool{}
	for _, e := range j.Entries {
		for _, s := range []*state{e.Original, e.Run} {
			if s != nil {
				needed[s.Backup] = true
			}
		}
	}
	for _, e := range entries {
		if needed[e.Name()] {
			continue
		}
		if err := tree.Remove(path.Join(backupDir, e.Name())); err != nil {
			return fmt.Errorf("remove old backup: %w", err)
		}
	}
	return nil
}

// discard removes the journal and all that was made for it. The journal goes
// before its folder and after the backups: cut short anywhere, the next call of
// discard finishes.
func (j *journal) discard(tree guest.FS) error {
	if err := (&journal{}).sweep(tree); err != nil {
		return err
	}
	dirs := slices.Clone(j.Dirs)
	if !slices.Contains(dirs, journalDir) {
		dirs = append(dirs, journalDir)
	}
	slices.Reverse(dirs)
	for _, name := range slices.Concat([]string{backupDir, journalName}, dirs) {
		err := tree.Remove(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !slices.Contains(dirs, name) {
			return fmt.Errorf("remove journal: %w", err)
		}
	}
	return nil
}
