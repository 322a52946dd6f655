package nbd

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hyper2kvm/formats"
	"hyper2kvm/formats/formatstest"
)

func TestAddress(t *testing.T) {
	for text, want := range map[string]Address{
		"nbd://host":                            {Network: "tcp", Host: "host:10809"},
		"nbd://host:7/a%20b":                    {Network: "tcp", Host: "host:7", Export: "a b"},
		"nbd://[::1]:7/x":                       {Network: "tcp", Host: "[::1]:7", Export: "x"},
		"nbd://host//abs":                       {Network: "tcp", Host: "host:10809", Export: "/abs"},
		"nbds://host/x?tls-certificates=/pki/x": {Network: "tcp", Host: "host:10809", Export: "x", TLS: true, Certificates: "/pki/x"},
		"nbd+unix:///?socket=/run/s":            {Network: "unix", Host: "/run/s"},
		"nbd+unix:///web01?socket=s%3F":         {Network: "unix", Host: "s?", Export: "web01"},
		"nbds+unix:///x?socket=s&tls-hostname=n": {Network: "unix", Host: "s", Export: "x", TLS: true,
			ServerName: "n"},
	} {
		got, err := ParseAddress(text)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", text, got, err, want)
		}
		if again, err := ParseAddress(got.String()); err != nil || again != want {
			t.Errorf("%s becomes %s: %+v, %v", text, got, again, err)
		}
		if !IsAddress(text) {
			t.Errorf("%s is not seen to be an address", text)
		}
	}
	for _, text := range []string{"http://host/x", "nbd:///x", "nbd+unix:///x", "nbd+unix://host/x?socket=s", "nbd://host/?socket=s",
		"nbd://host/?tls-hostname=x", "nbds://user@host/", "nbds://host/?tls-psk-file=x", "nbd://host/?a=%zz", "nbd://h:port/",
		"nbd+unix:///?socket=a&socket=b", "nbd://host/" + strings.Repeat("x", 5000)} {
		if a, err := ParseAddress(text); !errors.Is(err, ErrAddress) {
			t.Errorf("%.50s: %+v, %v", text, a, err)
		}
	}
	for _, name := range []string{"disk.raw", "/x/nbd/disk", "nbd:host:10809", "https://x/y", "x://y"} {
		if IsAddress(name) {
			t.Errorf("%s is taken for an address", name)
		}
	}
}

