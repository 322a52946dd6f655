package fixes

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/guest/guesttest"
)

// plain is a fix that wants the same changes whatever it sees.
type plain struct {
	id      string
	changes []Change
	err     error
}

func (f plain) ID() string                { return f.id }
func (f plain) Why() string               { return "because of " + f.id }
func (f plain) Applies(*guest.Facts) bool { return f.id != "never" }
func (f plain) Plan(context.Context, *guest.Guest) (Proposal, error) {
	return Proposal{Changes: f.changes, Notes: []string{"note of " + f.id}}, f.err
}

// appendOnce appends to the initrd unless that is done already.
type appendOnce struct{ text string }

func (appendOnce) ID() string                { return "linux/append" }
func (appendOnce) Why() string               { return "the initrd lacks it" }
func (appendOnce) Applies(*guest.Facts) bool { return true }
func (f appendOnce) Plan(_ context.Context, g *guest.Guest) (Proposal, error) {
	data, err := fs.ReadFile(g.FS, "boot/initrd")
	if err != nil || bytes.Contains(data, []byte(f.text)) {
		return Proposal{}, err
	}
	return Proposal{Changes: []Change{AppendFile{Name: "boot/initrd", Content: []byte(f.text), Note: "segment"}}}, nil
}

// generator is a program of the guest: it rewrites the initrd and makes a file.
type generator struct {
	tree guest.FS
	fail bool
}

func (r generator) Run(context.Context, guest.Command) ([]byte, error) {
	// In place, not atomically, as a foreign program would.
	if a, ok := r.tree.(guest.Appender); ok {
		if err := a.Truncate("boot/initrd", 2); err != nil {
			return nil, err
		}
	}
	if err := r.tree.Write("boot/initrd", strings.NewReader("generated"), guest.Attr{Mode: 0o600}); err != nil {
		return nil, err
	}
	if r.fail {
		return []byte("first\nNo space left\n"), errors.New("exit status 1")
	}
	return nil, r.tree.Write("boot/made", strings.NewReader("by the command"), guest.Attr{Mode: 0o644})
}

const engineTree = `
-- boot/initrd mode=0600 --
the old initrd
-- boot/loader.efi mode=0755 --
EFI program
-- boot/grub2/grub.cfg mode=0600 uid=1 gid=2 xattr.security.selinux=boot_t --
set default=0
linux /vmlinuz root=/dev/sda1 ro
initrd /initrd
-- etc/fstab mode=0664 xattr.security.selinux=etc_t --
/dev/sda1 / ext4 defaults 0 1
-- etc/grub.cfg link=../boot/grub2/grub.cfg --
-- etc/tools.service link=/usr/lib/tools.service --
-- etc/old.conf mode=0640 gid=9 --
remove me
-- etc/link.conf --
will be a link
-- var/lib/ --
`

func engineFixes() []Fix {
	return []Fix{
		plain{id: "linux/fstab", changes: []Change{
			WriteFile{Name: "etc/fstab", Content: []byte("UUID=1 / ext4 defaults 0 1\n")},
			Remove{Name: "etc/tools.service"},
		}},
		plain{id: "linux/grub", changes: []Change{
			WriteFile{Name: "etc/grub.cfg", Content: []byte("set default=0\nlinux /vmlinuz root=UUID=1 ro\ninitrd /initrd\n")},
			CopyFile{From: "boot/loader.efi", Name: "boot/efi/EFI/BOOT/BOOTX64.EFI"},
		}},
		appendOnce{"SEGMENT"},
		plain{id: "linux/net", changes: []Change{
			WriteFile{Name: "etc/systemd/network/10.link", Content: []byte("[Link]\n"), Attr: &guest.Attr{Mode: 0o640}},
			Symlink{Name: "etc/link.conf", To: "fstab"},
			Symlink{Name: "etc/systemd/system/tools.service", To: "/dev/null"},
			Remove{Name: "etc/old.conf"},
			// Through the link made above.
			WriteFile{Name: "etc/link.conf", Content: []byte("UUID=1 / ext4 defaults 0 1\n# twice\n")},
		}},
	}
}

