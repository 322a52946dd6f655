package sshguest

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"hyper2kvm/agent/api"
)

// becomeTime bounds how long a program may take to start as root, typing aside.
const becomeTime = 30 * time.Second

// startShell becomes the shell that stays.
const startShell = "exec /bin/sh"

// way is how programs are run as root.
type way struct {
	prefix string // "sudo …", "" for a login that is root's
	tty    bool   // sudoers(5) has requiretty
}

// rooter starts programs of root's in the guest.
type rooter struct {
	client *ssh.Client
	who    string // user@host
	local  Local
	prompt string // what sudo asks with: nothing else prints it
	way    way

	mu       sync.Mutex
	password string // that sudo took, or that it is to be told
	given    bool   // password comes from the caller: a wrong one is not asked anew
}

func newRooter(client *ssh.Client, who string, t Target, local Local) *rooter {
	return &rooter{
		client: client, who: who, local: local, prompt: "h2k-" + rand.Text() + ":",
		password: t.SudoPassword, given: t.SudoPassword != "",
	}
}

// process is a program of root's, with its streams after the mark.
type process struct {
	session *ssh.Session
	in      io.WriteCloser
	out     *bufio.Reader
	said    *tail // what it printed on stderr
	pid     string
}

func (p *process) Close() error {
	_ = p.in.Close()
	if err := p.session.Close(); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// find chooses the way to become root: to be it, sudo, or doas.
func (r *rooter) find(ctx context.Context) (*process, error) {
	id, err := r.identity()
	if err != nil {
		return nil, err
	}
	if id.uid == "0" {
		return r.start(ctx, startShell)
	}
	var refused []string
	for _, w := range r.ways(id) {
		r.way = w
		p, err := r.start(ctx, startShell)
		if err == nil {
			return p, nil
		}
		if ctx.Err() != nil || api.AsError(err).Code != api.CodePrivilege {
			return nil, err
		}
		refused = append(refused, err.Error())
		if api.AsError(err).Detail != "" {
			refused = append(refused, api.AsError(err).Detail)
		}
	}
	e := api.Errorf(api.CodePrivilege, "become root as", r.who, "the user is not root, and neither sudo nor doas makes it root")
	e.Detail = strings.Join(refused, "\n")
	if len(refused) == 0 {
		e.Detail = "neither sudo nor doas is installed in the guest"
	}
	return nil, e
}

func (r *rooter) ways(id identity) []way {
	var out []way
	if id.sudo {
		sudo := "sudo -S -p " + r.prompt + " --"
		out = append(out, way{prefix: sudo}, way{prefix: sudo, tty: true})
	}
	if id.doas {
		out = append(out, way{prefix: "doas -n"}) // doas(1) reads passwords from terminals alone
	}
	return out
}

// identity is what the login gives.
type identity struct {
	uid        string
	sudo, doas bool
}

// identity asks with words that every shell a user may have takes.
func (r *rooter) identity() (identity, error) {
	session, err := r.client.NewSession()
	if err != nil {
		return identity{}, lost("log in to", r.who, err)
	}
	defer func() { _ = session.Close() }() // read only
	out, err := session.CombinedOutput(`/bin/sh -c 'echo h2k=$(id -u); command -v sudo; command -v doas; true'`)
	if err != nil && !strings.Contains(string(out), "h2k=") {
		e := api.Errorf(api.CodePrivilege, "run a program as", r.who, "the login runs no programs: %w", err)
		e.Detail = strings.TrimSpace(string(out))
		return identity{}, e
	}
	var id identity
	for line := range strings.Lines(string(out)) {
		line = strings.TrimSpace(line)
		uid, ok := strings.CutPrefix(line, "h2k=")
		switch {
		case ok:
			id.uid = uid
		case strings.HasSuffix(line, "/sudo"):
			id.sudo = true
		case strings.HasSuffix(line, "/doas"):
			id.doas = true
		}
	}
	return id, nil
}

func lost(action, object string, err error) error {
	return api.NewError(api.CodeLost, action, object, err)
}

// start runs a script as root. It has no single quote in it, since it stands
// within two. What a login's startup files print comes before the mark and is
// dropped.
func (r *rooter) start(ctx context.Context, script string) (*process, error) {
	session, err := r.client.NewSession()
	if err != nil {
		return nil, lost("start a program on", r.who, err)
	}
	p, err := r.launch(ctx, session, script)
	if err != nil {
		_ = session.Close()
	}
	return p, err
}

func (r *rooter) launch(ctx context.Context, session *ssh.Session, script string) (*process, error) {
	in, err := session.StdinPipe()
	if err != nil {
		return nil, lost("start a program on", r.who, err)
	}
	stdout, err := session.StdoutPipe()
	if err != nil {
		return nil, lost("start a program on", r.who, err)
	}
	mark := "h2k-" + rand.Text()
	p := &process{session: session, in: in, out: bufio.NewReaderSize(stdout, 64<<10), said: &tail{}}
	d := &dialogue{r: r, in: in, session: session, said: p.said}
	session.Stderr = d
	if r.way.tty {
		// No echo, no line discipline: the channel carries binary data.
		modes := ssh.TerminalModes{ssh.ECHO: 0, ssh.ICANON: 0, ssh.OPOST: 0, ssh.ISIG: 0, ssh.ICRNL: 0, ssh.IXON: 0}
		if err := session.RequestPty("dumb", 24, 80, modes); err != nil {
			return nil, api.NewError(api.CodePrivilege, "get a terminal on", r.who, err)
		}
		// A shell that reads from a terminal would print prompts.
		script = "stty raw -echo; " + strings.Replace(script, startShell, "cat | /bin/sh", 1)
	}
	command := fmt.Sprintf("%s /bin/sh -c 'umask 077; cd /; echo %s $$; %s'", r.way.prefix, mark, script)
	if err := session.Start(strings.TrimSpace(command)); err != nil {
		return nil, api.NewError(api.CodePrivilege, "run a program as", r.who, err)
	}
	d.timer = time.AfterFunc(becomeTime, func() { _ = session.Close() })
	defer d.stop()
	defer context.AfterFunc(ctx, func() { _ = session.Close() })()
	if err := p.await(mark, d); err != nil {
		return nil, r.notRoot(ctx, err, d)
	}
	return p, nil
}

// await reads up to the mark. A prompt comes on stderr, or here where both go
// to a terminal.
func (p *process) await(mark string, d *dialogue) error {
	var line []byte
	for {
		c, err := p.out.ReadByte()
		if err != nil {
			return err
		}
		if p.session.Stderr != nil {
			_, _ = d.Write([]byte{c}) // it never fails
		}
		if c != '\n' {
			line = append(line, c)
			continue
		}
		if _, pid, ok := strings.Cut(string(line), mark+" "); ok {
			p.pid = strings.TrimSpace(pid)
			return nil
		}
		line = line[:0]
	}
}

func (r *rooter) notRoot(ctx context.Context, err error, d *dialogue) error {
	if ctx.Err() != nil {
		return api.NewError(api.CodeInterrupted, "become root as", r.who, ctx.Err())
	}
	said, failed := d.outcome()
	if failed != nil {
		return api.NewError(api.CodePrivilege, "become root as", r.who, failed)
	}
	said = strings.TrimSpace(strings.ReplaceAll(said, r.prompt, ""))
	if said == "" && !errors.Is(err, io.EOF) {
		return lost("become root as", r.who, err)
	}
	e := api.Errorf(api.CodePrivilege, "become root as", r.who, "%s did not start a program", firstWord(r.way.prefix))
	e.Detail = said
	return e
}

func firstWord(s string) string {
	word, _, _ := strings.Cut(s, " ")
	if word == "" {
		return "the login"
	}
	return word
}

// dialogue answers sudo's prompt.
type dialogue struct {
	r       *rooter
	in      io.Writer
	session *ssh.Session
	said    *tail
	timer   *time.Timer

	mu    sync.Mutex
	seen  string // since the last prompt
	asked int
	err   error
}

func (d *dialogue) stop() {
	if d.timer != nil {
		d.timer.Stop()
	}
}

func (d *dialogue) outcome() (said string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return string(d.said.Bytes()), d.err
}

// Write takes what sudo says.
func (d *dialogue) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, _ = d.said.Write(p)
	d.seen += string(p)
	if !strings.Contains(d.seen, d.r.prompt) {
		d.seen = d.seen[max(0, len(d.seen)-len(d.r.prompt)):]
		return len(p), nil
	}
	d.seen = ""
	if d.err == nil {
		d.err = d.answer()
	}
	if d.err != nil {
		_ = d.session.Close() // sudo would ask for ever
	}
	return len(p), nil
}

func (d *dialogue) answer() error {
	d.stop()
	defer func() { d.timer.Reset(becomeTime) }()
	r := d.r
	r.mu.Lock()
	defer r.mu.Unlock()
	d.asked++
	switch {
	case d.asked > 1 && r.given:
		return errors.New("sudo does not take the password that was given")
	case d.asked > tries:
		return errors.New("sudo takes no password of those")
	case d.asked > 1 || r.password == "":
		if r.local.Ask == nil {
			return errors.New("sudo asks for a password, and there is no terminal to ask on: give --sudo-password")
		}
		answer, err := r.local.Ask(fmt.Sprintf("[sudo] password for %s: ", r.who), true)
		if err != nil {
			return fmt.Errorf("sudo asks for a password: %w", err)
		}
		r.password = answer
	}
	_, err := io.WriteString(d.in, r.password+"\n")
	return err
}

// maxOutput is how much of a program's output is kept: the end of it.
const maxOutput = 64 << 10

// tail keeps the end of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

// Write keeps the last maxOutput bytes.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - maxOutput; over > 0 {
		t.buf = append([]byte(nil), t.buf[over:]...)
	}
	return len(p), nil
}

// Bytes is what was kept.
func (t *tail) Bytes() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]byte(nil), t.buf...)
}
