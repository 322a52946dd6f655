package chain

import (
	"errors"
	"fmt"

	"hyper2kvm/formats"
	"hyper2kvm/formats/detect"
	"hyper2kvm/image/nbd"
)

// openRemote opens an export of an NBD server. Only the user can name one, never
// an image. An export is a disk as the guest sees it, whatever its first bytes
// look like, unless the user says that it holds an image of some format.
func openRemote(name string, pol Policy) (*Chain, error) {
	addr, err := nbd.ParseAddress(name)
	if err != nil {
		return nil, err
	}
	remote, err := nbd.Dial(addr)
	if err != nil {
		return nil, err
	}
	c, err := overRemote(remote, pol)
	if err != nil {
		return nil, errors.Join(err, remote.Close())
	}
	c.remote = remote
	return c, nil
}

func overRemote(remote *nbd.Client, pol Policy) (*Chain, error) {
	name := remote.Address().String()
	switch {
	case remote.Size() == 0:
		return nil, fmt.Errorf("%s: %w", name, detect.ErrEmpty)
	case pol.Format == "" || pol.Format == "raw":
		return Single(remote, name, nil), nil
	}
	return OpenWithin(formats.File{ReaderAt: remote, Size: remote.Size(), Name: name}, nil, pol, refuseRemote)
}

// refuseRemote opens nothing: beside an image that comes over NBD lies nothing,
// and a server has no say in which files of this host are read.
func refuseRemote(name string) (formats.File, error) {
	return formats.File{}, fmt.Errorf("%q is named by an image that comes over NBD: %w", name, formats.ErrRefused)
}

// Remote describes the export that the chain is read from, enough to see that
// it is the same another time; "" when it is read from files.
func (c *Chain) Remote() string {
	if c.remote == nil {
		return ""
	}
	return fmt.Sprintf("%s %d", c.remote.Address(), c.remote.Size())
}

// Interrupt has reads that wait for a server end soon, with an error; Close must
// follow. Reads of files do not wait for anybody.
func (c *Chain) Interrupt() {
	if c.remote != nil {
		c.remote.Interrupt()
	}
}
