package gateway_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/rollcall-presence/rollcall/auth"
	"github.com/rollcall-presence/rollcall/fanout"
	"github.com/rollcall-presence/rollcall/gateway"
	"github.com/rollcall-presence/rollcall/gateway/native"
	"github.com/rollcall-presence/rollcall/gateway/twilsock"
	"github.com/rollcall-presence/rollcall/presence"
)

var (
	service      = "IS" + strings.Repeat("a", 32)
	otherService = "IS" + strings.Repeat("b", 32)
	key          = auth.Key{SID: "SK" + strings.Repeat("1", 32), Secret: "secret", Account: "AC" + strings.Repeat("2", 32)}
)

// store keeps presence in memory, for one node: what the tracker and the
// directory are to a gateway.
type store struct {
	mu       sync.Mutex
	services map[string]presence.Service
	users    map[presence.Key]presence.User
	live     map[presence.SessionID]presence.Key
	ends     []end
	told     []presence.Origin // of each change of a profile
	rev      int64
	away     bool // answers as when Redis cannot be reached
	blind    bool // does so where users are read
	mute     bool // does so when it has opened a session
	broken   bool // answers as nobody expects
	seq      uint64
	changed  func(seq uint64, e presence.Event) // told of each change, in order
}

// Partition and Partitions complete fanout.Store.
func (*store) Partition(presence.Key) presence.Partition { return 0 }
func (*store) Partitions() int                           { return 1 }

// direct is the bus of a single node: its store calls the hub itself.
type direct struct{}

func (direct) Watch(context.Context, ...presence.Partition) error { return nil }
func (direct) Unwatch(...presence.Partition)                      {}

type end struct {
	Key presence.Key
	How presence.End
	At  time.Time
}

func newStore() *store {
	return &store{
		services: map[string]presence.Service{
			service:      {SID: service, Enabled: true, Epoch: 1},
			otherService: {SID: otherService},
		},
		users: map[presence.Key]presence.User{},
		live:  map[presence.SessionID]presence.Key{},
	}
}

var errAway = &presence.Error{Op: "dial", Kind: presence.KindUnavailable}

func (s *store) Service(_ context.Context, sid string) (presence.Service, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v, ok := s.services[sid]; ok {
		return v, nil
	}
	return presence.Service{}, presence.ErrNoService
}

func (s *store) Ensure(_ context.Context, k presence.Key) (presence.User, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		return presence.User{}, errAway
	}
	return s.ensureLocked(k), nil
}

func (s *store) ensureLocked(k presence.Key) presence.User {
	u, ok := s.users[k]
	if !ok {
		s.rev++
		u = presence.User{Key: k, SID: fmt.Sprintf("US%032x", len(s.users)), Attributes: "{}", Rev: s.rev}
		s.users[k] = u
	}
	return u
}

func (s *store) Open(_ context.Context, k presence.Key, id presence.SessionID) (presence.User, error) {
	s.mu.Lock()
	if s.away {
		s.mu.Unlock()
		return presence.User{}, errAway
	}
	if s.broken {
		s.mu.Unlock()
		return presence.User{}, errors.New("broken")
	}
	s.ensureLocked(k)
	s.live[id] = k
	u := s.setLocked(k, presence.True)
	mute := s.mute
	s.mu.Unlock()
	if mute {
		return presence.User{}, errAway
	}
	return u, nil
}

func (s *store) setMute(mute bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mute = mute
}

// name is a user's friendly name.
func (s *store) name(k presence.Key) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return *s.users[k].FriendlyName
}

func (s *store) Close(_ context.Context, k presence.Key, id presence.SessionID, how presence.End, left time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		return errAway
	}
	if _, ok := s.live[id]; !ok {
		return nil
	}
	delete(s.live, id)
	s.ends = append(s.ends, end{k, how, left})
	if how.AtOnce() {
		s.setLocked(k, presence.False)
	}
	return nil
}

// setLocked records whether the user is online, and tells of it.
func (s *store) setLocked(k presence.Key, online presence.Tri) presence.User {
	u := s.users[k]
	if u.Online == online {
		return u
	}
	s.rev++
	u.Online, u.Rev, u.Epoch = online, s.rev, s.services[k.Service].Epoch
	s.users[k] = u
	s.tellLocked(presence.Event{User: u, Reasons: presence.ReasonOnline})
	return u
}

func (s *store) set(k presence.Key, online presence.Tri) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ensureLocked(k)
	s.setLocked(k, online)
}

func (s *store) ReadUsers(_ context.Context, keys []presence.Key) ([]presence.User, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away || s.blind {
		return nil, errAway
	}
	users := make([]presence.User, len(keys))
	for i, k := range keys {
		users[i] = s.users[k]
		users[i].Key = k
	}
	return users, nil
}

