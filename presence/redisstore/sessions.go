package redisstore

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rollcall-presence/rollcall/presence"
)

// reapChunk bounds what one heartbeat reaps in a partition, and so how long it
// keeps Redis from others: with a change log and webhooks to queue a session costs
// 40 to 80 us, and the heartbeats of 16 of 256 partitions come in one pipeline.
const reapChunk = 25

// Register implements presence.Store.
func (s *Store) Register(ctx context.Context, p presence.Partition, n presence.NodeID, sessions []presence.Held) (presence.Registered, error) {
	reply, err := s.run(ctx, "register", registerScript, p, s.registerArgs(p, n, sessions)...)
	return registered("register", reply, err, len(sessions))
}

// Open implements presence.Store.
func (s *Store) Open(ctx context.Context, p presence.Partition, n presence.NodeID, h presence.Held) (presence.Registered, presence.User, error) {
	key, args := s.declared(p), append([]any{s.offset()}, s.registerArgs(p, n, []presence.Held{h})...)
	var script *redis.Cmd
	var read func() []presence.User
	_, err := s.joint.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		script = registerScript.EvalSha(ctx, pipe, key, args...)
		read = s.askUsers(ctx, pipe, []presence.Key{h.Key})
		return nil
	})
	if redis.HasErrorPrefix(script.Err(), "NOSCRIPT") {
		if script = registerScript.Run(ctx, s.client, key, args...); script.Err() == nil {
			_, err = s.client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
				read = s.askUsers(ctx, pipe, []presence.Key{h.Key})
				return nil
			})
		}
	}
	if err = cmp.Or(script.Err(), err); err != nil {
		return presence.Registered{}, presence.User{}, unavailable("open", err)
	}
	r, err := registered("open", script.Val(), nil, 1)
	return r, read()[0], err
}

func (s *Store) registerArgs(p presence.Partition, n presence.NodeID, sessions []presence.Held) []any {
	args := make([]any, 0, 4+8*len(sessions))
	args = append(args, string(n), ms(s.opt.Lease), ms(s.opt.OnlineTTL), ms(s.opt.Stall))
	for _, h := range sessions {
		sid := h.UserSID
		if sid == "" {
			sid = s.newUserSID(p)
		}
		args = append(args, h.Service.SID, h.Identity, string(h.ID), sid, h.Service.DefaultServiceRole,
			flag(h.Service.Enabled), h.Service.Epoch, h.Service.Rev)
	}
	return args
}

// End implements presence.Store.
func (s *Store) End(ctx context.Context, p presence.Partition, n presence.NodeID, sessions []presence.Ended) (presence.Registered, error) {
	args := make([]any, 0, 3+9*len(sessions))
	args = append(args, string(n), ms(s.opt.Lease), ms(s.opt.Stall))
	for _, e := range sessions {
		ago := time.Duration(0)
		if !e.Left.IsZero() {
			ago = time.Since(e.Left)
		}
		args = append(args, e.Key.Service, e.Identity, string(e.ID), ms(e.Linger), flag(e.Service.Enabled), e.Service.Epoch, e.Service.Rev,
			e.How.String(), ms(ago))
	}
	reply, err := s.run(ctx, "end", endScript, p, args...)
	return registered("end", reply, err, len(sessions))
}

func registered(op string, reply any, err error, n int) (presence.Registered, error) {
	if err != nil {
		return presence.Registered{}, err
	}
	list, ok := reply.([]any)
	if !ok || len(list) != n+1 {
		return presence.Registered{}, malformed(op, reply)
	}
	r := presence.Registered{Outcomes: make([]presence.Outcome, n)}
	for i, v := range list {
		x, ok := v.(int64)
		if !ok {
			return presence.Registered{}, malformed(op, reply)
		}
		if i == 0 {
			r.Ops = x
		} else {
			r.Outcomes[i-1] = presence.Outcome(x) //nolint:gosec // 0 to 3, written by the scripts
		}
	}
	return r, nil
}

