package redisstore

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rollcall-presence/rollcall/internal/keys"
	"github.com/rollcall-presence/rollcall/presence"
)

func userOf(k presence.Key, f fields) presence.User {
	if f["sid"] == "" {
		return presence.User{Key: k}
	}
	u := presence.User{
		Key: k, SID: f["sid"], Attributes: f["attributes"], Role: f["role"],
		Online: f.tri("online"), Notifiable: f.tri("notifiable"), Epoch: f.int("epoch"), NotifiableEpoch: f.int("nepoch"),
		Rev: f.int("rev"), LastOnline: f.millis("last_online"),
		Created: time.UnixMicro(f.int("created")).UTC(), Updated: f.millis("updated"),
	}
	if name, ok := f["friendly_name"]; ok {
		u.FriendlyName = &name
	}
	return u
}

// CreateUser makes a user; ErrNoService, ErrUserExists.
func (s *Store) CreateUser(ctx context.Context, k presence.Key, u presence.UserUpdate) (presence.User, error) {
	return s.write(ctx, "create", k, u)
}

// UpdateUser changes a user and returns it; ErrNoService, ErrNoUser.
func (s *Store) UpdateUser(ctx context.Context, k presence.Key, u presence.UserUpdate) (presence.User, error) {
	return s.write(ctx, "update", k, u)
}

func (s *Store) write(ctx context.Context, mode string, k presence.Key, u presence.UserUpdate) (presence.User, error) {
	service, err := s.Service(ctx, k.Service)
	if err != nil {
		return presence.User{}, err
	}
	return s.writeUser(ctx, mode, k, service, u)
}

// EnsureUser implements presence.Store.
func (s *Store) EnsureUser(ctx context.Context, k presence.Key, service presence.Service) (presence.User, error) {
	return s.writeUser(ctx, "ensure", k, service, presence.UserUpdate{Tell: presence.OriginSDK})
}

func (s *Store) writeUser(ctx context.Context, mode string, k presence.Key, service presence.Service, u presence.UserUpdate) (presence.User, error) {
	p := s.Partition(k)
	args := []any{mode, k.Service, k.Identity, s.newSID(keys.SIDPrefix(p)), service.DefaultServiceRole, service.Rev, string(u.Tell)}
	args = given(args, []optional{{"friendly_name", u.FriendlyName}, {"attributes", u.Attributes}, {"role", u.Role}})
	reply, err := s.run(ctx, mode+" user", userWriteScript, p, args...)
	if err != nil {
		return presence.User{}, err
	}
	switch reply {
	case "exists":
		return presence.User{}, presence.ErrUserExists
	case "missing":
		return presence.User{}, presence.ErrNoUser
	}
	f, ok := hash(reply)
	if !ok {
		return presence.User{}, malformed(mode+" user", reply)
	}
	return userOf(k, f), nil
}

// DeleteUser deletes a user and has its live sessions ended; ErrNoService,
// ErrNoUser.
func (s *Store) DeleteUser(ctx context.Context, k presence.Key) error {
	service, err := s.Service(ctx, k.Service)
	if err != nil {
		return err
	}
	reply, err := s.run(ctx, "delete user", userDeleteScript, s.Partition(k), k.Service, k.Identity, service.Rev)
	if err != nil {
		return err
	}
	if reply == int64(0) {
		return presence.ErrNoUser
	}
	return nil
}

// User returns a user, by SID or identity, and its service; ErrNoService, ErrNoUser.
func (s *Store) User(ctx context.Context, service, name string) (presence.Service, presence.User, error) {
	if presence.IsSID(name, "US") {
		return s.userBySID(ctx, service, name)
	}
	var sc, uc *redis.MapStringStringCmd
	k := presence.Key{Service: service, Identity: name}
	_, err := s.client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		sc, uc = pipe.HGetAll(ctx, s.keys.Service(service)), pipe.HGetAll(ctx, s.keys.User(k))
		return nil
	})
	if err != nil {
		return presence.Service{}, presence.User{}, unavailable("user", err)
	}
	return found(sc, userOf(k, uc.Val()))
}

