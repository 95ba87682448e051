package redisstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rollcall-presence/rollcall/presence"
)

const (
	// verifyChunk is about how many subjects one script of Verify looks at, and so how
	// long it keeps Redis from others: about 15 us for a user.
	verifyChunk = 50
	// verifyServices bounds the services that are named to one script.
	verifyServices = 200
	// maxSuspects bounds what Verify keeps of what does not agree at first sight.
	maxSuspects = 10_000
)

// VerifyOptions tunes Verify. The zero value looks at everything, once, and changes
// nothing.
type VerifyOptions struct {
	// Services, if any, are the only ones whose users are looked at.
	Services []string
	// Repair mends what is found.
	Repair bool
	// Node, if set, is a node that looks only at its share of the partitions.
	Node presence.NodeID
	// Pause, if set, is called before each script with the number of nodes that are
	// known. An error ends Verify with it.
	Pause func(ctx context.Context, nodes int) error
	// Confirm is how long a disagreement must last to be reported: longer than a node
	// takes to mend it with its heartbeats, or to finish what takes several steps.
	// Default 6s.
	Confirm time.Duration
	// Grace is how late what is due (a lease, a linger, a binding's expiry) may be.
	// Default 1m.
	Grace time.Duration
	// Linger is the longest that a user may linger; default 1m, at least the lease.
	Linger time.Duration
}

// Disagreement is one place where records do not agree.
type Disagreement struct {
	Partition presence.Partition `json:"partition"`
	Kind      string             `json:"kind"`
	Service   string             `json:"service,omitempty"`
	Identity  string             `json:"identity,omitempty"`
	What      string             `json:"what"` // the kind, in words
	Says      string             `json:"says"` // what each side says
	Cause     string             `json:"cause"`
	Repair    string             `json:"repair"`             // what repairing does
	Repaired  bool               `json:"repaired,omitempty"` // and it was done
}

// Verified is what Verify found.
type Verified struct {
	// How many were looked at.
	Partitions int `json:"partitions"`
	Services   int `json:"services"`
	// Disagreements, at most about 10,000; Unexamined is how many suspects there were beyond.
	Disagreements []Disagreement `json:"disagreements"`
	Unexamined    int            `json:"unexamined"`
}

// suspect is what did not agree at first sight: the subject of a check.
type suspect struct {
	p                       presence.Partition
	kind, service, id, rest string
}

// address is a push address of a service.
type address struct{ service, text string }

// verification is one run of Verify.
type verification struct {
	*Store
	opt      VerifyOptions
	nodes    []string
	services []presence.Service
	deleted  []string
	suspects map[suspect]map[string]bool // the kinds of disagreement seen
	order    []suspect                   // as they were found
	// binding SIDs that name an address which is in doubt
	addresses map[address]map[string]bool
	out       Verified
}

// Verify compares what the partitions' records say of each other: nodes' records of
// their sessions, leases, online states, users, lingers, indexes, copies and push
// bindings. It goes through them in chunks, each of which sees its users whole, in one
// step; what does not agree is looked at again later, so that a live system gives rise
// to no report. It reads no list of Redis's keys: what no index names is not seen.
//
// With Repair each disagreement is checked once more and mended in the same step;
// events are published where what a subscriber sees changes. Verify may run on any
// number of nodes at once.
func (s *Store) Verify(ctx context.Context, opt VerifyOptions) (Verified, error) {
	if opt.Confirm == 0 {
		opt.Confirm = 6 * time.Second
	}
	if opt.Grace == 0 {
		opt.Grace = time.Minute
	}
	// A linger of sessions that Redis lost lasts a lease.
	opt.Linger = max(opt.Linger, presence.MaxLinger, s.opt.Lease)
	v := &verification{Store: s, opt: opt, suspects: map[suspect]map[string]bool{}, addresses: map[address]map[string]bool{}}
	if err := v.readServices(ctx); err != nil {
		return v.out, err
	}
	mine, err := v.share(ctx)
	if err != nil {
		return v.out, err
	}
	for _, p := range mine {
		if err := v.partition(ctx, p); err != nil {
			return v.out, err
		}
	}
	v.out.Partitions, v.out.Services = len(mine), len(v.services)
	return v.out, v.confirm(ctx)
}

