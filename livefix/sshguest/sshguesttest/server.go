// Package sshguesttest gives tests a guest with a real OpenSSH server: sshd runs
// in a chroot of a throw-away overlay over a tree, in namespaces of its own, and
// listens on a loopback port. Nothing of it outlives the test.
package sshguesttest

import (
	"bytes"
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// Options say what the server is like.
type Options struct {
	// Lower is the tree the guest is made of; "" is this machine's own.
	Lower string
	// Config are lines of sshd_config(5) beside what is needed to run.
	Config []string
	// Setup is a shell script that runs as root in the guest before sshd starts.
	Setup string
	// NoUsers leaves out admin (sudo with the password "hyper2kvm"), deploy
	// (sudo without one) and nobody1 (no sudo).
	NoUsers bool
}

// Server is a running guest.
type Server struct {
	Port    int
	Key     string // private key file that every user may log in with
	Known   string // file of known hosts that has the server
	HostKey ssh.PublicKey
	// Root is a path to the guest's tree from outside.
	Root string
	log  *lockedBuffer
}

// Addr is where it listens.
func (s *Server) Addr() string { return net.JoinHostPort("127.0.0.1", fmt.Sprint(s.Port)) }

// Log is what sshd has printed.
func (s *Server) Log() string { return s.log.String() }

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// users makes those that log in. The password's hash is made by the guest.
const users = `for u in admin deploy nobody1; do
	id -u $u >/dev/null 2>&1 || useradd -m -s /bin/sh $u
	echo "$u:hyper2kvm" | chpasswd
done
mkdir -p /etc/sudoers.d
echo 'admin ALL=(ALL) ALL' >/etc/sudoers.d/h2k-admin; echo 'deploy ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/h2k-deploy
for u in admin deploy nobody1; do gpasswd -d $u sudo >/dev/null 2>&1; done
chmod 440 /etc/sudoers.d/h2k-*
`

// Start starts a guest; the test is skipped where this machine cannot run one.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a throw-away guest takes root")
	}
	dir := t.TempDir()
	s := &Server{Port: freePort(t), Key: filepath.Join(dir, "id"), Known: filepath.Join(dir, "known_hosts"), log: &lockedBuffer{}}
	public := writeKey(t, s.Key)
	s.HostKey = writeKey(t, filepath.Join(dir, "host"))
	config := fmt.Sprintf("Port %d\nListenAddress 127.0.0.1\nHostKey /h2k/host\nPidFile none\nStrictModes no\nUsePAM no\n"+
		"PermitRootLogin yes\nAuthorizedKeysFile /h2k/authorized_keys\nMaxStartups 100\n%s\n", s.Port, strings.Join(o.Config, "\n"))
	put(t, filepath.Join(dir, "sshd_config"), config)
	put(t, filepath.Join(dir, "authorized_keys"), string(ssh.MarshalAuthorizedKey(public)))
	put(t, s.Known, fmt.Sprintf("[127.0.0.1]:%d %s", s.Port, ssh.MarshalAuthorizedKey(s.HostKey)))
	setup := o.Setup
	if !o.NoUsers {
		setup = users + setup
	}
	put(t, filepath.Join(dir, "setup"), "PATH=/usr/sbin:/usr/bin:/sbin:/bin\n"+setup)
	s.run(t, dir, o.Lower)
	return s
}

// inside is run in the new namespaces.
const inside = `set -e
mount -t tmpfs h2k "$1"
cd "$1"; mkdir up work root
mount -t overlay h2k -o "lowerdir=$2,upperdir=up,workdir=work" root
mount -t tmpfs h2k root/run; mount -t proc h2k root/proc; mount --rbind /dev root/dev
mkdir -p root/run/sshd root/h2k
cp "$3"/sshd_config "$3"/authorized_keys "$3"/host "$3"/setup root/h2k/
chown -R 0:0 root/h2k; chmod 755 root/h2k; chmod 644 root/h2k/authorized_keys; chmod 600 root/h2k/host
chroot root /bin/sh /h2k/setup >&2
exec chroot root /usr/sbin/sshd -D -e -f /h2k/sshd_config`

func (s *Server) run(t testing.TB, dir, lower string) {
	t.Helper()
	if lower == "" {
		lower = "/"
	}
	base := filepath.Join(dir, "guest")
	if err := os.Mkdir(base, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", "-c", inside, "guest", base, lower, dir)
	cmd.Stdout, cmd.Stderr = s.log, s.log
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC, Unshareflags: 0, Setpgid: true,
		Pdeathsig: syscall.SIGKILL,
	}
	cmd.Args[0] = "sh"
	if err := startPrivate(cmd); err != nil {
		t.Fatalf("start guest: %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // the first process of its namespace: all others end with it
		_ = cmd.Wait()
	})
	s.Root = fmt.Sprintf("/proc/%d/root", cmd.Process.Pid)
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("tcp", s.Addr())
		if err == nil {
			_ = conn.Close()
			return
		}
		if time.Now().After(end) || errors.Is(cmd.Process.Signal(syscall.Signal(0)), os.ErrProcessDone) {
			t.Fatalf("the guest's sshd does not answer: %v\n%s", err, s.Log())
		}
	}
}

// startPrivate starts a command whose mounts do not reach this machine's own.
func startPrivate(cmd *exec.Cmd) error {
	cmd.Args = append([]string{"sh", "-c", "mount --make-rprivate / && exec /bin/sh -c \"$@\"", "private"}, cmd.Args[2:]...)
	return cmd.Start()
}

func put(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// writeKey makes a key pair and writes the private half.
func writeKey(t testing.TB, name string) ssh.PublicKey {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	put(t, name, string(pem.EncodeToMemory(block)))
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
