package mounted

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"hyper2kvm/fixes/guest"
)

var _ guest.Trier = (*Runner)(nil)

// ErrTrialTooLarge says that what the programs of a trial wrote is more than a
// repair should change.
var ErrTrialTooLarge = errors.New("the programs changed too much")

// Try runs programs on a copy of the tree that is thrown away. Each mounted file
// system of the tree gets an overlay in memory (Documentation/filesystems/overlayfs.rst
// of Linux), whose upper folder is then read: it holds what was written, and a
// mark for what was removed.
func (r *Runner) Try(ctx context.Context, limit int64, commands ...guest.Command) ([]guest.Effect, []byte, error) {
	scratch, err := os.MkdirTemp("", "h2k-trial-")
	if err != nil {
		return nil, nil, fmt.Errorf("try guest programs: %w", err)
	}
	out := &tail{}
	t := &trial{base: r.root, scratch: scratch, left: limit}
	done := make(chan error, 1)
	go inNamespace(done, func() error { return t.run(ctx, out, commands) })
	err = <-done
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	// The mounts were in the namespace, which is gone: the folder is empty.
	err = errors.Join(err, os.Remove(scratch))
	if err != nil {
		err = fmt.Errorf("try guest programs: %w", err)
	}
	return t.effects, out.Bytes(), err
}

// trial is one Try.
type trial struct {
	base    *Root
	scratch string
	layers  []layer
	left    int64 // bytes of content that may still be kept
	effects []guest.Effect
}

// layer is the overlay over one file system, mounted at a folder of the tree.
type layer struct{ at, upper string }

func (t *trial) run(ctx context.Context, out *tail, commands []guest.Command) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := t.mount(); err != nil {
		return err
	}
	merged, err := Open(path.Join(t.scratch, "root"))
	if err != nil {
		return err
	}
	defer func() { _ = merged.Close() }() // opens nothing
	r := &Runner{root: merged}
	if err := r.enter(); err != nil {
		return fmt.Errorf("prepare copy of guest root: %w", err)
	}
	for _, c := range commands {
		if err := r.runHere(ctx, c, out); err != nil {
			return err
		}
	}
	for _, l := range t.layers {
		if err := t.read(l, "."); err != nil {
			return fmt.Errorf("read what the programs did: %w", err)
		}
	}
	return nil
}

// runHere runs a program in the namespace of this thread.
func (r *Runner) runHere(ctx context.Context, c guest.Command, out *tail) error {
	program, err := r.look(c.Args[0])
	if err == nil {
		err = r.command(ctx, program, c, out).Run()
	}
	if e := r.killLeft(); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("%s: %w", strings.Join(c.Args, " "), err)
	}
	return nil
}

// mount lays an overlay over each file system of the tree.
func (t *trial) mount() error {
	if err := unix.Mount("tmpfs", t.scratch, "tmpfs", unix.MS_NOATIME, "mode=0700"); err != nil {
		return fmt.Errorf("mount memory: %w", err)
	}
	mounts, err := mountsBelow(t.base.path)
	if err != nil {
		return err
	}
	merged := path.Join(t.scratch, "root")
	if err := os.Mkdir(merged, 0o755); err != nil {
		return err
	}
	for i, at := range mounts {
		lower := path.Join(t.base.path, at)
		upper, work := path.Join(t.scratch, "upper"+strconv.Itoa(i)), path.Join(t.scratch, "work"+strconv.Itoa(i))
		if err := errors.Join(os.Mkdir(upper, 0o755), os.Mkdir(work, 0o755)); err != nil {
			return err
		}
		if err := likeFolder(upper, lower); err != nil {
			return err
		}
		options := "lowerdir=" + escapeOption(lower) + ",upperdir=" + escapeOption(upper) + ",workdir=" + escapeOption(work) + ",redirect_dir=off,metacopy=off,index=off"
		err := unix.Mount("overlay", path.Join(merged, at), "overlay", 0, options)
		if errors.Is(err, unix.EINVAL) && at != "." {
			// An ESP cannot be laid over: it can be read.
			err = readOnlyBind(lower, path.Join(merged, at))
			if err == nil {
				continue
			}
		}
		if err != nil {
			return fmt.Errorf("lay memory over %s: %w", at, err)
		}
		t.layers = append(t.layers, layer{at, upper})
	}
	return nil
}

// likeFolder gives the top of an overlay the owner and mode of what it covers.
func likeFolder(upper, lower string) error {
	var st unix.Stat_t
	if err := unix.Stat(lower, &st); err != nil {
		return err
	}
	return errors.Join(os.Chown(upper, int(st.Uid), int(st.Gid)), unix.Chmod(upper, st.Mode&0o7777))
}

