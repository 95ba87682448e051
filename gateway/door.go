package gateway

import (
	"bytes"
	"context"
	"crypto/sha1" //nolint:gosec // G505: as RFC 6455 wants it
	"encoding/base64"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"
	"sync"
	"time"
)

// door stands before the HTTP server, and lets in by itself who asks for a WebSocket as nearly
// all clients do: with one small and plain request that comes at once. The HTTP server costs
// several times as much for that. All others it hands on with what was read of them, so that
// every answer but 101 is the HTTP server's. It is the listener from which that accepts.
type door struct {
	net.Listener
	srv     *Server
	onwards chan arrival // handed on, or why the listener fails
	closed  chan struct{}
	once    sync.Once
	all     sync.WaitGroup // of its goroutines

	mu      sync.Mutex // guards waiting
	waiting map[*guest]struct{}
}

// arrival is what http.Server accepts.
type arrival struct {
	conn net.Conn
	err  error
}

// guest is a connection that has yet to say what it wants.
type guest struct {
	door *door
	conn net.Conn
	buf  *[]byte // one of requests
	n    int     // how much of it was read; 0 if nothing will be
}

// maxPlain is the longest request that the door reads.
const maxPlain = 2 << 10

var requests = sync.Pool{New: func() any { b := make([]byte, maxPlain); return &b }}

// openDoor serves l until the HTTP server closes it. Sessions run in ctx.
func (s *Server) openDoor(ctx context.Context, l net.Listener) *door {
	d := &door{Listener: l, srv: s, onwards: make(chan arrival), closed: make(chan struct{}), waiting: map[*guest]struct{}{}}
	d.all.Go(func() { d.run(ctx) })
	return d
}

// run takes in who comes, until the listener is closed.
func (d *door) run(ctx context.Context) {
	for {
		conn, err := d.Listener.Accept()
		if err != nil {
			// The HTTP server knows which errors pass, and waits before it asks again.
			if !d.handOn(arrival{err: err}) {
				return
			}
			continue
		}
		g := &guest{door: d, conn: conn}
		if d.srv.plain.Add(1) > int64(d.srv.opt.Limits.Plain) {
			d.srv.metrics.shed[shedPlain].Inc()
			g.turnAway()
			continue
		}
		// As the HTTP server does, for the request and for its answer.
		_ = conn.SetDeadline(time.Now().Add(d.srv.public.ReadHeaderTimeout))
		if !d.enter(g) {
			g.turnAway()
			continue
		}
		d.all.Add(1) // until g.run is over
		go g.wait(ctx)
	}
}

func (d *door) enter(g *guest) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	select {
	case <-d.closed: // nobody would send it away
		return false
	default:
		d.waiting[g] = struct{}{}
		return true
	}
}

func (d *door) leave(g *guest) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.waiting, g)
}

// handOn gives something to the HTTP server; false if that accepts no more.
func (d *door) handOn(a arrival) bool {
	select {
	case d.onwards <- a:
		return true
	case <-d.closed:
		return false
	}
}

