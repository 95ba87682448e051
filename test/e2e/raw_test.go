package e2e

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
	"strconv"
	"strings"
	"testing"
	"time"
)

// The opcodes of RFC 6455, with the FIN bit.
const (
	opText   = 0x81
	opBinary = 0x82
	opClose  = 0x88
	opPing   = 0x89
	opPong   = 0x8a
)

// raw is a client that sends what it is told to, right or wrong.
type raw struct {
	t testing.TB
	net.Conn
	r *bufio.Reader
}

// raw opens a WebSocket on the node. It is closed when the test ends.
func (n *node) raw(t testing.TB, header ...string) *raw {
	t.Helper()
	conn, err := net.Dial("tcp", n.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	c := &raw{t, conn, bufio.NewReader(conn)}
	head := append([]string{
		"GET /v1/connect HTTP/1.1", "Host: " + n.addr, "Connection: Upgrade", "Upgrade: websocket",
		"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Protocol: rollcall.v1.json",
	}, header...)
	c.bytes([]byte(strings.Join(head, "\r\n") + "\r\n\r\n"))
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	res, err := http.ReadResponse(c.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("the handshake was answered with %s", res.Status)
	}
	return c
}

// bytes writes b as it is. What the node no longer takes is no error: its answer tells.
func (c *raw) bytes(b []byte) {
	_ = c.SetWriteDeadline(time.Now().Add(20 * time.Second))
	_, _ = c.Write(b)
}

// frame is a masked frame; the mask is zero, so that the payload is there as it is.
func frame(first byte, payload []byte) []byte {
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

func (c *raw) text(s string) { c.bytes(frame(opText, []byte(s))) }

// closed is the end of a connection by a close frame.
type closed struct {
	code   int
	reason string
}

func (e closed) Error() string { return fmt.Sprintf("closed with %d %q", e.code, e.reason) }

// next is the next message; pings are answered on the way.
func (c *raw) next() (m map[string]any, err error) {
	for {
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		var head [2]byte
		if _, err := io.ReadFull(c.r, head[:]); err != nil {
			return nil, err
		}
		n := uint64(head[1])
		switch size := map[byte]int{126: 2, 127: 8}[head[1]]; size {
		case 0:
		default:
			var b [8]byte
			if _, err := io.ReadFull(c.r, b[8-size:]); err != nil {
				return nil, err
			}
			n = enc.BigEndian.Uint64(b[:])
		}
		payload := make([]byte, n)
		if _, err := io.ReadFull(c.r, payload); err != nil {
			return nil, err
		}
		switch head[0] {
		case opText:
			return m, json.Unmarshal(payload, &m)
		case opPing:
			c.bytes(frame(opPong, payload))
		case opClose:
			if n < 2 {
				return nil, closed{1005, ""}
			}
			return nil, closed{int(enc.BigEndian.Uint16(payload)), string(payload[2:])}
		default:
			return nil, fmt.Errorf("a frame of type %#x", head[0])
		}
	}
}

// message is the next message, which must be of the type.
func (c *raw) message(typ string) map[string]any {
	c.t.Helper()
	m, err := c.next()
	if err != nil || m["type"] != typ {
		c.t.Fatalf("got %v, %v; want %s", m, err, typ)
	}
	return m
}

// refused wants an error message with the code.
func (c *raw) refused(code int) {
	c.t.Helper()
	if m := c.message("error"); m["code"] != float64(code) {
		c.t.Fatalf("got %v; want error %d", m, code)
	}
}

// ends wants the connection closed with the code.
func (c *raw) ends(code int) {
	c.t.Helper()
	m, err := c.next()
	e, ok := errors.AsType[closed](err)
	if !ok || e.code != code {
		c.t.Fatalf("got %v, %v; want a close with %d", m, err, code)
	}
	if hint := strings.Contains(e.reason, `{"retry_after_ms":`); hint != (code == 1001 || code == 1012 || code == 3001 || code == 3005) {
		c.t.Errorf("the reason of %d is %q", code, e.reason)
	}
	c.bytes(frame(opClose, enc.BigEndian.AppendUint16(nil, uint16(code))))
}

// alive proves that the session still answers.
func (c *raw) alive() {
	c.t.Helper()
	c.text(`{"type":"ping","id":"alive"}`)
	if m := c.message("pong"); m["id"] != "alive" {
		c.t.Fatalf("got %v; want the pong", m)
	}
}

// session opens a session of a user.
func (n *node) session(t testing.TB, sid, identity string) *raw {
	t.Helper()
	token, err := mint(sid, identity)(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	c := n.raw(t)
	c.text(`{"type":"hello","token":"` + token + `"}`)
	c.message("welcome")
	return c
}

// metrics are the samples of /metrics, by name and labels as they are written there.
func (n *node) metrics() map[string]float64 {
	n.t.Helper()
	samples := map[string]float64{}
	for line := range strings.Lines(n.scrape()) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if v, err := strconv.ParseFloat(value, 64); ok && err == nil && name != "#" {
			samples[name] = v
		}
	}
	return samples
}

func (n *node) scrape() string {
	n.t.Helper()
	res, err := http.Get("http://" + n.admin + "/metrics")
	if err != nil {
		n.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		n.t.Fatalf("/metrics: %s, %v", res.Status, err)
	}
	return string(b)
}

// counts wants samples to grow by at least 1 in f, and is done once they have.
func (n *node) counts(f func(), samples ...string) {
	n.t.Helper()
	before := n.metrics()
	for _, s := range samples {
		if _, ok := before[s]; !ok {
			n.t.Errorf("/metrics has no %s before it was first counted", s)
		}
	}
	f()
	eventually(n.t, "it is counted", func() error {
		after := n.metrics()
		for _, s := range samples {
			if after[s] < before[s]+1 {
				return fmt.Errorf("%s is %v; was %v", s, after[s], before[s])
			}
		}
		return nil
	})
}
