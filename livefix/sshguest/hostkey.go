package sshguest

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"hyper2kvm/agent/api"
)

// hostKeys checks the key of one server.
type hostKeys struct {
	hop   *hop
	check ssh.HostKeyCallback
	warn  func(string, ...any)
	// refused is what the check said: the handshake's error hides it.
	refused error
}

// newHostKeys reads the files of known hosts that are there.
func newHostKeys(h *hop, warn func(string, ...any)) (*hostKeys, error) {
	var there []string
	for _, f := range h.knownHosts {
		if _, err := os.Stat(f); err == nil {
			there = append(there, f)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, api.NewError(api.CodeHostKey, "read known hosts", f, err)
		}
	}
	check, err := knownhosts.New(there...)
	if err != nil {
		return nil, api.NewError(api.CodeHostKey, "read known hosts", strings.Join(there, ", "), err)
	}
	return &hostKeys{hop: h, check: check, warn: warn}, nil
}

// noAddress stands for the server's address: only its name counts, since an
// address behind a jump host means nothing here.
type noAddress struct{}

func (noAddress) Network() string { return "tcp" }
func (noAddress) String() string  { return "0.0.0.0:0" }

// noKey is a key that no host has, to ask which keys are known.
type noKey struct{}

func (noKey) Type() string                        { return "none" }
func (noKey) Marshal() []byte                     { return nil }
func (noKey) Verify([]byte, *ssh.Signature) error { return errors.New("no key") }

// algorithms are those of the keys that are known for the host, so that a
// server with several keys shows the one that can be compared; nil lets the
// server choose.
func (k *hostKeys) algorithms() []string {
	known, ok := errors.AsType[*knownhosts.KeyError](k.check(k.hop.keyName(), noAddress{}, noKey{}))
	if !ok {
		return nil
	}
	var out []string
	for _, w := range known.Want {
		add := []string{w.Key.Type()}
		if w.Key.Type() == ssh.KeyAlgoRSA {
			add = []string{ssh.KeyAlgoRSASHA256, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSA}
		}
		for _, a := range add {
			if !slices.Contains(out, a) {
				out = append(out, a)
			}
		}
	}
	return out
}

// verify is the ssh.HostKeyCallback.
func (k *hostKeys) verify(_ string, _ net.Addr, key ssh.PublicKey) error {
	err := k.check(k.hop.keyName(), noAddress{}, key)
	if err == nil {
		return nil
	}
	known, ok := errors.AsType[*knownhosts.KeyError](err)
	switch {
	case ok && len(known.Want) == 0 && k.hop.acceptNew:
		err = k.learn(key)
	case ok && len(known.Want) == 0:
		err = k.unknown(key)
	case ok:
		err = k.changed(key, known.Want)
	default:
		err = api.Errorf(api.CodeHostKey, "trust", k.hop.name, "%s: %w", fingerprint(key), err)
	}
	k.refused = err
	return err
}

func fingerprint(key ssh.PublicKey) string {
	kind := strings.ToUpper(strings.TrimPrefix(key.Type(), "ssh-"))
	if strings.HasPrefix(key.Type(), "ecdsa-") {
		kind = "ECDSA"
	}
	return kind + " " + ssh.FingerprintSHA256(key)
}

// where names the file that a new key goes to.
func (k *hostKeys) where() string {
	if len(k.hop.knownHosts) == 0 {
		return ""
	}
	return k.hop.knownHosts[0]
}

func (k *hostKeys) unknown(key ssh.PublicKey) error {
	e := api.Errorf(api.CodeHostKey, "trust", k.hop.name, "its host key is not known: %s", fingerprint(key))
	e.Detail = "Compare it with what the guest's own console shows:\n" +
		"  for k in /etc/ssh/ssh_host_*_key.pub; do ssh-keygen -lf $k; done\n" +
		"If it is the same, --accept-new writes it to " + k.where() + "."
	return e
}

func (k *hostKeys) changed(key ssh.PublicKey, want []knownhosts.KnownKey) error {
	e := api.Errorf(api.CodeHostKey, "trust", k.hop.name, "its host key is not the one that is known: it shows %s", fingerprint(key))
	var b strings.Builder
	for _, w := range want {
		fmt.Fprintf(&b, "known: %s in %s line %d\n", fingerprint(w.Key), w.Filename, w.Line)
	}
	b.WriteString("Either the guest was installed anew, or another machine answers in its place.\n" +
		"If you know that it was installed anew: ssh-keygen -R '" + knownhosts.Normalize(k.hop.keyName()) + "' forgets the old key.")
	e.Detail = b.String()
	return e
}

// learn writes the key of a host that was not known.
func (k *hostKeys) learn(key ssh.PublicKey) error {
	file := k.where()
	if file == "" {
		return api.Errorf(api.CodeHostKey, "trust", k.hop.name, "there is no file of known hosts to write its key %s to", fingerprint(key))
	}
	name := knownhosts.Normalize(k.hop.keyName())
	if k.hop.hashNew {
		name = knownhosts.HashHostname(name)
	}
	if err := appendLine(file, knownhosts.Line([]string{name}, key)); err != nil {
		return api.NewError(api.CodeHostKey, "write known hosts", file, err)
	}
	k.warn("%s: key %s is known from now on, in %s", k.hop.name, fingerprint(key), file)
	return nil
}

func appendLine(file, line string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	old, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if len(old) > 0 && old[len(old)-1] != '\n' {
		line = "\n" + line
	}
	_, err = f.WriteString(line + "\n")
	return errors.Join(err, f.Close())
}
