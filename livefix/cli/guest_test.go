package cli_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"hyper2kvm/agent/api"
	"hyper2kvm/livefix/cli"
	"hyper2kvm/livefix/sshguest/sshguesttest"
)

// image holds the root file system of a real guest, mounted read-only; every
// test's guest is an overlay on it.
type image struct {
	once sync.Once
	dir  string
	err  error
}

func (i *image) mount() {
	i.once.Do(func() {
		if i.dir, i.err = os.MkdirTemp("", "h2k-livefix-"); i.err != nil {
			return
		}
		raw := filepath.Join(i.dir, "disk.raw")
		root := filepath.Join(i.dir, "root")
		i.err = errors.Join(os.Mkdir(root, 0o755),
			command("qemu-img", "convert", "-O", "raw", "../../build/guests/debian12-bios.vmdk", raw),
			command("mount", "-o", "loop,ro,noload,offset=1048576", raw, root))
	})
}

func (i *image) close() {
	if i.dir != "" {
		_ = command("umount", filepath.Join(i.dir, "root"))
		_ = os.RemoveAll(i.dir)
	}
}

func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

var debian image

func TestMain(m *testing.M) {
	code := m.Run()
	debian.close()
	os.Exit(code)
}

// hardware is the machine that the guest runs on, as its kernel would show it.
const hardware = `d=/sys/devices/host
mkdir -p $d/sda/sda1 $d/sda/sda2 $d/sda/queue $d/net/ens192/device /sys/class/block /sys/class/net /run/udev/data
for b in sda sda/sda1 sda/sda2; do ln -s ../../devices/host/$b /sys/class/block/${b##*/}; done
ln -s ../../devices/host/net/ens192 /sys/class/net/ens192
echo 8:0 >$d/sda/dev; echo 8388608 >$d/sda/size; echo 512 >$d/sda/queue/logical_block_size
echo 8:1 >$d/sda/sda1/dev; echo 7340032 >$d/sda/sda1/size; echo 2048 >$d/sda/sda1/start; echo 1 >$d/sda/sda1/partition
echo 8:2 >$d/sda/sda2/dev; echo 1046528 >$d/sda/sda2/size; echo 7342080 >$d/sda/sda2/start; echo 2 >$d/sda/sda2/partition
echo 00:50:56:01:0c:02 >$d/net/ens192/address
printf 'E:ID_PART_TABLE_TYPE=dos\nE:ID_PART_TABLE_UUID=1a2b3c4d\n' >/run/udev/data/b8:0
printf 'E:ID_FS_TYPE=ext4\nE:ID_FS_UUID=0b6c5f3e-7a51-4c1d-9c3b-6f1f5f0a1201\nE:ID_PART_ENTRY_UUID=1a2b3c4d-01\nE:ID_PART_ENTRY_TYPE=0x83\n' >/run/udev/data/b8:1
printf 'E:ID_FS_TYPE=swap\nE:ID_FS_UUID=5d1a0c2f-9e0b-4b69-8f55-2f0a6c7e1202\nE:ID_PART_ENTRY_UUID=1a2b3c4d-02\nE:ID_PART_ENTRY_TYPE=0x82\n' >/run/udev/data/b8:2
`

// startGuest starts the real guest's system behind its own sshd.
func startGuest(t testing.TB, setup string) *sshguesttest.Server {
	t.Helper()
	if testing.Short() {
		t.Skip("needs a built guest")
	}
	if _, err := os.Stat("../../build/guests/debian12-bios.vmdk"); err != nil {
		if os.Getenv("H2K_REQUIRE_VM") != "" {
			t.Fatal(err)
		}
		t.Skip("tests/recipes/build.sh debian12-bios makes the guest")
	}
	if os.Geteuid() != 0 {
		t.Skip("mounting a guest takes root")
	}
	debian.mount()
	if debian.err != nil {
		t.Fatal(debian.err)
	}
	return sshguesttest.Start(t, sshguesttest.Options{Lower: filepath.Join(debian.dir, "root"), Setup: hardware + setup})
}

// result is what a command printed and how it ended.
type result struct {
	code     int
	out, err string
}

// livefix runs a command line on the guest, as somebody without a terminal.
func livefix(ctx context.Context, t testing.TB, s *sshguesttest.Server, user string, port int, args ...string) result {
	t.Helper()
	all := append([]string{"-F", "none", "-i", s.Key, "--known-hosts", s.Known, "--port", fmt.Sprint(port)}, args...)
	return livefixArgs(ctx, t, append(all, user+"@127.0.0.1")...)
}

func livefixArgs(ctx context.Context, t testing.TB, args ...string) result {
	t.Helper()
	var out, errs bytes.Buffer
	code := cli.Main(ctx, cli.Env{Args: args, Stdout: &out, Stderr: &errs, Home: t.TempDir(), User: "somebody",
		Getenv: func(name string) string {
			if name == "SUDO_WORD" {
				return "hyper2kvm"
			}
			return ""
		}})
	return result{code, out.String(), errs.String()}
}

func (r result) must(t testing.TB, code int, words ...string) {
	t.Helper()
	if r.code != code {
		t.Fatalf("exit code %d, want %d\n%s\n%s", r.code, code, r.out, r.err)
	}
	for _, w := range words {
		if !strings.Contains(r.out+r.err, w) {
			t.Errorf("it does not say %q:\n%s\n%s", w, r.out, r.err)
		}
	}
}

// report is the JSON document that was printed.
func (r result) report(t testing.TB) api.Report {
	t.Helper()
	var report api.Report
	if err := json.Unmarshal([]byte(r.out), &report); err != nil {
		t.Fatalf("%v\n%s\n%s", err, r.out, r.err)
	}
	return report
}

// state is every file below the folders that a repair may touch: bytes, mode,
// owner, link.
func state(t *testing.T, s *sshguesttest.Server) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, top := range []string{"etc", "boot", "var/lib/initramfs-tools", "var/lib/hyper2kvm", "var/cache/debconf", "usr/lib/systemd"} {
		err := filepath.WalkDir(filepath.Join(s.Root, top), func(name string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil // a folder that is not there
			}
			rel := strings.TrimPrefix(name, s.Root)
			info, err := d.Info()
			if err != nil {
				return err
			}
			st := info.Sys().(*syscall.Stat_t)
			what := fmt.Sprintf("%v %d:%d", info.Mode(), st.Uid, st.Gid)
			switch {
			case info.Mode().IsRegular():
				data, err := os.ReadFile(name)
				if err != nil {
					return err
				}
				what += fmt.Sprintf(" %d %x", len(data), sha256.Sum256(data))
			case info.Mode()&fs.ModeSymlink != 0:
				to, err := os.Readlink(name)
				if err != nil {
					return err
				}
				what += " -> " + to
			}
			out[rel] = what
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(out) < 1000 {
		t.Fatalf("only %d files are compared", len(out))
	}
	return out
}

func wantSame(t *testing.T, what string, want, got map[string]string) {
	t.Helper()
	if maps.Equal(want, got) {
		return
	}
	for name := range got {
		if want[name] != got[name] {
			t.Errorf("%s: %s is %q, want %q", what, name, got[name], want[name])
		}
	}
	for name := range want {
		if _, ok := got[name]; !ok {
			t.Errorf("%s: %s is gone", what, name)
		}
	}
}
