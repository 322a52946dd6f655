package validate

import (
	"regexp"
	"strings"

	"hyper2kvm/agent/api"
)

// rule tells a final state by what is written on a console.
type rule struct {
	State api.VerdictState
	Text  *regexp.Regexp // matched against one line
}

// rulebook is what a console's text is judged by.
type rulebook struct {
	rules  []rule
	causes []*regexp.Regexp
	login  *regexp.Regexp
}

func newRulebook() rulebook {
	// A getty's prompt is "web01 login:", and perhaps a name typed by nobody.
	return rulebook{rules(), causes(), regexp.MustCompile(`^[A-Za-z0-9._-]{1,64} login:\s*[A-Za-z0-9._-]*$`)}
}

// rules are tried in order on every line; a guest in one of these states does
// not leave it without help.
func rules() []rule {
	list := []struct {
		state api.VerdictState
		text  string
	}{
		{api.Panic, `Kernel panic - not syncing`},
		{api.Panic, `end Kernel panic`},
		// systemd, and sulogin under it
		{api.Emergency, `You are in (emergency|rescue) mode`},
		{api.Emergency, `Cannot open access to console, the root account is locked`},
		{api.Emergency, `Give root password for (maintenance|system maintenance)`},
		{api.Emergency, `Press Enter for (system )?maintenance`},
		// initramfs-tools, dracut, mkinitcpio, mkinitfs
		{api.Emergency, `^\(initramfs\)`},
		{api.Emergency, `Entering emergency mode\. Exit the shell to continue`},
		{api.Emergency, `^dracut:/#`},
		{api.Emergency, `You are now being dropped into an emergency shell`},
		{api.Emergency, `^\[rootfs (~|/)?\]#`},
		{api.Emergency, `initramfs emergency recovery shell launched`},
		// GRUB
		{api.NoLoader, `^grub rescue>`},
		{api.NoLoader, `Minimal BASH-like line editing is supported`},
		{api.NoLoader, `^grub>`},
		// SeaBIOS; its "Boot failed" is only about one device of several
		{api.NoLoader, `No bootable device`},
		// OVMF
		{api.NoLoader, `No bootable option or device was found`},
		{api.NoLoader, `UEFI Interactive Shell`},
		{api.NoLoader, `^Shell>`},
		// boot sectors of DOS, Windows and syslinux
		{api.NoLoader, `Missing operating system`},
		{api.NoLoader, `Operating system not found`},
		{api.NoLoader, `Error loading operating system`},
		{api.NoLoader, `Invalid partition table`},
	}
	out := make([]rule, len(list))
	for i, l := range list {
		out[i] = rule{l.state, regexp.MustCompile(l.text)}
	}
	return out
}

// causes tell why, in lines before the one that decides; the first rule that
// any line meets is the most telling.
func causes() []*regexp.Regexp {
	var out []*regexp.Regexp
	for _, text := range []string{
		`ALERT! .*does not exist`,
		`Warning: .*does not exist`,
		`VFS: (Unable to mount|Cannot open) root`,
		`Timed out waiting for device`,
		`Failed to mount`,
		`Gave up waiting for`,
		`Target filesystem doesn't have`,
		`Dependency failed for`,
		`Failed to start`,
		`^error: `,
		`failed to (load|start) Boot`,
		`Boot failed`,
	} {
		out = append(out, regexp.MustCompile(text))
	}
	return out
}

// judge looks at a whole text, the newest line last. Why is the line that
// decided, with the line before it that tells most about the cause.
func (b rulebook) judge(text string) (state api.VerdictState, why string) {
	lines := strings.Split(text, "\n")
	for _, r := range b.rules {
		for i, l := range lines {
			if !r.Text.MatchString(l) {
				continue
			}
			why := strings.TrimSpace(l)
			if c := b.cause(lines[:i]); c != "" {
				why = c + " | " + why
			}
			return r.State, why
		}
	}
	return "", ""
}

func (b rulebook) cause(lines []string) string {
	for _, c := range b.causes {
		for _, l := range lines {
			if c.MatchString(l) {
				return strings.TrimSpace(l)
			}
		}
	}
	return ""
}

func (b rulebook) hasLogin(text string) (string, bool) {
	for l := range strings.SplitSeq(text, "\n") {
		if b.login.MatchString(l) {
			return strings.TrimSpace(l), true
		}
	}
	return "", false
}
