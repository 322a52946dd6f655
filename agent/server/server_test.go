package server

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/secret"
)

func newKey(t *testing.T) ssh.Signer {
	t.Helper()
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromSigner(priv)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// agentFunc runs plans in a test.
type agentFunc func(context.Context, *api.Plan, api.Sink) (*api.Report, error)

func (f agentFunc) Run(ctx context.Context, p *api.Plan, _ string, s api.Sink) (*api.Report, error) {
	return f(ctx, p, s)
}

// connect serves agent on one end of a pipe and gives the other.
func connect(t *testing.T, host, client ssh.Signer, agent api.Agent) (net.Conn, <-chan error) {
	t.Helper()
	ours, theirs := socketPair(t)
	done := make(chan error, 1)
	go func() {
		done <- Serve(t.Context(), theirs, Config{HostKey: host, Clients: []ssh.PublicKey{client.PublicKey()}, Agent: agent})
	}()
	t.Cleanup(func() { ours.Close() })
	return ours, done
}

// socketPair is a byte stream with buffers, as a virtio-serial port is.
func socketPair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("unix", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return a, b
}

type collect struct{ events []api.Event }

func (c *collect) Emit(e api.Event) { c.events = append(c.events, e) }

func TestPlanRunsOverTheWire(t *testing.T) {
	host, client := newKey(t), newKey(t)
	stream, served := connect(t, host, client, agentFunc(func(_ context.Context, p *api.Plan, s api.Sink) (*api.Report, error) {
		s.Emit(api.Event{Stage: api.Inspect, Message: "looking"})
		return &api.Report{Name: p.Name}, api.Errorf(api.CodeManyRoots, "inspect", "sda", "two roots")
	}))
	c, err := Dial(stream, host.PublicKey(), client)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := c.Version(t.Context()); err != nil || v != api.Version {
		t.Errorf("Version = %d, %v", v, err)
	}
	var seen collect
	r, err := c.Run(t.Context(), &api.Plan{Version: 1, Name: "web01"}, "", &seen)
	if r == nil || r.Name != "web01" {
		t.Errorf("report = %+v", r)
	}
	if e, ok := errors.AsType[*api.Error](err); !ok || e.Code != api.CodeManyRoots || e.Reason != "two roots" {
		t.Errorf("error = %#v; want the agent's own", err)
	}
	if len(seen.events) != 1 || seen.events[0].Message != "looking" {
		t.Errorf("events = %+v", seen.events)
	}
	c.Close()
	select {
	case <-served:
	case <-time.After(5 * time.Second):
		t.Error("the server outlives its client")
	}
}

func TestKeysComeBesideThePlan(t *testing.T) {
	host, client := newKey(t), newKey(t)
	ours, theirs := socketPair(t)
	got := make(chan []secret.Key, 1)
	go func() {
		_ = Serve(t.Context(), theirs, Config{
			HostKey: host, Clients: []ssh.PublicKey{client.PublicKey()}, Keys: func(k []secret.Key) { got <- k },
		}) // ends with the test
	}()
	t.Cleanup(func() { ours.Close() })
	c, err := Dial(ours, host.PublicKey(), client)
	if err != nil {
		t.Fatal(err)
	}
	want := "\x00\xff binary\n"
	if err := c.GiveKeys(t.Context(), []secret.Key{{Volume: "all", Value: secret.Value(want)}}); err != nil {
		t.Fatal(err)
	}
	if keys := <-got; len(keys) != 1 || keys[0].Volume != "all" || string([]byte(keys[0].Value)) != want {
		t.Errorf("%d keys came, the first for %q", len(keys), keys[0].Volume)
	}
}

func TestClientThatLeavesEndsTheRun(t *testing.T) {
	host, client := newKey(t), newKey(t)
	started := make(chan struct{})
	stream, served := connect(t, host, client, agentFunc(func(ctx context.Context, _ *api.Plan, _ api.Sink) (*api.Report, error) {
		close(started)
		<-ctx.Done()
		return nil, ctx.Err()
	}))
	c, err := Dial(stream, host.PublicKey(), client)
	if err != nil {
		t.Fatal(err)
	}
	go func() { <-started; c.Close() }()
	if _, err := c.Run(t.Context(), &api.Plan{Version: 1}, "", nil); err == nil {
		t.Error("a run whose connection broke ended well")
	}
	select {
	case <-served:
	case <-time.After(5 * time.Second):
		t.Error("the run goes on without its client")
	}
}

func TestWrongKeysAreRefused(t *testing.T) {
	host, client, other := newKey(t), newKey(t), newKey(t)
	stream, _ := connect(t, host, client, nil)
	if _, err := Dial(stream, host.PublicKey(), other); err == nil {
		t.Error("an unknown client was let in")
	}
	stream, _ = connect(t, host, client, nil)
	if _, err := Dial(stream, other.PublicKey(), client); err == nil {
		t.Error("a server with another host key was believed")
	}
}

func TestNothingButTheAPI(t *testing.T) {
	host, client := newKey(t), newKey(t)
	stream, _ := connect(t, host, client, nil)
	c, err := Dial(stream, host.PublicKey(), client)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if s, err := c.conn.NewSession(); err != nil {
		t.Fatal(err)
	} else if s.Run("id") == nil {
		t.Error("exec is allowed")
	}
	if _, err := c.conn.Dial("tcp", "127.0.0.1:22"); err == nil {
		t.Error("forwarding is allowed")
	}
}
