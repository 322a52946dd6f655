package fixes

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"maps"
	"path"
	"strconv"

	"hyper2kvm/fixes/guest"
)

// The kinds of thing that a path can be.
const (
	kindAbsent = "absent"
	kindFile   = "file"
	kindLink   = "link"
	kindDir    = "folder"
)

// state is what a path is at one moment and, for one that can come back, where
// its bytes are kept.
type state struct {
	Kind   string            `json:"kind"`
	Size   int64             `json:"size,omitempty"`
	SHA256 string            `json:"sha256,omitempty"`
	Target string            `json:"target,omitempty"`
	Mode   fs.FileMode       `json:"mode,omitempty"`
	UID    int               `json:"uid,omitempty"`
	GID    int               `json:"gid,omitempty"`
	Xattrs map[string][]byte `json:"xattrs,omitempty"`
	// Backup is the name of a file in the backup folder.
	Backup string `json:"backup,omitempty"`
	// Prefix says that the bytes are the first Size ones of what is there.
	Prefix bool `json:"prefix,omitempty"`
}

func (s *state) check() error {
	if s == nil {
		return nil
	}
	if n, err := strconv.Atoi(s.Backup); s.Backup != "" && (err != nil || strconv.Itoa(n) != s.Backup || n < 1) {
		return fmt.Errorf("backup %q is not a number", s.Backup)
	}
	if s.Size < 0 {
		return fmt.Errorf("size %d", s.Size)
	}
	switch s.Kind {
	case kindAbsent, kindFile, kindLink, kindDir:
		return nil
	}
	return fmt.Errorf("kind %q is not known", s.Kind)
}

// same reports whether two states have the same content; attributes aside.
func (s *state) same(t *state) bool {
	return s.Kind == t.Kind && s.Size == t.Size && s.SHA256 == t.SHA256 && s.Target == t.Target
}

func (s *state) equal(t *state) bool {
	return s.same(t) && s.Mode == t.Mode && s.UID == t.UID && s.GID == t.GID && maps.EqualFunc(s.Xattrs, t.Xattrs, bytes.Equal)
}

func (s *state) attr() guest.Attr {
	return guest.Attr{Mode: s.Mode, UID: s.UID, GID: s.GID, Xattrs: s.Xattrs}
}

// look describes what is at name, a resolved one, with all but the digest.
func look(tree guest.FS, name string) (*state, error) {
	info, err := tree.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return &state{Kind: kindAbsent}, nil
	}
	if err != nil {
		return nil, err
	}
	switch mode := info.Mode(); {
	case mode.IsDir():
		attr, err := tree.Attr(name)
		return &state{Kind: kindDir, Mode: attr.Mode &^ fs.ModeType, UID: attr.UID, GID: attr.GID, Xattrs: attr.Xattrs}, err
	case mode&fs.ModeSymlink != 0:
		to, err := tree.ReadLink(name)
		return &state{Kind: kindLink, Target: to, Xattrs: linkLabel(tree, name)}, err
	case !mode.IsRegular():
		return nil, fmt.Errorf("%s is neither a file, a link nor a folder", name)
	}
	attr, err := tree.Attr(name)
	return &state{
		Kind: kindFile, Size: info.Size(),
		Mode: attr.Mode &^ fs.ModeType, UID: attr.UID, GID: attr.GID, Xattrs: attr.Xattrs,
	}, err
}

// measure is look with the digest. The hash has read the whole content.
func measure(tree guest.FS, name string) (*state, hash.Hash, error) {
	s, err := look(tree, name)
	h := sha256.New()
	if err != nil || s.Kind != kindFile {
		return s, h, err
	}
	f, err := tree.Open(name)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	s.Size, err = io.Copy(h, f)
	s.SHA256 = digest(h)
	return s, h, err
}

func digest(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }

// backUp is measure that copies the content to a backup on the way.
func backUp(tree guest.FS, name, backup string) (*state, error) {
	s, err := look(tree, name)
	if err != nil || s.Kind != kindFile {
		return s, err
	}
	s.Size, s.SHA256, err = copyOut(tree, name, backup, s.Size)
	s.Backup = backup
	return s, err
}

