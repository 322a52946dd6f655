package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// Event is something that QEMU reports by itself, such as SHUTDOWN, RESET or
// GUEST_PANICKED.
type Event struct {
	Name string          `json:"event"`
	Data json.RawMessage `json:"data"`
}

// MonitorError is a QMP command that QEMU refused.
type MonitorError struct {
	Command string
	Class   string
	Desc    string
}

func (e *MonitorError) Error() string {
	return fmt.Sprintf("QMP %s: %s (%s)", e.Command, e.Desc, e.Class)
}

// maxReply bounds a line of QMP.
const maxReply = 8 << 20

// monitor speaks the QEMU Machine Protocol
// (https://www.qemu.org/docs/master/interop/qmp-spec.html).
type monitor struct {
	conn  net.Conn
	event func(Event)
	done  chan struct{} // closed when the reader has ended

	mu      sync.Mutex
	nextID  int
	waiting map[int]chan reply
	greeted chan struct{} // closed by the greeting
	err     error         // why the reader ended
}

type reply struct {
	Greeting *json.RawMessage `json:"QMP"`
	ID       int              `json:"id"`
	Return   json.RawMessage  `json:"return"`
	Error    *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	Event
}

type request struct {
	Execute   string `json:"execute"`
	Arguments any    `json:"arguments,omitempty"`
	ID        int    `json:"id"`
}

func newMonitor(conn net.Conn, event func(Event)) *monitor {
	m := &monitor{
		conn: conn, event: event, nextID: 1,
		done: make(chan struct{}), greeted: make(chan struct{}), waiting: map[int]chan reply{},
	}
	go m.read()
	return m
}

// read sorts what QEMU sends until the connection ends.
func (m *monitor) read() {
	defer close(m.done)
	lines := bufio.NewScanner(m.conn)
	lines.Buffer(nil, maxReply)
	greeted := false
	for lines.Scan() {
		var r reply
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			m.fail(fmt.Errorf("read QMP: %w", err))
			return
		}
		switch {
		case r.Greeting != nil && !greeted:
			greeted = true
			close(m.greeted)
		case r.Name != "":
			if m.event != nil {
				m.event(r.Event)
			}
		default:
			m.answer(r)
		}
	}
	m.fail(errors.Join(lines.Err(), io.ErrUnexpectedEOF))
}

func (m *monitor) answer(r reply) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if w, ok := m.waiting[r.ID]; ok {
		delete(m.waiting, r.ID)
		w <- r // has room for one
	}
}

func (m *monitor) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
}

func (m *monitor) closedError() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return fmt.Errorf("QMP connection ended: %w", m.err)
}

// handshake waits for the greeting and leaves negotiation mode.
func (m *monitor) handshake(ctx context.Context) error {
	select {
	case <-m.greeted:
	case <-m.done:
		return m.closedError()
	case <-ctx.Done():
		return fmt.Errorf("wait for QMP: %w", ctx.Err())
	}
	return m.execute(ctx, "qmp_capabilities", nil, nil)
}

func (m *monitor) execute(ctx context.Context, command string, args, result any) error {
	w, id := make(chan reply, 1), 0
	m.mu.Lock()
	id, m.nextID = m.nextID, m.nextID+1
	line, err := json.Marshal(request{command, args, id})
	if err == nil {
		m.waiting[id] = w
		_, err = m.conn.Write(append(line, '\n'))
	}
	m.mu.Unlock()
	if err != nil {
		return fmt.Errorf("send QMP %s: %w", command, err)
	}
	select {
	case r := <-w:
		return r.decode(command, result)
	case <-m.done:
		return m.closedError()
	case <-ctx.Done():
		return fmt.Errorf("QMP %s: %w", command, ctx.Err())
	}
}

func (r reply) decode(command string, result any) error {
	if r.Error != nil {
		return &MonitorError{Command: command, Class: r.Error.Class, Desc: r.Error.Desc}
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(r.Return, result); err != nil {
		return fmt.Errorf("decode reply to QMP %s: %w", command, err)
	}
	return nil
}

func (m *monitor) close() {
	_ = m.conn.Close()
	<-m.done
}

// Execute runs a QMP command. args is marshalled to its arguments, nil for
// none; the reply is unmarshalled into result unless that is nil.
func (v *VM) Execute(ctx context.Context, command string, args, result any) error {
	return v.monitor.execute(ctx, command, args, result)
}
