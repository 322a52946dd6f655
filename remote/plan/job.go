package plan

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"hyper2kvm/agent/api"
)

// JobSuffix is what a run's job folder is called after the file it lies beside.
const JobSuffix = ".h2k-job"

// jobPlan is the plan's name in a job folder.
const jobPlan = "plan.yaml"

// Home is the file beside which a run of the plan keeps its job folder: the
// output, or the image that is changed in place; "" for one that only looks.
func Home(p *api.Plan) string {
	switch {
	case p.Has(api.Convert):
		return p.Target.Home()
	case p.Fix.InPlace && len(p.Sources) > 0:
		return p.Sources[0].Path
	}
	return ""
}

// OfJob finds the job folder that name means, the folder itself or the file
// it lies beside, and reads its plan. With name "" it is the only one in the
// working folder.
func OfJob(name string) (dir string, p *api.Plan, err error) {
	if name == "" {
		if name, err = only("."); err != nil {
			return "", nil, err
		}
	}
	name = filepath.Clean(name) // the job lies beside a folder, too: "web01/"
	for _, dir := range []string{name, api.Target{Path: name}.Home() + JobSuffix} {
		p, err := Load(filepath.Join(dir, jobPlan), api.Plan{})
		if err == nil {
			return dir, p, nil
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			return "", nil, err
		}
	}
	return "", nil, errors.New("there is no interrupted run to go on with")
}

// only is the one job folder in dir.
func only(dir string) (string, error) {
	found, err := filepath.Glob(filepath.Join(dir, "*"+JobSuffix))
	if err != nil {
		return "", err
	}
	switch len(found) {
	case 0:
		return "", errors.New("there is no interrupted run in this folder")
	case 1:
		return found[0], nil
	}
	slices.Sort(found)
	return "", fmt.Errorf("there are several: %s", strings.Join(found, ", "))
}
