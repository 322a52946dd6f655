package table_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ulikunitz/xz"

	"hyper2kvm/agent/blockdev/table"
	"hyper2kvm/fixes/guest"
)

// sfdisk writes a table with sfdisk and reads back what sfdisk sees.
func sfdisk(t *testing.T, size int64, script string) (string, *table.Table) {
	t.Helper()
	if _, err := exec.LookPath("sfdisk"); err != nil {
		t.Skip("sfdisk (package fdisk) is not installed")
	}
	name := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, size); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sfdisk", "--quiet", name)
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v\n%s", err, out)
	}
	out, err := exec.Command("sfdisk", "--json", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Table struct {
			Label, ID  string
			Partitions []struct {
				Node, Type, UUID, Name string
				Start, Size            int64
				Bootable               bool
			}
		} `json:"partitiontable"`
	}
	if err := json.Unmarshal(out, &doc); err != nil {
		t.Fatal(err)
	}
	want := &table.Table{Kind: doc.Table.Label, ID: strings.ToLower(strings.TrimPrefix(doc.Table.ID, "0x")), SectorSize: 512, BootCode: "none"}
	for _, p := range doc.Table.Partitions {
		var n int
		if _, err := fmt.Sscanf(strings.TrimPrefix(p.Node, name), "%d", &n); err != nil {
			t.Fatal(err)
		}
		part := guest.Partition{Number: n, Start: p.Start * 512, Size: p.Size * 512, Type: strings.ToLower(p.Type),
			UUID: strings.ToLower(p.UUID), Label: p.Name, Bootable: p.Bootable}
		if want.Kind == "dos" {
			part.Type = "0x" + part.Type
			part.UUID = fmt.Sprintf("%s-%02x", want.ID, n)
		}
		want.Partitions = append(want.Partitions, part)
	}
	return name, want
}