func (v *verification) readServices(ctx context.Context) error {
	for cursor := ""; ; {
		page, err := v.ListServices(ctx, cursor, verifyServices)
		if err != nil {
			return err
		}
		v.services = append(v.services, page.Items...)
		if cursor = page.Next; cursor == "" {
			break
		}
	}
	deleted, err := v.client.ZRange(ctx, v.keys.DeletedServices(), 0, -1).Result()
	if err != nil {
		return unavailable("verify", err)
	}
	v.deleted = deleted
	if len(v.opt.Services) > 0 {
		v.services = slices.DeleteFunc(v.services, func(s presence.Service) bool { return !slices.Contains(v.opt.Services, s.SID) })
		v.deleted = slices.DeleteFunc(v.deleted, func(sid string) bool { return !slices.Contains(v.opt.Services, sid) })
		for _, sid := range v.opt.Services {
			if !slices.Contains(v.deleted, sid) && !slices.ContainsFunc(v.services, func(s presence.Service) bool { return s.SID == sid }) {
				return fmt.Errorf("%s: %w", sid, presence.ErrNoService)
			}
		}
	}
	return nil
}

// share tells the partitions to look at, and learns the nodes that any partition knows.
func (v *verification) share(ctx context.Context) ([]presence.Partition, error) {
	var mine []presence.Partition
	known := map[string]bool{}
	for p := range presence.Partition(v.keys.Partitions) {
		_, more, err := v.script(ctx, p, "top", "", string(v.opt.Node))
		if err != nil {
			return nil, err
		}
		if len(more) == 0 {
			return nil, malformed("verify", more)
		}
		if v.opt.Node == "" || more[0] == "1" {
			mine = append(mine, p)
		}
		for _, n := range more[1:] {
			known[n] = true
		}
		v.nodes = slices.Sorted(maps.Keys(known))
	}
	return mine, nil
}

// partition looks at all that a partition holds.
func (v *verification) partition(ctx context.Context, p presence.Partition) error {
	var list []suspect
	for _, n := range v.nodes {
		list = append(list, suspect{p: p, kind: "N", rest: n})
	}
	for _, sid := range v.deleted {
		list = append(list, suspect{p: p, kind: "d", service: sid})
	}
	for chunk := range slices.Chunk(list, verifyChunk) {
		if _, err := v.check(ctx, p, chunk, false, v.suspect); err != nil {
			return err
		}
	}
	for _, n := range v.nodes {
		if err := v.walk(ctx, p, "session", nil, n); err != nil {
			return err
		}
	}
	for _, what := range []string{"linger", "bindexp"} {
		if err := v.walk(ctx, p, what, nil); err != nil {
			return err
		}
	}
	for services := range slices.Chunk(v.services, verifyServices) {
		if err := v.users(ctx, p, services); err != nil {
			return err
		}
	}
	return nil
}

