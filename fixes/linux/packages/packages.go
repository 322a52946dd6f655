// Package packages reads what package managers have installed from the text
// databases that dpkg, apk and pacman keep, without running them.
package packages

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"hyper2kvm/fixes/guest"
)

// maxDatabase bounds what is read of a database, in bytes; Debian's status of a
// full desktop has about 10 MB.
const maxDatabase = 64 << 20

// Package is an installed package.
type Package struct {
	Name     string
	Provides []string
	// Needs lists its dependencies; one of the alternatives of each must be there.
	Needs [][]string
}

func read(tree guest.FS, name string) ([]byte, error) {
	f, err := tree.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read only
	data, err := io.ReadAll(io.LimitReader(f, maxDatabase+1))
	if err == nil && len(data) > maxDatabase {
		err = fmt.Errorf("%s is larger than %d bytes", name, maxDatabase)
	}
	return data, err
}

// Dpkg reads var/lib/dpkg/status (dpkg(1), deb-control(5)).
func Dpkg(tree guest.FS) ([]Package, error) {
	data, err := read(tree, "var/lib/dpkg/status")
	if err != nil {
		return nil, fmt.Errorf("read dpkg's database: %w", err)
	}
	return parseDpkg(data), nil
}

func parseDpkg(data []byte) []Package {
	var out []Package
	for paragraph := range bytes.SplitSeq(data, []byte("\n\n")) {
		p, installed := Package{}, false
		for _, f := range fields(paragraph) {
			switch f[0] {
			case "Package":
				p.Name = f[1]
			case "Status":
				// The last word is the state: want, flag, state.
				installed = strings.HasSuffix(f[1], " installed")
			case "Depends", "Pre-Depends":
				p.Needs = append(p.Needs, relations(f[1])...)
			case "Provides":
				for _, r := range relations(f[1]) {
					p.Provides = append(p.Provides, r...)
				}
			}
		}
		if installed && p.Name != "" {
			out = append(out, p)
		}
	}
	return out
}

// fields reads the fields of a paragraph; lines that go on a field are joined.
func fields(paragraph []byte) [][2]string {
	var out [][2]string
	for l := range strings.Lines(string(paragraph)) {
		l = strings.TrimRight(l, "\r\n")
		if l != "" && (l[0] == ' ' || l[0] == '\t') {
			if len(out) > 0 {
				out[len(out)-1][1] += " " + strings.TrimSpace(l)
			}
			continue
		}
		if key, value, ok := strings.Cut(l, ":"); ok {
			out = append(out, [2]string{key, strings.TrimSpace(value)})
		}
	}
	return out
}

// relations reads "a (>= 1) | b, c:any" as {a b} {c}.
func relations(text string) [][]string {
	var out [][]string
	for part := range strings.SplitSeq(text, ",") {
		var names []string
		for one := range strings.SplitSeq(part, "|") {
			if f := strings.FieldsFunc(one, func(r rune) bool { return strings.ContainsRune(" \t(:[<", r) }); len(f) > 0 {
				names = append(names, f[0])
			}
		}
		if len(names) > 0 {
			out = append(out, names)
		}
	}
	return out
}

// Apk reads lib/apk/db/installed (apk(5)).
func Apk(tree guest.FS) ([]Package, error) {
	data, err := read(tree, "lib/apk/db/installed")
	if err != nil {
		return nil, fmt.Errorf("read apk's database: %w", err)
	}
	return parseApk(data), nil
}

func parseApk(data []byte) []Package {
	var out []Package
	p := Package{}
	flush := func() {
		if p.Name != "" {
			out = append(out, p)
		}
		p = Package{}
	}
	for l := range strings.Lines(string(data)) {
		key, value, ok := strings.Cut(strings.TrimRight(l, "\r\n"), ":")
		switch {
		case !ok:
			flush()
		case key == "P":
			p.Name = value
		case key == "D":
			for _, d := range bareNames(value) {
				if d[0] != '!' { // a conflict
					p.Needs = append(p.Needs, []string{d})
				}
			}
		case key == "p":
			p.Provides = append(p.Provides, bareNames(value)...)
		}
	}
	flush()
	return out
}

// bareNames lists names without what restricts their version.
func bareNames(text string) []string {
	var out []string
	for _, f := range strings.Fields(text) {
		if i := strings.IndexAny(f, "<>=~"); i >= 0 {
			f = f[:i]
		}
		if f != "" {
			out = append(out, f)
		}
	}
	return out
}

// Pacman reads the folders of var/lib/pacman/local (pacman(8), alpm-db-desc).
func Pacman(tree guest.FS) ([]Package, error) {
	const dir = "var/lib/pacman/local"
	entries, err := tree.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read pacman's database: %w", err)
	}
	var out []Package
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		data, err := read(tree, path.Join(dir, e.Name(), "desc"))
		if err != nil {
			return nil, fmt.Errorf("read pacman's database: %w", err)
		}
		if p := parsePacman(data); p.Name != "" {
			out = append(out, p)
		}
	}
	return out, nil
}

func parsePacman(data []byte) Package {
	var p Package
	section := ""
	s := bufio.NewScanner(bytes.NewReader(data))
	for s.Scan() {
		switch l := s.Text(); {
		case strings.HasPrefix(l, "%"):
			section = l
		case l == "":
			section = ""
		case section == "%NAME%":
			p.Name = l
		case section == "%DEPENDS%":
			for _, d := range bareNames(l) {
				p.Needs = append(p.Needs, []string{d})
			}
		case section == "%PROVIDES%":
			p.Provides = append(p.Provides, bareNames(l)...)
		}
	}
	return p
}

// Kept is a package that has to stay, and the one that needs it.
type Kept struct{ Name, By string }

// Removable chooses of the installed packages those that are wanted gone and
// that nothing needs which stays.
func Removable(installed []Package, unwanted func(name string) bool) (names []string, kept []Kept) {
	gone := map[string]bool{}
	for _, p := range installed {
		if unwanted(p.Name) {
			gone[p.Name] = true
		}
	}
	for changed := true; changed; {
		changed = false
		providers := map[string][]string{}
		for _, p := range installed {
			for _, n := range append([]string{p.Name}, p.Provides...) {
				providers[n] = append(providers[n], p.Name)
			}
		}
		for _, p := range installed {
			if gone[p.Name] {
				continue
			}
			for _, need := range p.Needs {
				if name := lost(need, providers, gone); name != "" {
					delete(gone, name)
					kept = append(kept, Kept{name, p.Name})
					changed = true
				}
			}
		}
	}
	for name := range gone {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, kept
}

// lost names a package that must stay for a dependency: the first that satisfies
// it, where all that do are to go.
func lost(need []string, providers map[string][]string, gone map[string]bool) string {
	first := ""
	for _, alternative := range need {
		for _, name := range providers[alternative] {
			if !gone[name] {
				return ""
			}
			if first == "" {
				first = name
			}
		}
	}
	return first
}
