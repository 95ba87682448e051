package gateway

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/zap"

	"github.com/rollcall-presence/rollcall/fanout"
	"github.com/rollcall-presence/rollcall/internal/rate"
	"github.com/rollcall-presence/rollcall/presence"
)

// Protocol is a wire protocol on WebSockets. It is safe for concurrent use.
type Protocol interface {
	// Name is the WebSocket subprotocol; empty for none. A client that offers none gets
	// it all the same; one that offers only others is refused.
	Name() string
	// Requests are the names that Session.CountRequest may be called with.
	Requests() []string
	// Open makes the handler of a new session that was asked for with r, which is not
	// to be kept.
	Open(s *Session, r *http.Request) Handler
}

// Handler is one session's side of its Protocol.
type Handler interface {
	// Message handles one whole message. Only the session's reader calls it; data is
	// valid during the call. Nothing more is read while it runs.
	Message(ctx context.Context, text bool, data []byte)
	// Frame is the one frame that tells of one item, empty where there is nothing to
	// tell; it may be shared and must not be changed. Append appends the frames of
	// several to dst. Only the session's writer calls them.
	Frame(item *fanout.Item) []byte
	Append(dst []byte, items []fanout.Item) []byte
	// Expiring is the frame that warns of the token's expiry in d. The wheel calls
	// it; it must not block.
	Expiring(d time.Duration) []byte
	// Closing is what goes before a close frame of the server, nil for nothing; with
	// a hint when to come back where the code's rule is ReconnectHint. It may be called
	// by any goroutine, and must not block.
	Closing(code CloseCode, retry time.Duration) []byte
}

// state is where a session is in its life. It only grows.
type state uint8

const (
	stateNew     state = iota // no hello yet
	stateOpening              // hello came, the store is being asked
	stateWaiting              // in the lobby, for the store to be back
	stateOpen
	stateClosing // a close frame is on its way or was sent
	stateEnded   // nothing is read any more
)

// maxTrailing bounds what goes out before a close frame, since new updates may come
// in meanwhile: more than can wait in a mailbox of the default limits.
const maxTrailing = 4096

// Session is one live connection of one user. Message handlers call its methods
// from the reader; Close may be called from anywhere.
type Session struct {
	srv     *Server
	id      presence.SessionID
	sock    sock
	ws      *websocket.Conn // owned by the reader; nil while no frame needs it
	handler Handler
	writer  func() // s.write, made once so that to start a writer allocates nothing
	link    link
	mail    fanout.Mailbox // usable once opening

	// The following are owned by the reader; from lobby.add to lobby.remove or its
	// being let in, by whom the lobby has let it in.
	key presence.Key // others may read it once signer is set, or the session is in the lobby
	// credential is the push credential that the newest token names.
	credential string
	arrived    time.Duration
	address    address
	requests   rate.Bucket
	refusals   rate.Bucket
	lost       error   // of the socket; nil while there is something to read
	beside     *beside // nil until there is something to do
	batches    bool    // Hello.Batch; read by all once the mailbox is ready
	attached   bool    // the hub knows the mailbox
	joined     bool    // presence was told of the session, and not yet of its end
	counted    bool    // among the sessions that were let in

	upgraded bool // guarded by Server.mu: the WebSocket is there, and may be closed
	pending  bool // guarded by Server.mu: counts as pending
	member   bool // guarded by Server.mu: counts for its user

	welcomed bool // owned by the writer: the answer to hello was taken
	trailing int  // owned by the writer: items taken since the close frame waits

	busy       atomic.Bool  // the reader handles a message
	heardAt    atomic.Int64 // when something last came, on the wheel's clock
	toldAt     atomic.Int64 // when updates were last written, on the wheel's clock, if the client takes batches
	writeSince atomic.Int64 // when the write that is going on began, on the wheel's clock; 0 when none is

	mu       sync.Mutex // guards the following; never held over I/O
	state    state
	writing  bool // a writer runs
	again    bool // something came since the writer last looked
	settled  bool // no writer may be started any more
	dead     bool // a write failed, or the close frame was written
	mailing  bool // the mailbox is ready
	pingDue  bool
	ahead    [][]byte      // frames that need not wait for the mailbox to be ready
	aheadLen int           // bytes of ahead
	place    *place        // in the lobby; nil once the session was let in
	pong     []byte        // the newest ping that is still to be answered, as a frame
	last     []byte        // frames that end the session
	idle     chan struct{} // closed when the writer ends; nil unless somebody waits
	code     CloseCode     // why the server closes; 0 when it does not
	how      presence.End  // what presence is to be told
	pingAt   time.Duration
	pongBy   time.Duration // 0 when no pong is owed
	expires  time.Time
	lifetime time.Duration // of the token, from when it was accepted
	warned   bool
	refusal  error  // why hello was refused; nil if it was not
	signer   string // SID of the key that signed the token, once that was checked
	issued   int64  // when the token was issued, in ms
}

