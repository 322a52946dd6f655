package nbd

// The protocol's numbers, all big endian on the wire. The source is
// https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md; its
// section names are given. Only what is used stands here.

// "Newstyle negotiation".
const (
	magicServer  = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption  = 0x49484156454f5054 // "IHAVEOPT"
	magicReply   = 0x0003e889045565a9
	zeroesLength = 124 // after NBD_OPT_EXPORT_NAME, unless NBD_FLAG_C_NO_ZEROES
)

// "Handshake flags" and "Client flags".
const (
	flagFixedNewstyle = 1 << 0
	flagNoZeroes      = 1 << 1
)

// "Option types".
const (
	optExportName      = 1
	optAbort           = 2
	optList            = 3
	optStartTLS        = 5
	optInfo            = 6
	optGo              = 7
	optStructuredReply = 8
	optListMeta        = 9
	optSetMeta         = 10
)

// "Option reply types".
const (
	repAck         = 1
	repServer      = 2
	repInfo        = 3
	repMetaContext = 4
	repError       = 1 << 31 // set in all that follow
	repErrUnsup    = 1<<31 + 1
	repErrInvalid  = 1<<31 + 3
	repErrTLSReqd  = 1<<31 + 5
	repErrUnknown  = 1<<31 + 6
	repErrTooBig   = 1<<31 + 9
)

// "NBD_REP_INFO".
const (
	infoExport      = 0
	infoName        = 1
	infoDescription = 2
	infoBlockSize   = 3
)

// "Transmission flags".
const (
	flagHasFlags     = 1 << 0
	flagReadOnly     = 1 << 1
	flagFlush        = 1 << 2
	flagFUA          = 1 << 3
	flagTrim         = 1 << 5
	flagWriteZeroes  = 1 << 6
	flagDF           = 1 << 7
	flagCanMultiConn = 1 << 8
	flagFastZero     = 1 << 11
)

// "Request message", "Simple reply message", "Structured reply chunk message".
const (
	magicRequest    = 0x25609513
	magicSimple     = 0x67446698
	magicStructured = 0x668e33ef
)

// "Request types".
const (
	cmdRead        = 0
	cmdWrite       = 1
	cmdDisc        = 2
	cmdFlush       = 3
	cmdTrim        = 4
	cmdWriteZeroes = 6
	cmdBlockStatus = 7
)

// "Command flags".
const (
	cmdFlagFUA      = 1 << 0
	cmdFlagNoHole   = 1 << 1
	cmdFlagDF       = 1 << 2
	cmdFlagReqOne   = 1 << 3
	cmdFlagFastZero = 1 << 4
)

// "Structured reply flags" and "Structured reply types".
const (
	replyFlagDone      = 1 << 0
	replyNone          = 0
	replyOffsetData    = 1
	replyOffsetHole    = 2
	replyBlockStatus   = 5
	replyErrorBit      = 1 << 15 // set in all errors
	replyError         = 1<<15 + 1
	structuredOverhead = 20 // bytes of a structured reply's header
)

// "Error values".
const (
	errnoPerm     = 1
	errnoIO       = 5
	errnoInvalid  = 22
	errnoNoSpace  = 28
	errnoOverflow = 75
	errnoShutdown = 108
)

// `"base:allocation" metadata context`.
const (
	contextName = "base:allocation"
	contextID   = 1
	stateHole   = 1 << 0
	stateZero   = 1 << 1
)

// Sizes. The specification lets a client send up to 32 MiB unless told
// otherwise ("Size constraints"), and strings have up to 4096 bytes
// ("Values").
const (
	maxRequest     = 32 << 20
	maxString      = 4096
	maxOption      = 64 << 10 // bytes of one option's data
	maxOptions     = 128      // options of one handshake
	preferredBlock = 4096
	minHole        = 4096 // smaller holes travel as zeroes within data
	maxDescriptors = 4096 // of one block status reply
)
