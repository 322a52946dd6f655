// Command h2k-image builds the kernel, initramfs and tools of the helper VM.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"hyper2kvm/buildimage"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := buildimage.Main(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
