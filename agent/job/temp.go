package job

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hyper2kvm/agent/api"
)

const (
	tempPrefix = "h2k-job-"
	// newPrefix is what a folder is called until it is locked: without a lock it
	// would look like one of a run that was killed.
	newPrefix = "h2k-new-"
	// unlocked is how old a folder that never was locked must be to be swept.
	unlocked = time.Hour
)

// Temp opens a throw-away job folder in dir for a run that leaves nothing
// behind, and removes those of runs that were killed.
func Temp(dir string, plan *api.Plan) (*Job, error) {
	s, err := NewScratch(dir)
	if err != nil {
		return nil, err
	}
	j := &Job{Dir: s.Dir, Plan: plan, lock: s.lock}
	if err := j.begin(false); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return j, nil
}

// sweep removes the temporary folders that no living process has locked. What
// it cannot look at or remove is left: it may be another user's.
func sweep(dir string) {
	unborn, _ := filepath.Glob(filepath.Join(dir, newPrefix+"*"))
	for _, old := range unborn {
		if info, err := os.Lstat(old); err == nil && time.Since(info.ModTime()) > unlocked {
			_ = os.RemoveAll(old)
		}
	}
	found, _ := filepath.Glob(filepath.Join(dir, tempPrefix+"*"))
	for _, old := range found {
		f, err := os.OpenFile(filepath.Join(old, lockFile), os.O_RDWR|unix.O_NOFOLLOW, 0)
		if err != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			_ = os.RemoveAll(old)
		}
		f.Close()
	}
}

// Scratch is a throw-away folder for what belongs to no job, such as sockets,
// whose paths must be short. One of a killed run is swept like a job's.
type Scratch struct {
	Dir  string
	lock *os.File
}

// NewScratch makes a scratch folder in dir and sweeps those of killed runs.
func NewScratch(dir string) (*Scratch, error) {
	sweep(dir)
	name, err := os.MkdirTemp(dir, newPrefix)
	if err != nil {
		return nil, fmt.Errorf("make scratch folder: %w", err)
	}
	j := &Job{Dir: name}
	if err := j.acquire(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(name))
	}
	// Only now may a sweep of another process see it.
	s := &Scratch{Dir: filepath.Join(dir, tempPrefix+strings.TrimPrefix(filepath.Base(name), newPrefix)), lock: j.lock}
	if err := os.Rename(name, s.Dir); err != nil {
		j.unlock()
		return nil, errors.Join(fmt.Errorf("rename scratch folder %s: %w", name, err), os.RemoveAll(name))
	}
	return s, nil
}

// Close removes the folder.
func (s *Scratch) Close() error {
	err := os.RemoveAll(s.Dir)
	s.lock.Close()
	return err
}
