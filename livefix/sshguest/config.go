package sshguest

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/kevinburke/ssh_config"

	"hyper2kvm/agent/api"
)

// Target says which guest to reach, and how where that differs from the user's
// SSH configuration.
type Target struct {
	Host       string // name or address, or an alias of the configuration
	User       string
	Port       int
	Identities []string // key files, tried first
	KnownHosts string   // file of known hosts in place of the configured ones
	// AcceptNew writes the key of a host that is not known yet. A changed key
	// is refused all the same.
	AcceptNew bool
	// SudoPassword is what sudo is told when it asks; "" asks the user.
	SudoPassword string
}

// Local is what this machine has for SSH.
type Local struct {
	Home, User string
	ConfigFile string // -F; "" is ~/.ssh/config and /etc/ssh/ssh_config
	AgentAddr  string // SSH_AUTH_SOCK
	// Ask asks the user; nil where there is nobody to ask.
	Ask func(question string, secret bool) (string, error)
	// Warn tells what was seen and left; it may be nil.
	Warn func(format string, args ...any)
}

func (l Local) warn(format string, args ...any) {
	if l.Warn != nil {
		l.Warn(format, args...)
	}
}

// hop is one SSH server on the way, the guest or a jump host before it.
type hop struct {
	name       string // as the user called it
	host, port string
	user       string
	identities []string
	only       bool // no other keys of the agent
	knownHosts []string
	keyAlias   string // name that its key is known under
	hashNew    bool   // new lines of known hosts are hashed
	acceptNew  bool
	batch      bool // nobody is to be asked
	jump       []string
}

func (h *hop) address() string { return net.JoinHostPort(h.host, h.port) }

// keyName is the name under which the host's key is known.
func (h *hop) keyName() string {
	if h.keyAlias != "" {
		return net.JoinHostPort(h.keyAlias, "22")
	}
	return h.address()
}

// settings are the files of ssh_config(5), first come first served.
type settings struct {
	files []*ssh_config.Config
	local Local
}

// readSettings reads the user's and the system's configuration.
func readSettings(l Local) (*settings, error) {
	names := []string{filepath.Join(l.Home, ".ssh", "config"), "/etc/ssh/ssh_config"}
	if l.ConfigFile != "" {
		names = []string{l.ConfigFile}
	}
	s := &settings{local: l}
	for _, name := range names {
		if name == "none" {
			continue
		}
		data, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) && l.ConfigFile == "" {
			continue
		}
		if err != nil {
			return nil, api.NewError(api.CodeSSHConfig, "read SSH configuration", name, err)
		}
		file, err := ssh_config.DecodeBytes(withoutMatch(data, func(line int, text string) {
			l.warn("%s line %d: %q is not understood here; what stands below it is left out", name, line, text)
		}))
		if err != nil {
			return nil, api.NewError(api.CodeSSHConfig, "read SSH configuration", name, err)
		}
		s.files = append(s.files, file)
	}
	return s, nil
}

// withoutMatch comments out the Match blocks that the parser does not know:
// those that depend on a command, a user, or the network. It keeps the lines'
// numbers.
func withoutMatch(data []byte, left func(line int, text string)) []byte {
	var out bytes.Buffer
	skip, n := false, 0
	for line := range bytes.Lines(data) {
		n++
		words := strings.Fields(strings.Replace(string(line), "=", " ", 1))
		if len(words) > 0 {
			switch strings.ToLower(words[0]) {
			case "host":
				skip = false
			case "match":
				simple := len(words) == 2 && strings.EqualFold(words[1], "all") || len(words) == 3 && strings.EqualFold(words[1], "host")
				if skip = !simple; skip {
					left(n, strings.TrimSpace(string(line)))
				}
			}
		}
		if skip {
			out.WriteByte('#')
		}
		out.Write(line)
	}
	return out.Bytes()
}

// get gives the first value of a keyword for an alias.
func (s *settings) get(alias, key string) (string, error) {
	for _, f := range s.files {
		v, err := f.Get(alias, key)
		if err != nil {
			return "", api.NewError(api.CodeSSHConfig, "read SSH configuration for", alias, err)
		}
		if v != "" {
			return strings.Trim(v, `"`), nil
		}
	}
	return "", nil
}

// all gives every value of a keyword that adds up, such as IdentityFile.
func (s *settings) all(alias, key string) ([]string, error) {
	var out []string
	for _, f := range s.files {
		v, err := f.GetAll(alias, key)
		if err != nil {
			return nil, api.NewError(api.CodeSSHConfig, "read SSH configuration for", alias, err)
		}
		out = append(out, v...)
	}
	return out, nil
}