// escapeOption keeps a path in one mount option.
func escapeOption(s string) string {
	return strings.NewReplacer(`\`, `\\`, ",", `\,`, ":", `\:`).Replace(s)
}

func readOnlyBind(from, to string) error {
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	return unix.Mount("", to, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
}

// mountsBelow lists the folders of the tree on which file systems are mounted,
// the tree's top ("."), which need be none, first.
func mountsBelow(dir string) ([]string, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, err
	}
	out := []string{"."}
	for l := range strings.Lines(string(data)) {
		f := strings.Fields(l) // proc_pid_mountinfo(5): the fifth is the mount point
		if len(f) < 5 {
			continue
		}
		rest, ok := strings.CutPrefix(unescapeMount(f[4]), real+"/")
		if ok && rest != "" && !slices.Contains(out, rest) {
			out = append(out, rest)
		}
	}
	slices.SortStableFunc(out, func(a, b string) int { return cmp.Compare(len(a), len(b)) })
	return out, nil
}

func unescapeMount(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// overlayXattr is how the names of the marks of overlayfs begin.
const overlayXattr = "trusted.overlay."

// read turns the upper folder of a layer into effects.
func (t *trial) read(l layer, dir string) error {
	entries, err := os.ReadDir(path.Join(l.upper, dir))
	if err != nil {
		return err
	}
	if opaque, err := isOpaque(path.Join(l.upper, dir)); err != nil {
		return err
	} else if opaque {
		if err := t.hidden(path.Join(l.at, dir), entries); err != nil {
			return err
		}
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		if err := t.entry(l, name); err != nil {
			return err
		}
	}
	return nil
}

func isOpaque(dir string) (bool, error) {
	buf := make([]byte, 8)
	n, err := unix.Lgetxattr(dir, overlayXattr+"opaque", buf)
	if err == unix.ENODATA || errors.Is(err, errors.ErrUnsupported) {
		return false, nil
	}
	return err == nil && string(buf[:n]) == "y", err
}

// hidden tells of what an opaque folder no longer shows of the one below it.
func (t *trial) hidden(name string, shown []fs.DirEntry) error {
	below, err := t.base.ReadDir(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range below {
		if slices.ContainsFunc(shown, func(s fs.DirEntry) bool { return s.Name() == e.Name() }) {
			continue
		}
		if err := t.gone(path.Join(name, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// gone tells that what is at name in the tree, and all below it, was removed.
func (t *trial) gone(name string) error {
	info, err := t.base.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.IsDir() {
		entries, err := t.base.ReadDir(name)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := t.gone(path.Join(name, e.Name())); err != nil {
				return err
			}
		}
	}
	t.effects = append(t.effects, guest.Effect{Name: name, Gone: true})
	return nil
}

// entry reads one entry of an upper folder.
func (t *trial) entry(l layer, rel string) error {
	name, upper := path.Join(l.at, rel), path.Join(l.upper, rel)
	var st unix.Stat_t
	if err := unix.Lstat(upper, &st); err != nil {
		return &fs.PathError{Op: "lstat", Path: upper, Err: err}
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		if st.Rdev == 0 { // a whiteout
			return t.gone(name)
		}
	case unix.S_IFDIR:
		if _, err := t.base.Lstat(name); errors.Is(err, fs.ErrNotExist) {
			t.effects = append(t.effects, guest.Effect{Name: name, Attr: guest.Attr{Mode: goMode(st.Mode), UID: int(st.Uid), GID: int(st.Gid)}})
		}
		return t.read(l, rel)
	case unix.S_IFLNK:
		target, err := os.Readlink(upper)
		if err != nil {
			return err
		}
		if old, err := t.base.ReadLink(name); err == nil && old == target {
			return nil
		}
		t.effects = append(t.effects, guest.Effect{Name: name, Attr: guest.Attr{Mode: goMode(st.Mode)}, Target: target})
		return nil
	case unix.S_IFREG:
		return t.file(name, upper, &st)
	}
	t.effects = append(t.effects, guest.Effect{Name: name, Attr: guest.Attr{Mode: goMode(st.Mode)}})
	return nil
}

// file reads a file that was written, unless it is as it was.
func (t *trial) file(name, upper string, st *unix.Stat_t) error {
	if t.left -= st.Size; t.left < 0 {
		return fmt.Errorf("%s: %w", name, ErrTrialTooLarge)
	}
	f, err := os.Open(upper)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // read only
	data, err := io.ReadAll(io.LimitReader(f, st.Size))
	if err != nil {
		return err
	}
	attr := guest.Attr{Mode: goMode(st.Mode), UID: int(st.Uid), GID: int(st.Gid)}
	if attr.Xattrs, err = xattrs(int(f.Fd())); err != nil {
		return err
	}
	maps.DeleteFunc(attr.Xattrs, func(key string, _ []byte) bool { return strings.HasPrefix(key, overlayXattr) })
	if t.same(name, attr, data) {
		t.left += st.Size
		return nil
	}
	t.effects = append(t.effects, guest.Effect{Name: name, Attr: attr, Content: data})
	return nil
}

func (t *trial) same(name string, attr guest.Attr, data []byte) bool {
	info, err := t.base.Lstat(name)
	if err != nil || !info.Mode().IsRegular() || info.Size() != int64(len(data)) {
		return false
	}
	old, err := t.base.Attr(name)
	if err != nil || old.Mode != attr.Mode || old.UID != attr.UID || old.GID != attr.GID || !maps.EqualFunc(old.Xattrs, attr.Xattrs, bytes.Equal) {
		return false
	}
	f, err := t.base.Open(name)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }() // read only
	have, err := io.ReadAll(io.LimitReader(f, int64(len(data))+1))
	return err == nil && bytes.Equal(have, data)
}
