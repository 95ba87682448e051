package load

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rollcall-presence/rollcall/auth"
	"github.com/rollcall-presence/rollcall/internal/load/wire"
)

// part is what one process of a run is told first.
type part struct {
	Settings Settings
	Index    int // of Of processes
	Of       int
	Board    string   // the file
	From     []string // local addresses to connect from; empty for what the system takes
}

// order is what a worker is told to do next.
type order struct {
	Do string        `json:"do"` // ramp, act, settle or end
	At time.Time     `json:"at"` // when
	In time.Duration `json:"in"` // for how long
}

// status is what a worker tells: once a second what it has seen, and, once it did what it was told, that.
type status struct {
	counts
	Hists map[string]string `json:"hists,omitempty"`
	Done  string            `json:"done,omitempty"` // the order
	Error string            `json:"error,omitempty"`
	// Behind is, of a settle order, how many acts the watchers have yet to see.
	Behind int64 `json:"behind,omitempty"`
}

// worker is one process of a run: its share of the sessions.
type worker struct {
	part   part
	set    Settings
	key    auth.Key
	urls   []*url.URL
	bare   *url.URL
	dialer wire.Dialer
	board  *board
	tally  *tally

	watchers []*session // they are there all the time
	actors   []*session // they come and go

	fail     context.CancelCauseFunc // ends what is under way, and says why
	patience time.Duration           // how long nothing may succeed
	echo     time.Duration           // how long after a linger what it left behind may show itself
	failing  atomic.Int64            // since when attempts to connect did nothing but fail, ns since 1970; 0 if they do not
	ending   atomic.Bool
	busy     atomic.Pointer[chan struct{}] // closed when slow readers may read like others
	dials    chan attempt
	reading  sync.WaitGroup
}

// attempt is a session that is to be opened.
type attempt struct {
	s   *session
	due int64 // ns since 1970: there may be as many of these as sessions
	n   int32 // attempts that failed
}

// Worker is a process of a run that Run started: it reads its part and then orders from in,
// a line of JSON each, and writes what it sees to out. It ends what is under way when in
// ends or ctx does, and returns once in has ended.
func Worker(ctx context.Context, in io.Reader, out io.Writer) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	lines := json.NewDecoder(bufio.NewReader(in))
	var p part
	if err := lines.Decode(&p); err != nil {
		return err
	}
	w, err := newWorker(p)
	if err != nil {
		return err
	}
	w.fail = fail
	defer w.board.close()
	var dialers sync.WaitGroup
	for range parallelDials {
		dialers.Go(func() { w.serveDials(ctx) })
	}
	defer w.abandon()
	defer dialers.Wait() // ctx ends with in, which is before this returns
	var mu sync.Mutex    // guards enc
	enc := json.NewEncoder(out)
	say := func(s status) error {
		mu.Lock()
		defer mu.Unlock()
		var err error
		if s.counts, s.Hists, err = w.tally.take(); err != nil {
			return err
		}
		return enc.Encode(s)
	}
	var ticking sync.WaitGroup
	ticking.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				_ = say(status{})
			}
		}
	})
	defer ticking.Wait()
	orders := make(chan order, 1) // with room for the next one, so that the end is noticed behind it
	var broken error              // why there are no more orders; owned by the following until it closes orders
	go func() {                   // ends with in
		defer close(orders)
		for {
			var o order
			if broken = lines.Decode(&o); broken != nil {
				fail(errors.New("the run is gone"))
				return
			}
			orders <- o
		}
	}()
	for o := range orders {
		s := status{Done: o.Do}
		if s.Behind, err = w.do(ctx, o); err != nil {
			s.Error = err.Error()
		}
		_ = say(s) // who cannot be told is gone, and with it what it says
	}
	if errors.Is(broken, io.EOF) {
		return nil
	}
	return broken
}

// parallelDials bounds how many handshakes a process has under way: a node lets an address
// have a few hundred connections that have not said hello.
const parallelDials = 32

