package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/api/exit"
)

// The exit codes that scripts rely on.
const (
	exitDone        = exit.Done
	exitFailed      = exit.Failed
	exitUsage       = exit.Usage
	exitRefused     = exit.Refused
	exitUnproven    = exit.Unproven
	exitInterrupted = exit.Interrupted
)

func exitHelp() string {
	return "Exit codes: 0 done; 1 failed; 2 usage; 3 refused, the input is unsafe to touch;\n" +
		"4 done but not proven to boot; 130 interrupted."
}

// advice is what follows from an error's code.
type advice struct {
	code api.Code
	exit int
	next string
}

// advices is the one table from codes to exit codes and next steps.
func advices() []advice {
	return []advice{
		{api.CodeUsage, exitUsage, "h2k COMMAND --help shows what it takes"},
		{api.CodeInternal, exitFailed, "this is a defect in h2k: please report it with the command and its output"},
		{api.CodeInterrupted, exitInterrupted, "run the same command again"},
		{api.CodeSourceMissing, exitFailed, "check the path of the source"},
		{api.CodeSourceRead, exitFailed, "check that you may read the file (run as its owner or with sudo) and that its storage is well"},
		{api.CodeSourceServer, exitFailed, "check that the NBD server runs and has the export: nbd://HOST:PORT/EXPORT, nbds:// with TLS, nbd+unix:///EXPORT?socket=PATH"},
		{api.CodeNotAFile, exitFailed, "give the disk image itself, a file or block device"},
		{api.CodeEmpty, exitFailed, "the export or copy that made this file failed: make it again"},
		{api.CodeUnknownFormat, exitFailed, "give a disk image; h2k reads " + listed("source-format") + ". For a raw image without any signature add --source-format raw"},
		{api.CodeUnsupported, exitFailed, "convert the image with its own tool to a plain VMDK, qcow2 or raw first"},
		{api.CodePart, exitRefused, "give the descriptor in its place, the small text file ending in .vmdk that names this one: it says what else the disk is made of, and what it stands on. One that is lost can be written anew (VMware KB 1002511)"},
		{api.CodeTruncated, exitFailed, "the copy is not complete: copy the image again and compare sizes"},
		{api.CodeCorrupt, exitFailed, "the image is damaged: export it again from the source hypervisor"},
		{api.CodeSectorSize, exitRefused, "choose --format qcow2 or raw, whose domain XML keeps the sector size, or vhdx, which records it"},
		{api.CodeChain, exitFailed, "put the missing or right parent beside the image, or consolidate the snapshots on the source"},
		{api.CodePolicy, exitRefused, "an image, or a description, may name only files in its own folder or archive: move them there or, if you trust it, add --allow-outside; devices and URLs stay refused"},
		{api.CodeDescription, exitFailed, "export the machine again, as OVF 1 or 2, or give its disks themselves: h2k convert sda.vmdk sdb.vmdk -o OUT"},
		{api.CodeMachineFile, exitFailed, "put the file beside the description, where the export had it, or export the machine again"},
		{api.CodeWhichMachine, exitRefused, "choose one with --machine NAME"},
		{api.CodeWhichDisk, exitRefused, "choose one by its number: web01.ova#1; h2k disk info web01.ova lists them"},
		{api.CodeDigest, exitFailed, "the copy is damaged, or somebody changed it: copy the package again, or export the machine again"},
		{api.CodeSignature, exitRefused, "somebody changed the package after it was signed: get it again from where it comes from"},
		{api.CodeInPlace, exitRefused, "h2k convert SRC -o OUT writes repaired copies; disks that are files of their own can be named themselves"},
		{api.CodeOutputExists, exitRefused, "choose another -o, or replace it with --force"},
		{api.CodeOutputIsSource, exitRefused, "choose another -o: the source is never written. To repair in place use h2k fix --in-place"},
		{api.CodeOutput, exitFailed, "check the folder of the output: is it there, may you write to it?"},
		{api.CodeNoSpace, exitFailed, "free space on the output's file system, or choose another -o"},
		{api.CodeHelper, exitFailed, "h2k doctor looks for what is wrong; H2K_ACCEL=tcg forces the slow but sure accelerator"},
		{api.CodeHelperImage, exitFailed, "make appliance (or h2k image build) builds the helper image; --image-dir says where it is"},
		{api.CodeHost, exitFailed, "h2k doctor says what to install"},
		{api.CodeNoRoot, exitRefused, "if the disk holds no operating system, or one that h2k does not know, convert it as it is with --no-fix"},
		{api.CodeManyRoots, exitRefused, "choose one with --root UUID, or convert as it is with --no-fix"},
		{api.CodeEncrypted, exitRefused, "give the key of each volume: --key UUID:file:PATH (or :env:NAME, :keyring:DESCRIPTION, :prompt; all in place of the UUID tries one key on every volume). Without one, --no-fix converts as it is"},
		{api.CodeKey, exitFailed, "check that the file, variable or keyring entry is there and may be read; h2k takes the key from there when it runs"},
		{api.CodeHibernated, exitRefused, "resume the guest on the source and shut it down fully, then export it again"},
		{api.CodeGuestSpace, exitRefused, "free space in the guest (old kernels in /boot, logs, caches) and export it again"},
		{api.CodeGuestDamaged, exitRefused, "check the guest's file system on the source (fsck, xfs_repair), shut it down cleanly and export it again"},
		{api.CodeKernel, exitRefused, "install the named kernel on the source, start it there once, and export the guest again; --skip linux/kernel converts it as it is"},
		{api.CodeFix, exitFailed, "nothing was written; --skip FIX leaves the named fix out"},
		{api.CodeUndo, exitFailed, "nothing was written; files that changed since the repair are not taken back"},
		{api.CodeBusy, exitRefused, "shut down the guest, or end the program that has the image open, and run the command again"},
		{api.CodeNotBooted, exitUnproven, "look at the console text and the screenshot"},
		{api.CodeSSHConfig, exitFailed, "correct the line of the SSH configuration, or name another file with -F"},
		{api.CodeConnect, exitFailed, "check name and port of the machine, and that its SSH server runs"},
		{api.CodeHostKey, exitRefused, "compare the fingerprint with the machine's own: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub"},
		{api.CodeLogin, exitFailed, "check that ssh with the same user and key logs in"},
		{api.CodePrivilege, exitRefused, "log in as root, or as a user that may run everything with sudo"},
		{api.CodeGuestFiles, exitRefused, "install the SFTP server of OpenSSH in the guest"},
		{api.CodeLost, exitFailed, "run the same command again: it takes back what was cut short and completes it"},
		{api.CodeGuestReadOnly, exitRefused, "mount the guest's file system for writing and run the command again"},
		{api.CodeGuestImmutable, exitRefused, "chattr -i FILE lets the file be changed; run the command again then"},
		{api.CodeJob, exitFailed, "if no other h2k works on this, remove the job folder and run the command anew"},
	}
}

