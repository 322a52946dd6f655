// Package cmdline edits kernel command lines argument by argument: spacing,
// order and quoting of what is not touched stay as they are.
package cmdline

import (
	"slices"
	"strings"
)

// Args is one command line.
type Args struct {
	args []arg
	tail string // blanks after the last argument
	open bool
}

type arg struct {
	gap, text string
}

// Parse splits a command line at blanks. Quotes and backslashes hold an
// argument together, as for the kernel, GRUB and a shell alike.
func Parse(s string) *Args {
	a := &Args{}
	for s != "" {
		rest := strings.TrimLeft(s, " \t")
		gap := s[:len(s)-len(rest)]
		if rest == "" {
			a.tail = gap
			break
		}
		var n int
		n, a.open = length(rest)
		a.args = append(a.args, arg{gap, rest[:n]})
		s = rest[n:]
	}
	return a
}

// length is that of the argument that s begins with, and whether a quote in it
// is left open.
func length(s string) (n int, open bool) {
	var quote byte
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && quote != '\'':
			i++
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case c == ' ' || c == '\t':
			return i, false
		}
	}
	return len(s), quote != 0 || strings.HasSuffix(s, `\`)
}

// String gives the command line as it stands now.
func (a *Args) String() string {
	var b strings.Builder
	for _, x := range a.args {
		b.WriteString(x.gap)
		b.WriteString(x.text)
	}
	b.WriteString(a.tail)
	return b.String()
}

// Open reports whether the last argument goes on beyond the text: a quote is not
// closed, or a backslash stands at the end. Nothing can be added to such a line.
func (a *Args) Open() bool { return a.open }

// All lists the arguments as written.
func (a *Args) All() []string {
	out := make([]string, len(a.args))
	for i, x := range a.args {
		out[i] = x.text
	}
	return out
}

// Values lists the values of the arguments key=value.
func (a *Args) Values(key string) []string {
	var out []string
	for _, x := range a.args {
		if k, v, ok := Split(x.text); ok && k == key {
			out = append(out, v)
		}
	}
	return out
}

// Has reports whether there is an argument key=value, or key alone.
func (a *Args) Has(key string) bool {
	return slices.ContainsFunc(a.args, func(x arg) bool {
		k, _, _ := Split(x.text)
		return k == key
	})
}

// Split takes an argument apart at its first "=" and takes a quote around the
// whole of it, or around the value, off.
func Split(text string) (key, value string, ok bool) {
	key, value, ok = strings.Cut(unquote(text), "=")
	return key, unquote(value), ok
}

func unquote(s string) string {
	if n := len(s); n >= 2 && s[0] == s[n-1] && (s[0] == '"' || s[0] == '\'') {
		return s[1 : n-1]
	}
	return s
}

// Set replaces argument i.
func (a *Args) Set(i int, text string) { a.args[i].text = text }

// Remove takes argument i out, with the blanks before it.
func (a *Args) Remove(i int) {
	if i == 0 && len(a.args) > 1 {
		a.args[1].gap = a.args[0].gap
	}
	a.args = slices.Delete(a.args, i, i+1)
}

// Insert puts an argument before argument i; i may be the number of arguments.
func (a *Args) Insert(i int, text string) {
	gap := " "
	if i == 0 {
		gap = ""
		if len(a.args) > 0 {
			gap, a.args[0].gap = a.args[0].gap, " "
		}
	}
	a.args = slices.Insert(a.args, i, arg{gap, text})
}

// Add puts arguments at the end. A separator "--" or "---" ends the kernel's
// own arguments; they go before it.
func (a *Args) Add(texts ...string) {
	at := slices.IndexFunc(a.args, func(x arg) bool { return x.text == "--" || x.text == "---" })
	if at < 0 {
		at = len(a.args)
	}
	for i, text := range texts {
		a.Insert(at+i, text)
	}
}
