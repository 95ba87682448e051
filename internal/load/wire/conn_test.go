package wire_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/rollcall-presence/rollcall/internal/load/wire"
	"github.com/rollcall-presence/rollcall/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const protocol = "rollcall.v1.json"

// upgrade is what a server of the protocol answers.
const upgrade = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
	"sec-websocket-accept:  " + wire.Accept + " \r\nSec-WebSocket-Protocol: " + protocol + "\r\n\r\n"

// serve has each connection to a listener served by f, which has read the request, and is
// the address. The connection is closed after f.
func serve(t *testing.T, f func(c net.Conn, in *bufio.Reader)) *url.URL {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			in := bufio.NewReaderSize(c, 512)
			for line := "-"; err == nil && line != "\r\n"; {
				line, err = in.ReadString('\n')
			}
			if err == nil {
				f(c, in)
			}
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return &url.URL{Scheme: "ws", Host: l.Addr().String(), Path: "/v1/connect"}
}

// speak is serve by a server that upgrades, and then says what it is given, each piece by itself.
func speak(t *testing.T, pieces ...[]byte) *url.URL {
	return serve(t, func(c net.Conn, in *bufio.Reader) {
		_, _ = io.WriteString(c, upgrade)
		for _, p := range pieces {
			if _, err := c.Write(p); err != nil {
				return
			}
		}
		_, _ = io.Copy(io.Discard, in) // until the client is gone
	})
}

