package gateway

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/rollcall-presence/rollcall/auth"
	"github.com/rollcall-presence/rollcall/fanout"
	"github.com/rollcall-presence/rollcall/presence"
)

// Registrar is what a session needs of presence. All methods may be called
// concurrently, for different sessions.
type Registrar interface {
	// Partition is the part of the store that the user is in.
	Partition(k presence.Key) presence.Partition
	// Open records the session: its user is online from here on. Ensure makes sure
	// that the user exists, without that.
	Open(ctx context.Context, k presence.Key, s presence.SessionID) (presence.User, error)
	Ensure(ctx context.Context, k presence.Key) (presence.User, error)
	// Close records the session's end, and when that was. It is idempotent, and what
	// fails is retried by presence itself.
	Close(ctx context.Context, k presence.Key, s presence.SessionID, how presence.End, left time.Time) error
}

// Services answers what the node knows of a service.
type Services interface {
	Service(ctx context.Context, sid string) (presence.Service, error)
}

// Hub is what a session needs to hear of others; see fanout.Hub.
type Hub interface {
	Attach(b *fanout.Mailbox)
	Detach(b *fanout.Mailbox)
	Subscribe(ctx context.Context, b *fanout.Mailbox, identities []string, known map[string]int64, answer func([]presence.Snapshot) []byte) error
	Unsubscribe(b *fanout.Mailbox, identities []string)
}

// Tokens checks access tokens; see auth.Verifier.
type Tokens interface {
	Verify(token string, now time.Time) (auth.Claims, error)
	// Check tells whether what Verify returned still holds.
	Check(c auth.Claims) error
}

// Hello is what a client asks for when it comes.
type Hello struct {
	Token     string
	Known     map[string]int64 // users to subscribe to at once, and the revisions that the client knows of them
	Invisible bool             // connect without going online
	Batch     bool             // updates may wait for others, for up to Timers.Batch
	// Patience is how long the client waits at most to be let in while the store is
	// away; it is sent away with ErrorUnavailable then. 0: for as long as Timers.Wait.
	Patience time.Duration
}

// Welcome is what it is told.
type Welcome struct {
	Session presence.SessionID
	Key     presence.Key
	Service presence.Service
	User    presence.Snapshot   // its own
	Known   []presence.Snapshot // of Hello.Known, in the order of their identities
	Ping    time.Duration
}

// Problem is why a request was not done. It is the only error that Session methods
// return to a Handler.
type Problem struct { //nolint:errname // named for what the client gets
	Code  ErrorCode
	Retry time.Duration // when it may be tried again; 0 where that is of no use
	// Close is the code with which to end the session if the request was its hello.
	Close CloseCode
	err   error
}

func (p *Problem) Error() string {
	if p.err == nil {
		return p.Code.Text()
	}
	return p.Code.Text() + ": " + p.err.Error()
}

// Unwrap is what went wrong below, for logs; may be nil.
func (p *Problem) Unwrap() error { return p.err }

