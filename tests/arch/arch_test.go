package arch

import (
	"os"
	"strings"
	"testing"
)

func TestTreeKeepsItsRules(t *testing.T) {
	all, err := Tree(os.DirFS("../.."))
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 100 {
		t.Fatalf("only %d files found: the rules would pass on nothing", len(all))
	}
	for _, r := range Rules() {
		t.Run(strings.ReplaceAll(r.Name, " ", "-"), func(t *testing.T) {
			for _, v := range r.Check(all) {
				t.Error(v)
			}
		})
	}
}

// TestEachRuleCanFail plants one violation for each rule.
func TestEachRuleCanFail(t *testing.T) {
	long := strings.Repeat("\t_ = 0\n", 101)
	planted := map[string][2]string{
		"imports follow the arrows":              {"remote/cli/x.go", "// Package cli is planted here.\npackage cli\nimport _ \"hyper2kvm/image/convert\"\n"},
		"outside modules stay in their room":     {"agent/x/x_linux.go", "package x\nimport _ \"github.com/vmware/govmomi/object\"\n"},
		"mains are small and in their place":     {"agent/x/main.go", "package main\n"},
		"no exit, init or background below main": {"agent/x/x.go", "package x\nimport \"os\"\nfunc F() { os.Exit(1) }\n"},
		"files are short":                        {"agent/x/x.go", "package x\n" + strings.Repeat("\n", 501)},
		"functions are short":                    {"agent/x/x.go", "package x\nfunc F() {\n" + long + "}\n"},
		"every package says what it is for":      {"agent/x/x.go", "package x\n"},
		"every parser has a fuzz target":         {"formats/vhs/vhs.go", "package vhs\n"},
		"no path of somebody's machine":          {"agent/x/x.go", "package x\n// see /wo" + "rk/main/x\n"},
	}
	for _, r := range Rules() {
		p, ok := planted[r.Name]
		if !ok {
			t.Errorf("no violation planted for %q", r.Name)
			continue
		}
		s, err := Parse(p[0], p[1])
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Check([]Source{s})) == 0 {
			t.Errorf("%q does not see its violation", r.Name)
		}
	}
	fixes, err := Parse("fixes/linux/x.go", "package linux\nimport _ \"hyper2kvm/formats/qcow2\"\n")
	if err != nil {
		t.Fatal(err)
	}
	if len(importArrows(fixes)) == 0 {
		t.Error("a fix may import a disk format")
	}
}
