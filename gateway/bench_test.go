package gateway_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/rollcall-presence/rollcall/auth"
	"github.com/rollcall-presence/rollcall/fanout"
	"github.com/rollcall-presence/rollcall/gateway"
	"github.com/rollcall-presence/rollcall/gateway/native"
	"github.com/rollcall-presence/rollcall/presence"
)

// loopback is a node with presence in memory on a TCP listener.
func loopback(b *testing.B) (*store, string) {
	b.Helper()
	st := newStore()
	hub := fanout.NewHub(direct{}, st, st, fanout.Options{})
	st.changed = func(seq uint64, e presence.Event) { hub.Event(0, "run", seq, e) }
	srv, err := gateway.New(gateway.Options{
		Presence: st, Services: st, Hub: hub, Tokens: auth.NewVerifier(auth.StaticKeys{key.SID: key}),
		Sockets: map[string]gateway.Protocol{"/v1/connect": native.Protocol{}},
		Limits:  gateway.Limits{AcceptRate: 1_000_000, AcceptBurst: 1_000_000},
	})
	if err != nil {
		b.Fatal(err)
	}
	l, err := (&net.ListenConfig{}).Listen(b.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(ctx, l, nil) })
	b.Cleanup(func() { cancel(); wg.Wait() })
	return st, l.Addr().String()
}

// client says hello, and what else it is given, and returns after the last answer.
func client(b *testing.B, addr string, messages ...string) (net.Conn, *bufio.Reader) {
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

func benchHello(b *testing.B, identity string) string {
	b.Helper()
	token, err := auth.Mint(key, service, identity, time.Now(), time.Hour)
	if err != nil {
		b.Fatal(err)
	}
	return `{"type":"hello","token":"` + token + `"}`
}

// BenchmarkFrameWrite is one change of one user, until the last of its subscribers
// on this node has read the frame; both ends of the sockets are in this process.
func BenchmarkFrameWrite(b *testing.B) {
	for _, subs := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("subs=%d", subs), func(b *testing.B) {
			st, addr := loopback(b)
			var got sync.WaitGroup
			for i := range subs {
				c, r := client(b, addr, benchHello(b, fmt.Sprint("user-", i)), `{"type":"subscribe","identities":["bob"]}`)
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
			bob, online := presence.Key{Service: service, Identity: "bob"}, presence.True
			for b.Loop() {
				got.Add(subs)
				st.set(bob, online)
				got.Wait()
				online = presence.True + presence.False - online
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*subs), "ns/frame")
		})
	}
}

// BenchmarkAccept is a whole session: connect, hello, welcome, bye.
func BenchmarkAccept(b *testing.B) {
	_, addr := loopback(b)
	hello := benchHello(b, "alice")
	for b.Loop() {
		c, r := client(b, addr, hello)
		if _, err := c.Write(masked(0x81, `{"type":"bye"}`)); err != nil {
			b.Fatal(err)
		}
		if op, _, err := nextFrame(r); err != nil || op != 0x88 {
			b.Fatalf("answered %#x, %v; want a close frame", op, err)
		}
		_ = c.Close()
	}
}