func newEngineGuest(t testing.TB) (*guesttest.FS, *guest.Guest) {
	tree := guesttest.New(t, engineTree)
	return tree, &guest.Guest{FS: tree, Facts: &guest.Facts{}}
}

func planAndApply(g *guest.Guest, list []Fix) (*Planned, error) {
	p, err := Plan(context.Background(), g, list, Selection{})
	if err != nil {
		return nil, err
	}
	if err := p.Failures(); err != nil {
		return p, err
	}
	return p, Apply(context.Background(), g, p, nil)
}

// besideJournal is the tree without what the journal keeps.
func besideJournal(tree *guesttest.FS) string {
	var out []string
	for _, part := range strings.SplitAfter(tree.Dump(), "\n-- ") {
		if !strings.HasPrefix(part, journalDir) {
			out = append(out, part)
		}
	}
	return strings.TrimSuffix(strings.Join(out, ""), "-- ")
}

func TestApplyAndUndo(t *testing.T) {
	tree, g := newEngineGuest(t)
	before := tree.Dump()
	p, err := planAndApply(g, engineFixes())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range p.Results {
		if r.State != Changed {
			t.Errorf("%s is %s, want changed", r.ID, r.State)
		}
	}
	for name, want := range map[string]string{
		"etc/fstab":                     "UUID=1 / ext4 defaults 0 1\n# twice\n",
		"boot/grub2/grub.cfg":           "set default=0\nlinux /vmlinuz root=UUID=1 ro\ninitrd /initrd\n",
		"boot/initrd":                   "the old initrd\nSEGMENT",
		"boot/efi/EFI/BOOT/BOOTX64.EFI": "EFI program\n",
	} {
		if got := tree.ReadFile(t, name); got != want {
			t.Errorf("%s holds %q, want %q", name, got, want)
		}
	}
	attr, err := tree.Attr("etc/grub.cfg")
	if err != nil || attr.Mode != 0o600 || attr.UID != 1 || attr.GID != 2 || string(attr.Xattrs["security.selinux"]) != "boot_t" {
		t.Errorf("grub.cfg lost its attributes: %+v, %v", attr, err)
	}
	if _, err := tree.Lstat("etc/old.conf"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("etc/old.conf is still there: %v", err)
	}
	if _, err := Undo(context.Background(), g, UndoOptions{}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, tree.Dump()); diff != "" {
		t.Errorf("undo left differences (-before +after):\n%s", diff)
	}
	if _, err := Undo(context.Background(), g, UndoOptions{}); !errors.Is(err, ErrNoJournal) {
		t.Errorf("a second undo gives %v", err)
	}
}

func TestSecondRunChangesNothing(t *testing.T) {
	tree, g := newEngineGuest(t)
	list := []Fix{
		plain{id: "linux/fstab", changes: []Change{WriteFile{Name: "etc/fstab", Content: []byte("UUID=1\n")}}},
		appendOnce{"SEGMENT"},
	}
	if _, err := planAndApply(g, list); err != nil {
		t.Fatal(err)
	}
	once := tree.Dump()
	p, err := planAndApply(g, list)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range p.Results {
		if r.State != Unchanged || r.Diff != "" {
			t.Errorf("second run: %s is %s with diff %q", r.ID, r.State, r.Diff)
		}
	}
	if diff := cmp.Diff(once, tree.Dump()); diff != "" {
		t.Error(diff)
	}
}

