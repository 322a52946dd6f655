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

// xattrSteps are commands that give a file those of want and no others, as far
// as the guest has tools for it.
func (f *files) xattrSteps(real string, want map[string][]byte) ([]string, error) {
	name := quote(f.full(real))
	if !f.xattr {
		for key := range want {
			if key != label || !f.selinux {
				return nil, fmt.Errorf("set extended attribute %s: the guest has no setfattr: %w", key, errors.ErrUnsupported)
			}
		}
		if context := strings.TrimRight(string(want[label]), "\x00"); context != "" {
			return []string{"chcon -- " + quote(context) + " " + name}, nil
		}
		return nil, nil
	}
	have, err := f.xattrs(real)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, key := range slices.Sorted(maps.Keys(have)) {
		if _, keep := want[key]; !keep && key != label {
			out = append(out, fmt.Sprintf("setfattr -h -x %s -- %s", quote(key), name))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if !bytes.Equal(have[key], want[key]) {
			out = append(out, fmt.Sprintf("setfattr -h -n %s -v 0x%x -- %s", quote(key), want[key], name))
		}
	}
	return out, nil
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
