package sshguest

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/pkg/sftp"

	"hyper2kvm/fixes/guest"
)

// label is the extended attribute that holds an SELinux label.
const label = "security.selinux"

func fieldsOf(data []byte) iter.Seq[string] { return slices.Values(strings.Fields(string(data))) }

// Attr returns the attributes of what name stands for.
func (f *files) Attr(name string) (guest.Attr, error) {
	real, err := f.resolve("attr", name)
	if err != nil {
		return guest.Attr{}, err
	}
	info, err := f.lstat(real)
	if err != nil {
		return guest.Attr{}, failedOp("attr", name, err)
	}
	attr := guest.Attr{Mode: info.Mode()}
	if st, ok := info.Sys().(*sftp.FileStat); ok {
		attr.UID, attr.GID = int(st.UID), int(st.GID)
	}
	if !info.Mode().IsRegular() && !info.IsDir() {
		return attr, nil
	}
	if attr.Xattrs, err = f.xattrs(real); err != nil {
		return guest.Attr{}, failedOp("attr", name, err)
	}
	return attr, nil
}

// xattrs reads the extended attributes with the guest's getfattr, or else its
// SELinux label alone. What a guest without either tool may hold besides, ACLs
// and capabilities, is kept by copying it from file to file (see like).
func (f *files) xattrs(real string) (map[string][]byte, error) {
	if !f.xattr && !f.selinux {
		return nil, nil
	}
	if have, ok := f.label(real); ok {
		return maps.Clone(have), nil
	}
	name := quote(f.full(real))
	script := "stat -c %C -- " + name
	if f.xattr {
		script = "getfattr -h -d -m - -e hex --absolute-names -- " + name
	}
	out, code, err := f.shell.run(script)
	if err != nil {
		return nil, err
	}
	if code != 0 {
		return nil, fmt.Errorf("read extended attributes: %s", bytes.TrimSpace(out))
	}
	have := map[string][]byte{}
	if f.xattr {
		have, err = parseXattrs(out)
	} else if context := strings.TrimSpace(string(out)); context != "" && context != "?" {
		have[label] = append([]byte(context), 0)
	}
	if err != nil || len(have) == 0 {
		return nil, err
	}
	f.putLabel(real, have)
	return maps.Clone(have), nil
}

// parseXattrs reads the name=0xHEX lines of getfattr(1).
func parseXattrs(out []byte) (map[string][]byte, error) {
	have := map[string][]byte{}
	for line := range strings.Lines(string(out)) {
		line = strings.TrimRight(line, "\n")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, value, _ := strings.Cut(line, "=")
		digits, ok := strings.CutPrefix(value, "0x")
		data, err := hex.DecodeString(digits)
		if value != "" && (!ok || err != nil) {
			return nil, fmt.Errorf("read extended attributes: %q", line)
		}
		have[name] = data
	}
	return have, nil
}

// setXattrs gives a file those of want and no others, as far as the guest has
// tools for it.
func (f *files) setXattrs(real string, want map[string][]byte) error {
	if !f.xattr {
		for name := range want {
			if name != label || !f.selinux {
				return fmt.Errorf("set extended attribute %s: the guest has no setfattr: %w", name, errors.ErrUnsupported)
			}
		}
		if context := strings.TrimRight(string(want[label]), "\x00"); context != "" {
			return f.script("chcon -- " + words(context, f.full(real)))
		}
		return nil
	}
	have, err := f.xattrs(real)
	if err != nil {
		return err
	}
	var script strings.Builder
	for _, name := range slices.Sorted(maps.Keys(have)) {
		if _, keep := want[name]; !keep && name != label {
			fmt.Fprintf(&script, "setfattr -h -x %s -- %s || exit 1\n", quote(name), quote(f.full(real)))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if !bytes.Equal(have[name], want[name]) {
			fmt.Fprintf(&script, "setfattr -h -n %s -v 0x%x -- %s || exit 1\n", quote(name), want[name], quote(f.full(real)))
		}
	}
	if script.Len() == 0 {
		return nil
	}
	f.written(real)
	return f.script("( " + script.String() + ")")
}

// like gives a new file what an old one has and SFTP has no word for, where the
// guest's cp can do that; busybox's cannot, and has no ACLs to lose.
func (f *files) like(old, new string) error {
	if f.xattr {
		return nil // read and written one by one
	}
	_, _, err := f.shell.run("cp --attributes-only --preserve=all -- " + words(f.full(old), f.full(new)))
	return err
}

// script runs one and turns its failure into an error.
func (f *files) script(text string) error {
	out, code, err := f.shell.run(text)
	if err != nil {
		return err
	}
	if code != 0 {
		return scriptError(out)
	}
	return nil
}

func scriptError(out []byte) error {
	said := string(bytes.TrimSpace(out))
	switch {
	case strings.Contains(said, "No such file"):
		return fmt.Errorf("%s: %w", said, fs.ErrNotExist)
	case strings.Contains(said, "not supported"), strings.Contains(said, "Not supported"):
		return fmt.Errorf("%s: %w", said, errors.ErrUnsupported)
	case said == "":
		return errors.New("it failed without a word")
	}
	return errors.New(said)
}
