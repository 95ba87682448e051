package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rollcall-presence/rollcall/auth"
	"github.com/rollcall-presence/rollcall/internal/load/wire"
)

// phase is where a session is.
type phase uint8

const (
	closed  phase = iota
	opening       // until its subscriptions are answered
	opened
	leaving // said bye
)

// session is one user's connection, which comes back when it is lost.
type session struct {
	w     *worker
	user  uint32
	slow  bool // reads as little as it can
	bare  bool // to the bare loop: without hello and subscription
	views []view
	shift atomic.Int32 // to which node after its first it goes

	mu    sync.Mutex // guards the following
	phase phase
	conn  *wire.Conn // nil unless opened or leaving
	back  int64      // when a connection that was cut on purpose is to be made again, ns since 1970; 0 if it was not
}

// view is what a session knows of a user that it watches.
type view struct {
	user uint32
	act  atomic.Uint32 // the last act that it saw; written by the session's goroutine only
	rev  int64         // owned by the session's goroutine
}

const identityPrefix = "user-"

// identity is a user's name, 22 bytes long, as UUIDs without dashes would be about.
func identity(user uint32) string { return fmt.Sprintf(identityPrefix+"%017d", user) }

// userOf is the user of an identity that identity made.
func userOf(identity []byte) (uint32, error) {
	digits, ok := strings.CutPrefix(string(identity), identityPrefix)
	n, err := strconv.ParseUint(digits, 10, 32)
	if !ok || err != nil {
		return 0, fmt.Errorf("a message about %q, who is nobody's friend", identity)
	}
	return uint32(n), nil
}

func newSession(w *worker, user uint32, roster []uint32) *session {
	s := &session{w: w, user: user, views: make([]view, len(roster))}
	for i, u := range roster {
		s.views[i].user = u
	}
	return s
}

// open connects the session, which was due at a time, and returns once it is watching. In case of an error it is closed.
func (s *session) open(ctx context.Context, due time.Time) error {
	conn, err := s.join(ctx, due)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.phase, s.conn, s.back = opened, conn, 0
	s.mu.Unlock()
	s.w.tally.note(func(c *counts) { c.Open, c.Opened = c.Open+1, c.Opened+1 })
	s.w.reading.Add(1) // until the connection is lost
	go s.read(conn)
	return nil
}

// join makes a connection that watches whom the session watches.
func (s *session) join(ctx context.Context, due time.Time) (*wire.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errSilent)
	defer cancel()
	u, from := s.w.route(s)
	dialer := s.w.dialer
	dialer.Narrow = s.slow
	conn, err := dialer.Dial(ctx, u, from)
	if err != nil || s.bare {
		return conn, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	err = s.greet(conn, due)
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		conn.Cut()
		return nil, err
	}
	return conn, nil
}

// errSilent is of a node that does not answer.
var errSilent = errors.New("no answer within a minute")

// route is the node that the session connects to, and the local address, which is nil for any.
// Each pair of the two has as many sessions as another, as each has as many ports.
func (w *worker) route(s *session) (to *url.URL, from net.Addr) {
	to, at := w.bare, int(s.user)
	if !s.bare {
		to = w.urls[(at+int(s.shift.Load()))%len(w.urls)]
		at /= len(w.urls)
	}
	if n := len(w.part.From); n > 0 {
		from = &net.TCPAddr{IP: net.ParseIP(w.part.From[at%n])}
	}
	return to, from
}

// greet says hello and subscribes.
func (s *session) greet(conn *wire.Conn, due time.Time) error {
	token, err := auth.Mint(s.w.key, s.w.set.Service, identity(s.user), time.Now(), tokenLife)
	if err != nil {
		return err
	}
	hello, ask := append(append([]byte(`{"type":"hello","token":"`), token...), '"'), []uint32{}
	if s.w.set.Batch {
		hello = append(hello, `,"batch":true`...)
	}
	hello = append(hello, `,"known":{`...)
	known := 0
	for i := range s.views {
		if s.views[i].rev == 0 {
			ask = append(ask, s.views[i].user)
			continue
		}
		if known++; known > 1 {
			hello = append(hello, ',')
		}
		hello = strconv.AppendInt(append(strconv.AppendQuote(hello, identity(s.views[i].user)), ':'), s.views[i].rev, 10)
	}
	if err := conn.Send(append(hello, "}}"...)); err != nil {
		return err
	}
	if err := s.answer(conn, wire.Welcome); err != nil {
		return err
	}
	s.w.tally.record(latencySetUp, time.Since(due))
	for chunk := range slices.Chunk(ask, 500) {
		names := make([]string, len(chunk))
		for i, u := range chunk {
			names[i] = identity(u)
		}
		list, err := json.Marshal(names)
		if err != nil {
			return err
		}
		if err := conn.Send(append(append([]byte(`{"type":"subscribe","id":1,"identities":`), list...), '}')); err != nil {
			return err
		}
		if err := s.answer(conn, wire.Subscribed); err != nil {
			return err
		}
	}
	return nil
}

