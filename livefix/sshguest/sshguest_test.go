package sshguest_test

import (
	"bytes"
	"context"
	"encoding/pem"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"hyper2kvm/agent/api"
	"hyper2kvm/fixes/guest"
	"hyper2kvm/fixes/guest/guesttest"
	"hyper2kvm/livefix/sshguest"
	"hyper2kvm/livefix/sshguest/sshguesttest"
)

// user is somebody on this machine who logs in to the guest.
type user struct {
	sshguest.Local
	mu      sync.Mutex
	warned  []string
	asked   []string
	answers map[string]string // by a part of the question
}

func newUser(t *testing.T) *user {
	u := &user{answers: map[string]string{}}
	u.Local = sshguest.Local{
		Home: t.TempDir(), User: "somebody",
		Warn: func(format string, args ...any) {
			u.mu.Lock()
			defer u.mu.Unlock()
			u.warned = append(u.warned, fmt.Sprintf(format, args...))
		},
	}
	return u
}

// atTerminal lets the user be asked.
func (u *user) atTerminal() *user {
	u.Ask = func(question string, _ bool) (string, error) {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.asked = append(u.asked, question)
		for part, answer := range u.answers {
			if strings.Contains(question, part) {
				return answer, nil
			}
		}
		return "", fmt.Errorf("asked %q", question)
	}
	return u
}

func target(s *sshguesttest.Server, name string) sshguest.Target {
	return sshguest.Target{Host: "127.0.0.1", User: name, Port: s.Port, Identities: []string{s.Key}, KnownHosts: s.Known}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func login(t *testing.T, s *sshguesttest.Server, u *user, to sshguest.Target) *sshguest.Guest {
	t.Helper()
	g, err := sshguest.Open(t.Context(), to, u.Local)
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, api.AsError(err).Detail, s.Log())
	}
	t.Cleanup(func() { must(t, g.Close()) })
	return g
}

// refused logs in and wants an error of that code that says each of the words.
func refused(t *testing.T, u *user, to sshguest.Target, code api.Code, words ...string) {
	t.Helper()
	g, err := sshguest.Open(t.Context(), to, u.Local)
	if err == nil {
		_ = g.Close()
		t.Fatal("the login went through")
	}
	e := api.AsError(err)
	if e.Code != code {
		t.Errorf("the error is %s: %v\n%s; want %s", e.Code, err, e.Detail, code)
	}
	for _, w := range words {
		if !strings.Contains(e.Error()+"\n"+e.Detail, w) {
			t.Errorf("the error does not say %q:\n%v\n%s", w, e, e.Detail)
		}
	}
}

func whoami(t *testing.T, g *sshguest.Guest) string {
	t.Helper()
	must(t, g.Lock(t.Context(), t.Logf))
	out, err := g.Run(t.Context(), guest.Command{Args: []string{"id", "-un"}})
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestBecomesRoot(t *testing.T) {
	s := sshguesttest.Start(t, sshguesttest.Options{})
	secret := filepath.Join(t.TempDir(), "secret")
	must(t, os.WriteFile(secret, nil, 0o600))
	for _, test := range []struct {
		name, who, password string
		asked               int
	}{
		{"root itself", "root", "", 0},
		{"sudo without password", "deploy", "", 0},
		{"sudo with a password that is known", "admin", "hyper2kvm", 0},
		{"sudo with a password that is asked for", "admin", "", 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			u := newUser(t).atTerminal()
			u.answers["[sudo] password for "+test.who] = "hyper2kvm"
			to := target(s, test.who)
			to.SudoPassword = test.password
			g := login(t, s, u, to)
			if got := whoami(t, g); got != "root" {
				t.Errorf("programs run as %s, want root", got)
			}
			if data, err := fs.ReadFile(g.FS(), "etc/shadow"); err != nil || !bytes.Contains(data, []byte("root:")) {
				t.Errorf("etc/shadow reads %.20q, %v", data, err)
			}
			if len(u.asked) != test.asked {
				t.Errorf("asked %q, want %d questions", u.asked, test.asked)
			}
			must(t, g.Close())
		})
	}
	t.Run("nobody to ask", func(t *testing.T) {
		refused(t, newUser(t), target(s, "admin"), api.CodePrivilege, "there is no terminal to ask on")
	})
	t.Run("wrong password", func(t *testing.T) {
		to := target(s, "admin")
		to.SudoPassword = "wrong-word"
		refused(t, newUser(t), to, api.CodePrivilege, "does not take the password")
		if strings.Contains(s.Log(), "wrong-word") {
			t.Error("the password stands in the log")
		}
	})
	t.Run("no sudo for this user", func(t *testing.T) {
		u := newUser(t).atTerminal()
		u.answers["[sudo]"] = "hyper2kvm"
		refused(t, u, target(s, "nobody1"), api.CodePrivilege, "not in the sudoers file")
	})
}

