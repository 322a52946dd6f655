package secret_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/secret"
)

// get resolves one reference.
func get(t *testing.T, s secret.Source, from string) (string, error) {
	t.Helper()
	keys, err := s.Get(t.Context(), []api.Key{{Volume: "all", From: from}})
	if err != nil {
		return "", err
	}
	return string([]byte(keys[0].Value)), nil
}

func TestReferences(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte("of a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := secret.Source{
		Getenv: func(name string) string { return map[string]string{"PASS": "of the environment"}[name] },
		Ask:    func(context.Context, string) ([]byte, error) { return []byte("of a person"), nil },
	}
	for from, want := range map[string]string{"file:" + file: "of a file\n", "env:PASS": "of the environment", "prompt": "of a person"} {
		if got, err := get(t, s, from); got != want || err != nil {
			t.Errorf("%s gives %q, %v; want %q", from, got, err, want)
		}
	}
	for _, from := range []string{"file:/does/not/exist", "env:UNSET", "keyring:h2k-test-that-is-not-there"} {
		if _, err := get(t, s, from); api.AsError(err).Code != api.CodeKey || !strings.Contains(err.Error(), from) {
			t.Errorf("%s: %v", from, err)
		}
	}
	if _, err := get(t, secret.Source{}, "prompt"); api.AsError(err).Code != api.CodeKey {
		t.Errorf("nobody to ask: %v", err)
	}
}

func TestKeyring(t *testing.T) {
	const name = "h2k-test-key"
	id, err := unix.AddKey("user", name, []byte("of the keyring"), unix.KEY_SPEC_USER_KEYRING)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) {
		t.Skipf("no keyring here: %v", err) // containers often have none
	}
	if err != nil {
		t.Fatal(err)
	}
	// What is in the user's keyring can be read by who has it in reach.
	if _, err := unix.KeyctlInt(unix.KEYCTL_LINK, unix.KEY_SPEC_USER_KEYRING, unix.KEY_SPEC_SESSION_KEYRING, 0, 0); err != nil {
		t.Logf("link the user's keyring: %v", err)
	}
	defer func() { _, _ = unix.KeyctlInt(unix.KEYCTL_UNLINK, id, unix.KEY_SPEC_USER_KEYRING, 0, 0) }()
	if got, err := get(t, secret.Source{}, "keyring:"+name); got != "of the keyring" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

// TestNothingPrintsASecret: neither a careless print, nor a log, nor JSON.
func TestNothingPrintsASecret(t *testing.T) {
	const pass = "correct horse"
	key := secret.Key{Volume: "all", Value: secret.Value(pass)}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("key", "key", key, "value", key.Value)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("key", "key", key, "value", key.Value)
	text, err := json.Marshal(key)
	if err != nil {
		t.Fatal(err)
	}
	seen := log.String() + string(text)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		seen += fmt.Sprintf(verb, key) + fmt.Sprintf(verb, key.Value) + fmt.Sprintf(verb, []secret.Key{key})
	}
	for _, form := range []string{pass, fmt.Sprintf("%x", pass), "99 111 114 114 101 99 116", "Y29ycmVjdCBob3JzZQ"} {
		if strings.Contains(seen, form) {
			t.Errorf("the secret shows as %q in:\n%s", form, seen)
		}
	}
}