// hop puts together how to reach t.Host. Of a jump host only name, user and
// port are said; all else comes from the configuration.
func (s *settings) hop(t Target) (*hop, error) {
	word := map[string]string{}
	for _, key := range []string{"HostName", "Port", "User", "IdentitiesOnly", "UserKnownHostsFile", "GlobalKnownHostsFile",
		"StrictHostKeyChecking", "HostKeyAlias", "HashKnownHosts", "BatchMode", "ProxyJump", "ProxyCommand"} {
		v, err := s.get(t.Host, key)
		if err != nil {
			return nil, err
		}
		word[key] = v
	}
	h := &hop{
		name: t.Host, host: strings.ReplaceAll(cmp.Or(word["HostName"], t.Host), "%h", t.Host),
		port: cmp.Or(word["Port"], "22"), user: cmp.Or(t.User, word["User"], s.local.User),
		only: yes(word["IdentitiesOnly"]), keyAlias: word["HostKeyAlias"], hashNew: yes(word["HashKnownHosts"]),
		acceptNew: t.AcceptNew || word["StrictHostKeyChecking"] == "accept-new", batch: yes(word["BatchMode"]),
	}
	if t.Port != 0 {
		h.port = strconv.Itoa(t.Port)
	}
	if n, err := strconv.ParseUint(h.port, 10, 16); err != nil || n == 0 {
		return nil, api.Errorf(api.CodeSSHConfig, "reach", t.Host, "port %q is none", h.port)
	}
	if v := word["StrictHostKeyChecking"]; v == "no" || v == "off" {
		s.local.warn("StrictHostKeyChecking %s is not followed: an unknown key is refused without --accept-new", v)
	}
	if v := word["ProxyCommand"]; v != "" && v != "none" && word["ProxyJump"] == "" {
		return nil, api.Errorf(api.CodeSSHConfig, "reach", t.Host, "ProxyCommand %q is not supported: name the host to pass through with ProxyJump", v)
	}
	if v := word["ProxyJump"]; v != "" && !strings.EqualFold(v, "none") {
		h.jump = strings.Split(v, ",")
	}
	h.knownHosts = s.knownHosts(t, h, word["UserKnownHostsFile"], word["GlobalKnownHostsFile"])
	var err error
	h.identities, err = s.identities(t, h)
	return h, err
}

func yes(v string) bool { return strings.EqualFold(v, "yes") || strings.EqualFold(v, "true") }

func (s *settings) knownHosts(t Target, h *hop, user, global string) []string {
	if t.KnownHosts != "" {
		return []string{t.KnownHosts}
	}
	files := append(strings.Fields(cmp.Or(user, "~/.ssh/known_hosts ~/.ssh/known_hosts2")),
		strings.Fields(cmp.Or(global, "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2"))...)
	var out []string
	for _, f := range files {
		if f != "none" {
			out = append(out, s.path(f, h))
		}
	}
	return out
}

// identities lists the key files: those asked for, those configured, or else
// the usual ones.
func (s *settings) identities(t Target, h *hop) ([]string, error) {
	out := slices.Clone(t.Identities)
	configured, err := s.all(t.Host, "IdentityFile")
	if err != nil {
		return nil, err
	}
	for _, f := range configured {
		if f != "" && f != "none" {
			out = append(out, s.path(f, h))
		}
	}
	if len(out) == 0 {
		for _, name := range []string{"id_rsa", "id_ecdsa", "id_ed25519"} {
			out = append(out, filepath.Join(s.local.Home, ".ssh", name))
		}
	}
	return out, nil
}

// path replaces the tokens of ssh_config(5) that name a file for a host.
func (s *settings) path(name string, h *hop) string {
	name = strings.Trim(name, `"`)
	if rest, ok := strings.CutPrefix(name, "~/"); ok {
		name = filepath.Join(s.local.Home, rest)
	}
	name = strings.NewReplacer("%%", "%", "%d", s.local.Home, "%h", h.host, "%n", h.name, "%p", h.port,
		"%r", h.user, "%u", s.local.User).Replace(name)
	if !filepath.IsAbs(name) {
		name = filepath.Join(s.local.Home, ".ssh", name)
	}
	return name
}

// maxHops bounds a chain of jump hosts.
const maxHops = 8

// way lists the servers to pass, the guest last.
func (s *settings) way(t Target) ([]*hop, error) {
	last, err := s.hop(t)
	if err != nil {
		return nil, err
	}
	way := []*hop{last}
	jumps := last.jump
	for len(jumps) > 0 {
		if len(way) == maxHops {
			return nil, api.Errorf(api.CodeSSHConfig, "reach", t.Host, "more than %d jump hosts, or they lead in a circle", maxHops-1)
		}
		// Nearest to the guest first: what one of them jumps over itself counts
		// for the first of the list alone, as in ssh_config(5).
		spec := jumps[len(jumps)-1]
		jumps = jumps[:len(jumps)-1]
		j, err := parseJump(spec)
		if err != nil {
			return nil, err
		}
		j.KnownHosts, j.AcceptNew = t.KnownHosts, t.AcceptNew
		h, err := s.hop(j)
		if err != nil {
			return nil, err
		}
		if len(jumps) == 0 {
			jumps = h.jump
		}
		way = append(way, h)
	}
	slices.Reverse(way)
	return way, nil
}

// parseJump reads [user@]host[:port] or ssh://[user@]host[:port].
func parseJump(spec string) (Target, error) {
	t, err := ParseTarget(strings.TrimSpace(spec))
	if err != nil {
		return t, api.NewError(api.CodeSSHConfig, "read ProxyJump", spec, err)
	}
	return t, nil
}

// ParseTarget reads [ssh://][user@]host[:port].
func ParseTarget(spec string) (Target, error) {
	rest := strings.TrimSuffix(strings.TrimPrefix(spec, "ssh://"), "/")
	var t Target
	if at := strings.LastIndex(rest, "@"); at >= 0 {
		t.User, rest = rest[:at], rest[at+1:]
		if t.User == "" {
			return Target{}, fmt.Errorf("%q names no user before the @", spec)
		}
	}
	t.Host = rest
	if host, port, err := net.SplitHostPort(rest); err == nil {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return Target{}, fmt.Errorf("%q: port %q is none", spec, port)
		}
		t.Host, t.Port = host, int(n)
	}
	t.Host = strings.TrimSuffix(strings.TrimPrefix(t.Host, "["), "]")
	if t.Host == "" || strings.HasPrefix(t.Host, "-") || strings.ContainsAny(t.Host, " \t\n/'\"") {
		return Target{}, fmt.Errorf("%q names no host", spec)
	}
	return t, nil
}
