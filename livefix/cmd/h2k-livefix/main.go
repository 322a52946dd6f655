// Command h2k-livefix repairs a running Linux guest over SSH, before it moves to KVM.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"hyper2kvm/livefix/cli"
)

// version is set when a release is built.
var version = "devel"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	code := cli.Main(ctx, cli.OS(version))
	stop()
	os.Exit(code)
}
