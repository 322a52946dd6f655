package nbd

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"hyper2kvm/formats"
)

// Bounds of what a client uses.
const (
	// maxLinks is how many connections it opens where the server allows several.
	maxLinks = 4
	// piece is how much one request reads, in bytes: a long read goes out as
	// several requests at once, which hides how far away the server is.
	piece = 256 << 10
	// maxPieces is how many requests of one read are on their way.
	maxPieces = 8
	// extraTime is how long a further connection may take: a server that says
	// it takes several may yet not answer the second.
	extraTime = 5 * time.Second
)

// settings are what tests change.
type settings struct {
	dial     func(timeout time.Duration) (net.Conn, error)
	patience time.Duration // for one reply
	pause    time.Duration // before the second attempt; it doubles
	attempts int           // of one request
}

// Client reads one export of an NBD server. It is a formats.Image of the
// format "nbd". A connection that breaks is made anew, and the request
// repeated, a bounded number of times.
type Client struct {
	addr  Address
	tls   *tls.Config
	set   settings
	first offer // of the first connection; later ones must agree

	lanes  [maxLinks]lane
	width  atomic.Int32 // lanes in use
	turn   atomic.Uint32
	blocks blockMap

	closing sync.Once
	closed  chan struct{}
	mu      sync.Mutex
	live    []*link // that Interrupt ends
}

// lane is a place for a connection.
type lane struct {
	mu   sync.Mutex
	link *link // nil until it is first used
}

// Dial connects to the server. Nothing is tried again here: a server that is
// not there is told at once.
func Dial(addr Address) (*Client, error) {
	cfg, err := addr.clientTLS()
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", addr, err)
	}
	// In all 12.6 s: a server that is started anew is back by then.
	set := settings{patience: stallTime, pause: 200 * time.Millisecond, attempts: 7}
	set.dial = func(timeout time.Duration) (net.Conn, error) {
		return net.DialTimeout(addr.Network, addr.Host, timeout)
	}
	return dialWith(addr, cfg, set)
}

func dialWith(addr Address, cfg *tls.Config, set settings) (*Client, error) {
	c := &Client{addr: addr, tls: cfg, set: set, closed: make(chan struct{})}
	l, err := c.connect(handshakeTime)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", addr, err)
	}
	c.first, c.lanes[0].link, c.live = l.offer, l, []*link{l}
	c.width.Store(1)
	if c.first.flags&flagCanMultiConn != 0 {
		c.width.Store(maxLinks)
	}
	return c, nil
}

// connect makes a connection that is ready for requests.
func (c *Client) connect(timeout time.Duration) (*link, error) {
	nc, err := c.set.dial(timeout)
	if err != nil {
		return nil, err
	}
	// A socket takes connections also where nobody accepts them.
	err = nc.SetDeadline(time.Now().Add(timeout))
	var g *greeter
	if err == nil {
		g, err = greet(nc, c.addr, c.tls)
	}
	if err != nil {
		nc.Close()
		return nil, err
	}
	return newLink(g), nil
}

// Close closes all connections. What is being read gives ErrClosed.
func (c *Client) Close() error {
	c.Interrupt()
	for i := range c.lanes {
		c.lanes[i].mu.Lock()
		if l := c.lanes[i].link; l != nil {
			l.close()
		}
		c.lanes[i].mu.Unlock()
	}
	return nil
}

// Interrupt has all reads end soon, with ErrClosed; Close must follow.
func (c *Client) Interrupt() {
	c.closing.Do(func() { close(c.closed) })
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.live {
		l.fail(ErrClosed)
	}
}

// pick gives a connection to use.
func (c *Client) pick() (*link, error) {
	width := c.width.Load()
	i := c.turn.Add(1) % uint32(width)
	l, err := c.lanes[i].get(c, i > 0)
	if err == nil || i == 0 {
		return l, err
	}
	// The server takes no further connection. While the first one works, that
	// is enough.
	first, e := c.lanes[0].get(c, false)
	if e == nil {
		c.width.CompareAndSwap(width, 1)
	}
	return first, e
}

// get gives the connection of a lane, making it where there is none.
func (n *lane) get(c *Client, further bool) (*link, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if c.isClosed() {
		return nil, ErrClosed
	}
	if n.link != nil {
		if n.link.dead() == nil {
			return n.link, nil
		}
		<-n.link.ended
		n.link = nil
	}
	timeout := handshakeTime
	if further {
		timeout = extraTime
	}
	l, err := c.connect(timeout)
	if err != nil {
		return nil, err
	}
	if l.offer.size != c.first.size || l.offer.hasContext != c.first.hasContext || l.offer.blocks != c.first.blocks {
		l.close()
		return nil, fmt.Errorf("%d bytes before, %d now: %w", c.first.size, l.offer.size, ErrChanged)
	}
	n.link = l
	return l, c.watch(l)
}

