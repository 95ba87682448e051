package gateway_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rollcall-presence/rollcall/auth"
	"github.com/rollcall-presence/rollcall/fanout"
	"github.com/rollcall-presence/rollcall/gateway"
	"github.com/rollcall-presence/rollcall/gateway/native"
	"github.com/rollcall-presence/rollcall/gateway/twilsock"
	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/presence"
)

// loopback is a node with presence in memory on a TCP listener.
func loopback(b testing.TB) (*store, *tap) {
	b.Helper()
	l := &tap{Listener: listenTCP(b), written: make(chan struct{}, 1)}
	return serveOn(b, l), l
}

func listenTCP(b testing.TB) net.Listener {
	b.Helper()
	l, err := (&net.ListenConfig{}).Listen(b.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	return l
}

// serveOn serves a node with presence in memory on a listener, until the end of the test.
func serveOn(b testing.TB, l net.Listener) *store {
	b.Helper()
	st := newStore()
	hub := fanout.NewHub(direct{}, st, st, fanout.Options{})
	st.changed = func(seq uint64, e presence.Event) { hub.Event(0, "run", seq, e) }
	srv, err := gateway.New(gateway.Options{
		Presence: st, Services: st, Hub: hub, Tokens: auth.NewVerifier(auth.StaticKeys{key.SID: key}),
		Users:   st,
		Sockets: map[string]gateway.Protocol{"/v1/connect": native.Protocol{}, "/v3/wsconnect": twilsock.New(twilsock.Options{})},
		Limits:  gateway.Limits{AcceptRate: 1_000_000, AcceptBurst: 1_000_000},
	})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(ctx, l, nil) })
	b.Cleanup(func() { cancel(); wg.Wait() })
	return st
}

// tap is a listener whose sockets tell when messages were written.
type tap struct {
	net.Listener
	dry     atomic.Bool   // messages go nowhere: what is left is the node's own work
	left    atomic.Int64  // to be written
	written chan struct{} // told when none is left
}

type tapped struct {
	net.Conn
	*tap
}

func (t *tap) Accept() (net.Conn, error) {
	c, err := t.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &tapped{c, t}, nil
}

func (c *tapped) Write(p []byte) (n int, err error) {
	control := 0 // a ping or a pong may go ahead of the message
	for control < len(p) && p[control]&0x08 != 0 {
		control += 2 + int(p[control+1])
	}
	out := p
	if c.dry.Load() {
		out = p[:control]
	}
	if len(out) > 0 {
		_, err = c.Conn.Write(out)
	}
	if control < len(p) && c.left.Add(-1) == 0 {
		c.written <- struct{}{}
	}
	return len(p), err
}

// toggle has a user come online or go offline.
func (s *store) toggle(k presence.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.setLocked(k, presence.TriOf(s.ensureLocked(k).Online != presence.True))
}

// change is one change of bob, until his subscribers' frames have been written.
func (t *tap) change(st *store, subs int) {
	bob := presence.Key{Service: service, Identity: "bob"}
	t.left.Store(int64(subs))
	st.toggle(bob)
	<-t.written
}

// client says hello, and what else it is given, and returns after the last answer.
func client(b testing.TB, addr string, messages ...string) (net.Conn, *bufio.Reader) {
	b.Helper()
	c, err := (&net.Dialer{}).DialContext(b.Context(), "tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	r := bufio.NewReader(c)
	if _, err := io.WriteString(c, "GET /v1/connect HTTP/1.1\r\nHost: "+addr+"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"); err != nil {
		b.Fatal(err)
	}
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		b.Fatal(err)
	}
	_ = resp.Body.Close()
	for _, m := range messages {
		if _, err := c.Write(masked(0x81, m)); err != nil {
			b.Fatal(err)
		}
		if _, err := nextMessage(c, r); err != nil {
			b.Fatal(err)
		}
	}
	return c, r
}

func benchHello(b testing.TB, identity string) string {
	b.Helper()
	token, err := auth.Mint(key, service, identity, time.Now(), time.Hour)
	if err != nil {
		b.Fatal(err)
	}
	return `{"type":"hello","token":"` + token + `"}`
}

