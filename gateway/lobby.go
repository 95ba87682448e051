package gateway

import (
	"container/list"
	"context"
	"errors"
	"maps"
	"slices"
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
// checked, and they are registered, a few at a time, when it is back. Until then
// presence knows nothing of them. They wait in a line for each partition, in the order in
// which they came, so that who needs a part of the store that is away, such as one
// primary of a Cluster, does not hold up the others.
type lobby struct {
	srv     *Server
	arrived chan struct{} // told when somebody came in

	mu    sync.Mutex                   // guards the following, what they hold, and the place of each session
	lines map[presence.Partition]*line // those in which anybody waits
	size  int                          // how many wait, in all lines
}

// line is who waits for a partition.
type line struct {
	queue list.List // of *Session: who is not being let in just now
	size  int       // how many there are, including those
	away  bool      // nothing that was tried has been answered since somebody came in
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
	line    *line         // in which it waits; nil while it is not in the lobby
	element *list.Element // in line.queue
	trying  chan struct{} // closed when the attempt to let it in is over; nil while there is none
	cancel  context.CancelFunc
}

func newLobby(srv *Server) *lobby {
	return &lobby{srv: srv, arrived: make(chan struct{}, 1), lines: map[presence.Partition]*line{}}
}

// closed reports whether there is no use in asking the store for a user: others ask.
func (l *lobby) closed(k presence.Key) bool {
	q := l.srv.opt.Presence.Partition(k)
	l.mu.Lock()
	defer l.mu.Unlock()
	line := l.lines[q]
	return line != nil && line.away
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
	if by := now + l.srv.opt.Timers.Wait; p.by == 0 || p.by > by {
		p.by = by
	}
	s.pingAt = now + l.srv.spread(l.srv.opt.Timers.Ping)
	s.mu.Unlock()
	l.srv.wheel.schedule(s, now)

	q := l.srv.opt.Presence.Partition(s.key)
	l.mu.Lock()
	if l.lines[q] == nil {
		l.lines[q] = &line{}
	}
	p.line = l.lines[q]
	p.line.size++
	p.line.away = true
	p.element = p.line.queue.PushBack(s)
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
	p.unqueueLocked()
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
	p.unqueueLocked() // the attempt may just have put it back
	l.leaveLocked(s, p, outcome)
}

func (p *place) unqueueLocked() {
	if p.element != nil {
		p.line.queue.Remove(p.element)
		p.element = nil
	}
}

func (l *lobby) leaveLocked(s *Session, p *place, outcome string) {
	if p.line == nil {
		return
	}
	if p.line.size--; p.line.size == 0 {
		delete(l.lines, l.srv.opt.Presence.Partition(s.key))
	}
	p.line = nil
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

// round tries to let in everybody who waits now, a few lines at a time, each until the
// store does not answer; when many lines in a row find it away it asks no more. It
// reports whether somebody waits still.
func (l *lobby) round(ctx context.Context) bool {
	l.mu.Lock()
	lines := slices.Collect(maps.Values(l.lines)) // in another order each time
	l.mu.Unlock()
	var wg sync.WaitGroup
	var turn, failures atomic.Int64
	for range min(lobbyWorkers, len(lines)) {
		wg.Go(func() {
			for failures.Load() < lobbyWorkers {
				i := int(turn.Add(1)) - 1
				if i >= len(lines) {
					return
				}
				if l.serve(ctx, lines[i]) {
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
	return l.size > 0
}

// serve lets in who waits in a line now, and reports whether the store has answered at all.
func (l *lobby) serve(ctx context.Context, line *line) (answered bool) {
	l.mu.Lock()
	n := line.queue.Len()
	l.mu.Unlock()
	for range n {
		tried, ok := l.next(ctx, line)
		if !tried {
			break
		}
		if !ok {
			return answered
		}
		answered = true
	}
	return true
}

// takeLocked takes the first of a line who is not leaving; nil if there is nobody. Who
// leaves is not registered any more.
func (line *line) takeLocked() (*Session, *place) {
	for front := line.queue.Front(); front != nil; front = line.queue.Front() {
		s := line.queue.Remove(front).(*Session)
		s.mu.Lock()
		p, closing := s.place, s.state >= stateClosing
		s.mu.Unlock()
		p.element = nil
		if !closing {
			return s, p
		}
	}
	return nil, nil
}

// next tries to let in the first of a line, if there is anybody, and puts it at the end
// if the store is away. It reports whether the store has answered.
func (l *lobby) next(ctx context.Context, line *line) (tried, answered bool) {
	l.mu.Lock()
	s, p := line.takeLocked()
	if s == nil {
		l.mu.Unlock()
		return false, false
	}
	ctx, cancel := context.WithTimeout(ctx, l.srv.opt.Timers.Request)
	defer cancel()
	trying := make(chan struct{})
	p.trying, p.cancel = trying, cancel
	l.mu.Unlock()

	var problem *Problem
	if err := s.enter(ctx, p); err != nil {
		problem = l.srv.problem(err)
	}
	again := problem != nil && problem.Close == CloseUnavailable
	l.mu.Lock()
	p.trying, p.cancel = nil, nil
	line.away = again
	switch {
	case again:
		p.element = line.queue.PushBack(s)
	case problem == nil:
		l.leaveLocked(s, p, waitLetIn)
	}
	l.mu.Unlock()
	if problem != nil && !again {
		s.refuse(problem)
	}
	close(trying)
	return true, !again
}