// Beat implements presence.Store: one script for all partitions in which nothing is due, and one a partition, in one
// pipeline, for the others and on a Cluster.
func (s *Store) Beat(ctx context.Context, ps []presence.Partition, n presence.NodeID) ([]presence.Beat, []error) {
	beats, errs := make([]presence.Beat, len(ps)), make([]error, len(ps))
	args := []any{s.offset(), string(n), ms(s.opt.Lease), reapChunk, ms(s.opt.Stall)}
	places := make([]int, len(ps)) // in ps, of those whose heartbeat is yet to be sent
	for i := range places {
		places[i] = i
	}
	if !s.sharded && len(ps) > 1 {
		// What Redis refuses is asked of each partition: that one is damaged is no reason for the others to go without,
		// and a single server of a Cluster takes no script with keys of several slots.
		others, err := s.beatMany(ctx, ps, args, beats)
		if err == nil {
			places = others
		} else if presence.KindOf(err) != presence.KindInternal {
			for i := range errs {
				errs[i] = err
			}
			return beats, errs
		}
	}
	if len(places) == 0 {
		return beats, errs
	}
	rest := make([]presence.Partition, len(places))
	for i, at := range places {
		rest[i] = ps[at]
	}
	for i, reply := range s.pipeline(ctx, beatScript, rest, args) {
		at := places[i]
		v, err := reply.Result()
		if err != nil {
			errs[at] = unavailable("beat", err)
			continue
		}
		var ok bool
		if beats[at], ok = beat(v); !ok {
			errs[at] = malformed("beat", v)
		}
	}
	return beats, errs
}

// beatMany does the heartbeats of partitions in which nothing is due, and returns where the others are in ps.
func (s *Store) beatMany(ctx context.Context, ps []presence.Partition, args []any, beats []presence.Beat) (others []int, err error) {
	bases := make([]string, len(ps))
	for i, p := range ps {
		bases[i] = s.keys.Base(p)
	}
	reply, err := beatManyScript.Run(ctx, s.client, bases, args...).Slice()
	if err != nil {
		return nil, unavailable("beat", err)
	}
	if len(reply) != 3*len(ps) {
		return nil, malformed("beat", reply)
	}
	for i := range ps {
		run, idle := reply[3*i].(string)
		if !idle {
			others = append(others, i)
			continue
		}
		seq, ok1 := reply[3*i+1].(string)
		ops, ok2 := reply[3*i+2].(int64)
		n, err := strconv.ParseUint(seq, 10, 64)
		if !ok1 || !ok2 || err != nil {
			return nil, malformed("beat", reply)
		}
		beats[i] = presence.Beat{Run: run, Seq: n, Ops: ops, Webhooks: -time.Millisecond}
	}
	return others, nil
}

// pipeline runs a script on each partition.
func (s *Store) pipeline(ctx context.Context, script *redis.Script, ps []presence.Partition, args []any) []*redis.Cmd {
	return s.pipelineEach(ctx, script, ps, func(int) []any { return args })
}

// pipelineEach runs a script on each partition with its own arguments, loading it
// where Redis has lost it.
func (s *Store) pipelineEach(ctx context.Context, script *redis.Script, ps []presence.Partition, args func(i int) []any) []*redis.Cmd {
	cmds := make([]*redis.Cmd, len(ps))
	_, _ = s.client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, p := range ps {
			cmds[i] = script.EvalSha(ctx, pipe, s.declared(p), args(i)...)
		}
		return nil
	})
	for i, c := range cmds {
		if redis.HasErrorPrefix(c.Err(), "NOSCRIPT") {
			cmds[i] = script.Run(ctx, s.client, s.declared(ps[i]), args(i)...)
		}
	}
	return cmds
}

func beat(reply any) (presence.Beat, bool) {
	list, ok := reply.([]any)
	if !ok || len(list) < 12 {
		return presence.Beat{}, false
	}
	var b presence.Beat
	var seq string
	if b.Run, ok = list[0].(string); !ok {
		return b, false
	}
	if seq, ok = list[1].(string); !ok {
		return b, false
	}
	var err error
	if b.Seq, err = strconv.ParseUint(seq, 10, 64); err != nil {
		return b, false
	}
	var n [9]int64
	for i := range n {
		if n[i], ok = list[2+i].(int64); !ok {
			return b, false
		}
	}
	b.Ops, b.Reaped, b.OfflineByLease, b.OfflineByLinger, b.Due = n[0], int(n[1]), int(n[2]), int(n[3]), int(n[4])
	b.Stalled = time.Duration(n[5]) * time.Millisecond
	b.Bindings = int(n[6])
	b.Delivers, b.Webhooks = n[7] == 1, time.Duration(n[8])*time.Millisecond
	departed, ok := list[11].([]any)
	if !ok {
		return b, false
	}
	for _, v := range departed {
		text, _ := v.(string)
		name, after, _ := strings.Cut(text, " ")
		how, known := presence.EndOf(name)
		ms, err := strconv.ParseInt(after, 10, 64)
		if !known || err != nil {
			return b, false
		}
		b.Departed = append(b.Departed, presence.Departure{How: how, After: time.Duration(ms) * time.Millisecond})
	}
	for _, v := range list[12:] {
		id, ok := v.(string)
		if !ok {
			return b, false
		}
		b.End = append(b.End, presence.SessionID(id))
	}
	return b, true
}