// watchBob is how a client comes to hear of bob.
const watchBob = `{"type":"subscribe","id":1,"identities":["bob"]}`

// BenchmarkFrameWrite is one change of one user, until the last of its subscribers on this
// node has read the frame, with both ends of the sockets in this process; until the last
// frame was written to a socket that another process reads; or until it would have
// been written, which is the node's own work.
func BenchmarkFrameWrite(b *testing.B) {
	for _, to := range []string{"reader", "socket", "nowhere"} {
		for _, subs := range []int{1, 100, 1000} {
			b.Run(fmt.Sprintf("to=%s/subs=%d", to, subs), func(b *testing.B) {
				st, l := loopback(b)
				change := func() { l.change(st, subs) }
				if to == "reader" {
					change = readers(b, st, l.Addr().String(), subs)
				} else {
					idleClients(b, l.Addr().String(), service, "watcher")(subs)
					l.dry.Store(to == "nowhere")
				}
				for range 3 { // the first ones make what is kept
					change()
				}
				cpu := cpuTime(b)
				b.ReportAllocs()
				for b.Loop() {
					change()
				}
				frames := float64(b.N * subs)
				b.ReportMetric(float64((cpuTime(b)-cpu).Nanoseconds())/frames, "cpu-ns/frame")
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/frames, "ns/frame")
			})
		}
	}
}

// readers are clients in this process, which hear of bob; a call changes him and
// returns once they did.
func readers(b *testing.B, st *store, addr string, subs int) (change func()) {
	b.Helper()
	var got sync.WaitGroup
	for i := range subs {
		c, r := client(b, addr, benchHello(b, fmt.Sprint("user-", i)), watchBob)
		b.Cleanup(func() { _ = c.Close() })
		go func() { // ends when the cleanup closes c
			for {
				if _, err := nextMessage(c, r); err != nil {
					return
				}
				got.Done()
			}
		}()
	}
	return func() {
		got.Add(subs)
		st.toggle(presence.Key{Service: service, Identity: "bob"})
		got.Wait()
	}
}

// An update that was encoded costs no allocation for each subscriber it is put before,
// taken by the session's writer and written for.
func TestFrameWriteAllocatesNothing(t *testing.T) {
	allocs := func(subs int) float64 {
		st, l := loopback(t)
		for i := range subs {
			c, r := client(t, l.Addr().String(), benchHello(t, fmt.Sprint("user-", i)), watchBob)
			t.Cleanup(func() { _ = c.Close() })
			go func() { // answers pings; ends when the cleanup closes c
				for {
					if _, err := nextMessage(c, r); err != nil {
						return
					}
				}
			}()
		}
		l.dry.Store(true)
		for range 10 {
			l.change(st, subs)
		}
		return testing.AllocsPerRun(50, func() { l.change(st, subs) })
	}
	const subs = 201
	one, many := allocs(1), allocs(subs)
	each, most := (many-one)/(subs-1), 0.05 // a pool may be emptied by the collector
	if testkit.Race {
		most = 1.25 // each fourth writer finds none of what others left: a struct and its two lists
	}
	t.Logf("%v allocations a change with one subscriber, %v with %d: %.3f a frame", one, many, subs, each)
	if each > most {
		t.Errorf("%.3f allocations a frame; want 0 (at most %v)", each, most)
	}
}

// BenchmarkAccept is a whole session: connect, hello, welcome, bye. The client is
// another process.
func BenchmarkAccept(b *testing.B) {
	for _, protocol := range []string{"native", "twilsock"} {
		b.Run("protocol="+protocol, func(b *testing.B) {
			l := listenTCP(b)
			serveOn(b, l)
			visit := idleClients(b, l.Addr().String(), service, protocol+"-visit")
			visit(1)
			cpu := cpuTime(b)
			b.ReportAllocs()
			for b.Loop() {
				visit(1)
			}
			b.ReportMetric(float64((cpuTime(b)-cpu).Microseconds())/float64(b.N), "cpu-us/session")
		})
	}
}

// cpuTime is what this process has used of CPUs.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var use syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &use); err != nil {
		b.Fatal(err)
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}
