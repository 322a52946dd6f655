package pipeline

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"hyper2kvm/agent/api"
	"hyper2kvm/formats"
	"hyper2kvm/image/nbd"
	"hyper2kvm/image/overlay"
)

// export serves the source over NBD until the run is interrupted: that is how
// it ends well.
func (r *run) export(ctx context.Context) error {
	if len(r.sources) != 1 {
		return api.Errorf(api.CodeUsage, "serve", r.plan.Name, "takes one disk")
	}
	r.fillDisks()
	o := r.plan.ServeAt
	e := nbd.Export{Name: o.Export, Description: filepath.Base(r.plan.Sources[0].Name()), Disk: r.sources[0]}
	cfg, err := serverTLS(o)
	if err != nil {
		return err
	}
	l, err := listen(ctx, o, cfg)
	if err != nil {
		return err
	}
	defer l.Close()
	layer, err := r.writable(o.Overlay)
	if err != nil {
		return err
	}
	if layer != nil {
		e.Disk, e.Writer = layer, layer
	}
	r.report.Served = &api.Served{URI: exportAddress(o, l).String(), ReadOnly: layer == nil}
	r.notice(api.Serve, "%s", r.report.Served.URI)
	err = nbd.ServeTLS(ctx, l, cfg, []nbd.Export{e})
	if errors.Is(err, nbd.ErrClosed) {
		err = nil // the source is an export itself, and the interruption ended reads of it
	}
	if layer != nil {
		err = errors.Join(err, layer.Close())
	}
	if err != nil {
		return api.NewError(sourceCode(err), "serve", r.plan.Sources[0].Name(), err)
	}
	return nil
}

// writable lays the overlay over the source: the one that is at path, with all
// that was written before, or a new one. Without a path there is none.
func (r *run) writable(path string) (*overlay.Overlay, error) {
	if path == "" {
		return nil, nil
	}
	o, err := openOverlay(path, r.sources[0])
	if err != nil {
		return nil, api.NewError(api.CodeOutput, "open overlay", path, err)
	}
	return o, nil
}

func openOverlay(path string, base formats.Disk) (*overlay.Overlay, error) {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return overlay.Create(path, base)
	}
	// A file without a map is somebody's image.
	if _, err := os.Lstat(overlay.MapPath(path)); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the file is there and has no map: %w", overlay.ErrMap)
	}
	return overlay.Open(path, base)
}

// serverTLS reads the certificates, nil where there are none.
func serverTLS(o api.ServeOptions) (*tls.Config, error) {
	if o.TLSCert == "" && o.TLSKey == "" && o.TLSCA == "" {
		return nil, nil
	}
	if o.TLSCert == "" || o.TLSKey == "" {
		return nil, api.Errorf(api.CodeUsage, "serve", "", "TLS takes the certificate of the server and its key")
	}
	cfg, err := nbd.ServerTLS(o.TLSCert, o.TLSKey, o.TLSCA)
	if err != nil {
		return nil, api.NewError(api.CodeUsage, "serve", "", err)
	}
	return cfg, nil
}

// listen opens the socket to serve on.
func listen(ctx context.Context, o api.ServeOptions, cfg *tls.Config) (net.Listener, error) {
	network, at := "unix", o.Unix
	if o.Listen != "" {
		network, at = "tcp", o.Listen
	}
	if (o.Unix == "") == (o.Listen == "") {
		return nil, api.Errorf(api.CodeUsage, "serve", "", "give either a unix socket or an address to listen on")
	}
	if network == "tcp" {
		if err := checkListen(at, cfg); err != nil {
			return nil, api.NewError(api.CodeUsage, "listen on", at, err)
		}
	}
	l, err := listenOn(ctx, network, at)
	if errors.Is(err, unix.EADDRINUSE) && network == "unix" && isDeadSocket(at) {
		if err = os.Remove(at); err == nil {
			l, err = listenOn(ctx, network, at)
		}
	}
	if err != nil {
		return nil, api.NewError(api.CodeOutput, "listen on", at, err)
	}
	return l, nil
}

// checkListen keeps a disk, which is full of secrets, from being handed to
// everybody who can reach this machine.
func checkListen(at string, cfg *tls.Config) error {
	addr, err := net.ResolveTCPAddr("tcp", at)
	switch {
	case err != nil:
		return err
	case addr.IP.IsLoopback() || cfg != nil && cfg.ClientCAs != nil:
		return nil
	case cfg != nil:
		return errors.New("other machines reach it, and without a CA for clients (--tls-ca) each of them could read the disk")
	}
	return errors.New("other machines reach it: that takes TLS with certificates on both sides (--tls-cert, --tls-key, --tls-ca); " +
		"without, listen on 127.0.0.1 or on a unix socket")
}

// listenOn makes a socket that only this user can reach.
func listenOn(ctx context.Context, network, at string) (net.Listener, error) {
	cfg := net.ListenConfig{}
	if network == "unix" {
		// The file takes its mode from the socket, so that it has never another.
		cfg.Control = func(_, _ string, c syscall.RawConn) error {
			var mode error
			err := c.Control(func(fd uintptr) { mode = unix.Fchmod(int(fd), 0o600) })
			return errors.Join(err, mode)
		}
	}
	return cfg.Listen(ctx, network, at)
}

// isDeadSocket reports whether path is a socket that nobody listens on: what a
// killed server left.
func isDeadSocket(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode()&fs.ModeSocket == 0 {
		return false
	}
	nc, err := net.Dial("unix", path)
	if err == nil {
		nc.Close()
	}
	return errors.Is(err, unix.ECONNREFUSED)
}

// exportAddress is what a client on this machine calls the export.
func exportAddress(o api.ServeOptions, l net.Listener) nbd.Address {
	a := nbd.Address{Network: l.Addr().Network(), Host: l.Addr().String(), Export: o.Export, TLS: o.TLSCert != ""}
	if a.Network == "unix" {
		if full, err := filepath.Abs(a.Host); err == nil {
			a.Host = full
		}
	}
	return a
}
