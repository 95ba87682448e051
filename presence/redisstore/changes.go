package redisstore

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rollcall-presence/rollcall/presence"
)

// Moment returns the present as all partitions see it, in two rounds. On a Cluster
// the primary whose clock is the last decides: changes on the others are seen
// later by as much as it is behind.
func (s *Store) Moment(ctx context.Context) (presence.Moment, error) {
	now, err := s.clock(ctx)
	if err != nil {
		return presence.Moment{}, unavailable("moment", err)
	}
	// The clock came first: a change that the reads below do not see has a later stamp.
	// Scripts may see the time of a millisecond ago.
	m := presence.Moment{Bound: now.UnixMicro() + s.offset()*1000 - 1000, Stamps: make([]int64, s.keys.Partitions)}
	var run *redis.StringCmd
	stamps := make([]*redis.StringCmd, s.keys.Partitions)
	_, _ = s.client.Pipelined(ctx, func(pipe redis.Pipeliner) error { // each command has its own error
		run = pipe.HGet(ctx, s.keys.Seq(presence.Services), "run")
		for p := range stamps {
			stamps[p] = pipe.HGet(ctx, s.keys.Seq(presence.Partition(p)), "stamp")
		}
		return nil
	})
	for _, c := range append(stamps, run) {
		if err := c.Err(); err != nil && err != redis.Nil { //nolint:errorlint // the client returns it bare
			return presence.Moment{}, unavailable("moment", err)
		}
	}
	m.Run = run.Val()
	for p, c := range stamps {
		m.Stamps[p], _ = strconv.ParseInt(c.Val(), 10, 64)
	}
	return m, nil
}

// clock is the lowest time of all primaries.
func (s *Store) clock(ctx context.Context) (time.Time, error) {
	cluster, ok := s.client.(*redis.ClusterClient)
	if !ok {
		return s.client.Time(ctx).Result()
	}
	var mu sync.Mutex // guards lowest
	var lowest time.Time
	err := cluster.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error {
		now, err := c.Time(ctx).Result()
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		if lowest.IsZero() || now.Before(lowest) {
			lowest = now
		}
		return nil
	})
	return lowest, err
}

// Changes returns up to limit users of a service that changed after a place and
// before a moment, in the order of their last change, as they are now; the service
// must have been read after the reader's former page. ErrPlaceGone. It makes two
// rounds, of partitions that have anything new and of the page's users.
func (s *Store) Changes(ctx context.Context, service presence.Service, from presence.Place, limit int, m presence.Moment) (presence.Changes, error) {
	var page presence.Changes
	switch {
	case from == (presence.Place{}):
		from = presence.Place{Run: m.Run, Switch: service.Rev, Since: m.Bound}
	case from.Run != m.Run || from.Since > m.Bound || m.Bound-from.Since > presence.ChangesKept.Microseconds():
		return page, presence.ErrPlaceGone
	case from.Switch != service.Rev:
		page.Reset = true
		from.Switch = service.Rev
		if service.Enabled {
			from.Stamp, from.Partition = 0, 0
		}
	}
	page.Next = from
	entries, more, err := s.log(ctx, service.SID, from, limit, m)
	if err != nil {
		return page, err
	}
	identities := make([]string, 0, len(entries))
	for _, e := range entries {
		if !e.deleted {
			identities = append(identities, e.identity)
		}
	}
	users, err := s.readPresence(ctx, service.SID, identities)
	if err != nil {
		return page, err
	}
	for _, e := range entries {
		page.Next.Stamp, page.Next.Partition = e.stamp, e.p
		c := presence.Change{Deleted: e.deleted, Place: page.Next}
		if e.deleted {
			c.User = presence.User{Key: presence.Key{Service: service.SID, Identity: e.identity}, Rev: e.rev}
		} else {
			c.User, users = users[0], users[1:]
		}
		if e.deleted || c.User.SID != "" { // else deleted meanwhile, which a later page tells
			page.Items = append(page.Items, c)
		}
	}
	page.More = more
	if !more {
		page.Next = m.Place(service)
	}
	return page, nil
}

// logged is an entry of the change log.
type logged struct {
	stamp    int64
	p        presence.Partition
	identity string
	deleted  bool
	rev      int64 // of a deletion, or more; below any that the user gets later
}

func (e logged) compare(o logged) int {
	return cmp.Or(cmp.Compare(e.stamp, o.stamp), cmp.Compare(e.p, o.p))
}

// merge makes one page of entries from many partitions, each of which told its first
// few.
type merge struct {
	limit   int
	each    int // how many a partition is asked for
	entries []logged
	end     *logged // up to where every partition has told all; nil: to its end
}

// newMerge is a page of limit entries from n partitions. What each is asked for makes
// most likely a page, because users are spread evenly.
func newMerge(limit, n int) *merge { return &merge{limit: limit, each: min(limit, 2*limit/n+16)} }

// add adds what a partition told of one kind.
func (m *merge) add(told []logged) {
	m.entries = append(m.entries, told...)
	if len(told) == m.each {
		if last := told[m.each-1]; m.end == nil || last.compare(*m.end) < 0 {
			m.end = &last
		}
	}
}

