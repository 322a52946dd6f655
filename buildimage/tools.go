package buildimage

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"hyper2kvm/initramfs"
)

// toolset collects the tools image: a manifest, and the contents in order.
type toolset struct {
	manifest initramfs.Manifest
	contents []io.Reader
	files    []*os.File
	size     int64
}

// alignment of files in the image, in bytes: whole sectors are read.
const alignment = 512

// writeTools writes the tools image.
func writeTools(path string, programs []program, canary string, k *kernel, log *slog.Logger) (err error) {
	t := &toolset{manifest: initramfs.Manifest{
		Files: map[string]initramfs.File{}, Programs: map[string][]string{},
		Modules: map[string]initramfs.Module{}, Aliases: map[string][]string{}, Builtin: k.builtin,
	}}
	defer func() {
		for _, f := range t.files {
			err = errors.Join(err, f.Close())
		}
	}()
	for _, p := range programs {
		for _, file := range p.paths {
			if err := t.addFile(file, strings.TrimPrefix(file, "/")); err != nil {
				return err
			}
			t.manifest.Programs[p.name] = append(t.manifest.Programs[p.name], strings.TrimPrefix(file, "/"))
		}
	}
	if err := t.addFile(canary, initramfs.CanaryPath); err != nil {
		return err
	}
	t.manifest.Programs[filepath.Base(initramfs.CanaryPath)] = []string{initramfs.CanaryPath}
	mods, missing, err := k.closure(append(initramfs.Modules(), initramfs.Boot()...))
	if err != nil {
		return err
	}
	log.Info("modules", "carried", len(mods), "not in this kernel", missing)
	for _, m := range mods {
		t.addModule(m)
	}
	return t.write(path)
}

func (t *toolset) place(name string, size int64, mode uint32, content io.Reader) {
	t.manifest.Files[name] = initramfs.File{Offset: t.size, Size: size, Mode: mode}
	pad := (alignment - size%alignment) % alignment
	t.contents = append(t.contents, content, bytes.NewReader(make([]byte, pad)))
	t.size += size + pad
}

// addFile adds a file of this machine under a name, what links stand for.
func (t *toolset) addFile(path, name string) error {
	if _, ok := t.manifest.Files[name]; ok {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("add to tools: %w", err)
	}
	t.files = append(t.files, f)
	fi, err := f.Stat()
	if err != nil {
		return fmt.Errorf("add to tools: %w", err)
	}
	t.place(name, fi.Size(), uint32(fi.Mode().Perm()|0o555), io.LimitReader(f, fi.Size()))
	return nil
}

func (t *toolset) addModule(m *module) {
	t.place(m.path, int64(len(m.data)), 0o644, bytes.NewReader(m.data))
	t.manifest.Modules[m.name] = initramfs.Module{Path: m.path, Needs: m.needs}
	for _, a := range m.aliases {
		// Names of hardware: nobody asks for them here.
		if kind, _, ok := strings.Cut(a, ":"); ok && slices.Contains([]string{"pci", "usb", "acpi", "cpu", "virtio", "scsi", "of", "dmi"}, kind) {
			continue
		}
		t.manifest.Aliases[a] = append(t.manifest.Aliases[a], m.name)
	}
}

func (t *toolset) write(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("write tools: %w", err)
	}
	w := bufio.NewWriterSize(f, 1<<20)
	err = initramfs.WriteTools(w, &t.manifest, io.MultiReader(t.contents...))
	if err == nil {
		err = w.Flush()
	}
	if err == nil {
		err = padToSector(f)
	}
	return errors.Join(err, f.Close())
}

// padToSector makes the file a whole number of sectors: as a disk it would lose
// its last bytes otherwise.
func padToSector(f *os.File) error {
	fi, err := f.Stat()
	if err != nil {
		return fmt.Errorf("look at tools: %w", err)
	}
	size := (fi.Size() + alignment - 1) / alignment * alignment
	if err := f.Truncate(size); err != nil {
		return fmt.Errorf("fill tools to a whole sector: %w", err)
	}
	return nil
}
