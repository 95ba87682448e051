package rig

import (
	"bufio"
	"context"
	enc "encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// The opcodes of RFC 6455, with the FIN bit.
const (
	OpText   = 0x81
	OpBinary = 0x82
	OpClose  = 0x88
	OpPing   = 0x89
	OpPong   = 0x8a
)

// Raw is a client that sends what it is told to, right or wrong.
type Raw struct {
	T testing.TB // whose failure it is when a wish is not met
	net.Conn
	r *bufio.Reader
}

// Raw opens a WebSocket on the node that speaks the native protocol. It is closed when
// the test ends.
func (n *Node) Raw(t testing.TB, header ...string) *Raw {
	t.Helper()
	return n.RawAt(t, "/v1/connect", append([]string{"Sec-WebSocket-Protocol: rollcall.v1.json"}, header...)...)
}

// RawAt is Raw for any path, without a subprotocol.
func (n *Node) RawAt(t testing.TB, path string, header ...string) *Raw {
	t.Helper()
	conn, err := net.Dial("tcp", n.Addr) //nolint:noctx // loopback
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	c := &Raw{t, conn, bufio.NewReader(conn)}
	head := append([]string{
		"GET " + path + " HTTP/1.1", "Host: " + n.Addr, "Connection: Upgrade", "Upgrade: websocket",
		"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
	}, header...)
	c.Bytes([]byte(strings.Join(head, "\r\n") + "\r\n\r\n"))
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	res, err := http.ReadResponse(c.r, nil) //nolint:bodyclose // the connection is closed
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("the handshake was answered with %s", res.Status)
	}
	return c
}

// Bytes writes b as it is. What the node no longer takes is no error: its answer tells.
func (c *Raw) Bytes(b []byte) {
	_ = c.SetWriteDeadline(time.Now().Add(20 * time.Second))
	_, _ = c.Write(b)
}

// Frame is a masked frame; the mask is zero, so that the payload is there as it is.
func Frame(first byte, payload []byte) []byte {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = enc.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = enc.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	return append(append(b, 0, 0, 0, 0), payload...)
}

// Text sends a text frame.
func (c *Raw) Text(s string) { c.Bytes(Frame(OpText, []byte(s))) }

// CloseError is the end of a connection by a close frame.
type CloseError struct {
	Code   int
	Reason string
}

func (e CloseError) Error() string { return fmt.Sprintf("closed with %d %q", e.Code, e.Reason) }

// Next is the next message, of JSON in a text frame; pings are answered on the way.
func (c *Raw) Next() (m map[string]any, err error) {
	op, payload, err := c.Receive()
	switch {
	case err != nil:
		return nil, err
	case op != OpText:
		return nil, fmt.Errorf("a frame of type %#x", op)
	}
	return m, json.Unmarshal(payload, &m)
}

// Receive is the next frame that is no control frame; pings are answered on the way. The
// error at the connection's end is a CloseError if there was a close frame.
func (c *Raw) Receive() (op byte, payload []byte, err error) {
	for {
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		var head [2]byte
		if _, err := io.ReadFull(c.r, head[:]); err != nil {
			return 0, nil, err
		}
		n := uint64(head[1])
		switch size := map[byte]int{126: 2, 127: 8}[head[1]]; size {
		case 0:
		default:
			var b [8]byte
			if _, err := io.ReadFull(c.r, b[8-size:]); err != nil {
				return 0, nil, err
			}
			n = enc.BigEndian.Uint64(b[:])
		}
		payload = make([]byte, n)
		if _, err := io.ReadFull(c.r, payload); err != nil {
			return 0, nil, err
		}
		switch head[0] {
		case OpPing:
			c.Bytes(Frame(OpPong, payload))
		case OpClose:
			if n < 2 {
				return 0, nil, CloseError{1005, ""}
			}
			return 0, nil, CloseError{int(enc.BigEndian.Uint16(payload)), string(payload[2:])}
		default:
			return head[0], payload, nil
		}
	}
}

// Message is the next message, which must be of the type.
func (c *Raw) Message(typ string) map[string]any {
	c.T.Helper()
	m, err := c.Next()
	if err != nil || m["type"] != typ {
		c.T.Fatalf("got %v, %v; want %s", m, err, typ)
	}
	return m
}

// Refused wants an error message with the code.
func (c *Raw) Refused(code int) {
	c.T.Helper()
	if m := c.Message("error"); m["code"] != float64(code) {
		c.T.Fatalf("got %v; want error %d", m, code)
	}
}

// Ends wants the connection closed with the code.
func (c *Raw) Ends(code int) {
	c.T.Helper()
	m, err := c.Next()
	e, ok := errors.AsType[CloseError](err)
	if !ok || e.Code != code {
		c.T.Fatalf("got %v, %v; want a close with %d", m, err, code)
	}
	if hint := strings.Contains(e.Reason, `{"retry_after_ms":`); hint != (code == 1001 || code == 1012 || code == 3001 || code == 3005) {
		c.T.Errorf("the reason of %d is %q", code, e.Reason)
	}
	c.Bytes(Frame(OpClose, enc.BigEndian.AppendUint16(nil, uint16(code)))) //nolint:gosec // G115: a close code
}

// Alive proves that the session still answers.
func (c *Raw) Alive() {
	c.T.Helper()
	c.Text(`{"type":"ping","id":"alive"}`)
	if m := c.Message("pong"); m["id"] != "alive" {
		c.T.Fatalf("got %v; want the pong", m)
	}
}

// Session opens a session of a user.
func (n *Node) Session(t testing.TB, sid, identity string) *Raw {
	t.Helper()
	token, err := Mint(sid, identity)(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	c := n.Raw(t)
	c.Text(`{"type":"hello","token":"` + token + `"}`)
	c.Message("welcome")
	return c
}
