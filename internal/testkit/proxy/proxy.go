// Package proxy is a TCP proxy on loopback that does to connections what networks do:
// it loses them, holds their bytes back, slows them down. What it does can differ
// between the connections that carry commands to Redis and those that only listen.
package proxy

import (
	"bytes"
	"net"
	"regexp"
	"sync"
	"testing"
	"time"
)

// Kind tells connections apart by what their client has sent so far.
type Kind int

// The kinds. A connection becomes PubSub with its first SUBSCRIBE, PSUBSCRIBE or
// SSUBSCRIBE in the Redis protocol; any other is Other, whatever it carries.
const (
	Other Kind = iota
	PubSub
)

// Kinds are all of them.
var Kinds = []Kind{Other, PubSub}

// Flow is what happens to the bytes of one direction. The zero value passes them on
// at once.
type Flow struct {
	// Hole holds all bytes back, as a network does that drops packets: the sender
	// finds out only once 256 KiB wait. When the hole is gone they arrive.
	Hole bool
	// Latency is how long each byte is under way.
	Latency time.Duration
	// Rate is how many bytes a second pass; 0: no limit. They pass in pieces of a
	// twentieth of that, one byte at least.
	Rate int
	// Cut ends the connection, with a reset, once so many more bytes have passed; 0: never.
	Cut int
}

// Rule is what happens to a connection. The zero value lets it be.
type Rule struct {
	Up   Flow // towards the server
	Down Flow // towards the client
}

// Proxy passes connections on to a server. Its methods may be called by any goroutine.
type Proxy struct {
	server string
	l      net.Listener
	wg     sync.WaitGroup // of all goroutines

	mu      sync.Mutex // guards the following
	refuses bool
	closed  bool
	rules   [2]Rule
	conns   map[*conn]struct{}
}

// New starts a proxy of the server at an address. It ends with the test.
func New(t testing.TB, server string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // returns at once
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{server: server, l: l, conns: map[*conn]struct{}{}}
	p.wg.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

// Addr is where clients connect.
func (p *Proxy) Addr() string { return p.l.Addr().String() }

// Set has a rule hold from now on for all connections of a kind, present and future.
func (p *Proxy) Set(k Kind, r Rule) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rules[k] = r
	for c := range p.conns {
		if c.kind == k {
			c.setLocked(r)
		}
	}
}

// SetAll is Set for every kind.
func (p *Proxy) SetAll(r Rule) {
	for _, k := range Kinds {
		p.Set(k, r)
	}
}

// Refuse has new connections be reset as soon as they are made, or not any more.
func (p *Proxy) Refuse(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuses = on
}

// Cut resets the connections of the kinds, all if none is named, and returns how many
// those were.
func (p *Proxy) Cut(kinds ...Kind) int {
	if len(kinds) == 0 {
		kinds = Kinds
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for c := range p.conns {
		for _, k := range kinds {
			if c.kind == k {
				c.reset()
				n++
			}
		}
	}
	return n
}

// Conns is how many connections of a kind there are.
func (p *Proxy) Conns(k Kind) int { return p.sum(k, func(*conn) int { return 1 }) }

// Held is how many bytes of connections of a kind have come and are not passed on yet.
func (p *Proxy) Held(k Kind) int {
	return p.sum(k, func(c *conn) int { return c.up.waiting() + c.down.waiting() })
}

func (p *Proxy) sum(k Kind, of func(*conn) int) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		if c.kind == k {
			n += of(c)
		}
	}
	return n
}

func (p *Proxy) close() {
	_ = p.l.Close()
	p.mu.Lock()
	p.closed = true
	for c := range p.conns {
		c.reset()
	}
	p.mu.Unlock()
	p.wg.Wait()
}

func (p *Proxy) accept() {
	for {
		client, err := p.l.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		refuses := p.refuses
		p.mu.Unlock()
		if refuses {
			reset(client)
			continue
		}
		p.wg.Go(func() { p.serve(client) })
	}
}

// serve passes one connection on until it ends.
func (p *Proxy) serve(client net.Conn) {
	server, err := net.Dial("tcp", p.server) //nolint:noctx // loopback: at once or never
	if err != nil {
		reset(client)
		return
	}
	c := &conn{client: client, server: server, up: newPipe(), down: newPipe()}
	p.mu.Lock()
	if p.closed || p.refuses { // meanwhile
		p.mu.Unlock()
		c.reset()
		return
	}
	c.setLocked(p.rules[Other])
	p.conns[c] = struct{}{}
	p.mu.Unlock()

	var wg sync.WaitGroup
	wg.Go(func() { c.up.fill(client, func(b []byte) { p.look(c, b) }) })
	wg.Go(func() { c.up.drain(server, c.reset) })
	wg.Go(func() { c.down.fill(server, nil) })
	wg.Go(func() { c.down.drain(client, c.reset) })
	wg.Wait()
	_ = client.Close()
	_ = server.Close()
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
}

// subscribes finds a command that subscribes, at its place at the head of a command.
var subscribes = regexp.MustCompile(`(?i)\*\d+\r\n\$\d+\r\n[ps]?subscribe\r\n`)

// longest is how long a match may be.
const longest = 32

// look has the connection be PubSub, with the rule of those, before b is passed on, if
// its client subscribes there.
func (p *Proxy) look(c *conn, b []byte) {
	text := append(c.tail, b...)
	c.tail = bytes.Clone(text[max(0, len(text)-longest):])
	if !subscribes.Match(text) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.kind != PubSub {
		c.kind = PubSub
		c.setLocked(p.rules[PubSub])
	}
}

// conn is one connection through the proxy.
type conn struct {
	client, server net.Conn
	up, down       *pipe
	tail           []byte // of what the client sent; owned by up.fill
	kind           Kind   // guarded by Proxy.mu
}

func (c *conn) setLocked(r Rule) {
	c.up.set(r.Up)
	c.down.set(r.Down)
}

// reset ends both sides at once; what waits is lost. It may be called again.
func (c *conn) reset() {
	reset(c.client)
	reset(c.server)
	c.up.abort()
	c.down.abort()
}

func reset(c net.Conn) {
	_ = c.(*net.TCPConn).SetLinger(0)
	_ = c.Close()
}
