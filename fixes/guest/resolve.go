package guest

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// maxLinks is how many symbolic links one name may pass through, as in Linux
// (MAXSYMLINKS in include/linux/namei.h).
const maxLinks = 40

// ErrLoop says that a name passes through too many symbolic links.
var ErrLoop = errors.New("too many levels of symbolic links")

// Links is the part of a FS that resolving a name needs.
type Links interface {
	Lstat(name string) (fs.FileInfo, error)
	ReadLink(name string) (string, error)
}

// Resolve gives the name that name stands for once all symbolic links are
// followed inside the guest's root: a name without a link in it. The last
// element may be missing, as for a file that is going to be made; a missing
// folder on the way is fs.ErrNotExist.
func Resolve(tree Links, name string) (string, error) {
	return resolve(tree, "resolve", name, true)
}

// ResolveParent is Resolve that does not follow the last element: the name of
// the link itself.
func ResolveParent(tree Links, name string) (string, error) {
	return resolve(tree, "resolve", name, false)
}

func resolve(tree Links, op, name string, last bool) (string, error) {
	if !fs.ValidPath(name) {
		return "", &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	here := "."
	todo := split(name)
	for links := 0; len(todo) > 0; {
		elem := todo[0]
		todo = todo[1:]
		if elem == ".." {
			here = path.Dir(here)
			continue
		}
		next := path.Join(here, elem)
		info, err := tree.Lstat(next)
		switch {
		case errors.Is(err, fs.ErrNotExist) && len(todo) == 0:
			return next, nil
		case err != nil:
			return "", fmt.Errorf("%s %s: %w", op, name, err)
		case info.Mode()&fs.ModeSymlink == 0:
			if len(todo) > 0 && !info.IsDir() {
				return "", &fs.PathError{Op: op, Path: name, Err: errNotDir}
			}
			here = next
			continue
		case len(todo) == 0 && !last:
			return next, nil
		}
		if links++; links > maxLinks {
			return "", &fs.PathError{Op: op, Path: name, Err: ErrLoop}
		}
		target, err := tree.ReadLink(next)
		if err != nil {
			return "", fmt.Errorf("%s %s: %w", op, name, err)
		}
		if path.IsAbs(target) {
			here = "."
		}
		todo = append(split(target), todo...)
	}
	return here, nil
}

// errNotDir is a missing file, too, to who only asks whether a name exists.
var errNotDir = fmt.Errorf("not a directory: %w", fs.ErrNotExist)

func split(name string) []string {
	var out []string
	for elem := range strings.SplitSeq(name, "/") {
		if elem != "" && elem != "." {
			out = append(out, elem)
		}
	}
	return out
}
