package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/rollcall-presence/rollcall/gateway"
)

// script is a socket on which so much has come, and no more will.
type script struct {
	net.Conn
	in *bytes.Reader
}

func (c script) Read(p []byte) (int, error)  { return c.in.Read(p) }
func (c script) Write(p []byte) (int, error) { return len(p), nil }
func (c script) Close() error                { return nil }

// taken is a handshake that is over.
type taken struct {
	http.ResponseWriter
	conn net.Conn
}

func (taken) Header() http.Header { return http.Header{} }
func (taken) WriteHeader(int)     {}
func (w taken) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return w.conn, bufio.NewReadWriter(bufio.NewReader(w.conn), bufio.NewWriter(w.conn)), nil
}

// FuzzFrame: a frame that the session reads by itself is to the library what it is to the session.
func FuzzFrame(f *testing.F) {
	var t testing.T
	for _, payload := range []string{"", "{}", strings.Repeat("x", 125), strings.Repeat("0123456", 40)} {
		for _, op := range []byte{0x81, 0x82, 0x01, 0x80, 0x89, 0x8a, 0x88, 0xc1, 0x83} {
			var b bytes.Buffer
			writeFrame(&t, &b, op, payload)
			f.Add(b.Bytes())
		}
	}
	f.Add([]byte{0x81, 0xfe, 0, 1, 1, 2, 3, 4, 'a'}) // a length that might be shorter
	f.Add([]byte{0x81, 0x02, 'h', 'i', 0, 0, 0, 0})  // not masked
	for _, code := range []int{999, 1000, 1003, 1004, 1006, 1007, 1012, 1014, 1015, 2999, 3000, 4999, 5000} {
		var b bytes.Buffer
		writeFrame(&t, &b, 0x88, string([]byte{byte(code >> 8), byte(code)})+"why\xff")
		f.Add(b.Bytes())
	}
	f.Add([]byte{0x89, 0xfe, 0, 126, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		const limit = 1 << 10
		mine := bytes.Clone(data)
		op, payload, size := gateway.PlainFrame(mine, limit)
		if size == 0 {
			if !bytes.Equal(mine, data) {
				t.Fatalf("%x was changed to %x though it is not plain", data, mine)
			}
			return
		}
		var control []string
		heard := func(name string) func(context.Context, []byte) {
			return func(_ context.Context, p []byte) { control = append(control, name+string(p)) }
		}
		ping := heard("ping")
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://a/", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"AAAAAAAAAAAAAAAAAAAAAA=="}}
		ws, err := websocket.Accept(taken{conn: script{in: bytes.NewReader(data[:size])}}, r, &websocket.AcceptOptions{
			OnPingReceived: func(ctx context.Context, p []byte) bool { ping(ctx, p); return true },
			OnPongReceived: heard("pong"),
		})
		if err != nil {
			t.Fatal(err)
		}
		ws.SetReadLimit(limit)
		typ, message, err := ws.Reader(context.Background())
		var got string
		switch {
		case err == nil:
			text, err := io.ReadAll(message)
			if err != nil {
				t.Fatalf("%x: library: %v; want a message", data, err)
			}
			got = typ.String() + string(text)
		case len(control) == 1:
			got = control[0]
		case websocket.CloseStatus(err) != -1:
			end, _ := errors.AsType[websocket.CloseError](err)
			got = "end" + string(binary.BigEndian.AppendUint16(nil, uint16(end.Code))) + end.Reason
		default:
			t.Fatalf("%x: library: %v; want frame %x %q", data, err, op, payload)
		}
		want := map[byte]string{0x81: "MessageText", 0x82: "MessageBinary", 0x89: "ping", 0x8a: "pong", 0x88: "end"}[op] + string(payload)
		if got != want {
			t.Fatalf("%x: library: %q; want %q", data, got, want)
		}
	})
}

// TestFrames: whatever way a client cuts its frames and its bytes, and in between, its requests
// are answered in order: on a TCP socket, where the library is borrowed for what is not plain, as
// on one that has a buffer of its own.
func TestFrames(t *testing.T) {
	var all bytes.Buffer
	asks := 0
	ask := func(op byte, text string) { writeFrame(t, &all, op, text) }
	for _, pad := range []int{0, 100, 300, 5000, 40_000} {
		asks++
		ask(0x81, `{"type":"ping","id":1`+strings.Repeat(" ", pad)+`}`)
		ask(0x8a, "a pong that nobody asked for")
		asks++
		ask(0x01, `{"type":"pi`)
		ask(0x89, "in between")
		ask(0x00, `ng",`)
		ask(0x80, `"id":1`+strings.Repeat(" ", pad)+`}`)
	}
	play := func(t *testing.T, c net.Conn, step int) {
		t.Helper()
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		r := bufio.NewReader(c)
		if _, err := io.WriteString(c, upgradeRequest+"\r\n"); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil || resp.StatusCode != 101 {
			t.Fatalf("answer = %v, %v; want 101", resp, err)
		}
		_ = resp.Body.Close()
		var hello bytes.Buffer
		writeFrame(t, &hello, 0x81, `{"type":"hello","token":"`+mint(t, service, "alice", time.Hour)+`"}`)
		b := append(hello.Bytes(), all.Bytes()...)
		go func() {
			for len(b) > 0 {
				n, err := c.Write(b[:min(step, len(b))])
				if err != nil {
					return
				}
				b = b[n:]
			}
		}()
		pongs := 0
		for pongs < asks {
			frame, err := readFrame(r)
			if err != nil {
				t.Fatalf("after %d of %d answers: %v", pongs, asks, err)
			}
			if strings.HasPrefix(string(frame[1:]), `{"type":"pong","id":1`) {
				pongs++
			}
		}
		var bye bytes.Buffer
		writeFrame(t, &bye, 0x88, "\x03\xe8")
		_, _ = c.Write(bye.Bytes())
		if b, err := io.ReadAll(r); err != nil || !bytes.HasSuffix(b, []byte("\x88\x05\x03\xe8bye")) {
			t.Errorf("after the close frame: %x, %v; want its echo", b, err)
		}
	}
	l := listenTCP(t)
	serveOn(t, l)
	for _, step := range []int{1 << 20, 4096, 1000, 131, 7} {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		play(t, c, step)
		_ = c.Close()
	}
	bubble(t, nil, func(t *testing.T, n *node) {
		for _, step := range []int{1 << 20, 1000, 131, 7} {
			c, err := n.public.dial(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			play(t, c, step)
			_ = c.Close()
			synctest.Wait()
		}
	})
}
