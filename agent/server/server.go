// Package server is the agent's service: SSH on any byte stream, with one
// subsystem that carries the API as HTTP and JSON.
//
// Only public keys are accepted; there is no shell, no exec and no forwarding.
package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sync/errgroup"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/secret"
)

// Subsystem is the name of the SSH subsystem that carries the API.
const Subsystem = "h2k-api"

// Config is what one service is made of.
type Config struct {
	HostKey ssh.Signer
	// Clients are the public keys that may connect.
	Clients []ssh.PublicKey
	// Agent runs the plans that clients send.
	Agent api.Agent
	// PowerOff, if not nil, is called when a client asks for it. When it returns
	// the client is answered; the machine should stay until the client has left.
	PowerOff func()
	// Keys, if not nil, takes the keys of encrypted volumes for the runs that
	// follow. They come beside the plan, which is stored and shown.
	Keys func([]secret.Key)
}

// maxTries bounds the keys that one connection may offer.
const maxTries = 4

// Serve speaks SSH on stream until the client leaves, the stream breaks or ctx
// ends, and waits for what it started.
func Serve(ctx context.Context, stream io.ReadWriteCloser, cfg Config) error {
	conn, channels, requests, err := ssh.NewServerConn(streamConn{stream}, cfg.ssh())
	if err != nil {
		return fmt.Errorf("greet SSH client: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()

	listener := newChannelListener()
	srv := &http.Server{
		Handler:           cfg.handler(),
		ReadHeaderTimeout: time.Minute,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	var g errgroup.Group
	g.Go(func() error { ssh.DiscardRequests(requests); return nil })
	g.Go(func() error {
		acceptChannels(channels, listener)
		cancel() // the client is gone: what it asked for ends
		listener.Close()
		return nil
	})
	g.Go(func() error {
		if err := srv.Serve(listener); !errors.Is(err, net.ErrClosed) && !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve API: %w", err)
		}
		return nil
	})
	err = g.Wait()
	return errors.Join(err, srv.Close())
}

// ssh is the SSH side of the configuration.
func (c Config) ssh() *ssh.ServerConfig {
	s := &ssh.ServerConfig{
		MaxAuthTries: maxTries,
		PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			for _, k := range c.Clients {
				if string(k.Marshal()) == string(key.Marshal()) {
					return &ssh.Permissions{}, nil
				}
			}
			return nil, errors.New("unknown key")
		},
	}
	s.AddHostKey(c.HostKey)
	return s
}

// acceptChannels hands every session that asks for the API to the listener
// and refuses all else.
func acceptChannels(channels <-chan ssh.NewChannel, l *channelListener) {
	for nc := range channels {
		if nc.ChannelType() != "session" {
			_ = nc.Reject(ssh.Prohibited, "only the API is served")
			continue
		}
		ch, reqs, err := nc.Accept()
		if err != nil {
			continue
		}
		go awaitSubsystem(ch, reqs, l)
	}
}

// awaitSubsystem answers the requests of one session; it ends with the
// session, whose requests ssh closes with the connection.
func awaitSubsystem(ch ssh.Channel, reqs <-chan *ssh.Request, l *channelListener) {
	taken := false
	for req := range reqs {
		var name struct{ Name string }
		ok := !taken && req.Type == "subsystem" && ssh.Unmarshal(req.Payload, &name) == nil && name.Name == Subsystem
		if req.WantReply {
			_ = req.Reply(ok, nil)
		}
		if ok {
			taken = true
			l.offer(channelConn{streamConn{ch}})
		}
	}
	if !taken {
		ch.Close()
	}
}

// channelListener gives SSH channels to the HTTP server.
type channelListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newChannelListener() *channelListener {
	return &channelListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *channelListener) offer(c net.Conn) {
	select {
	case l.conns <- c:
	case <-l.done:
		c.Close()
	}
}

// Accept implements net.Listener.
func (l *channelListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *channelListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

// Addr implements net.Listener.
func (l *channelListener) Addr() net.Addr { return streamAddr{} }

// streamConn makes a net.Conn of a byte stream that has neither addresses nor
// deadlines.
type streamConn struct{ io.ReadWriteCloser }

type channelConn struct{ streamConn }

type streamAddr struct{}

func (streamAddr) Network() string { return "stream" }
func (streamAddr) String() string  { return "stream" }

func (streamConn) LocalAddr() net.Addr              { return streamAddr{} }
func (streamConn) RemoteAddr() net.Addr             { return streamAddr{} }
func (streamConn) SetDeadline(time.Time) error      { return nil }
func (streamConn) SetReadDeadline(time.Time) error  { return nil }
func (streamConn) SetWriteDeadline(time.Time) error { return nil }
