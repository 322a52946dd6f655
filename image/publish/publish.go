// Package publish makes outputs appear under their final name whole or not at
// all: a file is written beside it under the name ".NAME.h2k-partial", synced,
// and renamed.
//
// A lock on the partial file says that its writer lives. What a killed run
// left is recognised by the missing lock; the next one removes it, or goes on
// with it when it knows how far that run got.
package publish

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Sentinels to branch on.
var (
	// ErrExists says that the final name is taken and force was not given.
	ErrExists = errors.New("output exists")
	// ErrIsSource says that the output would replace one of the sources.
	ErrIsSource = errors.New("output is one of the sources")
	// ErrBusy says that another process is writing the same output.
	ErrBusy = errors.New("output is being written by another process")
)

// suffix of partial files. Names of outputs may be as long as the file system
// allows, 255 bytes on Linux (NAME_MAX).
const (
	suffix  = ".h2k-partial"
	maxName = 255
)

// Output is an output on its way.
type Output struct {
	final, partial string
	force, takeUp  bool
	renamed        bool // the partial name is no longer ours
	device         bool // written in place
	file           *os.File
}

// Create begins the output that will be final. sources are files that it must
// not be; one that does not exist is passed over. An existing final name gives
// ErrExists unless force is set; so does a block device that is not empty. A
// device is written in place: it has no name to appear under. Exactly one of Commit, Keep and Abort must follow.
func Create(final string, force bool, sources ...string) (*Output, error) {
	return begin(&Output{final: filepath.Clean(final), force: force}, sources)
}

// TakeUp is Create but for one thing: a partial file that a dead run left is
// kept as it is, for the caller to go on with.
func TakeUp(final string, force bool, sources ...string) (*Output, error) {
	return begin(&Output{final: filepath.Clean(final), force: force, takeUp: true}, sources)
}

func begin(o *Output, sources []string) (*Output, error) {
	final := o.final
	info, err := os.Stat(final)
	device := err == nil && isDevice(info)
	// One that is taken up holds what the dead run wrote.
	if err := checkFinal(final, o.force || device && o.takeUp, sources); err != nil {
		return nil, err
	}
	if device {
		f, err := openDevice(final)
		if err != nil {
			return nil, fmt.Errorf("begin output %s: %w", final, err)
		}
		o.file, o.device = f, true
		return o, nil
	}
	o.partial = Partial(final)
	// Two rounds see a stale file away; more mean that others race for it.
	for range 8 {
		done, err := o.acquire()
		if err != nil {
			return nil, fmt.Errorf("begin output %s: %w", final, err)
		}
		if done {
			return o, nil
		}
	}
	return nil, fmt.Errorf("begin output %s: %w", final, ErrBusy)
}

// Partial is the name under which final is written.
func Partial(final string) string {
	dir, name := filepath.Split(final)
	if len(name)+len(suffix)+1 > maxName {
		sum := sha256.Sum256([]byte(name))
		name = fmt.Sprintf("%.64s-%x", name, sum[:8])
	}
	return filepath.Join(dir, "."+name+suffix)
}

func checkFinal(final string, force bool, sources []string) error {
	info, err := os.Stat(final)
	if errors.Is(err, fs.ErrNotExist) {
		// A dangling link would be replaced by a rename: say that it is there.
		if _, err := os.Lstat(final); err == nil && !force {
			return fmt.Errorf("%s: %w", final, ErrExists)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at output: %w", err)
	}
	if isDevice(info) {
		return checkDevice(final, force, sources)
	}
	for _, s := range sources {
		if src, err := os.Stat(s); err == nil && os.SameFile(info, src) {
			return fmt.Errorf("%s is %s: %w", final, s, ErrIsSource)
		}
	}
	if info.IsDir() {
		return fmt.Errorf("%s is a directory: %w", final, ErrExists)
	}
	if !force {
		return fmt.Errorf("%s: %w", final, ErrExists)
	}
	return nil
}

// acquire opens and locks the partial file; done is false when it had to
// remove a stale one or lost a race, and has to be called again.
func (o *Output) acquire() (done bool, err error) {
	f, err := os.OpenFile(o.partial, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return false, err
	}
	defer func() {
		if !done {
			f.Close()
		}
	}()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrBusy
		}
		return false, err
	}
	// Between open and lock the file may have been renamed or removed by the
	// process that held the lock: then this is not the partial file any more.
	mine, err := f.Stat()
	if err != nil {
		return false, err
	}
	named, err := os.Lstat(o.partial)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(mine, named) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if mine.Size() > 0 && !o.takeUp {
		return false, os.Remove(o.partial)
	}
	o.file = f
	return true, nil
}

// File is the file to write to.
func (o *Output) File() *os.File { return o.file }

// Device reports whether the output is a block device, which is written in
// place.
func (o *Output) Device() bool { return o.device }

// Commit syncs the file and gives it its final name.
func (o *Output) Commit() error {
	if err := o.commit(); err != nil {
		o.Abort()
		return fmt.Errorf("publish %s: %w", o.final, err)
	}
	// The lock goes with the descriptor, after the rename.
	if err := o.file.Close(); err != nil {
		return fmt.Errorf("publish %s: %w", o.final, err)
	}
	return nil
}

func (o *Output) commit() error {
	if err := o.file.Sync(); err != nil {
		return err
	}
	if o.device {
		return nil
	}
	if err := o.rename(); err != nil {
		return err
	}
	o.renamed = true
	return syncDir(filepath.Dir(o.final))
}

func (o *Output) rename() error {
	if o.force {
		return os.Rename(o.partial, o.final)
	}
	err := unix.Renameat2(unix.AT_FDCWD, o.partial, unix.AT_FDCWD, o.final, unix.RENAME_NOREPLACE)
	switch {
	case errors.Is(err, unix.EEXIST):
		return ErrExists
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.ENOTSUP):
		return o.linkNew() // file systems without RENAME_NOREPLACE, NFS among them
	case err != nil:
		return &os.LinkError{Op: "rename", Old: o.partial, New: o.final, Err: err}
	}
	return nil
}

func (o *Output) linkNew() error {
	err := os.Link(o.partial, o.final)
	if errors.Is(err, fs.ErrExist) {
		return ErrExists
	}
	if err != nil {
		return err
	}
	return os.Remove(o.partial)
}

// Keep leaves the partial file for a later TakeUp.
func (o *Output) Keep() error {
	if err := o.file.Close(); err != nil {
		return fmt.Errorf("keep partial output of %s: %w", o.final, err)
	}
	return nil
}

// Abort removes the partial file. What was written on a device stays.
func (o *Output) Abort() error {
	var err error
	if !o.renamed && !o.device {
		err = os.Remove(o.partial)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, o.file.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	// Some network file systems cannot sync a folder; they are no worse off.
	if err := d.Sync(); err != nil && !errors.Is(err, unix.EINVAL) {
		return err
	}
	return nil
}

// WriteFile publishes a small file in one go.
func WriteFile(final string, content []byte, force bool) error {
	o, err := Create(final, force)
	if err != nil {
		return err
	}
	if _, err := o.file.Write(content); err != nil {
		o.Abort()
		return fmt.Errorf("write %s: %w", final, err)
	}
	return o.Commit()
}
