package rig

import (
	"io"
	"net"
	"slices"
	"sync"
	"testing"
)

// Balancer is a TCP load balancer over nodes that come and go: each connection goes to the next node that takes it.
type Balancer struct {
	addr string // stays the same

	mu    sync.Mutex   // guards the following
	l     net.Listener // nil while it is down
	next  int
	nodes []*Node
	conns map[net.Conn]bool // of clients
}

// Balance starts a balancer. It ends with the test.
func Balance(t testing.TB, nodes ...*Node) *Balancer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // returns at once
	if err != nil {
		t.Fatal(err)
	}
	b := &Balancer{addr: l.Addr().String(), nodes: slices.Clone(nodes), conns: map[net.Conn]bool{}}
	b.serve(l)
	t.Cleanup(b.Down)
	return b
}

// WS is where clients connect.
func (b *Balancer) WS() string { return "ws://" + b.addr + "/v1/connect" }

// Set puts another node into place i.
func (b *Balancer) Set(i int, n *Node) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.nodes[i] = n
}

// Down stops listening and cuts all connections, as a balancer does that is killed. It may be called twice.
func (b *Balancer) Down() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.l != nil {
		_ = b.l.Close()
	}
	b.l = nil
	for c := range b.conns {
		_ = c.Close()
	}
}

// Up listens again, at the same address.
func (b *Balancer) Up(t testing.TB) {
	t.Helper()
	l, err := net.Listen("tcp", b.addr) //nolint:noctx // returns at once
	if err != nil {
		t.Fatal(err)
	}
	b.serve(l)
}

func (b *Balancer) serve(l net.Listener) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.l = l
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go b.pipe(l, c)
		}
	}()
}

func (b *Balancer) pipe(l net.Listener, c net.Conn) {
	defer func() { _ = c.Close() }()
	b.mu.Lock()
	if b.l != l {
		b.mu.Unlock()
		return
	}
	b.conns[c] = true
	b.next++
	from, nodes := b.next, slices.Clone(b.nodes)
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.conns, c)
	}()
	for i := range nodes {
		up, err := net.Dial("tcp", nodes[(from+i)%len(nodes)].Addr) //nolint:noctx // loopback
		if err != nil {
			continue
		}
		defer func() { _ = up.Close() }()
		done := make(chan struct{})
		go func() { carry(up, c); _ = up.Close(); close(done) }()
		carry(c, up)
		_ = c.Close()
		<-done
		return
	}
}

// carry copies until either end fails. It hides what the connections are: to splice one into the other takes two more
// files each way, and a process may have only so many.
func carry(to, from net.Conn) {
	_, _ = io.Copy(struct{ io.Writer }{to}, struct{ io.Reader }{from})
}
