package sshguest

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"hyper2kvm/agent/api"
	"hyper2kvm/fixes/guest"
)

// tempPrefix begins the name of a file or link until it is complete.
const tempPrefix = ".h2k-"

func tempBeside(name string) string { return path.Join(path.Dir(name), tempPrefix+rand.Text()) }

// Write makes or replaces the regular file that name stands for: the new file
// is written beside it, synced, given attr, and renamed.
func (f *files) Write(name string, content io.Reader, attr guest.Attr) error {
	real, err := f.resolve("write", name)
	if err != nil {
		return err
	}
	old, err := f.replaceable(real)
	if err != nil {
		return failedOp("write", name, err)
	}
	temp := tempBeside(real)
	err = f.writeTemp(temp, content)
	if err == nil {
		err = f.finish(temp, real, old, attr)
	}
	f.written(real)
	if err != nil {
		err = f.why(real, err)
		_ = f.client.Remove(f.full(temp)) // it may not be there
		return failedOp("write", name, err)
	}
	return nil
}

// replaceable refuses to put a file in the place of anything but a file, and
// says whether there is one.
func (f *files) replaceable(real string) (old bool, err error) {
	info, err := f.lstat(real)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	case real == ".":
		return false, fs.ErrInvalid
	case info.IsDir():
		return false, syscall.EISDIR
	case !info.Mode().IsRegular():
		return false, errSpecial
	}
	return true, nil
}

func (f *files) writeTemp(temp string, content io.Reader) error {
	h, err := f.client.OpenFile(f.full(temp), os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return err
	}
	_, err = h.ReadFrom(content)
	return errors.Join(err, h.Close())
}

// finish gives a complete file its attributes, syncs it, and puts it in its
// place: one round trip for what SFTP needs six for.
func (f *files) finish(temp, real string, old bool, attr guest.Attr) error {
	attributes, err := f.attributes(temp, attr)
	if err != nil {
		return err
	}
	t, r := quote(f.full(temp)), quote(f.full(real))
	var script strings.Builder
	if old && !f.xattr {
		// What SFTP has no word for, ACLs and capabilities, goes over where the
		// guest's cp can do that; busybox's cannot.
		fmt.Fprintf(&script, "cp --attributes-only --preserve=all -- %s %s 2>/dev/null\n", r, t)
	}
	fmt.Fprintf(&script, "{ %s; } 2>&1 || h2k_plain %s || exit 1\n", attributes, t)
	fmt.Fprintf(&script, "sync -- %s 2>/dev/null || sync\nmv -f -- %s %s || exit 1\n", t, t, r)
	fmt.Fprintf(&script, "sync -- %s 2>/dev/null || sync\n", quote(path.Dir(f.full(real))))
	return f.script("( " + script.String() + ")")
}

// attributes is a command that gives a file or folder its attributes. The order
// matters: a change of owner clears set-uid bits and capabilities, an ACL
// changes the mode.
func (f *files) attributes(real string, attr guest.Attr) (string, error) {
	name := quote(f.full(real))
	steps := []string{fmt.Sprintf("chown %d:%d -- %s", attr.UID, attr.GID, name)}
	x, err := f.xattrSteps(real, attr.Xattrs)
	if err != nil {
		return "", err
	}
	steps = append(append(steps, x...), fmt.Sprintf("chmod %04o -- %s", permissions(attr.Mode), name))
	return strings.Join(steps, " && "), nil
}

// permissions are the bits of chmod(2).
func permissions(mode fs.FileMode) uint32 {
	out := uint32(mode.Perm())
	for _, b := range []struct {
		mode fs.FileMode
		bit  uint32
	}{{fs.ModeSetuid, 0o4000}, {fs.ModeSetgid, 0o2000}, {fs.ModeSticky, 0o1000}} {
		if mode&b.mode != 0 {
			out |= b.bit
		}
	}
	return out
}

// syncFolder makes a new name in a folder last. Where the guest's sync takes no
// names it syncs everything.
func (f *files) syncFolder(op, real string) error {
	if err := f.script("sync -- " + quote(f.full(path.Dir(real))) + " 2>/dev/null || sync"); err != nil {
		return failedOp(op, real, fmt.Errorf("sync folder: %w", err))
	}
	return nil
}

// Mkdir makes one folder.
func (f *files) Mkdir(name string, attr guest.Attr) error {
	if err := check("mkdir", name); err != nil {
		return err
	}
	real, err := f.place("mkdir", name)
	if err != nil {
		return err
	}
	if _, err := f.lstat(real); err == nil {
		return &fs.PathError{Op: "mkdir", Path: name, Err: fs.ErrExist}
	}
	err = f.client.Mkdir(f.full(real))
	f.written(real)
	if err != nil {
		return failedOp("mkdir", name, f.why(real, err))
	}
	attributes, err := f.attributes(real, attr)
	if err == nil {
		err = f.script(fmt.Sprintf("( { %s; } 2>&1 || h2k_plain %s )", attributes, quote(f.full(real))))
	}
	f.written(real)
	if err != nil {
		_ = f.client.RemoveDirectory(f.full(real))
		return failedOp("mkdir", name, err)
	}
	return f.syncFolder("mkdir", real)
}

