package nbd

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"time"
)

// Sentinels of the client, beside the errors of connecting.
var (
	// ErrProtocol says that the server does not keep to the protocol: nothing
	// that it sends can be trusted any more.
	ErrProtocol = errors.New("NBD protocol violated by server")
	// ErrNoExport says that the server has no export of that name.
	ErrNoExport = errors.New("the server has no such export")
	// ErrTLS says that server and client do not agree about encryption.
	ErrTLS = errors.New("no agreement about TLS")
	// ErrChanged says that the export is another one than before.
	ErrChanged = errors.New("the export changed while it was read")
	// ErrClosed says that the client was closed.
	ErrClosed = errors.New("the NBD client is closed")
)

// offer is what a server said of an export.
type offer struct {
	size        int64
	flags       uint16
	description string
	// blocks are the least, the preferred and the largest size of a request in
	// bytes.
	blocks     [3]uint32
	structured bool
	context    uint32 // the server's number of base:allocation
	hasContext bool
}

// defaultBlocks are the block sizes of a server that tells none ("Block size
// constraints"): any request is well, up to 32 MiB.
func defaultBlocks() [3]uint32 { return [3]uint32{1, preferredBlock, maxRequest} }

// greeter negotiates, as the client, on one connection.
type greeter struct {
	nc    net.Conn
	r     *bufio.Reader
	addr  Address
	offer offer
}

// greet negotiates on nc, which has a deadline, until the export can be read and
// the deadline is lifted. It gives the connection
// to use from then on, which is not nc where TLS was agreed on.
func greet(nc net.Conn, addr Address, cfg *tls.Config) (*greeter, error) {
	g := &greeter{nc: nc, r: bufio.NewReaderSize(nc, 64<<10), addr: addr, offer: offer{blocks: defaultBlocks()}}
	noZeroes, err := g.hello()
	if err == nil && cfg != nil {
		err = g.startTLS(cfg)
	}
	if err == nil {
		err = g.structuredReplies()
	}
	if err == nil && g.offer.structured {
		err = g.chooseContext()
	}
	if err == nil {
		err = g.open(noZeroes)
	}
	if err == nil {
		err = g.nc.SetDeadline(time.Time{})
	}
	return g, err
}

// hello exchanges the first flags.
func (g *greeter) hello() (noZeroes bool, err error) {
	var b [18]byte
	if _, err := io.ReadFull(g.r, b[:]); err != nil {
		return false, fmt.Errorf("greeting of the server: %w", err)
	}
	flags := binary.BigEndian.Uint16(b[16:])
	if binary.BigEndian.Uint64(b[:]) != magicServer || binary.BigEndian.Uint64(b[8:]) != magicOption || flags&flagFixedNewstyle == 0 {
		return false, fmt.Errorf("greeting %x is not the fixed newstyle one: %w", b, ErrProtocol)
	}
	noZeroes = flags&flagNoZeroes != 0
	_, err = g.nc.Write(binary.BigEndian.AppendUint32(nil, uint32(flags&(flagFixedNewstyle|flagNoZeroes))))
	return noZeroes, err
}

// ask sends an option.
func (g *greeter) ask(opt uint32, data []byte) error {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 16+len(data)), magicOption)
	b = binary.BigEndian.AppendUint32(b, opt)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	_, err := g.nc.Write(append(b, data...))
	return err
}

// refusal is an option that the server did not take.
type refusal struct {
	opt, kind uint32
	reason    string
}

func (r *refusal) Error() string {
	if r.reason != "" {
		return fmt.Sprintf("server refuses option %d: %q (%#x)", r.opt, r.reason, r.kind)
	}
	return fmt.Sprintf("server refuses option %d (%#x)", r.opt, r.kind)
}

// Is says what a refusal means.
func (r *refusal) Is(target error) bool {
	return target == ErrNoExport && r.kind == repErrUnknown || target == ErrTLS && r.kind == repErrTLSReqd
}

// answers reads the replies to an option up to the last one, and hands those of
// one kind to each.
func (g *greeter) answers(opt, kind uint32, each func(data []byte) error) error {
	for range maxOptions {
		got, data, err := g.answer(opt)
		switch {
		case err != nil:
			return err
		case got == repAck:
			return nil
		case got&repError != 0:
			return &refusal{opt: opt, kind: got, reason: string(data[:min(len(data), maxString)])}
		case got != kind || each == nil:
			return fmt.Errorf("reply %d to option %d: %w", got, opt, ErrProtocol)
		}
		if err := each(data); err != nil {
			return err
		}
	}
	return fmt.Errorf("more than %d replies to option %d: %w", maxOptions, opt, ErrProtocol)
}

// answer reads one reply.
func (g *greeter) answer(opt uint32) (kind uint32, data []byte, err error) {
	var head [20]byte
	if _, err := io.ReadFull(g.r, head[:]); err != nil {
		return 0, nil, fmt.Errorf("reply to option %d: %w", opt, err)
	}
	length := binary.BigEndian.Uint32(head[16:])
	if binary.BigEndian.Uint64(head[:]) != magicReply || binary.BigEndian.Uint32(head[8:]) != opt || length > maxOption {
		return 0, nil, fmt.Errorf("reply %x to option %d: %w", head, opt, ErrProtocol)
	}
	data = make([]byte, length)
	_, err = io.ReadFull(g.r, data)
	return binary.BigEndian.Uint32(head[12:]), data, err
}