func dial(t *testing.T, u *url.URL) *wire.Conn {
	t.Helper()
	c, err := (&wire.Dialer{Subprotocol: protocol}).Dial(t.Context(), u, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// frame is one of the server's.
func frame(first byte, payload string) []byte {
	switch n := len(payload); {
	case n < 126:
		return append([]byte{first, byte(n)}, payload...)
	case n < 1<<16:
		return append(binary.BigEndian.AppendUint16([]byte{first, 126}, uint16(n)), payload...)
	default:
		return append(binary.BigEndian.AppendUint64([]byte{first, 127}, uint64(n)), payload...)
	}
}

const (
	more  = 0x00
	first = 0x01
	last  = 0x80
	text  = 0x81
	bye   = 0x88
	ping  = 0x89
	pong  = 0x8a
)

// collect reads until the connection ends, and returns the messages and how it ended.
func collect(t *testing.T, c *wire.Conn) (messages []string, end *wire.ClosedError) {
	t.Helper()
	for {
		err := c.Next(func(m []byte) error {
			messages = append(messages, string(m))
			return nil
		})
		if err == nil {
			continue
		}
		end, ok := errors.AsType[*wire.ClosedError](err)
		if !ok {
			t.Fatalf("Next = %v; want a *ClosedError", err)
		}
		return messages, end
	}
}

func TestHandshakeRefused(t *testing.T) {
	head := func(lines ...string) string { return strings.Join(lines, "\r\n") + "\r\n\r\n" }
	for name, tt := range map[string]struct {
		answer string
		status int           // of a RefusedError
		after  time.Duration // its RetryAfter
		want   string        // in the error
		wrong  bool          // it is an ErrProtocol
	}{
		"busy":            {head("HTTP/1.1 503 Service Unavailable", "Retry-After: 3"), 503, 3 * time.Second, "refused with 503 Service Unavailable", false},
		"busy in 1.0":     {head("HTTP/1.0 503 Service Unavailable", "retry-after: 1"), 503, time.Second, "503", false},
		"a date":          {head("HTTP/1.1 503 x", "Retry-After: Fri, 31 Dec 1999 23:59:59 GMT"), 503, 0, "503", false},
		"in the past":     {head("HTTP/1.1 503 x", "Retry-After: -5"), 503, 0, "503", false},
		"in a long time":  {head("HTTP/1.1 503 x", "Retry-After: 999999999999"), 503, time.Hour, "503", false},
		"no such path":    {head("HTTP/1.1 404 Not Found"), 404, 0, "refused with 404", false},
		"no reason":       {head("HTTP/1.1 403"), 403, 0, "refused with 403", false},
		"a page":          {head("HTTP/1.1 200 OK"), 200, 0, "refused with 200", false},
		"no status":       {head("HTTP/1.1 xyz OK"), 0, 0, "not HTTP/1.1", true},
		"ssh":             {"SSH-2.0-OpenSSH_9.6\r\n\r\n", 0, 0, "not HTTP/1.1", true},
		"no key":          {head("HTTP/1.1 101 x", "Upgrade: websocket"), 0, 0, "Sec-WebSocket-Accept", true},
		"another's key":   {head("HTTP/1.1 101 x", "Sec-WebSocket-Accept: AAAA"), 0, 0, "Sec-WebSocket-Accept", true},
		"no subprotocol":  {head("HTTP/1.1 101 x", "Sec-WebSocket-Accept: "+wire.Accept), 0, 0, `subprotocol is ""`, true},
		"another's":       {head("HTTP/1.1 101 x", "Sec-WebSocket-Accept: "+wire.Accept, "Sec-WebSocket-Protocol: chat"), 0, 0, `subprotocol is "chat"`, true},
		"endless":         {"HTTP/1.1 101 x\r\n" + strings.Repeat("X: y\r\n", 4000), 0, 0, "too long", true},
		"half of a line":  {"HTTP/1.1 10", 0, 0, "EOF", false},
		"nothing":         {"", 0, 0, "EOF", false},
		"half of an head": {strings.TrimSuffix(upgrade, "\r\n"), 0, 0, "EOF", false},
	} {
		t.Run(name, func(t *testing.T) {
			u := serve(t, func(c net.Conn, _ *bufio.Reader) { _, _ = io.WriteString(c, tt.answer) })
			c, err := (&wire.Dialer{Subprotocol: protocol}).Dial(t.Context(), u, nil)
			if err == nil {
				_ = c.Close()
				t.Fatal("Dial succeeds")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Dial = %v; want one about %q", err, tt.want)
			}
			if r, ok := errors.AsType[*wire.RefusedError](err); ok != (tt.status != 0) || ok && (r.Status != tt.status || r.RetryAfter != tt.after) {
				t.Errorf("Dial = %#v; want status %d, again in %v", err, tt.status, tt.after)
			}
			if errors.Is(err, wire.ErrProtocol) != tt.wrong {
				t.Errorf("Dial = %v; an ErrProtocol: %t", err, !tt.wrong)
			}
		})
	}
}

func TestDialEndsWithItsContext(t *testing.T) {
	asked := make(chan struct{})
	u := serve(t, func(_ net.Conn, in *bufio.Reader) { // says nothing
		close(asked)
		_, _ = in.ReadByte()
	})
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	go func() { <-asked; cancel(why) }()
	if _, err := (&wire.Dialer{}).Dial(ctx, u, nil); !errors.Is(err, why) {
		t.Errorf("Dial = %v; want %v", err, why)
	}
}

func TestDialAsksForWhatItWasTold(t *testing.T) {
	got := make(chan *http.Request, 1)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got <- r
		w.WriteHeader(http.StatusTeapot)
	}))
	defer s.Close()
	u, _ := url.Parse(strings.Replace(s.URL, "http", "ws", 1) + "/v1/connect?a=b%20c")
	_, err := (&wire.Dialer{Subprotocol: protocol}).Dial(t.Context(), u, &net.TCPAddr{IP: net.IPv4(127, 1, 2, 3)})
	if r, ok := errors.AsType[*wire.RefusedError](err); !ok || r.Status != http.StatusTeapot {
		t.Fatalf("Dial = %v", err)
	}
	r := <-got
	if host, _, _ := net.SplitHostPort(r.RemoteAddr); host != "127.1.2.3" {
		t.Errorf("the request came from %s", r.RemoteAddr)
	}
	if r.RequestURI != "/v1/connect?a=b%20c" || r.Host != u.Host || r.Header.Get("Sec-WebSocket-Protocol") != protocol {
		t.Errorf("the request is %s of %s, %v", r.RequestURI, r.Host, r.Header)
	}
}