// UpdateUser implements gateway.Users.
func (s *store) UpdateUser(_ context.Context, k presence.Key, update presence.UserUpdate) (presence.User, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		return presence.User{}, errAway
	}
	s.told = append(s.told, update.Tell)
	u := s.users[k]
	var reasons presence.Reasons
	if update.FriendlyName != nil {
		u.FriendlyName = update.FriendlyName
		reasons |= presence.ReasonFriendlyName
	}
	if update.Attributes != nil {
		u.Attributes = *update.Attributes
		reasons |= presence.ReasonAttributes
	}
	s.rev++
	u.Rev = s.rev
	s.users[k] = u
	s.tellLocked(presence.Event{User: u, Reasons: reasons})
	return u, nil
}

// remove deletes a user.
func (s *store) remove(k presence.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rev++
	delete(s.users, k)
	s.tellLocked(presence.Event{User: presence.User{Key: k, Rev: s.rev}, Deleted: true})
}

func (s *store) tellLocked(e presence.Event) {
	if s.changed == nil {
		return
	}
	if e.Reasons&presence.ReasonFriendlyName == 0 {
		e.User.FriendlyName = nil
	}
	if e.Reasons&presence.ReasonAttributes == 0 {
		e.User.Attributes = ""
	}
	s.seq++
	s.changed(s.seq, e)
}

// revision is the newest of a user.
func (s *store) revision(k presence.Key) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.users[k].Rev
}

// flip turns a service's switch, as the directory hears of it.
func (s *store) flip(h *fanout.Hub, sid string, enabled bool) {
	s.mu.Lock()
	old := s.services[sid]
	changed := old
	s.rev++
	changed.Enabled, changed.Rev = enabled, s.rev
	if enabled {
		changed.Epoch++
	}
	s.services[sid] = changed
	s.mu.Unlock()
	h.ServiceChanged(old, changed, true)
}

func (s *store) setAway(away bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = away
}

func (s *store) ended() []end {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.ends)
}

// pipes is a listener whose connections are net.Pipes, which a bubble understands.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipes) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *pipes) Addr() net.Addr { return pipeAddr{} }

func (l *pipes) dial(ctx context.Context) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case l.conns <- server:
		return client, nil
	case <-l.closed:
	case <-ctx.Done():
	}
	return nil, errors.Join(client.Close(), server.Close(), errors.New("connection refused"))
}

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }

// node is a gateway in a bubble.
type node struct {
	*gateway.Server
	t             *testing.T
	store         *store
	hub           *fanout.Hub
	public, admin *pipes
	metrics       *prometheus.Registry
	stop          func() // ends Serve at once and waits for it
}

// start serves until the test ends. It must be called in a bubble.
func start(t *testing.T, tune func(*gateway.Options)) *node {
	t.Helper()
	n := &node{t: t, store: newStore(), public: newPipes(), admin: newPipes(), metrics: prometheus.NewRegistry()}
	n.hub = fanout.NewHub(direct{}, n.store, n.store, fanout.Options{})
	n.store.changed = func(seq uint64, e presence.Event) { n.hub.Event(0, "run", seq, e) }
	opt := gateway.Options{
		Presence: n.store, Services: n.store, Hub: n.hub,
		Tokens:  auth.NewVerifier(auth.StaticKeys{key.SID: key}),
		Users:   n.store,
		Sockets: map[string]gateway.Protocol{"/v1/connect": native.Protocol{}, "/v3/wsconnect": twilsock.New(twilsock.Options{})},
		Metrics: n.metrics,
	}
	if tune != nil {
		tune(&opt)
	}
	srv, err := gateway.New(opt)
	if err != nil {
		t.Fatal(err)
	}
	n.Server = srv
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ctx, n.public, n.admin) }()
	n.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve() = %v; want nil", err)
		}
	})
	t.Cleanup(n.stop)
	return n
}

// bubble runs a test with a node in virtual time.
func bubble(t *testing.T, tune func(*gateway.Options), test func(*testing.T, *node)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, start(t, tune)) })
}

func mint(t *testing.T, service, identity string, ttl time.Duration) string {
	t.Helper()
	tok, err := auth.Mint(key, service, identity, time.Now(), ttl)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// get fetches a path of a listener.
func (n *node) get(l *pipes, path string, header http.Header) (*http.Response, string) {
	n.t.Helper()
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return l.dial(ctx) }}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(n.t.Context(), http.MethodGet, "http://rollcall.test"+path, nil)
	if err != nil {
		n.t.Fatal(err)
	}
	maps.Copy(req.Header, header)
	resp, err := tr.RoundTrip(req)
	if err != nil {
		n.t.Fatalf("GET %s: %v", path, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		n.t.Fatalf("GET %s: %v", path, err)
	}
	return resp, string(body)
}