// ID is the session's id.
func (s *Session) ID() presence.SessionID { return s.id }

// Key is the session's user once Open has verified its token.
func (s *Session) Key() presence.Key { return s.key }

// serve waits for something to read, and leaves it to the crew to handle it and to go on in
// a fresh goroutine: handling grows the stack to 4 KiB or more, which the runtime never shrinks
// to the 2 KiB that waiting takes.
func (s *Session) serve(ctx context.Context) {
	s.lost = s.sock.fill()
	s.srv.crew.do(ctx, s) // joined through Server.live, as this one is
}

// run handles what came, or the session's end. The crew calls it.
func (s *Session) run(ctx context.Context) {
	err := s.lost
	if err == nil {
		s.heardAt.Store(int64(s.srv.wheel.now()))
		err = s.consume(ctx)
	}
	if err == nil {
		s.rest()
		go s.serve(ctx) // joined through Server.live, as this one was
		return
	}
	s.end(ctx, s.violation(err))
}

// rest gives back what a session that waits can do without.
func (s *Session) rest() {
	if s.sock.raw == nil {
		return
	}
	if !s.closing() {
		s.returnLibrary()
	}
	s.sock.rest()
}

// end accounts for the session's end, which err tells of.
func (s *Session) end(ctx context.Context, err error) {
	s.mu.Lock()
	s.state = stateEnded
	code, how := s.code, s.how
	s.mu.Unlock()
	if code == 0 {
		how = presence.EndLost
		switch websocket.CloseStatus(err) {
		case websocket.StatusNormalClosure:
			how = presence.EndClean
		case websocket.StatusGoingAway:
			how = presence.EndReload
		case -1:
			s.sock.abort() // nobody is there to write to, so the socket need not wait for the store
		default: // closed for any other reason: it may come back
		}
	}
	s.srv.lobby.remove(s, code)
	if s.attached {
		s.srv.opt.Hub.Detach(&s.mail)
	}
	s.leave(ctx, how)
	if s.beside != nil {
		s.beside.stop()
	}
	s.settle()
	s.sock.abort()
	s.returnLibrary()
	s.srv.ended(s, code, how, err)
}

// consume handles what has arrived, and returns nil when there is nothing left.
func (s *Session) consume(ctx context.Context) error {
	for s.ws == nil {
		if s.sock.off == s.sock.end {
			return nil
		}
		plain, err := s.plain(ctx)
		if !plain {
			err = s.borrowLibrary()
		}
		if err != nil {
			return err
		}
	}
	// What ends a session sets a deadline. That ctx ends is not for the library to watch, at the
	// cost of a callback for each read.
	still := context.WithoutCancel(ctx)
	for {
		typ, r, err := s.ws.Reader(still)
		switch {
		case errors.Is(err, errIdle):
			return nil
		case err != nil:
			return err
		}
		if err := s.message(ctx, typ == websocket.MessageText, r); err != nil {
			return err
		}
		if s.sock.idle() {
			return nil
		}
	}
}

