package buildimage

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// sources are the packages of our own programs.
func sources() map[string]string {
	return map[string]string{
		"h2k-agent":  "hyper2kvm/agent/cmd/h2k-agent",
		"h2k-canary": "hyper2kvm/agent/cmd/h2k-canary",
	}
}

// ownProgram gives the path of one of our static programs: the one that was
// named, the one beside this program, or one built here and now.
func ownProgram(ctx context.Context, given, name, temp string, log *slog.Logger) (string, error) {
	if given != "" {
		return given, mustBeStatic(given)
	}
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), name)
		if _, err := os.Stat(beside); err == nil {
			return beside, mustBeStatic(beside)
		}
	}
	log.Info("building", "program", name)
	path := filepath.Join(temp, name)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", path, sources()[name])
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	return path, nil
}

func mustBeStatic(path string) error {
	libs, err := neededBy(path)
	if err != nil {
		return err
	}
	if len(libs) > 0 {
		return fmt.Errorf("%s needs %s: the appliance takes static programs only", path, strings.Join(libs, ", "))
	}
	return nil
}