func (s *Server) problem(err error) *Problem {
	if e, ok := errors.AsType[*Problem](err); ok {
		return e
	}
	if e, ok := errors.AsType[*auth.Error](err); ok {
		return &Problem{Code: ErrorCode(e.Code).row().Code, Close: CloseBadToken, err: err}
	}
	retry := s.retryAfter()
	switch {
	case errors.Is(err, fanout.ErrTooMany):
		return &Problem{Code: ErrorSubscriptions, Close: CloseSubscriptions, err: err}
	case errors.Is(err, fanout.ErrFull):
		return &Problem{Code: ErrorUnavailable, Close: CloseSlow, err: err}
	case errors.Is(err, presence.ErrNoService):
		return &Problem{Code: ErrorNoService, Close: CloseBadToken, err: err}
	case errors.Is(err, presence.ErrPushType):
		return &Problem{Code: ErrorPushType, err: err}
	case errors.Is(err, presence.ErrAddress):
		return &Problem{Code: ErrorPushAddress, err: err}
	case errors.Is(err, presence.ErrMessageTypes):
		return &Problem{Code: ErrorBadField, err: err}
	case errors.Is(err, presence.ErrBindingLife):
		return &Problem{Code: ErrorPushLife, err: err}
	case errors.Is(err, presence.ErrNoCredential), errors.Is(err, presence.ErrCredentialType):
		return &Problem{Code: ErrorPushCredential, err: err}
	case errors.Is(err, presence.ErrTooManyBindings):
		return &Problem{Code: ErrorTooManyBindings, err: err}
	case errors.Is(err, presence.ErrFriendlyName):
		return &Problem{Code: ErrorFriendlyName, err: err}
	case errors.Is(err, presence.ErrAttributesTooLong):
		return &Problem{Code: ErrorAttributesTooLong, err: err}
	case errors.Is(err, presence.ErrAttributes):
		return &Problem{Code: ErrorAttributes, err: err}
	case errors.Is(err, presence.ErrAttributesDepth):
		return &Problem{Code: ErrorAttributesDepth, err: err}
	case errors.Is(err, presence.ErrRejected):
		return &Problem{Code: ErrorHookRejected, err: err}
	case errors.Is(err, presence.ErrEnded):
		return &Problem{Code: ErrorInternal, Close: CloseEnded, err: err}
	case presence.KindOf(err) == presence.KindUnavailable,
		errors.Is(err, presence.ErrNoUser), // lost with the store's data, and about to be written back
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return &Problem{Code: ErrorUnavailable, Retry: retry, Close: CloseUnavailable, err: err}
	}
	return &Problem{Code: ErrorInternal, Close: CloseInternal, err: err}
}

// CheckIdentities is nil if the list may be subscribed to: at most so many, each
// an identity that presence takes.
func (s *Session) CheckIdentities(identities []string) *Problem {
	if len(identities) > s.srv.opt.Limits.Identities {
		return &Problem{Code: ErrorTooManyIdentities, Close: CloseBadRequest}
	}
	for _, identity := range identities {
		if p := s.srv.checkIdentity(identity); p != nil {
			return p
		}
	}
	return nil
}

func (s *Server) checkIdentity(identity string) *Problem {
	err := presence.CheckIdentity(identity)
	if err == nil && len(identity) > s.opt.Limits.Identity {
		err = presence.ErrIdentityTooLong
	}
	code := ErrorBadField
	switch {
	case err == nil:
		return nil
	case errors.Is(err, presence.ErrIdentityEmpty):
		code = ErrorIdentityEmpty
	case errors.Is(err, presence.ErrIdentityTooLong):
		code = ErrorIdentityTooLong
	case errors.Is(err, presence.ErrIdentityEncoding):
		code = ErrorIdentityEncoding
	}
	return &Problem{Code: code, Close: CloseBadRequest, err: err}
}

// Allow takes one request off the session's rate. A Problem tells that the client
// must wait; a client that goes on all the same is closed.
func (s *Session) Allow() *Problem {
	now := s.srv.wheel.now()
	wait, ok := s.requests.Take(now, s.srv.rates.request)
	if ok {
		return nil
	}
	if _, ok := s.refusals.Take(now, s.srv.rates.request); !ok {
		s.Close(CloseRateLimited, nil)
	}
	return &Problem{Code: ErrorRateLimited, Retry: max(wait, time.Millisecond), Close: CloseRateLimited}
}

// CountRequest counts a request by type, one of the Protocol's Requests.
func (s *Session) CountRequest(name string) { s.srv.metrics.requests[name].Inc() }

// CountError counts an error frame.
func (s *Session) CountError(code ErrorCode) { s.srv.metrics.errors[code.row().Code].Inc() }

