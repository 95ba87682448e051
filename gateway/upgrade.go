package gateway

import (
	"context"
	"net/http"
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
	case !s.handshake(ctx, c, p, hijack{w, &c.sock}, r):
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

// handshake makes the WebSocket of a session that was admitted; if that cannot be, it is none of
// the server's any more. w leads to the session's socket.
func (s *Server) handshake(ctx context.Context, c *Session, p Protocol, w http.ResponseWriter, r *http.Request) bool {
	c.writer = c.write
	c.sock.session = c
	var subprotocols []string
	if p.Name() != "" {
		subprotocols = []string{p.Name()}
	}
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		Subprotocols:       subprotocols,
		InsecureSkipVerify: true, // originAllowed has looked
		OnPingReceived:     c.pinged,
		OnPongReceived:     c.ponged,
	})
	if err != nil {
		s.forget(c)
		return false
	}
	ws.SetReadLimit(int64(s.opt.Limits.Frame))
	c.ws = ws
	if s.upgraded(c) {
		c.close(CloseGoingAway, presence.EndDrain, nil, 0)
	}
	s.wheel.schedule(c, c.arrived+s.opt.Timers.Hello)
	go c.serve(ctx) // joined through Server.live
	return true
}

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
