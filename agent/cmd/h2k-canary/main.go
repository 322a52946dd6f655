// h2k-canary runs inside a guest that is being booted for proof, and only ever
// in a throw-away overlay of it: it tells the host that the guest came up.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"hyper2kvm/agent/canary/watch"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := watch.Run(ctx); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "h2k-canary:", err)
		os.Exit(1)
	}
}