// users looks at the users of services, and at what else a partition keeps of them
// where the numbers do not match.
func (v *verification) users(ctx context.Context, p presence.Partition, services []presence.Service) error {
	flags, all := map[string]string{}, services
	for cursor := ""; ; {
		var args []any
		for _, s := range services {
			args = append(args, serviceArgs(s)...)
		}
		before := len(v.order)
		next, more, err := v.script(ctx, p, "users", cursor, args...)
		if err != nil {
			return err
		}
		read := v.servicesOnce()
		for _, s := range v.order[before:] {
			if v.suspects[s]["epoch"] { // or the switch was flipped since the service was read
				now, exists, err := read(ctx, s.service)
				if err != nil {
					return err
				}
				if i := slices.IndexFunc(all, func(have presence.Service) bool { return have.SID == s.service }); exists && i >= 0 {
					all[i] = now
				}
			}
			if len(v.suspects[s]) > 1 || !v.suspects[s]["epoch"] { // where users are amiss, so may be the rest, in equal number
				flags[s.service] = "s" + flags[s.service]
			}
		}
		var settled []string
		for t := range slices.Chunk(more, 3) {
			if t[1] == "" {
				flags[t[0]] += t[2]
			} else {
				settled = append(settled, t...)
			}
		}
		if err := v.owners(ctx, settled); err != nil {
			return err
		}
		if next == "" {
			break
		}
		done, rest, _ := strings.Cut(next, " ")
		n, err := strconv.Atoi(done)
		if err != nil || n > len(services) {
			return malformed("verify", next)
		}
		services, cursor = services[n:], "0 "+rest
	}
	for _, s := range all {
		for _, part := range []struct {
			flag  string
			walks []string
		}{{"s", []string{"state", "online", "offline"}}, {"b", []string{"bsids", "bindings"}}, {"a", []string{"addr"}}} {
			for _, what := range part.walks {
				if !strings.Contains(flags[s.SID], part.flag) {
					break
				}
				if err := v.walk(ctx, p, what, v.holders, serviceArgs(s)...); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// serviceArgs is a service as the scripts take it.
func serviceArgs(s presence.Service) []any {
	if s.Created.IsZero() { // unknown
		return []any{s.SID, "0", -1, 0}
	}
	return []any{s.SID, flag(s.Enabled), s.Epoch, s.Rev}
}

// walk goes through one collection to its end.
func (v *verification) walk(ctx context.Context, p presence.Partition, what string, take func(context.Context, []string) error, args ...any) error {
	for cursor := ""; ; {
		next, more, err := v.script(ctx, p, what, cursor, args...)
		if err == nil && take != nil {
			err = take(ctx, more)
		}
		if err != nil || next == "" {
			return err
		}
		cursor = next
	}
}

// script runs verify.lua and takes note of what does not agree.
func (v *verification) script(ctx context.Context, p presence.Partition, what, cursor string, args ...any) (next string, more []string, err error) {
	if err := v.pause(ctx); err != nil {
		return "", nil, err
	}
	next, found, more, err := v.run(ctx, p, false, what, cursor, args...)
	for f := range slices.Chunk(found, 6) {
		v.suspect(suspect{p, f[1], f[2], f[3], f[4]}, f[0], f[5])
	}
	return next, more, err
}

func (v *verification) pause(ctx context.Context) error {
	if v.opt.Pause == nil {
		return nil
	}
	return v.opt.Pause(ctx, len(v.nodes))
}

func (v *verification) run(ctx context.Context, p presence.Partition, mend bool, what, cursor string, args ...any) (next string, found, more []string, err error) {
	reply, err := v.Store.run(ctx, "verify", verifyScript, p, append([]any{
		flag(mend), ms(v.opt.Grace), ms(v.Store.opt.Lease), ms(v.opt.Linger), ms(v.Store.opt.OnlineTTL), ms(v.Store.opt.Stall), what, cursor, verifyChunk,
	}, args...)...)
	if err != nil {
		return "", nil, nil, err
	}
	list, ok := reply.([]any)
	if !ok || len(list) != 3 {
		return "", nil, nil, malformed("verify", reply)
	}
	next, ok = list[0].(string)
	found, ok2 := texts(list[1])
	more, ok3 := texts(list[2])
	if !ok || !ok2 || !ok3 || len(found)%6 != 0 {
		return "", nil, nil, malformed("verify", reply)
	}
	return next, found, more, nil
}

// suspect notes what did not agree.
func (v *verification) suspect(s suspect, kind, _ string) {
	if len(v.opt.Services) > 0 && !slices.Contains(v.opt.Services, s.service) {
		return
	}
	if v.suspects[s] == nil {
		if v.full() {
			return
		}
		v.suspects[s] = map[string]bool{}
		v.order = append(v.order, s)
	}
	v.suspects[s][kind] = true
}

func (v *verification) full() bool {
	if len(v.suspects)+len(v.addresses) < maxSuspects {
		return false
	}
	v.out.Unexamined++
	return true
}

// check has subjects of one partition checked, or mended, and calls each with what is
// found. It returns whether anything was.
func (v *verification) check(ctx context.Context, p presence.Partition, list []suspect, mend bool, each func(s suspect, kind, says string)) (bool, error) {
	if err := v.pause(ctx); err != nil { // not between reading services and looking at their users
		return false, err
	}
	read := v.servicesOnce()
	args := make([]any, 0, 7*len(list))
	for _, s := range list {
		var service presence.Service
		if presence.IsSID(s.service, "IS") && s.kind != "d" {
			var err error
			if service, _, err = read(ctx, s.service); err != nil {
				return false, err
			}
		}
		args = append(args, s.kind, s.service, s.id, s.rest)
		args = append(args, serviceArgs(service)[1:]...)
	}
	_, found, _, err := v.run(ctx, p, mend, "check", "", args...)
	for f := range slices.Chunk(found, 6) {
		each(suspect{p, f[1], f[2], f[3], f[4]}, f[0], f[5])
	}
	return len(found) > 0, err
}

// confirm looks again at all that is suspect, after a while, and mends it if it is to.
func (v *verification) confirm(ctx context.Context) error {
	if len(v.order)+len(v.addresses) == 0 {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(v.opt.Confirm):
	}
	for _, s := range v.order {
		if pending, err := v.pending(ctx, s.service); err != nil {
			return err
		} else if pending {
			continue
		}
		first := len(v.out.Disagreements)
		kinds := v.suspects[s]
		_, err := v.check(ctx, s.p, []suspect{s}, false, func(now suspect, kind, says string) {
			if kinds[kind] {
				v.out.Disagreements = append(v.out.Disagreements, disagreement(now, kind, says))
			}
		})
		if err != nil {
			return err
		}
		if v.opt.Repair && len(v.out.Disagreements) > first {
			if err := v.mend(ctx, s, v.out.Disagreements[first:]); err != nil {
				return err
			}
		}
	}
	for _, a := range slices.SortedFunc(maps.Keys(v.addresses), func(a, b address) int { return strings.Compare(a.service+a.text, b.service+b.text) }) {
		if pending, err := v.pending(ctx, a.service); err != nil {
			return err
		} else if pending {
			continue
		}
		if err := v.confirmAddress(ctx, a, slices.Sorted(maps.Keys(v.addresses[a]))); err != nil {
			return err
		}
	}
	return nil
}

// pending reports whether a service is deleted and its users are yet to be.
func (v *verification) pending(ctx context.Context, service string) (bool, error) {
	if service == "" {
		return false, nil
	}
	_, err := v.client.ZScore(ctx, v.keys.Todo(), service).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return false, unavailable("verify", err)
	}
	return err == nil, nil
}

// mendRounds bounds how often one subject is mended: a node's sessions go in chunks of 100.
const mendRounds = 10_000

// mend mends a subject, and notes in list whether nothing is amiss with it then.
func (v *verification) mend(ctx context.Context, s suspect, list []Disagreement) (err error) {
	left := true
	if s.kind == "d" {
		if err = v.purgeIn(ctx, s.p, s.service); err == nil {
			left, err = v.check(ctx, s.p, []suspect{s}, false, func(suspect, string, string) {})
		}
	} else {
		for i := 0; left && err == nil && i < mendRounds; i++ {
			left, err = v.check(ctx, s.p, []suspect{s}, true, func(suspect, string, string) {})
		}
	}
	for i := range list {
		list[i].Repaired = !left && err == nil
	}
	return err
}

func disagreement(s suspect, kind, says string) Disagreement {
	k := kinds[kind]
	return Disagreement{Partition: s.p, Kind: kind, Service: s.service, Identity: s.id, What: k.what, Says: says, Cause: k.cause, Repair: k.repair}
}
