// Package wire is the load generator's end of a connection: a WebSocket client and a
// reader of the native protocol which cost as little as they can, so that what is
// measured is the server.
//
// An idle connection keeps its socket, a goroutine on the smallest stack and some 100
// bytes: buffers belong to all connections and are borrowed when something has come.
// Frames are masked with zeros, which spares the client the work; the server unmasks them
// like any other.
package wire

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// maxMessage bounds a message of the server. An answer may hold a user's attributes for
// each of hundreds of identities.
const maxMessage = 16 << 20

// The first bytes of frames (RFC 6455, section 5.2). A message may come in several: the
// first says what it is, the last has FIN set.
const (
	opMore  = 0x00
	opFirst = 0x01
	opLast  = 0x80
	opText  = 0x81
	opClose = 0x88
	opPing  = 0x89
	opPong  = 0x8a
)

// maxControl bounds the payload of a control frame.
const maxControl = 125

// ClosedError is how a connection ended. Code is 1006 if it broke without a close frame.
type ClosedError struct {
	Code   int
	Reason string
	Err    error // what was wrong with the connection; nil after a close frame
}

func (c *ClosedError) Error() string {
	if c.Err != nil {
		return fmt.Sprintf("connection lost: %v", c.Err)
	}
	return fmt.Sprintf("closed with %d %s", c.Code, c.Reason)
}

func (c *ClosedError) Unwrap() error { return c.Err }

// ErrProtocol is of an answer to the handshake that no server of this protocol gives.
var ErrProtocol = errors.New("the answer to the handshake is wrong")

// RefusedError is an answer to the handshake that is no WebSocket.
type RefusedError struct {
	Status     int
	RetryAfter time.Duration // 0 if the server named no time
}

func (r *RefusedError) Error() string {
	return fmt.Sprintf("refused with %d %s", r.Status, http.StatusText(r.Status))
}

// Dialer opens connections. It may be used by several goroutines once its fields are set.
type Dialer struct {
	// Subprotocol is asked for, and must be what the server takes; none if empty.
	Subprotocol string
	// TLS is for wss addresses; nil is the default configuration.
	TLS *tls.Config
	// Narrow keeps little on its way to the client: some tens of KiB, as to a peer on a bad
	// line, where two ends on one machine have megabytes. Only then does a server notice soon
	// that a client does not read.
	Narrow bool
}

// key is a Sec-WebSocket-Key, and accept the answer to it (RFC 6455, section 1.3). It
// proves nothing between a client and a server that know each other.
const (
	key    = "dGhlIHNhbXBsZSBub25jZQ=="
	accept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
)

// Dial connects to a ws or wss address from the given local address, if it is not nil. ctx
// bounds the handshake.
func (d *Dialer) Dial(ctx context.Context, u *url.URL, from net.Addr) (*Conn, error) {
	host := u.Host
	if u.Port() == "" {
		host = net.JoinHostPort(u.Hostname(), map[string]string{"ws": "80", "wss": "443"}[u.Scheme])
	}
	nd := net.Dialer{LocalAddr: from, KeepAlive: -1}
	if from != nil || d.Narrow {
		nd.Control = func(_, _ string, c syscall.RawConn) error { return prepare(c, from != nil, d.Narrow) }
	}
	nc, err := nd.DialContext(ctx, "tcp", host)
	if err != nil {
		return nil, err
	}
	if u.Scheme == "wss" {
		cfg := &tls.Config{MinVersion: tls.VersionTLS12}
		if d.TLS != nil {
			cfg = d.TLS.Clone()
		}
		if cfg.ServerName == "" {
			cfg.ServerName = u.Hostname()
		}
		nc = tls.Client(nc, cfg)
	}
	c := &Conn{Conn: nc}
	stop := context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) })
	err = c.handshake(u, d.Subprotocol)
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = nc.Close()
		return nil, err
	}
	if sc, ok := nc.(syscall.Conn); ok {
		if c.raw, err = sc.SyscallConn(); err != nil {
			_ = nc.Close()
			return nil, err
		}
		c.take = c.receive
	}
	return c, nil
}

// Conn is one WebSocket. One goroutine may read; any may write.
type Conn struct {
	net.Conn
	raw  syscall.RawConn // nil where the bytes of the socket are not those of the stream (TLS)
	take func(fd uintptr) bool

	// The following are owned by the reader.
	rest []byte  // of a frame that has not arrived whole; nil while none
	part []byte  // of a message whose last frame has not come; nil while none
	in   *buffer // borrowed while it holds something
}