// Accept implements net.Listener for the HTTP server.
func (d *door) Accept() (net.Conn, error) {
	select {
	case a := <-d.onwards:
		return a.conn, a.err
	case <-d.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener: who has not asked for anything yet is sent away.
func (d *door) Close() error {
	err := net.ErrClosed
	d.once.Do(func() {
		err = d.Listener.Close()
		close(d.closed)
		d.mu.Lock()
		defer d.mu.Unlock()
		for g := range d.waiting {
			_ = g.conn.SetReadDeadline(past)
		}
	})
	return err
}

// wait waits for the request, on a small stack.
func (g *guest) wait(ctx context.Context) {
	g.buf = requests.Get().(*[]byte)
	g.n, _ = g.conn.Read(*g.buf)
	g.door.srv.crew.do(ctx, g) // joined through door.all, as this one is
}

// run lets the guest in, or hands it on. The crew calls it.
func (g *guest) run(ctx context.Context) {
	d := g.door
	defer d.all.Done()
	defer requests.Put(g.buf)
	d.leave(g)
	if g.n == 0 {
		g.turnAway()
		return
	}
	s := d.srv
	if p, r, rest := s.readPlain((*g.buf)[:g.n]); r != nil {
		r.RemoteAddr = g.conn.RemoteAddr().String()
		if c, _, _ := s.admit(p, r); c != nil {
			s.plain.Add(-1)
			c.sock.take(g.conn, rest)
			if g.accept(p, r.Header) != nil {
				s.metrics.shed[shedHandshake].Inc()
				s.forget(c)
				c.sock.abort()
				return
			}
			s.start(ctx, c)
			return
		}
	}
	early := bytes.Clone((*g.buf)[:g.n])
	_ = g.conn.SetDeadline(time.Time{})
	s.plain.Add(-1) // the HTTP server counts it anew
	if !d.handOn(arrival{conn: &resumed{Conn: g.conn, early: early}}) {
		_ = g.conn.Close()
	}
}

func (g *guest) turnAway() {
	g.door.srv.plain.Add(-1)
	_ = g.conn.Close()
}

// accept answers a request that readPlain took.
func (g *guest) accept(p Protocol, h http.Header) error {
	const guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11" // RFC 6455, section 1.3

	sum := sha1.Sum([]byte(h.Get("Sec-WebSocket-Key") + guid)) //nolint:gosec // G401: it proves nothing but that this is a WebSocket
	b := append((*g.buf)[:0], "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: "...)
	b = base64.StdEncoding.AppendEncode(b, sum[:])
	if len(h["Sec-Websocket-Protocol"]) > 0 && p.Name() != "" { // it is among them: see asksPlainly
		b = append(append(b, "\r\nSec-WebSocket-Protocol: "...), p.Name()...)
	}
	_, err := g.conn.Write(append(b, "\r\n\r\n"...))
	_ = g.conn.SetDeadline(time.Time{})
	return err
}

// asksPlainly reports whether a request is a handshake as the library would take it, and as it
// is written nearly always.
func asksPlainly(p Protocol, h http.Header) bool {
	key := h["Sec-Websocket-Key"]
	if len(key) != 1 || len(h["Upgrade"]) != 1 || !strings.EqualFold(h.Get("Upgrade"), "websocket") || h.Get("Sec-WebSocket-Version") != "13" {
		return false
	}
	if k, err := base64.StdEncoding.DecodeString(key[0]); err != nil || len(k) != 16 {
		return false
	}
	if offered := h["Sec-Websocket-Protocol"]; p.Name() != "" && len(offered) > 0 && !listed(offered, p.Name()) {
		return false
	}
	return listed(h["Connection"], "Upgrade") || listed(h["Connection"], "upgrade")
}

// listed reports whether one of the lines of a header lists an item.
func listed(lines []string, item string) bool {
	for _, line := range lines {
		for s := range strings.SplitSeq(line, ",") {
			if strings.Trim(s, " ") == item {
				return true
			}
		}
	}
	return false
}

// readPlain reads a request for a WebSocket that is plain and whole: HTTP/1.1 without a body,
// each header a line of printable ASCII. rest is what came after it. r is nil for any other
// request; what it does take, the HTTP server reads alike.
func (s *Server) readPlain(b []byte) (p Protocol, r *http.Request, rest []byte) {
	end := bytes.Index(b, []byte("\r\n\r\n"))
	if end < 0 {
		return nil, nil, nil
	}
	first, lines, _ := bytes.Cut(b[:end+2], []byte("\r\n"))
	target, ok := bytes.CutPrefix(first, []byte("GET "))
	if !ok {
		return nil, nil, nil
	}
	if target, ok = bytes.CutSuffix(target, []byte(" HTTP/1.1")); !ok {
		return nil, nil, nil
	}
	if p, ok = s.opt.Sockets[string(target)]; !ok {
		return nil, nil, nil
	}
	r = &http.Request{
		Method: http.MethodGet, RequestURI: string(target), URL: &url.URL{Path: string(target)},
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Body: http.NoBody,
	}
	if r.Header, r.Host, ok = readHeader(string(lines)); !ok || !asksPlainly(p, r.Header) {
		return nil, nil, nil
	}
	return p, r, b[end+4:]
}

// readHeader reads lines that end with CR LF; ok is false if anything about them is out of
// the ordinary.
func readHeader(text string) (h http.Header, host string, ok bool) {
	n := strings.Count(text, "\n")
	h = make(http.Header, n)
	values := make([]string, n) // of all lines: those of a name nearly always are one
	for len(text) > 0 {
		var line string
		if line, text, ok = strings.Cut(text, "\r\n"); !ok {
			return nil, "", false
		}
		name, value, ok := strings.Cut(line, ":")
		if value = strings.Trim(value, " "); !ok || !plainName(name) || !printable(value) {
			return nil, "", false
		}
		switch name = textproto.CanonicalMIMEHeaderKey(name); name {
		case "Host":
			if host != "" || !plainHost(value) {
				return nil, "", false
			}
			host = value
			continue
		case "Content-Length", "Transfer-Encoding", "Trailer", "Expect":
			return nil, "", false
		}
		if have := h[name]; have != nil {
			h[name] = append(have, value)
			continue
		}
		values[0] = value
		h[name], values = values[:1:1], values[1:]
	}
	// Of a Pragma alone the HTTP server makes a Cache-Control; browsers send both.
	return h, host, host != "" && (h["Pragma"] == nil || h["Cache-Control"] != nil)
}

func plainName(s string) bool {
	for i := range len(s) {
		if c := s[i]; c != '-' && (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') {
			return false
		}
	}
	return s != ""
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

func plainHost(s string) bool {
	for i := range len(s) {
		if c := s[i]; c != '-' && c != '_' && c != '[' && c != ']' && (c < '.' || c > ':' || c == '/') && (c|0x20 < 'a' || c|0x20 > 'z') {
			return false
		}
	}
	return s != ""
}

// resumed is a connection of which something was read.
type resumed struct {
	net.Conn
	early []byte // what is to be read first; owned by who reads
}

// Read implements net.Conn.
func (c *resumed) Read(p []byte) (int, error) {
	if len(c.early) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.early)
	if c.early = c.early[n:]; len(c.early) == 0 {
		c.early = nil
	}
	return n, nil
}

// CloseWrite is what the HTTP server looks for.
func (c *resumed) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}
