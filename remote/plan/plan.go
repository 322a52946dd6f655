// Package plan reads plan documents: strictly, because a key that is silently
// ignored is a repair that silently does not happen.
package plan

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"github.com/BurntSushi/toml"
	"go.yaml.in/yaml/v4"

	"hyper2kvm/agent/api"
)

// maxSize bounds a plan document, in bytes; real ones have a few KiB.
const maxSize = 4 << 20

// Load reads a plan from a YAML or, by its extension, a TOML file.
func Load(path string) (*api.Plan, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxSize {
		return nil, fmt.Errorf("%d bytes: a plan has at most %d", info.Size(), maxSize)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if filepath.Ext(path) == ".toml" {
		return parseTOML(path, data)
	}
	return parseYAML(path, data)
}

func parseTOML(path string, data []byte) (*api.Plan, error) {
	var tree map[string]any
	meta, err := toml.Decode(string(data), &tree)
	if err != nil {
		var pe toml.ParseError
		if errors.As(err, &pe) {
			return nil, fmt.Errorf("%s: line %d: %s", path, pe.Position.Line, pe.Message)
		}
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for _, key := range meta.Keys() {
		if err := known(key); err != nil {
			return nil, fmt.Errorf("%s: line %d: %w", path, lineOf(data, key[len(key)-1]), err)
		}
	}
	return decode(path, tree)
}

// lineOf finds the line of a TOML key, which the parser does not tell.
func lineOf(data []byte, key string) int {
	for i, l := range strings.Split(string(data), "\n") {
		if l = strings.TrimLeft(l, " \t[\""); strings.HasPrefix(l, key) {
			return i + 1
		}
	}
	return 1
}

func parseYAML(path string, data []byte) (*api.Plan, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(doc.Content) == 0 {
		return nil, fmt.Errorf("%s: empty plan", path)
	}
	if err := checkNode(path, doc.Content[0], nil); err != nil {
		return nil, err
	}
	var tree map[string]any
	if err := doc.Decode(&tree); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return decode(path, tree)
}

// checkNode walks the keys with their lines.
func checkNode(path string, n *yaml.Node, at []string) error {
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := append(at[:len(at):len(at)], n.Content[i].Value)
			if err := known(key); err != nil {
				return fmt.Errorf("%s: line %d: %w", path, n.Content[i].Line, err)
			}
			if err := checkNode(path, n.Content[i+1], key); err != nil {
				return err
			}
		}
	case yaml.SequenceNode:
		for _, c := range n.Content {
			if err := checkNode(path, c, at); err != nil {
				return err
			}
		}
	}
	return nil
}

// known reports a key that a plan does not have, with the nearest that it has.
func known(key []string) error {
	typ := reflect.TypeFor[api.Plan]()
	for i, name := range key {
		for typ.Kind() == reflect.Slice {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct {
			return fmt.Errorf("%s has no keys", strings.Join(key[:i], "."))
		}
		field, names := find(typ, name)
		if field == nil {
			return fmt.Errorf("unknown key %q; nearest is %q", strings.Join(key[:i+1], "."), nearest(name, names))
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

// nearest is the name with the smallest edit distance.
func nearest(name string, names []string) string {
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

// decode turns the checked tree into a plan; the field names are those of the
// plan's JSON form.
func decode(path string, tree map[string]any) (*api.Plan, error) {
	data, err := json.Marshal(tree)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	p := &api.Plan{}
	if err := json.Unmarshal(data, p); err != nil {
		var te *json.UnmarshalTypeError
		if errors.As(err, &te) {
			return nil, fmt.Errorf("%s: %s wants %s, has a %s", path, te.Field, te.Type, te.Value)
		}
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}

// OfJob finds the job folder that name means, the folder itself or the output
// it belongs to, and reads its plan.
func OfJob(name string) (dir string, p *api.Plan, err error) {
	for _, dir := range []string{name, name + ".h2k-job"} {
		p, err := Load(filepath.Join(dir, "plan.yaml"))
		if err == nil {
			return dir, p, nil
		}
		if !errors.Is(err, fs.ErrNotExist) && !notDirectory(err) {
			return "", nil, err
		}
	}
	return "", nil, errors.New("there is no interrupted run to go on with")
}

// notDirectory says that the name is a file, as an output is.
func notDirectory(err error) bool {
	var pe *fs.PathError
	return errors.As(err, &pe) && strings.Contains(pe.Err.Error(), "not a directory")
}