// plain handles the next frame, if it is a plain one and is there as a whole. The error is the
// peer's close frame.
func (s *Session) plain(ctx context.Context) (plain bool, _ error) {
	op, payload, size := plainFrame(s.sock.in[s.sock.off:s.sock.end], s.srv.opt.Limits.Frame)
	if size == 0 {
		return false, nil
	}
	s.sock.off += uint16(size) //nolint:gosec // G115: at most sharedSize
	switch op {
	case finPing:
		if s.answersPing() {
			s.control(appendControl(make([]byte, 0, 2+125), finPong, payload))
		}
	case finPong:
	case finClose:
		s.control(appendControl(make([]byte, 0, 2+125), finClose, payload)) // the same back
		return true, websocket.CloseError{Code: websocket.StatusCode(binary.BigEndian.Uint16(payload)), Reason: string(payload[2:])}
	default:
		if !s.closing() {
			s.busy.Store(true)
			s.handler.Message(ctx, op == finText, payload)
			s.busy.Store(false)
		}
	}
	return true, nil
}

var messages = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

func (s *Session) message(ctx context.Context, text bool, r io.Reader) error {
	buf := messages.Get().(*[]byte)
	defer messages.Put(buf)
	s.sock.inMessage = true
	data, err := readAll(r, (*buf)[:0])
	*buf = data[:0]
	s.sock.inMessage = false
	if err != nil || s.closing() {
		return err
	}
	s.busy.Store(true)
	s.handler.Message(ctx, text, data)
	s.busy.Store(false)
	return nil
}

func readAll(r io.Reader, b []byte) ([]byte, error) {
	for {
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		switch {
		case err == io.EOF:
			return b, nil
		case err != nil:
			return b, err
		case len(b) == cap(b):
			b = append(b, 0)[:len(b)]
		}
	}
}

// violation closes the session if err means that the peer broke the protocol, and
// returns err.
func (s *Session) violation(err error) error {
	var netErr net.Error
	switch {
	case websocket.CloseStatus(err) != -1:
	case errors.Is(err, websocket.ErrMessageTooBig):
		s.blame(CloseTooBig)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed),
		errors.Is(err, io.ErrClosedPipe), errors.As(err, &netErr):
	default:
		s.blame(CloseProtocol)
	}
	return err
}

// blame closes for what the library found, unless it has queued a close frame itself.
func (s *Session) blame(code CloseCode) {
	s.close(code, presence.EndLost, nil, 0)
	s.mu.Lock()
	if s.code == 0 {
		s.code = code
	}
	s.mu.Unlock()
}

// leave tells presence once that the session has ended. The number of sessions
// that do so at a time is bounded; presence itself retries what fails.
func (s *Session) leave(ctx context.Context, how presence.End) {
	if !s.joined {
		return
	}
	s.joined = false
	left := time.Now()
	if how == presence.EndSilent || how == presence.EndStuck {
		left = left.Add(time.Duration(s.heardAt.Load()) - s.srv.wheel.now())
	}
	select {
	case s.srv.leaving <- struct{}{}:
		defer func() { <-s.srv.leaving }()
	case <-ctx.Done(): // the node stops: presence is told all the same, and remembers
	}
	ctx, cancel := context.WithTimeout(ctx, s.srv.opt.Timers.Request)
	defer cancel()
	if err := s.srv.opt.Presence.Close(ctx, s.key, s.id, how, left); err != nil {
		s.srv.log.Warn("session end not recorded yet", zap.String("session", string(s.id)), zap.Error(err))
	}
}

// settle waits until the writer has ended, which its write deadline bounds. Whoever wakes
// the session from here on, such as a close that the reader was faster than, starts none.
func (s *Session) settle() {
	_ = s.sock.Conn.SetWriteDeadline(time.Now().Add(s.srv.opt.Timers.Close))
	s.mu.Lock()
	s.settled = true
	var idle chan struct{}
	if s.writing {
		idle = make(chan struct{})
		s.idle = idle
	}
	s.mu.Unlock()
	if idle != nil {
		<-idle
	}
}

func (s *Session) closing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state >= stateClosing
}