func TestMessages(t *testing.T) {
	long := strings.Repeat("x", 100_000)
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for name, tt := range map[string]struct {
		pieces [][]byte
		want   []string
		code   int
		reason string
		err    string
	}{
		"one and a clean end":      {[][]byte{frame(text, "a"), frame(bye, "\x03\xe8")}, []string{"a"}, 1000, "", ""},
		"several at once":          {[][]byte{join(frame(text, "a"), frame(text, "b"), frame(pong, "?"), frame(text, ""), frame(bye, "\x0b\xb8why"))}, []string{"a", "b", ""}, 3000, "why", ""},
		"no code":                  {[][]byte{frame(bye, "")}, nil, 1005, "", ""},
		"byte by byte":             {slices.Collect(slices.Chunk(join(frame(text, "hello"), frame(text, strings.Repeat("y", 300)), frame(bye, "\x03\xe8")), 1)), []string{"hello", strings.Repeat("y", 300)}, 1000, "", ""},
		"lengths in 2 and 8 bytes": {[][]byte{frame(text, long[:126]), frame(text, long[:65535]), frame(text, long), frame(bye, "\x03\xe8")}, []string{long[:126], long[:65535], long}, 1000, "", ""},
		"fragments":                {[][]byte{frame(first, "a"), frame(more, "b"), frame(last, "c"), frame(text, "d"), frame(bye, "\x03\xe8")}, []string{"abc", "d"}, 1000, "", ""},
		"empty fragments":          {[][]byte{join(frame(first, ""), frame(last, ""), frame(bye, "\x03\xe8"))}, []string{""}, 1000, "", ""},
		"control between":          {[][]byte{frame(first, "a"), frame(ping, "?"), frame(pong, ""), frame(last, "b"), frame(bye, "\x03\xe8")}, []string{"ab"}, 1000, "", ""},
		"the end between":          {[][]byte{frame(first, "a"), frame(bye, "\x03\xe9")}, nil, 1001, "", ""},
		"what comes after the end": {[][]byte{join(frame(bye, "\x03\xe8"), frame(text, "late"))}, nil, 1000, "", ""},
		"no beginning":             {[][]byte{frame(last, "a")}, nil, 1006, "", "out of turn"},
		"more, no beginning":       {[][]byte{frame(more, "a")}, nil, 1006, "", "out of turn"},
		"two beginnings":           {[][]byte{frame(first, "a"), frame(first, "b")}, nil, 1006, "", "out of turn"},
		"whole within":             {[][]byte{frame(first, "a"), frame(text, "b")}, nil, 1006, "", "out of turn"},
		"masked":                   {[][]byte{append([]byte{text, 0x81, 1, 2, 3, 4}, 'a')}, nil, 1006, "", "masked"},
		"binary":                   {[][]byte{frame(0x82, "a")}, nil, 1006, "", "0x82"},
		"compressed":               {[][]byte{frame(0xc1, "a")}, nil, 1006, "", "0xc1"},
		"part of a ping":           {[][]byte{frame(0x09, "a")}, nil, 1006, "", "0x9"},
		"long ping":                {[][]byte{frame(ping, long[:126])}, nil, 1006, "", "126 bytes"},
		"half a code":              {[][]byte{frame(bye, "\x03")}, nil, 1006, "", "half a code"},
		"oversized":                {[][]byte{binary.BigEndian.AppendUint64([]byte{text, 127}, wire.MaxMessage+1)}, nil, 1006, "", "frame of 16777217 bytes"},
		"oversized beyond int":     {[][]byte{{text, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}, nil, 1006, "", "frame of"},
	} {
		t.Run(name, func(t *testing.T) {
			got, end := collect(t, dial(t, speak(t, tt.pieces...)))
			if !slices.Equal(got, tt.want) {
				t.Errorf("messages are %.80q; want %.80q", got, tt.want)
			}
			if end.Code != tt.code || end.Reason != tt.reason {
				t.Errorf("it ended with %d %q; want %d %q", end.Code, end.Reason, tt.code, tt.reason)
			}
			if (end.Err == nil) != (tt.err == "") || end.Err != nil && !strings.Contains(end.Error(), tt.err) {
				t.Errorf("it ended because of %v; want %q", end.Err, tt.err)
			}
		})
	}
}

// A message in fragments is bounded like one in a single frame.
func TestOversizedInFragments(t *testing.T) {
	big := strings.Repeat("x", wire.MaxMessage/2+1)
	got, end := collect(t, dial(t, speak(t, frame(first, big), frame(last, big))))
	if len(got) != 0 || end.Err == nil || !strings.Contains(end.Error(), "a message of") {
		t.Errorf("%d messages, then %v", len(got), end)
	}
}

// The server goes in the midst of things.
func TestBroken(t *testing.T) {
	for name, sent := range map[string]string{"in a frame": upgrade + string(frame(text, "hello")[:4]), "in a head": upgrade + "\x81", "between frames": upgrade} {
		t.Run(name, func(t *testing.T) {
			u := serve(t, func(c net.Conn, _ *bufio.Reader) { _, _ = io.WriteString(c, sent) })
			got, end := collect(t, dial(t, u))
			if len(got) != 0 || end.Code != 1006 || !errors.Is(end, io.EOF) {
				t.Errorf("%q, then %v; want nothing, then 1006 of EOF", got, end)
			}
		})
	}
	t.Run("reset", func(t *testing.T) {
		u := serve(t, func(c net.Conn, in *bufio.Reader) {
			_, _ = io.WriteString(c, upgrade)
			_, _ = in.ReadByte()
			_ = c.(*net.TCPConn).SetLinger(0)
		})
		c := dial(t, u)
		if err := c.Send([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, end := collect(t, c); end.Code != 1006 || !errors.Is(end, syscall.ECONNRESET) {
			t.Errorf("it ended with %v; want 1006 of ECONNRESET", end)
		}
	})
}

// What came in one packet with the handshake is not lost, whole or not.
func TestFramesWithTheHandshake(t *testing.T) {
	all := string(frame(text, "a")) + string(frame(text, "bcd"))
	for cut := range len(all) + 1 {
		u := serve(t, func(c net.Conn, in *bufio.Reader) {
			_, _ = io.WriteString(c, upgrade+all[:cut])
			if cut >= 3 { // the first message is whole, and must be told of with nothing more to come
				_, _ = in.ReadByte()
			}
			_, _ = io.WriteString(c, all[cut:]+string(frame(bye, "\x03\xe8")))
			_, _ = io.Copy(io.Discard, in)
		})
		c := dial(t, u)
		var got []string
		if cut >= 3 {
			if err := c.Next(func(m []byte) error { got = append(got, string(m)); return nil }); err != nil || got[0] != "a" {
				t.Fatalf("cut at %d: %q, %v", cut, got, err)
			}
			if err := c.Send([]byte("go on")); err != nil {
				t.Fatal(err)
			}
		}
		rest, end := collect(t, c)
		if got = append(got, rest...); !slices.Equal(got, []string{"a", "bcd"}) || end.Code != 1000 {
			t.Errorf("cut at %d: %q, then %v", cut, got, end)
		}
	}
}

func TestHandlersErrorStops(t *testing.T) {
	c := dial(t, speak(t, append(frame(text, "a"), frame(text, "b")...)))
	no, n := errors.New("no"), 0
	if err := c.Next(func([]byte) error { n++; return no }); !errors.Is(err, no) || n != 1 {
		t.Errorf("Next = %v after %d messages; want %v after 1", err, n, no)
	}
}

// A library's server takes what the client sends, of each length, pings and gets the pong,
// and has its close frame answered; over TLS too.
func TestAgainstLibrary(t *testing.T) {
	lengths := []int{0, 1, 125, 126, 65535, 65536, 300_000}
	for _, scheme := range []string{"ws", "wss"} {
		t.Run(scheme, func(t *testing.T) {
			result := make(chan error, 1)
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				result <- func() error {
					c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{protocol}})
					if err != nil {
						return err
					}
					defer c.CloseNow()
					c.SetReadLimit(1 << 20)
					for _, want := range lengths {
						kind, m, err := c.Read(r.Context())
						if err != nil || kind != websocket.MessageText || len(m) != want {
							return fmt.Errorf("read %d bytes of %v, %w; want %d of text", len(m), kind, err, want)
						}
						if err := c.Write(r.Context(), websocket.MessageText, m); err != nil {
							return err
						}
					}
					reading := c.CloseRead(r.Context())
					if err := c.Ping(reading); err != nil {
						return fmt.Errorf("ping: %w", err)
					}
					return c.Close(3001, `{"retry_after_ms":7}`)
				}()
			}))
			if scheme == "wss" {
				s.StartTLS()
			} else {
				s.Start()
			}
			defer s.Close()
			d := wire.Dialer{Subprotocol: protocol, TLS: &tls.Config{InsecureSkipVerify: true}}
			u := &url.URL{Scheme: scheme, Host: s.Listener.Addr().String()}
			c, err := d.Dial(t.Context(), u, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			for _, n := range lengths {
				if err := c.Send(bytes.Repeat([]byte("x"), n)); err != nil {
					t.Fatal(err)
				}
			}
			got, end := collect(t, c)
			for i, n := range lengths {
				if i >= len(got) || len(got[i]) != n {
					t.Errorf("answers of %d messages; want the lengths %v", len(got), lengths)
					break
				}
			}
			if end.Code != 3001 || end.Reason != `{"retry_after_ms":7}` {
				t.Errorf("it ended with %v", end)
			}
			if err := <-result; err != nil {
				t.Error(err)
			}
		})
	}
}

