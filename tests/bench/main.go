package bench

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
)

// Main measures the works and prints the table; -o keeps it in a file, where rows
// that are not measured stay as they are. It is written after each row. A work
// that fails is told of at the end, when the others are done.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("h2k-bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	var p Parts
	flags.StringVar(&p.H2K, "h2k", "bin/h2k", "the h2k to measure")
	flags.StringVar(&p.ImageDir, "image", "build/image", "folder of the helper image")
	flags.StringVar(&p.Guest, "guest", "build/guests/debian12-bios.vmdk", "the broken guest")
	rounds := flags.Int("rounds", 5, "rounds of each measurement")
	only := flags.String("only", "", "measure only works whose names hold one of these, with commas between")
	list := flags.Bool("list", false, "list the names of the works")
	out := flags.String("o", "", "file to keep the table in")
	if err := flags.Parse(args); err != nil {
		return err
	}
	works := Works(p)
	if *list {
		for _, w := range works {
			fmt.Fprintln(stdout, w.Name)
		}
		return nil
	}
	got := readResults("")
	if old, err := os.ReadFile(*out); err == nil {
		got = readResults(string(old))
	}
	err := measureAll(ctx, stderr, works, *only, *rounds, func(r Row) error {
		got.add(r)
		if *out == "" {
			return nil
		}
		return os.WriteFile(*out, []byte(got.text(works)), 0o644)
	})
	fmt.Fprint(stdout, got.text(works))
	return err
}

// measureAll measures the works that only names, one after the other.
func measureAll(ctx context.Context, log io.Writer, works []Work, only string, rounds int, done func(Row) error) error {
	dir, err := os.MkdirTemp("", "h2k-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var failed error
	n := 0
	for _, w := range works {
		if !chosen(w.Name, only) || ctx.Err() != nil {
			continue
		}
		n++
		row, err := Measure(ctx, log, dir, w, rounds)
		if err == nil {
			err = done(row)
		}
		failed = errors.Join(failed, err)
	}
	if n == 0 {
		return fmt.Errorf("no work has a name with %q: -list lists them", only)
	}
	return errors.Join(failed, ctx.Err())
}

// chosen reports whether a name holds one of the words.
func chosen(name, words string) bool {
	for w := range strings.SplitSeq(words, ",") {
		if strings.Contains(strings.ToLower(name), strings.ToLower(strings.TrimSpace(w))) {
			return true
		}
	}
	return false
}
