package cpio

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hyper2kvm/formats"
)

// need skips a test whose oracle is not installed.
func need(t testing.TB, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Skipf("%s is the oracle and is not here", program)
	}
}

func run(t testing.TB, dir string, stdin []byte, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, stderr.String())
	}
	return out
}

// gnu makes an archive with GNU cpio.
func gnu(t testing.TB, files map[string]string) []byte {
	t.Helper()
	need(t, "cpio")
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return run(t, dir, nil, "sh", "-c", "find . | LC_ALL=C sort | cpio -o -H newc --quiet")
}

// list reads names and contents of regular files, later ones replacing earlier.
func list(data []byte) (map[string]string, []Segment, error) {
	r := NewReader(bytes.NewReader(data), Limits{})
	defer r.Close()
	out := map[string]string{}
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) && err == io.EOF {
			return out, r.Segments(), nil
		}
		if err != nil {
			return out, r.Segments(), err
		}
		if h.IsFile() {
			content, err := r.ReadAll(1 << 30)
			if err != nil {
				return out, r.Segments(), err
			}
			out[h.Name] = string(content)
		}
	}
}

var compressors = []struct {
	name string
	args []string
}{
	{"none", []string{"cat"}},
	{"gzip", []string{"gzip", "-9"}},
	{"xz", []string{"xz", "--check=crc32", "--lzma2=dict=1MiB"}},
	{"zstd", []string{"zstd", "-q", "-19", "-c", "-"}},
	{"lz4", []string{"lz4", "-l", "-q", "-c", "-"}},
	{"bzip2", []string{"bzip2"}},
	{"lzma", []string{"xz", "--format=lzma"}},
	{"lzo", []string{"lzop", "-c"}},
	{"lz4 frame", []string{"lz4", "-q", "-c", "-"}},
}

// TestSegments reads what the real compressors make, in the shape of real
// images: microcode, padding, the main archive, and one appended.
func TestSegments(t *testing.T) {
	early := gnu(t, map[string]string{"kernel/x86/microcode/GenuineIntel.bin": strings.Repeat("ucode", 2000)})
	large := strings.Repeat("0123456789abcdef", 1<<16) // several blocks
	main := gnu(t, map[string]string{"init": "#!/bin/sh\n", "etc/conf": "old\n", "usr/lib/large": large, "empty": ""})
	var added bytes.Buffer
	if err := Write(&added, []Member{File("etc/conf", []byte("new\n")), File("etc/added", []byte("a"))}); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"kernel/x86/microcode/GenuineIntel.bin": strings.Repeat("ucode", 2000),
		"init":                                  "#!/bin/sh\n", "etc/conf": "new\n", "usr/lib/large": large, "empty": "", "etc/added": "a",
	}
	for _, c := range compressors {
		t.Run(c.name, func(t *testing.T) {
			need(t, c.args[0])
			packed := run(t, "", main, c.args...)
			image := slices.Concat(early, make([]byte, 512), packed)
			image = append(image, make([]byte, 8+(-len(image)&3))...)
			last := int64(len(image))
			image = slices.Concat(image, added.Bytes(), make([]byte, 100))
			got, segments, err := list(image)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			if c.name == "none" {
				return // archives that follow one another are one segment or several: no matter
			}
			wantSegments := []Segment{{0, "none"}, {int64(len(early)) + 512, c.name}, {last, "none"}}
			if diff := cmp.Diff(wantSegments, segments); diff != "" {
				t.Error(diff)
			}
			// And behind it, without any padding, one more compressed segment.
			tail := slices.Concat(packed, run(t, "", added.Bytes(), "gzip"))
			if c.name == "lz4" {
				tail = slices.Concat(packed, run(t, "", added.Bytes(), c.args...))
			}
			if got, _, err = list(tail); err != nil || got["etc/added"] != "a" || got["etc/conf"] != "new\n" {
				t.Errorf("directly appended: %v, %d members", err, len(got))
			}
		})
	}
}

// TestManyPlainSegments reads what Ubuntu and dracut put before the main archive:
// microcode of two vendors, each with its trailer and padding of its own, and an
// archive of modules that are packed one by one.
func TestManyPlainSegments(t *testing.T) {
	need(t, "zstd")
	var image []byte
	for i, files := range []map[string]string{
		{"early_cpio": "1\n", "kernel/x86/microcode/AuthenticAMD.bin": "amd"},
		{"kernel/x86/microcode/GenuineIntel.bin": "intel"},
		{"usr/lib/modules/6.8.0-31-generic/kernel/drivers/block/virtio_blk.ko.zst": "packed"},
	} {
		image = append(image, gnu(t, files)...)
		image = append(image, make([]byte, 512*i)...)
	}
	image = append(image, run(t, "", gnu(t, map[string]string{"init": "#!/bin/sh\n"}), "zstd", "-q", "-c", "-")...)
	got, segments, err := list(image)
	if err != nil || len(got) != 5 || got["init"] == "" || got["kernel/x86/microcode/AuthenticAMD.bin"] != "amd" {
		t.Errorf("%q, %v", got, err)
	}
	if last := segments[len(segments)-1]; last.Compression != "zstd" {
		t.Errorf("the last segment is %+v", last)
	}
}

