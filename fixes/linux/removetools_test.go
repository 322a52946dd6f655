package linux

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"hyper2kvm/fixes"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/guest/guesttest"
)

// trier stands for a guest whose package manager can be tried: what it does is
// written down here. The real one is tried on a real system.
type trier struct {
	ran     []string
	fail    string // commands with this in them fail
	rpms    string // what rpm -qa prints
	effects []guest.Effect
}

func (*trier) Run(context.Context, guest.Command) ([]byte, error) {
	return nil, errors.New("nothing is run for real")
}

func (t *trier) Try(_ context.Context, _ int64, commands ...guest.Command) ([]guest.Effect, []byte, error) {
	var line []string
	for _, c := range commands {
		line = append(line, strings.Join(c.Args, " "))
	}
	text := strings.Join(line, " && ")
	t.ran = append(t.ran, text)
	if strings.HasPrefix(text, "rpm -qa") {
		return nil, []byte(t.rpms), nil
	}
	if t.fail != "" && strings.Contains(text, t.fail) {
		return nil, []byte("first\nerror: it is needed\n"), errors.New("exit status 1")
	}
	return t.effects, nil, nil
}

const toolsTree = `
-- var/lib/dpkg/status --
Package: open-vm-tools
Status: install ok installed

Package: hyperv-daemons
Status: install ok installed

Package: appliance
Status: install ok installed
Depends: hyperv-daemons
-- usr/bin/vmtoolsd mode=0755 --
program
-- usr/share/open-vm-tools/ mode=0750 gid=7 --
-- usr/share/open-vm-tools/messages mode=0640 --
text
-- var/log/dpkg.log --
log
`

func toolsEffects() []guest.Effect {
	return []guest.Effect{
		{Name: "usr/bin/vmtoolsd", Gone: true},
		{Name: "usr/share/open-vm-tools/messages", Gone: true},
		{Name: "usr/share/open-vm-tools", Gone: true},
		{Name: "var/lib/dpkg/status", Attr: guest.Attr{Mode: 0o644}, Content: []byte("Package: hyperv-daemons\nStatus: install ok installed\n")},
		{Name: "var/log/dpkg.log", Attr: guest.Attr{Mode: 0o644}, Content: []byte("today\n")},
	}
}

func planRemoval(t *testing.T, tree *guesttest.FS, run guest.Runner, on bool) (*guest.Guest, *fixes.Planned, string) {
	t.Helper()
	g := &guest.Guest{FS: tree, Run: run, Facts: &guest.Facts{OS: guest.OS{Family: "linux", ID: "debian"}, Init: "systemd"}}
	planned, err := fixes.Plan(t.Context(), g, All(Options{RemoveTools: on}, nil), fixes.Selection{Only: []string{"linux/remove-tools"}})
	if err == nil {
		err = planned.Failures()
	}
	if err != nil {
		t.Fatal(err)
	}
	return g, planned, strings.Join(planned.Results[0].Notes, "\n")
}

func TestRemoveTools(t *testing.T) {
	tree := guesttest.New(t, toolsTree)
	before := tree.Dump()
	run := &trier{effects: toolsEffects()}
	g, planned, notes := planRemoval(t, tree, run, true)
	if want := []string{"dpkg --purge open-vm-tools"}; !slices.Equal(run.ran, want) {
		t.Errorf("tried %q, want %q", run.ran, want)
	}
	for _, want := range []string{"hyperv-daemons is kept: appliance needs it", "removed: open-vm-tools (4 files and folders)"} {
		if !strings.Contains(notes, want) {
			t.Errorf("notes do not say %q:\n%s", want, notes)
		}
	}
	for _, want := range []string{"# remove usr/bin/vmtoolsd: 8 bytes, of open-vm-tools\n", "# remove usr/share/open-vm-tools: folder, of open-vm-tools\n", "-Package: open-vm-tools\n"} {
		if !strings.Contains(planned.Results[0].Diff, want) {
			t.Errorf("the diff does not show %q:\n%s", want, planned.Results[0].Diff)
		}
	}
	if err := fixes.Apply(t.Context(), g, planned, nil); err != nil {
		t.Fatal(err)
	}
	for _, gone := range []string{"usr/bin/vmtoolsd", "usr/share/open-vm-tools"} {
		if _, err := tree.Lstat(gone); err == nil {
			t.Errorf("%s is still there", gone)
		}
	}
	if log := tree.ReadFile(t, "var/log/dpkg.log"); log != "log\n" {
		t.Errorf("the log became %q", log)
	}
	if _, again, _ := planRemoval(t, tree, run, true); again.Pending() {
		t.Error("a second run wants to remove more")
	}
	if _, err := fixes.Undo(t.Context(), g, fixes.UndoOptions{}); err != nil {
		t.Fatal(err)
	}
	if after := tree.Dump(); after != before {
		t.Errorf("undo leaves:\n%s\nbefore:\n%s", after, before)
	}
}

