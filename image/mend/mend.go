// Package mend writes small repairs into an image file, so that they can be
// taken back, and so that the image is whole however the writing ends.
//
// What stood there before and what shall stand there is written into a journal
// beside the image first, PATH.h2k-repair, and kept under PATH.h2k-repair-N
// when the repair is done. A repair that was killed leaves the journal: until
// Finish has written the rest, nobody should read the image.
package mend

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"

	"hyper2kvm/formats"
	"hyper2kvm/image/publish"
)

// Sentinels to branch on.
var (
	// ErrBusy says that somebody has the image in use.
	ErrBusy = errors.New("the image is in use")
	// ErrChanged says that the image is not as the repair left it.
	ErrChanged = errors.New("the image was written since the repair")
	// ErrNone says that there is no repair to take back.
	ErrNone = errors.New("there is no repair to take back")
	// ErrTooMuch says that a repair is too large for a journal.
	ErrTooMuch = errors.New("too much to repair in place")
)

// maxBytes is how much a repair may write. What needs more is not small.
const maxBytes = 64 << 20

// journal is a repair, as it lies beside the image.
type journal struct {
	Version int     `json:"version"`
	Size    int64   `json:"size"` // of the image file, before
	Undoes  string  `json:"undoes,omitempty"`
	Writes  []write `json:"writes"`
	Sum     string  `json:"sha256"` // of Writes
}

// write is bytes at an offset, before and after.
type write struct {
	Offset int64  `json:"offset"`
	Old    []byte `json:"old"`
	New    []byte `json:"new"`
}

const version = 1

// pending is the journal of a repair that is being written.
func pending(path string) string { return path + ".h2k-repair" }

// backup is the journal of the repair number n that is done.
func backup(path string, n int) string { return fmt.Sprintf("%s-%d", pending(path), n) }

// Pending reports whether a repair of the image was killed while it was written.
func Pending(path string) bool {
	_, err := os.Lstat(pending(path))
	return err == nil
}

