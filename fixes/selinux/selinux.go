// Package selinux looks up the label that a guest's SELinux policy gives a
// file, as matchpathcon(8) does: files that are made outside of the running
// guest have none, and the guest's programs may not read them then.
//
// The list of labels is described in file_contexts(5), its order and the
// aliases of folders as libselinux has them (libselinux/src/label_file.c).
package selinux

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

	"hyper2kvm/fixes/guest"
)

// Xattr is the extended attribute that holds a label, with a zero byte at its
// end.
const Xattr = "security.selinux"

// Bounds of what is read: a guest may be hostile. Fedora's list, the longest, has
// about 6500 lines.
const (
	maxFile = 8 << 20
	maxLine = 4 << 10
	maxSpec = 64 << 10
)

// Policy is the list of labels. It is for one goroutine.
type Policy struct {
	specs []*spec // the first that matches counts
	// local and dist are aliases of folders, in the order in which they count.
	local, dist []alias
}

type spec struct {
	stem    string // every path that matches begins with it
	pattern string
	kind    fs.FileMode
	any     bool   // of every kind
	label   string // "" is none
	re      *regexp.Regexp
	tried   bool
}

type alias struct{ from, to string }

// Load reads the policy that etc/selinux/config names. A guest without one is
// fs.ErrNotExist.
func Load(tree guest.FS) (*Policy, error) {
	config, err := read(tree, "etc/selinux/config")
	if err != nil {
		return nil, fmt.Errorf("load SELinux labels: %w", err)
	}
	base := path.Join("etc/selinux", policyName(config), "contexts/files/file_contexts")
	p := &Policy{}
	for _, suffix := range []string{"", ".homedirs", ".local"} {
		data, err := read(tree, base+suffix)
		if suffix != "" && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("load SELinux labels: %w", err)
		}
		p.add(data)
	}
	p.order()
	for suffix, to := range map[string]*[]alias{".subs": &p.local, ".subs_dist": &p.dist} {
		data, err := read(tree, base+suffix)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("load SELinux labels: %w", err)
		}
		*to = parseAliases(data)
	}
	return p, nil
}

func read(tree guest.FS, name string) ([]byte, error) {
	f, err := tree.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read only
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s is larger than %d bytes", name, maxFile)
	}
	return data, err
}

// policyName is SELINUXTYPE of selinux/config (selinux_config(5)).
func policyName(config []byte) string {
	name := "targeted"
	for l := range strings.Lines(string(config)) {
		value, ok := strings.CutPrefix(strings.TrimSpace(l), "SELINUXTYPE=")
		if ok && value != "" && !strings.ContainsAny(value, "/\x00") && value != ".." {
			name = strings.TrimSpace(value)
		}
	}
	return name
}

// Parse reads one list of labels (file_contexts(5)). Lines that are none are
// left out.
func Parse(data []byte) *Policy {
	p := &Policy{}
	p.add(data)
	p.order()
	return p
}

func (p *Policy) add(data []byte) {
	for l := range strings.Lines(string(data)) {
		f := strings.Fields(l)
		if len(f) < 2 || len(f) > 3 || f[0][0] == '#' || len(l) > maxLine || len(p.specs) == maxSpec {
			continue
		}
		s := &spec{pattern: f[0], any: true, label: f[len(f)-1]}
		if len(f) == 3 {
			kind, ok := kindOf(f[1])
			if !ok {
				continue
			}
			s.kind, s.any = kind, false
		}
		if s.label == "<<none>>" {
			s.label = ""
		}
		s.stem, _ = stemOf(s.pattern)
		p.specs = append(p.specs, s)
	}
}

// order puts what counts first to the front: a plain name before an expression,
// then the later line before the earlier.
func (p *Policy) order() {
	slices.Reverse(p.specs)
	slices.SortStableFunc(p.specs, func(a, b *spec) int {
		_, x := stemOf(a.pattern)
		_, y := stemOf(b.pattern)
		switch {
		case x == y:
			return 0
		case x:
			return -1
		}
		return 1
	})
}

// kindOf reads the file type field.
func kindOf(field string) (kind fs.FileMode, ok bool) {
	switch field {
	case "--":
		return 0, true
	case "-d":
		return fs.ModeDir, true
	case "-l":
		return fs.ModeSymlink, true
	case "-c":
		return fs.ModeDevice | fs.ModeCharDevice, true
	case "-b":
		return fs.ModeDevice, true
	case "-p":
		return fs.ModeNamedPipe, true
	case "-s":
		return fs.ModeSocket, true
	}
	return 0, false
}

// stemOf is what an expression begins with before its first special character,
// and whether it has none.
func stemOf(pattern string) (stem string, plain bool) {
	var b strings.Builder
	for i := 0; i < len(pattern); i++ {
		switch c := pattern[i]; c {
		case '.', '^', '$', '?', '*', '+', '|', '[', '(', '{':
			text := b.String()
			// The last character may be there no time at all.
			if text != "" && strings.IndexByte("?*{", c) >= 0 {
				text = text[:len(text)-1]
			}
			if strings.ContainsRune(pattern, '|') && !strings.ContainsRune(pattern, '(') {
				text = "" // an alternative of the whole
			}
			return text, false
		case '\\':
			if i++; i == len(pattern) || isWord(pattern[i]) {
				return b.String(), false // a class, as \d
			}
			b.WriteByte(pattern[i])
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), true
}

func isWord(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// matches compiles what it needs when it is needed: one lookup needs few of them.
func (s *spec) matches(name string) bool {
	if !strings.HasPrefix(name, s.stem) {
		return false
	}
	if !s.tried {
		s.tried = true
		// An expression that only Perl understands matches nothing here.
		s.re, _ = regexp.Compile("(?s)^" + s.pattern + "$")
	}
	return s.re != nil && s.re.MatchString(name)
}

func parseAliases(data []byte) []alias {
	var out []alias
	for l := range strings.Lines(string(data)) {
		f := strings.Fields(l)
		if len(f) == 2 && f[0][0] == '/' && f[1][0] == '/' {
			out = append(out, alias{f[0], f[1]})
		}
	}
	slices.Reverse(out)
	return out
}

// rename gives the path that the list knows a path by.
func rename(list []alias, name string) string {
	for _, a := range list {
		if rest, ok := strings.CutPrefix(name, a.from); ok && (rest == "" || rest[0] == '/') {
			if a.to == "/" && rest != "" {
				return rest
			}
			return a.to + rest
		}
	}
	return name
}

// Label gives the label of a file, named as in a guest.FS without a link in it;
// of mode only the type counts. It is "" where the policy has none for it.
func (p *Policy) Label(name string, mode fs.FileMode) string {
	full := "/" + name
	if name == "." {
		full = "/"
	}
	full = rename(p.dist, rename(p.local, full))
	for _, s := range p.specs {
		if (s.any || s.kind == mode.Type()) && s.matches(full) {
			return s.label
		}
	}
	return ""
}