func newWorker(p part) (*worker, error) {
	set := p.Settings
	w := &worker{
		part: p, set: set, key: auth.Key{SID: set.KeySID, Secret: set.KeySecret, Account: set.Account},
		dialer: wire.Dialer{Subprotocol: "rollcall.v1.json"}, tally: newTally(), fail: func(error) {}, patience: time.Minute, echo: 4 * time.Second,
	}
	busy := make(chan struct{})
	close(busy)
	w.busy.Store(&busy)
	for _, raw := range set.URLs {
		u, err := parse(raw)
		if err != nil {
			return nil, err
		}
		w.urls = append(w.urls, u)
	}
	if set.BareURL != "" {
		u, err := parse(set.BareURL)
		if err != nil {
			return nil, err
		}
		w.bare = u
	}
	var err error
	if w.board, err = openBoard(p.Board, set.users()); err != nil {
		return nil, err
	}
	c := set.cast()
	lo, hi := share(c.watchers, p.Index, p.Of)
	w.tally.Base = w.tally.warm()
	for i, roster := range c.watched(lo, hi) {
		s := newSession(w, uint32(lo+i), roster) //nolint:gosec // G115: users are few
		s.slow = float64(lo+i) < set.Slow*float64(c.watchers)
		w.watchers = append(w.watchers, s)
	}
	lo, hi = share(c.actors, p.Index, p.Of)
	for i := lo; i < hi; i++ {
		w.actors = append(w.actors, newSession(w, uint32(c.watchers+i), nil)) //nolint:gosec // G115: users are few
	}
	if w.bare != nil {
		lo, hi = share(c.watchers, p.Index, p.Of)
		for i := lo; i < hi; i++ {
			s := newSession(w, c.bare(), []uint32{c.bare()})
			s.bare = true
			w.watchers = append(w.watchers, s)
		}
	}
	w.dials = make(chan attempt, len(w.watchers)+len(w.actors))
	return w, nil
}

// share is the part of n things that one of several processes has.
func share(n, index, of int) (lo, hi int) { return n * index / of, n * (index + 1) / of }

func (w *worker) do(ctx context.Context, o order) (behind int64, err error) {
	switch o.Do {
	case "ramp":
		return 0, w.ramp(ctx, o.At)
	case "act":
		busy := make(chan struct{})
		w.busy.Store(&busy)
		defer close(busy)
		return 0, w.set.scenario().act(ctx, w, o.At, o.At.Add(o.In))
	case "settle":
		return w.behind(), context.Cause(ctx)
	case "end":
		return 0, w.end(ctx)
	default:
		return 0, fmt.Errorf("there is no order %q", o.Do)
	}
}

