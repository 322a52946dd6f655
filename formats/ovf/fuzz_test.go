package ovf_test

import (
	"archive/tar"
	"errors"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"hyper2kvm/formats"
	"hyper2kvm/formats/formatstest"
	"hyper2kvm/formats/ovf"
)

// plausible checks what a machine may have in it, whoever described it.
func plausible(t *testing.T, m ovf.Machine) {
	t.Helper()
	if m.CPUs < 0 || m.CPUs > 1<<20 || m.Memory < 0 || len(m.Disks) > 1024 || len(m.Name) > 255 {
		t.Errorf("%d CPUs, %d bytes of memory, %d disks, name of %d bytes", m.CPUs, m.Memory, len(m.Disks), len(m.Name))
	}
	if m.Firmware != "" && m.Firmware != "bios" && m.Firmware != "uefi" {
		t.Errorf("firmware %q", m.Firmware)
	}
	for _, d := range m.Disks {
		if d.Capacity < 0 || d.Controller < 0 || d.Unit < 0 || len(d.Parents) > 65 {
			t.Errorf("disk %+v", d)
		}
	}
	for _, n := range m.NICs {
		if n.MAC != "" && len(n.MAC) != 17 {
			t.Errorf("MAC %q", n.MAC)
		}
	}
}

// known fails for an error that is none of those to branch on.
func known(t *testing.T, err error) {
	t.Helper()
	for _, e := range []error{formats.ErrFormat, formats.ErrCorrupt, formats.ErrTruncated, formats.ErrUnsupported, formats.ErrRefused} {
		if errors.Is(err, e) {
			return
		}
	}
	t.Errorf("an error without a kind: %v", err)
}

func seeds(f *testing.F, pattern string) {
	names, _ := filepath.Glob(filepath.Join("testdata", pattern))
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
}

func FuzzParse(f *testing.F) {
	seeds(f, "*.ovf")
	machine := formatstest.Described{Name: "web01", Firmware: "efi", SecureBoot: true, Disks: []string{"a.vmdk", "b.vmdk.gz"}, Capacity: 1 << 30,
		MACs: []string{"00:50:56:9b:00:01", "zz", ""}}
	f.Add(machine.OVF())
	f.Add(formatstest.Together(machine, machine))
	f.Fuzz(func(t *testing.T, text []byte) {
		env, err := ovf.Parse(text)
		if err != nil {
			known(t, err)
			return
		}
		for _, m := range env.Machines {
			plausible(t, m)
		}
	})
}

func FuzzParseVMX(f *testing.F) {
	seeds(f, "*.vmx")
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := ovf.ParseVMX(text)
		if err != nil {
			known(t, err)
			return
		}
		plausible(t, *m)
	})
}

func FuzzParseManifest(f *testing.F) {
	f.Add([]byte("SHA256(a b (c).ovf)= 00\r\n\r\nSHA-512 (d.vmdk) = 01\n"))
	f.Add([]byte("SHA256(a.ovf)= 00ff\nSHA1 (b) = 01\n"))
	f.Add([]byte("SHA1(x.mf)= 00\n-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if m, err := ovf.ParseManifest(text); err != nil {
			known(t, err)
		} else {
			for _, d := range m {
				if !d.Hash.Available() {
					t.Errorf("%+v", d)
				}
			}
		}
		if c, err := ovf.ParseCertificate(text); err != nil {
			known(t, err)
		} else if c.Check(text) == nil {
			t.Error("a text that signs itself")
		}
	})
}

func FuzzReadArchive(f *testing.F) {
	f.Add(archived(f, tar.Header{Name: "x.ovf", Format: tar.FormatGNU}, tar.Header{Name: strings.Repeat("y", 200), Format: tar.FormatGNU}))
	f.Add(formatstest.Tar(f, tar.FormatUSTAR, formatstest.Member{Name: "web01.ovf", Content: []byte("<Envelope/>")}, formatstest.Member{Name: "a.vmdk", Content: make([]byte, 513)}))
	f.Add(archived(f, tar.Header{Name: "x.ovf", Format: tar.FormatPAX}, tar.Header{Name: "ä", Format: tar.FormatPAX}))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ovf.ReadArchive(file(b))
		if err != nil {
			known(t, err)
			return
		}
		for _, m := range a.Members {
			if m.Offset < 0 || m.Size < 0 || m.Offset+m.Size > int64(len(b)) || path.IsAbs(m.Name) || strings.HasPrefix(m.Name, "..") && path.Dir(m.Name) == ".." {
				t.Errorf("member %+v of %d bytes", m, len(b))
			}
			if err := formats.ReadFull(a.Open(m), make([]byte, m.Size), 0); err != nil {
				t.Error(err)
			}
		}
	})
}
