package buildimage

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// Main is the program h2k-image with its world as parameters. It returns the
// exit code: 0 done, 1 failed, 2 usage.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var o Options
	flags := flag.NewFlagSet("h2k-image", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.Out, "o", "build/image", "`folder` to write")
	flags.StringVar(&o.Profile, "profile", Helper, "what goes in: helper")
	flags.StringVar(&o.Kernel, "kernel", "", "`folder` of an unpacked kernel package (default: fetched with apt-get)")
	flags.StringVar(&o.KernelCache, "kernel-cache", "", "`folder` that keeps fetched kernels (default: in the user's cache)")
	flags.StringVar(&o.Agent, "agent", "", "`path` of h2k-agent (default: beside this program, else built)")
	flags.StringVar(&o.Canary, "canary", "", "`path` of h2k-canary (default: beside this program, else built)")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(stderr, "h2k-image: unexpected argument %q\n", flags.Arg(0))
		return 2
	}
	o.Log = slog.New(slog.NewTextHandler(stderr, nil))
	if err := Build(ctx, o); err != nil {
		fmt.Fprintln(stderr, "error:", err)
		if missing, ok := errors.AsType[*MissingError](err); ok {
			fmt.Fprintln(stderr, "hint: apt-get install", strings.Join(missing.Packages(), " "))
		}
		return 1
	}
	fmt.Fprintln(stdout, o.Out)
	return 0
}