func TestRemoveToolsIsAskedFor(t *testing.T) {
	run := &trier{effects: toolsEffects()}
	if _, planned, notes := planRemoval(t, guesttest.New(t, toolsTree), run, false); planned.Pending() || notes != "" || len(run.ran) > 0 {
		t.Errorf("without being asked: %q, %v", notes, run.ran)
	}
}

func TestRemoveToolsWithoutTrial(t *testing.T) {
	_, planned, notes := planRemoval(t, guesttest.New(t, toolsTree), nil, true)
	if planned.Pending() || !strings.Contains(notes, "nothing was removed: the guest's programs cannot be tried here") {
		t.Errorf("a guest whose programs cannot be tried: %q", notes)
	}
}

func TestRemoveToolsVendors(t *testing.T) {
	tree := guesttest.New(t, `
-- usr/bin/vmware-uninstall-tools.pl mode=0755 --
-- etc/vmware-tools/locations --
-- var/lib/VBoxGuestAdditions/config --
INSTALL_DIR=/opt/VBoxGuestAdditions-6.1.38
-- opt/VBoxGuestAdditions-6.1.38/uninstall.sh mode=0755 --
-- usr/lib/parallels-tools/install mode=0755 --
-- usr/bin/rpm mode=0755 --
-- var/lib/rpm/rpmdb.sqlite --
`)
	run := &trier{fail: "parallels", rpms: "bash\nopen-vm-tools\nvmware-tools-core\nkmod-vmware-tools-vmxnet\nlibvmtools0\n"}
	_, _, notes := planRemoval(t, tree, run, true)
	if last := run.ran[len(run.ran)-1]; !strings.Contains(last, "remove_answer RESTORE_RAMDISK_CMD") || !strings.Contains(last, "exec /opt/VBoxGuestAdditions-6.1.38/uninstall.sh") ||
		!strings.HasSuffix(last, "rpm -e kmod-vmware-tools-vmxnet open-vm-tools vmware-tools-core") || strings.Contains(last, "parallels") {
		t.Errorf("the last trial is %q", last)
	}
	if !strings.Contains(notes, "Parallels Tools is kept and switched off: exit status 1: error: it is needed") {
		t.Errorf("notes:\n%s", notes)
	}
}

func TestRemoveToolsHostileFolder(t *testing.T) {
	tree := guesttest.New(t, "-- var/lib/VBoxGuestAdditions/config --\nINSTALL_DIR='/opt/$(reboot)'\n-- opt/$(reboot)/uninstall.sh --\n")
	run := &trier{}
	planRemoval(t, tree, run, true)
	if len(run.ran) > 0 {
		t.Errorf("ran %q", run.ran)
	}
}

func TestRemoveToolsThatCannotBeUndone(t *testing.T) {
	run := &trier{effects: append(toolsEffects(), guest.Effect{Name: "etc/pipe", Attr: guest.Attr{Mode: 1 << 25}})} // fs.ModeNamedPipe
	_, planned, notes := planRemoval(t, guesttest.New(t, toolsTree), run, true)
	if planned.Pending() || !strings.Contains(notes, "undo could not bring it back") {
		t.Errorf("a pipe that the package manager made: %q", notes)
	}
}