// TestUndoOfSeveralRuns checks that undo gives back the bytes before the first
// run, also where a later run replaced what an earlier one appended to.
func TestUndoOfSeveralRuns(t *testing.T) {
	tree, g := newEngineGuest(t)
	g.Run = generator{tree: tree}
	before := tree.Dump()
	runs := [][]Fix{
		{appendOnce{"ONE"}, plain{id: "a", changes: []Change{WriteFile{Name: "etc/fstab", Content: []byte("1\n")}}}},
		{appendOnce{"TWO"}, plain{id: "a", changes: []Change{WriteFile{Name: "etc/fstab", Content: []byte("2\n")}}}},
		{plain{id: "b", changes: []Change{Command{
			Command: guest.Command{Args: []string{"update-initramfs"}}, Touches: []string{"boot/initrd", "boot/made"},
		}}}},
		{appendOnce{"THREE"}, plain{id: "a", changes: []Change{Remove{Name: "etc/fstab"}}}},
	}
	for i, list := range runs {
		if _, err := planAndApply(g, list); err != nil {
			t.Fatalf("run %d: %v", i, err)
		}
	}
	if got := tree.ReadFile(t, "boot/initrd"); got != "generatedTHREE" {
		t.Errorf("after all runs the initrd holds %q", got)
	}
	names, err := Undo(context.Background(), g, UndoOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, tree.Dump()); diff != "" {
		t.Errorf("undo left differences:\n%s", diff)
	}
	if diff := cmp.Diff([]string{"boot/initrd", "etc/fstab", "boot/made"}, names); diff != "" {
		t.Errorf("undone:\n%s", diff)
	}
}

