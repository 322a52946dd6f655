// Package reporthtml shows the report of a run as one HTML page that needs
// nothing else: no script, no file beside it, no network. It can be mailed,
// printed, and kept with the machine.
//
// Much of what it shows comes out of a guest's disk. All of it goes through
// html/template, which escapes by context, and the page forbids itself scripts
// and the network by a content security policy.
package reporthtml

import (
	_ "embed" // for the page
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"hyper2kvm/agent/api"
)

//go:embed page.html
var page string // never written to: embedding wants a variable

// Bounds of what goes into the page.
const (
	maxPicture = 8 << 20  // bytes of a screenshot
	maxConsole = 16 << 10 // bytes of the end of a console text
	maxLines   = 3000     // lines of one fix's diff
)

// Write writes the page. Screenshots and console texts are read from the paths
// that the report has, with read (nil is os.ReadFile); one that cannot be read
// is told in the page, since the rest of it is still worth having.
func Write(w io.Writer, r *api.Report, read func(name string) ([]byte, error)) error {
	if read == nil {
		read = os.ReadFile
	}
	t, err := template.New("page").Funcs(template.FuncMap{
		"bytes": formatBytes, "base": filepath.Base, "seconds": formatSeconds, "join": strings.Join,
	}).Parse(page)
	if err != nil {
		return fmt.Errorf("parse report page: %w", err)
	}
	if err := t.Execute(w, newView(r, read)); err != nil {
		return fmt.Errorf("write report page of %s: %w", r.Name, err)
	}
	return nil
}

// view is what the page shows, in its order.
type view struct {
	*api.Report
	Class    string // of the whole run: "good", "fair", "bad"
	Sentence string
	Tiles    []tile
	Boots    []boot
	Changed  []fix // with a diff, or failed
	Quiet    []fix // the others
	Guest    *guestView
	Bars     []bar
	Total    float64 // seconds
}

// tile is one figure at the top of the page.
type tile struct{ Label, Value, Note string }

// Long reports whether the value needs a smaller letter.
func (t tile) Long() bool { return len(t.Value) > 12 }

// boot is one verdict with its evidence.
type boot struct {
	api.Verdict
	Class   string
	Picture template.URL // data URI of the screenshot, "" when there is none
	Console string       // the end of the console text
	Note    string       // evidence that could not be read
}

// bar is one stage in the picture of the time.
type bar struct {
	api.StageTime
	Percent float64
	Index   int // chooses the colour
}

func newView(r *api.Report, read func(string) ([]byte, error)) *view {
	v := &view{Report: r}
	v.Class, v.Sentence = outcome(r)
	for _, verdict := range r.Verdicts {
		v.Boots = append(v.Boots, newBoot(verdict, read))
	}
	for _, f := range r.Fixes {
		x := newFix(f)
		if len(x.Files) > 0 || f.State == "failed" || f.State == "changed" || f.State == "planned" {
			v.Changed = append(v.Changed, x)
		} else {
			v.Quiet = append(v.Quiet, x)
		}
	}
	for _, s := range r.Stages {
		v.Total += s.Seconds
	}
	for i, s := range r.Stages {
		v.Bars = append(v.Bars, bar{StageTime: s, Percent: 100 * s.Seconds / max(v.Total, 1e-9), Index: i % 6})
	}
	if r.Guest != nil {
		v.Guest = newGuest(r.Guest)
	}
	v.Tiles = tiles(v)
	return v
}

// outcome puts the end of the run into one sentence.
func outcome(r *api.Report) (class, sentence string) {
	var booted, not []string
	for _, v := range r.Verdicts {
		if v.State == api.Booted {
			booted = append(booted, v.Bus)
		} else {
			not = append(not, v.Bus)
		}
	}
	switch r.Status {
	case api.Done:
		if len(booted) > 0 {
			return "good", "The machine boots: seen on " + listOf(booted) + "."
		}
		return "good", "All that was asked for is done. Booting was not part of this run."
	case api.Unproven:
		if len(booted) > 0 {
			return "fair", "Done, but the machine was not seen to boot on " + listOf(not) + ". It boots on " + listOf(booted) + "."
		}
		return "fair", "Done, but the machine was not seen to boot."
	case api.Refused:
		return "bad", "Refused before anything was changed: it was not safe to go on."
	case api.Interrupted:
		return "fair", "Interrupted before it was finished."
	}
	return "bad", "The run failed."
}