func (c *Conn) handshake(u *url.URL, subprotocol string) error {
	b := make([]byte, 0, 512)
	b = append(append(append(append(b, "GET "...), u.RequestURI()...), " HTTP/1.1\r\nHost: "...), u.Host...)
	b = append(b, "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "+key...)
	if subprotocol != "" {
		b = append(append(b, "\r\nSec-WebSocket-Protocol: "...), subprotocol...)
	}
	if _, err := c.Write(append(b, "\r\n\r\n"...)); err != nil {
		return err
	}
	b = b[:0]
	for {
		if len(b) > 8<<10 {
			return fmt.Errorf("%w: it is too long", ErrProtocol)
		}
		b = append(b, make([]byte, 512)...)
		n, err := c.Conn.Read(b[len(b)-512:])
		b = b[:len(b)-512+n]
		if end := bytes.Index(b, []byte("\r\n\r\n")); end >= 0 {
			if rest := b[end+4:]; len(rest) > 0 {
				c.rest = bytes.Clone(rest)
			}
			return upgraded(b[:end+2], subprotocol)
		}
		if err != nil {
			return fmt.Errorf("the answer to the handshake: %w", err)
		}
	}
}

// upgraded looks at the head of the server's answer.
func upgraded(head []byte, subprotocol string) error {
	status := 0
	if line, _, _ := bytes.Cut(head, []byte("\r\n")); len(line) >= 12 && bytes.HasPrefix(line, []byte("HTTP/1.")) {
		status, _ = strconv.Atoi(string(line[9:12]))
	}
	switch {
	case status == 0:
		return fmt.Errorf("%w: it is not HTTP/1.1", ErrProtocol)
	case status != http.StatusSwitchingProtocols:
		r := &RefusedError{Status: status}
		if s, err := strconv.Atoi(header(head, "retry-after")); err == nil {
			r.RetryAfter = time.Duration(min(max(s, 0), maxRetryAfter)) * time.Second
		}
		return r
	case header(head, "sec-websocket-accept") != accept:
		return fmt.Errorf("%w: its Sec-WebSocket-Accept is wrong", ErrProtocol)
	case header(head, "sec-websocket-protocol") != subprotocol:
		return fmt.Errorf("%w: its subprotocol is %q, not %q", ErrProtocol, header(head, "sec-websocket-protocol"), subprotocol)
	}
	return nil
}

// maxRetryAfter bounds, in seconds, what a server may ask for.
const maxRetryAfter = 3600

func header(head []byte, name string) string {
	for line := range bytes.SplitSeq(head, []byte("\r\n")) {
		if k, v, ok := bytes.Cut(line, []byte(":")); ok && bytes.EqualFold(k, []byte(name)) {
			return string(bytes.TrimSpace(v))
		}
	}
	return ""
}

// Send sends a text message.
func (c *Conn) Send(message []byte) error { return c.frame(opText, message) }

// Bye sends a close frame. The server answers it and ends the connection.
func (c *Conn) Bye(code uint16) error {
	return c.frame(opClose, binary.BigEndian.AppendUint16(nil, code))
}

// Alive tells the server, which may wait for the answer to a ping that was not read yet, that
// the client is there (RFC 6455, section 5.5.3).
func (c *Conn) Alive() error { return c.frame(opPong, nil) }

// Cut ends the connection at once, without a close frame: the server sees it reset.
func (c *Conn) Cut() {
	nc := c.Conn
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn()
	}
	if t, ok := nc.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = nc.Close()
}

func (c *Conn) frame(op byte, payload []byte) error {
	b := make([]byte, 0, 14+len(payload))
	b = append(b, op)
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n <= 0xffff:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	_, err := c.Write(append(append(b, 0, 0, 0, 0), payload...))
	return err
}

// buffer is what connections read into, with what came of it.
type buffer struct {
	b   [16 << 10]byte
	n   int
	err error
}

var buffers = sync.Pool{New: func() any { return &buffer{} }}

// receive is what waits in the socket: it borrows a buffer only if there is anything.
func (c *Conn) receive(fd uintptr) bool {
	in := buffers.Get().(*buffer)
	for {
		in.n, in.err = syscall.Read(int(fd), in.b[:])
		switch {
		case errors.Is(in.err, syscall.EINTR):
		case errors.Is(in.err, syscall.EAGAIN):
			buffers.Put(in)
			return false
		default:
			c.in = in
			return true
		}
	}
}

