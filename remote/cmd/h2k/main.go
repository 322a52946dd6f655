// Command h2k moves virtual machines to KVM so that they boot the first time.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"hyper2kvm/remote/cli"
)

// version is set when a release is built.
var version = "devel"

func main() {
	// A reader that went away must not end a conversion: writing to it fails,
	// and that is all.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	code := cli.Main(ctx, compose(cli.OS(version)))
	stop()
	os.Exit(code)
}