func open(t testing.TB, uri string) *Client {
	t.Helper()
	a, err := ParseAddress(uri)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Dial(a)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestClientOfOurServer: the two sides agree, on a disk that ends anywhere.
func TestClientOfOurServer(t *testing.T) {
	b := sample()
	b = b[:len(b)-mib-700]
	socket, _ := serve(t, Export{Name: "other", Disk: holey(sample()[:mib])}, Export{Name: "d", Disk: holey(b), Description: "a disk"})
	c := open(t, uri(socket, "d"))
	formatstest.Disk(t, c, bytes.NewReader(b))
	got := make([]byte, len(b))
	if n, err := c.ReadAt(got, 0); n != len(b) || err != nil || !bytes.Equal(got, b) {
		t.Errorf("a read of all in one: %d, %v", n, err)
	}
	info := fmt.Sprint(c.Info())
	for _, want := range []string{"nbd", `{export "d"}`, "{description a disk}", "{read only yes}", "{map of holes yes}", "{preferred block size 4096}"} {
		if !strings.Contains(info, want) {
			t.Errorf("no %s in %s", want, info)
		}
	}
	a := c.Address()
	a.Export = "none"
	if _, err := Dial(a); !errors.Is(err, ErrNoExport) {
		t.Errorf("an export that is not there: %v", err)
	}
}

// peer starts a server of others in the foreground, on a unix socket that it
// makes.
func peer(t testing.TB, name string, args ...string) (socket string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is needed (packages nbdkit, qemu-utils)", name)
		}
		t.Skipf("%s is not installed (packages nbdkit, qemu-utils)", name)
	}
	dir, err := os.MkdirTemp("", "nbd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket = filepath.Join(dir, "s")
	for i, a := range args {
		args[i] = strings.ReplaceAll(a, "SOCKET", socket)
	}
	var out bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	for range 500 {
		if nc, err := net.Dial("unix", socket); err == nil {
			nc.Close()
			return socket
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%s %s does not answer\n%s", name, strings.Join(args, " "), &out)
	return ""
}

// sampleFile is a sparse file with the sample.
func sampleFile(t testing.TB) (path string, content []byte) {
	t.Helper()
	b := sample()
	path = filepath.Join(t.TempDir(), "disk.raw")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(int64(len(b))); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(b); i += 2 * mib {
		if _, err := f.WriteAt(b[i:i+mib], int64(i)); err != nil {
			t.Fatal(err)
		}
	}
	return path, b
}

func zeroes(t testing.TB, d formats.Disk) (n int64) {
	t.Helper()
	list, err := formatstest.Extents(d, 10_000)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if e.Kind == formats.Zero {
			n += e.Length
		}
	}
	return n
}

// TestClientOfOthers: what other servers serve is read, with its holes.
func TestClientOfOthers(t *testing.T) {
	path, b := sampleFile(t)
	qcow2 := filepath.Join(t.TempDir(), "disk.qcow2")
	tool(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", path, qcow2)
	for _, x := range []struct {
		what   string
		args   []string
		export string
		zero   int64 // bytes told to be zero
	}{
		{"qemu-nbd", []string{"qemu-nbd", "-t", "-r", "-e", "4", "-x", "d", "-f", "qcow2", "-k", "SOCKET", qcow2}, "d", 4 * mib},
		{"qemu-nbd, one client only", []string{"qemu-nbd", "-t", "-r", "-x", "d", "-f", "raw", "-k", "SOCKET", path}, "d", 4 * mib},
		{"nbdkit file", []string{"nbdkit", "-f", "-U", "SOCKET", "file", path}, "", 4 * mib},
		{"nbdkit without structured replies", []string{"nbdkit", "-f", "--no-sr", "-U", "SOCKET", "file", path}, "any", 0},
		{"nbdkit in blocks of 4096", []string{"nbdkit", "-f", "-U", "SOCKET", "--filter=blocksize-policy", "file", path,
			"blocksize-minimum=4096", "blocksize-preferred=4096", "blocksize-maximum=64k", "blocksize-error-policy=error"}, "", 4 * mib},
		{"nbdkit, only one connection", []string{"nbdkit", "-f", "-U", "SOCKET", "--filter=noparallel", "--filter=multi-conn", "file", path,
			"multi-conn-mode=disable", "serialize=connections"}, "", 4 * mib},
		{"nbdkit without a map", []string{"nbdkit", "-f", "-U", "SOCKET", "--filter=noextents", "file", path}, "", 0},
	} {
		t.Run(x.what, func(t *testing.T) {
			c := open(t, uri(peer(t, x.args[0], x.args[1:]...), x.export))
			formatstest.Disk(t, c, bytes.NewReader(b))
			if got := zeroes(t, c); got != x.zero {
				t.Errorf("%d bytes are told to be zero, want %d", got, x.zero)
			}
			if got, err := io.ReadAll(io.NewSectionReader(c, 0, c.Size())); err != nil || !bytes.Equal(got, b) {
				t.Errorf("%d bytes read, %v", len(got), err)
			}
		})
	}
}

// TestHugeExport: looking at an empty export of 8 TiB takes moments.
func TestHugeExport(t *testing.T) {
	c := open(t, uri(peer(t, "nbdkit", "-f", "-U", "SOCKET", "null", "8T"), ""))
	start := time.Now()
	if got := zeroes(t, c); got != 8<<40 {
		t.Errorf("%d bytes are told to be zero", got)
	}
	t.Logf("map of 8 TiB: %v", time.Since(start))
}

func TestErrorsOfTheServer(t *testing.T) {
	path, _ := sampleFile(t)
	trigger := filepath.Join(t.TempDir(), "broken")
	c := open(t, uri(peer(t, "nbdkit", "-f", "-U", "SOCKET", "--filter=error", "file", path, "error=EIO", "error-rate=100%", "error-file="+trigger), ""))
	p := make([]byte, 4096)
	if _, err := c.ReadAt(p, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(trigger, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	n, err := c.ReadAt(p, 8192)
	if n != 0 || err == nil || !strings.Contains(err.Error(), "read 4096 bytes at 8192 of nbd+unix:") || !strings.Contains(err.Error(), "input/output error") {
		t.Errorf("%d, %v", n, err)
	}
	if d := time.Since(start); d > 3*time.Second {
		t.Errorf("an error that stays was tried again for %v", d)
	}
	os.Remove(trigger)
	if _, err := c.ReadAt(p, 8192); err != nil {
		t.Errorf("after the error: %v", err)
	}
}

// quick makes retries short.
func quick(addr Address) settings {
	return settings{patience: 2 * time.Second, pause: time.Millisecond, attempts: 5,
		dial: func(timeout time.Duration) (net.Conn, error) {
			return net.DialTimeout(addr.Network, addr.Host, timeout)
		}}
}

// TestReconnect: connections that break while all read cost nothing but time.
func TestReconnect(t *testing.T) {
	b := sample()
	socket, _ := serve(t, Export{Disk: holey(b)})
	set := quick(Address{Network: "unix", Host: socket})
	dial, n := set.dial, 0
	var mu sync.Mutex
	set.dial = func(timeout time.Duration) (net.Conn, error) {
		nc, err := dial(timeout)
		mu.Lock()
		defer mu.Unlock()
		n++
		return &brittle{Conn: nc, left: 100_000 + n*50_000}, err
	}
	set.attempts = 20
	c, err := dialWith(Address{Network: "unix", Host: socket}, nil, set)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got := make([]byte, len(b))
	if _, err := c.ReadAt(got, 0); err != nil || !bytes.Equal(got, b) {
		t.Errorf("read of all: %v", err)
	}
	if n < 5 {
		t.Errorf("only %d connections: none broke", n)
	}
}

// brittle breaks after some bytes.
type brittle struct {
	net.Conn
	mu   sync.Mutex
	left int
}

func (b *brittle) Read(p []byte) (int, error) {
	b.mu.Lock()
	left := b.left
	b.mu.Unlock()
	if left <= 0 {
		b.Close()
		return 0, unix.ECONNRESET
	}
	n, err := b.Conn.Read(p[:min(len(p), left)])
	b.mu.Lock()
	b.left -= n
	b.mu.Unlock()
	return n, err
}

func TestServerGoesAway(t *testing.T) {
	socket, stop := serve(t, Export{Disk: holey(sample())})
	addr := Address{Network: "unix", Host: socket}
	c, err := dialWith(addr, nil, quick(addr))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ReadAt(make([]byte, 512), 0); err == nil || !strings.Contains(err.Error(), "5 attempts") || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("read of a server that is gone: %v", err)
	}
	if _, err := Dial(addr); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("dial: %v", err)
	}
}

// TestExportChanges: a server that comes back with another disk is found out.
func TestExportChanges(t *testing.T) {
	socket, stop := serve(t, Export{Disk: holey(sample())})
	addr := Address{Network: "unix", Host: socket}
	c, err := dialWith(addr, nil, quick(addr))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, wait := t.Context(), make(chan error, 1)
	go func() { wait <- Serve(ctx, l, []Export{{Disk: holey(sample()[:mib])}}) }()
	if _, err := c.ReadAt(make([]byte, 512), 0); !errors.Is(err, ErrChanged) {
		t.Errorf("read of another disk: %v", err)
	}
}

// TestSilentServer: one that takes a connection and says nothing costs the time
// that was set, and one that stops answering too.
func TestSilentServer(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	addr := Address{Network: "unix", Host: filepath.Join(dir, "s")}
	c := &Client{addr: addr, set: quick(addr), closed: make(chan struct{})}
	if _, err := c.connect(50 * time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("greeting that does not come: %v", err)
	}

	d := &stuck{holey: sample(), release: make(chan struct{})}
	socket, _ := serve(t, Export{Disk: d})
	set := quick(Address{Network: "unix", Host: socket})
	set.patience, set.attempts = 50*time.Millisecond, 2
	c, err = dialWith(Address{Network: "unix", Host: socket}, nil, set)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.ReadAt(make([]byte, 512), 0); !errors.Is(err, unix.ETIMEDOUT) {
		t.Errorf("answer that does not come: %v", err)
	}
	c.Close()

	// Interrupt does not wait for that.
	c = open(t, uri(socket, ""))
	time.AfterFunc(50*time.Millisecond, c.Interrupt)
	start := time.Now()
	if _, err := c.ReadAt(make([]byte, 512), 0); !errors.Is(err, ErrClosed) || time.Since(start) > 10*time.Second {
		t.Errorf("interrupted: %v after %v", err, time.Since(start))
	}
	close(d.release)
}

// stuck does not read before it is let.
type stuck struct {
	holey
	release chan struct{}
}

func (s *stuck) ReadAt(p []byte, off int64) (int, error) {
	<-s.release
	return s.holey.ReadAt(p, off)
}

// pki makes a folder with certificates as nbdkit, libnbd and QEMU name them,
// for the server "localhost" and one client.
func pki(t testing.TB) string { return pkiWith(t, key) }

// pkiWith is pki with keys of some kind.
func pkiWith(t testing.TB, key func(testing.TB) crypto.Signer) string {
	t.Helper()
	dir := t.TempDir()
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, NotAfter: time.Now().Add(time.Hour)}
	caKey := key(t)
	put(t, dir, "ca-cert.pem", "CERTIFICATE", sign(t, ca, ca, caKey, caKey))
	for i, name := range []string{"server", "client"} {
		k := key(t)
		der, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			t.Fatal(err)
		}
		put(t, dir, name+"-key.pem", "PRIVATE KEY", der)
		c := &x509.Certificate{SerialNumber: big.NewInt(int64(2 + i)), Subject: pkix.Name{CommonName: name}, DNSNames: []string{"localhost"},
			NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
		put(t, dir, name+"-cert.pem", "CERTIFICATE", sign(t, c, ca, k, caKey))
	}
	return dir
}

func rsaKey(t testing.TB) crypto.Signer {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func key(t testing.TB) crypto.Signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func sign(t testing.TB, c, by *x509.Certificate, k, byKey crypto.Signer) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, c, by, k.Public(), byKey)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func put(t testing.TB, dir, name, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// serveTLS is serve with TLS and client certificates.
func serveTLS(t testing.TB, pki string, exports ...Export) (socket string) {
	t.Helper()
	cfg, err := ServerTLS(filepath.Join(pki, "server-cert.pem"), filepath.Join(pki, "server-key.pem"), filepath.Join(pki, "ca-cert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "nbd")
	if err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	ctx := t.Context() // ends before the cleanup
	go func() { done <- ServeTLS(ctx, l, cfg, exports) }()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Error(err)
		}
		os.RemoveAll(dir)
	})
	return socket
}

func secureURI(socket, export, pki string) string {
	return "nbds+unix:///" + export + "?socket=" + socket + "&tls-certificates=" + pki
}

func TestTLS(t *testing.T) {
	b, dir := sample(), pki(t)
	socket := serveTLS(t, dir, Export{Name: "d", Disk: holey(b)})
	t.Run("our client", func(t *testing.T) {
		formatstest.Disk(t, open(t, secureURI(socket, "d", dir)), bytes.NewReader(b))
	})
	t.Run("nbdcopy", func(t *testing.T) {
		out := filepath.Join(t.TempDir(), "out")
		tool(t, "nbdcopy", secureURI(socket, "d", dir), out)
		if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, b) {
			t.Errorf("%d bytes differ (%v)", len(got), err)
		}
	})
	t.Run("nbdinfo, with RSA", func(t *testing.T) {
		dir := pkiWith(t, rsaKey)
		if got := tool(t, "nbdinfo", "--size", secureURI(serveTLS(t, dir, Export{Name: "d", Disk: holey(b)}), "d", dir)); got != "8388608\n" {
			t.Errorf("nbdinfo: %s", got)
		}
	})
	t.Run("in the clear", func(t *testing.T) {
		a := Address{Network: "unix", Host: socket, Export: "d"}
		if _, err := Dial(a); !errors.Is(err, ErrTLS) || !strings.Contains(err.Error(), "demands") {
			t.Errorf("our client: %v", err)
		}
		if out, err := tryTool(t, "nbdinfo", uri(socket, "d")); err == nil {
			t.Errorf("nbdinfo: %s", out)
		}
	})
	t.Run("without a client certificate", func(t *testing.T) {
		bare := t.TempDir()
		ca, err := os.ReadFile(filepath.Join(dir, "ca-cert.pem"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(bare, "ca-cert.pem"), ca, 0o600); err != nil {
			t.Fatal(err)
		}
		a := Address{Network: "unix", Host: socket, Export: "d", TLS: true, Certificates: bare}
		if _, err := Dial(a); err == nil {
			t.Error("the server took it")
		}
	})
	t.Run("of another server", func(t *testing.T) {
		for what, a := range map[string]Address{
			"another CA":   {Network: "unix", Host: socket, Export: "d", TLS: true, Certificates: pki(t)},
			"no CA of it":  {Network: "unix", Host: socket, Export: "d", TLS: true},
			"another name": {Network: "unix", Host: socket, Export: "d", TLS: true, Certificates: dir, ServerName: "bank.example"},
		} {
			if _, err := Dial(a); !errors.Is(err, ErrTLS) {
				t.Errorf("%s: %v", what, err)
			}
		}
	})
	t.Run("a server without", func(t *testing.T) {
		plain, _ := serve(t, Export{Name: "d", Disk: holey(b)})
		a := Address{Network: "unix", Host: plain, Export: "d", TLS: true, Certificates: dir}
		if _, err := Dial(a); !errors.Is(err, ErrTLS) {
			t.Errorf("%v", err)
		}
	})
	t.Run("nbdkit", func(t *testing.T) {
		path, _ := sampleFile(t)
		s := peer(t, "nbdkit", "-f", "-U", "SOCKET", "--tls=require", "--tls-verify-peer", "--tls-certificates="+dir, "file", path)
		formatstest.Disk(t, open(t, secureURI(s, "", dir)), bytes.NewReader(b))
	})
	t.Run("qemu-nbd", func(t *testing.T) {
		path, _ := sampleFile(t)
		s := peer(t, "qemu-nbd", "-t", "-r", "-e", "4", "-x", "d", "-f", "raw", "-k", "SOCKET",
			"--object", "tls-creds-x509,id=t,endpoint=server,verify-peer=on,dir="+dir, "--tls-creds", "t", path)
		formatstest.Disk(t, open(t, secureURI(s, "d", dir)), bytes.NewReader(b))
	})
}

// TestNothingBeforeTLS: what stands in the clear behind the request for TLS is
// somebody else's.
func TestNothingBeforeTLS(t *testing.T) {
	dir := pki(t)
	cfg, err := ServerTLS(filepath.Join(dir, "server-cert.pem"), filepath.Join(dir, "server-key.pem"), "")
	if err != nil {
		t.Fatal(err)
	}
	here, there := net.Pipe()
	s := newServer([]Export{{Disk: holey(sample())}})
	s.tls = cfg
	go s.serveConn(t.Context(), there)
	hello := make([]byte, 18)
	if _, err := io.ReadFull(here, hello); err != nil {
		t.Fatal(err)
	}
	go here.Write(append(clientGo("", false)[:4], append(optionMessage(optStartTLS, nil), optionMessage(optList, nil)...)...))
	ack := make([]byte, 20)
	if _, err := io.ReadFull(here, ack); err != nil {
		t.Fatal(err)
	}
	if err := tls.Client(here, &tls.Config{InsecureSkipVerify: true}).Handshake(); err == nil {
		t.Error("the server went on")
	}
}
