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
	o := api.FixOptions{AgentPackage: name}
	if err := o.LoadAgent(); err != nil || string(o.AgentContent) != "package" {
		t.Errorf("%q, %v", o.AgentContent, err)
	}
	none := api.FixOptions{}
	if err := none.LoadAgent(); err != nil || none.AgentContent != nil {
		t.Errorf("no package is %q, %v", none.AgentContent, err)
	}
	absent := api.FixOptions{AgentPackage: name + ".rpm"}
	if err := absent.LoadAgent(); err == nil || !strings.Contains(err.Error(), "package of the guest agent") {
		t.Errorf("a package that is not there: %v", err)
	}
	there := api.FixOptions{AgentPackage: "elsewhere.deb", AgentContent: []byte("sent")}
	if err := there.LoadAgent(); err != nil || string(there.AgentContent) != "sent" {
		t.Errorf("a package that came with the plan: %q, %v", there.AgentContent, err)
	}
}
