package guest

import "context"

// Effect is what programs have done to one file, link or folder in a trial.
type Effect struct {
	Name string // without a link in it
	// Gone says that it was removed; what lay in a folder that is gone has
	// effects of its own, before it.
	Gone bool
	// Attr is what it has now; Mode tells what it is.
	Attr    Attr
	Content []byte // of a file
	Target  string // of a link
}

// Trier is a Runner that can also run programs on a copy of the guest's files
// that is thrown away after. What it returns is all that they did, so that a fix
// can propose the same as plain changes: shown, backed up and undone file by
// file, whatever scripts the programs ran.
type Trier interface {
	// Try runs the commands one after the other, up to the first that fails, and
	// returns what they printed. limit bounds the content of the effects, in bytes.
	Try(ctx context.Context, limit int64, commands ...Command) (effects []Effect, output []byte, err error)
}
