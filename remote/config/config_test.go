package config

import (
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func environment(pairs ...string) func(string) string {
	return func(name string) string {
		for _, p := range pairs {
			if k, v, _ := strings.Cut(p, "="); k == name {
				return v
			}
		}
		return ""
	}
}

func TestEnvironmentIsBelowFlags(t *testing.T) {
	f := pflag.NewFlagSet("x", pflag.ContinueOnError)
	image, format, force := f.String("image-dir", "", ""), f.String("format", "qcow2", ""), f.Bool("force", false, "")
	if err := f.Parse([]string{"--format", "raw"}); err != nil {
		t.Fatal(err)
	}
	if err := Environment(f, environment("H2K_IMAGE_DIR=/image", "H2K_FORMAT=vmdk", "H2K_FORCE=true")); err != nil {
		t.Fatal(err)
	}
	if *image != "/image" || *format != "raw" {
		t.Errorf("image-dir %q, format %q; want /image of the environment and raw of the flag", *image, *format)
	}
	if *force {
		t.Error("the environment can replace a user's files")
	}
	if !f.Changed("image-dir") {
		t.Error("a value of the environment must override a plan file, as a flag does")
	}
}

func TestBadValueNamesItsVariable(t *testing.T) {
	f := pflag.NewFlagSet("x", pflag.ContinueOnError)
	f.Int("timeout", 0, "")
	err := Environment(f, environment("H2K_TIMEOUT=soon"))
	if err == nil || !strings.Contains(err.Error(), "H2K_TIMEOUT") {
		t.Errorf("error = %v, want one that names H2K_TIMEOUT", err)
	}
}
