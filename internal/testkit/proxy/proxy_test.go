package proxy_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/internal/testkit/proxy"
)

// echo is a server that sends back what it gets; it tells of each connection.
func echo(t *testing.T) (addr string, conns <-chan net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan net.Conn, 16)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
			wg.Go(func() {
				defer func() { _ = c.Close() }()
				_, _ = io.Copy(c, c)
			})
		}
	})
	t.Cleanup(wg.Wait)
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().String(), accepted
}

func dial(t *testing.T, p *proxy.Proxy) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

func say(t *testing.T, c net.Conn, what string) {
	t.Helper()
	if _, err := io.WriteString(c, what); err != nil {
		t.Fatalf("write: %v", err)
	}
}

func hear(t *testing.T, c net.Conn, want string) {
	t.Helper()
	b := make([]byte, len(want))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != want {
		t.Fatalf("read %q, %v; want %q", b, err, want)
	}
}

// gone waits for the reset of a connection.
func gone(t *testing.T, c net.Conn) {
	t.Helper()
	rest, err := io.ReadAll(c)
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection ended with %v after %q; want a reset", err, rest)
	}
}

func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for !f() {
		select {
		case <-deadline:
			t.Fatalf("not within 20s: %s", what)
		case <-time.After(time.Millisecond):
		}
	}
}

func TestBytesAndEndsPass(t *testing.T) {
	t.Parallel()
	addr, _ := echo(t)
	p := proxy.New(t, addr)
	c := dial(t, p)
	text := strings.Repeat("all of it ", 1<<17)    // more than waits on the way
	go func() { _, _ = io.WriteString(c, text) }() // hear finds out if it fails
	hear(t, c, text)
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
		t.Errorf("after the end: %q, %v; want the end", rest, err)
	}
	until(t, "the connection is forgotten", func() bool { return p.Conns(proxy.Other) == 0 })
}

func TestHoleHoldsAndLoses(t *testing.T) {
	t.Parallel()
	addr, conns := echo(t)
	p := proxy.New(t, addr)
	c := dial(t, p)
	say(t, c, "before ")
	hear(t, c, "before ")
	server := <-conns

	p.SetAll(proxy.Rule{Down: proxy.Flow{Hole: true}})
	say(t, c, "there and not back ")
	until(t, "the answer is held", func() bool { return p.Held(proxy.Other) == len("there and not back ") })
	p.SetAll(proxy.Rule{Up: proxy.Flow{Hole: true}, Down: proxy.Flow{Hole: true}})
	say(t, c, "not even there")
	until(t, "both are held", func() bool { return p.Held(proxy.Other) == len("there and not back not even there") })
	_ = server.Close() // is not seen either
	p.SetAll(proxy.Rule{Up: proxy.Flow{Hole: true}})
	hear(t, c, "there and not back ")
	if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
		t.Errorf("after the hole: %q, %v; want the server's end", rest, err)
	}
}

func TestHoleIsBounded(t *testing.T) {
	t.Parallel()
	addr, _ := echo(t)
	p := proxy.New(t, addr)
	p.SetAll(proxy.Rule{Up: proxy.Flow{Hole: true}})
	c := dial(t, p)
	type wrote struct {
		n   int
		err error
	}
	done := make(chan wrote)
	go func() {
		n, err := c.Write(make([]byte, 64<<20))
		done <- wrote{n, err}
	}()
	until(t, "the hole is full", func() bool { return p.Held(proxy.Other) >= 256<<10 })
	_ = c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond)) // and no more goes in
	w := <-done
	if w.err == nil {
		t.Fatal("64 MiB went into a hole")
	}
	if held := p.Held(proxy.Other); held < 256<<10 || held > 256<<10+16<<10 {
		t.Errorf("%d bytes are held of %d written; want 256 KiB and little more", held, w.n)
	}
}

func TestLatency(t *testing.T) {
	t.Parallel()
	addr, _ := echo(t)
	p := proxy.New(t, addr)
	p.SetAll(proxy.Rule{Up: proxy.Flow{Latency: 60 * time.Millisecond}, Down: proxy.Flow{Latency: 40 * time.Millisecond}})
	c := dial(t, p)
	began := time.Now()
	say(t, c, "ping")
	hear(t, c, "ping")
	if took := time.Since(began); took < 100*time.Millisecond {
		t.Errorf("there and back in %v; want 100ms at least", took)
	}
}

func TestRate(t *testing.T) {
	t.Parallel()
	addr, _ := echo(t)
	p := proxy.New(t, addr)
	p.SetAll(proxy.Rule{Down: proxy.Flow{Rate: 20}})
	c := dial(t, p)
	began := time.Now()
	say(t, c, "0123456789")
	hear(t, c, "0123")
	if took := time.Since(began); took < 150*time.Millisecond {
		t.Errorf("4 bytes at 20 a second in %v; want 150ms at least", took)
	}
	p.SetAll(proxy.Rule{}) // also for the pause that is under way
	hear(t, c, "456789")
}

