package fixes

import (
	"hyper2kvm/fixes/guest"
)

// Change is one thing to do to a guest. The set is closed: the engine knows
// how to show, back up, make and undo each of them.
type Change interface {
	// Target is the guest path that changes; "" for a Command.
	Target() string
	change()
}

// WriteFile makes or replaces a file. Missing parent folders are made.
type WriteFile struct {
	Name    string
	Content []byte
	// Attr is nil to keep what the file has, or root-owned 0644 for a new one.
	Attr *guest.Attr
}

// AppendFile adds bytes at the end of a file that is too large to be held or
// backed up: undo cuts it to its old length.
type AppendFile struct {
	Name    string
	Content []byte
	// Note stands for the bytes in the diff: "cpio segment: virtio_blk.ko, …".
	Note string
}

// CopyFile copies a file of the guest to another name in the guest.
type CopyFile struct {
	From, Name string
}

// Symlink makes Name a symbolic link to To, replacing a file or link.
type Symlink struct {
	Name, To string
}

// Remove removes a file, a link or an empty folder.
type Remove struct {
	Name string
	// Note stands for the content in the diff, where many files go at once: "of
	// open-vm-tools".
	Note string
}

// Command runs a program of the guest. Touches lists every file that it may
// write: they are backed up before, and restored by undo.
type Command struct {
	Command guest.Command
	Touches []string
	Why     string
}

// Target returns the path.
func (c WriteFile) Target() string { return c.Name }

// Target returns the path.
func (c AppendFile) Target() string { return c.Name }

// Target returns the path.
func (c CopyFile) Target() string { return c.Name }

// Target returns the path.
func (c Symlink) Target() string { return c.Name }

// Target returns the path.
func (c Remove) Target() string { return c.Name }

// Target returns "": what a command writes is in Touches.
func (c Command) Target() string { return "" }

func (WriteFile) change()  {}
func (AppendFile) change() {}
func (CopyFile) change()   {}
func (Symlink) change()    {}
func (Remove) change()     {}
func (Command) change()    {}
