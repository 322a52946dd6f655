package probe_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"hyper2kvm/agent/blockdev/probe"
)

// identity is what blkid must agree on.
type identity struct{ kind, uuid, label string }

func probeFile(t *testing.T, name string) probe.Content {
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
	got, err := probe.Probe(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// blkid asks the real one, which writes \xHH for what is no plain character.
func blkid(t *testing.T, name string) identity {
	t.Helper()
	out, err := exec.Command("blkid", "-p", "-o", "udev", name).Output()
	if err != nil {
		t.Fatalf("blkid %s: %v", name, err)
	}
	return parseUdev(string(out))
}

func parseUdev(text string) identity {
	var id identity
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch key {
		case "ID_FS_TYPE":
			id.kind = value
		case "ID_FS_UUID":
			id.uuid = value
		case "ID_FS_LABEL_ENC":
			id.label = unescape(value)
		}
	}
	return id
}

func unescape(s string) string {
	for i := 0; ; i++ {
		at := strings.Index(s[min(i, len(s)):], `\x`)
		if at < 0 {
			return s
		}
		i += at
		c, err := strconv.ParseUint(s[i+2:i+4], 16, 8)
		if err != nil {
			return s
		}
		s = s[:i] + string([]byte{byte(c)}) + s[i+4:]
	}
}

// TestLikeBlkid makes each content with its own tool and asks blkid what it is.
func TestLikeBlkid(t *testing.T) {
	for _, test := range []struct {
		size int64
		args []string
	}{
		{8 << 20, []string{"mke2fs", "-q", "-t", "ext2", "-L", "two words", "FILE"}},
		{8 << 20, []string{"mke2fs", "-q", "-t", "ext3", "FILE"}},
		{8 << 20, []string{"mke2fs", "-q", "-t", "ext4", "-L", "root", "FILE"}},
		{8 << 20, []string{"mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "FILE"}},
		{8 << 20, []string{"mke2fs", "-q", "-O", "journal_dev", "FILE"}},
		{320 << 20, []string{"mkfs.xfs", "-q", "-L", "data", "FILE"}},
		{128 << 20, []string{"mkfs.btrfs", "-q", "-L", "pool", "FILE"}},
		{8 << 20, []string{"mkfs.vfat", "-F", "12", "FILE"}},
		{20 << 20, []string{"mkfs.vfat", "-F", "16", "-n", "SIXTEEN", "FILE"}},
		{64 << 20, []string{"mkfs.vfat", "-F", "32", "-n", "EFI SYS", "FILE"}},
		{64 << 20, []string{"mkfs.vfat", "-F", "32", "-S", "4096", "FILE"}},
		{8 << 20, []string{"mkfs.ntfs", "-q", "-F", "-Q", "-L", "Nové", "FILE"}},
		{8 << 20, []string{"mkswap", "-q", "-L", "swap", "FILE"}},
		{20 << 20, []string{"cryptsetup", "luksFormat", "-q", "--type", "luks1", "--pbkdf-force-iterations", "1000", "FILE"}},
		{20 << 20, []string{"cryptsetup", "luksFormat", "-q", "--type", "luks2", "--label", "secret", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "FILE"}},
	} {
		t.Run(strings.Join(test.args[:len(test.args)-1], " "), func(t *testing.T) {
			if _, err := exec.LookPath(test.args[0]); err != nil {
				t.Skipf("%s is not installed", test.args[0])
			}
			name := filepath.Join(t.TempDir(), "fs")
			if err := os.WriteFile(name, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(name, test.size); err != nil {
				t.Fatal(err)
			}
			args := slices.Clone(test.args)
			args[len(args)-1] = name
			cmd := exec.Command(args[0], args[1:]...)
			cmd.Stdin = strings.NewReader("pass phrase")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %v\n%s", args, err, out)
			}
			got, want := probeFile(t, name), blkid(t, name)
			if id := (identity{got.Type, got.UUID, got.Label}); id != want || want.kind == "" {
				t.Errorf("got %+v, blkid says %+v", id, want)
			}
		})
	}
}

// TestHibernated writes the signatures that a suspended system leaves.
func TestHibernated(t *testing.T) {
	for _, sig := range []string{"S1SUSPEND\x00", "LINHIB0001", "ULSUSPEND\x00"} {
		b := make([]byte, 64<<10)
		b[1024] = 1
		copy(b[1036:], "0123456789abcdef")
		copy(b[4096-10:], sig)
		got, err := probe.Probe(bytes.NewReader(b), int64(len(b)))
		if err != nil || got.Type != "swsuspend" || got.Note != "hibernated" || got.UUID != "30313233-3435-3637-3839-616263646566" {
			t.Errorf("%q gives %+v, %v", sig, got, err)
		}
	}
}

// notRead are types of blkid's that this package does not name.
func notRead() []string {
	return strings.Fields(`adaptec_raid_member bcachefs befs bfs cramfs cs_fvault2 drbd drbdmanage_control_volume hfs hpfs
		hpt37x_raid_member hpt45x_raid_member jmicron_raid_member lsi_mega_raid_member minix mpool nss nilfs2 nvidia_raid_member
		promise_fasttrack_raid_member romfs scoutfs_data scoutfs_meta silicon_medley_raid_member squashfs3 ubi ubifs via_raid_member
		vxfs zonefs`)
}

// typeOnly are those of which only the type is told.
func typeOnly() []string {
	return strings.Fields(`ddf_raid_member exfat f2fs gfs2 hfsplus ocfs2 udf ufs vdo VMFS VMFS_volume_member zfs_member ceph_bluestore`)
}

func TestSamples(t *testing.T) {
	dir := os.Getenv("H2K_TESTDATA")
	if dir == "" {
		t.Skip("H2K_TESTDATA is not set")
	}
	if _, err := exec.LookPath("xz"); err != nil {
		t.Skip("xz (package xz-utils) is not installed")
	}
	images, err := filepath.Glob(filepath.Join(dir, "fs/blkid/*.img.xz"))
	if err != nil || len(images) == 0 {
		t.Fatalf("no images in %s: %v", dir, err)
	}
	checked := 0
	for _, image := range images {
		name := strings.TrimSuffix(filepath.Base(image), ".img.xz")
		expected, err := os.ReadFile(filepath.Join(dir, "fs/blkid-expected/low-probe-"+name))
		if err != nil {
			continue // a partition table, not a content
		}
		want := parseUdev(string(expected))
		got := probeXZ(t, image)
		switch {
		case slices.Contains(notRead(), want.kind):
			if got.Type != "" {
				t.Errorf("%s is %s, taken for %+v", name, want.kind, got)
			}
			continue
		case slices.Contains(typeOnly(), want.kind):
			got.UUID, got.Label = want.uuid, want.label
		case want.kind == "iso9660" && strings.Contains(string(expected), "Joliet"):
			got.Label = want.label // blkid merges two labels here
		}
		checked++
		if id := (identity{got.Type, got.UUID, got.Label}); id != want {
			t.Errorf("%s:\n got %+v\nwant %+v", name, id, want)
		}
	}
	if checked < 60 {
		t.Errorf("only %d images were compared", checked)
	}
}

// probeXZ unpacks with the xz program, which is several times faster than a
// library on images of mostly zeroes.
func probeXZ(t *testing.T, image string) probe.Content {
	t.Helper()
	data, err := exec.Command("xz", "-dc", image).Output()
	if err != nil {
		t.Fatal(err)
	}
	got, err := probe.Probe(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func FuzzProbe(f *testing.F) {
	for _, seed := range []struct {
		at    int
		magic string
	}{{1024 + 0x38, "\x53\xef"}, {0, "XFSB"}, {4086, "SWAPSPACE2"}, {0, "LUKS\xba\xbe\x00\x02"},
		{0, "\xeb\x52\x90NTFS    "}, {0, "\xeb\x58\x90-FVE-FS-"}, {512, "LABELONE"}, {0, "\xfc\x4e\x2b\xa9"}} {
		b := make([]byte, 5000)
		b[510], b[511] = 0x55, 0xaa
		copy(b[seed.at:], seed.magic)
		f.Add(b, int64(5000))
	}
	f.Fuzz(func(t *testing.T, data []byte, size int64) {
		got, err := probe.Probe(bytes.NewReader(data), max(size, int64(len(data))))
		if err != nil {
			t.Fatalf("reading memory gives %v", err)
		}
		if got.Type == "" && got != (probe.Content{}) {
			t.Errorf("content without a type: %+v", got)
		}
	})
}
