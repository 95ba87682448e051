package gateway

import (
	"context"
	"errors"
	"time"

	"github.com/rollcall-presence/rollcall/auth"
	"github.com/rollcall-presence/rollcall/fanout"
	"github.com/rollcall-presence/rollcall/presence"
)

// Registrar is what a session needs of presence. All methods may be called
// concurrently, for different sessions.
type Registrar interface {
	// Open records the session: its user is online from here on. Ensure makes sure
	// that the user exists, without that.
	Open(ctx context.Context, k presence.Key, s presence.SessionID) (presence.User, error)
	Ensure(ctx context.Context, k presence.Key) (presence.User, error)
	// Close records the session's end. It is idempotent, and what fails is retried
	// by presence itself.
	Close(ctx context.Context, k presence.Key, s presence.SessionID, how presence.End) error
}

// Services answers what the node knows of a service.
type Services interface {
	Service(ctx context.Context, sid string) (presence.Service, error)
}

// Hub is what a session needs to hear of others; see fanout.Hub.
type Hub interface {
	Attach(b *fanout.Mailbox)
	Detach(b *fanout.Mailbox)
	Subscribe(ctx context.Context, b *fanout.Mailbox, identities []string, answer func([]presence.Snapshot) []byte) error
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
	Known     []string // users to subscribe to at once
	Invisible bool     // connect without going online
}

// Welcome is what it is told.
type Welcome struct {
	Session presence.SessionID
	Key     presence.Key
	Service presence.Service
	User    presence.Snapshot   // its own
	Known   []presence.Snapshot // of Hello.Known, in that order
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

// Open lets the client in: its token is checked, it is registered with presence
// and subscribed to whom it knew, and then answer makes the first frame that it
// gets. A second Open is a programmer's error. After a Problem the session must be
// closed. Only the reader may call it; it blocks while the store is asked.
func (s *Session) Open(ctx context.Context, h Hello, answer func(Welcome) []byte) *Problem {
	ctx, cancel := context.WithTimeout(ctx, s.srv.opt.Timers.Request)
	defer cancel()
	s.mu.Lock()
	if s.state == stateWaiting {
		s.state = stateOpening
	}
	s.mu.Unlock()
	s.srv.greeted(s)
	if err := s.open(ctx, h, answer); err != nil {
		p := s.srv.problem(err)
		s.refusal = p
		return p
	}
	return nil
}

func (s *Session) open(ctx context.Context, h Hello, answer func(Welcome) []byte) error {
	if len(h.Known) > s.srv.opt.Limits.Subscriptions {
		return fanout.ErrTooMany
	}
	for _, identity := range h.Known {
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
	if _, err := s.srv.opt.Services.Service(ctx, s.key.Service); err != nil {
		return err
	}
	if !s.srv.join(s) {
		return &Problem{Code: ErrorTooManySessions, Close: CloseTooMany}
	}
	user, err := s.register(ctx, h.Invisible)
	if err != nil {
		return err
	}
	s.mail.Init(s.key.Service, s.srv.opt.Limits.Mailbox, s.wake)
	s.attached = true
	s.srv.opt.Hub.Attach(&s.mail)

	// Read after Attach: a flip of the switch is in the answer, or the hub tells of it.
	service, err := s.srv.opt.Services.Service(ctx, s.key.Service)
	if err != nil {
		return err
	}
	w := Welcome{Session: s.id, Key: s.key, Service: service, User: service.View(user), Ping: s.srv.opt.Timers.Ping}
	if len(h.Known) > 0 {
		err = s.srv.opt.Hub.Subscribe(ctx, &s.mail, h.Known, func(known []presence.Snapshot) []byte {
			w.Known = known
			return answer(w)
		})
	} else {
		err = s.mail.Control(answer(w))
	}
	if err != nil {
		return err
	}
	s.holds(claims)
	// From here on Recheck finds the session; what was withdrawn before is found now.
	if err := s.srv.opt.Tokens.Check(claims); err != nil {
		return err
	}
	s.live(claims.Expires)
	return nil
}

// holds records whose word the session is open on.
func (s *Session) holds(c auth.Claims) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.signer, s.issued = c.KeySID, c.Issued.UnixMilli()
}

// recheck closes the session if its token was withdrawn.
func (s *Session) recheck() {
	s.mu.Lock()
	c := auth.Claims{KeySID: s.signer, Issued: time.UnixMilli(s.issued)}
	s.mu.Unlock()
	if c.KeySID == "" {
		return // not open yet
	}
	c.Service, c.Identity = s.key.Service, s.key.Identity
	if s.srv.opt.Tokens.Check(c) != nil {
		s.close(CloseBadToken, presence.EndClean, nil, s.srv.opt.Timers.Close)
	}
}

// register tells presence of the session. Whether a failed Open was recorded is
// not known, so its end is recorded in any case.
func (s *Session) register(ctx context.Context, invisible bool) (presence.User, error) {
	if invisible {
		return s.srv.opt.Presence.Ensure(ctx, s.key)
	}
	s.joined = true
	return s.srv.opt.Presence.Open(ctx, s.key, s.id)
}

// live starts the deadlines of an open session. Its first ping falls anywhere in
// the interval, so that the pings of many sessions spread evenly.
func (s *Session) live(expires time.Time) {
	now := s.srv.wheel.now()
	s.mu.Lock()
	if s.state == stateOpening {
		s.state = stateOpen
	}
	s.pingAt = now + s.srv.spread(s.srv.opt.Timers.Ping)
	s.expires, s.lifetime = expires, time.Until(expires)
	s.mailing = true // only now: the answer to hello is in line before anything is taken
	s.mu.Unlock()
	s.counted = true
	s.srv.metrics.sessions.Inc()
	s.srv.metrics.hello.Observe((now - s.arrived).Seconds())
	s.wake()
	s.srv.wheel.schedule(s, now) // decides itself when it wants to be looked at next
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
	s.mu.Lock()
	s.expires, s.lifetime, s.warned = claims.Expires, time.Until(claims.Expires), false
	s.mu.Unlock()
	s.holds(claims)
	s.recheck() // as in open
	s.srv.wheel.schedule(s, s.srv.wheel.now())
	return claims.Expires, nil
}

// Subscribe subscribes to users, and sends what answer makes of their snapshots,
// before anything newer of them. On a Problem nothing was added. Only the reader
// may call it; it blocks while the store is asked.
func (s *Session) Subscribe(ctx context.Context, identities []string, answer func([]presence.Snapshot) []byte) *Problem {
	ctx, cancel := context.WithTimeout(ctx, s.srv.opt.Timers.Request)
	defer cancel()
	if err := s.srv.opt.Hub.Subscribe(ctx, &s.mail, identities, answer); err != nil {
		if errors.Is(err, fanout.ErrFull) {
			s.close(CloseSlow, presence.EndLost, nil, 0)
		}
		return s.srv.problem(err)
	}
	return nil
}

// Unsubscribe ends subscriptions; of users that have none it says nothing.
func (s *Session) Unsubscribe(identities []string) { s.srv.opt.Hub.Unsubscribe(&s.mail, identities) }
