// Package sshguest is a running guest that is reached over SSH: a guest.FS over
// SFTP, a guest.Runner, and what the running guest says of its disks and cards.
//
// Names are resolved on this side before they are asked for; the guest never
// follows a link for us, but for the folders above a name that it just told.
//
// Everything is done as root: by logging in as root, or by having sudo start an
// SFTP server and a shell. Nothing is installed in the guest and no program of
// ours runs there; a POSIX shell is all it needs beside OpenSSH's SFTP server.
package sshguest

import (
	"context"
	"errors"
	"io"
	"strings"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"hyper2kvm/agent/api"
	"hyper2kvm/fixes/guest"
)

// Guest is a guest that is logged in to. Its Run is a guest.Runner's.
type Guest struct {
	conn  *connection
	root  *rooter
	shell *shell
	sftp  *sftp.Client
	fs    *files
	files string // process of the SFTP server, "" where it is not known
	close []func() error
}

var _ guest.Runner = (*Guest)(nil)

// Open connects to a guest and becomes root there.
func Open(ctx context.Context, t Target, local Local) (*Guest, error) {
	conn, err := dial(ctx, t, local)
	if err != nil {
		return nil, err
	}
	g := &Guest{conn: conn, close: []func() error{conn.Close}}
	who := conn.guest().User() + "@" + t.Host
	g.root = newRooter(conn.guest(), who, t, local)
	if err := g.open(ctx, who); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}

func (g *Guest) open(ctx context.Context, who string) error {
	defer context.AfterFunc(ctx, func() { _ = g.conn.Close() })()
	p, err := g.root.find(ctx)
	if err != nil {
		return err
	}
	g.close = append(g.close, p.Close)
	if g.shell, err = newShell(p, who); err != nil {
		return err
	}
	if g.sftp, err = g.startSFTP(ctx); err != nil {
		return err
	}
	g.fs, err = newFiles(g.sftp, g.shell)
	if err != nil && ctx.Err() == nil {
		if _, ok := errors.AsType[*api.Error](err); !ok {
			err = api.NewError(api.CodeGuestFiles, "open files of", who, err)
		}
	}
	return err
}

// Close logs out.
func (g *Guest) Close() error {
	var errs []error
	for i := len(g.close) - 1; i >= 0; i-- {
		errs = append(errs, g.close[i]())
	}
	g.close = nil
	return ended(errors.Join(errs...))
}

// ended leaves out what closing says of a connection that the guest ended: what
// was lost by that was told where it was lost.
func ended(err error) error {
	if err == nil || strings.Contains(err.Error(), "EOF") || strings.Contains(err.Error(), "closed") {
		return nil
	}
	return err
}

// FS is the guest's tree.
func (g *Guest) FS() guest.FS { return g.fs }

// Forget drops what was remembered of files: others may have changed them.
func (g *Guest) Forget() { g.fs.forget() }

// Lost asks whether the connection has ended: an error that a reader makes of
// half a file says nothing of that.
func (g *Guest) Lost() bool {
	_, _, err := g.shell.run(":")
	return err != nil
}

// Lock keeps other sessions from writing to the guest until Close.
func (g *Guest) Lock(ctx context.Context, notice func(string, ...any)) error {
	return g.shell.lock(ctx, g.files, notice)
}

// Who is how the guest was logged in to, and how root was reached.
func (g *Guest) Who() string {
	if g.root.way.prefix == "" {
		return g.root.who
	}
	return g.root.who + " with " + firstWord(g.root.way.prefix)
}

// findServer looks for OpenSSH's SFTP server where distributions put it, and
// where the SSH server's own configuration says it is.
const findServer = `for f in /usr/lib/openssh/sftp-server /usr/libexec/openssh/sftp-server /usr/lib/ssh/sftp-server /usr/libexec/sftp-server \
	/usr/lib64/ssh/sftp-server /usr/libexec/ssh/sftp-server /usr/lib/misc/sftp-server /usr/lib/sftp-server /usr/local/libexec/sftp-server \
	$(sed -n 's/^[[:blank:]]*[Ss][Uu][Bb][Ss][Yy][Ss][Tt][Ee][Mm][[:blank:]][[:blank:]]*sftp[[:blank:]][[:blank:]]*\(\/[^[:blank:]]*\).*/\1/p' /etc/ssh/sshd_config 2>/dev/null); do
	[ -x "$f" ] && { echo "$f"; break; }
done; true`

// packet is the most that OpenSSH's server takes in one request; the protocol
// itself promises 32 KiB.
const packet = 1 << 15

// startSFTP starts an SFTP server as root.
func (g *Guest) startSFTP(ctx context.Context) (*sftp.Client, error) {
	options := []sftp.ClientOption{sftp.UseConcurrentReads(true), sftp.UseConcurrentWrites(true), sftp.MaxPacket(packet)}
	out, _, err := g.shell.run(findServer)
	if err != nil {
		return nil, err
	}
	if server := strings.TrimSpace(string(out)); server != "" && !strings.ContainsAny(server, "'\n ") {
		p, err := g.root.start(ctx, "exec "+server)
		if err != nil {
			return nil, err
		}
		client, err := sftp.NewClientPipe(unended{p.out}, unendedWriter{p.in}, options...)
		if err == nil {
			// The process goes first: over a terminal it does not see the end of
			// its input, for which the client would wait.
			g.close = append(g.close, client.Close, p.Close)
			g.files = p.pid
			return client, nil
		}
		_ = p.Close()
		e := api.NewError(api.CodeGuestFiles, "start "+server+" on", g.root.who, err)
		e.Detail = strings.TrimSpace(string(p.said.Bytes()))
		return nil, e
	}
	if g.root.way.prefix == "" {
		// A server inside sshd (internal-sftp).
		if client, session, err := subsystem(g.conn.guest(), options); err == nil {
			g.close = append(g.close, client.Close, session.Close)
			return client, nil
		}
	}
	e := api.Errorf(api.CodeGuestFiles, "reach the files of", g.root.who, "the guest has no SFTP server that root can run")
	e.Detail = "Debian, Ubuntu, Alpine: openssh-sftp-server; RHEL, SUSE: openssh-server, openssh"
	return nil, e
}

// subsystem asks the SSH server for its SFTP server.
func subsystem(conn *ssh.Client, options []sftp.ClientOption) (*sftp.Client, *ssh.Session, error) {
	session, err := conn.NewSession()
	if err != nil {
		return nil, nil, err
	}
	in, err := session.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	out, err := session.StdoutPipe()
	if err == nil {
		err = session.RequestSubsystem("sftp")
	}
	if err != nil {
		_ = session.Close()
		return nil, nil, err
	}
	client, err := sftp.NewClientPipe(unended{out}, unendedWriter{in}, options...)
	if err != nil {
		_ = session.Close()
	}
	return client, session, err
}

// errEnded is the end of a connection. It must not be io.EOF, which the SFTP
// client takes for the end of the file that it reads.
var errEnded = errors.New("the connection to the guest ended")

// unended is a stream whose end is an error.
type unended struct{ io.Reader }

func (u unended) Read(p []byte) (int, error) {
	n, err := u.Reader.Read(p)
	if err == io.EOF {
		err = errEnded
	}
	return n, err
}

// unendedWriter is unended for the other direction: a channel that is closed
// answers a write with io.EOF.
type unendedWriter struct{ io.WriteCloser }

func (u unendedWriter) Write(p []byte) (int, error) {
	n, err := u.WriteCloser.Write(p)
	if errors.Is(err, io.EOF) {
		err = errEnded
	}
	return n, err
}
