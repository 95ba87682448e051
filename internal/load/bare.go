// Package load plays scenarios with many sessions against Rollcall, from several processes,
// and checks that each event came that had to, and no other.
package load

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// Bare is the floor that a gateway's fan-out is compared with: a server of the same
// WebSocket library that knows nothing but its connections, and writes the same frame to
// each of them in one loop. It listens on loopback and writes its address to out. Each
// line of in has it tell of one act of a user, which the line names by its number, with
// the file of the board, how many users there are and when the act is due, in ns since 1970. It returns when in ends.
func Bare(ctx context.Context, in io.Reader, out io.Writer) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	var mu sync.Mutex // guards conns
	var conns []*websocket.Conn
	server := http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(lean{rw}, r, &websocket.AcceptOptions{Subprotocols: []string{"rollcall.v1.json"}})
		if err != nil {
			return
		}
		mu.Lock()
		conns = append(conns, c)
		mu.Unlock()
		go func() { _, _, _ = c.Read(ctx) }() // pongs, and the end; ends with the connection
	})}
	serving := make(chan error, 1)
	go func() { serving <- server.Serve(l) }()
	defer func() { _, _ = server.Close(), <-serving }()
	defer func() {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range conns {
			_ = c.CloseNow()
		}
	}()
	if _, err := fmt.Fprintf(out, "ws://%s/\n", l.Addr()); err != nil {
		return err
	}
	lines := bufio.NewScanner(in)
	for act := 1; lines.Scan(); act++ {
		var user uint32
		var file string
		var users int
		var due int64
		if _, err := fmt.Sscan(lines.Text(), &user, &file, &users, &due); err != nil {
			return err
		}
		b, err := openBoard(file, users)
		if err != nil {
			return err
		}
		frame := bareUpdate(user, act)
		mu.Lock()
		list := conns
		mu.Unlock()
		b.begin(user, time.Unix(0, due))
		for _, c := range list {
			_ = c.Write(ctx, websocket.MessageText, frame)
		}
		b.close()
	}
	return lines.Err()
}

// bareUpdate is what a node would send of an act.
func bareUpdate(user uint32, act int) []byte {
	return fmt.Appendf(nil, `{"type":"user.updated","update_reasons":["reachabilityOnline"],"user":{"identity":%q,"sid":"US%032x",`+
		`"is_online":%t,"is_notifiable":null,"rev":%d,"date_last_online":%s}}`, identity(user), user, act%2 == 1, 1_790_000_000_000+act,
		strconv.Quote(time.Now().UTC().Format("2006-01-02T15:04:05.000Z")))
}

// lean has the library use buffers of a few hundred bytes, so that the memory of
// thousands of connections does not decide how fast the loop is.
type lean struct{ http.ResponseWriter }

func (l lean) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(l.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	return c, bufio.NewReadWriter(bufio.NewReaderSize(io.MultiReader(bufferedOf(rw.Reader), c), 512), bufio.NewWriterSize(c, 512)), nil
}

// bufferedOf is what a reader has read ahead.
func bufferedOf(r *bufio.Reader) io.Reader {
	return io.LimitReader(r, int64(r.Buffered()))
}
