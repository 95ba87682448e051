package gateway

import (
	"context"
	"errors"

	"github.com/rollcall-presence/rollcall/presence"
)

// RegisterPush registers a device of the session's user. Where it names no
// credential, that of the session's token is taken, save for web push, which has
// none. Only the reader may call it; it blocks while the store is asked.
func (s *Session) RegisterPush(ctx context.Context, r presence.Registration) (presence.Binding, *Problem) {
	if s.srv.opt.Push == nil {
		return presence.Binding{}, &Problem{Code: ErrorPushOff}
	}
	if p := s.absent(); p != nil {
		return presence.Binding{}, p
	}
	if r.Credential == "" && r.Type != presence.PushWeb {
		r.Credential = s.credential
	}
	ctx, cancel := context.WithTimeout(ctx, s.srv.opt.Timers.Request)
	defer cancel()
	b, err := s.srv.opt.Push.Bind(ctx, s.key, r)
	if err != nil {
		return presence.Binding{}, s.srv.problem(err)
	}
	return b, nil
}

// UnregisterPush removes a binding of the session's user, by SID; where that is
// empty, by what it binds. That it is gone already is no Problem. Only the reader may
// call it; it blocks while the store is asked.
func (s *Session) UnregisterPush(ctx context.Context, sid string, t presence.PushType, address string) *Problem {
	if s.srv.opt.Push == nil {
		return &Problem{Code: ErrorPushOff}
	}
	if p := s.absent(); p != nil {
		return p
	}
	ctx, cancel := context.WithTimeout(ctx, s.srv.opt.Timers.Request)
	defer cancel()
	var err error
	if sid != "" {
		err = s.srv.opt.Push.Unbind(ctx, s.key, sid)
	} else {
		err = s.srv.opt.Push.UnbindAddress(ctx, s.key, t, address)
	}
	if err != nil && !errors.Is(err, presence.ErrNoBinding) {
		return s.srv.problem(err)
	}
	return nil
}
