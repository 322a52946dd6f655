package buildimage

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/u-root/mkuimage/cpio"
	"github.com/u-root/mkuimage/uimage"
	"github.com/u-root/uio/llog"

	"hyper2kvm/initramfs"
)

// writeInitramfs writes what every run needs: the agent as /init, and the
// modules of the boot list. It stays uncompressed: QEMU maps the file, while
// unpacking costs guest time, ten times as much without KVM.
func writeInitramfs(path, temp, agent string, k *kernel) error {
	mods, _, err := k.closure(initramfs.Boot())
	if err != nil {
		return err
	}
	program, err := os.ReadFile(agent)
	if err != nil {
		return fmt.Errorf("read agent: %w", err)
	}
	records := []cpio.Record{
		cpio.StaticFile(initramfs.AgentPath, string(program), 0o755),
		cpio.Symlink("init", initramfs.AgentPath),
		cpio.Symlink(initramfs.Modprobe, "../"+initramfs.AgentPath),
		// The kernel opens it for /init before /dev is there.
		cpio.CharDev("dev/console", 0o600, 5, 1),
		cpio.StaticFile("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n", 0o644),
		cpio.StaticFile("etc/group", "root:x:0:\n", 0o644),
	}
	for _, dir := range []string{"dev", "etc", "proc", "run", "sys", "tmp", "var"} {
		records = append(records, cpio.Directory(dir, 0o755))
	}
	var order strings.Builder
	for _, m := range mods {
		order.WriteString(m.path + "\n")
		records = append(records, cpio.StaticFile(m.path, string(m.data), 0o644))
	}
	records = append(records, cpio.StaticFile(initramfs.BootModules, order.String(), 0o644))
	archive, err := cpio.ArchiveFromRecords(records)
	if err != nil {
		return fmt.Errorf("collect initramfs: %w", err)
	}
	// No file takes part but those above: uimage sorts them, adds the folders
	// between, and writes neither times nor owners.
	err = uimage.Create(llog.New(0, llog.WritePrintf(discard{})),
		uimage.WithBaseArchive(archive), uimage.WithExistingInit(true),
		uimage.WithSkipLDD(), uimage.WithTempDir(temp), uimage.WithCPIOOutput(path))
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	return nil
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
