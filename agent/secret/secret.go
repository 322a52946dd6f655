// Package secret gets the keys that a plan only refers to, and keeps them from
// being seen: a value prints itself as a placeholder wherever it is printed,
// logged or encoded.
package secret

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"hyper2kvm/agent/api"
)

// Value is a key or passphrase.
type Value []byte

const hidden = "(secret)"

// String never gives the secret.
func (Value) String() string { return hidden }

// GoString never gives the secret.
func (Value) GoString() string { return hidden }

// Format never gives the secret, whatever the verb.
func (Value) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, hidden) } // fmt keeps no errors

// MarshalText never gives the secret, so no encoder does.
func (Value) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// Key is a secret for one or all encrypted volumes.
type Key struct {
	Volume string // as in api.Key
	Value  Value
}

// Source is where references lead to.
type Source struct {
	Getenv func(string) string // nil is os.Getenv
	// Ask asks a person, nil refuses to.
	Ask func(ctx context.Context, what string) ([]byte, error)
}

// Get gets what each reference means, in order. A failure names the reference.
func (s Source) Get(ctx context.Context, refs []api.Key) ([]Key, error) {
	var out []Key
	for _, ref := range refs {
		if err := ref.Check(); err != nil {
			return nil, api.NewError(api.CodeUsage, "read key", "", err)
		}
		value, err := s.get(ctx, ref)
		if err == nil && len(value) == 0 {
			err = errors.New("it is empty")
		}
		if err != nil {
			return nil, api.NewError(api.CodeKey, "get key", ref.String(), err)
		}
		out = append(out, Key{ref.Volume, value})
	}
	return out, nil
}

func (s Source) get(ctx context.Context, ref api.Key) (Value, error) {
	kind, where := ref.Kind()
	switch kind {
	case api.FromFile:
		return readFile(where)
	case api.FromEnv:
		getenv := s.Getenv
		if getenv == nil {
			getenv = os.Getenv
		}
		return Value(getenv(where)), nil
	case api.FromKeyring:
		return readKeyring(where)
	}
	if s.Ask == nil {
		return nil, errors.New("there is nobody to ask")
	}
	return s.Ask(ctx, "Key of encrypted volume "+ref.Volume+": ")
}

// maxFile bounds a key file, in bytes, as cryptsetup does where nothing else is
// said (cryptsetup --help, "compiled-in key file size").
const maxFile = 8 << 20

// readFile also reads pipes: <(pass show web01).
func readFile(name string) (Value, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("a key has at most %d bytes", maxFile)
	}
	return data, nil
}

// readKeyring finds a key of type "user" where keyctl(1) puts it: in the keyring
// of the session or of the user.
func readKeyring(description string) (Value, error) {
	var id int
	err := error(unix.ENOKEY)
	for _, ring := range []int{unix.KEY_SPEC_SESSION_KEYRING, unix.KEY_SPEC_USER_KEYRING} {
		if id, err = unix.KeyctlSearch(ring, "user", description, 0); err == nil {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("search the kernel's keyring: %w", err)
	}
	buf := make([]byte, 1<<15) // a user key has at most 32767 bytes, add_key(2)
	n, err := unix.KeyctlBuffer(unix.KEYCTL_READ, id, buf, 0)
	if err != nil {
		return nil, fmt.Errorf("read from the kernel's keyring: %w", err)
	}
	return buf[:min(n, len(buf))], nil
}

// Terminal asks on the terminal that the program runs on, without echo. An
// interrupt puts the terminal back as it was.
func Terminal(ctx context.Context, what string) ([]byte, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("there is no terminal to ask on: %w", err)
	}
	defer tty.Close()
	fd := int(tty.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return nil, fmt.Errorf("look at the terminal: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = term.Restore(fd, before) }) // the program is ending
	defer stop()
	if _, err := io.WriteString(tty, what); err != nil {
		return nil, fmt.Errorf("ask on the terminal: %w", err)
	}
	type answer struct {
		text []byte
		err  error
	}
	given := make(chan answer, 1)
	go func() { // ends with the answer, or with the program
		text, err := term.ReadPassword(fd)
		given <- answer{text, err}
	}()
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case a := <-given:
		_, _ = io.WriteString(tty, "\n") // for the eye
		return a.text, a.err
	}
}
