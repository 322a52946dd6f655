package validate

import (
	"image"
	"image/color"
	"os"
	"strings"
	"testing"

	"hyper2kvm/agent/api"
)

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		text  string
		state api.VerdictState
		why   string
	}{
		{"", "", ""},
		{"[    1.0] virtio_blk virtio1: [vda] 8388608 512-byte logical blocks\nweb01 login: ", "", ""},
		{"[    2.1] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)", api.Panic, "unknown-block(0,0)"},
		{"ALERT!  /dev/sda1 does not exist.  Dropping to a shell!\n\n\n(initramfs) ", api.Emergency, "/dev/sda1 does not exist"},
		{"[ TIME ] Timed out waiting for device dev-sdb1.device - /dev/sdb1.\n[DEPEND] Dependency failed for data.mount\n" +
			"You are in emergency mode. After logging in, type \"journalctl -xb\"", api.Emergency, "dev-sdb1.device"},
		{"Cannot open access to console, the root account is locked.", api.Emergency, "locked"},
		{"Warning: /dev/mapper/vg0-root does not exist\n\nEntering emergency mode. Exit the shell to continue.", api.Emergency, "vg0-root does not exist"},
		{"error: no such device: 0b6c5f3e.\nEntering rescue mode...\ngrub rescue> ", api.NoLoader, "no such device"},
		{"   Minimal BASH-like line editing is supported. For the first word, TAB", api.NoLoader, "BASH-like"},
		{"BdsDxe: No bootable option or device was found.", api.NoLoader, "BdsDxe"},
		// One device of several did not boot: nothing is decided by that.
		{"Boot failed: not a bootable disk\nBooting from Hard Disk...", "", ""},
		// A guest that only speaks of such things is not in such a state.
		{"systemd[1]: Condition check resulted in Emergency Shell being skipped.", "", ""},
		{"cat: type grub> at the prompt, or (initramfs) later", "", ""},
	} {
		state, why := newRulebook().judge(c.text)
		if state != c.state || !strings.Contains(why, c.why) {
			t.Errorf("judge(%q) = %q, %q; want %q with %q", c.text, state, why, c.state, c.why)
		}
	}
}

func TestLoginPrompt(t *testing.T) {
	for text, want := range map[string]bool{
		"Debian GNU/Linux 12 web01 ttyS0\n\nweb01 login: ":  true,
		"db-01.example.org login: root":                     true,
		"pam_unix(login:session): session opened":           false,
		"Give root password for login: ":                    false,
		"last login: never, says the log of web01 login ok": false,
	} {
		if _, got := newRulebook().hasLogin(text); got != want {
			t.Errorf("hasLogin(%q) = %v", text, got)
		}
	}
}

func TestTerminalControlIsTakenOut(t *testing.T) {
	got := newCleaner().clean("\x1b[2J\x1b[01;01HBdsDxe: loading\r\n\x1b[10;01H\x1b[1m\x1b[33mShell> \x1b[0m\x1b]0;title\x07\x07x\x1b")
	want := "\n\nBdsDxe: loading\n\nShell> x"
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestStreamKeepsItsEnd(t *testing.T) {
	s := &stream{}
	for range 3 {
		if _, err := s.Write([]byte(strings.Repeat("x", textBytes))); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Write([]byte("the end")); err != nil {
		t.Fatal(err)
	}
	text, seen := s.text(newCleaner())
	if len(text) != textBytes || !strings.HasSuffix(text, "the end") || seen != 3*textBytes+7 {
		t.Errorf("%d bytes kept of %d seen", len(text), seen)
	}
}

// TestScreenIsRead draws text as a console does and reads it back.
func TestScreenIsRead(t *testing.T) {
	f, err := loadFont(vgaBIOSes())
	if err != nil {
		if os.Getenv("H2K_REQUIRE_VM") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	glyphOf := map[byte]glyph{}
	for g, c := range f {
		glyphOf[c] = g
	}
	lines := []string{"[ 1.23] Kernel panic - not syncing: VFS!", "(initramfs) ~# {|} 0Oo1lI", "reversed text"}
	for _, width := range []int{720, 1280} {
		cell := 8
		if width == 720 {
			cell = 9
		}
		p := image.NewRGBA(image.Rect(0, 0, width, 400))
		fill(p, color.RGBA{0, 0, 0, 255}, p.Rect)
		for row, line := range lines {
			ink, paper := color.RGBA{170, 170, 170, 255}, color.RGBA{0, 0, 170, 255}
			if row == 2 {
				ink, paper = paper, ink
			}
			for col := range len(line) {
				draw(p, glyphOf[line[col]], col*cell, row*cellHeight, cell, ink, paper)
			}
		}
		got := strings.Split(f.read(p), "\n")
		for row, want := range lines {
			if got[row] != want {
				t.Errorf("width %d: read %q, want %q", width, got[row], want)
			}
		}
	}
}

func fill(p *image.RGBA, c color.RGBA, r image.Rectangle) {
	for y := r.Min.Y; y < r.Max.Y; y++ {
		for x := r.Min.X; x < r.Max.X; x++ {
			p.SetRGBA(x, y, c)
		}
	}
}

func draw(p *image.RGBA, g glyph, x0, y0, cell int, ink, paper color.RGBA) {
	fill(p, paper, image.Rect(x0, y0, x0+cell, y0+cellHeight))
	for y := range cellHeight {
		for x := range 8 {
			if g[y]&(0x80>>x) != 0 {
				p.SetRGBA(x0+x, y0+y, ink)
			}
		}
	}
}

func TestFontInDamagedBIOS(t *testing.T) {
	whole := append(make([]byte, 100), append(make([]byte, cellHeight), 0, 0, 0x7e, 0x81, 0xa5, 0x81, 0x81, 0xbd, 0x99, 0x81, 0x81, 0x7e, 0, 0, 0, 0)...)
	if findFont(whole) != nil || findFont(nil) != nil {
		t.Error("a font was found in a file that ends in it")
	}
}

func TestUEFIFirmwareIsNamed(t *testing.T) {
	if _, err := findUEFI([]UEFIImage{{"/nonexistent/code", "/nonexistent/vars"}}); err == nil || !strings.Contains(err.Error(), "ovmf") {
		t.Errorf("error %v does not name the package", err)
	}
}
