package redisstore

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rollcall-presence/rollcall/internal/keys"
	"github.com/rollcall-presence/rollcall/presence"
)

// userOf is a user of a partition as :state has it, with the text of its role and its other fields.
func userOf(k presence.Key, p presence.Partition, state string, role func(number string) string, f fields) presence.User {
	u := presence.User{Key: k}
	if state == "" {
		return u
	}
	number, rest, _ := strings.Cut(readState(&u, p, state), " ")
	updated, _, _ := strings.Cut(rest, " ")
	u.Role, u.Attributes = role(number), cmp.Or(f["attributes"], "{}")
	u.Created = createdOf(u.SID)
	if ms, err := strconv.ParseInt(updated, 10, 64); err == nil {
		u.Updated = timeOf(ms)
	} else {
		u.Updated = u.Created.Truncate(time.Millisecond)
	}
	if name, ok := f["friendly_name"]; ok {
		u.FriendlyName = &name
	}
	return u
}

// The SID of a user tells, after its partition, in so many hex digits the time of its creation in us; a script puts
// its own time for zeros.
const (
	sidPrefix  = len("US0000")
	createdLen = 13
)

func createdOf(sid string) time.Time {
	us, _ := strconv.ParseInt(sid[sidPrefix:min(len(sid), sidPrefix+createdLen)], 16, 64)
	return time.UnixMicro(us).UTC()
}

func (s *Store) newUserSID(p presence.Partition) string {
	return s.newSID(keys.SIDPrefix(p) + strings.Repeat("0", createdLen))
}

// writtenUser reads {what :state says of a user, its role, its other fields} of a script's reply.
func (s *Store) writtenUser(op string, k presence.Key, reply []any) (presence.User, error) {
	if len(reply) == 3 {
		state, ok1 := reply[0].(string)
		role, ok2 := reply[1].(string)
		if f, ok := hash(reply[2]); ok && ok1 && ok2 {
			return userOf(k, s.Partition(k), state, func(string) string { return role }, f), nil
		}
	}
	return presence.User{}, malformed(op, reply)
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
	args := []any{mode, k.Service, k.Identity, s.newUserSID(p), service.DefaultServiceRole, service.Rev, string(u.Tell)}
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
	list, _ := reply.([]any)
	return s.writtenUser(mode+" user", k, list)
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
	var sc *redis.MapStringStringCmd
	var read func() []presence.User
	_, err := s.client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		sc = pipe.HGetAll(ctx, s.keys.Service(service))
		read = s.askUsers(ctx, pipe, []presence.Key{{Service: service, Identity: name}})
		return nil
	})
	if err != nil {
		return presence.Service{}, presence.User{}, unavailable("user", err)
	}
	return found(sc, read()[0])
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
	if len(reply) == 0 {
		return found(sc, presence.User{})
	}
	identity, _ := reply[0].(string)
	u, err := s.writtenUser("user by sid", presence.Key{Service: service, Identity: identity}, reply[1:])
	if err != nil {
		return presence.Service{}, presence.User{}, err
	}
	return found(sc, u)
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

// askPresence adds to a pipeline what asks for the presence of users; once it has run the answers can be told.
func (s *Store) askPresence(ctx context.Context, pipe redis.Pipeliner, service string, identities []string) iter.Seq[presence.User] {
	states := s.askStates(ctx, pipe, service, identities)
	return func(yield func(presence.User) bool) {
		i := 0
		for p, state := range states {
			u := presence.User{Key: presence.Key{Service: service, Identity: identities[i]}}
			i++
			if state != "" {
				readState(&u, p, state)
			}
			if !yield(u) {
				return
			}
		}
	}
}

