package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/rollcall-presence/rollcall/client"
)

// network is a listener without sockets, so that a server and its clients fit in a synctest bubble.
type network struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (n *network) Accept() (net.Conn, error) {
	select {
	case conn := <-n.conns:
		return conn, nil
	case <-n.closed:
		return nil, net.ErrClosed
	}
}

func (n *network) Close() error {
	close(n.closed)
	return nil
}

func (n *network) Addr() net.Addr { return &net.TCPAddr{} }

func (n *network) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case n.conns <- far:
		return near, nil
	case <-n.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// frame is any message, as the server sees it.
type frame struct {
	Type       string           `json:"type"`
	ID         uint64           `json:"id"`
	Token      string           `json:"token"`
	Identities []string         `json:"identities"`
	Known      map[string]int64 `json:"known"`
	Invisible  bool             `json:"invisible"`
	Batch      bool             `json:"batch"`
	SID        string           `json:"sid"`
	client.Push
	size int
}

// peer is the server's end of one connection.
type peer struct {
	t    *testing.T
	conn *websocket.Conn
}

var errGone = errors.New("client is gone")

// next reads a message; a client that is gone ends the script.
func (p *peer) next() frame {
	_, data, err := p.conn.Read(context.Background())
	if err != nil {
		panic(errGone)
	}
	f := frame{size: len(data)}
	if err := json.Unmarshal(data, &f); err != nil {
		p.t.Errorf("client sent %s: %v", data, err)
		panic(errGone)
	}
	return f
}

// expect reads a message of that type.
func (p *peer) expect(typ string) frame {
	f := p.next()
	if f.Type != typ {
		p.t.Errorf("client sent %+v; want %s", f, typ)
		panic(errGone)
	}
	return f
}

func (p *peer) send(text string) {
	if p.conn.Write(context.Background(), websocket.MessageText, []byte(text)) != nil {
		panic(errGone)
	}
}

// reply sends a message that answers f.
func (p *peer) reply(f frame, typ string, fields map[string]any) {
	m := map[string]any{"type": typ, "id": f.ID}
	maps.Copy(m, fields)
	data, err := json.Marshal(m)
	if err != nil {
		p.t.Error(err)
	}
	p.send(string(data))
}

// welcome reads hello and answers it, with more fields if any.
func (p *peer) welcome(more string) frame {
	f := p.expect("hello")
	p.send(`{"type":"welcome","session":"s1","service_sid":"IS1","identity":"me","reachability_enabled":true,` +
		`"ping_interval_ms":25000,"user":{"identity":"me","rev":3}` + more + `}`)
	return f
}

// subscribed answers a subscription with users of revision rev.
func (p *peer) subscribed(rev int64) frame {
	f := p.expect("subscribe")
	users := []map[string]any{}
	for _, identity := range f.Identities {
		users = append(users, map[string]any{"identity": identity, "rev": rev})
	}
	p.reply(f, "subscribed", map[string]any{"users": users})
	return f
}

// wait reads until the client leaves, saying bye where it does.
func (p *peer) wait() {
	for p.next().Type != "bye" {
	}
	p.conn.Close(websocket.StatusNormalClosure, "bye")
}

// script is what a server does on one connection. refuse is an HTTP status to answer instead.
type script struct {
	talk   func(*peer)
	refuse func(http.ResponseWriter)
}

// serve plays scripts, one a connection in turn; further connections are an error. The HTTP client that it returns
// reaches the server whatever the URL.
func serve(t *testing.T, scripts ...script) *http.Client {
	t.Helper()
	n := &network{conns: make(chan net.Conn), closed: make(chan struct{})}
	var mu sync.Mutex
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		if len(scripts) == 0 {
			mu.Unlock()
			t.Error("a connection too many")
			return
		}
		s := scripts[0]
		scripts = scripts[1:]
		mu.Unlock()
		if s.refuse != nil {
			s.refuse(w)
			return
		}
		conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{client.Protocol}})
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.CloseNow()
		defer func() {
			if v := recover(); v != nil && v != any(errGone) {
				panic(v)
			}
		}()
		s.talk(&peer{t, conn})
	})}
	served := make(chan struct{})
	go func() {
		defer close(served)
		server.Serve(n)
	}()
	t.Cleanup(func() {
		server.Close()
		<-served
		mu.Lock()
		defer mu.Unlock()
		if len(scripts) > 0 {
			t.Errorf("%d connections were expected and did not come", len(scripts))
		}
	})
	return &http.Client{Transport: &http.Transport{DialContext: n.dial, DisableKeepAlives: true}}
}

// recorder collects what a client hands over.
type recorder struct {
	mu     sync.Mutex
	events []client.Event
	lost   []error
	came   chan struct{} // a token for each event
}

func (r *recorder) event(e client.Event) {
	r.mu.Lock()
	r.events = append(r.events, e)
	r.mu.Unlock()
	r.came <- struct{}{}
}

func (r *recorder) all() []client.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.events
}

// dial connects a client with a recorder to the scripted server behind hc.
func dial(t *testing.T, hc *http.Client, change func(*client.Options)) (*client.Client, *recorder) {
	t.Helper()
	r := &recorder{came: make(chan struct{}, 1000)}
	o := options(hc)
	o.OnEvent = r.event
	o.OnDisconnect = func(err error, _ time.Duration) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.lost = append(r.lost, err)
	}
	if change != nil {
		change(&o)
	}
	c, err := client.Dial(t.Context(), "ws://rollcall.test/v1/connect", o)
	if err != nil {
		t.Fatal(err)
	}
	return c, r
}

func options(hc *http.Client) client.Options {
	return client.Options{
		Token:      func(context.Context) (string, error) { return "token", nil },
		HTTPClient: hc,
	}
}
