// Package config gives flags the values that the environment has for them: a
// layer between a plan file, which it overrides, and the flags on the command
// line, which override it.
package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// personal are the flags that say what one command is to do to which files; a
// variable forgotten in a profile must not decide that.
func personal() []string {
	return []string{"help", "version", "output", "plan", "job", "force", "in-place", "dry-run", "no-fix"}
}

// Variable is the environment variable of a flag: H2K_ and the flag's name.
func Variable(flag string) string {
	return "H2K_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// Environment sets each flag that was not given to what its variable says.
func Environment(flags *pflag.FlagSet, getenv func(string) string) error {
	var errs []error
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Changed || slices.Contains(personal(), f.Name) {
			return
		}
		name := Variable(f.Name)
		value := getenv(name)
		if value == "" {
			return
		}
		if err := flags.Set(f.Name, value); err != nil {
			errs = append(errs, fmt.Errorf("environment variable %s: %w", name, err))
		}
	})
	return errors.Join(errs...)
}
