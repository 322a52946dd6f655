package bench

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
)

// Main measures every work whose name holds -only and prints the table; -o
// keeps it in a file as well.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("h2k-bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	var p Parts
	flags.StringVar(&p.H2K, "h2k", "bin/h2k", "the h2k to measure")
	flags.StringVar(&p.ImageDir, "image", "build/image", "folder of the helper image")
	flags.StringVar(&p.Guest, "guest", "build/guests/debian12-bios.vmdk", "the broken guest")
	rounds := flags.Int("rounds", 5, "rounds of each measurement")
	only := flags.String("only", "", "measure only works whose name holds this")
	out := flags.String("o", "", "file to keep the table in")
	if err := flags.Parse(args); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "h2k-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var rows []Row
	for _, w := range Works(p) {
		if !strings.Contains(w.Name, *only) {
			continue
		}
		row, err := Measure(ctx, stderr, dir, w, *rounds)
		if err != nil {
			return err
		}
		rows = append(rows, row)
	}
	table := Table(rows)
	fmt.Fprint(stdout, table)
	if *out == "" {
		return nil
	}
	return os.WriteFile(*out, []byte(table), 0o644)
}
