package nbd

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
)

// errProtocol says that the client does not keep to the protocol, so that
// nothing more can be understood of what it sends.
var errProtocol = errors.New("NBD protocol violated by client")

// conn is one client.
type conn struct {
	server *server
	nc     net.Conn
	r      *bufio.Reader

	noZeroes   bool
	secure     bool
	structured bool
	export     *Export // set by the negotiation
	metaFor    *Export // export for which base:allocation was chosen

	writing sync.Mutex // one reply at a time
}

func newConn(s *server, nc net.Conn) *conn {
	return &conn{server: s, nc: nc, r: bufio.NewReaderSize(nc, 64<<10)}
}

// negotiate does the handshake; c.export is nil afterwards when the client
// only wanted to ask, and has left.
func (c *conn) negotiate() error {
	hello := binary.BigEndian.AppendUint64(nil, magicServer)
	hello = binary.BigEndian.AppendUint64(hello, magicOption)
	hello = binary.BigEndian.AppendUint16(hello, flagFixedNewstyle|flagNoZeroes)
	if _, err := c.nc.Write(hello); err != nil {
		return err
	}
	var b [4]byte
	if _, err := io.ReadFull(c.r, b[:]); err != nil {
		return err
	}
	flags := binary.BigEndian.Uint32(b[:])
	if flags&^uint32(flagFixedNewstyle|flagNoZeroes) != 0 {
		return fmt.Errorf("client flags %#x: %w", flags, errProtocol)
	}
	c.noZeroes = flags&flagNoZeroes != 0
	for range maxOptions {
		opt, data, err := c.readOption()
		if err != nil {
			return err
		}
		// Without the fixed variant there is no way to answer other options.
		if flags&flagFixedNewstyle == 0 && opt != optExportName {
			return fmt.Errorf("option %d of a client that is not fixed newstyle: %w", opt, errProtocol)
		}
		done, err := c.option(opt, data)
		if done || err != nil {
			return err
		}
	}
	return fmt.Errorf("more than %d options: %w", maxOptions, errProtocol)
}

func (c *conn) readOption() (opt uint32, data []byte, err error) {
	var head [16]byte
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		return 0, nil, err
	}
	if binary.BigEndian.Uint64(head[:]) != magicOption {
		return 0, nil, fmt.Errorf("magic of option: %w", errProtocol)
	}
	length := binary.BigEndian.Uint32(head[12:])
	if length > maxOption {
		return 0, nil, fmt.Errorf("option of %d bytes: %w", length, errProtocol)
	}
	data = make([]byte, length)
	_, err = io.ReadFull(c.r, data)
	return binary.BigEndian.Uint32(head[8:]), data, err
}

// option answers one option; done says that the negotiation is over.
func (c *conn) option(opt uint32, data []byte) (done bool, err error) {
	if c.server.tls != nil && !c.secure && opt != optStartTLS && opt != optAbort {
		if opt == optExportName {
			return true, fmt.Errorf("export asked for without TLS: %w", errProtocol)
		}
		return false, c.refuse(opt, repErrTLSReqd, "TLS is required")
	}
	switch opt {
	case optStartTLS:
		return false, c.startTLS(data)
	case optExportName:
		return true, c.exportName(string(data))
	case optAbort:
		_ = c.reply(opt, repAck, nil) // the client may be gone already
		return true, nil
	case optList:
		return false, c.list(data)
	case optInfo, optGo:
		return c.infoOrGo(opt, data)
	case optStructuredReply:
		if len(data) != 0 {
			return false, c.refuse(opt, repErrInvalid, "structured replies take no data")
		}
		c.structured = true
		return false, c.reply(opt, repAck, nil)
	case optListMeta, optSetMeta:
		return false, c.metaContext(opt, data)
	}
	return false, c.refuse(opt, repErrUnsup, "option is not supported")
}

// startTLS encrypts the connection, where the server is set up for that. What
// was agreed on before may have been somebody else's doing, and is forgotten.
func (c *conn) startTLS(data []byte) error {
	switch {
	case c.server.tls == nil:
		return c.refuse(optStartTLS, repErrUnsup, "TLS is not set up")
	case len(data) != 0 || c.secure:
		return c.refuse(optStartTLS, repErrInvalid, "TLS is started once, and takes no data")
	}
	if err := c.reply(optStartTLS, repAck, nil); err != nil {
		return err
	}
	if c.r.Buffered() > 0 {
		return fmt.Errorf("data before the TLS handshake: %w", errProtocol)
	}
	secure := tls.Server(c.nc, c.server.tls)
	if err := secure.Handshake(); err != nil {
		return fmt.Errorf("TLS handshake: %w", err)
	}
	c.nc, c.secure, c.structured, c.metaFor = secure, true, false, nil
	c.r.Reset(secure)
	return nil
}

// reply sends one option reply.
func (c *conn) reply(opt, kind uint32, data []byte) error {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 20+len(data)), magicReply)
	b = binary.BigEndian.AppendUint32(b, opt)
	b = binary.BigEndian.AppendUint32(b, kind)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	_, err := c.nc.Write(append(b, data...))
	return err
}

