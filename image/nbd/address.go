package nbd

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
)

// ErrAddress says that a name is no address of an NBD export.
var ErrAddress = errors.New("not the address of an NBD export")

// defaultPort is the one assigned to NBD (IANA, service nbd).
const defaultPort = "10809"

// Address says which export of which server is meant. Its text form is an NBD
// URI (doc/uri.md of the NBD project).
type Address struct {
	Network string // "tcp" or "unix"
	Host    string // host and port, or the path of the socket
	Export  string // "" is the server's default
	TLS     bool
	// Certificates is a folder with ca-cert.pem, whose certificates the server's
	// must come from, and client-cert.pem and client-key.pem, where the server
	// asks for a client's: the names that libnbd, nbdkit and QEMU use. "" trusts
	// the certificates of the system.
	Certificates string
	// ServerName is the name in the server's certificate; "" is that of the
	// host, and "localhost" for a socket.
	ServerName string
}

// schemes are the beginnings of an address that are understood.
func schemes() []string { return []string{"nbd", "nbds", "nbd+unix", "nbds+unix"} }

// IsAddress reports whether a name is meant to be an NBD URI, well formed or not.
func IsAddress(name string) bool {
	scheme, _, ok := strings.Cut(name, "://")
	return ok && slices.Contains(schemes(), strings.ToLower(scheme))
}

// ParseAddress reads an NBD URI: nbd://HOST[:PORT]/EXPORT, nbds:// with TLS, and
// nbd+unix:///EXPORT?socket=PATH. Options are tls-certificates=FOLDER and
// tls-hostname=NAME; what else is asked for is an error, since an option that is
// passed over is not what the user gets.
func ParseAddress(name string) (Address, error) {
	u, err := url.Parse(name)
	if err != nil || !slices.Contains(schemes(), u.Scheme) {
		return Address{}, fmt.Errorf("%q: %w", name, errors.Join(ErrAddress, err))
	}
	a := Address{Network: "tcp", Export: strings.TrimPrefix(u.Path, "/"), TLS: strings.HasPrefix(u.Scheme, "nbds")}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return Address{}, fmt.Errorf("%q: %w: %w", name, ErrAddress, err)
	}
	socket, err := a.options(query)
	switch {
	case err != nil:
	case u.User != nil:
		err = errors.New("users and pre-shared keys are not supported, certificates are")
	case len(a.Export) > maxString:
		err = fmt.Errorf("an export's name has at most %d bytes", maxString)
	case strings.HasSuffix(u.Scheme, "+unix"):
		err = a.unix(u.Host, socket)
	case socket != "":
		err = errors.New("socket= goes with nbd+unix://")
	case u.Hostname() == "":
		err = errors.New("no host")
	default:
		a.Host = net.JoinHostPort(u.Hostname(), orElse(u.Port(), defaultPort))
	}
	if err != nil {
		return Address{}, fmt.Errorf("%q: %w: %w", name, ErrAddress, err)
	}
	return a, nil
}

func (a *Address) unix(host, socket string) error {
	if host != "" || socket == "" {
		return errors.New("give nbd+unix:///EXPORT?socket=PATH")
	}
	a.Network, a.Host = "unix", socket
	return nil
}

// options takes what stands behind the question mark, and gives the socket.
func (a *Address) options(query url.Values) (socket string, err error) {
	for key, values := range query {
		if len(values) != 1 {
			return "", fmt.Errorf("%s stands there twice", key)
		}
		switch key {
		case "socket":
			socket = values[0]
		case "tls-certificates":
			a.Certificates = values[0]
		case "tls-hostname":
			a.ServerName = values[0]
		default:
			return "", fmt.Errorf("unknown option %q", key)
		}
	}
	if !a.TLS && (a.Certificates != "" || a.ServerName != "") {
		return "", errors.New("the tls- options go with nbds://")
	}
	return socket, nil
}

// String gives the URI; two addresses of one export give the same.
func (a Address) String() string {
	u := url.URL{Scheme: "nbd", Host: a.Host, Path: "/" + a.Export}
	if a.TLS {
		u.Scheme = "nbds"
	}
	query := url.Values{}
	if a.Network == "unix" {
		u.Scheme, u.Host = u.Scheme+"+unix", ""
		query.Set("socket", a.Host)
	}
	for key, value := range map[string]string{"tls-certificates": a.Certificates, "tls-hostname": a.ServerName} {
		if value != "" {
			query.Set(key, value)
		}
	}
	// A slash in a value needs no escape, and people read this.
	u.RawQuery = strings.ReplaceAll(query.Encode(), "%2F", "/")
	return u.String()
}

// serverName is the name that the server's certificate must be for.
func (a Address) serverName() string {
	if a.ServerName != "" || a.Network == "unix" {
		return orElse(a.ServerName, "localhost")
	}
	host, _, err := net.SplitHostPort(a.Host)
	if err != nil {
		return a.Host
	}
	return host
}

// file is the path of one of the files in the folder of certificates.
func (a Address) file(name string) string { return filepath.Join(a.Certificates, name) }

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}
