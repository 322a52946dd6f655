package cli

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// What the README says of h2k-livefix is understood by it.
func TestReadme(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	lines := regexp.MustCompile("`(h2k-livefix [^`]+)`").FindAllStringSubmatch(string(text), -1)
	if len(lines) < 4 {
		t.Errorf("only %d command lines", len(lines))
	}
	for _, m := range lines {
		a := &app{Env: Env{Ask: func(string, bool) (string, error) { return "", nil }}}
		root := a.root()
		if err := root.ParseFlags(strings.Fields(m[1])[1:]); err != nil {
			t.Errorf("%s: %v", m[1], err)
		} else if err := a.checkArgs(root.Flags().Args()); err != nil {
			t.Errorf("%s: %v", m[1], err)
		}
	}
	list := regexp.MustCompile("(?s)```yml\n(hosts:.*?)```").FindStringSubmatch(string(text))
	if list == nil {
		t.Fatal("the README shows no list of guests")
	}
	if got, err := parseHosts([]byte(list[1])); err != nil || len(got) != 2 {
		t.Errorf("%d guests, %v", len(got), err)
	}
}
