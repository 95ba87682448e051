package load

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"regexp"
	"strconv"
	"sync"
	"testing"
)

// meddler stands before a node and changes what it tells its clients: of the WebSockets through it each text message
// of the node is given to meddle, and what that returns is sent in its place. All else passes as it is.
type meddler struct {
	server string
	meddle func(c *through, message []byte) [][]byte

	mu    sync.Mutex // guards the following, and is held by meddle
	conns map[net.Conn]bool
}

// through is a connection through a meddler.
type through struct {
	client   net.Conn
	identity string // for meddle's own use
}

// cut ends the connection without a close frame.
func (c *through) cut() {
	_ = c.client.(*net.TCPConn).SetLinger(0)
	_ = c.client.Close()
}

// meddlesome starts a meddler. It ends with the test.
func meddlesome(t *testing.T, server string, meddle func(c *through, message []byte) [][]byte) (ws string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &meddler{server: server, meddle: meddle, conns: map[net.Conn]bool{}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { m.serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		m.mu.Lock()
		for c := range m.conns {
			_ = c.Close()
		}
		m.mu.Unlock()
		wg.Wait()
	})
	return "ws://" + l.Addr().String() + "/v1/connect"
}

func (m *meddler) serve(client net.Conn) {
	defer func() { _ = client.Close() }()
	server, err := net.Dial("tcp", m.server)
	if err != nil {
		return
	}
	defer func() { _ = server.Close() }()
	m.mu.Lock()
	m.conns[client], m.conns[server] = true, true
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.conns, client)
		delete(m.conns, server)
	}()
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = io.Copy(struct{ io.Writer }{server}, client)
		_ = server.(*net.TCPConn).CloseWrite()
	})
	_ = m.down(&through{client: client}, bufio.NewReader(server))
	_ = client.Close()
	_ = server.Close()
	wg.Wait()
}

// down passes on what the node says.
func (m *meddler) down(c *through, from *bufio.Reader) error {
	var head bytes.Buffer
	for !bytes.HasSuffix(head.Bytes(), []byte("\r\n\r\n")) {
		line, err := from.ReadSlice('\n')
		if err != nil {
			return err
		}
		head.Write(line)
	}
	if _, err := c.client.Write(head.Bytes()); err != nil {
		return err
	}
	if !bytes.HasPrefix(head.Bytes(), []byte("HTTP/1.1 101 ")) {
		_, err := io.Copy(struct{ io.Writer }{c.client}, from)
		return err
	}
	for {
		op, payload, err := readFrame(from)
		if err != nil {
			return err
		}
		messages := [][]byte{payload}
		if op == 1 {
			m.mu.Lock()
			messages = m.meddle(c, payload)
			m.mu.Unlock()
		}
		for _, b := range messages {
			if _, err := c.client.Write(appendFrame(nil, op, b)); err != nil {
				return err
			}
		}
	}
}

// readFrame reads a frame of a server, which is not masked and, of this one, never in parts.
func readFrame(from io.Reader) (op byte, payload []byte, err error) {
	var head [2]byte
	if _, err := io.ReadFull(from, head[:]); err != nil {
		return 0, nil, err
	}
	n := uint64(head[1])
	switch n {
	case 126:
		var b [2]byte
		_, err = io.ReadFull(from, b[:])
		n = uint64(binary.BigEndian.Uint16(b[:]))
	case 127:
		var b [8]byte
		_, err = io.ReadFull(from, b[:])
		n = binary.BigEndian.Uint64(b[:])
	}
	if err != nil {
		return 0, nil, err
	}
	if head[0]&0xf0 != 0x80 || n > 1<<20 {
		return 0, nil, errors.New("not a frame that this proxy knows")
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(from, payload)
	return head[0] & 0x0f, payload, err
}

func appendFrame(b []byte, op byte, payload []byte) []byte {
	b = append(b, 0x80|op)
	switch n := len(payload); {
	case n < 126:
		b = append(b, byte(n))
	case n <= 0xffff:
		b = binary.BigEndian.AppendUint16(append(b, 126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 127), uint64(n))
	}
	return append(b, payload...)
}

func isUpdate(message []byte) bool { return bytes.Contains(message, []byte(`"type":"user.updated"`)) }

var (
	revision = regexp.MustCompile(`"rev":(\d+)`)
	identity = regexp.MustCompile(`"identity":"[^"]*"`)
	presence = regexp.MustCompile(`"is_online":(true|false)`)
)

// turned is an update with the opposite state, and a revision that is higher by one.
func turned(message []byte) []byte {
	return presence.ReplaceAllFunc(raised(message), func(b []byte) []byte {
		if bytes.HasSuffix(b, []byte("true")) {
			return []byte(`"is_online":false`)
		}
		return []byte(`"is_online":true`)
	})
}

// raised is a message with revisions that are higher by one.
func raised(message []byte) []byte {
	return revision.ReplaceAllFunc(message, func(b []byte) []byte {
		n, _ := strconv.ParseInt(string(b[len(`"rev":`):]), 10, 64)
		return strconv.AppendInt([]byte(`"rev":`), n+1, 10)
	})
}