func TestCutAfterBytes(t *testing.T) {
	t.Parallel()
	addr, _ := echo(t)
	p := proxy.New(t, addr)
	p.SetAll(proxy.Rule{Down: proxy.Flow{Cut: 5}})
	c := dial(t, p)
	say(t, c, "012")
	hear(t, c, "012")
	say(t, c, "3456789")
	// A reset may overtake what came just before it.
	rest, err := io.ReadAll(c)
	if !errors.Is(err, syscall.ECONNRESET) || !strings.HasPrefix("34", string(rest)) {
		t.Errorf("after 5 bytes: %q, %v; want at most 34 and a reset", rest, err)
	}
}

func TestRefuse(t *testing.T) {
	t.Parallel()
	addr, _ := echo(t)
	p := proxy.New(t, addr)
	old := dial(t, p)
	say(t, old, "a")
	hear(t, old, "a")
	p.Refuse(true)
	if c, err := net.Dial("tcp", p.Addr()); err == nil { // else the reset came as early as that
		defer func() { _ = c.Close() }()
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		gone(t, c)
	} else if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("connecting: %v; want a reset", err)
	}
	say(t, old, "b")
	hear(t, old, "b")
	p.Refuse(false)
	c := dial(t, p)
	say(t, c, "c")
	hear(t, c, "c")
	if n := p.Cut(); n != 2 {
		t.Errorf("Cut() = %d; want 2", n)
	}
	gone(t, old)
	gone(t, c)
}

// TestPubSubIsToldApart has one rule for the connection that listens and another for
// the one that asks.
func TestPubSubIsToldApart(t *testing.T) {
	t.Parallel()
	for _, command := range []string{"SUBSCRIBE", "psubscribe", "SSUBSCRIBE"} {
		addr, _ := echo(t)
		p := proxy.New(t, addr)
		subscribe := fmt.Sprintf("*2\r\n$%d\r\n%s\r\n$1\r\nc\r\n", len(command), command)
		ask := "*3\r\n$7\r\nPUBLISH\r\n$1\r\nc\r\n$13\r\nthe subscribe\r\n"

		asks, listens := dial(t, p), dial(t, p)
		say(t, asks, ask)
		hear(t, asks, ask)
		say(t, listens, ask+subscribe[:9]) // in two pieces
		hear(t, listens, ask+subscribe[:9])
		if n := p.Conns(proxy.PubSub); n != 0 {
			t.Errorf("%d connections listen before %s; want 0", n, command)
		}
		p.Set(proxy.PubSub, proxy.Rule{Up: proxy.Flow{Hole: true}})
		say(t, listens, subscribe[9:])
		until(t, "the subscription is held", func() bool { return p.Held(proxy.PubSub) == len(subscribe)-9 })
		say(t, asks, ask)
		hear(t, asks, ask)
		if n := p.Cut(proxy.PubSub); n != 1 {
			t.Errorf("Cut(PubSub) = %d; want 1", n)
		}
		gone(t, listens)
		say(t, asks, ask)
		hear(t, asks, ask)
	}
}

// TestRedis has a client of Redis hold the connections that its user takes it to hold.
func TestRedis(t *testing.T) {
	t.Parallel()
	s := testkit.Redis(t)
	p := proxy.New(t, s.Addr)
	c := redis.NewClient(&redis.Options{Addr: p.Addr(), Protocol: 2, MaxRetries: -1})
	defer func() { _ = c.Close() }()
	ctx := t.Context()
	sub := c.Subscribe(ctx, "a", "b")
	defer func() { _ = sub.Close() }()
	for range 2 {
		if _, err := sub.Receive(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Publish(ctx, "a", "1").Err(); err != nil {
		t.Fatal(err)
	}
	if m, err := sub.ReceiveMessage(ctx); err != nil || m.Payload != "1" {
		t.Fatalf("ReceiveMessage() = %v, %v; want 1", m, err)
	}
	if n := p.Conns(proxy.PubSub); n != 1 {
		t.Errorf("%d connections listen; want 1", n)
	}
	if n := p.Conns(proxy.Other); n != 1 {
		t.Errorf("%d connections ask; want 1", n)
	}
	p.Set(proxy.PubSub, proxy.Rule{Down: proxy.Flow{Hole: true}})
	if n, err := c.Publish(ctx, "a", "2").Result(); err != nil || n != 1 {
		t.Fatalf("Publish() = %d, %v; want 1", n, err)
	}
	until(t, "the message is held", func() bool { return p.Held(proxy.PubSub) > 0 })
}