// Symlink makes name a link to target, in place of a link or file.
func (f *files) Symlink(target, name string) error {
	if err := check("symlink", name); err != nil {
		return err
	}
	real, err := f.place("symlink", name)
	if err != nil {
		return err
	}
	if info, err := f.lstat(real); err == nil && info.IsDir() || real == "." {
		return &fs.PathError{Op: "symlink", Path: name, Err: fs.ErrExist}
	}
	temp := tempBeside(real)
	err = f.client.Symlink(target, f.full(temp))
	if err == nil {
		err = f.client.PosixRename(f.full(temp), f.full(real))
	}
	f.written(real)
	f.written(temp)
	if err != nil {
		err = f.why(real, err)
		_ = f.client.Remove(f.full(temp))
		return failedOp("symlink", name, err)
	}
	return f.syncFolder("symlink", real)
}

// Remove removes a file, link or empty folder.
func (f *files) Remove(name string) error {
	if err := check("remove", name); err != nil {
		return err
	}
	real, err := f.place("remove", name)
	if err != nil {
		return err
	}
	info, err := f.lstat(real)
	if err == nil {
		if info.IsDir() {
			err = f.client.RemoveDirectory(f.full(real))
		} else {
			err = f.client.Remove(f.full(real))
		}
		f.written(real)
		if err != nil {
			err = f.why(real, err)
		}
	}
	if err != nil {
		return failedOp("remove", name, err)
	}
	return f.syncFolder("remove", real)
}

// Append adds content at the end of the regular file that name stands for. The
// guest copies the file, the copy is lengthened and takes its place: a
// connection that breaks leaves the file as it was.
func (f *files) Append(name string, content io.Reader) error {
	return f.remake("append", name, func(temp string, size int64) error {
		h, err := f.client.OpenFile(f.full(temp), os.O_WRONLY)
		if err != nil {
			return err
		}
		_, err = h.Seek(size, io.SeekStart)
		if err == nil {
			_, err = h.ReadFrom(content)
		}
		if err == nil && f.fsync {
			err = h.Sync()
		}
		return errors.Join(err, h.Close())
	})
}

// Truncate cuts the regular file that name stands for to size bytes.
func (f *files) Truncate(name string, size int64) error {
	return f.remake("truncate", name, func(temp string, _ int64) error {
		h, err := f.client.OpenFile(f.full(temp), os.O_WRONLY)
		if err != nil {
			return err
		}
		err = h.Truncate(size)
		if err == nil && f.fsync {
			err = h.Sync()
		}
		return errors.Join(err, h.Close())
	})
}

// remake changes a copy of a file that the guest makes, and puts it in its place.
func (f *files) remake(op, name string, change func(temp string, size int64) error) error {
	real, err := f.resolve(op, name)
	if err != nil {
		return err
	}
	f.written(real) // its length must be that of now
	info, err := f.lstat(real)
	if err == nil && !info.Mode().IsRegular() {
		err = errSpecial
	}
	if err != nil {
		return failedOp(op, name, err)
	}
	temp := tempBeside(real)
	err = f.script("cp -p --preserve=all -- " + words(f.full(real), f.full(temp)) + " 2>/dev/null || cp -p -- " + words(f.full(real), f.full(temp)))
	if err == nil {
		err = change(temp, info.Size())
	}
	if err == nil {
		err = f.client.PosixRename(f.full(temp), f.full(real))
	}
	f.written(real)
	if err != nil {
		err = f.why(real, err)
		_ = f.client.Remove(f.full(temp))
		return failedOp(op, name, err)
	}
	return f.syncFolder(op, real)
}

// why finds out what a server meant that tells every failure by one code: a
// full disk, a read-only file system, a file that cannot be changed.
func (f *files) why(real string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return err
	}
	dir := f.full(path.Dir(real))
	out, _, e := f.shell.run(fmt.Sprintf(whyScript, quote(f.full(real)), quote(dir)))
	if e != nil {
		return err
	}
	for w := range fieldsOf(out) {
		switch w {
		case "immutable":
			return api.Errorf(api.CodeGuestImmutable, "change", f.full(real), "it, or its folder, has the attribute i or a (chattr(1)): %w", err)
		case "read-only":
			return api.Errorf(api.CodeGuestReadOnly, "change", f.full(real), "its file system is mounted read-only: %w", err)
		}
	}
	if free, ok := bytes.CutPrefix(bytes.TrimSpace(out), []byte("free ")); ok && noSpace(free) {
		return api.Errorf(api.CodeGuestSpace, "change", f.full(real), "its file system is full: %w", syscall.ENOSPC)
	}
	return err
}

// whyScript looks for the causes that a server does not tell.
const whyScript = `for x in %[1]s %[2]s; do
	case $(lsattr -d -- "$x" 2>/dev/null | cut -d" " -f1) in *i*|*a*) echo immutable;; esac
done
t=%[2]s/.h2k-probe$$
if ( : >"$t" ) 2>/dev/null; then rm -f "$t"; else ( : >"$t" ) 2>&1 | grep -q "Read-only" && echo read-only; fi
echo free $(df -Pk -- %[2]s | tail -n 1) inodes $(df -Pi -- %[2]s 2>/dev/null | tail -n 1)`

// noSpace reads the words of df(1) -P for blocks and inodes: nothing available,
// in the fourth column.
func noSpace(words []byte) bool {
	blocks, inodes, _ := strings.Cut(string(words), "inodes")
	empty := func(line string) bool {
		w := strings.Fields(line)
		return len(w) >= 4 && w[3] == "0" && w[1] != "0"
	}
	return empty(blocks) || empty(inodes)
}