// Send queues a frame for the client: what it asked for, in order. A client with
// too much of that unread is closed as slow. Only after Open.
func (s *Session) Send(frame []byte) {
	s.mu.Lock()
	if !s.mailing {
		full := s.aheadLen+len(frame) > s.srv.opt.Limits.Mailbox
		if !full {
			s.ahead, s.aheadLen = append(s.ahead, frame), s.aheadLen+len(frame)
		}
		s.mu.Unlock()
		if full {
			s.close(CloseSlow, presence.EndStuck, nil, 0)
			return
		}
		s.wake()
		return
	}
	s.mu.Unlock()
	if s.mail.Control(frame) != nil {
		s.close(CloseSlow, presence.EndStuck, nil, 0)
	}
}

// Answer is Send for what may be large: rather than close a client that has too much
// unread, it waits, for as long as a write may make no progress. Only after Open, and
// only the reader and what it does beside may call it.
func (s *Session) Answer(ctx context.Context, frame []byte) {
	if s.absent() != nil {
		s.Send(frame)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, s.srv.opt.Timers.Write)
	defer cancel()
	if s.mail.Answer(ctx, frame) != nil {
		s.close(CloseSlow, presence.EndStuck, nil, 0)
	}
}

// Close ends the session with a close frame, and gives the client a few seconds to
// answer. Before it comes last (which may be nil), and before that what waits, so that
// each answered request has its answer; a client that does not take it in that time
// gets neither. Only the first Close counts. It does not block.
func (s *Session) Close(code CloseCode, last []byte) {
	how := presence.EndLost
	if code == CloseEnded {
		how = presence.EndOperator
	}
	s.close(code, how, last, s.srv.opt.Timers.Close)
}

// Bye ends the session as the client wished. When it returns, presence has been
// told, unless the store is away. Only the reader may call it.
func (s *Session) Bye(ctx context.Context) {
	s.close(CloseBye, presence.EndClean, nil, s.srv.opt.Timers.Close)
	s.srv.lobby.remove(s, CloseBye)
	s.leave(ctx, presence.EndClean)
}

// close begins the end: the reader is given wait to see the peer's close frame.
func (s *Session) close(code CloseCode, how presence.End, last []byte, wait time.Duration) {
	row := closeOf(code)
	reason, retry := []byte(row.Reason), time.Duration(0)
	if row.Reconnect == ReconnectHint {
		retry = s.srv.retryAfter()
		reason = appendRetryAfter(nil, retry.Milliseconds())
	}
	if last == nil {
		last = s.handler.Closing(code, retry)
	}
	s.mu.Lock()
	if s.state >= stateClosing {
		s.mu.Unlock()
		return
	}
	s.state, s.code, s.how = stateClosing, code, how
	s.last = appendClose(last, code, reason)
	s.mu.Unlock()
	now := time.Now()
	_ = s.sock.Conn.SetWriteDeadline(now.Add(s.srv.opt.Timers.Close))
	if wait == 0 {
		s.wake() // before the reader ends, which settles the session
		_ = s.sock.Conn.SetReadDeadline(past)
		return
	}
	_ = s.sock.Conn.SetReadDeadline(now.Add(wait))
	s.wake()
}

// control takes a control frame that the library wants to write. Of several pings
// that wait, the newest is answered.
func (s *Session) control(frame []byte) {
	s.mu.Lock()
	switch {
	case s.state >= stateClosing:
	case frame[0] == finPong:
		s.pong = append(s.pong[:0], frame...)
	case frame[0] == finClose:
		code := CloseProtocol
		if len(frame) >= 4 {
			code = CloseCode(frame[2])<<8 | CloseCode(frame[3])
		}
		var reason []byte
		if row := closeOf(code); row != nil {
			reason = []byte(row.Reason)
		}
		s.state = stateClosing
		if s.last = appendControl(nil, finClose, nil); len(frame) >= 4 {
			s.last = appendClose(nil, code, reason)
		}
	}
	s.mu.Unlock()
	s.wake()
}

// pinged is the library's question whether to answer a ping: not beyond the
// session's request rate.
func (s *Session) pinged(context.Context, []byte) bool {
	s.sock.pause()
	return s.answersPing()
}