func (s *Store) userBySID(ctx context.Context, service, sid string) (presence.Service, presence.User, error) {
	p, ok := s.keys.OfSID(sid)
	if !ok {
		v, err := s.Service(ctx, service)
		return v, presence.User{}, cmp.Or(err, error(presence.ErrNoUser))
	}
	key, args := s.declared(p), []any{s.offset(), service, sid}
	var sc *redis.MapStringStringCmd
	var uc *redis.Cmd
	_, _ = s.client.Pipelined(ctx, func(pipe redis.Pipeliner) error { // each command has its own error
		sc, uc = pipe.HGetAll(ctx, s.keys.Service(service)), userBySIDScript.EvalSha(ctx, pipe, key, args...)
		return nil
	})
	if redis.HasErrorPrefix(uc.Err(), "NOSCRIPT") {
		uc = userBySIDScript.Run(ctx, s.client, key, args...)
	}
	for _, err := range []error{sc.Err(), uc.Err()} {
		if err != nil {
			return presence.Service{}, presence.User{}, unavailable("user by sid", err)
		}
	}
	reply, _ := uc.Val().([]any)
	if len(reply) != 2 {
		return found(sc, presence.User{})
	}
	identity, ok := reply[0].(string)
	f, ok2 := hash(reply[1])
	if !ok || !ok2 {
		return presence.Service{}, presence.User{}, malformed("user by sid", reply)
	}
	return found(sc, userOf(presence.Key{Service: service, Identity: identity}, f))
}

// found is a service and a user as read in one round.
func found(service *redis.MapStringStringCmd, u presence.User) (presence.Service, presence.User, error) {
	if service.Val()["sid"] == "" {
		return presence.Service{}, presence.User{}, presence.ErrNoService
	}
	if u.SID == "" {
		return serviceOf(service.Val()), presence.User{}, presence.ErrNoUser
	}
	return serviceOf(service.Val()), u, nil
}

// Presence returns a service and the presence of users in it, without their
// profiles, in the order asked; a user that does not exist has no SID. ErrNoService.
func (s *Store) Presence(ctx context.Context, service string, identities []string) (presence.Service, iter.Seq[presence.User], error) {
	var sc *redis.MapStringStringCmd
	var users iter.Seq[presence.User]
	_, err := s.client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		sc = pipe.HGetAll(ctx, s.keys.Service(service))
		users = s.askPresence(ctx, pipe, service, identities)
		return nil
	})
	if err != nil {
		return presence.Service{}, nil, unavailable("presence", err)
	}
	if sc.Val()["sid"] == "" {
		return presence.Service{}, nil, presence.ErrNoService
	}
	return serviceOf(sc.Val()), users, nil
}

// readPresence returns the presence of users in the order asked, as Presence does.
func (s *Store) readPresence(ctx context.Context, service string, identities []string) ([]presence.User, error) {
	if len(identities) == 0 {
		return nil, nil
	}
	var users iter.Seq[presence.User]
	_, err := s.client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		users = s.askPresence(ctx, pipe, service, identities)
		return nil
	})
	if err != nil {
		return nil, unavailable("presence", err)
	}
	return slices.AppendSeq(make([]presence.User, 0, len(identities)), users), nil
}

// askPresence adds to a pipeline what asks for the presence of users, one command a
// partition; once it has run the answers can be told.
func (s *Store) askPresence(ctx context.Context, pipe redis.Pipeliner, service string, identities []string) iter.Seq[presence.User] {
	type place struct {
		p presence.Partition
		i int // which of its answers
	}
	places, asked, parts := make([]place, len(identities)), make([]int, s.keys.Partitions), 0
	of := s.keys.In(service)
	for i, identity := range identities {
		p := of(identity)
		if asked[p] == 0 {
			parts++
		}
		places[i] = place{p, asked[p]}
		asked[p]++
	}
	cmds := make([]*redis.StringSliceCmd, s.keys.Partitions)
	words := make([]any, len(identities)+2*parts) // of all commands
	for p, n := range asked {
		if n == 0 {
			continue
		}
		args := words[: n+2 : n+2]
		words = words[n+2:]
		args[0], args[1] = "hmget", s.keys.State(presence.Partition(p), service)
		cmds[p] = redis.NewStringSliceCmd(ctx, args...) // a user that does not exist is ""
		_ = pipe.Process(ctx, cmds[p])                  // adds it
	}
	for i, at := range places {
		cmds[at.p].Args()[2+at.i] = &identities[i] // a pointer needs no copy to be an any
	}
	return func(yield func(presence.User) bool) {
		for i, at := range places {
			u := presence.User{Key: presence.Key{Service: service, Identity: identities[i]}}
			if state := cmds[at.p].Val()[at.i]; state != "" {
				readState(&u, state)
			}
			if !yield(u) {
				return
			}
		}
	}
}