func TestUndoRefusesEditedFiles(t *testing.T) {
	tree, g := newEngineGuest(t)
	before := tree.Dump()
	if _, err := planAndApply(g, engineFixes()); err != nil {
		t.Fatal(err)
	}
	if err := tree.Write("etc/fstab", strings.NewReader("mine\n"), guest.Attr{Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	edited := tree.Dump()
	_, err := Undo(context.Background(), g, UndoOptions{})
	e, ok := errors.AsType[*EditedError](err)
	if !ok || len(e.Files) != 1 || e.Files[0] != "etc/fstab" {
		t.Fatalf("undo over an edited file gives %v", err)
	}
	if diff := cmp.Diff(edited, tree.Dump()); diff != "" {
		t.Errorf("the refused undo wrote:\n%s", diff)
	}
	if _, err := Undo(context.Background(), g, UndoOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, tree.Dump()); diff != "" {
		t.Errorf("the forced undo left:\n%s", diff)
	}
}

// TestUndoRefusesWhatWasEditedBetweenRuns: the later run hides the edit from a
// comparison of digests.
func TestUndoRefusesWhatWasEditedBetweenRuns(t *testing.T) {
	tree, g := newEngineGuest(t)
	write := func(text string) []Fix {
		return []Fix{plain{id: "a", changes: []Change{WriteFile{Name: "etc/fstab", Content: []byte(text)}}}}
	}
	if _, err := planAndApply(g, write("1\n")); err != nil {
		t.Fatal(err)
	}
	if err := tree.Write("etc/fstab", strings.NewReader("mine\n"), guest.Attr{Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	if _, err := planAndApply(g, write("2\n")); err != nil {
		t.Fatal(err)
	}
	_, err := Undo(context.Background(), g, UndoOptions{})
	if _, ok := errors.AsType[*EditedError](err); !ok {
		t.Errorf("undo gives %v", err)
	}
}

func TestUndoKeepsForeignFiles(t *testing.T) {
	tree, g := newEngineGuest(t)
	if _, err := planAndApply(g, engineFixes()); err != nil {
		t.Fatal(err)
	}
	tree.Put("etc/systemd/network/20-mine.link", []byte("mine"))
	if _, err := Undo(context.Background(), g, UndoOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := tree.ReadFile(t, "etc/systemd/network/20-mine.link"); got != "mine" {
		t.Errorf("a file beside ours became %q", got)
	}
}

func TestFailedCommandIsTakenBack(t *testing.T) {
	tree, g := newEngineGuest(t)
	g.Run = generator{tree: tree, fail: true}
	before := tree.Dump()
	list := append(engineFixes(), plain{id: "z", changes: []Change{
		Command{Command: guest.Command{Args: []string{"dracut", "-f"}}, Touches: []string{"boot/initrd", "boot/made"}},
	}})
	_, err := planAndApply(g, list)
	c, ok := errors.AsType[*CommandError](err)
	if !ok || !strings.Contains(c.Output, "No space left") {
		t.Fatalf("got %v", err)
	}
	if diff := cmp.Diff(before, tree.Dump()); diff != "" {
		t.Errorf("the failed run left:\n%s", diff)
	}
}

func TestPlanSelectsAndGoesOn(t *testing.T) {
	_, g := newEngineGuest(t)
	list := []Fix{
		plain{id: "bad", err: errors.New("cannot read")},
		plain{id: "never"},
		plain{id: "skipped", changes: []Change{Remove{Name: "etc/fstab"}}},
		plain{id: "command", changes: []Change{Command{Command: guest.Command{Args: []string{"true"}}}}},
		plain{id: "same", changes: []Change{Remove{Name: "etc/not-there"}}},
		plain{id: "good", changes: []Change{Remove{Name: "etc/fstab"}}},
	}
	p, err := Plan(context.Background(), g, list, Selection{Skip: []string{"skipped"}})
	if err != nil {
		t.Fatal(err)
	}
	want := []State{Failed, Skipped, Skipped, Failed, Unchanged, Pending}
	for i, r := range p.Results {
		if r.State != want[i] {
			t.Errorf("%s is %s, want %s", r.ID, r.State, want[i])
		}
	}
	if p.Failures() == nil || !p.Pending() {
		t.Errorf("failures %v, pending %v", p.Failures(), p.Pending())
	}
	_, err = Plan(context.Background(), g, list, Selection{Only: []string{"typo"}})
	if u, ok := errors.AsType[*UnknownFixError](err); !ok || u.ID != "typo" {
		t.Errorf("an unknown fix gives %v", err)
	}
	_, err = Plan(context.Background(), g, []Fix{plain{id: "x", err: &FatalError{errors.New("hands off")}}}, Selection{})
	if err == nil {
		t.Error("a fatal error does not stop planning")
	}
}

func TestApplyRefusesAStalePlan(t *testing.T) {
	tree, g := newEngineGuest(t)
	p, err := Plan(context.Background(), g, engineFixes(), Selection{})
	if err != nil {
		t.Fatal(err)
	}
	tree.Put("etc/fstab", []byte("longer than it was when the plan was made\n"))
	before := tree.Dump()
	err = Apply(context.Background(), g, p, nil)
	if s, ok := errors.AsType[*StaleError](err); !ok || s.Name != "etc/fstab" {
		t.Errorf("got %v", err)
	}
	if diff := cmp.Diff(before, tree.Dump()); diff != "" {
		t.Error(diff)
	}
}

var (
	errCrash = errors.New("crashed here")
	errIO    = errors.New("input/output error")
)

// faulty is a tree whose call number at fails; with crash all later ones fail
// too, and late says that the call was carried out all the same.
type faulty struct {
	*guesttest.FS
	calls, at   int
	crash, late bool
	// reads says that calls that only read count too. A crash between them is
	// the same as one before the next write.
	reads bool
}

func (f *faulty) call(do func() error) error {
	f.calls++
	switch {
	case f.at == 0 || f.calls < f.at || f.calls > f.at && !f.crash:
		return do()
	case f.crash && f.calls == f.at && f.late:
		return errors.Join(do(), errCrash)
	case f.crash:
		return errCrash
	}
	return errIO
}

func try[T any](f *faulty, do func() (T, error)) (out T, err error) {
	if !f.reads {
		return do()
	}
	err = f.call(func() (err error) { out, err = do(); return })
	return out, err
}

func (f *faulty) Open(n string) (fs.File, error) {
	return try(f, func() (fs.File, error) { return f.FS.Open(n) })
}
func (f *faulty) Stat(n string) (fs.FileInfo, error) {
	return try(f, func() (fs.FileInfo, error) { return f.FS.Stat(n) })
}
func (f *faulty) Lstat(n string) (fs.FileInfo, error) {
	return try(f, func() (fs.FileInfo, error) { return f.FS.Lstat(n) })
}
func (f *faulty) ReadDir(n string) ([]fs.DirEntry, error) {
	return try(f, func() ([]fs.DirEntry, error) { return f.FS.ReadDir(n) })
}
func (f *faulty) ReadLink(n string) (string, error) {
	return try(f, func() (string, error) { return f.FS.ReadLink(n) })
}
func (f *faulty) Attr(n string) (guest.Attr, error) {
	return try(f, func() (guest.Attr, error) { return f.FS.Attr(n) })
}
func (f *faulty) Write(n string, r io.Reader, a guest.Attr) error {
	return f.call(func() error { return f.FS.Write(n, r, a) })
}
func (f *faulty) Mkdir(n string, a guest.Attr) error {
	return f.call(func() error { return f.FS.Mkdir(n, a) })
}
func (f *faulty) Symlink(to, n string) error {
	return f.call(func() error { return f.FS.Symlink(to, n) })
}
func (f *faulty) Remove(n string) error { return f.call(func() error { return f.FS.Remove(n) }) }
func (f *faulty) Truncate(n string, size int64) error {
	return f.call(func() error { return f.FS.Truncate(n, size) })
}

// Append is not atomic: a call that fails has written half.
func (f *faulty) Append(n string, r io.Reader) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	err = f.call(func() error { return f.FS.Append(n, bytes.NewReader(data)) })
	if err != nil && f.calls == f.at && !f.late {
		return errors.Join(err, f.FS.Append(n, bytes.NewReader(data[:len(data)/2])))
	}
	return err
}

// withoutAppend hides that a tree can append.
type withoutAppend struct{ guest.FS }

// scene is a guest on which action is then cut short at every call.
type scene struct {
	name   string
	make   func(t *testing.T) (*guesttest.FS, string) // and the dump that undo must reach
	action func(*guest.Guest) error
	plain  bool // without guest.Appender
}

func scenes() []scene {
	fresh := func(t *testing.T) (*guesttest.FS, string) {
		tree := guesttest.New(t, engineTree)
		return tree, tree.Dump()
	}
	again := func(t *testing.T) (*guesttest.FS, string) {
		tree := guesttest.New(t, engineTree)
		before := tree.Dump()
		first := []Fix{appendOnce{"FIRST"}, plain{id: "a", changes: []Change{
			WriteFile{Name: "etc/fstab", Content: []byte("first\n")},
			Symlink{Name: "etc/old.conf", To: "fstab"},
		}}}
		if _, err := planAndApply(&guest.Guest{FS: tree, Facts: &guest.Facts{}}, first); err != nil {
			t.Fatal(err)
		}
		return tree, before
	}
	apply := func(g *guest.Guest) error {
		g.Run = generator{tree: g.FS}
		_, err := planAndApply(g, withCommand())
		return err
	}
	undo := func(g *guest.Guest) error {
		_, err := Undo(context.Background(), g, UndoOptions{})
		return err
	}
	return []scene{
		{"first apply", fresh, apply, false},
		{"first apply without append", fresh, apply, true},
		{"second apply", again, apply, false},
		{"undo", again, undo, false},
		{"undo without append", again, undo, true},
	}
}

func withCommand() []Fix {
	return append(engineFixes(), plain{id: "z", changes: []Change{
		Command{Command: guest.Command{Args: []string{"dracut"}}, Touches: []string{"boot/initrd", "boot/made"}},
	}})
}

func (s scene) guest(f *faulty) *guest.Guest {
	if s.plain {
		return &guest.Guest{FS: withoutAppend{f}, Facts: &guest.Facts{}}
	}
	return &guest.Guest{FS: f, Facts: &guest.Facts{}}
}

// TestCrashAnywhere cuts each scene short at every call to the guest's tree;
// then an undo gives the original, and an apply the same as one in peace.
func TestCrashAnywhere(t *testing.T) {
	for _, s := range scenes() {
		t.Run(s.name, func(t *testing.T) {
			tree, original := s.make(t)
			count := &faulty{FS: tree}
			if err := s.action(s.guest(count)); err != nil {
				t.Fatal(err)
			}
			fixed := applied(t, s)
			for at := 1; at <= count.calls; at++ {
				for _, late := range []bool{false, true} {
					name := fmt.Sprintf("call %d, late %v", at, late)
					tree, _ := s.make(t)
					_ = s.action(s.guest(&faulty{FS: tree, at: at, crash: true, late: late}))
					checkUndo(t, name, tree, original)
					tree, _ = s.make(t)
					_ = s.action(s.guest(&faulty{FS: tree, at: at, crash: true, late: late}))
					checkApply(t, name, tree, fixed, original)
				}
			}
		})
	}
}

// applied is the tree after an apply in peace that follows the scene.
func applied(t *testing.T, s scene) string {
	t.Helper()
	tree, _ := s.make(t)
	g := &guest.Guest{FS: tree, Facts: &guest.Facts{}, Run: generator{tree: tree}}
	if _, err := Undo(context.Background(), g, UndoOptions{}); err != nil && !errors.Is(err, ErrNoJournal) {
		t.Fatal(err)
	}
	if _, err := planAndApply(g, withCommand()); err != nil {
		t.Fatal(err)
	}
	return besideJournal(tree)
}

func checkUndo(t *testing.T, name string, tree *guesttest.FS, original string) {
	t.Helper()
	g := &guest.Guest{FS: tree, Facts: &guest.Facts{}}
	if _, err := Undo(context.Background(), g, UndoOptions{}); err != nil && !errors.Is(err, ErrNoJournal) {
		t.Fatalf("%s: undo: %v", name, err)
	}
	if diff := cmp.Diff(original, tree.Dump()); diff != "" {
		t.Fatalf("%s: undo left:\n%s", name, diff)
	}
}

func checkApply(t *testing.T, name string, tree *guesttest.FS, fixed, original string) {
	t.Helper()
	g := &guest.Guest{FS: tree, Facts: &guest.Facts{}, Run: generator{tree: tree}}
	if _, err := planAndApply(g, withCommand()); err != nil {
		t.Fatalf("%s: apply: %v", name, err)
	}
	if diff := cmp.Diff(fixed, besideJournal(tree)); diff != "" {
		t.Fatalf("%s: apply left:\n%s", name, diff)
	}
	checkUndo(t, name, tree, original)
}

// TestErrorAnywhere lets one call fail: Apply gives back an error with the guest
// as it was before, or has done all.
func TestErrorAnywhere(t *testing.T) {
	for _, s := range scenes() {
		if strings.HasPrefix(s.name, "undo") {
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			tree, original := s.make(t)
			before := besideJournal(tree)
			count := &faulty{FS: tree, reads: true}
			if err := s.action(s.guest(count)); err != nil {
				t.Fatal(err)
			}
			fixed := besideJournal(tree)
			for at := 1; at <= count.calls; at++ {
				tree, _ := s.make(t)
				err := s.action(s.guest(&faulty{FS: tree, at: at, reads: true}))
				want := before
				if err == nil {
					want = fixed
				}
				if diff := cmp.Diff(want, besideJournal(tree)); diff != "" {
					t.Fatalf("call %d, error %v, left:\n%s", at, err, diff)
				}
				if err != nil {
					checkUndo(t, fmt.Sprintf("call %d", at), tree, original)
				}
			}
		})
	}
}
