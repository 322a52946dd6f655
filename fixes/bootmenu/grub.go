package bootmenu

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Grub is a configuration of GRUB 2.
type Grub struct {
	// Nodes are the menu: entries and submenus in order.
	Nodes []*Node
	// Default is what the menu starts when nobody chooses: a number, title or id,
	// those of submenus before it, parted by ">". "" is the first entry;
	// "${saved_entry}" is told by the environment block.
	Default string
	// BLS says that the entries of the Boot Loader Specification are in the
	// menu, too: after the first Before of Nodes.
	BLS    bool
	Before int
	// Commands are the names by which kernels are loaded: "linux", "linux16"
	// (BIOS only), "linuxefi" (UEFI only).
	Commands []string

	defaultLines []int
}

// Node is an entry or a submenu.
type Node struct {
	Title, ID string
	Entry     *Entry // nil for a submenu
	Kids      []*Node
	parent    *Node
}

var (
	setDefault = regexp.MustCompile(`^([ \t]*set[ \t]+default=)(.*)$`)
	loadLinux  = regexp.MustCompile(`^linux(?:16|efi)?$`)
)

// ParseGrub reads a configuration.
func ParseGrub(data []byte) *Grub {
	g := &grubParser{Grub: &Grub{}}
	for i, l := range lines(data) {
		g.line(i, text(l))
	}
	return g.Grub
}

type grubParser struct {
	*Grub
	blocks []*Node // nil for a block that is no part of the menu
}

// top is the menu node that a line is in, nil at top level.
func (g *grubParser) top() *Node {
	for _, n := range slices.Backward(g.blocks) {
		if n != nil {
			return n
		}
	}
	return nil
}

func (g *grubParser) line(i int, l string) {
	if m := setDefault.FindStringSubmatch(l); m != nil && g.top() == nil {
		// next_entry is for one boot only; grub-reboot(8) sets it.
		if w := words(m[2]); len(w) <= 1 && !strings.Contains(m[2], "next_entry") {
			g.Default = strings.Join(w, "")
			g.defaultLines = append(g.defaultLines, i)
		}
		return
	}
	w := words(l)
	if len(w) == 0 {
		return
	}
	switch {
	case w[0] == "}":
		if n := len(g.blocks); n > 0 {
			g.close(i, g.blocks[n-1])
			g.blocks = g.blocks[:n-1]
		}
	case w[len(w)-1] == "{":
		g.blocks = append(g.blocks, g.open(i, w))
	case w[0] == "blscfg" && g.top() == nil && !g.BLS:
		g.BLS, g.Before = true, len(g.Nodes)
	default:
		if n := g.top(); n != nil && n.Entry != nil {
			g.command(n.Entry, w)
		}
	}
}

func (g *grubParser) close(i int, n *Node) {
	if n != nil && n.Entry != nil {
		n.Entry.Last = i
	}
}

// open begins a block; it is nil where that is no part of the menu.
func (g *grubParser) open(i int, w []string) *Node {
	if w[0] != "menuentry" && w[0] != "submenu" || len(w) < 3 {
		return nil
	}
	n := &Node{Title: w[1], parent: g.top()}
	for j, x := range w[2 : len(w)-1] {
		// The variable holds --id where the GRUB that reads it knows ids.
		if x == "$menuentry_id_option" || x == "--id" {
			n.ID = w[j+3]
		} else if id, ok := strings.CutPrefix(x, "--id="); ok {
			n.ID = id
		}
	}
	if n.ID == "{" {
		n.ID = ""
	}
	if w[0] == "menuentry" {
		n.Entry = &Entry{ID: n.ID, Title: n.Title, First: i, Last: i}
	}
	if n.parent != nil {
		n.parent.Kids = append(n.parent.Kids, n)
	} else {
		g.Nodes = append(g.Nodes, n)
	}
	return n
}

func (g *grubParser) command(e *Entry, w []string) {
	if len(w) < 2 {
		return
	}
	switch {
	case loadLinux.MatchString(w[0]):
		e.Kernel, e.Args = w[1], strings.Join(w[2:], " ")
		if !slices.Contains(g.Commands, w[0]) {
			g.Commands = append(g.Commands, w[0])
		}
	case slices.Contains([]string{"initrd", "initrd16", "initrdefi"}, w[0]):
		e.Initrds = w[1:]
	case w[0] == "multiboot" || w[0] == "multiboot2" || w[0] == "xen_hypervisor":
		e.Xen = true
	case e.Xen && (w[0] == "module" || w[0] == "module2" || w[0] == "xen_module"):
		file := slices.DeleteFunc(w[1:], func(s string) bool { return strings.HasPrefix(s, "--") })
		switch {
		case len(file) == 0:
		case e.Kernel == "":
			e.Kernel, e.Args = file[0], strings.Join(file[1:], " ")
		default:
			e.Initrds = append(e.Initrds, file[0])
		}
	}
}

// Name is what a default says to mean the node: the ids, or titles, from the top
// down. ">" in one of them is doubled (grub-core/normal/menu.c).
func (n *Node) Name() string {
	one := n.ID
	if one == "" {
		one = strings.ReplaceAll(n.Title, ">", ">>")
	}
	if n.parent != nil {
		return n.parent.Name() + ">" + one
	}
	return one
}

// Entries lists the entries of nodes, those of submenus in their place.
func Entries(nodes []*Node) []*Node {
	var out []*Node
	for _, n := range nodes {
		if n.Entry != nil {
			out = append(out, n)
		}
		out = append(out, Entries(n.Kids)...)
	}
	return out
}

// Find is the entry that a default means among nodes. GRUB takes the first one
// where a name is not there, and where a submenu is meant.
func Find(nodes []*Node, name string) *Node {
	for len(nodes) > 0 {
		part, rest := cutName(name)
		n := nodes[0]
		if i := index(nodes, part); i >= 0 {
			n = nodes[i]
		} else {
			rest = ""
		}
		if n.Entry != nil {
			return n
		}
		nodes, name = n.Kids, rest
	}
	return nil
}

func index(nodes []*Node, name string) int {
	if i, err := strconv.Atoi(name); err == nil && i >= 0 && i < len(nodes) {
		return i
	}
	return slices.IndexFunc(nodes, func(n *Node) bool {
		return name != "" && (n.ID == name || n.Title == strings.ReplaceAll(name, ">>", ">"))
	})
}

// cutName takes the first part off a name; ">>" is no border.
func cutName(name string) (part, rest string) {
	for i := 0; i < len(name); i++ {
		if name[i] != '>' {
			continue
		}
		if i+1 < len(name) && name[i+1] == '>' {
			i++
			continue
		}
		return name[:i], name[i+1:]
	}
	return name, ""
}

// SetGrubDefault makes another entry the default: in the place where the
// configuration names one, else at its beginning.
func SetGrubDefault(data []byte, name string) []byte {
	g := ParseGrub(data)
	if len(g.defaultLines) == 0 {
		return insert(data, 0, `set default="`+quoted(name)+`"`)
	}
	i := g.defaultLines[len(g.defaultLines)-1]
	m := setDefault.FindStringSubmatch(text(lines(data)[i]))
	return replace(data, i, m[1]+`"`+quoted(name)+`"`)
}

// quoted escapes what is special between double quotes (GRUB manual, "Quoting").
func quoted(s string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `\$`, "`", "\\`").Replace(s)
}