// copyOut copies the first size bytes of name to a backup.
func copyOut(tree guest.FS, name, backup string, size int64) (int64, string, error) {
	f, err := tree.Open(name)
	if err != nil {
		return 0, "", err
	}
	h := sha256.New()
	counted := &counter{r: io.TeeReader(io.LimitReader(f, size), h)}
	err = tree.Write(path.Join(backupDir, backup), counted, guest.Attr{Mode: 0o600})
	if err = errors.Join(err, f.Close()); err != nil {
		return 0, "", fmt.Errorf("back up %s: %w", name, err)
	}
	return counted.n, digest(h), nil
}

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// restore makes name what it was in state s. Done twice, or after a first time
// that was cut short, it gives the same.
func restore(tree guest.FS, name string, s *state) error {
	now, err := look(tree, name)
	if err != nil {
		return fmt.Errorf("restore %s: %w", name, err)
	}
	switch s.Kind {
	case kindAbsent:
		err = vanish(tree, name, now)
	case kindLink:
		if now.equal(s) {
			return nil
		}
		err = restoreLink(tree, name, s)
	case kindFile:
		err = restoreFile(tree, name, now, s)
	case kindDir:
		err = restoreDir(tree, name, now, s)
	}
	if err != nil {
		return fmt.Errorf("restore %s: %w", name, err)
	}
	return nil
}

// restoreDir makes a folder that was removed. What lay in it was removed before
// it, and so comes back after it.
func restoreDir(tree guest.FS, name string, now, s *state) error {
	if now.Kind != kindAbsent {
		return nil
	}
	if err := makeDirs(tree, name); err != nil {
		return err
	}
	attr := s.attr()
	if attr.Mode == 0 && attr.UID == 0 && attr.Xattrs == nil {
		attr.Mode = 0o755 // of a journal that did not keep it
	}
	return tree.Mkdir(name, attr)
}

// vanish removes what was made. A folder that somebody put something into since
// stays.
func vanish(tree guest.FS, name string, now *state) error {
	switch now.Kind {
	case kindAbsent:
		return nil
	case kindDir:
		entries, err := tree.ReadDir(name)
		if err != nil || len(entries) > 0 {
			return err
		}
	}
	return tree.Remove(name)
}

func restoreFile(tree guest.FS, name string, now, s *state) error {
	if now.Kind == kindFile && now.Size == s.Size {
		full, _, err := measure(tree, name)
		if err != nil || full.equal(s) {
			return err
		}
	}
	if s.Prefix {
		return cutBack(tree, name, now, s)
	}
	if now.Kind == kindLink { // Write would follow it
		if err := tree.Remove(name); err != nil {
			return err
		}
	}
	if err := makeDirs(tree, name); err != nil {
		return err
	}
	f, err := tree.Open(path.Join(backupDir, s.Backup))
	if err != nil {
		return err
	}
	checked := &verifier{r: f, h: sha256.New(), want: s.SHA256}
	return errors.Join(tree.Write(name, checked, s.attr()), f.Close())
}

// cutBack cuts a file that was appended to, once it is certain that what was
// there before is still its beginning.
func cutBack(tree guest.FS, name string, now, s *state) error {
	if now.Kind != kindFile || now.Size < s.Size {
		return errors.New("it no longer begins with what it held before")
	}
	f, err := tree.Open(name)
	if err != nil {
		return err
	}
	h := sha256.New()
	_, err = io.Copy(h, io.LimitReader(f, s.Size))
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if digest(h) != s.SHA256 {
		return errors.New("it no longer begins with what it held before")
	}
	return truncate(tree, name, s.Size)
}

var errBackup = errors.New("the backup is damaged")

// verifier fails the read that ends a stream with another digest than want, so
// that an atomic write of it does not happen.
type verifier struct {
	r    io.Reader
	h    hash.Hash
	want string
}

func (v *verifier) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	v.h.Write(p[:n])
	if errors.Is(err, io.EOF) && digest(v.h) != v.want {
		return n, errBackup
	}
	return n, err
}
