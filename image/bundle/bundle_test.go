package bundle

import (
	"archive/tar"
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"

	"hyper2kvm/formats"
	"hyper2kvm/formats/formatstest"
	"hyper2kvm/formats/ovf"
	"hyper2kvm/image/chain"
	"hyper2kvm/image/convert"
)

const capacity = 8 << 20

// content is what a guest sees on disk i: data at both ends, and a hole.
func content(i int) []byte {
	b := make([]byte, capacity)
	copy(b, bytes.Repeat(fmt.Appendf(nil, "disk %d ", i), 20_000))
	b[510], b[511] = 0x55, 0xAA
	copy(b[capacity-1<<20:], bytes.Repeat([]byte("the end "), 100_000))
	return b
}

// image gives disk i as a file of our own writers.
func image(t testing.TB, i int, opt convert.Options) []byte {
	t.Helper()
	d := formatstest.NewMemory(capacity)
	if _, err := d.WriteAt(content(i), 0); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "disk")
	if _, err := convert.Run(t.Context(), d.Ready(), path, opt); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func stream(t testing.TB, i int) []byte {
	return image(t, i, convert.Options{Format: "vmdk", Variant: "streamOptimized"})
}

// put writes files into a new folder and gives the path of the first.
func put(t testing.TB, files ...formatstest.Member) string {
	t.Helper()
	dir := t.TempDir()
	for _, f := range files {
		path := filepath.Join(dir, f.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, f.Content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, files[0].Name)
}

func file(name string, text []byte) formatstest.Member {
	return formatstest.Member{Name: name, Content: text}
}

// packed writes an OVA.
func packed(t testing.TB, members ...formatstest.Member) string {
	t.Helper()
	return put(t, file("web01.ova", formatstest.Tar(t, tar.FormatPAX, members...)))
}

// web01 describes a machine with the disks.
func web01(disks ...string) formatstest.Described {
	return formatstest.Described{Name: "web01", Firmware: "efi", Disks: disks, Capacity: capacity, MACs: []string{"00:50:56:9b:00:01", "00:50:56:9b:00:02"}}
}

// opened opens a bundle with all its disks, which are closed with the test.
func opened(t testing.TB, path string, pol Policy) (*Bundle, []*chain.Chain, error) {
	t.Helper()
	b, err := Open(path, pol)
	if err != nil {
		return nil, nil, err
	}
	var all []int
	for i := range b.Machine.Disks {
		all = append(all, i+1)
	}
	disks, err := b.OpenDisks(t.Context(), all...)
	t.Cleanup(func() {
		if err := errors.Join(closeAll(disks), b.Close()); err != nil {
			t.Error(err)
		}
	})
	return b, disks, err
}

// holds wants the disks of the bundle to be those of content, in order.
func holds(t *testing.T, disks []*chain.Chain, first int) {
	t.Helper()
	for i, d := range disks {
		formatstest.Disk(t, d, bytes.NewReader(content(first+i)))
	}
}

// nowhere is a folder for temporary files that cannot be written, since it is
// none.
const nowhere = "/dev/null/none"

// Disks are read where they lie in the archive, whatever kind of tar it is:
// nothing could be extracted.
func TestArchiveIsReadInPlace(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	long := strings.Repeat("d", 120) + ".vmdk" // no name of plain ustar
	for format, second := range map[tar.Format]string{tar.FormatUSTAR: "b.img", tar.FormatPAX: long, tar.FormatGNU: long} {
		machine := web01("a.vmdk", second)
		raw := content(2)
		path := put(t, file("web01.ova", formatstest.Tar(t, format,
			file("web01.ovf", machine.OVF()), file("a.vmdk", stream(t, 1)), file(second, raw))))
		t.Setenv("TMPDIR", nowhere)
		b, disks, err := opened(t, path, Policy{TempDir: nowhere})
		if err != nil {
			t.Fatalf("%v: %v", format, err)
		}
		if b.Kind != "ova" || b.Machine.CPUs != 3 || b.Machine.Memory != 1536<<20 || b.Machine.Firmware != "uefi" || b.Machine.NICs[1].MAC != "00:50:56:9b:00:02" {
			t.Errorf("%v: %s %+v", format, b.Kind, b.Machine)
		}
		holds(t, disks, 1)
		if got := b.Files(); !slices.Equal(got, []string{path}) || !slices.Equal(disks[1].Files(), got) {
			t.Errorf("%v: files %q and %q", format, got, disks[1].Files())
		}
		if got := disks[0].Images()[0].Path; got != path+"/a.vmdk" {
			t.Errorf("%v: the first disk is %s", format, got)
		}
		t.Setenv("TMPDIR", filepath.Dir(path))
	}
}

// A disk that is named alone is opened alone, whatever became of the others.
func TestOneDiskOfSeveral(t *testing.T) {
	path := packed(t, file("web01.ovf", web01("lost.vmdk", "b.vmdk").OVF()), file("b.vmdk", stream(t, 7)))
	b, err := Open(path, Policy{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, err := b.OpenDisks(t.Context(), 1, 2); !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "disk 1 (vmdisk1)") {
		t.Errorf("got %v", err)
	}
	disks, err := b.OpenDisks(t.Context(), 2)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(disks)
	holds(t, disks, 7)
}

func TestFolders(t *testing.T) {
	flat := "# Disk DescriptorFile\nversion=1\nCID=00000001\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\nRW 16384 FLAT \"data-flat.vmdk\" 0\n"
	vmx := "config.version = \"8\"\ndisplayName = \"web01\"\nnumvcpus = \"2\"\nmemsize = \"512\"\nscsi0.present = \"TRUE\"\n" +
		"scsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"a.vmdk\"\nscsi0:1.present = \"TRUE\"\nscsi0:1.fileName = \"data.vmdk\"\n"
	for name, text := range map[string]string{"web01.ovf": string(web01("a.vmdk", "data.vmdk").OVF()), "web01.vmx": vmx} {
		path := put(t, file(name, []byte(text)), file("a.vmdk", stream(t, 1)), file("data.vmdk", []byte(flat)), file("data-flat.vmdk", content(2)))
		b, disks, err := opened(t, path, Policy{TempDir: nowhere})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if b.Machine.Name != "web01" || b.Machine.CPUs == 0 || b.Machine.Memory == 0 {
			t.Errorf("%s: %+v", name, b.Machine)
		}
		holds(t, disks, 1)
		var names []string
		for _, f := range b.Files() {
			names = append(names, filepath.Base(f))
		}
		slices.Sort(names)
		if want := []string{"a.vmdk", "data-flat.vmdk", "data.vmdk", name}; !slices.Equal(names, want) {
			t.Errorf("%s is made of %q; want %q", name, names, want)
		}
		if e, err := disks[1].Extent(0, capacity); err != nil || e.Plain == nil {
			t.Errorf("%s: the kernel cannot copy %+v, %v", name, e, err)
		}
	}
}

func zip(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// What is compressed as a whole is unpacked into a file without a name.
func TestCompressed(t *testing.T) {
	machine := web01("a.vmdk.gz", "b.img.gz")
	members := []formatstest.Member{file("web01.ovf", machine.OVF()), file("a.vmdk.gz", zip(t, stream(t, 1))), file("b.img.gz", zip(t, content(2)))}
	temp := t.TempDir()
	for _, path := range []string{packed(t, members...), put(t, members...)} {
		_, disks, err := opened(t, path, Policy{TempDir: temp})
		if err != nil {
			t.Fatal(err)
		}
		holds(t, disks, 1)
		if left, err := os.ReadDir(temp); err != nil || len(left) != 0 {
			t.Errorf("left in the folder: %v, %v", left, err)
		}
		if _, _, err := opened(t, path, Policy{TempDir: nowhere}); err == nil {
			t.Error("unpacked where nothing can be written")
		}
	}
	whole := zip(t, content(1))
	half := len(whole) / 2
	for name, c := range map[string]struct {
		zipped []byte
		want   error
	}{
		"longer than the disk": {zip(t, make([]byte, 100<<20)), formats.ErrCorrupt},
		"cut off":              {whole[:half], formats.ErrTruncated},
		"damaged":              {slices.Concat(whole[:half], []byte("another end"), whole[half:]), formats.ErrCorrupt},
	} {
		path := packed(t, file("web01.ovf", web01("a.img.gz").OVF()), file("a.img.gz", c.zipped))
		if _, _, err := opened(t, path, Policy{TempDir: temp}); !errors.Is(err, c.want) {
			t.Errorf("%s: %v; want %v", name, err, c.want)
		}
	}
}

// A file may be cut into pieces, which are read as one.
func TestPieces(t *testing.T) {
	b := stream(t, 1)
	half := len(b) / 2
	text := bytes.Replace(web01("a.vmdk").OVF(), []byte(`href="a.vmdk"`), fmt.Appendf(nil, `href="a.vmdk" ovf:chunkSize="%d" ovf:size="%d"`, half, len(b)), 1)
	first, second := file("a.vmdk.000000000", b[:half]), file("a.vmdk.000000001", b[half:])
	for _, path := range []string{packed(t, file("web01.ovf", text), first, second), put(t, file("web01.ovf", text), first, second)} {
		_, disks, err := opened(t, path, Policy{TempDir: nowhere})
		if err != nil {
			t.Fatal(err)
		}
		holds(t, disks, 1)
	}
	if _, _, err := opened(t, packed(t, file("web01.ovf", text), first), Policy{}); !errors.Is(err, formats.ErrTruncated) {
		t.Errorf("a piece that is missing: %v", err)
	}
}

// A disk without a file is an empty one, which is said.
func TestDiskYetToBeMade(t *testing.T) {
	text := bytes.Replace(web01("a.vmdk").OVF(), []byte(` ovf:fileRef="file1"`), nil, 1)
	b, disks, err := opened(t, packed(t, file("web01.ovf", text)), Policy{})
	if err != nil {
		t.Fatal(err)
	}
	formatstest.Disk(t, disks[0], bytes.NewReader(make([]byte, capacity)))
	if !said(b, "made new and empty") {
		t.Errorf("warnings %q", b.Warnings)
	}
}

// What a descriptor says of a disk's size is compared with the disk.
func TestCapacityIsCompared(t *testing.T) {
	machine := web01("a.vmdk")
	machine.Capacity = 2 * capacity
	b, _, err := opened(t, packed(t, file("web01.ovf", machine.OVF()), file("a.vmdk", stream(t, 1))), Policy{})
	if err != nil || !said(b, "8388608 bytes, its description says 16777216") {
		t.Errorf("warnings %q, %v", b.Warnings, err)
	}
}

func said(b *Bundle, text string) bool {
	return slices.ContainsFunc(b.Warnings, func(w string) bool { return strings.Contains(w, text) })
}

func TestWhichMachine(t *testing.T) {
	other, twin, last := web01(), web01(), web01("a.vmdk")
	other.Name, twin.Name, last.Name = "db01", "db01", "last"
	path := packed(t, file("web01.ovf", formatstest.Together(web01("a.vmdk"), other)), file("a.vmdk", stream(t, 1)))
	for name, want := range map[string]error{"": ErrWhich, "none": ErrWhich, "web01": nil, "db01": ErrDescriptor} {
		b, err := Open(path, Policy{Machine: name})
		if !errors.Is(err, want) || err == nil && b.Machine.ID != "web01" {
			t.Errorf("%q: %v; want %v", name, err, want)
		}
		if errors.Is(err, ErrWhich) && !strings.Contains(err.Error(), `["web01" "db01"]`) {
			t.Errorf("%q: the machines are not listed: %v", name, err)
		}
		if err == nil {
			b.Close()
		}
	}
	// A name that two have chooses none; an id does.
	text := formatstest.Together(last, other, twin)
	text = bytes.Replace(text, []byte(`ovf:id="db01"><Name>db01`), []byte(`ovf:id="vm-7"><Name>last`), 1)
	if _, err := Open(put(t, file("x.ovf", bytes.ReplaceAll(text, []byte(`ovf:id="last"`), []byte(`ovf:id="vm-1"`)))), Policy{Machine: "last"}); !errors.Is(err, ErrWhich) {
		t.Errorf("a name that two have: %v", err)
	}
}

// What cannot be used, or leads elsewhere, is refused as what it is.
func TestRefused(t *testing.T) {
	good := web01("a.vmdk")
	disk := file("a.vmdk", stream(t, 1))
	naming := func(href string) string {
		return packed(t, file("web01.ovf", web01(href).OVF()), disk)
	}
	whole := formatstest.Tar(t, tar.FormatPAX, file("web01.ovf", good.OVF()), disk)
	cut := func(n int) string { return put(t, file("cut.ova", whole[:n])) }
	for name, c := range map[string]struct {
		path string
		want error
	}{
		"up":               {naming("../a.vmdk"), formats.ErrRefused},
		"up, escaped":      {naming("%2e%2e/a.vmdk"), formats.ErrRefused},
		"absolute":         {naming("/etc/passwd"), formats.ErrRefused},
		"URL":              {naming("https://example.com/a.vmdk"), formats.ErrRefused},
		"file URL":         {naming("file:///etc/passwd"), formats.ErrRefused},
		"no name":          {naming(""), formats.ErrRefused},
		"missing":          {naming("b.vmdk"), ErrMissing},
		"folder, up":       {put(t, file("sub/web01.ovf", web01("../a.vmdk").OVF()), file("a.vmdk", disk.Content)), formats.ErrRefused},
		"folder, absolute": {put(t, file("web01.ovf", web01("/etc/passwd").OVF())), formats.ErrRefused},
		"folder, missing":  {put(t, file("web01.ovf", good.OVF())), ErrMissing},
		"VMX, missing": {put(t, file("x.vmx", []byte("config.version = \"8\"\nscsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"a.vmdk\"\n"))),
			ErrMissing},
		"VMX, no disk":       {put(t, file("x.vmx", []byte("config.version = \"8\"\n"))), ErrDescriptor},
		"VMX, other text":    {put(t, file("x.vmx", []byte("hello\n"))), ErrDescriptor},
		"no disk":            {packed(t, file("web01.ovf", web01().OVF())), ErrDescriptor},
		"no machine":         {packed(t, file("web01.ovf", []byte("<Envelope/>"))), ErrDescriptor},
		"other XML":          {packed(t, file("web01.ovf", []byte("<html/>"))), ErrDescriptor},
		"no descriptor":      {packed(t, disk), ErrDescriptor},
		"two descriptors":    {packed(t, disk, file("a.ovf", good.OVF()), file("b.ovf", good.OVF())), ErrDescriptor},
		"no archive":         {put(t, file("x.ova", bytes.Repeat([]byte("hello "), 1000))), formats.ErrFormat},
		"cut in the disk":    {cut(len(whole) - 3000), formats.ErrTruncated},
		"cut in descriptor":  {cut(2000), formats.ErrTruncated},
		"cut in the header":  {cut(300), formats.ErrTruncated},
		"no disk in it":      {packed(t, file("web01.ovf", good.OVF()), file("a.vmdk", bytes.Repeat([]byte("hello "), 1000))), formats.ErrFormat},
		"link in the folder": {linked(t), formats.ErrRefused},
		"not there":          {"none.ova", os.ErrNotExist},
	} {
		if _, _, err := opened(t, c.path, Policy{}); !errors.Is(err, c.want) {
			t.Errorf("%s: %v; want %v", name, err, c.want)
		}
	}
	for name, headers := range map[string][]tar.Header{
		"up":        {{Name: "../web01.ovf", Typeflag: tar.TypeReg}},
		"absolute":  {{Name: "/web01.ovf", Typeflag: tar.TypeReg}},
		"link":      {{Name: "web01.ovf", Typeflag: tar.TypeReg}, {Name: "a.vmdk", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}},
		"hard link": {{Name: "web01.ovf", Typeflag: tar.TypeReg}, {Name: "a.vmdk", Typeflag: tar.TypeLink, Linkname: "/etc/passwd"}},
		"twice":     {{Name: "web01.ovf", Typeflag: tar.TypeReg}, {Name: "./web01.ovf", Typeflag: tar.TypeReg}},
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range headers {
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(put(t, file("x.ova", b.Bytes())), Policy{}); !errors.Is(err, formats.ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// linked is a folder whose disk is a link out of it.
func linked(t testing.TB) string {
	path := put(t, file("sub/web01.ovf", web01("a.vmdk").OVF()), file("a.vmdk", stream(t, 1)))
	if err := os.Symlink("../a.vmdk", filepath.Join(filepath.Dir(path), "a.vmdk")); err != nil {
		t.Fatal(err)
	}
	return path
}

// With the user's leave files of other folders are opened.
func TestOutside(t *testing.T) {
	_, disks, err := opened(t, linked(t), Policy{Outside: true})
	if err != nil {
		t.Fatal(err)
	}
	holds(t, disks, 1)
}

func TestIs(t *testing.T) {
	whole := formatstest.Tar(t, tar.FormatPAX, file("web01.ovf", web01("a.vmdk").OVF()))
	for name, c := range map[string]struct {
		text []byte
		want bool
	}{
		"a.ova": {whole, true}, "b.OVA": {whole, true}, "download": {whole, true}, "c.ova": {[]byte("x"), true},
		"a.ovf": {[]byte("<"), true}, "a.vmx": {[]byte("x"), true}, "empty.ova": {nil, false}, "a.vmdk": {stream(t, 1), false},
		"a.tar": {formatstest.Tar(t, tar.FormatPAX, file("x", nil)), false}, "a.img": {content(1), false},
	} {
		if got := Is(put(t, file(name, c.text))); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if Is("none.ova") || Is(t.TempDir()) || Is("/dev/null") {
		t.Error("what is no file is a bundle")
	}
}

// The machines of virt-v2v's tests, each packed with disks of the names that its
// description has.
func TestRealMachines(t *testing.T) {
	root := os.Getenv("H2K_TESTDATA")
	if root == "" {
		t.Skip("H2K_TESTDATA is not set: descriptions of real machines lie there")
	}
	found, err := filepath.Glob(filepath.Join(root, "ovf", "*.[ov][vm][fx]"))
	if err != nil || len(found) != 7 {
		t.Fatalf("%q, %v", found, err)
	}
	for _, path := range found {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		members := []formatstest.Member{file(filepath.Base(path), text)}
		var want []string
		disk := stream(t, 3)
		for _, d := range disksOf(t, path, text) {
			b := disk
			if d.File.Gzip || strings.HasSuffix(d.File.Name, ".gz") {
				b = zip(t, disk)
			}
			members = append(members, file(d.File.Name, b))
			want = append(want, strings.TrimSuffix(d.File.Name, ".gz"))
		}
		packages := []string{put(t, members...)}
		if filepath.Ext(path) == ".ovf" {
			packages = append(packages, packed(t, members...))
		}
		for _, p := range packages {
			b, disks, err := opened(t, p, Policy{TempDir: t.TempDir()})
			if err != nil {
				t.Errorf("%s: %v", path, err)
				continue
			}
			var got []string
			for _, d := range disks {
				got = append(got, filepath.Base(strings.TrimSuffix(d.Images()[0].Path, ".gz")))
			}
			if filepath.Ext(p) == ".ova" && !slices.Equal(got, want) || len(got) != len(want) {
				t.Errorf("%s: disks %q; want %q", path, got, want)
			}
			if len(b.Machine.NICs) != 1 || b.Machine.Memory == 0 {
				t.Errorf("%s: %+v", path, b.Machine)
			}
			formatstest.Disk(t, disks[len(disks)-1], bytes.NewReader(content(3)))
		}
	}
}

func disksOf(t *testing.T, path string, text []byte) []ovf.Disk {
	t.Helper()
	if filepath.Ext(path) == ".vmx" {
		m, err := ovf.ParseVMX(text)
		if err != nil {
			t.Fatal(err)
		}
		return m.Disks
	}
	env, err := ovf.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return env.Machines[0].Disks
}

// sums are the lines of a manifest.
func sums(hash crypto.Hash, files ...formatstest.Member) []byte {
	var b bytes.Buffer
	for _, f := range files {
		h := hash.New()
		h.Write(f.Content)
		fmt.Fprintf(&b, "%s(%s)= %x\n", strings.ReplaceAll(hash.String(), "-", ""), f.Name, h.Sum(nil))
	}
	return b.Bytes()
}

func discard(int64, int64) {}

// copyOf reads a whole disk.
func copyOf(t testing.TB, c *chain.Chain) []byte {
	t.Helper()
	b, err := io.ReadAll(io.NewSectionReader(c, 0, c.Size()))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