func read(t *testing.T, name string) *table.Table {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	got, err := table.Read(f, info.Size(), 512)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestLikeSfdisk(t *testing.T) {
	for name, script := range map[string]string{
		"dos":      "label: dos\nlabel-id: 0xdeadbeef\nsize=8M,type=83,bootable\nsize=4M,type=82\n",
		"logical":  "label: dos\n1: size=4M,type=83\n3: size=30M,type=5\n5: size=2M,type=83\n6: size=3M,type=82\n7: size=4M,type=8e\n4: size=1M,type=c\n",
		"gpt":      "label: gpt\nsize=8M,type=U,name=\"EFI System\"\n4: size=8M,type=L,name=root\nsize=4M,type=S\n",
		"biosboot": "label: gpt\nsize=1M,type=21686148-6449-6E6F-744E-656564454649\nsize=8M,attrs=LegacyBIOSBootable\n",
	} {
		t.Run(name, func(t *testing.T) {
			disk, want := sfdisk(t, 64<<20, script)
			got := read(t, disk)
			if name == "biosboot" {
				want.Partitions[1].Bootable = true
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestBootCode has disks as grub-install leaves them, and as a copy that forgot
// what is between the partitions does.
func TestBootCode(t *testing.T) {
	grub := func(core uint64, legacy bool) []byte {
		disk := make([]byte, 64*512)
		copy(disk[0x180:], "GRUB \x00Geom\x00Hard Disk\x00Read\x00 Error")
		binary.LittleEndian.PutUint64(disk[0x5c:], core)
		if legacy {
			disk[0x3e], disk[0x3f] = 3, 2
		}
		return disk
	}
	whole := grub(1, false)
	copy(whole[512:], "RV")
	other := make([]byte, 64*512)
	other[0] = 0xfa
	for name, test := range map[string]struct {
		disk    []byte
		code    string
		warning string
	}{
		"whole":            {whole, "grub", ""},
		"core is empty":    {grub(34, false), "grub", "sector 34, which is empty"},
		"core is not here": {grub(1<<40, false), "grub", "which the disk does not have"},
		"GRUB legacy":      {grub(1<<40, true), "grub", ""},
		"nothing":          {make([]byte, 64*512), "none", ""},
		"another's":        {other, "", ""},
	} {
		got, err := table.Read(bytes.NewReader(test.disk), int64(len(test.disk)), 512)
		if err != nil {
			t.Fatal(err)
		}
		if text := strings.Join(got.Warnings, "\n"); got.BootCode != test.code || !strings.Contains(text, test.warning) || (text == "") != (test.warning == "") {
			t.Errorf("%s: boot code %q, warnings %q", name, got.BootCode, text)
		}
	}
}

func TestDamagedGPT(t *testing.T) {
	disk, want := sfdisk(t, 16<<20, "label: gpt\nsize=8M\n")
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, 512), 512); err != nil {
		t.Fatal(err)
	}
	got := read(t, disk)
	if len(got.Warnings) != 1 || !strings.Contains(got.Warnings[0], "backup") {
		t.Errorf("warnings %q", got.Warnings)
	}
	got.Warnings = nil
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, err := f.WriteAt(make([]byte, 512), 16<<20-512); err != nil {
		t.Fatal(err)
	}
	// With neither header only the protective partition is left, as in Linux.
	if got := read(t, disk); got.Kind != "dos" || len(got.Partitions) != 1 || got.Partitions[0].Type != "0xee" {
		t.Errorf("without a header: %+v", got)
	}
}

func TestPartitionPastTheEnd(t *testing.T) {
	disk, _ := sfdisk(t, 16<<20, "label: dos\nstart=2048\n")
	if err := os.Truncate(disk, 8<<20); err != nil {
		t.Fatal(err)
	}
	got := read(t, disk)
	if len(got.Partitions) != 1 || got.Partitions[0].Size != 7<<20 || len(got.Warnings) != 1 {
		t.Errorf("cut disk: %+v", got)
	}
}

// TestSuperfloppy has file systems that fill the disk: their boot sectors end
// like a partition table.
func TestSuperfloppy(t *testing.T) {
	for _, mkfs := range [][]string{{"mkfs.vfat", "-F", "16"}, {"mkfs.vfat", "-F", "32"}, {"mkfs.ntfs", "-F", "-q"}, {"mkfs.ext4", "-q"}} {
		if _, err := exec.LookPath(mkfs[0]); err != nil {
			t.Skipf("%s is not installed", mkfs[0])
		}
		name := filepath.Join(t.TempDir(), "disk")
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(name, 64<<20); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(mkfs[0], append(mkfs[1:], name)...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", mkfs, err, out)
		}
		if got := read(t, name); got.Kind != "none" {
			t.Errorf("%v gives %+v", mkfs, got)
		}
	}
}

func TestSamples(t *testing.T) {
	dir := os.Getenv("H2K_TESTDATA")
	if dir == "" {
		t.Skip("H2K_TESTDATA is not set")
	}
	for name, want := range map[string]string{
		"gpt":                     "gpt dd27f98d-7519-4c9e-8041-f2bfa7b1ef61 1:17408+1031168 2:1048576+1048576 3:2097152+1048576 4:3145728+1048576 5:4194304+1048576",
		"dos+bsd":                 "dos 8f8378c0 1:16384+3915776 2:3932160+4456448",
		"mbr-wholedisk-fake-vfat": "dos 500a0dff",
	} {
		f, err := os.Open(filepath.Join(dir, "fs/blkid", name+".img.xz"))
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		x, err := xz.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(x)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		got, err := table.Read(bytes.NewReader(data), int64(len(data)), 512)
		if err != nil {
			t.Fatal(err)
		}
		line := got.Kind + " " + got.ID
		for _, p := range got.Partitions {
			line += fmt.Sprintf(" %d:%d+%d", p.Number, p.Start, p.Size)
		}
		if line != want && (name != "mbr-wholedisk-fake-vfat" || !strings.HasPrefix(line, want)) {
			t.Errorf("%s:\n got %s\nwant %s", name, line, want)
		}
	}
}

// loop is an extended boot record that links to itself.
func loop() []byte {
	b := make([]byte, 8<<10)
	b[510], b[511], b[446+4], b[446+8], b[446+12] = 0x55, 0xaa, 5, 8, 100
	ebr := b[8*512:]
	ebr[510], ebr[511] = 0x55, 0xaa
	ebr[446+4], ebr[446+8], ebr[446+12] = 0x83, 1, 1
	ebr[462+4], ebr[462+8], ebr[462+12] = 5, 0, 1
	return b
}

func TestEndlessChain(t *testing.T) {
	b := loop()
	got, err := table.Read(bytes.NewReader(b), int64(len(b)), 512)
	if err != nil || len(got.Partitions) > 256 || len(got.Warnings) == 0 {
		t.Errorf("%d partitions, warnings %v, %v", len(got.Partitions), got.Warnings, err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(loop(), false)
	gpt := make([]byte, 4096)
	gpt[510], gpt[511], gpt[446+4], gpt[446+8], gpt[446+12] = 0x55, 0xaa, 0xee, 1, 7
	copy(gpt[512:], "EFI PART")
	f.Add(gpt, true)
	f.Fuzz(func(t *testing.T, data []byte, big bool) {
		sector := int64(512)
		if big {
			sector = 4096
		}
		size := int64(len(data))
		got, err := table.Read(bytes.NewReader(data), size, sector)
		if (got == nil) != (err != nil) && err == nil {
			t.Fatalf("%v with %v", got, err)
		}
		if got == nil {
			return
		}
		for _, p := range got.Partitions {
			if p.Start < 0 || p.Size <= 0 || p.Start+p.Size > size || p.Number < 1 {
				t.Errorf("partition %+v of a disk of %d bytes", p, size)
			}
		}
	})
}