// Open lets the client in: its token is checked, it is registered with presence and
// subscribed to whom it knew, and then answer makes the first frame that it gets. If
// that cannot be, refuse makes the last, and the session is closed. While the store is
// away the session waits: Open returns, and each is called later, once at most, by
// any goroutine: refuse too after answer if the wait ends just then. Neither may block. A second Open is a programmer's error. Only the
// reader may call it; it blocks while the store is asked.
func (s *Session) Open(ctx context.Context, h Hello, answer func(Welcome) []byte, refuse func(*Problem) []byte) {
	p := &place{known: h.Known, invisible: h.Invisible, answer: answer, refuse: refuse}
	if h.Patience > 0 {
		p.by = s.srv.wheel.now() + h.Patience
	}
	s.mu.Lock()
	if s.state == stateNew {
		s.state = stateOpening
	}
	s.place = p
	s.mu.Unlock()
	s.batches = h.Batch
	s.srv.greeted(s)
	if err := s.identify(h); err != nil {
		s.refuse(s.srv.problem(err))
		return
	}
	var err error = errAway
	if !s.srv.lobby.closed(s.key) {
		ctx, cancel := context.WithTimeout(ctx, s.srv.opt.Timers.Request)
		defer cancel()
		err = s.enter(ctx, p)
	}
	if err == nil {
		return
	}
	if problem := s.srv.lobby.add(s, p, s.srv.problem(err)); problem != nil {
		s.refuse(problem)
	}
}

// refuse tells the client why it is not let in, and closes; unless it was.
func (s *Session) refuse(problem *Problem) {
	s.mu.Lock()
	p := s.place
	if s.refusal == nil && p != nil {
		s.refusal = problem
	}
	s.mu.Unlock()
	if p != nil {
		s.CountError(problem.Code)
		s.Close(problem.Close, p.refuse(problem))
	}
}

// identify does what of a hello can be done without the store.
func (s *Session) identify(h Hello) error {
	if len(h.Known) > s.srv.opt.Limits.Subscriptions {
		return fanout.ErrTooMany
	}
	for identity := range h.Known {
		if p := s.srv.checkIdentity(identity); p != nil {
			return p
		}
	}
	claims, err := s.srv.opt.Tokens.Verify(h.Token, time.Now())
	if err != nil {
		return err
	}
	if p := s.srv.checkIdentity(claims.Identity); p != nil {
		return p
	}
	s.key, s.credential = claims.Key(), claims.PushCredential
	if !s.srv.join(s) {
		return &Problem{Code: ErrorTooManySessions, Close: CloseTooMany}
	}
	s.holds(claims)
	return nil
}

// enter does the rest. When it fails because the store is away it may be called again.
func (s *Session) enter(ctx context.Context, p *place) error {
	if _, err := s.srv.opt.Services.Service(ctx, s.key.Service); err != nil {
		return err
	}
	user, err := s.register(ctx, p)
	if err != nil {
		return err
	}
	if !s.attached {
		s.mail.Init(s.key.Service, s.srv.opt.Limits.Mailbox, s.roused)
		s.attached = true
		s.srv.opt.Hub.Attach(&s.mail)
	}

	// Read after Attach: a flip of the switch is in the answer, or the hub tells of it.
	service, err := s.srv.opt.Services.Service(ctx, s.key.Service)
	if err != nil {
		return err
	}
	w := Welcome{Session: s.id, Key: s.key, Service: service, User: service.View(user), Ping: s.srv.opt.Timers.Ping}
	if len(p.known) > 0 {
		err = s.srv.opt.Hub.Subscribe(ctx, &s.mail, slices.Sorted(maps.Keys(p.known)), p.known, func(known []presence.Snapshot) []byte {
			w.Known = known
			return p.answer(w)
		})
	} else {
		err = s.mail.Control(p.answer(w))
	}
	if err != nil {
		return err
	}
	// Recheck finds the session; what was withdrawn before it could is found now.
	if err := s.srv.opt.Tokens.Check(s.claims()); err != nil {
		return err
	}
	s.live()
	return nil
}

// holds records on whose word the session is open, or waits to be.
func (s *Session) holds(c auth.Claims) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.signer, s.issued = c.KeySID, c.Issued.UnixMilli()
	s.expires, s.lifetime, s.warned = c.Expires, time.Until(c.Expires), false
}

// claims is what holds recorded, as far as it can be withdrawn; zero before that.
func (s *Session) claims() auth.Claims {
	s.mu.Lock()
	c := auth.Claims{KeySID: s.signer, Issued: time.UnixMilli(s.issued)}
	s.mu.Unlock()
	if c.KeySID != "" {
		c.Service, c.Identity = s.key.Service, s.key.Identity
	}
	return c
}

