package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hyper2kvm/agent/api"
)

// TestKeysAreReferences: every verb that looks into a guest takes them, in the
// plan they are references, and files are found from any folder.
func TestKeysAreReferences(t *testing.T) {
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(t.TempDir(), "a.raw")
	want := []api.Key{{Volume: "all", From: "file:" + filepath.Join(wd, "k")}, {Volume: "/dev/sda2", From: "env:PASS"}}
	for _, verb := range []string{"convert -o " + disk + ".out", "fix --in-place", "undo"} {
		r := &recorder{}
		args := append(strings.Fields(verb), disk, "--key", "all:file:k", "--key", "/dev/sda2:env:PASS")
		if got := run(t, r, args...); got.code != 0 || r.plan == nil {
			t.Errorf("%s: %+v", verb, got)
			continue
		}
		if d := cmp.Diff(want, r.plan.Keys); d != "" {
			t.Errorf("%s: %s", verb, d)
		}
	}
	for _, verb := range []string{"inspect", "validate"} { // they leave nothing that a resumed run would read
		r := &recorder{}
		if got := run(t, r, verb, disk, "--key", "all:prompt"); got.code != 0 || len(r.plan.Keys) != 1 {
			t.Errorf("%s: %+v", verb, got)
		}
	}
}

// TestAKeyByValueIsRefusedAndNotRepeated: it would be in the shell's history, in
// the list of processes, and in our own log.
func TestAKeyByValueIsRefusedAndNotRepeated(t *testing.T) {
	for _, args := range [][]string{{"inspect", "a.raw", "--key", "all:key:hunter2"}, {"inspect", "a.raw", "--json", "--key", "hunter2"}} {
		got := run(t, &recorder{}, args...)
		if got.code != exitUsage || strings.Contains(got.out+got.errOut, "hunter2") || !strings.Contains(got.errOut, "VOLUME:file:PATH") {
			t.Errorf("%v: %+v", args, got)
		}
	}
}
