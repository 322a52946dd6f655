package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"

	"golang.org/x/crypto/ssh"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/secret"
)

// Client is an agent at the other end of a byte stream.
type Client struct {
	conn *ssh.Client
	http *http.Client
}

// Dial speaks SSH as a client on stream. hostKey is the one key the server may
// have, key is our own. The caller bounds the time by closing the stream.
func Dial(stream io.ReadWriteCloser, hostKey ssh.PublicKey, key ssh.Signer) (*Client, error) {
	conn, channels, requests, err := ssh.NewClientConn(streamConn{stream}, "agent", &ssh.ClientConfig{
		User:              "h2k",
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(key)},
		HostKeyCallback:   ssh.FixedHostKey(hostKey),
		HostKeyAlgorithms: []string{hostKey.Type()},
	})
	if err != nil {
		return nil, fmt.Errorf("greet agent: %w", err)
	}
	c := &Client{conn: ssh.NewClient(conn, channels, requests)}
	c.http = &http.Client{Transport: &http.Transport{DialContext: c.dialAPI, DisableCompression: true}}
	return c, nil
}

// dialAPI opens a session with the API's subsystem.
func (c *Client) dialAPI(context.Context, string, string) (net.Conn, error) {
	ch, reqs, err := c.conn.OpenChannel("session", nil)
	if err != nil {
		return nil, fmt.Errorf("open API channel: %w", err)
	}
	go ssh.DiscardRequests(reqs) // ends with the channel
	ok, err := ch.SendRequest("subsystem", true, ssh.Marshal(struct{ Name string }{Subsystem}))
	if err == nil && !ok {
		err = errors.New("the agent has no API")
	}
	if err != nil {
		ch.Close()
		return nil, fmt.Errorf("open API channel: %w", err)
	}
	return channelConn{streamConn{ch}}, nil
}

// Close ends the connection.
func (c *Client) Close() error {
	c.http.CloseIdleConnections()
	return c.conn.Close()
}

const base = "http://agent/v1/"

// Version asks the agent which version of the API it speaks.
func (c *Client) Version(ctx context.Context) (int, error) {
	resp, err := c.send(ctx, http.MethodGet, "version", nil)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	var v struct {
		API int `json:"api"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&v); err != nil {
		return 0, fmt.Errorf("read version of agent: %w", err)
	}
	return v.API, nil
}

// PowerOff asks the agent to sync and power off its machine.
func (c *Client) PowerOff(ctx context.Context) error {
	resp, err := c.send(ctx, http.MethodPost, "poweroff", nil)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// GiveKeys gives the agent the keys of encrypted volumes for the runs that
// follow. Only this connection, which is encrypted, ever carries them.
func (c *Client) GiveKeys(ctx context.Context, keys []secret.Key) error {
	body, err := encodeKeys(keys)
	if err != nil {
		return err
	}
	resp, err := c.send(ctx, http.MethodPost, "keys", bytes.NewReader(body))
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

func (c *Client) send(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, base+path, body)
	if err != nil {
		return nil, fmt.Errorf("ask agent for %s: %w", path, err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask agent for %s: %w", path, err)
	}
	if resp.StatusCode >= http.StatusBadRequest {
		resp.Body.Close()
		return nil, fmt.Errorf("ask agent for %s: %s", path, resp.Status)
	}
	return resp, nil
}

// Run implements api.Agent.
func (c *Client) Run(ctx context.Context, plan *api.Plan, job string, events api.Sink) (*api.Report, error) {
	body, err := json.Marshal(plan)
	if err != nil {
		return nil, fmt.Errorf("encode plan: %w", err)
	}
	resp, err := c.send(ctx, http.MethodPost, "run?job="+url.QueryEscape(job), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(resp.Body)
	for {
		var line Line
		if err := dec.Decode(&line); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, fmt.Errorf("read answer of agent: %w", err)
		}
		if line.Event != nil && events != nil {
			events.Emit(*line.Event)
		}
		if line.End {
			if line.Error != nil {
				return line.Report, line.Error
			}
			return line.Report, nil
		}
	}
}