// recheck closes the session if its token was withdrawn.
func (s *Session) recheck() {
	if c := s.claims(); c.KeySID != "" && s.srv.opt.Tokens.Check(c) != nil {
		s.close(CloseBadToken, presence.EndOperator, nil, s.srv.opt.Timers.Close)
	}
}

// register tells presence of the session. Whether a failed Open was recorded is not
// known, so its end is recorded in any case, and the next goes under another id: the
// first may be undone only then.
func (s *Session) register(ctx context.Context, p *place) (presence.User, error) {
	if p.invisible || p.registered {
		return s.srv.opt.Presence.Ensure(ctx, s.key)
	}
	if p.tried {
		s.srv.rename(s)
	}
	p.tried, s.joined = true, true
	user, err := s.srv.opt.Presence.Open(ctx, s.key, s.id)
	p.registered = err == nil
	return user, err
}

// live makes the session an open one. Its first ping falls anywhere in the interval,
// so that the pings of many sessions spread evenly.
func (s *Session) live() {
	now := s.srv.wheel.now()
	s.counted = true
	s.srv.metrics.sessions.Inc()
	s.srv.metrics.hello.Observe((now - s.arrived).Seconds())
	s.mu.Lock()
	if s.state == stateOpening || s.state == stateWaiting {
		s.state = stateOpen
	}
	if s.pingAt == 0 {
		s.pingAt = now + s.srv.spread(s.srv.opt.Timers.Ping)
	}
	s.mailing = true // only now: the answer to hello is in line before anything is taken
	s.place = nil
	s.mu.Unlock()
	s.wake()
	s.srv.wheel.schedule(s, now) // decides itself when it wants to be looked at next
}

// absent is why a request cannot be done that needs the store: the session waits.
func (s *Session) absent() *Problem {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mailing {
		return nil
	}
	return &Problem{Code: ErrorUnavailable, Retry: s.srv.retryAfter()}
}

// Renew takes a newer token of the same user and returns when it expires. After a
// Problem the old one goes on to count. Only the reader may call it.
func (s *Session) Renew(token string) (time.Time, *Problem) {
	claims, err := s.srv.opt.Tokens.Verify(token, time.Now())
	switch {
	case err != nil:
		return time.Time{}, s.srv.problem(err)
	case claims.Service != s.key.Service:
		return time.Time{}, &Problem{Code: ErrorTokenService, Close: CloseBadToken}
	case claims.Identity != s.key.Identity:
		return time.Time{}, &Problem{Code: ErrorTokenIdentity, Close: CloseBadToken}
	}
	s.credential = claims.PushCredential
	s.holds(claims)
	s.recheck() // as in open
	s.srv.wheel.schedule(s, s.srv.wheel.now())
	return claims.Expires, nil
}

// Subscribe subscribes to users, and sends what answer makes of their snapshots,
// before anything newer of them; known is as in fanout.Hub.Subscribe. On a Problem
// nothing was added. Only the reader may call it; it blocks while the store is asked.
func (s *Session) Subscribe(ctx context.Context, identities []string, known map[string]int64, answer func([]presence.Snapshot) []byte) *Problem {
	if p := s.absent(); p != nil {
		return p
	}
	ctx, cancel := context.WithTimeout(ctx, s.srv.opt.Timers.Request)
	defer cancel()
	if err := s.srv.opt.Hub.Subscribe(ctx, &s.mail, identities, known, answer); err != nil {
		if errors.Is(err, fanout.ErrFull) {
			s.close(CloseSlow, presence.EndStuck, nil, 0)
		}
		return s.srv.problem(err)
	}
	return nil
}

// Unsubscribe ends subscriptions; of users that have none it says nothing. There is a
// Problem only for a session that still waits to be let in.
func (s *Session) Unsubscribe(identities []string) *Problem {
	if p := s.absent(); p != nil {
		return p
	}
	s.srv.opt.Hub.Unsubscribe(&s.mail, identities)
	return nil
}
