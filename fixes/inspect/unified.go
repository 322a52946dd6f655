package inspect

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"path"

	"hyper2kvm/fixes/guest"
	"hyper2kvm/formats/pe"
)

// unified is a unified kernel image.
type unified struct {
	path    string
	version string
	release map[string]string // of its os-release
}

// maxText bounds the sections that hold text, in bytes: a command line has 4 KiB
// at most (COMMAND_LINE_SIZE).
const maxText = 64 << 10

// unified lists the unified kernel images that firmware or systemd-boot can
// start.
func (f *finder) unified() []unified {
	var out []unified
	for _, name := range UnifiedImages(f.tree, f.facts.Loader.ESP) {
		err := ReadPE(f.tree, name, func(img *pe.Image) error {
			if _, ok := img.Section(".linux"); !ok {
				return nil
			}
			release, err := img.Text(".osrel", maxText)
			if err != nil {
				return err
			}
			version, err := img.Text(".uname", maxText)
			out = append(out, unified{name, version, shellVars([]byte(release))})
			return err
		})
		if err != nil {
			f.warn("%s: %v", name, err)
		}
	}
	return out
}

// UnifiedImages lists the files that can be unified kernel images: those in
// EFI/Linux of the ESP and of /boot.
func UnifiedImages(tree guest.FS, esp string) []string {
	f := &finder{tree: tree, facts: &guest.Facts{}}
	var out []string
	dirs := []string{"boot"}
	if esp != "" && esp != "boot" {
		dirs = []string{esp, "boot"}
	}
	for _, dir := range dirs {
		efi := f.folder(dir, "EFI")
		if efi == "" {
			continue
		}
		if linux := f.folder(efi, "Linux"); linux != "" {
			out = append(out, f.list(linux, ".efi")...)
		}
	}
	return out
}

// maxImage bounds a program that has to be held to be read, in bytes.
const maxImage = 1 << 30

// ReadPE opens a program for UEFI and lets look read it.
func ReadPE(tree guest.FS, name string, look func(*pe.Image) error) error {
	file, err := tree.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return &fs.PathError{Op: "read", Path: name, Err: errors.New("not a regular file")}
	}
	r, ok := file.(io.ReaderAt)
	if !ok {
		if r, err = hold(file, path.Base(name)); err != nil {
			return err
		}
	}
	img, err := pe.Read(r, info.Size())
	if err != nil {
		return err
	}
	return look(img)
}

// hold reads a file that can only be read from its beginning.
func hold(r io.Reader, name string) (io.ReaderAt, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxImage+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxImage {
		return nil, &fs.PathError{Op: "read", Path: name, Err: ErrTooLarge}
	}
	return bytes.NewReader(data), nil
}
