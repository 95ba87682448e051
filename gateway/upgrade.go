package gateway

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/rollcall-presence/rollcall/presence"
)

// upgrade makes a session of a request. It returns at once, and with it goes all
// that the HTTP server held for the connection: an idle session keeps only what it
// needs.
func (s *Server) upgrade(ctx context.Context, p Protocol, w http.ResponseWriter, r *http.Request) {
	c, reason, retry := s.admit(p, r)
	switch {
	case c == nil:
		s.shed(w, reason, retry)
	case !s.handshake(ctx, c, p, w, r):
		s.metrics.shed[shedHandshake].Inc() // it was answered
	}
}

// admit makes a session that is to be one of the server's, or tells why not and when to try
// again.
func (s *Server) admit(p Protocol, r *http.Request) (c *Session, reason string, retry time.Duration) {
	switch {
	case !originAllowed(r, s.opt.Origins):
		return nil, shedOrigin, 0
	case !offers(r, p.Name()):
		return nil, shedSubprotocol, 0
	}
	c = &Session{srv: s, arrived: s.wheel.now(), address: s.opt.Proxies.Household(r)}
	c.handler = p.Open(c, r)
	if reason, retry = s.begin(c); reason != "" {
		return nil, reason, retry
	}
	return c, "", 0
}

// handshake has the library make the WebSocket of a session that was admitted; if that cannot
// be, it is none of the server's any more.
func (s *Server) handshake(ctx context.Context, c *Session, p Protocol, w http.ResponseWriter, r *http.Request) bool {
	var subprotocols []string
	if p.Name() != "" {
		subprotocols = []string{p.Name()}
	}
	if err := c.accept(hijack{w, &c.sock}, r, subprotocols); err != nil {
		s.forget(c)
		return false
	}
	s.start(ctx, c)
	return true
}

// start begins the life of a session whose WebSocket is there.
func (s *Server) start(ctx context.Context, c *Session) {
	c.writer = c.write
	if s.upgraded(c) {
		c.close(CloseGoingAway, presence.EndDrain, nil, 0)
	}
	s.wheel.schedule(c, c.arrived+s.opt.Timers.Hello)
	go c.serve(ctx) // joined through Server.live
}

func (s *Session) accept(w http.ResponseWriter, r *http.Request, subprotocols []string) error {
	s.sock.session = s
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		Subprotocols:       subprotocols,
		InsecureSkipVerify: true, // originAllowed has looked
		OnPingReceived:     s.pinged,
		OnPongReceived:     s.ponged,
	})
	if err != nil {
		return err
	}
	ws.SetReadLimit(int64(s.srv.opt.Limits.Frame))
	s.ws = ws
	return nil
}

// borrowLibrary has the library read on from between two frames. It begins with a handshake, so
// it is given one that anybody may have made.
func (s *Session) borrowLibrary() error {
	return s.accept(resumption{&s.sock, http.Header{}}, anyHandshake, nil)
}

// returnLibrary is its opposite.
func (s *Session) returnLibrary() {
	if s.ws != nil {
		_ = s.ws.CloseNow() // which closes nothing: see sock.Close
		s.ws, s.sock.lib = nil, nil
	}
}

var anyHandshake = &http.Request{
	Method: http.MethodGet, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, URL: &url.URL{Path: "/"}, Body: http.NoBody,
	Header: http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"AAAAAAAAAAAAAAAAAAAAAA=="},
	},
}

// resumption leads the library to a socket on which the handshake is over.
type resumption struct {
	sock   *sock
	header http.Header // dropped
}

// Header implements http.ResponseWriter.
func (w resumption) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter.
func (resumption) WriteHeader(int) {}

// Write implements http.ResponseWriter.
func (resumption) Write(p []byte) (int, error) { return len(p), nil }

// Hijack implements http.Hijacker.
func (w resumption) Hijack() (net.Conn, *bufio.ReadWriter, error) { return w.sock.lend() }

// offers reports whether the client speaks the subprotocol, or did not say.
func offers(r *http.Request, name string) bool {
	offered := r.Header.Values("Sec-WebSocket-Protocol")
	for _, v := range offered {
		for offer := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(offer), name) {
				return true
			}
		}
	}
	return len(offered) == 0
}

// refusal is how each shed reason looks from outside.
var refusals = map[string]struct {
	status, code int
	message      string
}{
	shedConnections: {http.StatusServiceUnavailable, 20503, "Too many connections on this node"},
	shedPending:     {http.StatusServiceUnavailable, 20503, "Too many connections that have not said hello"},
	shedAddress:     {http.StatusServiceUnavailable, 20503, "Too many connections from this address that have not said hello"},
	shedRate:        {http.StatusServiceUnavailable, 20503, "Too many new connections at once"},
	shedDraining:    {http.StatusServiceUnavailable, 20503, "This node is about to stop"},
	shedOrigin:      {http.StatusForbidden, 20403, "This origin may not connect"},
	shedSubprotocol: {http.StatusBadRequest, 20400, "None of the offered WebSocket subprotocols is spoken here"},
}

// shed refuses a request, and says when to come back where that is of use.
func (s *Server) shed(w http.ResponseWriter, reason string, retry time.Duration) {
	s.metrics.shed[reason].Inc()
	f := refusals[reason]
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Connection", "close")
	if retry > 0 {
		seconds := (retry + time.Second - 1) / time.Second
		h.Set("Retry-After", strconv.Itoa(int(seconds)))
	}
	w.WriteHeader(f.status)
	_, _ = w.Write([]byte(`{"code":` + strconv.Itoa(f.code) + `,"message":"` + f.message + `","status":` + strconv.Itoa(f.status) + "}\n"))
}