// advise finds the advice for a code; one that is not in the table is a defect.
func advise(code api.Code) advice {
	var unknown advice
	for _, a := range advices() {
		switch a.code {
		case code:
			return a
		case api.CodeInternal:
			unknown = a
		}
	}
	return unknown
}

// next is the next step after e, with the names of this run in it.
func (a *app) next(adv advice) string {
	if adv.code != api.CodeInterrupted || a.job == "" {
		return adv.next
	}
	if _, err := os.Stat(a.job); err != nil {
		return adv.next
	}
	return fmt.Sprintf("h2k resume %s goes on where it stopped", quoted(short(a.job)))
}

// quoted is a path as a shell takes it.
func quoted(path string) string {
	const plain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-+=./:,@%"
	if path != "" && strings.Trim(path, plain) == "" {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}

// fail prints the error and returns its exit code.
func (a *app) fail(err error) int {
	e := api.AsError(err)
	if e.Code == api.CodeInternal && !a.started {
		// cobra has no type for what it finds wrong with a command line, but
		// nothing else can fail before a command starts.
		e = api.NewError(api.CodeUsage, "read command line", "", err)
	}
	adv := advise(e.Code)
	if a.wantsJSON() {
		a.failJSON(e, adv)
		return adv.exit
	}
	object := short(e.Object)
	if object != "" {
		object = " " + object
	}
	fmt.Fprintf(a.Stderr, "error: %s%s: %s\n", safe(e.Action), object, safe(e.Reason))
	if e.Detail != "" {
		fmt.Fprintf(a.Stderr, "%s\n", indent(safeLines(e.Detail)))
	}
	fmt.Fprintf(a.Stderr, "code: %s\nnext: %s\n", e.Code, a.next(adv))
	return adv.exit
}

// failJSON prints the error as a line on stderr and, where no document was
// printed yet, as one on stdout.
func (a *app) failJSON(e *api.Error, adv advice) {
	if !a.printed {
		// Where stdout is what failed, stderr still has the error.
		_ = a.printJSON(&api.Report{Version: api.Version, Status: e.Code.Status(), Error: e})
	}
	line, _ := json.Marshal(struct {
		*api.Error
		Next string `json:"next"`
		Exit int    `json:"exit"`
	}{e, a.next(adv), adv.exit}) // strings and numbers always marshal
	fmt.Fprintf(a.Stderr, "%s\n", line)
}