func TestSudoVariants(t *testing.T) {
	t.Run("requiretty", func(t *testing.T) {
		s := sshguesttest.Start(t, sshguesttest.Options{Setup: "echo 'Defaults requiretty' >/etc/sudoers.d/h2k-tty; chmod 440 /etc/sudoers.d/h2k-tty\n"})
		for _, who := range []string{"deploy", "admin"} {
			u := newUser(t).atTerminal()
			u.answers["[sudo]"] = "hyper2kvm"
			g := login(t, s, u, target(s, who))
			all := make([]byte, 256*300)
			for i := range all {
				all[i] = byte(i)
			}
			must(t, g.FS().Write("root/binary", bytes.NewReader(all), guest.Attr{Mode: 0o600}))
			got, err := fs.ReadFile(g.FS(), "root/binary")
			if err != nil || !bytes.Equal(got, all) {
				t.Errorf("%s: bytes do not come through a terminal unchanged: %v", who, err)
			}
			must(t, g.Close())
		}
	})
	t.Run("no sudo in the guest", func(t *testing.T) {
		s := sshguesttest.Start(t, sshguesttest.Options{Setup: "rm -f /usr/bin/sudo\n"})
		if got := whoami(t, login(t, s, newUser(t), target(s, "root"))); got != "root" {
			t.Errorf("root without sudo is %s", got)
		}
		refused(t, newUser(t), target(s, "deploy"), api.CodePrivilege, "neither sudo nor doas is installed")
	})
	t.Run("no SFTP server", func(t *testing.T) {
		s := sshguesttest.Start(t, sshguesttest.Options{Setup: "rm -f /usr/lib/openssh/sftp-server /usr/lib/sftp-server\n"})
		refused(t, newUser(t), target(s, "deploy"), api.CodeGuestFiles, "no SFTP server")
	})
	t.Run("SFTP server inside sshd", func(t *testing.T) {
		s := sshguesttest.Start(t, sshguesttest.Options{
			Setup: "rm -f /usr/lib/openssh/sftp-server /usr/lib/sftp-server\n", Config: []string{"Subsystem sftp internal-sftp"}})
		g := login(t, s, newUser(t), target(s, "root"))
		if _, err := g.FS().Stat("etc/passwd"); err != nil {
			t.Error(err)
		}
	})
	t.Run("noisy startup files, no bash", func(t *testing.T) {
		s := sshguesttest.Start(t, sshguesttest.Options{Setup: "rm -f /bin/bash /usr/bin/bash; ln -sf busybox /bin/sh\n" +
			"printf '#!/bin/busybox sh\\necho Welcome to this guest; echo Do not disturb >&2; exec /bin/busybox sh \"$@\"\\n' >/bin/noisy; chmod 755 /bin/noisy; usermod -s /bin/noisy deploy\n"})
		if got := whoami(t, login(t, s, newUser(t), target(s, "deploy"))); got != "root" {
			t.Errorf("programs run as %s", got)
		}
	})
}

