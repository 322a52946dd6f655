package api

import (
	"errors"
	"fmt"
	"strings"
)

// AllVolumes is the volume of a key that is tried on every encrypted volume.
const AllVolumes = "all"

// The kinds of places that a secret is taken from.
const (
	FromFile    = "file"    // file:PATH, all its bytes
	FromEnv     = "env"     // env:NAME, an environment variable
	FromKeyring = "keyring" // keyring:DESCRIPTION, a key of type "user" in the kernel's keyring
	FromPrompt  = "prompt"  // asked for on the terminal
)

// Key says where the key or passphrase of an encrypted volume comes from. It is
// a reference: a plan, which is stored and shown, never holds the secret itself.
type Key struct {
	// Volume is the UUID of the encrypted volume, its device as the source calls
	// it ("/dev/sda2", "/dev/vg0/crypt"), or AllVolumes.
	Volume string `json:"volume"`
	// From is "file:PATH", "env:NAME", "keyring:DESCRIPTION" or "prompt".
	From string `json:"from"`
}

// errKeyForm does not repeat what was given: it may be the secret.
var errKeyForm = errors.New("a key is given as VOLUME:file:PATH, VOLUME:env:NAME, VOLUME:keyring:DESCRIPTION or VOLUME:prompt, never by its value; VOLUME is a UUID, a device or all")

// ParseKey reads a key as a command line has it: VOLUME:KIND:WHERE. A volume may
// hold colons (/dev/disk/by-path), so it ends where the first kind begins. The
// error never holds what was given.
func ParseKey(s string) (Key, error) {
	at := -1
	for _, mark := range []string{":" + FromFile + ":", ":" + FromEnv + ":", ":" + FromKeyring + ":"} {
		if i := strings.Index(s, mark); i > 0 && (at < 0 || i < at) {
			at = i
		}
	}
	if volume, ok := strings.CutSuffix(s, ":"+FromPrompt); ok && at < 0 {
		at = len(volume)
	}
	if at <= 0 {
		return Key{}, errKeyForm
	}
	k := Key{Volume: s[:at], From: s[at+1:]}
	return k, k.Check()
}

// Kind takes the reference apart: its kind, and the path or name behind it.
func (k Key) Kind() (kind, where string) {
	kind, where, _ = strings.Cut(k.From, ":")
	return kind, where
}

// String is the key as a command line has it.
func (k Key) String() string { return k.Volume + ":" + k.From }

// Check reports what is wrong with the reference, without repeating it.
func (k Key) Check() error {
	kind, where := k.Kind()
	switch {
	case k.Volume == "":
		return errKeyForm
	case kind == FromPrompt && k.From == FromPrompt:
		return nil
	case (kind == FromFile || kind == FromEnv || kind == FromKeyring) && where != "":
		return nil
	}
	return errKeyForm
}

func checkKeys(keys []Key) error {
	for i, k := range keys {
		if err := k.Check(); err != nil {
			return fmt.Errorf("key %d: %w", i+1, err)
		}
	}
	return nil
}
