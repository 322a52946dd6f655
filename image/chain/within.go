package chain

import (
	"errors"

	"hyper2kvm/formats"
	"hyper2kvm/image/hostfile"
)

// OpenNamed is Open for an image that a file in the folder dir names, the
// description of a machine say: it is opened only if the policy allows it.
func OpenNamed(dir, name string, pol Policy) (*Chain, error) {
	f, err := pol.open(dir, name)
	if err != nil {
		return nil, err
	}
	return openOver(f, pol)
}

// OpenFile opens a file that a file in the folder dir names, if the policy
// allows it. The caller closes it.
func (p Policy) OpenFile(dir, name string) (*hostfile.File, error) { return p.open(dir, name) }

// OpenWithin opens an image that is no file of the host, a member of an archive
// say, with all it stands on. What it names is found by open alone, which holds
// the policy. host are the files that the images lie in; the caller keeps them
// open as long as the chain, whose Close closes nothing of them.
func OpenWithin(f formats.File, host []string, pol Policy, open formats.Opener) (*Chain, error) {
	c := &Chain{host: append([]string{}, host...)}
	r := resolver{chain: c, policy: pol, within: open}
	if err := r.openAll(f, pol.Format); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// Single makes a chain of one image that stands on nothing. path names it, and
// host are the files of the host that it lies in.
func Single(img formats.Image, path string, host []string) *Chain {
	return &Chain{
		layers: []formats.Image{img}, images: []Opened{{Path: path, Info: img.Info()}}, host: append([]string{}, host...),
	}
}
