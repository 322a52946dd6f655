package probe_test

import (
	"encoding/base64"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hyper2kvm/fixes/guest"
)

// formatted makes a LUKS volume with the real cryptsetup.
func formatted(t *testing.T, kind string) string {
	t.Helper()
	if _, err := exec.LookPath("cryptsetup"); err != nil {
		t.Skip("cryptsetup is not installed")
	}
	name := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, 20<<20); err != nil {
		t.Fatal(err)
	}
	cryptsetup(t, "one", "luksFormat", "-q", "--type", kind, "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", "-", name)
	return name
}

func cryptsetup(t *testing.T, stdin string, args ...string) {
	t.Helper()
	cmd := exec.Command("cryptsetup", args...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cryptsetup %v: %v\n%s", args, err, out)
	}
}

// TestWhatOpensAVolume: a token holds a key slot that no passphrase opens.
func TestWhatOpensAVolume(t *testing.T) {
	if got := probeFile(t, formatted(t, "luks1")).LUKS; cmp.Diff(&guest.LUKS{Version: 1, Passphrases: 1}, got) != "" {
		t.Errorf("LUKS1: %+v", got)
	}
	name := formatted(t, "luks2")
	if got := probeFile(t, name).LUKS; cmp.Diff(&guest.LUKS{Version: 2, Passphrases: 1}, got) != "" {
		t.Errorf("LUKS2: %+v", got)
	}
	encode := base64.RawURLEncoding.EncodeToString
	tang := encode([]byte(`{"alg":"dir","clevis":{"pin":"tang","tang":{"url":"http://tang.example"}},"enc":"A256GCM"}`))
	sss := encode([]byte(`{"clevis":{"pin":"sss","sss":{"jwe":["` + tang + `..a.b.c","` + encode([]byte(`{"clevis":{"pin":"tpm2","tpm2":{}}}`)) + `..x"],"t":1}}}`))
	for _, token := range []string{
		`{"type":"clevis","keyslots":["0"],"jwe":{"ciphertext":"","protected":"` + sss + `"}}`,
		`{"type":"systemd-recovery","keyslots":["0"]}`,
		`{"type":"systemd-tpm2","keyslots":[],"tpm2-blob":"AAAA","tpm2-pcrs":[7],"tpm2-policy-hash":"aabb"}`,
	} {
		cryptsetup(t, token, "token", "import", "--json-file", "-", name)
	}
	want := &guest.LUKS{Version: 2, Passphrases: 0, Tokens: []guest.LUKSToken{
		{Type: "clevis", Pin: "tang", Server: "http://tang.example"}, {Type: "clevis", Pin: "tpm2"}, {Type: "systemd-recovery"}, {Type: "systemd-tpm2"},
	}}
	if d := cmp.Diff(want, probeFile(t, name).LUKS); d != "" {
		t.Error(d)
	}
}