func TestTLSNeedsATrustedCertificate(t *testing.T) {
	s := httptest.NewUnstartedServer(nil)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	defer s.Close()
	_, err := (&wire.Dialer{}).Dial(t.Context(), &url.URL{Scheme: "wss", Host: s.Listener.Addr().String()}, nil)
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); !ok {
		t.Errorf("Dial = %v; want a CertificateVerificationError", err)
	}
}

// A client that did not read a ping yet can say that it is there.
func TestAlive(t *testing.T) {
	u := serve(t, func(c net.Conn, in *bufio.Reader) {
		_, _ = io.WriteString(c, upgrade)
		b := make([]byte, 6)
		if _, err := io.ReadFull(in, b); err != nil || !bytes.Equal(b, []byte{pong, 0x80, 0, 0, 0, 0}) {
			t.Errorf("the server reads % x, %v", b, err)
		}
	})
	c := dial(t, u)
	if err := c.Alive(); err != nil {
		t.Error(err)
	}
	_, _ = collect(t, c) // until the server is done
}

// The server sees the code of Bye, and a reset after Cut.
func TestEnds(t *testing.T) {
	seen := make(chan string, 2)
	u := serve(t, func(c net.Conn, in *bufio.Reader) {
		_, _ = io.WriteString(c, upgrade)
		b, err := io.ReadAll(io.LimitReader(in, 8))
		seen <- fmt.Sprintf("% x %t", b, errors.Is(err, syscall.ECONNRESET))
	})
	c := dial(t, u)
	if err := c.Bye(1001); err != nil {
		t.Fatal(err)
	}
	if got, want := <-seen, "88 82 00 00 00 00 03 e9 false"; got != want {
		t.Errorf("after Bye the server saw %s; want %s", got, want)
	}
	dial(t, u).Cut()
	if got, want := <-seen, " true"; got != want {
		t.Errorf("after Cut the server saw %s; want %s", got, want)
	}
}