func (s *Session) answersPing() bool {
	_, ok := s.requests.Take(s.srv.wheel.now(), s.srv.rates.request)
	return ok
}

func (s *Session) ponged(context.Context, []byte) { s.sock.pause() }

// roused is told that something came into the mailbox.
func (s *Session) roused(urgent bool) {
	if delay := s.srv.batcher.delay; s.batches && !urgent && s.srv.wheel.now()-time.Duration(s.toldAt.Load()) < delay {
		s.srv.batcher.add(s)
		return
	}
	s.wake()
}

// wake makes sure that a writer looks at what waits.
func (s *Session) wake() {
	s.mu.Lock()
	start := !s.writing && !s.settled
	s.writing, s.again = s.writing || start, true
	s.mu.Unlock()
	if start {
		s.srv.metrics.writers.Inc()
		go s.writer() // joined by settle
	}
}

// outgoing is what a writer needs while it runs.
type outgoing struct {
	items []fanout.Item
	buf   []byte
}

const (
	itemsPerWrite = 32
	maxKeptBuffer = 64 << 10 // larger buffers are left to the collector
)

var outgoings = sync.Pool{New: func() any {
	return &outgoing{items: make([]fanout.Item, 0, itemsPerWrite), buf: make([]byte, 0, 2<<10)}
}}

// write is the writer: it writes what waits and ends when nothing does.
func (s *Session) write() {
	out := outgoings.Get().(*outgoing)
	for s.writeOnce(out) {
	}
	if cap(out.buf) <= maxKeptBuffer {
		outgoings.Put(out)
	}
}

// writeOnce writes what waits now; it reports false when it found nothing.
func (s *Session) writeOnce(out *outgoing) bool {
	s.mu.Lock()
	if !s.again {
		s.writing = false
		idle := s.idle
		s.mu.Unlock()
		if idle != nil {
			close(idle)
		}
		return false
	}
	s.again = false
	mailing, dead := s.mailing, s.dead
	buf := out.buf[:0]
	if s.pong != nil {
		buf, s.pong = append(buf, s.pong...), nil
	}
	if s.pingDue {
		buf, s.pingDue = appendControl(buf, finPing, nil), false
	}
	ahead := len(s.ahead)
	for _, frame := range s.ahead {
		buf = append(buf, frame...)
	}
	s.ahead, s.aheadLen = nil, 0
	last := s.last
	s.mu.Unlock()

	out.items = out.items[:0]
	if mailing {
		out.items = s.take(out.items)
	}
	if dead {
		return true
	}
	if last != nil {
		if s.trailing += len(out.items); len(out.items) > 0 && s.trailing < maxTrailing {
			last = nil // there may be more to come before it
		}
	}
	ok := s.writeItems(out, buf, ahead)
	if len(out.items) > 0 && s.batches && slices.ContainsFunc(out.items, func(i fanout.Item) bool { return i.Update != nil }) {
		s.toldAt.Store(int64(s.srv.wheel.now()))
	}
	clear(out.items)
	if ok && last != nil {
		ok = s.put(last, 1)
	}
	if !ok || last != nil {
		s.mu.Lock()
		s.dead = true
		s.mu.Unlock()
	}
	if !ok {
		_ = s.sock.Conn.SetReadDeadline(past) // the reader ends the session
	}
	return true
}

// take takes what the mailbox will let go.
func (s *Session) take(items []fanout.Item) []fanout.Item {
	items = s.mail.Next(items)
	switch {
	case len(items) == 0:
		if s.mail.Full() {
			s.close(CloseSlow, presence.EndStuck, nil, 0)
		}
		return items
	case !s.welcomed:
		// The first thing in line is the answer to hello, but a flip of the switch
		// goes past the line.
		s.welcomed = true
		if len(items) > 1 && items[0].ServiceEnabled != presence.Null {
			items[0], items[1] = items[1], items[0]
		}
	}
	s.mu.Lock()
	s.again = true // there may be more behind
	s.mu.Unlock()
	return items
}

