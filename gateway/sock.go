package gateway

import (
	"bufio"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// The sizes that make an idle session cheap. The WebSocket library reads headers
// through its own buffer and payloads past it, so that one can be the smallest
// there is; it writes nothing but control frames, each at most 127 bytes.
const (
	libraryReader = 16
	libraryWriter = 128
	ownSize       = 256 // of the read buffer of a socket that has its own
	sharedSize    = 4 << 10
)

// buffers are those of sockets that have none of their own while they wait.
var buffers = sync.Pool{New: func() any { return new([sharedSize]byte) }}

// errIdle is how sock.Read gets the library to return between two frames.
var errIdle = errors.New("nothing to read")

// sock is the library's view of the connection. It reads ahead, so that the reader
// goroutine of an idle session waits on a shallow stack (half the memory of waiting
// inside the library), into a buffer that a TCP socket has only while something is in it, and
// it turns the control frames that the library writes into notes for the session's writer, so
// that the reader never blocks on a write and all bytes leave from one goroutine.
type sock struct {
	net.Conn                 // the socket; written by the session's writer only
	raw      syscall.RawConn // the same, nil if it is no plain TCP socket: it then has a buffer of its own
	lib      *bufio.Reader   // the library's; nil while there is none

	// The following are owned by the reader.
	in        []byte // one of buffers, nil while nothing is in it; or the socket's own
	off, end  uint16
	boundary  bool // the library is between two frames and may be given errIdle
	inMessage bool

	heard atomic.Bool // something was read; cleared when a ping is due

	session *Session // gets the library's control frames
}

// take begins with a socket, of which early was read already.
func (c *sock) take(conn net.Conn, early []byte) {
	if r, ok := conn.(*resumed); ok && len(r.early) == 0 {
		conn = r.Conn
	}
	c.Conn = conn
	if tcp, ok := conn.(*net.TCPConn); ok && canReadRaw && len(early) <= sharedSize {
		c.raw, _ = tcp.SyscallConn() // fails for nil only
	}
	switch {
	case c.raw == nil:
		c.in = make([]byte, max(ownSize, len(early)))
	case len(early) > 0:
		c.in = buffers.Get().(*[sharedSize]byte)[:]
	}
	c.end = uint16(copy(c.in, early)) //nolint:gosec // G115: what the HTTP server reads ahead is at most 4 KiB
}

// lend returns what the library is to have.
func (c *sock) lend() (net.Conn, *bufio.ReadWriter, error) {
	c.lib = bufio.NewReaderSize(c, libraryReader)
	return c, bufio.NewReadWriter(c.lib, bufio.NewWriterSize(c, libraryWriter)), nil
}

// fill waits until there is something to read. It returns the socket's error.
func (c *sock) fill() error {
	if c.off < c.end {
		return nil
	}
	var n int
	var err error
	if c.raw != nil {
		n, err = c.readRaw()
	} else {
		n, err = c.Conn.Read(c.in)
	}
	c.off, c.end = 0, uint16(max(n, 0)) //nolint:gosec // G115: at most sharedSize
	if n > 0 {
		c.heard.Store(true)
		return nil
	}
	return err
}

// rest gives the buffer back if all in it was consumed.
func (c *sock) rest() {
	if c.raw != nil && c.in != nil && c.off == c.end {
		buffers.Put((*[sharedSize]byte)(c.in))
		c.in = nil
	}
}

// idle reports whether all that was read has been consumed.
func (c *sock) idle() bool { return c.off == c.end && c.lib.Buffered() == 0 }

// pause lets the library return at the next frame's beginning. It is called by the
// library's callbacks, after the whole of a control frame was read.
func (c *sock) pause() { c.boundary = !c.inMessage && c.lib.Buffered() == 0 }

// Read implements net.Conn for the library.
func (c *sock) Read(p []byte) (n int, err error) {
	switch {
	case c.off < c.end:
		n = copy(p, c.in[c.off:c.end])
		c.off += uint16(n) //nolint:gosec // G115: at most len(c.in)
	case c.boundary:
		c.boundary = false
		return 0, errIdle
	default:
		if n, err = c.Conn.Read(p); n > 0 {
			c.heard.Store(true)
		}
	}
	c.boundary = false
	return n, err
}

// Write takes one control frame from the library. It never blocks or fails.
func (c *sock) Write(p []byte) (int, error) {
	c.session.control(p)
	return len(p), nil
}

// Close is the library's wish; the session closes the socket when its writer is done.
func (c *sock) Close() error { return nil }

// abort closes the socket without waiting for anything.
func (c *sock) abort() {
	if t, ok := c.Conn.(*tls.Conn); ok {
		_ = t.NetConn().Close() // tls.Conn.Close would wait for a stuck writer
		return
	}
	_ = c.Conn.Close()
}

// past is a deadline that has passed.
var past = time.Unix(1, 0)

// hijack gives the library the session's sock and small buffers in place of the
// HTTP server's.
type hijack struct {
	http.ResponseWriter
	sock *sock
}

func (h hijack) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, brw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	var early []byte
	if n := brw.Reader.Buffered(); n > 0 {
		b, _ := brw.Reader.Peek(n)
		early = append([]byte(nil), b...)
	}
	h.sock.take(conn, early)
	return h.sock.lend()
}
