package buildimage

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"hyper2kvm/initramfs"
)

// publish moves the files of a finished image to where they belong and writes
// their digests last. While files are being exchanged there are no digests.
func publish(from, to string) error {
	if err := os.Remove(filepath.Join(to, Sums)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("replace image: %w", err)
	}
	var sums bytes.Buffer
	for _, name := range []string{initramfs.ContractFile, Initramfs, Tools, Vmlinux, Vmlinuz} {
		source := filepath.Join(from, name)
		sum, err := digest(source)
		if errors.Is(err, os.ErrNotExist) && name == Vmlinux {
			if err := os.Remove(filepath.Join(to, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("replace image: %w", err)
			}
			continue
		}
		if err != nil {
			return err
		}
		fmt.Fprintf(&sums, "%x  %s\n", sum, name)
		if err := os.Rename(source, filepath.Join(to, name)); err != nil {
			return fmt.Errorf("put image in place: %w", err)
		}
	}
	temp := filepath.Join(from, Sums)
	if err := os.WriteFile(temp, sums.Bytes(), 0o644); err != nil {
		return fmt.Errorf("write digests: %w", err)
	}
	if err := os.Rename(temp, filepath.Join(to, Sums)); err != nil {
		return fmt.Errorf("put image in place: %w", err)
	}
	return nil
}

func digest(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read for digest: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return nil, fmt.Errorf("read %s for digest: %w", path, err)
	}
	return h.Sum(nil), nil
}
