package cli_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hyper2kvm/agent/api"
)

func TestGuestsThatCannotBeWritten(t *testing.T) {
	t.Run("immutable file", func(t *testing.T) {
		s := startGuest(t, "truncate -s 64M /srv/etc; mke2fs -q -F /srv/etc; mkdir /srv/m; mount -o loop /srv/etc /srv/m; cp -a /etc/. /srv/m\n"+
			"mount --move /srv/m /etc; chattr +i /etc/fstab\n")
		before := state(t, s)
		r := livefix(t.Context(), t, s, "deploy", s.Port, "--yes", "--initramfs", "inject")
		r.must(t, 3, "code: H2K-GUEST-IMMUTABLE", "/etc/fstab", "chattr -i")
		wantSame(t, "after a refusal", before, state(t, s))
	})
	t.Run("full disk", func(t *testing.T) {
		s := startGuest(t, "mkdir -p /var/lib/hyper2kvm; mount -t tmpfs -o size=20k,mode=700 small /var/lib/hyper2kvm\n")
		before := state(t, s)
		r := livefix(t.Context(), t, s, "deploy", s.Port, "--yes", "--initramfs", "inject")
		r.must(t, 3, "code: H2K-GUEST-NO-SPACE")
		after := state(t, s)
		for name := range after {
			if strings.HasPrefix(name, "/var/lib/hyper2kvm") {
				delete(after, name)
				delete(before, name)
			}
		}
		wantSame(t, "after a full disk", before, after)
	})
	t.Run("read-only", func(t *testing.T) {
		s := startGuest(t, "mount --bind /etc /etc; mount -o remount,ro,bind /etc\n")
		before := state(t, s)
		livefix(t.Context(), t, s, "deploy", s.Port, "--yes", "--initramfs", "inject").must(t, 3, "code: H2K-GUEST-READ-ONLY", "read-only")
		wantSame(t, "after a refusal", before, state(t, s))
	})
}

// A network that breaks while the guest's own program runs does not stop it; the
// next run waits for its end, takes its work back, and does all of it.
func TestCutWhileTheGeneratorRuns(t *testing.T) {
	s := startGuest(t, `cat >/usr/sbin/update-initramfs.slow <<'END'
#!/bin/sh
touch /generating; sleep 4; echo half >/boot/initrd.img-6.1.0-50-amd64.new
exec /usr/sbin/update-initramfs.real "$@"
END
mv /usr/sbin/update-initramfs /usr/sbin/update-initramfs.real
mv /usr/sbin/update-initramfs.slow /usr/sbin/update-initramfs; chmod 755 /usr/sbin/update-initramfs
`)
	before := state(t, s)
	w := newWire(t, s)
	done := make(chan result, 1)
	go func() { done <- livefix(t.Context(), t, s, "deploy", w.Port(), "--yes") }()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(s.Root, "generating")); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the generator was not started")
		}
	}
	w.Cut()
	(<-done).must(t, 1, "code: H2K-SSH-LOST", "run the same command again")
	again := livefix(t.Context(), t, s, "deploy", s.Port, "--yes")
	again.must(t, 0, "waiting", "linux/initramfs (changed)")
	livefix(t.Context(), t, s, "deploy", s.Port, "--dry-run").must(t, 0, "nothing to repair")
	livefix(t.Context(), t, s, "deploy", s.Port, "--undo").must(t, 0)
	wantSame(t, "after undo", before, state(t, s))
}

