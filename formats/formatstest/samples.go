package formatstest

import (
	"compress/bzip2"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// Sample unpacks a real image, by its name below the folder that H2K_TESTDATA
// names ("disks/vbox-dyn.vdi.zst"), and gives the path of the copy, whose name
// has lost the ending of the packer. Without the folder the test is skipped.
func Sample(t testing.TB, name string) string {
	t.Helper()
	return SampleIn(t, t.TempDir(), name)
}

// SampleIn is Sample for a folder of the test's own: a chain needs one for all.
func SampleIn(t testing.TB, dir, name string) string {
	t.Helper()
	root := os.Getenv("H2K_TESTDATA")
	if root == "" {
		t.Skip("H2K_TESTDATA is not set: real images are not at hand")
	}
	in, err := os.Open(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	from, err := unpacker(in, filepath.Ext(name))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	path := filepath.Join(dir, strings.TrimSuffix(filepath.Base(name), filepath.Ext(name)))
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := io.Copy(out, from); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return path
}

func unpacker(in io.Reader, ext string) (io.Reader, error) {
	switch ext {
	case ".zst":
		return zstd.NewReader(in)
	case ".xz":
		return xz.NewReader(in)
	case ".bz2":
		return bzip2.NewReader(in), nil
	}
	return in, nil
}