// readState reads what lib.lua's record wrote.
func readState(u *presence.User, state string) {
	next := func() (field string) {
		field, state, _ = strings.Cut(state, " ")
		return field
	}
	number := func() (n int64) { // digits, or nothing
		for i := range len(state) {
			c := state[i]
			if c == ' ' {
				state = state[i+1:]
				return n
			}
			n = n*10 + int64(c-'0')
		}
		state = ""
		return n
	}
	u.SID = next()
	u.Online, u.Notifiable = triOf(next()), triOf(next())
	u.Epoch, u.NotifiableEpoch, u.Rev = number(), number(), number()
	u.LastOnline = timeOf(number())
}

// ReadUsers returns the users in the order asked, in one pipelined round; a user
// that does not exist has no SID.
func (s *Store) ReadUsers(ctx context.Context, users []presence.Key) ([]presence.User, error) {
	hashes, err := s.hashes(ctx, "read users", len(users), func(i int) string { return s.keys.User(users[i]) })
	if err != nil {
		return nil, err
	}
	list := make([]presence.User, len(users))
	for i, f := range hashes {
		list[i] = userOf(users[i], f)
	}
	return list, nil
}

// hashes reads n hashes in one pipelined round; one that does not exist is empty.
func (s *Store) hashes(ctx context.Context, op string, n int, key func(i int) string) ([]fields, error) {
	cmds := make([]*redis.MapStringStringCmd, n)
	_, err := s.joint.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i := range cmds {
			cmds[i] = pipe.HGetAll(ctx, key(i))
		}
		return nil
	})
	if err != nil {
		return nil, unavailable(op, err)
	}
	list := make([]fields, n)
	for i, c := range cmds {
		list[i] = c.Val()
	}
	return list, nil
}

// ListUsers returns up to limit users of a service in creation order, from a cursor
// of an earlier page or "" for the first; an unknown cursor is KindInvalid. It asks
// every partition in one pipelined round and then reads the page in two more.
func (s *Store) ListUsers(ctx context.Context, service, cursor string, limit int) (presence.Page[presence.User], error) {
	sets := make([]string, s.keys.Partitions)
	for p := range sets {
		sets[p] = s.keys.Users(presence.Partition(p), service)
	}
	return listed(ctx, s, sets, cursor, limit, func(sids []string) ([]presence.User, error) {
		var wanted []presence.Key
		err := s.entries(ctx, "list users", sids, func(p presence.Partition) string { return s.keys.SIDs(p, service) }, func(identity string) {
			wanted = append(wanted, presence.Key{Service: service, Identity: identity})
		})
		if err != nil {
			return nil, err
		}
		users, err := s.ReadUsers(ctx, wanted)
		return slices.DeleteFunc(users, func(u presence.User) bool { return u.SID == "" }), err
	})
}

// entries reads the entries that SIDs have in hashes of the partitions that they name,
// in one pipelined round; those that are gone are left out.
func (s *Store) entries(ctx context.Context, op string, sids []string, key func(presence.Partition) string, each func(value string)) error {
	cmds := make([]*redis.StringCmd, len(sids))
	_, _ = s.client.Pipelined(ctx, func(pipe redis.Pipeliner) error { // each command has its own error
		for i, sid := range sids {
			p, _ := s.keys.OfSID(sid)
			cmds[i] = pipe.HGet(ctx, key(p), sid)
		}
		return nil
	})
	for _, c := range cmds {
		switch err := c.Err(); {
		case err == nil:
			each(c.Val())
		case !errors.Is(err, redis.Nil):
			return unavailable(op, err)
		}
	}
	return nil
}

