//go:build linux && !amd64

package initramfs

import (
	"fmt"
	"os"
)

// handedIn reads the files that the host handed in, by their names in
// KeyFolder.
func handedIn(names ...string) (map[string][]byte, error) {
	out := map[string][]byte{}
	for _, name := range names {
		text, err := os.ReadFile("/sys/firmware/qemu_fw_cfg/by_name/" + KeyFolder + name + "/raw")
		if err != nil {
			return nil, fmt.Errorf("read what the host handed in: %w", err)
		}
		out[name] = text
	}
	return out, nil
}