// listOf joins words as in a sentence.
func listOf(words []string) string {
	if n := len(words); n > 1 {
		return strings.Join(words[:n-1], ", ") + " and " + words[n-1]
	}
	return strings.Join(words, "")
}

func tiles(v *view) []tile {
	var out []tile
	if n := len(v.Boots); n > 0 {
		good := 0
		for _, b := range v.Boots {
			if b.Class == "good" {
				good++
			}
		}
		out = append(out, tile{"Boots", fmt.Sprintf("%d of %d", good, n), "buses tried"})
	}
	if v.Guest != nil {
		out = append(out, tile{"Guest", v.Guest.Name, v.Guest.Hostname})
	}
	if n := len(v.Fixes); n > 0 {
		changed := 0
		for _, f := range v.Fixes {
			if f.State == "changed" || f.State == "planned" {
				changed++
			}
		}
		out = append(out, tile{"Repairs", fmt.Sprint(changed), fmt.Sprintf("of %d looked into", n)})
	}
	if n := len(v.Disks); n > 0 {
		size := int64(0)
		for _, d := range v.Disks {
			size += d.Size
		}
		out = append(out, tile{"Disks", fmt.Sprint(n), formatBytes(size)})
	}
	if v.Total > 0 {
		accel, _, _ := strings.Cut(v.Accel, " (") // the reason for it stands at the foot
		out = append(out, tile{"Time", formatSeconds(v.Total), accel})
	}
	return out
}

func newBoot(v api.Verdict, read func(string) ([]byte, error)) boot {
	b := boot{Verdict: v, Class: "bad"}
	switch v.State {
	case api.Booted:
		b.Class = "good"
	case api.Timeout:
		b.Class = "fair"
	}
	var notes []string
	if v.Screenshot != "" {
		uri, err := picture(v.Screenshot, read)
		if err != nil {
			notes = append(notes, "screenshot: "+err.Error())
		}
		b.Picture = uri
	}
	if v.Console != "" {
		text, err := read(v.Console)
		if err != nil {
			notes = append(notes, "console text: "+err.Error())
		}
		b.Console = consoleEnd(text)
	}
	b.Note = strings.Join(notes, "; ")
	return b
}

// picture gives a PNG as a data URI. Nothing of it but letters of base64 gets
// into the page, so that it may be marked as a safe URL.
func picture(path string, read func(string) ([]byte, error)) (template.URL, error) {
	b, err := read(path)
	if err != nil {
		return "", err
	}
	if len(b) > maxPicture {
		return "", fmt.Errorf("%s has %d bytes", path, len(b))
	}
	// PNG specification, 5.2: the signature.
	if !strings.HasPrefix(string(b), "\x89PNG\r\n\x1a\n") {
		return "", fmt.Errorf("%s is no PNG", path)
	}
	return template.URL("data:image/png;base64," + base64.StdEncoding.EncodeToString(b)), nil
}

// consoleEnd is the end of a console text, from the begin of a line on,
// without what only a terminal understands.
func consoleEnd(text []byte) string {
	cut := len(text) > maxConsole
	if cut {
		text = text[len(text)-maxConsole:]
	}
	s := cleanTerminal(string(text))
	if _, rest, ok := strings.Cut(s, "\n"); cut && ok {
		s = rest
	}
	return strings.TrimSpace(s)
}

// formatBytes gives a size in binary units.
func formatBytes(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, unit := float64(n), 0
	for ; f >= 1023.95 && unit < 6; unit++ {
		f /= 1024
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", f), ".0") + " " + []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}[unit]
}

func formatSeconds(s float64) string {
	switch {
	case s < 10:
		return fmt.Sprintf("%.1f s", s)
	case s < 60:
		return fmt.Sprintf("%.0f s", s)
	}
	return strings.TrimSuffix(time.Duration(s*float64(time.Second)).Round(time.Second).String(), "0s")
}
