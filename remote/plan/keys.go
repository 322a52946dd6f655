package plan

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"

	"hyper2kvm/agent/api"
)

// known reports a key that a plan does not have, with the nearest that it has.
func known(key []string) error {
	typ := reflect.TypeFor[api.Plan]()
	for i, name := range key {
		for typ.Kind() == reflect.Slice {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct {
			return fmt.Errorf("%s has no keys", join(key[:i]))
		}
		field, names := find(typ, name)
		if field == nil {
			return fmt.Errorf("unknown key %q; nearest is %q", join(key[:i+1]), Nearest(name, names))
		}
		typ = field.Type
	}
	return nil
}

func find(typ reflect.Type, name string) (*reflect.StructField, []string) {
	var names []string
	for i := range typ.NumField() {
		f := typ.Field(i)
		tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if tag == name {
			return &f, nil
		}
		names = append(names, tag)
	}
	return nil, names
}

func join(key []string) string { return strings.Join(key, ".") }

func split(key string) []string { return strings.Split(key, ".") }

// tomlLine finds the line of a TOML key, which the parser does not tell: the
// first that has it or, for a key in an inline table, what holds it.
func tomlLine(data []byte, key []string) int {
	best, line := 0, 1
	var table []string
	n := 0
	for text := range bytes.Lines(data) {
		n++
		l := strings.TrimSpace(string(text))
		var full []string
		if head, ok := strings.CutPrefix(l, "["); ok {
			head, _, _ = strings.Cut(strings.TrimPrefix(head, "["), "]")
			table = tomlKey(head)
			full = table
		} else if name, _, ok := strings.Cut(l, "="); ok {
			full = append(table[:len(table):len(table)], tomlKey(name)...)
		} else {
			continue
		}
		if got := common(full, key); got > best {
			best, line = got, n
		}
	}
	return line
}

func tomlKey(s string) []string {
	parts := split(s)
	for i, p := range parts {
		parts[i] = strings.Trim(strings.TrimSpace(p), `"'`)
	}
	return parts
}

// common is how many parts of key a line's own key names, 0 where it leads
// elsewhere.
func common(line, key []string) int {
	for i, part := range line {
		if i >= len(key) || part != key[i] {
			return 0
		}
	}
	return len(line)
}

// Nearest is the name with the smallest edit distance.
func Nearest(name string, names []string) string {
	best, least := "", 1<<30
	for _, n := range names {
		if d := distance(name, n); d < least {
			best, least = n, d
		}
	}
	return best
}

// distance is Levenshtein's edit distance.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