// Somebody who interrupts gets the guest back as it was.
func TestInterrupt(t *testing.T) {
	s := startGuest(t, `printf '#!/bin/sh\ntouch /generating; sleep 60\n' >/usr/sbin/update-initramfs; chmod 755 /usr/sbin/update-initramfs
`)
	before := state(t, s)
	ctx, stop := context.WithCancel(t.Context())
	go func() {
		for {
			if _, err := os.Stat(filepath.Join(s.Root, "generating")); err == nil || ctx.Err() != nil {
				stop()
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	start := time.Now()
	livefix(ctx, t, s, "deploy", s.Port, "--yes").must(t, 130, "code: H2K-INTERRUPTED")
	if time.Since(start) > 40*time.Second {
		t.Errorf("it took %v", time.Since(start))
	}
	wantSame(t, "after an interrupt", before, state(t, s))
}

func TestHosts(t *testing.T) {
	s := startGuest(t, "")
	dir := t.TempDir()
	file := filepath.Join(dir, "guests.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(args ...string) result {
		t.Helper()
		return livefixArgs(t.Context(), t, append([]string{"-F", "none", "--known-hosts", s.Known, "--hosts", file, "--parallel", "2"}, args...)...)
	}
	write("hosts:\n  - host: web01\n    usr: root\n")
	run("--dry-run").must(t, 2, "line 3", `"usr"`, "user")
	write("hosts: []\n")
	run("--dry-run").must(t, 2, "lists no guests")
	write("hosts:\n  - root@web01\n  - root@web01\n")
	run("--dry-run").must(t, 2, "twice")
	write("guests:\n  - root@web01\n")
	run("--dry-run").must(t, 2, "line 1", "guests")

	write(fmt.Sprintf("hosts:\n  - host: 127.0.0.1\n    user: admin\n    port: %d\n    identity: %s\n    sudo_password: env:SUDO_WORD\n    initramfs: inject\n"+
		"  - host: nobody1@127.0.0.1:%d\n    identity: %s\n  - root@127.0.0.1:1\n", s.Port, s.Key, s.Port, s.Key))
	mixed := run("--yes")
	mixed.must(t, 1, "GUEST", "RESULT", "H2K-SSH-CONNECT", "H2K-SSH-PRIVILEGE", "fixes changed something")
	documents := run("--dry-run", "--json")
	documents.must(t, 1)
	var all struct {
		Hosts []struct {
			Host   string
			Report api.Report
		}
	}
	if err := json.Unmarshal([]byte(documents.out), &all); err != nil {
		t.Fatalf("%v\n%s", err, documents.out)
	}
	if len(all.Hosts) != 3 || all.Hosts[0].Report.Status != api.Done || all.Hosts[1].Report.Error.Code != api.CodePrivilege ||
		all.Hosts[2].Report.Error.Code != api.CodeConnect {
		t.Errorf("the documents are %+v", all.Hosts)
	}
}

func TestCommandLine(t *testing.T) {
	for _, test := range []struct {
		args []string
		code int
		word string
	}{
		{[]string{"--help"}, 0, "Exit codes"},
		{[]string{}, 2, "give the guest"},
		{[]string{"a", "b", "--yes"}, 2, "got 2 arguments"},
		{[]string{"web01"}, 2, "nobody to ask"},
		{[]string{"web01", "--no-such"}, 2, "no-such"},
		{[]string{"web01", "--undo", "--dry-run"}, 2, "no dry run"},
		{[]string{"@web01", "--yes"}, 2, "no user"},
		{[]string{"web01", "--yes", "--devices", "serial"}, 2, "choose one of uuid, partuuid, label"},
		{[]string{"web01", "--yes", "--sudo-password", "hyper2kvm"}, 2, "env:NAME or file:PATH"},
		{[]string{"web01", "--yes", "--hosts", "x"}, 2, "either"},
		{[]string{"web01", "--yes", "-F", "/no/such/file"}, 1, "H2K-SSH-CONFIG"},
	} {
		r := livefixArgs(t.Context(), t, test.args...)
		if r.code != test.code || !strings.Contains(r.out+r.err, test.word) {
			t.Errorf("%q ends with %d, want %d and %q:\n%s%s", test.args, r.code, test.code, test.word, r.out, r.err)
		}
	}
	dir := t.TempDir()
	livefixArgs(t.Context(), t, "man", dir).must(t, 0)
	if _, err := os.Stat(filepath.Join(dir, "h2k-livefix.1")); err != nil {
		t.Error(err)
	}
	livefixArgs(t.Context(), t, "completion", "bash").must(t, 0, "h2k-livefix")
}