// refuse replies with an error and its reason in words.
func (c *conn) refuse(opt, kind uint32, reason string) error {
	return c.reply(opt, kind, []byte(reason))
}

// exportName ends the negotiation in the way that has no error reply.
func (c *conn) exportName(name string) error {
	c.export = c.server.find(name)
	if c.export == nil {
		return fmt.Errorf("export %q is not there: %w", name, errProtocol)
	}
	b := binary.BigEndian.AppendUint64(nil, uint64(c.export.Disk.Size()))
	b = binary.BigEndian.AppendUint16(b, c.export.flags(c.structured))
	if !c.noZeroes {
		b = append(b, make([]byte, zeroesLength)...)
	}
	_, err := c.nc.Write(b)
	return err
}

func (c *conn) list(data []byte) error {
	if len(data) != 0 {
		return c.refuse(optList, repErrInvalid, "list takes no data")
	}
	for i := range c.server.exports {
		e := &c.server.exports[i]
		b := appendString(nil, e.Name)
		if err := c.reply(optList, repServer, append(b, e.Description...)); err != nil {
			return err
		}
	}
	return c.reply(optList, repAck, nil)
}

// infoOrGo answers NBD_OPT_INFO and NBD_OPT_GO, which differ in what follows.
func (c *conn) infoOrGo(opt uint32, data []byte) (done bool, err error) {
	name, rest, ok := cutString(data)
	if !ok || len(rest) < 2 || len(rest) != 2+2*int(binary.BigEndian.Uint16(rest)) {
		return false, c.refuse(opt, repErrInvalid, "lengths do not agree")
	}
	e := c.server.find(name)
	if e == nil {
		return false, c.refuse(opt, repErrUnknown, "export is not there")
	}
	b := binary.BigEndian.AppendUint16(nil, infoExport)
	b = binary.BigEndian.AppendUint64(b, uint64(e.Disk.Size()))
	b = binary.BigEndian.AppendUint16(b, e.flags(c.structured))
	if err := c.reply(opt, repInfo, b); err != nil {
		return false, err
	}
	for rest = rest[2:]; len(rest) > 0; rest = rest[2:] {
		if err := c.info(opt, e, binary.BigEndian.Uint16(rest)); err != nil {
			return false, err
		}
	}
	if err := c.reply(opt, repAck, nil); err != nil || opt == optInfo {
		return false, err
	}
	c.export = e
	return true, nil
}

// info sends one piece of information that the client asked for; those that
// are not known are passed over.
func (c *conn) info(opt uint32, e *Export, kind uint16) error {
	b := binary.BigEndian.AppendUint16(nil, kind)
	switch kind {
	case infoName:
		b = append(b, e.Name...)
	case infoDescription:
		if e.Description == "" {
			return nil
		}
		b = append(b, e.Description...)
	case infoBlockSize:
		b = binary.BigEndian.AppendUint32(b, 1)
		b = binary.BigEndian.AppendUint32(b, preferredBlock)
		b = binary.BigEndian.AppendUint32(b, maxRequest)
	default:
		return nil
	}
	return c.reply(opt, repInfo, b)
}

// metaContext answers NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT.
func (c *conn) metaContext(opt uint32, data []byte) error {
	if opt == optSetMeta {
		c.metaFor = nil // a new attempt replaces the one before, even when it fails
	}
	if !c.structured {
		return c.refuse(opt, repErrInvalid, "needs structured replies")
	}
	name, rest, ok := cutString(data)
	if !ok || len(rest) < 4 {
		return c.refuse(opt, repErrInvalid, "lengths do not agree")
	}
	e := c.server.find(name)
	if e == nil {
		return c.refuse(opt, repErrUnknown, "export is not there")
	}
	count := binary.BigEndian.Uint32(rest)
	// Without queries, a list names all contexts and a set chooses none.
	found := count == 0 && opt == optListMeta
	rest = rest[4:]
	for range count {
		var query string
		if query, rest, ok = cutString(rest); !ok {
			return c.refuse(opt, repErrInvalid, "lengths do not agree")
		}
		found = found || query == contextName || opt == optListMeta && query == namespace(contextName)
	}
	if len(rest) != 0 {
		return c.refuse(opt, repErrInvalid, "lengths do not agree")
	}
	if found {
		if opt == optSetMeta {
			c.metaFor = e
		}
		b := binary.BigEndian.AppendUint32(nil, contextID)
		if err := c.reply(opt, repMetaContext, append(b, contextName...)); err != nil {
			return err
		}
	}
	return c.reply(opt, repAck, nil)
}

// namespace is a context's name up to its colon, which lists all of them.
func namespace(context string) string {
	before, _, _ := strings.Cut(context, ":")
	return before + ":"
}

func appendString(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}

// cutString takes a string with its 32-bit length off the front of b.
func cutString(b []byte) (s string, rest []byte, ok bool) {
	if len(b) < 4 {
		return "", nil, false
	}
	n := binary.BigEndian.Uint32(b)
	if n > maxString || int(n) > len(b)-4 {
		return "", nil, false
	}
	return string(b[4 : 4+n]), b[4+n:], true
}