// startTLS encrypts the connection. There is no way on without: a server, or
// somebody between, that refuses must not get to send a disk in the clear.
func (g *greeter) startTLS(cfg *tls.Config) error {
	err := g.ask(optStartTLS, nil)
	if err == nil {
		err = g.answers(optStartTLS, 0, nil)
	}
	if refused, ok := errors.AsType[*refusal](err); ok {
		return fmt.Errorf("%w: the server has none: %w", ErrTLS, refused)
	}
	if err != nil {
		return err
	}
	if g.r.Buffered() > 0 {
		return fmt.Errorf("data before the TLS handshake: %w", ErrProtocol)
	}
	secure := tls.Client(g.nc, cfg)
	if err := secure.Handshake(); err != nil {
		return fmt.Errorf("%w: %w", ErrTLS, err)
	}
	g.nc = secure
	g.r.Reset(secure)
	return nil
}

// structuredReplies asks for them; a server may do without.
func (g *greeter) structuredReplies() error {
	if err := g.ask(optStructuredReply, nil); err != nil {
		return err
	}
	err := g.answers(optStructuredReply, 0, nil)
	refused, ok := errors.AsType[*refusal](err)
	if ok && refused.kind == repErrTLSReqd {
		return fmt.Errorf("%w: the server demands it: %w", ErrTLS, refused)
	}
	if ok {
		return nil
	}
	g.offer.structured = err == nil
	return err
}

// chooseContext asks for base:allocation; a server may do without.
func (g *greeter) chooseContext() error {
	data := appendString(nil, g.addr.Export)
	data = appendString(binary.BigEndian.AppendUint32(data, 1), contextName)
	if err := g.ask(optSetMeta, data); err != nil {
		return err
	}
	err := g.answers(optSetMeta, repMetaContext, func(b []byte) error {
		if len(b) != 4+len(contextName) || string(b[4:]) != contextName || g.offer.hasContext {
			return fmt.Errorf("context %q: %w", b, ErrProtocol)
		}
		g.offer.context, g.offer.hasContext = binary.BigEndian.Uint32(b), true
		return nil
	})
	if _, ok := errors.AsType[*refusal](err); ok {
		return nil
	}
	return err
}

// open begins the transmission.
func (g *greeter) open(noZeroes bool) error {
	data := binary.BigEndian.AppendUint16(appendString(nil, g.addr.Export), 2)
	data = binary.BigEndian.AppendUint16(data, infoBlockSize)
	data = binary.BigEndian.AppendUint16(data, infoDescription)
	if err := g.ask(optGo, data); err != nil {
		return err
	}
	known := false
	err := g.answers(optGo, repInfo, func(b []byte) error {
		export, err := g.info(b)
		known = known || export
		return err
	})
	if refused, ok := errors.AsType[*refusal](err); ok && refused.kind == repErrUnsup {
		return g.openOld(noZeroes)
	}
	if err == nil && !known {
		err = fmt.Errorf("export %q without its size: %w", g.addr.Export, ErrProtocol)
	}
	return err
}

// info takes one piece of information; export says that it is the size.
func (g *greeter) info(b []byte) (export bool, err error) {
	if len(b) < 2 {
		return false, fmt.Errorf("information of %d bytes: %w", len(b), ErrProtocol)
	}
	kind, b := binary.BigEndian.Uint16(b), b[2:]
	switch kind {
	case infoExport:
		if len(b) != 10 {
			return false, fmt.Errorf("size and flags in %d bytes: %w", len(b), ErrProtocol)
		}
		return true, g.sized(binary.BigEndian.Uint64(b), binary.BigEndian.Uint16(b[8:]))
	case infoDescription:
		g.offer.description = string(b[:min(len(b), maxString)])
	case infoBlockSize:
		if len(b) != 12 {
			return false, fmt.Errorf("block sizes in %d bytes: %w", len(b), ErrProtocol)
		}
		for i := range g.offer.blocks {
			g.offer.blocks[i] = binary.BigEndian.Uint32(b[4*i:])
		}
		return false, checkBlocks(g.offer.blocks)
	}
	return false, nil
}

// checkBlocks holds block sizes to what the protocol says of them: the least is
// a power of two of at most 64 KiB, and fits into the others.
func checkBlocks(b [3]uint32) error {
	least, largest := b[0], b[2]
	if least == 0 || least > 64<<10 || least&(least-1) != 0 || largest < least {
		return fmt.Errorf("block sizes %v: %w", b, ErrProtocol)
	}
	return nil
}

func (g *greeter) sized(size uint64, flags uint16) error {
	if size > math.MaxInt64 {
		return fmt.Errorf("export of %d bytes: %w", size, ErrProtocol)
	}
	g.offer.size, g.offer.flags = int64(size), flags
	return nil
}

// openOld begins the transmission with a server that does not know
// NBD_OPT_GO, and hangs up where it has no such export.
func (g *greeter) openOld(noZeroes bool) error {
	if err := g.ask(optExportName, []byte(g.addr.Export)); err != nil {
		return err
	}
	b := make([]byte, 10, 10+zeroesLength)
	if !noZeroes {
		b = b[:cap(b)]
	}
	if _, err := io.ReadFull(g.r, b); err != nil {
		return fmt.Errorf("export %q: %w", g.addr.Export, errors.Join(ErrNoExport, err))
	}
	return g.sized(binary.BigEndian.Uint64(b), binary.BigEndian.Uint16(b[8:]))
}
