// Package guest is what a fix sees of a guest: its files, a way to run its
// programs where that is possible, and the facts that inspection found.
//
// The same fix runs on three guests: in memory (guesttest), on a mounted tree
// in the helper VM, and over SSH.
package guest

import (
	"context"
	"io"
	"io/fs"
)

// Attr is what a replaced file must keep besides its bytes.
type Attr struct {
	Mode     fs.FileMode // type and permission bits
	UID, GID int
	// Xattrs holds extended attributes, SELinux labels among them.
	Xattrs map[string][]byte
}

// FS is a guest's file tree. Names are slash-separated without a leading
// slash, as in io/fs ("etc/fstab"). Every name is resolved inside the guest's
// root: symbolic links, absolute ones too, can never lead out of it.
//
// A missing file is fs.ErrNotExist.
type FS interface {
	// Open opens a file or directory for reading. It follows symbolic links and
	// refuses anything that is neither a regular file nor a directory.
	Open(name string) (fs.File, error)
	Stat(name string) (fs.FileInfo, error)
	Lstat(name string) (fs.FileInfo, error)
	ReadDir(name string) ([]fs.DirEntry, error)
	ReadLink(name string) (string, error)
	// Attr returns the attributes of name, links followed.
	Attr(name string) (Attr, error)

	// Write makes or replaces the regular file name, atomically and synced. A
	// symbolic link is resolved first: its target is replaced, the link stays.
	Write(name string, content io.Reader, attr Attr) error
	// Mkdir makes one directory; the parent must exist.
	Mkdir(name string, attr Attr) error
	// Symlink makes name a symbolic link to target, replacing a link or file.
	Symlink(target, name string) error
	// Remove removes a file, link or empty directory; links are not followed.
	Remove(name string) error
}

// Appender is a FS that can lengthen and cut a regular file in place, links
// followed, both synced. It spares a small, full /boot a second copy of an
// initramfs; a FS without it is given the whole new file to Write. Neither is
// atomic: the engine's journal holds the old length.
type Appender interface {
	Append(name string, content io.Reader) error
	Truncate(name string, size int64) error
}

// Labels is a FS whose files have SELinux labels, links among them; Attr knows
// of no link's. Links are not followed. Where there is no label it is nil.
type Labels interface {
	Label(name string) ([]byte, error)
	SetLabel(name string, label []byte) error
}

// Command is a program of the guest to run inside the guest's root.
type Command struct {
	Args []string
	Env  []string // added to a minimal environment with a full PATH
}

// Runner runs programs of the guest. Output is what it printed, both streams.
type Runner interface {
	Run(ctx context.Context, cmd Command) (output []byte, err error)
}

// Guest is a guest that fixes can be planned for. Run is nil where the guest's
// programs cannot be run.
type Guest struct {
	FS    FS
	Run   Runner
	Facts *Facts
}
