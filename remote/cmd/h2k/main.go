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
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	env := compose(cli.OS(version))
	code := cli.Main(ctx, env)
	stop()
	os.Exit(code)
}
