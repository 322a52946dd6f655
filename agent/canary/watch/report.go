// Package watch is the canary's life inside a guest that is being booted for
// proof: it watches systemd until the guest has come up, or given up, and says
// so over a virtio-serial port.
//
// It is kept small, because the binary built from it is copied into guests.
package watch

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// Port is the name of the virtio-serial port that the reports go to.
const Port = "org.hyper2kvm.canary"

// Mark starts a report's line where it shares a serial console with others,
// because the guest's kernel knows no virtio-serial.
const Mark = "h2k-canary "

// Event says what a Report stands for.
type Event string

// The events.
const (
	// Alive is sent as soon as the canary can speak, and again while it waits.
	Alive Event = "alive"
	// Up is final: the default target is reached and no job is left to run.
	Up Event = "up"
	// Down is final: the guest sits in its emergency or rescue target.
	Down Event = "down"
)

// Report is one line of what the canary says.
type Report struct {
	Event      Event       `json:"event"`
	State      string      `json:"state"`             // `systemctl is-system-running`
	Failed     []string    `json:"failed,omitempty"`  // failed units
	Waiting    []string    `json:"waiting,omitempty"` // units whose jobs still run
	Interfaces []Interface `json:"interfaces,omitempty"`
	Kernel     string      `json:"kernel,omitempty"`
	Root       string      `json:"root,omitempty"`   // device of the root file system
	RootType   string      `json:"fstype,omitempty"` // and its type
	Uptime     float64     `json:"uptime,omitempty"` // seconds since the kernel started
}

// Interface is a network interface other than the loopback.
type Interface struct {
	Name      string   `json:"name"`
	MAC       string   `json:"mac"`
	Addresses []string `json:"addresses,omitempty"` // CIDR
}

// maxLine bounds a line of a guest: nothing it says is taken on trust.
const maxLine = 256 << 10

// Parse reads one line of a guest. A line that is no report gives an error.
func Parse(line []byte) (Report, error) {
	var r Report
	if len(line) > maxLine {
		return r, fmt.Errorf("canary's line has %d bytes, more than %d", len(line), maxLine)
	}
	if _, after, found := bytes.Cut(line, []byte(Mark)); found {
		line = after
	}
	if err := json.Unmarshal(bytes.TrimSpace(line), &r); err != nil {
		return r, fmt.Errorf("read canary's line: %w", err)
	}
	switch r.Event {
	case Alive, Up, Down:
		return r, nil
	}
	return r, fmt.Errorf("canary's line has the unknown event %q", r.Event)
}