// What a server can write toward a client that does not read ends soon if the client is narrow.
func TestNarrow(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only on Linux")
	}
	const most = 256 << 10
	sent := make(chan int, 1)
	u := serve(t, func(c net.Conn, _ *bufio.Reader) {
		_, _ = io.WriteString(c, upgrade)
		raw, _ := c.(*net.TCPConn).SyscallConn()
		n := 0
		for b := make([]byte, 1000); n < 2*most; {
			full := false
			_ = raw.Write(func(fd uintptr) bool {
				k, err := syscall.Write(int(fd), b)
				n, full = n+max(k, 0), errors.Is(err, syscall.EAGAIN)
				return true
			})
			if full {
				break
			}
		}
		sent <- n
	})
	c, err := (&wire.Dialer{Subprotocol: protocol, Narrow: true}).Dial(t.Context(), u, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if n := <-sent; n > most {
		t.Errorf("the server wrote %d bytes that nobody read; want at most %d", n, most)
	} else {
		t.Logf("the server wrote %d bytes that nobody read", n)
	}
}

// An idle connection costs little, also after it took long messages: measured with a
// goroutine that waits in Next, and with the server's end, which is in this process.
func TestMemoryOfAConnection(t *testing.T) {
	const connections = 500
	most := int64(4 << 10)
	if testkit.Race {
		most *= 2
	}
	ends := make(chan net.Conn, connections)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		defer close(ends)
		message := append([]byte(upgrade), frame(text, strings.Repeat("x", 60_000))...)
		request := make([]byte, 4096)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if n, err := c.Read(request); err != nil || !bytes.HasSuffix(request[:n], []byte("\r\n\r\n")) {
				t.Errorf("the request is %q, %v", request[:n], err)
			}
			_, _ = c.Write(message)
			ends <- c
		}
	}()
	used := func() uint64 {
		runtime.GC()
		runtime.GC() // the second empties sync.Pools
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	d := &wire.Dialer{Subprotocol: protocol}
	u := &url.URL{Scheme: "ws", Host: l.Addr().String(), Path: "/"}
	before := used()
	conns := make([]*wire.Conn, connections)
	gone := make(chan error, connections)
	for i := range conns {
		if conns[i], err = d.Dial(t.Context(), u, nil); err != nil {
			t.Fatal(err)
		}
		for n := 0; n == 0; {
			if err := conns[i].Next(func([]byte) error { n++; return nil }); err != nil {
				t.Fatal(err)
			}
		}
		go func() { gone <- conns[i].Next(func([]byte) error { return nil }) }()
	}
	each := int64(used()-before) / connections
	t.Logf("a connection, its goroutine and the server's end take %d bytes", each)
	if each > most {
		t.Errorf("a connection takes %d bytes; want at most %d", each, most)
	}
	for _, c := range conns {
		_ = c.Close()
		<-gone
	}
	_ = l.Close()
	for c := range ends {
		_ = c.Close()
	}
}

