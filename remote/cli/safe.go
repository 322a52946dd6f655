package cli

import (
	"fmt"
	"os"
	"strings"

	"hyper2kvm/agent/api/plaintext"
)

// safe makes text that a guest or an image wrote harmless on a terminal: no
// control character reaches it, nor any that turns the direction of writing.
func safe(s string) string { return plaintext.Safe(s) }

// safeLines is safe for text of several lines.
func safeLines(s string) string { return plaintext.SafeLines(s) }

func indent(s string) string { return plaintext.Indent(s) }

// short is a path as the user would type it: below the working folder,
// relative to it.
func short(path string) string {
	wd, err := os.Getwd()
	if err != nil {
		return safe(path)
	}
	if rest, ok := strings.CutPrefix(path, strings.TrimSuffix(wd, "/")+"/"); ok {
		path = rest
	}
	return safe(path)
}

// size prints bytes the way people read them.
func size(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	v, i := float64(n)/unit, 0
	for v >= unit && i < 4 {
		v, i = v/unit, i+1
	}
	return fmt.Sprintf("%.1f %ciB", v, "KMGTP"[i])
}
