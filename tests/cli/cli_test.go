// Package cli holds what scripts and people may rely on of the h2k command:
// one script in testdata for each promise, run with the built program.
package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	// What the program is built of, so that go test knows when a result it
	// has kept is of another program.
	_ "hyper2kvm/agent/host"
	_ "hyper2kvm/agent/pipeline"
	_ "hyper2kvm/buildimage"
	_ "hyper2kvm/remote/cli"
)

// command is where the program under test has its main.
const command = "hyper2kvm/remote/cmd/h2k"

// build builds the program, as a user's is, into dir.
func build(t *testing.T, dir string) {
	t.Helper()
	cmd := exec.Command("go", "build", "-o", filepath.Join(dir, "h2k"), command)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, msg)
	}
}

func TestScripts(t *testing.T) {
	if _, err := exec.LookPath("qemu-img"); err != nil {
		if os.Getenv("H2K_REQUIRE_VM") != "" {
			t.Fatal(err)
		}
		t.Skipf("%v: the scripts make their images with it", err)
	}
	bin := t.TempDir()
	build(t, bin)
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
			env.Setenv("TMPDIR", filepath.Join(env.WorkDir, ".tmp")) // what testscript makes
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"ends": ends, "json": jsonValue, "jsonlines": jsonLines, "disk": disk,
		},
	})
}

// ends CODE PROGRAM ARG... runs a program that must end with the exit code.
func ends(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%s: %v", args[1], err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// json PATH VALUE looks into stdout, which must be one JSON document.
func jsonValue(ts *testscript.TestScript, neg bool, args []string) {
	dec := json.NewDecoder(strings.NewReader(ts.ReadFile("stdout")))
	var doc any
	ts.Check(dec.Decode(&doc))
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		ts.Fatalf("stdout has more than one JSON document")
	}
	got := "absent"
	if v, ok := at(doc, strings.Split(args[0], ".")); ok {
		got = fmt.Sprint(v)
	}
	if (got == args[1]) == neg {
		ts.Fatalf("%s is %q; expected %q: %v", args[0], got, args[1], !neg)
	}
}

// at walks a document: names of keys, numbers of elements.
func at(doc any, path []string) (any, bool) {
	for _, p := range path {
		switch v := doc.(type) {
		case map[string]any:
			next, ok := v[p]
			if !ok {
				return nil, false
			}
			doc = next
		case []any:
			i, err := strconv.Atoi(p)
			if err != nil || i >= len(v) {
				return nil, false
			}
			doc = v[i]
		default:
			return nil, false
		}
	}
	if f, ok := doc.(float64); ok && f == float64(int64(f)) {
		return int64(f), true
	}
	return doc, true
}

// jsonlines FILE wants JSON on each line, and at least one.
func jsonLines(ts *testscript.TestScript, _ bool, args []string) {
	n := 0
	for l := range strings.Lines(ts.ReadFile(args[0])) {
		n++
		if !json.Valid([]byte(l)) {
			ts.Fatalf("line %d of %s is not JSON: %q", n, args[0], l)
		}
	}
	if n == 0 {
		ts.Fatalf("%s has no line", args[0])
	}
}

// disk FILE makes a raw disk of 8 MiB with data at both ends and a hole between.
func disk(ts *testscript.TestScript, _ bool, args []string) {
	data := make([]byte, 8<<20)
	copy(data, bytes.Repeat([]byte("first "), 20_000))
	data[510], data[511] = 0x55, 0xAA // a raw image is known by its partition table
	copy(data[7<<20:], bytes.Repeat([]byte("last "), 100_000))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), data, 0o644))
}
