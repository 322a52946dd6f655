package validate

import (
	"os"
	"strings"
	"testing"
	"time"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/secret"
)

func TestPrompts(t *testing.T) {
	y := newTypist([]secret.Value{secret.Value("a b\n"), secret.Value("\x00\x01"), secret.Value("Ü")})
	if len(y.keys) != 1 || y.keys[0] != "a b" {
		t.Errorf("keys that can be typed: %q", y.keys)
	}
	for text, want := range map[string]int{
		"Please unlock disk vda2_crypt: ": 1,
		"🔐 Please enter passphrase for disk QEMU_HARDDISK (luks-12): (press TAB for no echo) ":                              1,
		"Please enter passphrase for disk /dev/vda2 (root)!":                                                                1,
		"Enter passphrase for /dev/vda2: ":                                                                                  1,
		"Enter passphrase for hd0,gpt2 (2f144f6e9f3c4b1a): ":                                                                1,
		"Please unlock disk a: \ncryptsetup: ERROR: a: cryptsetup failed, bad password or options?\nPlease unlock disk a: ": 2,
		"Please unlock disk a: \nPlease unlock disk b: ":                                                                    1,
		"systemd: Starting Cryptography Setup for root...":                                                                  0,
		"web01 login: ": 0,
	} {
		line, times := y.prompt(text)
		if line == "" {
			times = 0
		}
		if times != want {
			t.Errorf("%q: %q may be answered %d times, want %d", text, line, times, want)
		}
	}
}

// asking is a boot sector that asks for a passphrase as an initramfs does, reads
// keys up to Enter, and writes for each the character behind it.
func asking() []byte {
	code := []byte{
		0xfc,                   // cld
		0xbe, 0x30, 0x7c, 0xac, // mov $0x7c30,%si; 4: lodsb
		0x84, 0xc0, 0x74, 0x06, // test %al,%al; jz 0f
		0xb4, 0x0e, 0xcd, 0x10, // mov $0xe,%ah; int $0x10
		0xeb, 0xf5, // jmp 4
		0x31, 0xc0, 0xcd, 0x16, // 0f: xor %ax,%ax; int $0x16
		0x3c, 0x0d, 0x74, 0x08, // cmp $13,%al; je 1f
		0xfe, 0xc0, // inc %al
		0xb4, 0x0e, 0xcd, 0x10, // mov $0xe,%ah; int $0x10
		0xeb, 0xf0, // jmp 0f
		0xf4, 0xeb, 0xfd, // 1f: hlt; jmp 1f
	}
	code = append(code, make([]byte, 0x30-len(code))...)
	return append(code, "Please unlock disk vda2_crypt: \r\n\x00"...)
}

// TestPassphraseIsTyped: on the screen, by keys, once, and the secret itself is
// in no text that is kept.
func TestPassphraseIsTyped(t *testing.T) {
	needVM(t)
	if testing.Short() {
		t.Skip("starts virtual machines")
	}
	const pass = `Ab1 ~"x`
	v := boot(t, Config{Disks: []Disk{emptyDisk(t, asking()...)}, Memory: 64 << 20, Timeout: 15 * time.Second,
		Keys: []secret.Value{secret.Value(pass + "\n")}})
	text, err := os.ReadFile(v.Console)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(string(text), "Bc2!") != 1 || strings.Count(string(text), "#y") != 1 {
		t.Errorf("the guest did not get the passphrase once:\n%s", text)
	}
	if strings.Contains(string(text)+v.Why, pass) {
		t.Error("the passphrase is in what is kept")
	}
}

// TestNobodyCanUnlock: a guest that asks, with nothing to answer, is not waited for.
func TestNobodyCanUnlock(t *testing.T) {
	needVM(t)
	if testing.Short() {
		t.Skip("starts virtual machines")
	}
	v := boot(t, Config{Disks: []Disk{emptyDisk(t, asking()...)}, Memory: 64 << 20, Timeout: 2 * time.Minute})
	if v.State != api.Timeout || !strings.Contains(v.Why, "asks for the passphrase") || v.Seconds > 90 {
		t.Errorf("after %.0f s %q: %s", v.Seconds, v.State, v.Why)
	}
}