// listed is a page of what sorted sets hold, from a cursor; read reads it by SID and
// leaves out what was deleted between the rounds.
func listed[T any](ctx context.Context, s *Store, sets []string, cursor string, limit int, read func(sids []string) ([]T, error)) (presence.Page[T], error) {
	c, err := parseCursor(cursor)
	if err != nil {
		return presence.Page[T]{}, err
	}
	members, near, err := s.list(ctx, sets, c, limit)
	if err != nil || len(members) == 0 {
		return presence.Page[T]{}, err
	}
	items, err := read(sidsOf(members))
	if err != nil {
		return presence.Page[T]{}, err
	}
	return presence.Page[T]{Items: items, Next: near.Next, Prev: near.Prev}, nil
}

// sidsOf are the SIDs of members of a list.
func sidsOf(members []string) []string {
	sids := make([]string, len(members))
	for i, m := range members {
		sids[i] = m[16:]
	}
	return sids
}

// A cursor names the member that a page begins after, or ends before. Members are
// 16 digits of creation time in us and a SID.
type listCursor struct {
	before bool
	member string
}

func (c listCursor) String() string {
	dir := "a"
	if c.before {
		dir = "b"
	}
	return "PT" + base64.RawURLEncoding.EncodeToString([]byte(dir+c.member))
}

func parseCursor(cursor string) (listCursor, error) {
	if cursor == "" {
		return listCursor{}, nil
	}
	invalid := &presence.Error{Op: "unknown page token", Kind: presence.KindInvalid}
	rest, ok := strings.CutPrefix(cursor, "PT")
	if !ok || len(rest) > 100 {
		return listCursor{}, invalid
	}
	b, err := base64.RawURLEncoding.DecodeString(rest)
	if err != nil || len(b) != 1+16+34 || b[0] != 'a' && b[0] != 'b' {
		return listCursor{}, invalid
	}
	return listCursor{before: b[0] == 'b', member: string(b[1:])}, nil
}

// list merges sorted sets of members into one page of at most limit, with the
// cursors of its neighbours.
func (s *Store) list(ctx context.Context, sets []string, c listCursor, limit int) ([]string, presence.Page[string], error) {
	cmds := make([]*redis.StringSliceCmd, len(sets))
	_, err := s.client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, set := range sets {
			by := &redis.ZRangeBy{Min: "-", Max: "+", Count: int64(limit) + 1}
			switch {
			case c.before:
				by.Max = "(" + c.member
				cmds[i] = pipe.ZRevRangeByLex(ctx, set, by)
			case c.member != "":
				by.Min = "(" + c.member
				fallthrough
			default:
				cmds[i] = pipe.ZRangeByLex(ctx, set, by)
			}
		}
		return nil
	})
	if err != nil {
		return nil, presence.Page[string]{}, unavailable("list", err)
	}
	var members []string
	for _, cmd := range cmds {
		members = append(members, cmd.Val()...)
	}
	members, page := c.page(members, limit)
	return members, page, nil
}

// page cuts a page of at most limit from members, which all lie on the cursor's far
// side, and tells the cursors of its neighbours.
func (c listCursor) page(members []string, limit int) ([]string, presence.Page[string]) {
	slices.Sort(members)
	if c.before {
		slices.Reverse(members)
	}
	more := len(members) > limit
	members = members[:min(limit, len(members))]
	if c.before {
		slices.Reverse(members)
	}
	var page presence.Page[string]
	if len(members) > 0 {
		if more || c.before {
			page.Next = listCursor{member: members[len(members)-1]}.String()
		}
		if !c.before && c.member != "" || c.before && more {
			page.Prev = listCursor{before: true, member: members[0]}.String()
		}
	}
	return members, page
}
