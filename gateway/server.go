package gateway

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/rollcall-presence/rollcall/internal/rate"
	"github.com/rollcall-presence/rollcall/presence"
)

// Server is a node's edge. Make it with New; run it with one Serve.
type Server struct {
	opt     Options
	log     *zap.Logger
	metrics *metrics
	wheel   *wheel
	batcher *batcher
	rates   struct{ request, accept rate.Limit }
	public  *http.Server
	admin   *http.Server
	lobby   *lobby
	crew    *crew
	leaving chan struct{} // a slot for each session that may tell presence of its end now

	draining atomic.Bool
	plain    atomic.Int64 // TCP connections that are not WebSockets

	live    sync.WaitGroup // of sessions
	stopped chan struct{}  // closed by Shutdown when it is done with the sessions
	served  chan struct{}  // closed when Serve returns

	mu       sync.Mutex // guards the following
	serving  bool
	stopping bool // no session may begin
	accepts  rate.Bucket
	sessions map[presence.SessionID]*Session
	pending  int             // sessions without a hello
	strange  map[address]int // of those, by where they come from
	users    map[presence.Key]int
}

// maxLeaving is how many sessions may tell presence of their end at the same time.
const maxLeaving = 64

// New makes a Server. The error tells all that is wrong with the options, or with
// the certificate.
func New(opt Options) (*Server, error) {
	opt, err := opt.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	var requests []string
	for _, p := range opt.Sockets {
		requests = append(requests, p.Requests()...)
	}
	s := &Server{
		opt:      opt,
		log:      opt.Log,
		metrics:  newMetrics(opt.Metrics, requests),
		wheel:    newWheel(),
		batcher:  newBatcher(opt.Timers.Batch),
		crew:     newCrew(),
		leaving:  make(chan struct{}, maxLeaving),
		stopped:  make(chan struct{}),
		served:   make(chan struct{}),
		sessions: map[presence.SessionID]*Session{},
		strange:  map[address]int{},
		users:    map[presence.Key]int{},
	}
	s.lobby = newLobby(s)
	s.rates.request = rate.Limit{PerSecond: opt.Limits.RequestRate, Burst: opt.Limits.RequestBurst}
	s.rates.accept = rate.Limit{PerSecond: opt.Limits.AcceptRate, Burst: opt.Limits.AcceptBurst}
	quiet, err := zap.NewStdLogAt(opt.Log, zapcore.DebugLevel) // peers' handshake failures
	if err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	s.public = &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       60 * time.Second,
		MaxHeaderBytes:    64 << 10, // a query may name 500 users
		ConnState:         s.connState,
		ErrorLog:          quiet,
	}
	s.admin = &http.Server{
		Handler:           s.adminRoutes(),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      2 * time.Minute, // profiles take their time
		IdleTimeout:       60 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          quiet,
	}
	if opt.TLSCert != "" {
		c, err := openCertificate(opt.TLSCert, opt.TLSKey, opt.Log)
		if err != nil {
			return nil, fmt.Errorf("gateway: %w", err)
		}
		s.public.TLSConfig = &tls.Config{GetCertificate: c.get, MinVersion: tls.VersionTLS12}
	}
	return s, nil
}

// Serve serves clients on public and operators on admin (nil for none), until ctx
// ends, which closes all sessions at once, or a Shutdown is done. It closes the
// listeners, and when it returns nothing of it is left. The error is a listener's.
func (s *Server) Serve(ctx context.Context, public, admin net.Listener) error {
	s.mu.Lock()
	s.serving = true
	s.mu.Unlock()
	defer close(s.served)
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx)) // outlives ctx, for sessions to end in order
	s.public.Handler = s.routes(inner)

	var wg sync.WaitGroup
	failed := make(chan error, 2)
	guests := func() {}
	if s.public.TLSConfig == nil {
		d := s.openDoor(inner, public)
		public, guests = d, d.all.Wait
	}
	wg.Go(func() { s.wheel.run(inner) })
	wg.Go(func() { s.lobby.run(inner) })
	wg.Go(func() { s.batcher.run(inner) })
	wg.Go(func() {
		var err error
		if s.public.TLSConfig != nil {
			err = s.public.ServeTLS(public, "", "")
		} else {
			err = s.public.Serve(public)
		}
		if !errors.Is(err, http.ErrServerClosed) {
			failed <- err
		}
	})
	if admin != nil {
		wg.Go(func() {
			if err := s.admin.Serve(admin); !errors.Is(err, http.ErrServerClosed) {
				failed <- err
			}
		})
	}
	var err error
	select {
	case <-ctx.Done():
	case <-s.stopped:
	case err = <-failed:
	}
	s.draining.Store(true)
	_ = s.public.Close()
	s.closeAll()
	guests()
	// Sessions end by themselves; a store that does not answer must not hold up many.
	hurry := time.AfterFunc(s.opt.Timers.Close+s.opt.Timers.Request, cancel)
	s.live.Wait()
	s.crew.end()
	hurry.Stop()
	_ = s.admin.Close()
	cancel()
	wg.Wait()
	return err
}