// Sessions implements presence.Store.
func (s *Store) Sessions(ctx context.Context, p presence.Partition, n presence.NodeID) ([]presence.Ended, error) {
	reply, err := s.run(ctx, "sessions", sessionsScript, p, string(n))
	if err != nil {
		return nil, err
	}
	words, ok := texts(reply)
	if !ok || len(words)%3 != 0 {
		return nil, malformed("sessions", reply)
	}
	list := make([]presence.Ended, 0, len(words)/3)
	for of := range slices.Chunk(words, 3) {
		for id := range strings.SplitSeq(of[2], ",") {
			list = append(list, presence.Ended{Key: presence.Key{Service: of[0], Identity: of[1]}, ID: presence.SessionID(id)})
		}
	}
	return list, nil
}

// Leave implements presence.Store; it makes as many round trips as chunks of
// sessions were left.
func (s *Store) Leave(ctx context.Context, ps []presence.Partition, n presence.NodeID, handover time.Duration) error {
	for len(ps) > 0 {
		var rest []presence.Partition
		for i, reply := range s.pipeline(ctx, leaveScript, ps, []any{s.offset(), string(n), ms(handover), reapChunk, ms(s.opt.Stall)}) {
			left, err := reply.Int()
			if err != nil {
				return unavailable("leave", err)
			}
			if left == 1 {
				rest = append(rest, ps[i])
			}
		}
		ps = rest
	}
	return nil
}

// UserSessions returns the live sessions of a user, in the order of their IDs.
func (s *Store) UserSessions(ctx context.Context, k presence.Key) ([]presence.UserSession, error) {
	reply, err := s.run(ctx, "sessions of a user", userSessionsScript, s.Partition(k), k.Service, k.Identity)
	if err != nil {
		return nil, err
	}
	words, ok := texts(reply)
	if !ok || len(words)%2 != 0 {
		return nil, malformed("sessions of a user", reply)
	}
	list := make([]presence.UserSession, 0, len(words)/2)
	for of := range slices.Chunk(words, 2) {
		list = append(list, presence.UserSession{ID: presence.SessionID(of[0]), Node: presence.NodeID(of[1])})
	}
	slices.SortFunc(list, func(a, b presence.UserSession) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return list, nil
}

// EndSessions ends a session of a user, or all of them where id is "", for the
// operator: if none is left the user is offline at once, and the nodes that hold them
// are told to close them. It returns how many were ended.
func (s *Store) EndSessions(ctx context.Context, k presence.Key, service presence.Service, id presence.SessionID) (int, error) {
	reply, err := s.run(ctx, "end sessions", sessionEndScript, s.Partition(k), k.Service, k.Identity, string(id), flag(service.Enabled), service.Epoch, service.Rev,
		ms(s.opt.Lease))
	if err != nil {
		return 0, err
	}
	n, ok := reply.(int64)
	if !ok {
		return 0, malformed("end sessions", reply)
	}
	return int(n), nil
}

// CountSessions returns how many live sessions each user has.
func (s *Store) CountSessions(ctx context.Context, users []presence.Key) ([]int, error) {
	ps := make([]presence.Partition, len(users))
	for i, k := range users {
		ps[i] = s.Partition(k)
	}
	counts := make([]int, len(users))
	replies := s.pipelineEach(ctx, userSessionsScript, ps, func(i int) []any { return []any{s.offset(), users[i].Service, users[i].Identity} })
	for i, reply := range replies {
		words, err := reply.Slice()
		if err != nil {
			return nil, unavailable("count sessions", err)
		}
		counts[i] = len(words) / 2
	}
	return counts, nil
}
