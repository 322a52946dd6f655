package validate

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"

	"hyper2kvm/agent/qemu"
	"hyper2kvm/agent/secret"
)

const (
	// promptGrace is how long a prompt that nobody can answer may stand.
	promptGrace = 20 * time.Second
	// keyPause is the time between keys: a keyboard's buffer holds 16 bytes.
	keyPause = 80 * time.Millisecond
	// maxTyped bounds what is typed, in bytes: longer keys are files.
	maxTyped = 512
)

// typist answers guests that ask for the passphrase of an encrypted volume, on
// the console on which they ask.
type typist struct {
	keys   []string
	asks   *regexp.Regexp
	wrong  *regexp.Regexp
	typed  map[string]int // answers by prompt
	waited time.Time      // since when a prompt stands that is not answered
	line   string         // that prompt
}

func newTypist(keys []secret.Value) *typist {
	t := &typist{
		// initramfs-tools and plymouth; systemd; cryptsetup itself (dracut, Alpine,
		// Arch), GRUB
		asks:  regexp.MustCompile(`(?i)^.*(?:please unlock disk .*|please enter passphrase for disk .*|enter passphrase for .*)[:!]`),
		wrong: regexp.MustCompile(`(?i)bad password or options|no key available with this passphrase|passphrase incorrect|access denied`),
		typed: map[string]int{},
	}
	for _, k := range keys {
		if text := string(bytes.TrimRight(k, "\r\n")); canType(text) {
			t.keys = append(t.keys, text)
		}
	}
	return t
}

// canType reports whether a key is one that a person could type.
func canType(key string) bool {
	for _, r := range key {
		if _, ok := qcodes(r); !ok {
			return false
		}
	}
	return key != "" && len(key) <= maxTyped
}

// answer types a passphrase where one is asked for, once for each time: where the
// text says again and again that it was wrong, the next one.
func (t *typist) answer(ctx context.Context, vm *qemu.VM, serial, screen string, progress func(string)) {
	t.line = ""
	for _, on := range []struct {
		text string
		send func(context.Context, *qemu.VM, string) error
	}{{serial, typeSerial}, {screen, typeKeys}} {
		line, times := t.prompt(on.text)
		if line == "" || t.typed[line] >= times {
			continue
		}
		if t.typed[line] >= len(t.keys) {
			t.line = line
			continue
		}
		key := t.keys[t.typed[line]]
		t.typed[line]++
		progress("types the passphrase at: " + line)
		if err := on.send(ctx, vm, key); err != nil {
			progress(fmt.Sprintf("cannot type the passphrase: %v", err))
		}
	}
	if t.line == "" {
		t.waited = time.Time{}
	} else if t.waited.IsZero() {
		t.waited = time.Now()
	}
}

// prompt is the last prompt in a text, and how many answers it may have had: one
// for each time that it stands there, or that one was called wrong.
func (t *typist) prompt(text string) (last string, times int) {
	count, wrong := map[string]int{}, 0
	for l := range strings.SplitSeq(text, "\n") {
		if m := t.asks.FindString(l); m != "" {
			last = strings.TrimSpace(m)
			count[last]++
		}
		if t.wrong.MatchString(l) {
			wrong++
		}
	}
	return last, max(count[last], 1+wrong)
}

// stuck says what the guest waits for that nobody can give, once it has for a
// while.
func (t *typist) stuck(now time.Time) string {
	switch {
	case t.waited.IsZero() || now.Sub(t.waited) < promptGrace:
		return ""
	case len(t.keys) == 0:
		return "the guest asks for the passphrase of an encrypted volume, and none that can be typed was given: " + t.line
	}
	return "the guest asks for a passphrase again after every one that was given: " + t.line
}

// hide takes passphrases out of a text that a guest wrote: it may have shown one.
func (t *typist) hide(text string) string {
	for _, k := range t.keys {
		text = strings.ReplaceAll(text, k, "(passphrase)")
	}
	return text
}

// hideIn is hide for a file.
func (t *typist) hideIn(path string) error {
	if len(t.keys) == 0 {
		return nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("look for passphrases in console's text: %w", err)
	}
	if now := t.hide(string(data)); now != string(data) {
		if err := os.WriteFile(path, []byte(now), 0o600); err != nil {
			return fmt.Errorf("take passphrases out of console's text: %w", err)
		}
	}
	return nil
}

func typeSerial(_ context.Context, vm *qemu.VM, key string) error { return vm.Type([]byte(key + "\r")) }

// typeKeys presses keys as on a keyboard of the United States, which is what an
// initramfs has where nothing else was set.
func typeKeys(ctx context.Context, vm *qemu.VM, key string) error {
	for _, r := range key + "\n" {
		codes, _ := qcodes(r) // all can be typed
		keys := make([]map[string]string, len(codes))
		for i, c := range codes {
			keys[i] = map[string]string{"type": "qcode", "data": c}
		}
		if err := vm.Execute(ctx, "send-key", map[string]any{"keys": keys, "hold-time": 20}, nil); err != nil {
			return fmt.Errorf("press a key: %w", err)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(keyPause):
		}
	}
	return nil
}

// qcodes are the keys to press together for a character (QEMU, qapi/ui.json,
// QKeyCode).
func qcodes(r rune) ([]string, bool) {
	const (
		plain   = "`1234567890-=[]\\;',./"
		shifted = "~!@#$%^&*()_+{}|:\"<>?"
	)
	names := []string{"grave_accent", "1", "2", "3", "4", "5", "6", "7", "8", "9", "0", "minus", "equal",
		"bracket_left", "bracket_right", "backslash", "semicolon", "apostrophe", "comma", "dot", "slash"}
	switch {
	case r >= 'a' && r <= 'z':
		return []string{string(r)}, true
	case r >= 'A' && r <= 'Z':
		return []string{"shift", string(r - 'A' + 'a')}, true
	case r == ' ':
		return []string{"spc"}, true
	case r == '\n':
		return []string{"ret"}, true
	}
	if i := strings.IndexRune(plain, r); i >= 0 {
		return []string{names[i]}, true
	}
	if i := strings.IndexRune(shifted, r); i >= 0 {
		return []string{"shift", names[i]}, true
	}
	return nil, false
}
