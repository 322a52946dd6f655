package sshguest

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"hyper2kvm/agent/api"
)

// How long the other side may take: to accept a connection and shake hands, and
// to answer when nothing else is said. A guest that is silent for three
// intervals is gone.
const (
	connectTime    = 20 * time.Second
	aliveInterval  = 10 * time.Second
	aliveLost      = 3 * aliveInterval
	keepaliveWords = "keepalive@openssh.com"
)

// connection is a way to the guest, through its jump hosts.
type connection struct {
	clients []*ssh.Client // the guest's last
	stop    context.CancelFunc
}

func (c *connection) guest() *ssh.Client { return c.clients[len(c.clients)-1] }

// Close ends it.
func (c *connection) Close() error {
	c.stop()
	var errs []error
	for i := len(c.clients) - 1; i >= 0; i-- {
		if err := c.clients[i].Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// dial connects to the guest.
func dial(ctx context.Context, t Target, local Local) (*connection, error) {
	s, err := readSettings(local)
	if err != nil {
		return nil, err
	}
	way, err := s.way(t)
	if err != nil {
		return nil, err
	}
	alive, stop := context.WithCancel(context.WithoutCancel(ctx))
	c := &connection{stop: stop}
	for _, h := range way {
		client, err := c.connect(ctx, h, local)
		if err != nil {
			_ = c.Close()
			return nil, err
		}
		c.clients = append(c.clients, client)
		go keepAlive(alive, client)
	}
	return c, nil
}

// connect opens the next hop, through the last one.
func (c *connection) connect(ctx context.Context, h *hop, local Local) (*ssh.Client, error) {
	keys, err := newHostKeys(h, local.warn)
	if err != nil {
		return nil, err
	}
	raw, err := c.reach(ctx, h)
	if err != nil {
		return nil, failed(ctx, h, err)
	}
	timed := newTimed(raw)
	defer context.AfterFunc(ctx, func() { _ = raw.Close() })()
	if ask := local.Ask; ask != nil {
		local.Ask = func(question string, secret bool) (string, error) {
			timed.pause()
			defer timed.start()
			return ask(question, secret)
		}
	}
	l := &login{hop: h, local: local}
	defer l.close()
	conn, channels, requests, err := ssh.NewClientConn(timed, h.address(), &ssh.ClientConfig{
		User: h.user, Auth: l.methods(), HostKeyCallback: keys.verify, HostKeyAlgorithms: keys.algorithms(),
		ClientVersion: "SSH-2.0-h2k",
	})
	if err == nil {
		timed.pause()
		return ssh.NewClient(conn, channels, requests), nil
	}
	_ = raw.Close()
	switch {
	case keys.refused != nil:
		return nil, keys.refused
	case strings.Contains(err.Error(), "unable to authenticate"):
		return nil, l.refused(err)
	case strings.Contains(err.Error(), "no common algorithm for host key"):
		return nil, api.Errorf(api.CodeHostKey, "trust", h.name, "it no longer has a host key of a kind that is known for it: %w", err)
	}
	return nil, failed(ctx, h, err)
}

func failed(ctx context.Context, h *hop, err error) error {
	if ctx.Err() != nil {
		return api.NewError(api.CodeInterrupted, "connect to", h.name, ctx.Err())
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return api.Errorf(api.CodeConnect, "connect to", h.address(), "no answer within %v", connectTime)
	}
	return api.NewError(api.CodeConnect, "connect to", h.address(), err)
}

func (c *connection) reach(ctx context.Context, h *hop) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	if len(c.clients) > 0 {
		return c.guest().DialContext(ctx, "tcp", h.address())
	}
	return (&net.Dialer{KeepAlive: aliveInterval}).DialContext(ctx, "tcp", h.address())
}

// timed closes a connection whose other side lets a handshake rest. A deadline
// would do, had the channel of a jump host one.
type timed struct {
	net.Conn
	mu    sync.Mutex
	timer *time.Timer
	late  bool
}

func newTimed(c net.Conn) *timed {
	t := &timed{Conn: c}
	t.start()
	return t
}

func (t *timed) start() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.timer = time.AfterFunc(connectTime, func() {
		t.mu.Lock()
		t.late = true
		t.mu.Unlock()
		_ = t.Close()
	})
}

// pause stops the clock: the user types, or the handshake is over.
func (t *timed) pause() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.timer.Stop()
}

// Read tells a connection closed for being late from one that broke.
func (t *timed) Read(p []byte) (int, error) {
	n, err := t.Conn.Read(p)
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil && t.late {
		err = errLate{}
	}
	return n, err
}

// errLate is the net.Error of a handshake that took too long.
type errLate struct{}

func (errLate) Error() string   { return "timeout" }
func (errLate) Timeout() bool   { return true }
func (errLate) Temporary() bool { return false }

// keepAlive asks the other side now and then, and ends the connection when no
// answer comes: what waits for the guest then fails instead of hanging.
func keepAlive(ctx context.Context, client *ssh.Client) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(aliveInterval):
		}
		answer := make(chan error, 1)
		go func() {
			_, _, err := client.SendRequest(keepaliveWords, true, nil)
			answer <- err
		}()
		select {
		case <-ctx.Done():
			return
		case err := <-answer:
			if err == nil {
				continue
			}
		case <-time.After(aliveLost):
		}
		_ = client.Close()
		return
	}
}
