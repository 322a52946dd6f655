package ovf_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"hyper2kvm/formats"
	"hyper2kvm/formats/ovf"
)

// archived makes a tar file of the given headers; each member has its name as
// content unless its size says otherwise.
func archived(t testing.TB, members ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range members {
		if h.Mode = 0o644; h.Typeflag == 0 {
			h.Typeflag, h.Size = tar.TypeReg, int64(len(h.Name))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := io.WriteString(w, h.Name); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func file(b []byte) formats.File {
	return formats.File{ReaderAt: bytes.NewReader(b), Size: int64(len(b)), Name: "x.ova"}
}

func TestArchive(t *testing.T) {
	long := strings.Repeat("long/", 60) + "name.vmdk"
	for _, format := range []tar.Format{tar.FormatGNU, tar.FormatPAX} {
		b := archived(t, tar.Header{Name: "x.ovf", Format: format}, tar.Header{Name: "./sub/", Typeflag: tar.TypeDir, Format: format},
			tar.Header{Name: "./sub/ä.vmdk", Format: format}, tar.Header{Name: long, Format: format})
		a, err := ovf.ReadArchive(file(b))
		if err != nil {
			t.Fatal(err)
		}
		if len(a.Members) != 3 || a.Members[0].Name != "x.ovf" || a.Members[1].Name != "sub/ä.vmdk" || a.Members[2].Name != long {
			t.Errorf("%v: %+v", format, a.Members)
		}
		for _, m := range a.Members {
			f := a.Open(m)
			p := make([]byte, f.Size)
			if err := formats.ReadFull(f, p, 0); err != nil || strings.TrimPrefix(string(p), "./") != m.Name || f.Name != "x.ova/"+m.Name {
				t.Errorf("%s holds %q, %v", m.Name, p, err)
			}
		}
		// Without the blocks of zeroes at the end, as some programs write it.
		if _, err := ovf.ReadArchive(file(b[:len(b)-1024])); err != nil {
			t.Errorf("%v without its end: %v", format, err)
		}
	}
}

func TestBadArchives(t *testing.T) {
	plain := archived(t, tar.Header{Name: "x.ovf"}, tar.Header{Name: "x.vmdk"})
	claims := archived(t, tar.Header{Name: "x.ovf"})
	copy(claims[124:], "00120000000 ") // octal: 1.25 GiB
	claims = sum(claims)
	sparse := archived(t, tar.Header{Name: "x.ovf"}, tar.Header{Name: "y", PAXRecords: map[string]string{"comment": "GNU.spars="}})
	var many []tar.Header
	for i := range 5000 {
		many = append(many, tar.Header{Name: strings.Repeat("x", 1+i/100) + strings.Repeat("y", 1+i%100)})
	}
	for _, c := range []struct {
		name string
		b    []byte
		want error
	}{
		{"empty", nil, formats.ErrFormat},
		{"zeroes", make([]byte, 4096), formats.ErrFormat},
		{"text", bytes.Repeat([]byte("hello "), 1000), formats.ErrFormat},
		{"up", archived(t, tar.Header{Name: "x.ovf"}, tar.Header{Name: "../../etc/shadow"}), formats.ErrRefused},
		{"up in the middle", archived(t, tar.Header{Name: "a/../../b"}), formats.ErrRefused},
		{"absolute", archived(t, tar.Header{Name: "/etc/shadow"}), formats.ErrRefused},
		{"of another system", archived(t, tar.Header{Name: `..\boot.ini`}), formats.ErrRefused},
		{"symlink", archived(t, tar.Header{Name: "x.vmdk", Typeflag: tar.TypeSymlink, Linkname: "/etc/shadow"}), formats.ErrRefused},
		{"hard link", archived(t, tar.Header{Name: "x.vmdk", Typeflag: tar.TypeLink, Linkname: "/etc/shadow"}), formats.ErrRefused},
		{"device", archived(t, tar.Header{Name: "x.vmdk", Typeflag: tar.TypeBlock, Devmajor: 8}), formats.ErrRefused},
		{"pipe", archived(t, tar.Header{Name: "x.vmdk", Typeflag: tar.TypeFifo}), formats.ErrRefused},
		{"twice", archived(t, tar.Header{Name: "x.vmdk"}, tar.Header{Name: "./x.vmdk"}), formats.ErrRefused},
		{"claims what is not there", claims, formats.ErrTruncated},
		{"cut in a header", plain[:1024+100], formats.ErrTruncated},
		{"cut in a member", plain[:512+2], formats.ErrTruncated},
		{"sparse", bytes.ReplaceAll(sparse, []byte("comment=GNU.spars="), []byte("GNU.sparse.major=1")), formats.ErrUnsupported},
		{"many", archived(t, many...), formats.ErrUnsupported},
	} {
		if a, err := ovf.ReadArchive(file(c.b)); !errors.Is(err, c.want) {
			t.Errorf("%s: %+v, %v; want %v", c.name, a, err, c.want)
		}
	}
}

// sum puts the right checksum into the first header (POSIX: the sum of its bytes,
// with spaces for itself).
func sum(b []byte) []byte {
	copy(b[148:156], "        ")
	n := 0
	for _, c := range b[:512] {
		n += int(c)
	}
	for i := 153; i >= 148; i-- {
		b[i] = byte('0' + n%8)
		n /= 8
	}
	b[154], b[155] = 0, ' '
	return b
}

// sparse is a file that is empty behind its begin.
type sparse struct {
	head []byte
	size int64
}

func (s sparse) ReadAt(p []byte, off int64) (int, error) {
	if off >= s.size {
		return 0, io.EOF
	}
	clear(p)
	if off < int64(len(s.head)) {
		copy(p, s.head[off:])
	}
	if n := s.size - off; n < int64(len(p)) {
		return int(n), io.EOF
	}
	return len(p), nil
}

// Members may be larger than the 8 GiB that an octal number of tar can say, and
// none is read to find the next.
func TestHugeMember(t *testing.T) {
	const size = 3 << 40
	for _, format := range []tar.Format{tar.FormatGNU, tar.FormatPAX} {
		var b bytes.Buffer
		if err := tar.NewWriter(&b).WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "x.img", Size: size, Format: format}); err != nil {
			t.Fatal(err)
		}
		head := b.Bytes()
		a, err := ovf.ReadArchive(formats.File{ReaderAt: sparse{head, int64(len(head)) + size + 1024}, Size: int64(len(head)) + size + 1024, Name: "x.ova"})
		if err != nil || len(a.Members) != 1 || a.Members[0] != (ovf.Member{Name: "x.img", Offset: int64(len(head)), Size: size}) {
			t.Errorf("%v: %+v, %v", format, a, err)
		}
	}
}
