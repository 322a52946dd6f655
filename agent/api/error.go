package api

import (
	"errors"
	"fmt"
)

// Code is the stable name of a kind of failure. What to do next and which exit
// code it gives stands in one table, in the command line.
type Code string

// The codes. Scripts rely on them; they are never reused.
const (
	CodeUsage          Code = "H2K-USAGE"
	CodeInternal       Code = "H2K-INTERNAL"
	CodeInterrupted    Code = "H2K-INTERRUPTED"
	CodeSourceMissing  Code = "H2K-SOURCE-MISSING"
	CodeSourceRead     Code = "H2K-SOURCE-READ"   // unreadable: permissions or I/O error
	CodeSourceServer   Code = "H2K-SOURCE-SERVER" // an NBD server: not there, or not with this export
	CodeNotAFile       Code = "H2K-SOURCE-NOT-A-DISK"
	CodeEmpty          Code = "H2K-SOURCE-EMPTY"
	CodeUnknownFormat  Code = "H2K-FORMAT-UNKNOWN"
	CodeUnsupported    Code = "H2K-FORMAT-UNSUPPORTED"
	CodePart           Code = "H2K-FORMAT-PART" // one part of a disk, which is to be opened through its descriptor
	CodeTruncated      Code = "H2K-FORMAT-TRUNCATED"
	CodeCorrupt        Code = "H2K-FORMAT-CORRUPT"
	CodeSectorSize     Code = "H2K-SECTOR-SIZE"
	CodeChain          Code = "H2K-CHAIN-BROKEN"
	CodePolicy         Code = "H2K-POLICY"
	CodeDescription    Code = "H2K-MACHINE-DESCRIPTION"  // an OVA, OVF or VMX file that cannot be used
	CodeMachineFile    Code = "H2K-MACHINE-FILE-MISSING" // a file that it names
	CodeWhichMachine   Code = "H2K-WHICH-MACHINE"
	CodeWhichDisk      Code = "H2K-WHICH-DISK"
	CodeDigest         Code = "H2K-MANIFEST-DIGEST"
	CodeSignature      Code = "H2K-MANIFEST-SIGNATURE"
	CodeInPlace        Code = "H2K-IN-PLACE"
	CodeOutputExists   Code = "H2K-OUTPUT-EXISTS"
	CodeOutputIsSource Code = "H2K-OUTPUT-IS-SOURCE"
	CodeOutput         Code = "H2K-OUTPUT"
	CodeNoSpace        Code = "H2K-NO-SPACE"
	CodeHelper         Code = "H2K-HELPER-VM"
	CodeHelperImage    Code = "H2K-HELPER-IMAGE"
	CodeHost           Code = "H2K-HOST"
	CodeNoRoot         Code = "H2K-GUEST-UNKNOWN"
	CodeManyRoots      Code = "H2K-GUEST-MANY-ROOTS"
	CodeEncrypted      Code = "H2K-GUEST-ENCRYPTED"
	CodeKey            Code = "H2K-KEY" // a key that a plan refers to and that cannot be had
	CodeHibernated     Code = "H2K-GUEST-HIBERNATED"
	CodeGuestSpace     Code = "H2K-GUEST-NO-SPACE"
	CodeGuestDamaged   Code = "H2K-GUEST-DAMAGED"
	CodeKernel         Code = "H2K-GUEST-KERNEL"
	CodeFix            Code = "H2K-FIX"
	CodeUndo           Code = "H2K-UNDO"
	CodeBusy           Code = "H2K-IN-USE"
	CodeNotBooted      Code = "H2K-NOT-BOOTED"
	CodeJob            Code = "H2K-JOB"
	CodeSSHConfig      Code = "H2K-SSH-CONFIG"
	CodeConnect        Code = "H2K-SSH-CONNECT"
	CodeHostKey        Code = "H2K-SSH-HOST-KEY"
	CodeLogin          Code = "H2K-SSH-LOGIN"
	CodePrivilege      Code = "H2K-SSH-PRIVILEGE" // logged in, but neither root nor able to become it
	CodeGuestFiles     Code = "H2K-SSH-FILES"     // the guest offers no way to its files
	CodeLost           Code = "H2K-SSH-LOST"      // the connection ended midway
	CodeGuestReadOnly  Code = "H2K-GUEST-READ-ONLY"
	CodeGuestImmutable Code = "H2K-GUEST-IMMUTABLE"
)

// Error says what failed, on which object, and why. It crosses the wire.
type Error struct {
	Code   Code   `json:"code"`
	Action string `json:"action"`           // "open source"
	Object string `json:"object,omitempty"` // "web01.vmdk"
	Reason string `json:"reason"`
	Detail string `json:"detail,omitempty"` // more lines: a console's last lines, a chain as a tree
	cause  error
}

// NewError makes an Error from its cause.
func NewError(code Code, action, object string, cause error) *Error {
	return &Error{Code: code, Action: action, Object: object, Reason: cause.Error(), cause: cause}
}

// Errorf makes an Error whose reason is formatted; %w keeps the cause.
func Errorf(code Code, action, object, format string, args ...any) *Error {
	return NewError(code, action, object, fmt.Errorf(format, args...))
}

func (e *Error) Error() string {
	if e.Object == "" {
		return fmt.Sprintf("%s: %s", e.Action, e.Reason)
	}
	return fmt.Sprintf("%s %s: %s", e.Action, e.Object, e.Reason)
}

func (e *Error) Unwrap() error { return e.cause }

// AsError returns err as an *Error; one that is not yet becomes CodeInternal.
func AsError(err error) *Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return NewError(CodeInternal, "run", "", err)
}

// Status is how a run that ended with this code ended.
func (c Code) Status() Status {
	switch c {
	case CodeInterrupted:
		return Interrupted
	case CodePart, CodeNoRoot, CodeManyRoots, CodeEncrypted, CodeHibernated, CodeGuestSpace, CodeGuestDamaged, CodeKernel,
		CodePolicy, CodeBusy, CodeSectorSize, CodeOutputExists, CodeOutputIsSource,
		CodeWhichMachine, CodeWhichDisk, CodeSignature, CodeInPlace,
		CodeHostKey, CodePrivilege, CodeGuestFiles, CodeGuestReadOnly, CodeGuestImmutable:
		return Refused
	}
	return Failed
}