// Shutdown drains the node and ends Serve. Readiness fails first; then no new
// connection is taken, and the sessions are closed with a hint when to come back,
// spread over the drain time, each handed over so that nobody is seen to leave.
// What is left when ctx ends is closed at once. It returns when Serve has; only the
// first call drains, and a second waits with it.
func (s *Server) Shutdown(ctx context.Context) {
	if s.draining.Swap(true) {
		s.wait()
		return
	}
	s.metrics.draining.Set(1)
	sleep(ctx, s.opt.Timers.ReadyDelay)
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.public.Shutdown(ctx) })
	sessions := s.stop()
	start := time.Now()
	s.drain(ctx, sessions)
	wg.Wait()
	s.awaitSessions(ctx)
	s.log.Info("drained", zap.Int("sessions", len(sessions)), zap.Duration("took", time.Since(start)))
	close(s.stopped)
	s.wait()
}

func (s *Server) wait() {
	s.mu.Lock()
	serving := s.serving
	s.mu.Unlock()
	if serving {
		<-s.served
	}
}

// stop lets no session begin any more and returns those there are; those whose
// handshake is under way find out by themselves.
func (s *Server) stop() []*Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopping = true
	sessions := make([]*Session, 0, len(s.sessions))
	for _, c := range s.sessions {
		if c.upgraded {
			sessions = append(sessions, c)
		}
	}
	return sessions
}

// upgraded tells that a session's WebSocket is there; it reports whether the session
// came too late, and must be closed.
func (s *Server) upgraded(c *Session) (late bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.upgraded = true
	return s.stopping
}

// drainGap is the time between two closes where the drain time allows it.
const drainGap = 20 * time.Millisecond

// drain closes sessions evenly over the drain time, in random order.
func (s *Server) drain(ctx context.Context, sessions []*Session) {
	mathrand.Shuffle(len(sessions), func(i, j int) { sessions[i], sessions[j] = sessions[j], sessions[i] }) //nolint:gosec // G404: an order is no secret
	window := min(s.opt.Timers.Drain, time.Duration(len(sessions))*drainGap)
	if deadline, ok := ctx.Deadline(); ok {
		// Leave time for the last to answer.
		window = min(window, max(time.Until(deadline)-s.opt.Timers.Close, 0))
	}
	start := time.Now()
	for i, c := range sessions {
		at := window * time.Duration(i) / time.Duration(len(sessions))
		if !sleep(ctx, at-time.Since(start)) {
			return
		}
		c.close(CloseRestart, presence.EndDrain, nil, s.opt.Timers.Close)
	}
}

// sleep reports whether d passed before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// awaitSessions returns when all sessions have ended, or ctx has.
func (s *Server) awaitSessions(ctx context.Context) {
	ended := make(chan struct{})
	go func() { // ends at the latest when Serve has closed what is left
		s.live.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
	}
}

// closeAll ends what sessions there are, without waiting for clients to answer.
func (s *Server) closeAll() {
	for _, c := range s.stop() {
		c.close(CloseGoingAway, presence.EndDrain, nil, 0)
		_ = c.sock.Conn.SetReadDeadline(past) // of those that were being closed already
	}
}

// End closes a session of this node for the operator: its user or service was
// deleted. It does nothing for a session that is not here, and does not block.
func (s *Server) End(id presence.SessionID) {
	s.mu.Lock()
	c := s.sessions[id]
	s.mu.Unlock()
	if c != nil {
		c.Close(CloseEnded, nil)
	}
}

// Serves reports whether a session's WebSocket is open here.
func (s *Server) Serves(id presence.SessionID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions[id] != nil
}

// Recheck looks at the token of every session again, and closes those whose key was
// withdrawn or whose token was revoked; their users are offline at once. It is to be
// called after Tokens know of it, so that no session can slip through. It does not
// block.
func (s *Server) Recheck() {
	s.mu.Lock()
	sessions := slices.Collect(maps.Values(s.sessions))
	s.mu.Unlock()
	for _, c := range sessions {
		c.recheck()
	}
}

// Sessions is how many WebSockets are open.
func (s *Server) Sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions)
}

// retryAfter is a hint when to come back: soon, but not everybody at once.
func (s *Server) retryAfter() time.Duration {
	return 200*time.Millisecond + s.spread(1800*time.Millisecond)
}