func TestHostKeys(t *testing.T) {
	s := sshguesttest.Start(t, sshguesttest.Options{})
	shown := "ED25519 " + ssh.FingerprintSHA256(s.HostKey)
	t.Run("unknown", func(t *testing.T) {
		u := newUser(t)
		to := target(s, "root")
		to.KnownHosts = filepath.Join(u.Home, "known")
		refused(t, u, to, api.CodeHostKey, shown, "--accept-new", "ssh-keygen -lf")
		to.AcceptNew = true
		must(t, login(t, s, u, to).Close())
		to.AcceptNew = false
		must(t, login(t, s, u, to).Close()) // it was written
	})
	t.Run("hashed", func(t *testing.T) {
		u := newUser(t)
		known := filepath.Join(u.Home, ".ssh", "known_hosts")
		must(t, os.MkdirAll(filepath.Dir(known), 0o700))
		data, err := os.ReadFile(s.Known)
		must(t, err)
		must(t, os.WriteFile(known, data, 0o600))
		if out, err := exec.Command("ssh-keygen", "-H", "-f", known).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if data, err = os.ReadFile(known); err != nil || bytes.Contains(data, []byte("127.0.0.1")) {
			t.Fatalf("not hashed: %s", data)
		}
		to := target(s, "root")
		to.KnownHosts = ""
		login(t, s, u, to)
	})
	t.Run("changed", func(t *testing.T) {
		u := newUser(t)
		other := filepath.Join(u.Home, "other")
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		public, err := os.ReadFile(other + ".pub")
		must(t, err)
		to := target(s, "root")
		to.KnownHosts = filepath.Join(u.Home, "known")
		must(t, os.WriteFile(to.KnownHosts, fmt.Appendf(nil, "[127.0.0.1]:%d %s", s.Port, public), 0o600))
		to.AcceptNew = true // not for this
		refused(t, u, to, api.CodeHostKey, shown, "known: ED25519 SHA256:", to.KnownHosts+" line 1", "ssh-keygen -R '[127.0.0.1]:")
	})
	t.Run("another kind is known", func(t *testing.T) {
		u := newUser(t)
		rsa := filepath.Join(u.Home, "rsa")
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "rsa", "-N", "", "-f", rsa).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		public, err := os.ReadFile(rsa + ".pub")
		must(t, err)
		to := target(s, "root")
		to.KnownHosts = filepath.Join(u.Home, "known")
		must(t, os.WriteFile(to.KnownHosts, fmt.Appendf(nil, "[127.0.0.1]:%d %s", s.Port, public), 0o600))
		refused(t, u, to, api.CodeHostKey, "no longer has a host key of a kind")
	})
}

func TestLogin(t *testing.T) {
	s := sshguesttest.Start(t, sshguesttest.Options{Config: []string{"KbdInteractiveAuthentication no"}})
	noKey := func(u *user) sshguest.Target {
		to := target(s, "deploy")
		to.Identities = nil
		return to
	}
	t.Run("password", func(t *testing.T) {
		u := newUser(t).atTerminal()
		u.answers["deploy@127.0.0.1's password: "] = "hyper2kvm"
		login(t, s, u, noKey(u))
	})
	t.Run("wrong password, then none", func(t *testing.T) {
		u := newUser(t).atTerminal()
		u.answers["password: "] = "wrong"
		refused(t, u, noKey(u), api.CodeLogin, "tried: password")
	})
	t.Run("nothing to offer", func(t *testing.T) {
		u := newUser(t)
		refused(t, u, noKey(u), api.CodeLogin, "no key was found")
	})
	t.Run("key with a passphrase", func(t *testing.T) {
		for _, format := range []string{"OpenSSH", "PEM"} {
			u := newUser(t).atTerminal()
			key := filepath.Join(u.Home, "locked")
			data, err := os.ReadFile(s.Key)
			must(t, err)
			must(t, os.WriteFile(key, data, 0o600))
			if out, err := exec.Command("ssh-keygen", "-q", "-p", "-P", "", "-N", "open sesame", "-f", key).CombinedOutput(); err != nil {
				t.Fatalf("%s: %v: %s", format, err, out)
			}
			u.answers["passphrase for key '"+key+"'"] = "open sesame"
			to := noKey(u)
			to.Identities = []string{key}
			login(t, s, u, to)
		}
	})
	t.Run("agent", func(t *testing.T) {
		u := newUser(t)
		u.AgentAddr = runAgent(t, s.Key)
		login(t, s, u, noKey(u))
	})
	t.Run("configuration", func(t *testing.T) {
		u := newUser(t)
		config(t, u, fmt.Sprintf("Host web*\n  HostName 127.0.0.1\n  Port %d\n  User deploy\n  IdentityFile %s\n  UserKnownHostsFile %s\n"+
			"Match exec true\n  Port 1\nHost *\n  User nobody\n", s.Port, s.Key, s.Known))
		login(t, s, u, sshguest.Target{Host: "web01"})
		if len(u.warned) != 1 || !strings.Contains(u.warned[0], "Match exec true") {
			t.Errorf("warned %q, want the block that is left out", u.warned)
		}
	})
	t.Run("wrong port, nobody there", func(t *testing.T) {
		to := target(s, "root")
		to.Port = 1
		refused(t, newUser(t), to, api.CodeConnect, "127.0.0.1:1", "refused")
	})
}

