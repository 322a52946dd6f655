package chain

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"hyper2kvm/formats"
	"hyper2kvm/formats/detect"
	"hyper2kvm/image/hostfile"
)

// maxCandidates bounds how many files are looked at for a parent without name.
const maxCandidates = 4096

// search finds a parent that the image at path knows by its id alone, as
// VirtualBox's do, among the images of the same format in its folder. Where other
// folders are allowed that is also the one above: VirtualBox keeps snapshots in
// "Snapshots" below the machine's folder.
func (r *resolver) search(path string, claim formats.Claim) (formats.File, error) {
	dir := filepath.Dir(path)
	dirs := []string{dir}
	if r.policy.Outside {
		dirs = append(dirs, filepath.Join(dir, ".."))
	}
	var changed *hostfile.File
	for _, d := range dirs {
		found, was, err := r.searchIn(d, path, claim)
		if changed == nil {
			changed = was
		} else if was != nil {
			err = errors.Join(err, was.Close())
		}
		if err != nil {
			return formats.File{}, err
		}
		if found != nil {
			r.chain.files = append(r.chain.files, found)
			if changed != nil {
				r.chain.files = append(r.chain.files, changed) // closed with the chain
			}
			return found.Format(), nil
		}
	}
	if changed != nil { // it is refused as what it is
		r.chain.files = append(r.chain.files, changed)
		return changed.Format(), nil
	}
	return formats.File{}, fmt.Errorf("no %s image in %s has the id %s: %w", claim.Format, strings.Join(dirs, " or "), claim.ID, fs.ErrNotExist)
}

// searchIn looks in one folder. changed has the id that is claimed, and not the
// content.
func (r *resolver) searchIn(dir, path string, claim formats.Claim) (found, changed *hostfile.File, err error) {
	names, err := named(dir, "."+claim.Format)
	if err != nil {
		return nil, nil, err
	}
	for _, name := range names {
		if filepath.Join(dir, name) == filepath.Clean(path) {
			continue
		}
		f, err := r.policy.open(dir, name)
		if err != nil {
			continue // what may not or cannot be opened is not the parent
		}
		img, err := detect.OpenAs(claim.Format, f.Format(), nil)
		switch {
		case err == nil && claim.Means(img.Info().ID) && (claim.ContentID == "" || img.Info().ContentID == claim.ContentID):
			return f, changed, nil
		case err == nil && claim.Means(img.Info().ID) && changed == nil:
			changed = f
			continue
		}
		if err := f.Close(); err != nil {
			return nil, changed, err
		}
	}
	return nil, changed, nil
}

// named lists the files of a folder with that ending, in order.
func named(dir, ext string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	all, err := f.Readdirnames(maxCandidates)
	if errors.Is(err, io.EOF) {
		err = nil // an empty folder
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("list %s: %w", dir, err)
	}
	all = slices.DeleteFunc(all, func(name string) bool { return !strings.EqualFold(filepath.Ext(name), ext) })
	slices.Sort(all)
	return all, nil
}
