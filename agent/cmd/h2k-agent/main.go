// Command h2k-agent is /init of the helper VM.
package main

import (
	"context"
	"fmt"
	"os"

	"hyper2kvm/agent/appliance"
)

func main() {
	if err := appliance.Main(context.Background(), os.Args); err != nil {
		fmt.Fprintln(os.Stderr, "h2k-agent:", err)
		os.Exit(1)
	}
}