// pace calls f for i from 0 until it returns false, the time comes to an end, or ctx does:
// the i-th call is due i/rate seconds after at, and is told so. It is not skipped if it is late.
func pace(ctx context.Context, at, until time.Time, rate float64, f func(i int, due time.Time) bool) error {
	for i := 0; ; i++ {
		due := at.Add(time.Duration(float64(i) / rate * float64(time.Second)))
		if due.After(until) {
			return nil
		}
		if err := sleep(ctx, time.Until(due)); err != nil {
			return err
		}
		if !f(i, due) {
			return nil
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return context.Cause(ctx)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// ramp opens the watchers at the run's pace, and returns once all are open.
func (w *worker) ramp(ctx context.Context, at time.Time) error {
	err := pace(ctx, at, at.Add(24*time.Hour), w.set.Rate/float64(w.part.Of), func(i int, due time.Time) bool {
		if i == len(w.watchers) {
			return false
		}
		s := w.watchers[i]
		if !s.bare {
			w.board.begin(s.user, due)
			w.tally.note(func(c *counts) { c.Acts++ })
		}
		w.dial(s, due)
		return true
	})
	if err != nil {
		return err
	}
	if err := w.whole(ctx, time.Now()); err != nil {
		return err
	}
	for range 3 { // a collection halves a stack that is too large
		debug.FreeOSMemory()
	}
	w.tally.note(func(c *counts) { c.Resident = resident() })
	return nil
}

// whole waits until all watchers are open, which were due at a time, for as long as there
// come to be more of them.
func (w *worker) whole(ctx context.Context, due time.Time) error {
	fewest, since := len(w.watchers)+1, due
	for {
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
		missing := 0
		for _, s := range w.watchers {
			s.mu.Lock()
			if s.phase != opened || s.back != 0 {
				missing++
			}
			s.mu.Unlock()
		}
		switch {
		case missing == 0:
			return nil
		case missing < fewest:
			if fewest = missing; time.Now().After(since) {
				since = time.Now()
			}
		case time.Since(since) > w.patience:
			return fmt.Errorf("%d of %d sessions are not open, and none was opened for %v", missing, len(w.watchers), w.patience)
		}
	}
}

// dial has the session opened at a time, or as soon as may be after it.
func (w *worker) dial(s *session, due time.Time) {
	w.after(time.Until(due), attempt{s: s, due: due.UnixNano()})
}

// after puts an attempt into dials, where there is room for one of each session.
func (w *worker) after(wait time.Duration, a attempt) {
	if wait <= 0 {
		w.dials <- a
		return
	}
	time.AfterFunc(wait, func() { w.dials <- a })
}

func (w *worker) serveDials(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case a := <-w.dials:
			if w.ending.Load() || !a.s.begun() {
				continue
			}
			err := a.s.open(ctx, time.Unix(0, a.due))
			if err == nil {
				w.failing.Store(0)
				continue
			}
			a.s.failed()
			if ctx.Err() != nil {
				return
			}
			w.tally.note(func(c *counts) { c.Refused[reason(err)]++ })
			w.consider(err)
			a.s.shift.Add(1)                                         // the next node may take it
			w.after(backoff(err, a.n), attempt{a.s, a.due, a.n + 1}) // latencies go on counting from when it was due
		}
	}
}

// consider ends the run if an attempt to connect failed in a way in which the next will
// fail too, or if nothing else has happened for long.
func (w *worker) consider(err error) {
	if why := hopeless(err); why != nil {
		w.fail(why)
		return
	}
	now := time.Now().UnixNano()
	if w.failing.CompareAndSwap(0, now) {
		return
	}
	if since := w.failing.Load(); since != 0 && now-since > int64(w.patience) {
		w.fail(fmt.Errorf("no connection was made for %v: %w", w.patience, err))
	}
}

// hopeless is why it is of no use to try again after an error; nil if it may be.
func hopeless(err error) error {
	if why := explain(err); why != nil {
		return why
	}
	if r, ok := errors.AsType[*wire.RefusedError](err); ok && r.Status < 500 {
		switch r.Status {
		case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
			return nil
		}
		return err
	}
	if c, ok := errors.AsType[*wire.ClosedError](err); ok && c.Code >= 3500 && c.Code < 4000 { // docs/protocol.md: stay away
		return err
	}
	if r, ok := errors.AsType[*refusalError](err); ok && !slices.Contains(passing, r.code) {
		return err
	}
	_, untrusted := errors.AsType[*tls.CertificateVerificationError](err)
	_, plain := errors.AsType[tls.RecordHeaderError](err)
	name, _ := errors.AsType[*net.DNSError](err)
	if untrusted || plain || name != nil && name.IsNotFound || errors.Is(err, wire.ErrProtocol) {
		return err
	}
	return nil
}

// passing are the codes of docs/protocol.md of errors that are over after a while: internal,
// unavailable, rate_limited, too_many_sessions, too_many_waiting.
var passing = []int{100, 101, 109, 113, 120}

// reason is a short word for why a connection was not made, or ended.
func reason(err error) string {
	if r, ok := errors.AsType[*wire.RefusedError](err); ok {
		return strconv.Itoa(r.Status)
	}
	if c, ok := errors.AsType[*wire.ClosedError](err); ok && c.Err == nil {
		return strconv.Itoa(c.Code)
	} else if ok {
		err = c.Err
	}
	if op, ok := errors.AsType[*net.OpError](err); ok { // the rest of it names addresses
		err = op.Err
	}
	return err.Error()
}

// backoff is how long to wait after a failed attempt: what the server says, or like docs/protocol.md.
func backoff(err error, failed int32) time.Duration {
	if r, ok := errors.AsType[*wire.RefusedError](err); ok && r.RetryAfter > 0 {
		return r.RetryAfter + rand.N(r.RetryAfter) //nolint:gosec // G404: no secret
	}
	if c, ok := errors.AsType[*wire.ClosedError](err); ok && c.Reason != "" {
		return hint(c.Reason)
	}
	return rand.N(min(30*time.Second, 500*time.Millisecond<<min(failed, 6))) //nolint:gosec // G404: no secret
}

// dawdle is what a slow reader does before each look at its socket while others act.
func (w *worker) dawdle() {
	t := time.NewTimer(slowPause)
	defer t.Stop()
	select {
	case <-t.C:
	case <-*w.busy.Load():
	}
}

// slowPause, with a narrow connection, makes some hundred bytes a second.
const slowPause = 5 * time.Second

// behind is how many acts the open sessions have yet to see, and how many of the sessions that should be open are not.
func (w *worker) behind() (n int64) {
	for _, s := range w.watchers {
		s.mu.Lock()
		is := s.phase
		s.mu.Unlock()
		if is != opened {
			n++
			continue
		}
		for i := range s.views {
			v := &s.views[i]
			n += int64(w.board.slots[v.user].acts.Load() - v.act.Load())
		}
	}
	return n
}

// end says bye for all sessions, those that are still opening too, and waits for the
// server's answers for a while.
func (w *worker) end(ctx context.Context) error {
	w.ending.Store(true)
	for deadline := time.Now().Add(20 * time.Second); ; {
		left := 0
		for _, s := range slices.Concat(w.watchers, w.actors) {
			s.leave()
			s.mu.Lock()
			if s.phase != closed {
				left++
			}
			s.mu.Unlock()
		}
		switch {
		case left == 0:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("%d connections did not end", left)
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// abandon ends what is left of the connections, once nobody dials any more.
func (w *worker) abandon() {
	w.ending.Store(true)
	for _, s := range slices.Concat(w.watchers, w.actors) {
		s.mu.Lock()
		if s.conn != nil {
			s.conn.Cut()
		}
		s.mu.Unlock()
	}
	w.reading.Wait()
}