// page returns the page, and whether there may be more after it.
func (m *merge) page() (entries []logged, more bool) {
	slices.SortFunc(m.entries, logged.compare)
	n := len(m.entries)
	if m.end != nil {
		n, _ = slices.BinarySearchFunc(m.entries, *m.end, logged.compare)
		n++
	}
	return m.entries[:min(n, m.limit)], m.end != nil || n > m.limit
}

// log returns a page of the change log.
func (s *Store) log(ctx context.Context, service string, from presence.Place, limit int, m presence.Moment) (entries []logged, more bool, err error) {
	var ps []presence.Partition
	for i, stamp := range m.Stamps {
		p := presence.Partition(i)
		if from.Before(presence.Place{Stamp: stamp, Partition: p}) {
			ps = append(ps, p)
		}
	}
	if len(ps) == 0 {
		return nil, false, nil
	}
	merge := newMerge(limit, len(ps))
	replies := s.pipelineEach(ctx, changesScript, ps, func(i int) []any {
		return []any{s.offset(), service, after(from, ps[i]), "(" + strconv.FormatInt(m.Bound, 10), merge.each}
	})
	for i, reply := range replies {
		v, err := reply.Slice()
		if err != nil {
			return nil, false, unavailable("changes", err)
		}
		if len(v) != 4 {
			return nil, false, malformed("changes", v)
		}
		text, _ := v[0].(string)
		rev, _ := strconv.ParseInt(text, 10, 64)
		for kind, list := range v[1:] {
			members, ok := scored(list)
			if !ok {
				return nil, false, malformed("changes", list)
			}
			told := make([]logged, len(members))
			for j, z := range members {
				told[j] = logged{stamp: int64(z.Score), p: ps[i], identity: z.Member.(string), deleted: kind == 2, rev: rev}
			}
			merge.add(told)
		}
	}
	entries, more = merge.page()
	return entries, more, nil
}

// after is the lower bound, for ZRANGEBYSCORE, of what a partition has after a place.
func after(from presence.Place, p presence.Partition) string {
	stamp := strconv.FormatInt(from.Stamp, 10)
	if p > from.Partition {
		return stamp
	}
	return "(" + stamp
}

// scored reads members with scores as a script returns them.
func scored(reply any) ([]redis.Z, bool) {
	list, ok := reply.([]any)
	if !ok || len(list)%2 != 0 {
		return nil, false
	}
	members := make([]redis.Z, len(list)/2)
	for i := range members {
		identity, ok1 := list[2*i].(string)
		text, ok2 := list[2*i+1].(string)
		score, err := strconv.ParseFloat(text, 64)
		if !ok1 || !ok2 || err != nil {
			return nil, false
		}
		members[i] = redis.Z{Member: identity, Score: score}
	}
	return members, true
}

// onlineRun marks places in lists of online users, which are no cursors of changes.
const onlineRun = "online"

// OnlineUsers returns up to limit users of a service that are recorded online, in
// the order of their last change, from a cursor of an earlier page or "" for the
// first; an unknown cursor is KindInvalid. A user that stays online is on one of the
// pages at least, and on another one if it changes meanwhile. count is how many are
// online in all. It makes two rounds.
func (s *Store) OnlineUsers(ctx context.Context, service, cursor string, limit int) (page presence.Page[presence.User], count int64, err error) {
	from, err := presence.ParsePlace(cursor)
	if err == nil && cursor != "" && from.Run != onlineRun {
		err = presence.ErrPlace
	}
	if err != nil {
		return page, 0, err
	}
	merge := newMerge(limit, s.keys.Partitions)
	ranges, counts := make([]*redis.ZSliceCmd, s.keys.Partitions), make([]*redis.IntCmd, s.keys.Partitions)
	_, err = s.client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i := range ranges {
			p := presence.Partition(i)
			ranges[i] = pipe.ZRangeByScoreWithScores(ctx, s.keys.Online(p, service), &redis.ZRangeBy{Min: after(from, p), Max: "+inf", Count: int64(merge.each)})
			counts[i] = pipe.ZCard(ctx, s.keys.Online(p, service))
		}
		return nil
	})
	if err != nil {
		return page, 0, unavailable("online users", err)
	}
	for i := range ranges {
		count += counts[i].Val()
		told := make([]logged, len(ranges[i].Val()))
		for j, z := range ranges[i].Val() {
			told[j] = logged{stamp: int64(z.Score), p: presence.Partition(i), identity: z.Member.(string)}
		}
		merge.add(told)
	}
	entries, more := merge.page()
	identities := make([]string, len(entries))
	for i, e := range entries {
		identities[i] = e.identity
	}
	users, err := s.readPresence(ctx, service, identities)
	if err != nil {
		return page, 0, err
	}
	for _, u := range users {
		if u.Online == presence.True { // still
			page.Items = append(page.Items, u)
		}
	}
	if more {
		last := entries[len(entries)-1]
		page.Next = presence.Place{Run: onlineRun, Stamp: last.stamp, Partition: last.p}.String()
	}
	return page, count, nil
}
