package linux

import (
	"strings"
	"testing"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest/guesttest"
)

// applyTo makes the changes that fixes of this package propose, without the
// engine's journal.
func applyTo(t *testing.T, tree *guesttest.FS, changes []fixes.Change) {
	t.Helper()
	for _, c := range changes {
		var err error
		switch c := c.(type) {
		case fixes.WriteFile:
			tree.Put(c.Name, c.Content)
		case fixes.Remove:
			err = tree.Remove(c.Name)
		default:
			t.Fatalf("change %T is not made here", c)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// copies prints CopyFile changes as to<from.
func copies(changes []fixes.Change) string {
	var out []string
	for _, c := range changes {
		if f, ok := c.(fixes.CopyFile); ok {
			out = append(out, f.Name+"<"+f.From)
		}
	}
	return strings.Join(out, " ")
}