// askStates adds to a pipeline what asks for what :state says of users, one command a partition; once it has run the
// answers can be told, with the users' partitions.
func (s *Store) askStates(ctx context.Context, pipe redis.Pipeliner, service string, identities []string) iter.Seq2[presence.Partition, string] {
	type part struct {
		p   presence.Partition
		n   int // users asked for
		cmd *redis.StringSliceCmd
	}
	type place struct{ part, i int } // a user's answer is the i-th of its part's
	var parts []part
	places, index := make([]place, len(identities)), make(map[presence.Partition]int, min(len(identities), s.keys.Partitions))
	of := s.keys.In(service)
	for i, identity := range identities {
		p := of(identity)
		at, ok := index[p]
		if !ok {
			at = len(parts)
			index[p], parts = at, append(parts, part{p: p})
		}
		places[i] = place{at, parts[at].n}
		parts[at].n++
	}
	words := make([]any, len(identities)+2*len(parts)) // of all commands
	for i := range parts {
		part := &parts[i]
		args := words[: part.n+2 : part.n+2]
		words = words[part.n+2:]
		args[0], args[1] = "hmget", s.keys.State(part.p, service)
		part.cmd = redis.NewStringSliceCmd(ctx, args...) // a user that does not exist is ""
		_ = pipe.Process(ctx, part.cmd)                  // adds it
	}
	for i, at := range places {
		parts[at.part].cmd.Args()[2+at.i] = &identities[i] // a pointer needs no copy to be an any
	}
	return func(yield func(presence.Partition, string) bool) {
		for _, at := range places {
			if part := &parts[at.part]; !yield(part.p, part.cmd.Val()[at.i]) {
				return
			}
		}
	}
}

// readState reads what lib.lua's record wrote that is of presence, and returns the rest.
func readState(u *presence.User, p presence.Partition, state string) (rest string) {
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
	u.SID = keys.UserSID(p, next())
	u.Online, u.Notifiable = triOf(next()), triOf(next())
	u.Epoch, u.NotifiableEpoch, u.Rev = number(), number(), number()
	u.LastOnline = timeOf(number())
	return state
}

// ReadUsers returns the users in the order asked, in one pipelined round; a user
// that does not exist has no SID.
func (s *Store) ReadUsers(ctx context.Context, users []presence.Key) ([]presence.User, error) {
	if len(users) == 0 {
		return nil, nil
	}
	var read func() []presence.User
	_, err := s.joint.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		read = s.askUsers(ctx, pipe, users)
		return nil
	})
	if err != nil {
		return nil, unavailable("read users", err)
	}
	return read(), nil
}