func (*Server) spread(d time.Duration) time.Duration {
	return mathrand.N(d) //nolint:gosec // G404: jitter is no secret
}

// connState bounds the connections that are not WebSockets.
func (s *Server) connState(c net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		if s.plain.Add(1) > int64(s.opt.Limits.Plain) {
			s.metrics.shed[shedPlain].Inc()
			_ = c.Close() // the server then reports it closed
		}
	case http.StateClosed, http.StateHijacked:
		s.plain.Add(-1)
	case http.StateActive, http.StateIdle:
	}
}

// begin admits a new connection, or tells why not and when to try again.
func (s *Server) begin(c *Session) (shed string, retry time.Duration) {
	l := &s.opt.Limits
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.stopping || s.draining.Load():
		return shedDraining, s.retryAfter()
	case len(s.sessions) >= l.Connections:
		return shedConnections, 5 * time.Second
	case s.pending >= l.Pending:
		return shedPending, time.Second
	case s.strange[c.address] >= l.PendingPerAddress:
		return shedAddress, time.Second
	}
	if wait, ok := s.accepts.Take(s.wheel.now(), s.rates.accept); !ok {
		return shedRate, wait
	}
	c.id = newSessionID()
	c.pending = true
	s.sessions[c.id] = c
	s.pending++
	s.strange[c.address]++
	s.live.Add(1)
	s.metrics.connections.Inc()
	return "", 0
}

// rename gives a session that is not registered yet another id: an attempt to register
// it under the old one may be carried out late, and will be undone.
func (s *Server) rename(c *Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, c.id)
	c.id = newSessionID()
	s.sessions[c.id] = c
}

func newSessionID() presence.SessionID {
	var b [presence.SessionIDLen / 2]byte
	_, _ = rand.Read(b[:]) // never fails
	return presence.SessionID(hex.EncodeToString(b[:]))
}

// greeted ends a connection's being pending.
func (s *Server) greeted(c *Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.greetedLocked(c)
}

func (s *Server) greetedLocked(c *Session) {
	if !c.pending {
		return
	}
	c.pending = false
	s.pending--
	if s.strange[c.address]--; s.strange[c.address] == 0 {
		delete(s.strange, c.address)
	}
}

// join counts the session for its user; false if the user has too many.
func (s *Server) join(c *Session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users[c.key] >= s.opt.Limits.SessionsPerUser {
		return false
	}
	s.users[c.key]++
	c.member = true
	return true
}

// forget is the opposite of begin.
func (s *Server) forget(c *Session) {
	s.wheel.remove(c)
	s.mu.Lock()
	s.greetedLocked(c)
	delete(s.sessions, c.id)
	if c.member {
		if s.users[c.key]--; s.users[c.key] == 0 {
			delete(s.users, c.key)
		}
	}
	s.mu.Unlock()
	s.metrics.connections.Dec()
	s.live.Done()
}

// ended accounts for a session's end and logs it: the one place that does.
func (s *Server) ended(c *Session, code CloseCode, how presence.End, err error) {
	peer := int(websocket.CloseStatus(err))
	s.metrics.closedBy(code, peer)
	if c.counted {
		s.metrics.sessions.Dec()
		s.metrics.ends[how].Inc()
		if how == presence.EndDrain {
			s.metrics.drained.Inc()
		}
	}
	if e := s.log.Check(zap.DebugLevel, "session ended"); e != nil {
		c.mu.Lock()
		refusal := c.refusal
		c.mu.Unlock()
		e.Write(zap.String("session", string(c.id)), zap.String("service", c.key.Service), zap.Int("code", int(code)),
			zap.Int("peer_code", peer), zap.Stringer("how", how), zap.Duration("age", s.wheel.now()-c.arrived), zap.NamedError("refusal", refusal), zap.Error(err))
	}
	s.forget(c)
}

// routes is what the public listener serves. Sessions run in ctx. It is not an
// http.ServeMux because that answers a path it would rather clean with a redirect,
// which REST clients take for the resource.
func (s *Server) routes(ctx context.Context) http.Handler {
	prefixes := slices.SortedFunc(maps.Keys(s.opt.Routes), func(a, b string) int { return len(b) - len(a) })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := r.URL.Path
		if p, ok := s.opt.Sockets[path]; ok {
			s.upgrade(ctx, p, w, r)
			return
		}
		for _, prefix := range prefixes {
			if rest, ok := strings.CutPrefix(path, prefix); ok && (rest == "" || rest[0] == '/') {
				s.opt.Routes[prefix].ServeHTTP(w, r)
				return
			}
		}
		if path == "/" {
			http.Redirect(w, r, "/console", http.StatusFound)
			return
		}
		http.NotFound(w, r)
	})
}
