// Package e2e runs the built h2k the way a user does, on real broken guests,
// with real virtual machines.
package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hyper2kvm/agent/api"
)

// root is the top of the checkout.
const root = "../.."

// requireVM skips, or fails where CI promised that the parts are there.
func requireVM(t *testing.T, paths ...string) {
	t.Helper()
	for _, p := range append(paths, "bin/h2k", "build/image/initramfs.img") {
		if _, err := os.Stat(filepath.Join(root, p)); err != nil {
			if os.Getenv("H2K_REQUIRE_VM") != "" {
				t.Fatalf("%s is missing: %v (make test builds it)", p, err)
			}
			t.Skipf("%s is missing; make test builds it", p)
		}
	}
}

// guest returns the path of a broken guest.
func guest(t *testing.T, name string) string {
	t.Helper()
	rel := "build/guests/" + name + ".vmdk"
	requireVM(t, rel)
	return filepath.Join(root, rel)
}

// result is how a run of h2k ended.
type result struct {
	code           int
	stdout, stderr string
	report         api.Report // where stdout was a JSON report
}

// h2k runs the binary.
func h2k(t *testing.T, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
	defer cancel()
	bin, err := filepath.Abs(filepath.Join(root, "bin/h2k"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, bin, args...)
	cmd.Env = append(os.Environ(), ofTest(t))
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	start := time.Now()
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	r := result{code: cmd.ProcessState.ExitCode(), stdout: out.String(), stderr: errOut.String()}
	_ = json.Unmarshal(out.Bytes(), &r.report)
	t.Logf("h2k %s: exit %d after %.1f s", strings.Join(args, " "), r.code, time.Since(start).Seconds())
	return r
}

// want fails the test unless the run ended with code.
func (r result) want(t *testing.T, code int) result {
	t.Helper()
	if r.code != code {
		t.Fatalf("exit code %d, want %d\n%s\n%s", r.code, code, r.stdout, r.stderr)
	}
	return r
}

func digest(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// unchanged fails the test at its end if the file is not byte for byte what it was.
func unchanged(t *testing.T, path string) {
	t.Helper()
	before := digest(t, path)
	t.Cleanup(func() {
		if digest(t, path) != before {
			t.Errorf("the source %s was written to", path)
		}
	})
}

// nothingLeft fails the test if dir holds anything but the given names.
func nothingLeft(t *testing.T, dir string, but ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !contains(but, e.Name()) {
			t.Errorf("left behind: %s", filepath.Join(dir, e.Name()))
		}
	}
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}