// askUsers adds to a pipeline what asks for users; once it has run they can be read, in the order asked.
func (s *Store) askUsers(ctx context.Context, pipe redis.Pipeliner, users []presence.Key) func() []presence.User {
	type place struct {
		p       presence.Partition
		service string
	}
	places := make([]place, len(users))
	// What :state says comes first: a name that is newer than the revision it comes with is told again, one that
	// is older would stay.
	states, roles := map[string]iter.Seq2[presence.Partition, string]{}, map[place]*redis.MapStringStringCmd{}
	identities := make(map[string][]string, 1)
	for i, k := range users {
		places[i] = place{s.Partition(k), k.Service}
		identities[k.Service] = append(identities[k.Service], k.Identity)
	}
	for service, list := range identities {
		states[service] = s.askStates(ctx, pipe, service, list)
	}
	others := make([]*redis.MapStringStringCmd, len(users))
	for i, k := range users {
		others[i] = pipe.HGetAll(ctx, s.keys.User(k))
		if at := places[i]; roles[at] == nil {
			roles[at] = pipe.HGetAll(ctx, s.keys.UserRoles(at.p, at.service))
		}
	}
	return func() []presence.User {
		list, told := make([]presence.User, len(users)), map[string][]string{}
		for service, seq := range states {
			for _, state := range seq {
				told[service] = append(told[service], state)
			}
		}
		for i, k := range users {
			at, state := places[i], told[k.Service][0]
			told[k.Service] = told[k.Service][1:]
			list[i] = userOf(k, at.p, state, func(number string) string { return roles[at].Val()[number] }, others[i].Val())
		}
		return list
	}
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
// every partition in one pipelined round and then reads the page in another.
func (s *Store) ListUsers(ctx context.Context, service, cursor string, limit int) (presence.Page[presence.User], error) {
	c, err := parseCursor(cursor)
	if err != nil {
		return presence.Page[presence.User]{}, err
	}
	sets := make([]string, s.keys.Partitions)
	for p := range sets {
		sets[p] = s.keys.Users(presence.Partition(p), service)
	}
	found, err := s.ranges(ctx, sets, c, limit, func(p int) string { return c.within(presence.Partition(p)) })
	if err != nil {
		return presence.Page[presence.User]{}, err
	}
	// As elsewhere, with the identity behind.
	var members []string
	for p, list := range found {
		for _, m := range list {
			if len(m) < createdLen {
				return presence.Page[presence.User]{}, malformed("list users", m)
			}
			sid := keys.UserSID(presence.Partition(p), m)
			members = append(members, fmt.Sprintf("%016d", createdOf(sid).UnixMicro())+sid)
		}
	}
	members, near := c.page(members, limit)
	if len(members) == 0 {
		return presence.Page[presence.User]{}, nil
	}
	wanted := make([]presence.Key, len(members))
	for i, m := range members {
		wanted[i] = presence.Key{Service: service, Identity: m[min(len(m), memberLen):]}
	}
	users, err := s.ReadUsers(ctx, wanted)
	if err != nil {
		return presence.Page[presence.User]{}, err
	}
	users = slices.DeleteFunc(users, func(u presence.User) bool { return u.SID == "" })
	return presence.Page[presence.User]{Items: users, Next: near.Next, Prev: near.Prev}, nil
}

// within is where the cursor is among the users of a partition, whose members begin with creation time.
func (c listCursor) within(p presence.Partition) string {
	if c.member == "" {
		return ""
	}
	us, _ := strconv.ParseInt(c.member[:16], 10, 64)
	sid := c.member[16:]
	switch own := keys.SIDPrefix(p); {
	case sid[:sidPrefix] < own: // users of the same moment come after the cursor's
		return fmt.Sprintf("%013x", us)
	case sid[:sidPrefix] > own:
		return fmt.Sprintf("%013x", us+1)
	case c.before:
		return sid[sidPrefix:]
	default:
		return sid[sidPrefix:] + "\xff"
	}
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

// memberLen is the length of a list's members.
const memberLen = 16 + 34

// A cursor names the member that a page begins after, or ends before. Members are
// 16 digits of creation time in us and a SID.
type listCursor struct {
	before bool
	member string
}

// at is where a member is, which may have more behind.
func at(member string, before bool) listCursor {
	return listCursor{before: before, member: member[:min(len(member), memberLen)]}
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
	if err != nil || len(b) != 1+memberLen || b[0] != 'a' && b[0] != 'b' {
		return listCursor{}, invalid
	}
	return listCursor{before: b[0] == 'b', member: string(b[1:])}, nil
}

// list merges sorted sets of members into one page of at most limit, with the
// cursors of its neighbours.
func (s *Store) list(ctx context.Context, sets []string, c listCursor, limit int) ([]string, presence.Page[string], error) {
	found, err := s.ranges(ctx, sets, c, limit, func(int) string { return c.member })
	if err != nil {
		return nil, presence.Page[string]{}, err
	}
	members, page := c.page(slices.Concat(found...), limit)
	return members, page, nil
}

// ranges returns of each set limit members on the far side of the cursor, and one more if there is; at is where
// the cursor is in a set.
func (s *Store) ranges(ctx context.Context, sets []string, c listCursor, limit int, at func(set int) string) ([][]string, error) {
	cmds := make([]*redis.StringSliceCmd, len(sets))
	_, err := s.client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, set := range sets {
			by := &redis.ZRangeBy{Min: "-", Max: "+", Count: int64(limit) + 1}
			switch {
			case c.before:
				by.Max = "(" + at(i)
				cmds[i] = pipe.ZRevRangeByLex(ctx, set, by)
			case c.member != "":
				by.Min = "(" + at(i)
				fallthrough
			default:
				cmds[i] = pipe.ZRangeByLex(ctx, set, by)
			}
		}
		return nil
	})
	if err != nil {
		return nil, unavailable("list", err)
	}
	found := make([][]string, len(sets))
	for i, cmd := range cmds {
		found[i] = cmd.Val()
	}
	return found, nil
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
			page.Next = at(members[len(members)-1], false).String()
		}
		if !c.before && c.member != "" || c.before && more {
			page.Prev = at(members[0], true).String()
		}
	}
	return members, page
}