// peer is a client. A reader goroutine answers pings and keeps what arrives.
type peer struct {
	t    *testing.T
	conn *websocket.Conn
	raw  net.Conn
	in   chan string
	err  error // of the reader, once in is closed
}

// dial opens a WebSocket that reads nothing until read is called.
func (n *node) dial(header http.Header) *peer {
	n.t.Helper()
	p, resp, err := n.tryDial(header)
	if err != nil {
		n.t.Fatalf("dial: %v (%v)", err, resp)
	}
	return p
}

func (n *node) tryDial(header http.Header) (*peer, *http.Response, error) {
	return n.tryDialAt("/v1/connect", header, native.Name)
}

// tryDialAt dials a path and offers subprotocols.
func (n *node) tryDialAt(path string, header http.Header, subprotocols ...string) (*peer, *http.Response, error) {
	p := &peer{t: n.t, in: make(chan string, 4096)}
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		c, err := n.public.dial(ctx)
		p.raw = c
		return c, err
	}}
	conn, resp, err := websocket.Dial(n.t.Context(), "ws://rollcall.test"+path, &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: tr}, Subprotocols: subprotocols, HTTPHeader: header,
	})
	if err != nil {
		return nil, resp, err
	}
	conn.SetReadLimit(4 << 20)
	p.conn = conn
	n.t.Cleanup(func() { _ = conn.CloseNow() })
	return p, resp, nil
}

// read starts the reader.
func (p *peer) read() *peer {
	go func() {
		defer close(p.in)
		for {
			_, b, err := p.conn.Read(context.Background())
			if err != nil {
				p.err = err
				return
			}
			p.in <- string(b)
		}
	}()
	return p
}

// connect opens a session and takes its welcome.
func (n *node) connect(identity string) *peer {
	n.t.Helper()
	p := n.dial(nil).read()
	p.send(`{"type":"hello","token":"` + mint(n.t, service, identity, time.Hour) + `"}`)
	p.want("welcome")
	return p
}

func (p *peer) send(frame string) {
	p.t.Helper()
	if err := p.conn.Write(context.Background(), websocket.MessageText, []byte(frame)); err != nil {
		p.t.Fatalf("send: %v", err)
	}
}

// next is the next frame, as text.
func (p *peer) next() string {
	p.t.Helper()
	select {
	case m, ok := <-p.in:
		if !ok {
			p.t.Fatalf("connection ended: %v", p.err)
		}
		return m
	case <-time.After(time.Hour):
		p.t.Fatal("nothing came for an hour")
		return ""
	}
}

// want takes the next frame, which must be of that type.
func (p *peer) want(typ string) map[string]any {
	p.t.Helper()
	m := p.next()
	var v map[string]any
	if err := json.Unmarshal([]byte(m), &v); err != nil {
		p.t.Fatalf("frame %q: %v", m, err)
	}
	if v["type"] != typ {
		p.t.Fatalf("got %s; want a %s", m, typ)
	}
	return v
}

// wantError takes the next frame, which must be an error with that code, and its id.
func (p *peer) wantError(code gateway.ErrorCode, id any) map[string]any {
	p.t.Helper()
	v := p.want("error")
	if v["code"] != float64(code) || v["id"] != id || v["message"] != code.Text() {
		p.t.Fatalf("error = %v; want code %d, id %v", v, code, id)
	}
	return v
}

// wantClose waits until the server has closed, with that code.
func (p *peer) wantClose(code gateway.CloseCode) string {
	p.t.Helper()
	for {
		select {
		case _, ok := <-p.in:
			if ok {
				continue
			}
		case <-time.After(5 * time.Minute):
			p.t.Fatal("not closed within 5 minutes")
		}
		break
	}
	var ce websocket.CloseError
	if !errors.As(p.err, &ce) || gateway.CloseCode(ce.Code) != code {
		p.t.Fatalf("connection ended with %v; want close code %d", p.err, code)
	}
	return ce.Reason
}

// value is a metric's value, for one set of label values in the order of their names.
func (n *node) value(name string, labels ...string) float64 {
	n.t.Helper()
	families, err := n.metrics.Gather()
	if err != nil {
		n.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var have []string
			for _, l := range m.GetLabel() {
				have = append(have, l.GetValue())
			}
			if f.GetName() == name && slices.Equal(have, labels) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	n.t.Fatalf("no metric %s%v", name, labels)
	return 0
}
