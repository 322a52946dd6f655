package bootmenu

import "strings"

// EnvSize is the size of GRUB's environment block, which its header begins and
// "#" fills up (GRUB manual, "The GRUB environment block"; grub/lib/envblk.h).
const (
	EnvSize   = 1024
	EnvHeader = "# GRUB Environment Block\n"
)

// Env is an environment block.
type Env struct{ vars []string }

// ParseEnv reads a block. It is false for what is none, or a damaged one: GRUB
// writes to the block in place, so that its size must be right.
func ParseEnv(data []byte) (*Env, bool) {
	if len(data) != EnvSize || !strings.HasPrefix(string(data), EnvHeader) {
		return nil, false
	}
	vars := string(data[len(EnvHeader):])
	if strings.HasSuffix(vars, "#\n") { // an editor's, not GRUB's
		vars = vars[:len(vars)-1]
	}
	vars = strings.TrimRight(vars, "#")
	if vars == "" {
		return &Env{}, true
	}
	if !strings.HasSuffix(vars, "\n") {
		return nil, false
	}
	return &Env{strings.Split(strings.TrimSuffix(vars, "\n"), "\n")}, true
}

// Get gives a variable.
func (e *Env) Get(name string) (string, bool) {
	for _, v := range e.vars {
		if value, ok := strings.CutPrefix(v, name+"="); ok {
			return strings.ReplaceAll(value, `\\`, `\`), true
		}
	}
	return "", false
}

// Set changes a variable, or adds it.
func (e *Env) Set(name, value string) {
	now := name + "=" + strings.ReplaceAll(value, `\`, `\\`)
	for i, v := range e.vars {
		if strings.HasPrefix(v, name+"=") {
			e.vars[i] = now
			return
		}
	}
	e.vars = append(e.vars, now)
}

// Bytes gives the block, and false where the variables do not fit.
func (e *Env) Bytes() ([]byte, bool) {
	out := EnvHeader
	for _, v := range e.vars {
		out += v + "\n"
	}
	if len(out) > EnvSize {
		return nil, false
	}
	return []byte(out + strings.Repeat("#", EnvSize-len(out))), true
}
