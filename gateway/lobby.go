package gateway

import (
	"container/list"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rollcall-presence/rollcall/presence"
)

const (
	// lobbyPause is about how long the lobby leaves a store alone that did not answer.
	lobbyPause = 500 * time.Millisecond
	// lobbyWorkers bounds the sessions that are let in at one time, so that a store that
	// is just back is not flattened by all that waited.
	lobbyWorkers = 16
)

// What became of sessions that came while the store was away.
const (
	waitLetIn   = "let_in"
	waitFull    = "full"    // refused: too many wait
	waitTimeout = "timeout" // refused: the store was away for too long
	waitRefused = "refused" // for any other reason, such as a token that expired meanwhile
	waitLeft    = "left"    // the client left
	waitDrained = "drained" // the node stopped
)

var waitOutcomes = []string{waitLetIn, waitFull, waitTimeout, waitRefused, waitLeft, waitDrained}

// errAway stands for the answer of a store that others are waiting for already.
var errAway = &presence.Error{Op: "open", Kind: presence.KindUnavailable, Err: errors.New("others wait for the store")}

// lobby is where sessions wait that came while the store was away: their token is
// checked, and they are registered, in the order in which they came and a few at a
// time, when it is back. Until then presence knows nothing of them.
type lobby struct {
	srv     *Server
	away    atomic.Bool   // nothing that was tried has been answered since somebody came in
	arrived chan struct{} // told when somebody came in

	mu    sync.Mutex // guards the following, and the place of each session
	queue list.List  // of *Session: who is not being let in just now
	size  int        // how many there are, including those
}

// place is a session's claim to be let in.
type place struct {
	known     map[string]int64
	invisible bool
	answer    func(Welcome) []byte
	refuse    func(*Problem) []byte
	by        time.Duration // when to give up, on the wheel's clock; guarded by Session.mu

	// Owned by whom lets it in.
	tried      bool // an attempt to register it may have been carried out
	registered bool // one was

	// The following are guarded by lobby.mu.
	in      bool          // in the lobby
	element *list.Element // in lobby.queue
	trying  chan struct{} // closed when the attempt to let it in is over; nil while there is none
	cancel  context.CancelFunc
}

func newLobby(srv *Server) *lobby { return &lobby{srv: srv, arrived: make(chan struct{}, 1)} }

// closed reports whether there is no use in asking the store: others ask for all.
func (l *lobby) closed() bool {
	if !l.away.Load() {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.size > 0
}

// add lets a session wait that is refused for a problem, and returns nil or why it must
// not wait. From here on until remove the lobby owns what the reader did.
func (l *lobby) add(s *Session, p *place, problem *Problem) *Problem {
	if l.srv.opt.Timers.Wait < 0 || problem.Close != CloseUnavailable {
		return problem
	}
	l.mu.Lock()
	if l.size >= l.srv.opt.Limits.Waiting {
		l.mu.Unlock()
		l.srv.metrics.waits[waitFull].Inc()
		return &Problem{Code: ErrorTooManyWaiting, Retry: problem.Retry, Close: CloseUnavailable, err: problem.err}
	}
	l.size++
	l.mu.Unlock()
	l.srv.metrics.waiting.Inc()

	now := l.srv.wheel.now()
	s.mu.Lock()
	if s.state == stateOpening {
		s.state = stateWaiting
	}
	p.by = now + l.srv.opt.Timers.Wait
	s.pingAt = now + l.srv.spread(l.srv.opt.Timers.Ping)
	s.mu.Unlock()
	l.srv.wheel.schedule(s, now)

	l.away.Store(true)
	l.mu.Lock()
	p.in, p.element = true, l.queue.PushBack(s)
	l.mu.Unlock()
	select {
	case l.arrived <- struct{}{}:
	default:
	}
	return nil
}

// remove has a session wait no longer, whose end has the code of the server's close
// frame, 0 if the client left. When it returns nobody is letting it in. Only its
// reader may call it; for a session that is not in the lobby it does nothing.
func (l *lobby) remove(s *Session, code CloseCode) {
	s.mu.Lock()
	p := s.place
	s.mu.Unlock()
	if p == nil {
		return
	}
	l.mu.Lock()
	if p.element != nil {
		l.queue.Remove(p.element)
		p.element = nil
	}
	trying := p.trying
	if trying != nil {
		p.cancel()
	}
	l.mu.Unlock()
	if trying != nil {
		<-trying
	}
	outcome := waitRefused
	switch code {
	case 0, CloseBye, CloseNoPong, CloseSlow:
		outcome = waitLeft
	case CloseUnavailable:
		outcome = waitTimeout
	case CloseRestart, CloseGoingAway:
		outcome = waitDrained
	default:
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if p.element != nil { // the attempt has just put it back
		l.queue.Remove(p.element)
		p.element = nil
	}
	l.leaveLocked(p, outcome)
}

func (l *lobby) leaveLocked(p *place, outcome string) {
	if !p.in {
		return
	}
	p.in = false
	l.size--
	l.srv.metrics.waiting.Dec()
	l.srv.metrics.waits[outcome].Inc()
}

// run lets in who waits, until ctx ends.
func (l *lobby) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.arrived:
		}
		for l.round(ctx) {
			if !sleep(ctx, lobbyPause/2+l.srv.spread(lobbyPause)) {
				return
			}
		}
	}
}

// round tries to let in everybody who waits now, first one alone: while that fails,
// no more is asked of the store. It reports whether somebody waits still.
func (l *lobby) round(ctx context.Context) bool {
	l.mu.Lock()
	n := l.queue.Len()
	l.mu.Unlock()
	if n == 0 {
		return false
	}
	if !l.next(ctx) {
		return true
	}
	var wg sync.WaitGroup
	var turns, failures atomic.Int64
	turns.Store(int64(n) - 1)
	for range min(lobbyWorkers, n-1) {
		wg.Go(func() {
			for turns.Add(-1) >= 0 && failures.Load() < lobbyWorkers {
				if l.next(ctx) {
					failures.Store(0)
				} else {
					failures.Add(1)
				}
			}
		})
	}
	wg.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.queue.Len() > 0
}

// next tries to let in who waited longest, and puts it at the end of the line if the
// store is away. It reports whether the store has answered.
func (l *lobby) next(ctx context.Context) bool {
	l.mu.Lock()
	front := l.queue.Front()
	if front == nil {
		l.mu.Unlock()
		return true
	}
	s := l.queue.Remove(front).(*Session)
	s.mu.Lock()
	p := s.place
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, l.srv.opt.Timers.Request)
	defer cancel()
	trying := make(chan struct{})
	p.element, p.trying, p.cancel = nil, trying, cancel
	l.mu.Unlock()

	var problem *Problem
	if err := s.enter(ctx, p); err != nil {
		problem = l.srv.problem(err)
	}
	again := problem != nil && problem.Close == CloseUnavailable
	if !again {
		l.away.Store(false)
	}
	l.mu.Lock()
	p.trying, p.cancel = nil, nil
	switch {
	case again:
		p.element = l.queue.PushBack(s)
	case problem == nil:
		l.leaveLocked(p, waitLetIn)
	}
	l.mu.Unlock()
	if problem != nil && !again {
		s.refuse(problem)
	}
	close(trying)
	return !again
}
