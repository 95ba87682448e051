package gateway

import (
	"context"

	"github.com/rollcall-presence/rollcall/presence"
)

// Users is what a session needs of the users themselves; see redisstore.Store.
type Users interface {
	ReadUsers(ctx context.Context, keys []presence.Key) ([]presence.User, error)
	UpdateUser(ctx context.Context, k presence.Key, u presence.UserUpdate) (presence.User, error)
}

// Service is the session's service, as this node knows it. Only after Open; it may
// block while the store is asked.
func (s *Session) Service(ctx context.Context) (presence.Service, *Problem) {
	ctx, cancel := context.WithTimeout(ctx, s.srv.opt.Timers.Request)
	defer cancel()
	service, err := s.srv.opt.Services.Service(ctx, s.key.Service)
	if err != nil {
		return presence.Service{}, s.srv.problem(err)
	}
	return service, nil
}

// User reads a user of the session's service. Of another than its own that does not
// exist the Problem is ErrorNoUser. Only the reader may call it; it blocks while the
// store is asked.
func (s *Session) User(ctx context.Context, identity string) (presence.Snapshot, *Problem) {
	if p := s.srv.checkIdentity(identity); p != nil {
		return presence.Snapshot{}, p
	}
	service, user, p := s.user(ctx, identity)
	if p != nil {
		return presence.Snapshot{}, p
	}
	return service.View(user), nil
}

func (s *Session) user(ctx context.Context, identity string) (presence.Service, presence.User, *Problem) {
	if s.srv.opt.Users == nil {
		return presence.Service{}, presence.User{}, &Problem{Code: ErrorInternal}
	}
	service, p := s.Service(ctx)
	if p != nil {
		return service, presence.User{}, p
	}
	ctx, cancel := context.WithTimeout(ctx, s.srv.opt.Timers.Request)
	defer cancel()
	users, err := s.srv.opt.Users.ReadUsers(ctx, []presence.Key{{Service: s.key.Service, Identity: identity}})
	switch {
	case err != nil:
		return service, presence.User{}, s.srv.problem(err)
	case users[0].SID != "":
		return service, users[0], nil
	case identity == s.key.Identity:
		return service, presence.User{}, s.srv.problem(presence.ErrNoUser)
	}
	return service, presence.User{}, &Problem{Code: ErrorNoUser}
}

// UpdateProfile changes the friendly name and the attributes of the session's own
// user; nil keeps what is there. Its backend is asked before and told after, as over
// REST. It blocks while they and the store are asked, which may take so long that it is
// for Beside.
func (s *Session) UpdateProfile(ctx context.Context, name, attributes *string) (presence.Snapshot, *Problem) {
	if name != nil {
		if err := presence.CheckFriendlyName(*name); err != nil {
			return presence.Snapshot{}, s.srv.problem(err)
		}
	}
	if attributes != nil {
		if err := presence.CheckAttributes(*attributes, s.srv.opt.Limits.Attributes); err != nil {
			return presence.Snapshot{}, s.srv.problem(err)
		}
	}
	service, user, p := s.user(ctx, s.key.Identity)
	if p != nil {
		return presence.Snapshot{}, p
	}
	update := presence.UserUpdate{FriendlyName: name, Attributes: attributes, Tell: presence.OriginSDK}
	if update.Empty() {
		return service.View(user), nil
	}
	if ask := s.srv.opt.BeforeUserUpdate; ask != nil {
		err := ask(ctx, service, user, update)
		if err == nil {
			err = ctx.Err() // it was asked for nothing: nobody waits for the change any more
		}
		if err != nil {
			return presence.Snapshot{}, s.srv.problem(err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, s.srv.opt.Timers.Request)
	defer cancel()
	user, err := s.srv.opt.Users.UpdateUser(ctx, s.key, update)
	if err != nil {
		return presence.Snapshot{}, s.srv.problem(err)
	}
	return service.View(user), nil
}
