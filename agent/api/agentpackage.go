package api

import (
	"fmt"
	"io"
	"os"
)

// maxAgentPackage bounds a package that travels in a plan, in bytes; those of
// distributions have less than one MiB.
const maxAgentPackage = 32 << 20

// LoadAgent reads the packages of the guest agent into the options, unless they
// are there or none is named.
func (o *FixOptions) LoadAgent() error {
	if len(o.AgentContents) > 0 {
		return nil
	}
	var contents [][]byte
	for _, name := range o.AgentPackages {
		data, err := readPackage(name)
		if err != nil {
			return NewError(CodeUsage, "read package of the guest agent", name, err)
		}
		contents = append(contents, data)
	}
	o.AgentContents = contents
	return nil
}

func readPackage(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read only
	data, err := io.ReadAll(io.LimitReader(f, maxAgentPackage+1))
	if err == nil && len(data) > maxAgentPackage {
		err = fmt.Errorf("it is larger than %d bytes", maxAgentPackage)
	}
	return data, err
}
