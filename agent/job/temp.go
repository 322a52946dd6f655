package job

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"hyper2kvm/agent/api"
)

const tempPrefix = "h2k-job-"

// Temp opens a throw-away job folder in dir for a run that leaves nothing
// behind, and removes those of runs that were killed.
func Temp(dir string, plan *api.Plan) (*Job, error) {
	sweep(dir)
	name, err := os.MkdirTemp(dir, tempPrefix)
	if err != nil {
		return nil, fmt.Errorf("make temporary job folder: %w", err)
	}
	j, err := Open(name, plan, false)
	if err != nil {
		os.RemoveAll(name)
		return nil, err
	}
	return j, nil
}

// sweep removes the temporary folders that no living process has locked. What
// it cannot look at or remove is left: it may be another user's.
func sweep(dir string) {
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
	name, err := os.MkdirTemp(dir, tempPrefix)
	if err != nil {
		return nil, fmt.Errorf("make scratch folder: %w", err)
	}
	j := &Job{Dir: name}
	if err := j.acquire(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(name))
	}
	return &Scratch{Dir: name, lock: j.lock}, nil
}

// Close removes the folder.
func (s *Scratch) Close() error {
	err := os.RemoveAll(s.Dir)
	s.lock.Close()
	return err
}
