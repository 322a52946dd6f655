package cpio

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"slices"
)

// Member is a file, folder or link to write.
type Member struct {
	Name string
	Mode uint32 // type and permission bits
	Data []byte // content, or the target of a link
}

// File is a regular file with mode 0644.
func File(name string, data []byte) Member { return Member{name, TypeFile | 0o644, data} }

// Dir is a folder with mode 0755.
func Dir(name string) Member { return Member{Name: name, Mode: TypeDir | 0o755} }

// Link is a symbolic link.
func Link(name, target string) Member { return Member{name, TypeLink | 0o777, []byte(target)} }

// Write writes one archive. The same members give the same bytes: they are
// sorted by name, owned by root, without times, and numbered from 1.
func Write(w io.Writer, members []Member) error {
	sorted := slices.Clone(members)
	slices.SortFunc(sorted, func(a, b Member) int { return cmp.Compare(a.Name, b.Name) })
	for i, m := range sorted {
		if clean(m.Name) != m.Name || m.Name == "." || m.Name == trailer || len(m.Name) >= maxName {
			return fmt.Errorf("write cpio: %q is no name for a member", m.Name)
		}
		if i > 0 && sorted[i-1].Name == m.Name {
			return fmt.Errorf("write cpio: two members are named %s", m.Name)
		}
		if int64(len(m.Data)) > 0xffffffff {
			return fmt.Errorf("write cpio: %s has %d bytes", m.Name, len(m.Data))
		}
		if err := writeMember(w, m, i+1); err != nil {
			return fmt.Errorf("write cpio: %w", err)
		}
	}
	return writeMember(w, Member{Name: trailer}, 0)
}

func writeMember(w io.Writer, m Member, ino int) error {
	links := 1
	if m.Mode&TypeMask == TypeDir {
		links = 2
	}
	var b bytes.Buffer
	b.WriteString("070701")
	for _, v := range []int{ino, int(m.Mode), 0, 0, links, 0, len(m.Data), 0, 0, 0, 0, len(m.Name) + 1, 0} {
		fmt.Fprintf(&b, "%08X", v)
	}
	b.WriteString(m.Name)
	b.WriteByte(0)
	b.Write(make([]byte, -b.Len()&3))
	b.Write(m.Data)
	b.Write(make([]byte, -b.Len()&3))
	_, err := w.Write(b.Bytes())
	return err
}
