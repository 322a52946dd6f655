// Package plan reads plan documents: strictly, because a key that is silently
// ignored is a repair that silently does not happen.
package plan

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/BurntSushi/toml"
	"go.yaml.in/yaml/v4"

	"hyper2kvm/agent/api"
)

// maxSize bounds a plan document, in bytes; real ones have a few KiB.
const maxSize = 4 << 20

// Load reads a plan from a YAML or, by its extension, a TOML file. What the
// file does not say keeps the value that it has in base.
func Load(path string, base api.Plan) (*api.Plan, error) {
	data, err := read(path)
	if err != nil {
		return nil, err
	}
	if filepath.Ext(path) == ".toml" {
		return parseTOML(path, data, base)
	}
	return parseYAML(path, data, base)
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxSize {
		return nil, fmt.Errorf("%s: a plan has at most %d bytes", path, maxSize)
	}
	return data, nil
}

func parseTOML(path string, data []byte, base api.Plan) (*api.Plan, error) {
	var tree map[string]any
	meta, err := toml.Decode(string(data), &tree)
	if err != nil {
		if pe, ok := errors.AsType[toml.ParseError](err); ok {
			return nil, fmt.Errorf("%s: line %d: %s", path, pe.Position.Line, pe.Message)
		}
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	line := func(key []string) int { return tomlLine(data, key) }
	for _, key := range meta.Keys() {
		if err := known(key); err != nil {
			return nil, fmt.Errorf("%s: line %d: %w", path, line(key), err)
		}
	}
	return decode(path, tree, base, line)
}

func parseYAML(path string, data []byte, base api.Plan) (*api.Plan, error) {
	var doc, second yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(data))
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, fmt.Errorf("%s: empty plan", path)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := dec.Decode(&second); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: line %d: a second document; a plan is one", path, second.Line)
	}
	if len(doc.Content) == 0 || doc.Content[0].Kind != yaml.MappingNode {
		return nil, fmt.Errorf("%s: not a plan: a plan is keys and values", path)
	}
	lines := map[string]int{}
	if err := checkNode(path, doc.Content[0], nil, lines); err != nil {
		return nil, err
	}
	var tree map[string]any
	if err := doc.Decode(&tree); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return decode(path, tree, base, func(key []string) int { return lines[join(key)] })
}

// checkNode walks the keys and notes their lines.
func checkNode(path string, n *yaml.Node, at []string, lines map[string]int) error {
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := append(at[:len(at):len(at)], n.Content[i].Value)
			if err := known(key); err != nil {
				return fmt.Errorf("%s: line %d: %w", path, n.Content[i].Line, err)
			}
			if _, ok := lines[join(key)]; !ok {
				lines[join(key)] = n.Content[i].Line
			}
			if err := checkNode(path, n.Content[i+1], key, lines); err != nil {
				return err
			}
		}
	case yaml.SequenceNode:
		for _, c := range n.Content {
			if err := checkNode(path, c, at, lines); err != nil {
				return err
			}
		}
	case yaml.AliasNode:
		return fmt.Errorf("%s: line %d: a plan takes no aliases", path, n.Line)
	}
	return nil
}

// decode lays the checked tree over base; the field names are those of the
// plan's JSON form.
func decode(path string, tree map[string]any, base api.Plan, line func([]string) int) (*api.Plan, error) {
	data, err := json.Marshal(tree)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	p := base
	if err := json.Unmarshal(data, &p); err != nil {
		if te, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return nil, fmt.Errorf("%s: line %d: %s wants %s, has a %s", path, line(split(te.Field)), te.Field, te.Type, te.Value)
		}
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &p, nil
}