// answer reads until an answer of a kind has come, whose users are as they are now.
func (s *session) answer(conn *wire.Conn, want wire.Kind) error {
	for done := false; !done; {
		err := conn.Next(func(m []byte) error {
			switch kind := wire.KindOf(m); kind {
			case want:
				done = true
				return s.users(m, s.snapshot)
			case wire.Error:
				return problem(m)
			default:
				return s.message(kind, m)
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// users calls f with each user of a message that the session watches.
func (s *session) users(m []byte, f func(*view, wire.User)) (err error) {
	wire.Users(m, func(u wire.User) {
		n, e := userOf(u.Identity)
		if e != nil {
			err = e
			return
		}
		i := sort.Search(len(s.views), func(i int) bool { return s.views[i].user >= n })
		switch {
		case i < len(s.views) && s.views[i].user == n:
			f(&s.views[i], u)
		case n == s.user: // in the welcome
			s.w.board.slots[n].welcomed(u.Rev)
		default:
			s.w.tally.note(func(c *counts) { c.Unexpected++ })
		}
	})
	return err
}

// snapshot takes what an answer tells of a user. Where that is news, it tells of an act that
// the session missed while it was not there.
func (s *session) snapshot(v *view, u wire.User) {
	if u.Rev != v.rev {
		s.see(v, u)
	}
}

// see takes a state of a user, and is how many acts it tells of: 0 if it should not have come.
func (s *session) see(v *view, u wire.User) (acts uint32) {
	slot := &s.w.board.slots[v.user]
	last := v.act.Load()
	act := slot.act(u.Online, u.Rev, last)
	if u.Rev <= v.rev {
		s.w.tally.note(func(c *counts) { c.Disordered++ })
		return 0
	}
	v.rev = u.Rev
	switch {
	case slot.lenient.Load() != 0:
		v.act.Store(slot.settled(u.Online))
		return 0
	case act <= last || act > slot.acts.Load():
		s.w.tally.note(func(c *counts) { c.Unexpected++ })
		return 0
	}
	v.act.Store(act)
	return act - last
}

// update takes a change of a user.
func (s *session) update(v *view, u wire.User) {
	now := time.Now()
	acts := s.see(v, u)
	if acts == 0 {
		return
	}
	merged := int64(acts - 1)
	switch {
	case s.bare:
		s.w.tally.note(func(c *counts) { c.BareEvents++ })
	case s.slow:
		s.w.tally.note(func(c *counts) { c.SlowEvents, c.SlowMerged = c.SlowEvents+1, c.SlowMerged+merged })
		return
	default:
		s.w.tally.note(func(c *counts) { c.Events, c.Merged = c.Events+1, c.Merged+merged })
	}
	if d, ok := s.w.board.slots[v.user].since(v.act.Load(), now); ok {
		name := latencyEvent
		if s.bare {
			name = latencyBare
		}
		s.w.tally.record(name, d)
	}
}

func (s *session) message(kind wire.Kind, m []byte) error {
	switch kind {
	case wire.Updated, wire.Batch:
		return s.users(m, s.update)
	case wire.Error:
		return problem(m)
	default:
		return nil
	}
}

// read takes what comes next, and goes on in a fresh goroutine until the connection ends:
// handling grows the stack to 4 KiB, which the runtime does not shrink to the 2 KiB that
// waiting takes.
func (s *session) read(conn *wire.Conn) {
	if s.slow {
		s.w.dawdle()
		_ = conn.Alive() // the server's ping waits behind what was not read
	}
	if err := conn.Next(s.take); err != nil {
		s.lost(conn, err)
		s.w.reading.Done()
		return
	}
	go s.read(conn) // joined through worker.reading, as this one is
}

func (s *session) take(m []byte) error { return s.message(wire.KindOf(m), m) }

// lost is told how a connection ended.
func (s *session) lost(conn *wire.Conn, err error) {
	conn.Cut()
	s.mu.Lock()
	said, back := s.phase == leaving, s.back
	s.phase, s.conn = closed, nil
	s.mu.Unlock()
	s.w.tally.note(func(c *counts) {
		c.Open--
		if !said && back == 0 {
			c.Lost[reason(err)]++
		}
	})
	switch {
	case said || s.w.ending.Load():
	case back != 0:
		s.w.dial(s, time.Unix(0, back))
	default:
		s.shift.Add(1) // nodes that stop or broke are not there at once
		s.w.dial(s, time.Now().Add(backoff(err, 0)))
	}
}

// hint is when the server wants the client back, or a random time if it did not say.
func hint(reason string) time.Duration {
	var r struct {
		RetryAfter int64 `json:"retry_after_ms"`
	}
	if json.Unmarshal([]byte(reason), &r) == nil && r.RetryAfter > 0 {
		return min(time.Duration(min(r.RetryAfter, 1<<32))*time.Millisecond, time.Hour)
	}
	return time.Duration(rand.Int64N(int64(500 * time.Millisecond))) //nolint:gosec // G404: no secret
}

// leave says bye if the session is open.
func (s *session) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase != opened {
		return
	}
	s.phase = leaving
	if s.bare || s.conn.Send([]byte(`{"type":"bye"}`)) != nil {
		s.conn.Cut() // the reader notices
	}
}

// cut ends the connection as one does that breaks, or like a page that is left if reload
// is true; the session is to be back at a time. It reports whether the session was open.
func (s *session) cut(back time.Time, reload bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase != opened || s.back != 0 {
		return false
	}
	s.back = back.UnixNano()
	if reload {
		_ = s.conn.Bye(1001)
		return true
	}
	s.conn.Cut() // the reader notices
	return true
}

// begun reports whether the session was closed, and is opening from now on.
func (s *session) begun() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase != closed {
		return false
	}
	s.phase = opening
	return true
}

// failed puts the session back to closed.
func (s *session) failed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.phase = closed
}

func parse(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err == nil && (u.Scheme != "ws" && u.Scheme != "wss" || u.Host == "") {
		err = fmt.Errorf("%q is no ws:// or wss:// address", raw)
	}
	return u, err
}

// refusalError is an error message of the server.
type refusalError struct {
	code int
	what string
}

func problem(m []byte) error {
	code, what := wire.Problem(m)
	return &refusalError{code, what}
}

func (r *refusalError) Error() string { return fmt.Sprintf("error %d: %s", r.code, r.what) }
