package cli

import (
	"encoding/json"
	"fmt"
	"strings"

	"hyper2kvm/agent/api"
)

// The exit codes that scripts rely on.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitRefused     = 3
	exitUnproven    = 4
	exitInterrupted = 130
)

func exitHelp() string {
	return "Exit codes: 0 done; 1 failed; 2 usage; 3 refused, the input is unsafe to touch;\n" +
		"4 done but not proven to boot; 130 interrupted."
}

// advice is what follows from an error's code.
type advice struct {
	exit int
	next string
}

// advise is the one table from codes to exit codes and next steps.
func advise(code api.Code) advice {
	switch code {
	case api.CodeUsage:
		return advice{exitUsage, "see h2k --help"}
	case api.CodeInterrupted:
		return advice{exitInterrupted, "h2k resume OUTPUT goes on where it stopped; the same command starts anew"}
	case api.CodeSourceMissing:
		return advice{exitFailed, "check the path of the source"}
	case api.CodeSourceRead:
		return advice{exitFailed, "check that you may read the file (run as its owner or with sudo) and that its storage is well"}
	case api.CodeNotAFile:
		return advice{exitFailed, "give the disk image itself, a file or block device"}
	case api.CodeEmpty:
		return advice{exitFailed, "the export or copy that made this file failed: make it again"}
	case api.CodeUnknownFormat:
		return advice{exitFailed, "give a disk image; h2k reads raw, VMDK and qcow2. For a raw image without any signature add --source-format raw"}
	case api.CodeUnsupported:
		return advice{exitFailed, "convert the image with its own tool to a plain VMDK, qcow2 or raw first"}
	case api.CodeTruncated:
		return advice{exitFailed, "the copy is not complete: copy the image again and compare sizes"}
	case api.CodeCorrupt:
		return advice{exitFailed, "the image is damaged: export it again from the source hypervisor"}
	case api.CodeChain:
		return advice{exitFailed, "put the missing or right parent beside the image, or consolidate the snapshots on the source"}
	case api.CodePolicy:
		return advice{exitRefused, "an image may name only files beside it: move the parent into the same folder if you trust it"}
	case api.CodeOutputExists:
		return advice{exitRefused, "choose another -o, or replace it with --force"}
	case api.CodeOutputIsSource:
		return advice{exitRefused, "choose another -o: the source is never written. To repair in place use h2k fix --in-place"}
	}
	return adviseHost(code)
}

func adviseHost(code api.Code) advice {
	switch code {
	case api.CodeOutput:
		return advice{exitFailed, "check the output's folder: does it exist, may you write there?"}
	case api.CodeNoSpace:
		return advice{exitFailed, "free space on the output's file system, or choose another -o"}
	case api.CodeHelper:
		return advice{exitFailed, "h2k doctor looks for what is wrong; H2K_ACCEL=tcg forces the slow but sure accelerator"}
	case api.CodeHelperImage:
		return advice{exitFailed, "make appliance (or h2k image build) builds the helper image; --image-dir says where it is"}
	case api.CodeHost:
		return advice{exitFailed, "h2k doctor says what to install"}
	case api.CodeNotBooted:
		return advice{exitUnproven, "look at the console text and the screenshot"}
	case api.CodeJob:
		return advice{exitFailed, "if no other h2k works on this, remove the job folder and run again"}
	}
	return adviseGuest(code)
}

func adviseGuest(code api.Code) advice {
	switch code {
	case api.CodeNoRoot:
		return advice{exitRefused, "if the disk holds no operating system, or one that h2k does not know, convert it as it is with --no-fix"}
	case api.CodeManyRoots:
		return advice{exitRefused, "choose one with --root UUID, or convert as it is with --no-fix"}
	case api.CodeEncrypted:
		return advice{exitRefused, "h2k cannot unlock it yet: convert as it is with --no-fix, and prepare the guest before the move"}
	case api.CodeHibernated:
		return advice{exitRefused, "resume the guest on the source and shut it down fully, then export it again"}
	case api.CodeGuestSpace:
		return advice{exitRefused, "free space in the guest (old kernels in /boot, logs, caches) and export it again"}
	case api.CodeGuestDamaged:
		return advice{exitRefused, "check the guest's file system on the source (fsck, xfs_repair), shut it down cleanly and export it again"}
	case api.CodeFix:
		return advice{exitFailed, "nothing was written. --skip FIX leaves the named fix out"}
	case api.CodeUndo:
		return advice{exitFailed, "nothing was written. Files that changed since the repair are not taken back"}
	}
	return advice{exitFailed, "this is a defect in h2k: please report it with the command and its output"}
}

// fail prints the error and returns its exit code.
func (a *app) fail(err error) int {
	e := api.AsError(err)
	adv := advise(e.Code)
	if e.Code == api.CodeInternal && isUsage(err) {
		e, adv = api.NewError(api.CodeUsage, "read command line", "", err), advise(api.CodeUsage)
	}
	if a.json {
		line, _ := json.Marshal(struct {
			*api.Error
			Next string `json:"next"`
			Exit int    `json:"exit"`
		}{e, adv.next, adv.exit})
		fmt.Fprintf(a.Stderr, "%s\n", line)
		return adv.exit
	}
	fmt.Fprintf(a.Stderr, "error: %s\n", safe(e.Error()))
	if e.Detail != "" {
		fmt.Fprintf(a.Stderr, "%s\n", indent(safeLines(e.Detail)))
	}
	fmt.Fprintf(a.Stderr, "code: %s\nnext: %s\n", e.Code, adv.next)
	return adv.exit
}

// isUsage recognises the errors that cobra makes of its own: it has no type
// for them.
func isUsage(err error) bool {
	return strings.HasPrefix(err.Error(), "unknown command") || strings.HasPrefix(err.Error(), "required flag") ||
		strings.HasPrefix(err.Error(), "unknown flag") || strings.HasPrefix(err.Error(), "if any flags in the group")
}
