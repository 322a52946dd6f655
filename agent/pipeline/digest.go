package pipeline

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"hyper2kvm/agent/api"
	"hyper2kvm/image/digest"
)

// digestVersion is the version of a list of digests.
const digestVersion = 1

// digest reports the digest of what a guest sees: of the whole, of each range,
// or what differs from a list.
func (r *run) digest(ctx context.Context) error {
	r.fillDisks()
	if len(r.sources) != 1 {
		return api.Errorf(api.CodeUsage, "digest", r.plan.Name, "takes one disk")
	}
	o, path := r.plan.DigestHow, r.plan.Sources[0].Name()
	switch {
	case o.Verify != "":
		return r.verifyDigests(ctx, o, path)
	case o.Range != 0:
		list, err := r.digestList(ctx, o.Range)
		if err != nil {
			return digestError(path, err)
		}
		r.report.Digests = list
		return nil
	}
	sum, err := digest.Whole(ctx, r.sources[0], r.progress(api.Digest, 0))
	if err != nil {
		return digestError(path, err)
	}
	r.report.Disks[0].Digest = digestName(hex.EncodeToString(sum[:]))
	return nil
}

func digestError(path string, err error) error {
	if errors.Is(err, digest.ErrRange) {
		return api.NewError(api.CodeUsage, "digest", path, err)
	}
	return sourceError("digest", path, err)
}

// digestList gives the digests of all ranges of the source.
func (r *run) digestList(ctx context.Context, size int64) (*api.DigestList, error) {
	d := r.sources[0]
	sums, err := digest.Ranges(ctx, d, size, r.progress(api.Digest, 0))
	if err != nil {
		return nil, err
	}
	list := &api.DigestList{Version: digestVersion, Algorithm: "sha256", Size: d.Size(), RangeSize: size, Ranges: make([]api.RangeDigest, len(sums))}
	for i, s := range sums {
		off := int64(i) * size
		list.Ranges[i] = api.RangeDigest{Offset: off, Length: min(size, d.Size()-off), SHA256: hex.EncodeToString(s[:])}
	}
	return list, nil
}

// verifyDigests names the ranges that differ from a list.
func (r *run) verifyDigests(ctx context.Context, o api.DigestOptions, path string) error {
	want, err := readDigests(o.Verify)
	if err != nil {
		return api.NewError(api.CodeUsage, "read list of digests", o.Verify, err)
	}
	if o.Range != 0 && o.Range != want.RangeSize {
		return api.Errorf(api.CodeUsage, "verify with", o.Verify, "its ranges have %d bytes, not %d", want.RangeSize, o.Range)
	}
	got, err := r.digestList(ctx, want.RangeSize)
	if err != nil {
		return digestError(path, err)
	}
	check := &api.DigestCheck{Checked: len(got.Ranges)}
	for i, g := range got.Ranges {
		if i >= len(want.Ranges) || g != want.Ranges[i] {
			check.Differ = append(check.Differ, g)
		}
	}
	if want.Size != got.Size {
		check.WantSize = want.Size
	}
	check.Equal = len(check.Differ) == 0 && want.Size == got.Size
	r.report.Verified = check
	return nil
}

// maxList bounds a list of digests, in bytes: one of digest.MaxRanges, indented
// as a report is, has less than 200 a range.
const maxList = 256 << 20

// readDigests reads a list of digests, alone or in the report that it came with.
func readDigests(path string) (*api.DigestList, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxList+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxList {
		return nil, fmt.Errorf("it has more than %d bytes", maxList)
	}
	var doc struct {
		api.DigestList
		Digests *api.DigestList `json:"digests"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, err
	}
	list := doc.Digests
	if list == nil {
		list = &doc.DigestList
	}
	return list, checkDigests(list)
}

// checkDigests refuses a list that does not cover a disk, range after range.
func checkDigests(l *api.DigestList) error {
	if l.Version != digestVersion || l.Algorithm != "sha256" || l.RangeSize <= 0 || l.Size < 0 {
		return fmt.Errorf("not a list of digests of version %d with sha256", digestVersion)
	}
	for i, x := range l.Ranges {
		if x.Offset != int64(i)*l.RangeSize || x.Length != min(l.RangeSize, l.Size-x.Offset) || len(x.SHA256) != hex.EncodedLen(len(digest.Sum{})) {
			return fmt.Errorf("range %d is not where it belongs", i)
		}
	}
	if n := len(l.Ranges); l.Size > 0 && (n == 0 || l.Ranges[n-1].Offset+l.Ranges[n-1].Length != l.Size) {
		return errors.New("its ranges do not reach the end of the disk")
	}
	return nil
}
