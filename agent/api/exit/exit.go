// Package exit is the table of exit codes that scripts rely on, the same for
// every program of this project.
package exit

import "hyper2kvm/agent/api"

// The exit codes.
const (
	Done        = 0
	Failed      = 1
	Usage       = 2
	Refused     = 3
	Unproven    = 4
	Interrupted = 130
)

// Of is the exit code of a run that ended with an error of this code.
func Of(code api.Code) int {
	switch code {
	case api.CodeUsage:
		return Usage
	case api.CodeNotBooted:
		return Unproven
	}
	switch code.Status() {
	case api.Interrupted:
		return Interrupted
	case api.Refused:
		return Refused
	}
	return Failed
}