// Next waits until something has come and calls handle with each text message in it; the
// bytes are valid during the call. It answers pings. It returns nil when all that came was
// handled, handle's error if there is one, or a *ClosedError, after which the socket is to be
// closed.
func (c *Conn) Next(handle func(message []byte) error) error {
	if len(c.rest) > 0 { // what came with the handshake may be whole
		if used, err := c.frames(c.rest, handle); used > 0 || err != nil {
			c.keep(c.rest[used:])
			return err
		}
	}
	if c.raw != nil {
		if err := c.raw.Read(c.take); err != nil {
			return &ClosedError{Code: 1006, Err: err}
		}
	} else {
		c.in = buffers.Get().(*buffer)
		c.in.n, c.in.err = c.Conn.Read(c.in.b[:])
	}
	in := c.in
	defer func() { buffers.Put(in); c.in = nil }()
	if in.n <= 0 {
		if in.err == nil {
			in.err = io.EOF
		}
		return &ClosedError{Code: 1006, Err: in.err}
	}
	data := in.b[:in.n]
	if len(c.rest) > 0 {
		data = append(c.rest, data...)
		c.rest = data // of a long message that is all: it is not copied each time
	}
	used, err := c.frames(data, handle)
	if used > 0 || len(c.rest) == 0 {
		c.keep(data[used:])
	}
	return err
}

// keep keeps the beginning of a frame whose end has not come.
func (c *Conn) keep(rest []byte) {
	if len(rest) == 0 {
		c.rest = nil
		return
	}
	c.rest = bytes.Clone(rest)
}

// frames handles the whole frames at the beginning of data, and returns their length.
func (c *Conn) frames(data []byte, handle func([]byte) error) (used int, err error) {
	for {
		op, payload, size, err := frame(data[used:])
		if err != nil {
			return used, &ClosedError{Code: 1006, Err: err}
		}
		if size == 0 {
			return used, nil
		}
		used += size
		switch op {
		case opText, opFirst, opMore, opLast:
			err = c.message(op, payload, handle)
		case opPing:
			err = c.frame(opPong, payload)
		case opPong:
		case opClose:
			closed := &ClosedError{Code: 1005}
			if len(payload) >= 2 {
				closed.Code, closed.Reason = int(binary.BigEndian.Uint16(payload)), string(payload[2:])
				payload = payload[:2]
			}
			_ = c.frame(opClose, payload)
			err = closed
		default:
			err = &ClosedError{Code: 1006, Err: fmt.Errorf("a frame that begins with %#x", op)}
		}
		if err != nil {
			return used, err
		}
	}
}

// message takes a frame of a text message, and handles the message if that was its last.
func (c *Conn) message(op byte, payload []byte, handle func([]byte) error) error {
	begins, whole := op == opText || op == opFirst, c.part
	switch {
	case begins != (whole == nil):
		return &ClosedError{Code: 1006, Err: fmt.Errorf("a frame that begins with %#x out of turn", op)}
	case op == opText:
		return handle(payload)
	case len(whole)+len(payload) > maxMessage:
		return &ClosedError{Code: 1006, Err: fmt.Errorf("a message of %d bytes", len(whole)+len(payload))}
	case begins:
		whole = []byte{} // not nil, as the first frame may be empty
	}
	if c.part = append(whole, payload...); op != opLast {
		return nil
	}
	whole, c.part = c.part, nil
	return handle(whole)
}

// frame is the first frame in data; size 0 if it has not arrived whole.
func frame(data []byte) (op byte, payload []byte, size int, err error) {
	if len(data) < 2 {
		return 0, nil, 0, nil
	}
	n, head := uint64(data[1]), 2
	switch n {
	case 126:
		if head = 4; len(data) < head {
			return 0, nil, 0, nil
		}
		n = uint64(binary.BigEndian.Uint16(data[2:]))
	case 127:
		if head = 10; len(data) < head {
			return 0, nil, 0, nil
		}
		n = binary.BigEndian.Uint64(data[2:])
	}
	switch {
	case data[1]&0x80 != 0:
		return 0, nil, 0, errors.New("a masked frame of the server")
	case n > maxMessage, n > maxControl && data[0]&0x08 != 0:
		return 0, nil, 0, fmt.Errorf("a frame of %d bytes that begins with %#x", n, data[0])
	case n == 1 && data[0] == opClose:
		return 0, nil, 0, errors.New("a close frame with half a code")
	case uint64(len(data)-head) < n: //nolint:gosec // G115: not negative
		return 0, nil, 0, nil
	}
	size = head + int(n)
	return data[0], data[head:size], size, nil
}
