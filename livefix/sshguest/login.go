package sshguest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"slices"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"hyper2kvm/agent/api"
)

// tries is how often a password or passphrase is asked for, as in
// NumberOfPasswordPrompts of ssh_config(5).
const tries = 3

// login offers one server what the user has.
type login struct {
	hop   *hop
	local Local
	agent net.Conn
	tried []string // what was offered
}

// ask asks the user, where there is one.
func (l *login) ask(question string, secret bool) (string, error) {
	if l.local.Ask == nil || l.hop.batch {
		return "", errors.New("there is no terminal to ask on")
	}
	return l.local.Ask(question, secret)
}

func (l *login) close() {
	if l.agent != nil {
		_ = l.agent.Close()
	}
}

// methods lists the ways to log in, in OpenSSH's order.
func (l *login) methods() []ssh.AuthMethod {
	out := []ssh.AuthMethod{ssh.PublicKeysCallback(l.signers)}
	if l.local.Ask == nil || l.hop.batch {
		return out
	}
	return append(out,
		ssh.RetryableAuthMethod(ssh.KeyboardInteractive(l.answer), tries),
		ssh.RetryableAuthMethod(ssh.PasswordCallback(l.password), tries))
}

func (l *login) password() (string, error) {
	l.tried = append(l.tried, "password")
	return l.ask(fmt.Sprintf("%s@%s's password: ", l.hop.user, l.hop.name), true)
}

func (l *login) answer(name, instruction string, questions []string, echos []bool) ([]string, error) {
	l.tried = append(l.tried, "keyboard-interactive")
	var out []string
	for i, q := range questions {
		said := ""
		for _, s := range []string{name, instruction} {
			if s != "" && i == 0 {
				said += s + "\n"
			}
		}
		a, err := l.ask(said+fmt.Sprintf("(%s@%s) %s", l.hop.user, l.hop.name, q), !echos[i])
		if err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return out, nil
}

// signers are the keys: those of the agent that a key file names, the agent's
// others, then the key files themselves, those with a passphrase last.
func (l *login) signers() ([]ssh.Signer, error) {
	files, locked := l.fileKeys()
	held := l.agentKeys()
	named := func(s ssh.Signer) bool {
		return slices.ContainsFunc(slices.Concat(files, locked), func(f ssh.Signer) bool { return sameKey(f, s) })
	}
	var out []ssh.Signer
	for _, s := range held {
		if named(s) {
			out = append(out, s)
		}
	}
	if !l.hop.only {
		for _, s := range held {
			if !named(s) {
				out = append(out, s)
			}
		}
	}
	for _, s := range slices.Concat(files, locked) {
		if !slices.ContainsFunc(out, func(o ssh.Signer) bool { return sameKey(o, s) }) {
			out = append(out, s)
		}
	}
	for _, s := range out {
		l.tried = append(l.tried, fingerprint(s.PublicKey()))
	}
	return out, nil
}

func sameKey(a, b ssh.Signer) bool {
	return bytes.Equal(a.PublicKey().Marshal(), b.PublicKey().Marshal())
}

func (l *login) agentKeys() []ssh.Signer {
	if l.local.AgentAddr == "" {
		return nil
	}
	if l.agent == nil {
		conn, err := net.Dial("unix", l.local.AgentAddr)
		if err != nil {
			l.local.warn("the SSH agent does not answer: %v", err)
			return nil
		}
		l.agent = conn
	}
	keys, err := agent.NewClient(l.agent).Signers()
	if err != nil {
		l.local.warn("the SSH agent does not list its keys: %v", err)
	}
	return keys
}

// fileKeys reads the key files that are there.
func (l *login) fileKeys() (open, locked []ssh.Signer) {
	for _, name := range l.hop.identities {
		data, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			l.local.warn("key file %s is left: %v", name, err)
			continue
		}
		s, err := ssh.ParsePrivateKey(data)
		if missing, ok := errors.AsType[*ssh.PassphraseMissingError](err); ok {
			if public := publicOf(name, missing.PublicKey); public != nil {
				locked = append(locked, &lockedKey{login: l, file: name, data: data, public: public})
				continue
			}
			s, err = unlock(l, name, data) // an old format, which does not tell whose key it is
		}
		if err != nil {
			l.local.warn("key file %s is left: %v", name, err)
			continue
		}
		open = append(open, s)
	}
	return open, locked
}

// publicOf gives the public half of a key with a passphrase.
func publicOf(name string, inside ssh.PublicKey) ssh.PublicKey {
	if inside != nil {
		return inside
	}
	data, err := os.ReadFile(name + ".pub")
	if err != nil {
		return nil
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(data)
	if err != nil {
		return nil
	}
	return key
}

// lockedKey asks for its passphrase once a server takes the key, not before.
type lockedKey struct {
	login  *login
	file   string
	data   []byte
	public ssh.PublicKey
	open   ssh.Signer
}

// PublicKey is the half that needs no passphrase.
func (k *lockedKey) PublicKey() ssh.PublicKey { return k.public }

// Sign signs with the key's usual algorithm.
func (k *lockedKey) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	return k.SignWithAlgorithm(rand, data, "")
}

// SignWithAlgorithm asks for the passphrase at the first time.
func (k *lockedKey) SignWithAlgorithm(rand io.Reader, data []byte, algorithm string) (*ssh.Signature, error) {
	if k.open == nil {
		s, err := unlock(k.login, k.file, k.data)
		if err != nil {
			return nil, err
		}
		k.open = s
	}
	if s, ok := k.open.(ssh.AlgorithmSigner); ok {
		return s.SignWithAlgorithm(rand, data, algorithm)
	}
	return k.open.Sign(rand, data)
}

func unlock(l *login, file string, data []byte) (ssh.Signer, error) {
	for range tries {
		phrase, err := l.ask(fmt.Sprintf("Enter passphrase for key '%s': ", file), true)
		if err != nil {
			return nil, fmt.Errorf("key %s has a passphrase: %w", file, err)
		}
		if s, err := ssh.ParsePrivateKeyWithPassphrase(data, []byte(phrase)); err == nil {
			return s, nil
		}
	}
	return nil, fmt.Errorf("key %s: no passphrase fits", file)
}

// refused turns a login that failed into an error that says what was tried.
func (l *login) refused(err error) error {
	e := api.NewError(api.CodeLogin, "log in to", l.hop.user+"@"+l.hop.name, err)
	if len(l.tried) == 0 {
		e.Detail = "no key was found to offer: neither an agent's nor one of " + fmt.Sprint(l.hop.identities)
		return e
	}
	seen := map[string]bool{}
	for _, t := range l.tried {
		if !seen[t] {
			e.Detail += "tried: " + t + "\n"
		}
		seen[t] = true
	}
	return e
}
