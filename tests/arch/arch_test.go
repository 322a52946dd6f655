package arch

import (
	"os"
	"strings"
	"testing"
)

func TestTreeKeepsItsRules(t *testing.T) {
	tree, err := Read(os.DirFS("../.."))
	if err != nil {
		t.Fatal(err)
	}
	if len(tree.Go) < 100 || len(tree.Texts) < 5 || len(tree.Top) < 5 {
		t.Fatalf("only %d Go files, %d texts and %d names found: the rules would pass on nothing", len(tree.Go), len(tree.Texts), len(tree.Top))
	}
	for _, r := range Rules() {
		t.Run(strings.ReplaceAll(r.Name, " ", "-"), func(t *testing.T) {
			for _, v := range r.Check(tree) {
				t.Error(v)
			}
		})
	}
}

// planted is a file and whether its rule must speak of it.
type planted struct {
	path, text string
	wrong      bool
}

func plantedFiles() map[string][]planted {
	const pkg = "// Package x is planted here to be found by the rule under test.\npackage x\n"
	long := "func F() {\n" + strings.Repeat("\t_ = 0\n", 101) + "}\n"
	machine := "// see /wo" + "rk/main/x\n"
	return map[string][]planted{
		"imports follow the arrows": {
			{"remote/cli/x.go", pkg + `import _ "hyper2kvm/image/convert"`, true},
			{"remote/plan/x.go", pkg + `import _ "hyper2kvm/agent/transfer"`, true},
			{"fixes/linux/x.go", pkg + `import _ "hyper2kvm/image/chain"`, true},
			{"fixes/linux/x.go", pkg + `import _ "hyper2kvm/formats/qcow2"`, true},
			{"formats/x/x_linux.go", pkg + `import _ "hyper2kvm/image/chain"`, true},
			{"agent/api/x.go", pkg + `import _ "hyper2kvm/agent/job"`, true},
			{"agent/x/x.go", "//go:build ignore\n\n" + pkg + `import _ "hyper2kvm/remote/plan"`, true},
			{"fixes/linux/x.go", pkg + `import _ "hyper2kvm/formats/cpio"`, false},
			{"agent/api/x.go", pkg + `import _ "hyper2kvm/fixes/guest"`, false},
			{"remote/cli/x_test.go", pkg + `import _ "hyper2kvm/agent/pipeline"`, false},
			{"remote/cmd/h2k/main.go", "package main\n" + `import _ "hyper2kvm/agent/pipeline"`, false},
		},
		"outside modules stay in their room": {
			{"agent/x/x_linux.go", pkg + `import _ "github.com/vmware/govmomi/object"`, true},
			{"remote/fleet/x.go", pkg + `import _ "github.com/pkg/sftp"`, true},
			{"formats/vhd/x.go", pkg + `import _ "os"`, true},
			{"remote/inventory/vsphere/x.go", pkg + `import _ "github.com/vmware/govmomi"`, false},
			{"formats/vhd/x_test.go", pkg + `import _ "os"`, false},
		},
		"mains are small and in their place": {
			{"agent/x/main.go", "package main\n", true},
			{"agent/cmd/x/main.go", "package main\n" + strings.Repeat("\n", 31), true},
			{"agent/cmd/x/more.go", "package main\n" + strings.Repeat("\n", 31), true},
			{"agent/cmd/x/main.go", "package main\n", false},
		},
		"no exit, init or background below main": {
			{"agent/x/x.go", pkg + "import \"os\"\nfunc F() { os.Exit(1) }\n", true},
			{"agent/x/x.go", pkg + "import sys \"os\"\nfunc F() { sys.Exit(1) }\n", true},
			{"agent/x/x.go", pkg + "import \"os\"\nfunc F() { _ = os.Chdir(``) }\n", true},
			{"agent/x/x.go", pkg + "import \"log\"\nfunc F() { log.Fatalf(``) }\n", true},
			{"agent/x/x.go", pkg + "import \"context\"\nfunc F() { _ = context.Background() }\n", true},
			{"agent/x/x.go", pkg + "func init() {}\n", true},
			{"agent/x/x.go", pkg + "import \"context\"\nfunc F() {\n\t// Cleanup outlives its context.\n\t_ = context.Background()\n}\n", false},
			{"agent/x/x.go", pkg + "type os struct{}\nfunc (os) Exit() {}\nfunc F() { var os os; os.Exit() }\n", false},
			{"agent/cmd/x/main.go", "package main\nimport \"os\"\nfunc main() { os.Exit(1) }\n", false},
		},
		"packages keep no state": {
			{"agent/x/x.go", pkg + "var n int\n", true},
			{"agent/x/x.go", pkg + "var (\n\tm = map[string]int{}\n)\n", true},
			{"agent/x/x.go", pkg + "import \"errors\"\nvar Err = errors.New(``)\nvar _ error = Err\n", false},
		},
		"files are short": {
			{"agent/x/x.go", pkg + strings.Repeat("\n", 501), true},
			{"agent/x/x_test.go", pkg + strings.Repeat("\n", 501), false},
		},
		"functions are short": {
			{"agent/x/x.go", pkg + long, true},
			{"agent/x/x.go", pkg + "func F() {\n" + strings.Repeat("\t_ = 0\n", 50) + "}\n", true},
			{"agent/x/x.go", pkg + "func F() {\n" + strings.Repeat("\t_ = 0\n", 30) + "}\n", false},
		},
		"interfaces are small": {
			{"agent/x/x.go", pkg + "type I interface {\n\tA()\n\tB()\n\tC()\n\tD()\n}\n", true},
			{"agent/x/x.go", pkg + "type I interface {\n\tA()\n\tB()\n\tC()\n}\n", false},
		},
		"every package says what it is for": {
			{"agent/x/x.go", "package x\n", true},
			{"agent/x/x.go", "// Package x.\npackage x\n", true},
			{"agent/x/x.go", pkg, false},
		},
		"every parser has a fuzz target": {
			{"formats/vhs/vhs.go", pkg, true},
			{"formats/vhs/vhs_test.go", pkg + "\nfunc FuzzOpen() {}\n", false},
		},
		"names say what is inside": {
			{"agent/utils/x.go", pkg, true},
			{"fixes/x/fix_windows.go", pkg, true},
			{"fixes/x/fix_windows_test.go", pkg, true},
			{"fixes/windows/fix.go", pkg, false},
			{"agent/x/x_linux.go", pkg, false},
		},
		"no path of somebody's machine": {
			{"agent/x/x.go", pkg + machine, true},
			{"tests/recipes/x.sh", machine, true},
			{"README.md", machine, true},
			{"agent/x/x.go", pkg, false},
		},
		"the top level is fixed": {
			{"docs", "", true},
			{"agent", "", false},
			{".gitignore", "", false},
		},
	}
}

// tree puts a planted file into a tree of its own.
func (p planted) tree(t *testing.T) Tree {
	t.Helper()
	if !strings.Contains(p.path, "/") && p.text == "" {
		return Tree{Top: []string{p.path}}
	}
	if !strings.HasSuffix(p.path, ".go") {
		return Tree{Texts: []Text{{p.path, p.text}}}
	}
	s, err := Parse(p.path, p.text)
	if err != nil {
		t.Fatal(err)
	}
	return Tree{Go: []Source{s}}
}

func TestRulesFindWhatIsPlantedAndNothingElse(t *testing.T) {
	all := plantedFiles()
	for _, r := range Rules() {
		if len(all[r.Name]) < 2 {
			t.Errorf("%q has no violation and no good file planted", r.Name)
		}
		for _, p := range all[r.Name] {
			if found := r.Check(p.tree(t)); (len(found) > 0) != p.wrong {
				t.Errorf("%q on %s:\n%s\nfinds %q, want a finding: %v", r.Name, p.path, p.text, found, p.wrong)
			}
		}
	}
}
