// Command h2k-bench measures h2k beside its peers and prints a table.
package main

import (
	"context"
	"fmt"
	"os"

	"hyper2kvm/tests/bench"
)

func main() {
	if err := bench.Main(context.Background(), os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "h2k-bench:", err)
		os.Exit(1)
	}
}