func TestJumpHosts(t *testing.T) {
	jump1 := sshguesttest.Start(t, sshguesttest.Options{})
	jump2 := sshguesttest.Start(t, sshguesttest.Options{})
	s := sshguesttest.Start(t, sshguesttest.Options{})
	u := newUser(t)
	var known []byte
	for _, server := range []*sshguesttest.Server{jump1, jump2, s} {
		data, err := os.ReadFile(server.Known)
		must(t, err)
		known = append(known, data...)
	}
	file := filepath.Join(u.Home, "known")
	must(t, os.WriteFile(file, known, 0o600))
	host := func(name string, server *sshguesttest.Server, more string) string {
		return fmt.Sprintf("Host %s\n  HostName 127.0.0.1\n  Port %d\n  User deploy\n  IdentityFile %s\n%s", name, server.Port, server.Key, more)
	}
	config(t, u, host("first", jump1, "")+host("second", jump2, "")+host("web01", s, "  ProxyJump first,second\n")+
		host("circle", s, "  ProxyJump circle\n")+host("through", jump2, "  ProxyJump first\n")+host("web02", s, "  ProxyJump through\n")+
		"Host *\n  UserKnownHostsFile "+file+"\n")
	for _, name := range []string{"web01", "web02"} {
		g := login(t, s, u, sshguest.Target{Host: name})
		if got := whoami(t, g); got != "root" {
			t.Errorf("%s: programs run as %s", name, got)
		}
		must(t, g.Close())
	}
	refused(t, u, sshguest.Target{Host: "circle"}, api.CodeSSHConfig, "circle")
	for _, server := range []*sshguesttest.Server{jump1, jump2} {
		if !strings.Contains(server.Log(), "Accepted publickey for deploy") {
			t.Errorf("nobody passed through a jump host:\n%s", server.Log())
		}
	}
}

func config(t *testing.T, u *user, text string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Join(u.Home, ".ssh"), 0o700))
	must(t, os.WriteFile(filepath.Join(u.Home, ".ssh", "config"), []byte(text), 0o600))
}

// runAgent holds a key in an agent and returns its socket.
func runAgent(t *testing.T, key string) string {
	t.Helper()
	data, err := os.ReadFile(key)
	must(t, err)
	block, _ := pem.Decode(data)
	private, err := ssh.ParseRawPrivateKey(pem.EncodeToMemory(block))
	must(t, err)
	ring := agent.NewKeyring()
	must(t, ring.Add(agent.AddedKey{PrivateKey: private}))
	socket := filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", socket)
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _ = agent.ServeAgent(ring, conn) }()
		}
	}()
	return socket
}

// A server that accepts and says nothing must not hold anybody up for ever.
func TestSilentServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err = sshguest.Open(ctx, sshguest.Target{Host: "127.0.0.1", User: "root", Port: l.Addr().(*net.TCPAddr).Port}, newUser(t).Local)
	if err == nil || api.AsError(err).Code != api.CodeInterrupted || time.Since(start) > 5*time.Second {
		t.Errorf("after %v: %v", time.Since(start), err)
	}
}

func TestFS(t *testing.T) {
	s := sshguesttest.Start(t, sshguesttest.Options{})
	g := login(t, s, newUser(t), target(s, "deploy"))
	n := 0
	guesttest.TestFS(t, func() guest.FS {
		n++
		name := fmt.Sprintf("srv/tree%d", n)
		must(t, g.FS().Mkdir(name, guest.Attr{Mode: 0o755}))
		return sshguest.Below(g, name)
	})
}