// Frames come out the same however the stream is cut into pieces.
func TestPiecesDoNotMatter(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var stream []byte
		var want []string
		for _, m := range rapid.SliceOfN(rapid.StringN(0, 200, 400), 0, 6).Draw(rt, "messages") {
			want = append(want, m)
			parts := rapid.IntRange(1, 3).Draw(rt, "fragments")
			for i := range parts {
				op := []byte{more, last}[(i+1)/parts]
				if i == 0 {
					op = []byte{first, text}[1/parts]
				}
				stream = append(stream, frame(op, m[len(m)*i/parts:len(m)*(i+1)/parts])...)
				if rapid.Bool().Draw(rt, "a pong between") {
					stream = append(stream, frame(pong, "x")...)
				}
			}
		}
		var pieces [][]byte
		for rest := stream; len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(rt, "piece")
			pieces, rest = append(pieces, rest[:n]), rest[n:]
		}
		var got []string
		kept, err := wire.Frames(nil, pieces, func(m []byte) error { got = append(got, string(m)); return nil })
		if err != nil || kept != 0 || !slices.Equal(got, want) {
			rt.Fatalf("%q of %q, %d bytes kept, %v", got, want, kept, err)
		}
	})
}

// The decoder of frames takes any bytes without harm, and the same at once and byte by byte.
func FuzzFrames(f *testing.F) {
	f.Add(frame(text, "hello"))
	f.Add(append(frame(first, "a"), frame(last, "b")...))
	f.Add(append(frame(ping, "?"), frame(bye, "\x03\xe8bye")...))
	f.Add([]byte{text, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{text, 0x81, 1, 2, 3, 4, 5})
	f.Fuzz(func(t *testing.T, data []byte) {
		run := func(pieces [][]byte) string {
			var b strings.Builder
			kept, err := wire.Frames(nowhere{}, pieces, func(m []byte) error {
				if len(m) > len(data) {
					t.Fatalf("a message of %d bytes of %d", len(m), len(data))
				}
				fmt.Fprintf(&b, "%q ", m)
				return nil
			})
			fmt.Fprint(&b, kept, err)
			return b.String()
		}
		if a, b := run([][]byte{data}), run(slices.Collect(slices.Chunk(data, 1))); a != b {
			t.Errorf("at once %s; byte by byte %s", a, b)
		}
	})
}

// nowhere takes what is written to it.
type nowhere struct{ net.Conn }

func (nowhere) Write(p []byte) (int, error) { return len(p), nil }
