package api

import (
	"fmt"
	"io"
	"os"
)

// maxAgentPackage bounds a package that travels in a plan, in bytes; those of
// distributions have less than one MiB.
const maxAgentPackage = 32 << 20

// LoadAgent reads the package of the guest agent into the options, unless it is
// there or none is named.
func (o *FixOptions) LoadAgent() error {
	if o.AgentPackage == "" || o.AgentContent != nil {
		return nil
	}
	f, err := os.Open(o.AgentPackage)
	if err != nil {
		return NewError(CodeUsage, "read package of the guest agent", o.AgentPackage, err)
	}
	defer func() { _ = f.Close() }() // read only
	data, err := io.ReadAll(io.LimitReader(f, maxAgentPackage+1))
	if err == nil && len(data) > maxAgentPackage {
		err = fmt.Errorf("it is larger than %d bytes", maxAgentPackage)
	}
	if err != nil {
		return NewError(CodeUsage, "read package of the guest agent", o.AgentPackage, err)
	}
	o.AgentContent = data
	return nil
}
