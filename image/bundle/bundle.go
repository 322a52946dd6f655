// Package bundle opens a machine as a hypervisor hands it over: an OVA, an OVF
// descriptor with its files beside it, or a VMX file. It gives the machine as it
// is described, and its disks as chains, by their number in that.
//
// Nothing is extracted: a disk in an archive is read where it lies. Only what is
// compressed as a whole is unpacked, into a file that has no name.
package bundle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"hyper2kvm/formats"
	"hyper2kvm/formats/ovf"
	"hyper2kvm/image/chain"
	"hyper2kvm/image/hostfile"
)

// Sentinels to branch on, beside ovf.ErrSignature and those of formats and chain.
var (
	// ErrDescriptor says that the description of the machine cannot be used.
	ErrDescriptor = errors.New("the description of the machine cannot be used")
	// ErrWhich says that there are several machines, or other ones than the one
	// that was asked for.
	ErrWhich = errors.New("which machine is meant is not known")
	// ErrMissing says that a file which the description names is not there.
	ErrMissing = errors.New("a file of the package is missing")
	// ErrDigest says that a file is not the one that the manifest lists.
	ErrDigest = errors.New("not the file that the manifest lists")
)

// Policy says what may be opened.
type Policy struct {
	// Outside lets descriptions and images name files in other folders.
	Outside bool
	// Machine chooses one of several, by id or name.
	Machine string
	// TempDir takes what has to be unpacked.
	TempDir string
}

// Bundle is a machine with its disks.
type Bundle struct {
	Path string
	Kind string // "ova", "ovf", "vmx"
	// Machine is as described.
	Machine ovf.Machine
	// Warnings are what could not be proven, in words for the user. Those of the
	// machine are not among them.
	Warnings []string

	policy   Policy
	folder   folder
	shut     func() error // closes the folder's files; nil before it is open
	manifest ovf.Manifest // nil for none
	seals    []string     // the names of manifest and signature
	signed   bool
	temps    []*hostfile.File
}

// folder is where the files of a package lie. Names are as a description or an
// image writes them: nothing of them is trusted.
type folder interface {
	// open gives a file, an error that is fs.ErrNotExist, or one that is
	// formats.ErrRefused.
	open(name string) (formats.File, error)
	// used lists the names under which files were opened.
	used() []string
	// host lists the files of the host that were opened.
	host() []string
}

// Open opens the description of a machine, which is compared with the manifest
// where there is one. Disks are opened by OpenDisks.
func Open(name string, pol Policy) (*Bundle, error) {
	b := &Bundle{Path: name, policy: pol}
	if err := b.open(); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// Close closes all files but those of disks that the host has as files of their
// own: their chains do that. Disks must not be used afterwards.
func (b *Bundle) Close() error {
	var err error
	for _, t := range b.temps {
		err = errors.Join(err, t.Close())
	}
	b.temps = nil
	if b.shut != nil {
		err = errors.Join(err, b.shut())
	}
	return err
}

// Files lists the files of the host that the description and the disks opened
// so far are made of.
func (b *Bundle) Files() []string {
	out := slices.Clone(b.folder.host())
	slices.Sort(out)
	return slices.Compact(out)
}

// OpenDisks opens the disks of these numbers, from 1 in the order of
// Machine.Disks. Their files are compared with the manifest by Verify, since
// that reads all of them. The caller closes the chains, before the bundle.
func (b *Bundle) OpenDisks(ctx context.Context, numbers ...int) ([]*chain.Chain, error) {
	var out []*chain.Chain
	for _, n := range numbers {
		d := b.Machine.Disks[n-1]
		c, err := b.openDisk(ctx, d)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("disk %d (%s): %w", n, d.ID, err), closeAll(out))
		}
		out = append(out, c)
		if d.Capacity > 0 && c.Size() != d.Capacity {
			b.warn("disk %d (%s) has %d bytes, its description says %d: the disk itself counts", n, d.ID, c.Size(), d.Capacity)
		}
	}
	if err := b.checkListed(); err != nil {
		return nil, errors.Join(err, closeAll(out))
	}
	return out, nil
}

func closeAll(chains []*chain.Chain) error {
	var err error
	for _, c := range chains {
		err = errors.Join(err, c.Close())
	}
	return err
}

// warn says something once.
func (b *Bundle) warn(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(b.Warnings, text) {
		b.Warnings = append(b.Warnings, text)
	}
}