// watch has Interrupt end a connection, also one that is made meanwhile.
func (c *Client) watch(l *link) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.live = append(slices.DeleteFunc(c.live, func(old *link) bool { return old.dead() != nil }), l)
	if c.isClosed() {
		l.fail(ErrClosed)
		return ErrClosed
	}
	return nil
}

func (c *Client) isClosed() bool {
	select {
	case <-c.closed:
		return true
	default:
		return false
	}
}

// ask does a request, again where the connection breaks.
func (c *Client) ask(q *call) error {
	pause := c.set.pause
	for attempt := 1; ; attempt++ {
		l, err := c.pick()
		if err == nil {
			err = l.do(q, c.set.patience)
		}
		if err == nil || isFinal(err) {
			return err
		}
		if attempt == c.set.attempts {
			return fmt.Errorf("%d attempts: %w", attempt, err)
		}
		select {
		case <-time.After(pause):
			pause *= 2
		case <-c.closed:
			return ErrClosed
		}
	}
}

// Size implements formats.Disk.
func (c *Client) Size() int64 { return c.first.size }

// ReadAt implements formats.Disk.
func (c *Client) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, c.outside("read", off, int64(len(p)))
	}
	if off >= c.first.size {
		return 0, io.EOF
	}
	var eof error
	if int64(len(p)) > c.first.size-off {
		p, eof = p[:c.first.size-off], io.EOF
	}
	if err := c.readPieces(p, off); err != nil {
		return 0, err
	}
	return len(p), eof
}

// readPieces reads p in requests of a size that the server takes.
func (c *Client) readPieces(p []byte, off int64) error {
	least := int64(c.first.blocks[0])
	most := min(piece, int64(c.first.blocks[2])/least*least)
	if int64(len(p)) <= most-off%least {
		return c.readPiece(p, off)
	}
	var g errgroup.Group
	g.SetLimit(maxPieces)
	for len(p) > 0 {
		n := min(int64(len(p)), most-off%most)
		part, at := p[:n], off
		g.Go(func() error { return c.readPiece(part, at) })
		p, off = p[n:], off+n
	}
	return g.Wait()
}

// readPiece reads p with one request, which covers whole blocks.
func (c *Client) readPiece(p []byte, off int64) error {
	if len(p) == 0 {
		return nil
	}
	least := int64(c.first.blocks[0])
	start := off - off%least
	end := min((off+int64(len(p))+least-1)/least*least, c.first.size)
	buf := p
	if end-start != int64(len(p)) {
		buf = make([]byte, end-start)
	}
	if err := c.ask(&call{kind: cmdRead, off: start, span: end - start, buf: buf}); err != nil {
		return c.failed("read", off, int64(len(p)), err)
	}
	if end-start != int64(len(p)) {
		copy(p, buf[off-start:])
	}
	return nil
}

func (c *Client) failed(action string, off, length int64, err error) error {
	return fmt.Errorf("%s %d bytes at %d of %s: %w", action, length, off, c.addr, err)
}

var errOutside = errors.New("outside of the export")

func (c *Client) outside(action string, off, length int64) error {
	return c.failed(action, off, length, errOutside)
}

// Address is what the client reads.
func (c *Client) Address() Address { return c.addr }

// Info implements formats.Image.
func (c *Client) Info() formats.Info {
	o := c.first
	info := formats.Info{Format: "nbd", Size: o.size, Sector: 512}
	add := func(name, value string) { info.Fields = append(info.Fields, formats.Field{Name: name, Value: value}) }
	add("export", strconv.Quote(c.addr.Export))
	if o.description != "" {
		add("description", o.description)
	}
	add("server", c.addr.Network+" "+c.addr.Host)
	add("encrypted", yes(c.tls != nil))
	add("read only", yes(o.flags&flagReadOnly != 0))
	add("several connections", yes(o.flags&flagCanMultiConn != 0))
	add("structured replies", yes(o.structured))
	add("map of holes", yes(o.hasContext))
	for i, name := range []string{"minimum", "preferred", "maximum"} {
		add(name+" block size", strconv.FormatUint(uint64(o.blocks[i]), 10))
	}
	return info
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
