package job

import (
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
	j.fresh = true
	return j, nil
}

// Fresh reports whether the folder was made by this run.
func (j *Job) Fresh() bool { return j.fresh }

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
