package api_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hyper2kvm/agent/api"
)

func TestLoadAgent(t *testing.T) {
	name := filepath.Join(t.TempDir(), "qga.deb")
	if err := os.WriteFile(name, []byte("package"), 0o644); err != nil {
		t.Fatal(err)
	}
	o := api.FixOptions{AgentPackages: []string{name}}
	if err := o.LoadAgent(); err != nil || len(o.AgentContents) != 1 || string(o.AgentContents[0]) != "package" {
		t.Errorf("%q, %v", o.AgentContents, err)
	}
	none := api.FixOptions{}
	if err := none.LoadAgent(); err != nil || none.AgentContents != nil {
		t.Errorf("no package is %q, %v", none.AgentContents, err)
	}
	absent := api.FixOptions{AgentPackages: []string{name, name + ".rpm"}}
	if err := absent.LoadAgent(); err == nil || !strings.Contains(err.Error(), "package of the guest agent") {
		t.Errorf("a package that is not there: %v", err)
	}
	there := api.FixOptions{AgentPackages: []string{"elsewhere.deb"}, AgentContents: [][]byte{[]byte("sent")}}
	if err := there.LoadAgent(); err != nil || string(there.AgentContents[0]) != "sent" {
		t.Errorf("a package that came with the plan: %q, %v", there.AgentContents, err)
	}
}