// TestRealData unpacks what is neither text nor zeros: this test's own program,
// at each program's fastest and best, so that every kind of instruction occurs.
func TestRealData(t *testing.T) {
	program, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	program = program[:min(len(program), 3<<20)]
	var image bytes.Buffer
	if err := Write(&image, []Member{File("program", program)}); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"lzop", "-1"}, {"lzop", "-9"}, {"lzop", "--crc32"}, {"lz4", "-1"}, {"lz4", "-9", "-BD", "-BX", "--content-size"}, {"lz4", "-l"},
	} {
		need(t, args[0])
		got, _, err := list(run(t, "", image.Bytes(), append(args, "-q", "-c")...))
		if err != nil || got["program"] != string(program) {
			t.Errorf("%q: %d bytes, %v", args, len(got["program"]), err)
		}
	}
}

func TestBadImages(t *testing.T) {
	main := gnu(t, map[string]string{"init": "#!/bin/sh\n", "file": strings.Repeat("x", 5000)})
	packed := run(t, "", main, "gzip")
	for _, test := range []struct {
		name string
		data []byte
		want error
	}{
		{"not an image", []byte("hello world"), formats.ErrFormat},
		{"cut in a member", main[:3000], formats.ErrTruncated},
		{"cut in a header", main[:50], formats.ErrTruncated},
		{"no trailer", main[:slices.Index(main, 'T')], nil},
		{"cut gzip", packed[:len(packed)/2], formats.ErrTruncated},
		{"junk behind", slices.Concat(main, []byte("JUNK")), formats.ErrCorrupt},
		{"junk in a compressed segment", run(t, "", slices.Concat(main, []byte("JUNK")), "gzip"), formats.ErrCorrupt},
		{"not aligned", slices.Concat(main, []byte{0}, main), formats.ErrCorrupt},
		{"name without end", []byte("070701" + strings.Repeat("00000001", 11) + "00000003" + "00000000" + "abcdefgh"), formats.ErrCorrupt},
		{"long name", []byte("070701" + strings.Repeat("00000001", 11) + "7FFFFFFF" + "00000000" + "abcdefgh"), formats.ErrCorrupt},
	} {
		_, _, err := list(test.data)
		if err == nil || test.want != nil && !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", test.name, err, test.want)
		}
	}
}

func TestLimits(t *testing.T) {
	bomb := run(t, "", gnu(t, map[string]string{"zeros": strings.Repeat("\x00", 4<<20)}), "gzip")
	r := NewReader(bytes.NewReader(bomb), Limits{Unpacked: 1 << 20})
	var err error
	for err == nil {
		_, err = r.Next()
	}
	if !errors.Is(err, formats.ErrUnsupported) {
		t.Errorf("a bomb gives %v", err)
	}
	r = NewReader(bytes.NewReader(gnu(t, map[string]string{"a": "", "b": "", "c": ""})), Limits{Members: 2})
	for err = nil; err == nil; {
		_, err = r.Next()
	}
	if !errors.Is(err, formats.ErrUnsupported) {
		t.Errorf("too many members give %v", err)
	}
}

// TestWriteIsReadByCpio is the proof that others read what Write writes.
func TestWriteIsReadByCpio(t *testing.T) {
	need(t, "cpio")
	var b bytes.Buffer
	members := []Member{
		File("usr/lib/modules/6.1/x.ko", []byte("module")), Dir("usr"), Dir("usr/lib"), Dir("usr/lib/modules"),
		Dir("usr/lib/modules/6.1"), Link("lib", "usr/lib"), {"script", TypeFile | 0o755, []byte("#!/bin/sh\n")},
	}
	if err := Write(&b, members); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	run(t, dir, b.Bytes(), "cpio", "-i", "--quiet", "--no-absolute-filenames")
	if got, err := os.ReadFile(filepath.Join(dir, "lib/modules/6.1/x.ko")); err != nil || string(got) != "module" {
		t.Errorf("unpacked: %q, %v", got, err)
	}
	if info, err := os.Stat(filepath.Join(dir, "script")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("script: %v, %v", info, err)
	}
	var again bytes.Buffer
	slices.Reverse(members)
	if err := Write(&again, members); err != nil || !bytes.Equal(b.Bytes(), again.Bytes()) {
		t.Errorf("the same members in another order give other bytes (%v)", err)
	}
	for _, bad := range [][]Member{{File("/abs", nil)}, {File("a/../b", nil)}, {File("a", nil), File("a", nil)}, {File("", nil)}} {
		if err := Write(io.Discard, bad); err == nil {
			t.Errorf("%q is written", bad[0].Name)
		}
	}
}

// FuzzReader: whatever the bytes, reading ends, and what it gives can be
// written and read again.
func FuzzReader(f *testing.F) {
	var b bytes.Buffer
	if err := Write(&b, []Member{File("a", []byte("content")), Dir("d"), Link("l", "a")}); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	for _, c := range compressors {
		if _, err := exec.LookPath(c.args[0]); err == nil {
			f.Add(run(f, "", b.Bytes(), c.args...))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := NewReader(bytes.NewReader(data), Limits{Unpacked: 1 << 20, Members: 1000})
		defer r.Close()
		var members []Member
		for {
			h, err := r.Next()
			if err != nil {
				break
			}
			content, err := r.ReadAll(1 << 20)
			if err != nil {
				break
			}
			if int64(len(content)) != h.Size {
				t.Fatalf("%s has %d bytes, announced %d", h.Name, len(content), h.Size)
			}
			members = append(members, Member{fmt.Sprint(len(members)), h.Mode, content})
		}
		var out bytes.Buffer
		if err := Write(&out, members); err != nil {
			t.Fatal(err)
		}
		again := NewReader(&out, Limits{})
		for range members {
			if _, err := again.Next(); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := again.Next(); err != io.EOF {
			t.Fatalf("at the end: %v", err)
		}
	})
}