// Apply writes patches into the image and gives the path of the journal that
// Undo takes them back from; "" when there was nothing to write.
func Apply(path string, patches []formats.Patch) (string, error) {
	f, err := openAlone(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	j, err := plan(f, patches)
	if err != nil || len(j.Writes) == 0 {
		return "", err
	}
	return run(f, path, j)
}

// page is the unit in which a repair is planned, in bytes: patches of two
// problems may meet, in one entry of a table say, and in a page they do.
const page = 4096

// plan finds out what the patches change.
func plan(f *os.File, patches []formats.Patch) (*journal, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	j := &journal{Version: version, Size: info.Size()}
	pages := make(map[int64]*write)
	for _, p := range patches {
		if p.Offset < 0 || p.Offset > j.Size || int64(len(p.Bytes)) > j.Size-p.Offset {
			return nil, fmt.Errorf("repair of %d bytes at %d of a file of %d: %w", len(p.Bytes), p.Offset, j.Size, formats.ErrCorrupt)
		}
		for done := 0; done < len(p.Bytes); {
			at := p.Offset + int64(done)
			w, err := load(f, pages, at-at%page, j.Size)
			if err != nil {
				return nil, err
			}
			done += copy(w.New[at-w.Offset:], p.Bytes[done:])
		}
		if int64(len(pages))*page > maxBytes {
			return nil, fmt.Errorf("more than %d bytes: %w", maxBytes, ErrTooMuch)
		}
	}
	for _, off := range slices.Sorted(maps.Keys(pages)) {
		if w := pages[off].trim(); len(w.New) > 0 {
			j.Writes = append(j.Writes, w)
		}
	}
	return j, nil
}

// load gives the page at off, which it reads the first time.
func load(f *os.File, pages map[int64]*write, off, size int64) (*write, error) {
	if w := pages[off]; w != nil {
		return w, nil
	}
	w := &write{Offset: off, Old: make([]byte, min(page, size-off))}
	if _, err := f.ReadAt(w.Old, off); err != nil {
		return nil, fmt.Errorf("read what a repair replaces: %w", err)
	}
	w.New = bytes.Clone(w.Old)
	pages[off] = w
	return w, nil
}

// trim leaves what changes.
func (w write) trim() write {
	from, to := 0, len(w.New)
	for from < to && w.Old[from] == w.New[from] {
		from++
	}
	for to > from && w.Old[to-1] == w.New[to-1] {
		to--
	}
	return write{Offset: w.Offset + int64(from), Old: w.Old[from:to], New: w.New[from:to]}
}

// run begins a journal, writes what it says, and ends it.
func run(f *os.File, path string, j *journal) (string, error) {
	j.Sum = j.sum()
	data, err := json.Marshal(j)
	if err == nil {
		err = publish.WriteFile(pending(path), data, false)
	}
	if err != nil {
		return "", fmt.Errorf("write journal of repair: %w", err)
	}
	return perform(f, path, j)
}

// perform writes what a journal says, which may be done any number of times.
func perform(f *os.File, path string, j *journal) (string, error) {
	for _, w := range j.Writes {
		if _, err := f.WriteAt(w.New, w.Offset); err != nil {
			return "", fmt.Errorf("repair: %w", err)
		}
	}
	if err := f.Sync(); err != nil {
		return "", fmt.Errorf("repair: %w", err)
	}
	if j.Undoes != "" {
		if err := os.Remove(j.Undoes); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		return "", os.Remove(pending(path))
	}
	done := backup(path, last(path)+1)
	return done, os.Rename(pending(path), done)
}

// last is the number of the last repair that is done, 0 for none.
func last(path string) int {
	n := 0
	for {
		if _, err := os.Lstat(backup(path, n+1)); err != nil {
			return n
		}
		n++
	}
}

// Finish writes what a killed repair had begun to write.
func Finish(path string) (string, error) {
	f, err := openAlone(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	j, err := read(pending(path))
	if err != nil {
		return "", err
	}
	return perform(f, path, j)
}

// Undo takes back the last repair, unless the image was written since.
func Undo(path string) error {
	n := last(path)
	if n == 0 {
		return fmt.Errorf("%s: %w", path, ErrNone)
	}
	f, err := openAlone(path)
	if err != nil {
		return err
	}
	defer f.Close()
	done, err := read(backup(path, n))
	if err != nil {
		return err
	}
	j, err := reverse(f, done)
	if err != nil {
		return err
	}
	j.Undoes = backup(path, n)
	_, err = run(f, path, j)
	return err
}

// reverse makes the journal that takes another back, once the image is seen to
// hold what that one wrote.
func reverse(f *os.File, done *journal) (*journal, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() != done.Size {
		return nil, fmt.Errorf("%d bytes, %d then: %w", info.Size(), done.Size, ErrChanged)
	}
	j := &journal{Version: version, Size: done.Size}
	for _, w := range done.Writes {
		now := make([]byte, len(w.New))
		if _, err := f.ReadAt(now, w.Offset); err != nil {
			return nil, fmt.Errorf("read what was repaired: %w", err)
		}
		if !bytes.Equal(now, w.New) {
			return nil, fmt.Errorf("at byte %d: %w", w.Offset, ErrChanged)
		}
		j.Writes = append(j.Writes, write{Offset: w.Offset, Old: w.New, New: w.Old})
	}
	return j, nil
}

func (j *journal) sum() string {
	h := sha256.New()
	// Numbers and bytes always marshal.
	_ = json.NewEncoder(h).Encode(j.Writes)
	return fmt.Sprintf("%x", h.Sum(nil))
}

// read reads a journal and checks that it is whole.
func read(path string) (*journal, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// Old and new bytes in base64, and what stands around short ones.
	data, err := io.ReadAll(io.LimitReader(f, 16*maxBytes))
	if err != nil {
		return nil, fmt.Errorf("read journal of repair: %w", err)
	}
	j := &journal{}
	if err := json.Unmarshal(data, j); err != nil {
		return nil, fmt.Errorf("read journal of repair %s: %w", path, err)
	}
	if j.Version != version || j.Sum != j.sum() {
		return nil, fmt.Errorf("%s is no journal of a repair: %w", path, formats.ErrCorrupt)
	}
	for _, w := range j.Writes {
		if w.Offset < 0 || len(w.Old) != len(w.New) || int64(len(w.New)) > j.Size-w.Offset {
			return nil, fmt.Errorf("journal %s at byte %d: %w", path, w.Offset, formats.ErrCorrupt)
		}
	}
	return j, nil
}