func (b *Bundle) open() error {
	f, err := hostfile.Open(b.Path)
	if err != nil {
		return err
	}
	b.Kind = kindOf(f)
	var machines []ovf.Machine
	switch b.Kind {
	case "ova":
		machines, err = b.openArchive(f)
	case "ovf":
		machines, err = b.openOVF(f)
	case "vmx":
		machines, err = b.openVMX(f)
	default:
		return errors.Join(fmt.Errorf("%s is no OVA, OVF or VMX file: %w", b.Path, formats.ErrFormat), f.Close())
	}
	if err != nil {
		return err
	}
	if err := b.choose(machines); err != nil {
		return err
	}
	if len(b.Machine.Disks) == 0 {
		return fmt.Errorf("machine %q has no disk: %w", b.Machine.ID, ErrDescriptor)
	}
	return nil
}

// choose takes the machine that the policy names, by its id or else by a name
// that only one has, or the only machine.
func (b *Bundle) choose(machines []ovf.Machine) error {
	want := b.policy.Machine
	if want == "" && len(machines) == 1 {
		b.Machine = machines[0]
		return nil
	}
	var ids []string
	var named []ovf.Machine
	for _, m := range machines {
		if want != "" && m.ID == want {
			b.Machine = m
			return nil
		}
		if want != "" && m.Name == want {
			named = append(named, m)
		}
		if len(ids) < maxNamed {
			ids = append(ids, m.ID)
		}
	}
	switch {
	case len(named) == 1:
		b.Machine = named[0]
		return nil
	case len(named) > 1:
		return fmt.Errorf("%d are called %q; their ids are among %q: %w", len(named), want, ids, ErrWhich)
	case want != "":
		return fmt.Errorf("none is called %q; there are %q: %w", want, ids, ErrWhich)
	}
	return fmt.Errorf("there are %d machines, %q: %w", len(machines), ids, ErrWhich)
}

// maxNamed is how many machines an error names.
const maxNamed = 20

func (b *Bundle) openVMX(f *hostfile.File) ([]ovf.Machine, error) {
	dir := newDirectory(f, b.policy)
	b.folder, b.shut = dir, dir.close
	text, err := readText(f.Format())
	if err != nil {
		return nil, err
	}
	m, err := ovf.ParseVMX(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, ErrDescriptor)
	}
	return []ovf.Machine{*m}, nil
}

func (b *Bundle) openOVF(f *hostfile.File) ([]ovf.Machine, error) {
	dir := newDirectory(f, b.policy)
	b.folder, b.shut = dir, dir.close
	name := filepath.Base(b.Path)
	stem := strings.TrimSuffix(name, filepath.Ext(name))
	return b.described(f.Format(), name, stem+".mf", stem+".cert")
}

func (b *Bundle) openArchive(f *hostfile.File) ([]ovf.Machine, error) {
	a := &archive{file: f}
	b.folder, b.shut = a, f.Close
	index, err := ovf.ReadArchive(f.Format())
	if err != nil {
		return nil, err
	}
	a.index = index
	name, err := a.descriptor()
	if err != nil {
		return nil, err
	}
	d, err := a.open(name)
	if err != nil {
		return nil, err
	}
	stem := strings.TrimSuffix(name, path.Ext(name))
	return b.described(d, name, a.beside(stem, ".mf"), a.beside(stem, ".cert"))
}

// described reads the descriptor, after its manifest and signature.
func (b *Bundle) described(f formats.File, name, manifest, certificate string) ([]ovf.Machine, error) {
	text, err := readText(f)
	if err != nil {
		return nil, err
	}
	if err := b.readManifest(manifest, certificate); err != nil {
		return nil, err
	}
	for _, d := range b.manifest.Of(name) {
		h := d.Hash.New()
		h.Write(text)
		if !bytes.Equal(h.Sum(nil), d.Sum) {
			return nil, digestError(f.Name, d)
		}
	}
	env, err := ovf.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", f.Name, err, ErrDescriptor)
	}
	return env.Machines, nil
}

// maxText bounds the description of a machine, in bytes; formats/ovf has bounds
// of its own below it.
const maxText = 16 << 20

func readText(f formats.File) ([]byte, error) {
	if f.Size > maxText {
		return nil, fmt.Errorf("%s has %d bytes, at most %d: %w", f.Name, f.Size, maxText, ErrDescriptor)
	}
	text := make([]byte, f.Size)
	return text, formats.ReadFull(f, text, 0)
}

// missing tells of a file that is not there as such, and of all else as it is.
func missing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", err, ErrMissing)
	}
	return err
}