// writeItems writes buf, which holds so many frames, and the items with one write: a
// write costs the same whatever its length.
func (s *Session) writeItems(out *outgoing, buf []byte, frames int) bool {
	switch {
	case len(out.items) == 0 && len(buf) == 0:
		return true
	case len(out.items) == 1 && len(buf) == 0:
		return s.put(s.handler.Frame(&out.items[0]), 1)
	}
	out.buf = s.handler.Append(buf, out.items)
	return s.put(out.buf, frames+len(out.items))
}

func (s *Session) put(b []byte, frames int) bool {
	if len(b) == 0 {
		return true
	}
	s.writeSince.Store(int64(max(s.srv.wheel.now(), 1)))
	n, err := s.sock.Conn.Write(b)
	s.writeSince.Store(0)
	s.srv.metrics.bytesOut.Add(float64(n))
	s.srv.metrics.framesOut.Add(float64(frames))
	return err == nil
}

// check looks at the session's deadlines. It returns when to look again, zero for
// never. The wheel calls it; it does not block.
func (s *Session) check(now time.Duration) (next time.Duration) {
	t := &s.srv.opt.Timers
	next, closing, expiring := s.deadlines(now, t)
	switch {
	case closing == CloseUnavailable:
		s.refuse(&Problem{Code: ErrorUnavailable, Retry: s.srv.retryAfter(), Close: closing})
		return 0
	case closing != 0:
		how, wait := presence.EndLost, t.Close
		switch closing {
		case CloseSlow:
			how, wait = presence.EndStuck, 0 // the peer is not expected to answer
		case CloseNoPong:
			how, wait = presence.EndSilent, 0
		case CloseTokenExpired:
			how = presence.EndExpired
		default:
		}
		s.close(closing, how, nil, wait)
		return 0
	case expiring > 0:
		s.Send(s.handler.Expiring(expiring))
	}
	return next
}

// deadlines decides what is due at now. It arms the next ping and wakes the writer
// for it.
func (s *Session) deadlines(now time.Duration, t *Timers) (next time.Duration, closing CloseCode, expiring time.Duration) {
	ping := false
	defer func() {
		if ping {
			s.wake()
		}
	}()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch s.state {
	case stateNew:
		if by := s.arrived + t.Hello; now < by {
			return by, 0, 0
		}
		return 0, CloseNoHello, 0
	case stateOpening:
		return now + t.Hello, 0, 0
	case stateClosing, stateEnded:
		return 0, 0, 0
	case stateWaiting:
		if now >= s.place.by {
			return 0, CloseUnavailable, 0
		}
	case stateOpen:
	}
	since := time.Duration(s.writeSince.Load())
	if s.pongBy != 0 && now >= s.pongBy {
		switch {
		case s.sock.heard.Load(), s.pingDue:
			s.pongBy = 0 // alive; or the ping is still behind a write, which has its own deadline
		case s.busy.Load():
			s.pongBy = now + time.Second // it may have been sent, but nobody looks yet
		default:
			return 0, CloseNoPong, 0
		}
	}
	if now >= s.pingAt {
		s.pingAt += t.Ping
		if s.pingAt <= now {
			s.pingAt = now + t.Ping
		}
		s.sock.heard.Store(false)
		s.pingDue, s.pongBy, ping = true, now+t.Pong, true
	}
	next = s.pingAt
	if s.pongBy != 0 {
		next = min(next, s.pongBy)
	}
	if since != 0 {
		if now-since >= t.Write {
			return 0, CloseSlow, 0
		}
		next = min(next, since+t.Write)
	}
	left := time.Until(s.expires)
	warn := min(t.ExpiryWarning, s.lifetime/10)
	switch {
	case left <= 0:
		return 0, CloseTokenExpired, 0
	case s.state == stateWaiting:
		next = min(next, now+left, s.place.by) // it is warned, if need be, once it is open
	case s.warned:
		next = min(next, now+left)
	case left <= warn:
		s.warned, expiring = true, left
		next = min(next, now+left)
	default:
		next = min(next, now+left-warn)
	}
	return next, 0, expiring
}
