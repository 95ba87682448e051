package redisstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rollcall-presence/rollcall/presence"
)

const (
	// hookLease is how long a claimed webhook is its claimer's: longer than the few
	// that one claim takes of a user can take to deliver.
	hookLease = 30 * time.Second
	// claimServices and claimUsers bound what one claim takes of a partition.
	claimServices, claimUsers = 16, 8
	// replayChunk bounds the dead letters that one script replays.
	replayChunk = 50
)

func webhooksOf(f fields) presence.Webhooks {
	return presence.Webhooks{
		PreURL: f["hook_pre"], PostURL: f["hook_post"], Filters: f["hook_filters"], Method: f["hook_method"], Target: f["hook_target"],
	}
}

func webhookFields(u presence.WebhooksUpdate) []any {
	return given(nil, []optional{{"hook_pre", u.PreURL}, {"hook_post", u.PostURL}, {"hook_filters", u.Filters}, {"hook_method", u.Method}, {"hook_target", u.Target}})
}

// AccountWebhooks returns the account's webhooks.
func (s *Store) AccountWebhooks(ctx context.Context) (presence.Webhooks, error) {
	w, _, err := s.accountWebhooks(ctx)
	return w, err
}

func (s *Store) accountWebhooks(ctx context.Context) (presence.Webhooks, int64, error) {
	m, err := s.client.HGetAll(ctx, s.keys.Account()).Result()
	if err != nil {
		return presence.Webhooks{}, 0, unavailable("account webhooks", err)
	}
	return webhooksOf(m), fields(m).int("hook_version"), nil
}

// UpdateAccountWebhooks changes the account's webhooks, as UpdateService does a
// service's.
func (s *Store) UpdateAccountWebhooks(ctx context.Context, u presence.WebhooksUpdate) (presence.Webhooks, error) {
	f, err := s.writeAccount(ctx, append([]any{""}, webhookFields(u)...))
	if err != nil {
		return presence.Webhooks{}, err
	}
	s.tellPartitions(ctx, "*", f.int("hook_version"))
	return webhooksOf(f), nil
}

// tellPartitions tells all partitions of a change of webhooks that was just made.
// What this misses, a node that finds it in the to-do set does later.
func (s *Store) tellPartitions(ctx context.Context, owner string, version int64) {
	if s.tellWebhooks(ctx, owner) == nil {
		_ = s.client.ZRem(ctx, s.keys.Todo(), fmt.Sprintf("hooks %s %d", owner, version)).Err()
	}
}

// tellWebhooks tells all partitions what the backend of a service, or for * the
// account's, wants to hear as of now.
func (s *Store) tellWebhooks(ctx context.Context, owner string) error {
	var value string
	if owner == "*" {
		w, version, err := s.accountWebhooks(ctx)
		if err != nil {
			return err
		}
		value = fmt.Sprintf("%d %s 0", version, wanted(w))
	} else {
		service, err := s.Service(ctx, owner)
		switch {
		case errors.Is(err, presence.ErrNoService):
		case err != nil:
			return err
		default:
			kinds := "*"
			if service.Webhooks.Own() {
				kinds = wanted(service.Webhooks)
			}
			value = fmt.Sprintf("%d %s %d", service.WebhooksVersion, kinds, ms(service.Debounce))
		}
	}
	all := make([]presence.Partition, s.keys.Partitions)
	for p := range all {
		all[p] = presence.Partition(p)
	}
	for _, reply := range s.pipeline(ctx, hookSetScript, all, []any{s.offset(), owner, value}) {
		if err := reply.Err(); err != nil {
			return unavailable("tell partitions of webhooks", err)
		}
	}
	return nil
}

// wanted is what is to be queued, as lib.lua has it.
func wanted(w presence.Webhooks) string {
	var kinds strings.Builder
	if w.PostURL != "" {
		for kind, event := range owedEvents {
			if w.Fires(event) {
				kinds.WriteString(kind)
			}
		}
	}
	if kinds.Len() == 0 {
		return "-"
	}
	return kinds.String()
}

// owedEvents are the events that are queued, by their letter in lib.lua.
var owedEvents = map[string]string{
	"a": presence.EventUserAdded, "u": presence.EventUserUpdated, "r": presence.EventReachabilityChanged,
}

// ClaimWebhooks takes webhooks that are due in partitions, in one pipeline, leaving
// out services that are busy. The answers are in order; an error is one partition's.
// What is claimed is nobody else's for 30 s and then due again, unless it was settled.
func (s *Store) ClaimWebhooks(ctx context.Context, ps []presence.Partition, busy []string) ([]presence.Claim, []error) {
	claims, errs := make([]presence.Claim, len(ps)), make([]error, len(ps))
	args := []any{s.offset(), ms(hookLease), claimServices, claimUsers}
	for _, sid := range busy {
		args = append(args, sid)
	}
	for i, reply := range s.pipeline(ctx, hookClaimScript, ps, args) {
		v, err := reply.Result()
		if err != nil {
			errs[i] = unavailable("claim webhooks", err)
			continue
		}
		var ok bool
		if claims[i], ok = claimOf(v); !ok {
			errs[i] = malformed("claim webhooks", v)
		}
	}
	return claims, errs
}

// replyReader reads the slots of a script's reply one after another.
type replyReader struct {
	list []any
	bad  bool
}

func (r *replyReader) int() int {
	n, _ := next[int64](r)
	return int(n)
}

func (r *replyReader) text() string {
	s, _ := next[string](r)
	return s
}

func next[T any](r *replyReader) (v T, ok bool) {
	if len(r.list) == 0 {
		r.bad = true
		return v, false
	}
	v, ok = r.list[0].(T)
	r.list, r.bad = r.list[1:], r.bad || !ok
	return v, ok
}

func claimOf(reply any) (presence.Claim, bool) {
	list, ok := reply.([]any)
	r := replyReader{list: list, bad: !ok}
	c := presence.Claim{Next: time.Duration(r.int()) * time.Millisecond, LeftOut: r.int() == 1, Overflowed: r.int(), Lost: r.int()}
	for len(r.list) > 0 && !r.bad {
		u := presence.Claimed{Key: presence.Key{Service: r.text(), Identity: r.text()}, Failed: r.int()}
		for range r.int() {
			u.Events = append(u.Events, owed(u.Service, r.text()))
		}
		c.Users = append(c.Users, u)
	}
	return c, !r.bad
}

// owed reads an item of a user's queue. One that cannot be read has no event.
func owed(service, item string) presence.Owed {
	queued, rest, _ := strings.Cut(item, " ")
	sid, body, _ := strings.Cut(rest, " ")
	at, _ := strconv.ParseInt(queued, 10, 64)
	o := presence.Owed{SID: sid, Queued: time.UnixMilli(at).UTC()}
	var f fields
	if err := json.Unmarshal([]byte(body), &f); err != nil {
		return o
	}
	k := presence.Key{Service: service, Identity: f["i"]}
	o.User = presence.User{
		Key: k, SID: f["u"], Rev: f.int("v"), Online: f.tri("o"), Epoch: f.int("e"), Notifiable: f.tri("n"), NotifiableEpoch: f.int("ne"),
		LastOnline: f.millis("l"), Attributes: f["a"], Role: f["r"], Updated: f.millis("up"),
	}
	if us := f.int("cr"); us != 0 {
		o.User.Created = time.UnixMicro(us).UTC()
	}
	if name, ok := f["f"]; ok {
		o.User.FriendlyName = &name
	}
	o.Event, o.Profile, o.Cause, o.Origin, o.At, o.Before = owedEvents[f["k"]], f["p"] == "1", f["c"], f["x"], f.millis("t"), f.int("b")
	return o
}

// SettleWebhooks records what became of claimed webhooks: lists has that of each
// partition, in one pipeline. An event that is not delivered keep after it was queued
// becomes a dead letter. The answers are in order; an error is one partition's.
func (s *Store) SettleWebhooks(ctx context.Context, ps []presence.Partition, lists [][]presence.Settled, keep time.Duration) ([]presence.Settling, []error) {
	settled, errs := make([]presence.Settling, len(ps)), make([]error, len(ps))
	for i, reply := range s.pipelineEach(ctx, hookSettleScript, ps, func(i int) []any { return s.settleArgs(lists[i], keep) }) {
		v, err := reply.Result()
		if err != nil {
			errs[i] = unavailable("settle webhooks", err)
			continue
		}
		slots, ok := v.([]any)
		r := replyReader{list: slots, bad: !ok}
		settled[i] = presence.Settling{Dead: r.int(), Next: time.Duration(r.int()) * time.Millisecond}
		if r.bad {
			errs[i] = malformed("settle webhooks", v)
		}
	}
	return settled, errs
}

func (s *Store) settleArgs(list []presence.Settled, keep time.Duration) []any {
	args := make([]any, 0, 2+6*len(list))
	args = append(args, s.offset(), ms(keep))
	for _, v := range list {
		var delivered strings.Builder
		for _, sid := range v.Delivered {
			delivered.WriteString(sid + ",")
		}
		retry := ms(v.Retry)
		if v.Retry < 0 {
			retry = -1
		}
		args = append(args, v.Service, v.Identity, delivered.String(), v.Failed, retry, v.Why)
	}
	return args
}

// ListDeadLetters returns up to limit dead letters of a service in the order of
// their death; as ListUsers.
func (s *Store) ListDeadLetters(ctx context.Context, service, cursor string, limit int) (presence.Page[presence.DeadLetter], error) {
	sets := make([]string, s.keys.Partitions)
	for p := range sets {
		sets[p] = s.keys.DeadLetters(presence.Partition(p), service)
	}
	return listed(ctx, s, sets, cursor, limit, func(sids []string) (list []presence.DeadLetter, err error) {
		key := func(p presence.Partition) string { return s.keys.Letters(p, service) }
		err = s.entries(ctx, "list dead letters", sids, key, func(letter string) { list = append(list, deadLetter(service, letter)) })
		return list, err
	})
}

func deadLetter(service, letter string) presence.DeadLetter {
	var d presence.DeadLetter
	died, rest, _ := strings.Cut(letter, " ")
	us, _ := strconv.ParseInt(died, 10, 64)
	d.Died = time.UnixMicro(us).UTC()
	attempts, rest, _ := strings.Cut(rest, " ")
	d.Attempts, _ = strconv.Atoi(attempts)
	d.Why, rest, _ = strings.Cut(rest, " ")
	d.Owed = owed(service, rest)
	return d
}

// DeadLetter returns a dead letter of a service; ErrNoDeadLetter.
func (s *Store) DeadLetter(ctx context.Context, service, sid string) (presence.DeadLetter, error) {
	p, ok := s.keys.OfSID(sid)
	if !ok {
		return presence.DeadLetter{}, presence.ErrNoDeadLetter
	}
	letter, err := s.client.HGet(ctx, s.keys.Letters(p, service), sid).Result()
	if err == redis.Nil { //nolint:errorlint // the client returns it bare
		return presence.DeadLetter{}, presence.ErrNoDeadLetter
	}
	if err != nil {
		return presence.DeadLetter{}, unavailable("dead letter", err)
	}
	return deadLetter(service, letter), nil
}

// DeleteDeadLetter deletes a dead letter of a service; ErrNoDeadLetter.
func (s *Store) DeleteDeadLetter(ctx context.Context, service, sid string) error {
	return s.oneLetter(ctx, service, sid, "delete")
}

// ReplayDeadLetter queues a dead letter again, under its own SID, behind what waits
// of its user; ErrNoDeadLetter.
func (s *Store) ReplayDeadLetter(ctx context.Context, service, sid string) error {
	return s.oneLetter(ctx, service, sid, "replay")
}

func (s *Store) oneLetter(ctx context.Context, service, sid, what string) error {
	p, ok := s.keys.OfSID(sid)
	if !ok {
		return presence.ErrNoDeadLetter
	}
	n, err := s.letters(ctx, p, service, sid, 1, what)
	if err == nil && n == 0 {
		return presence.ErrNoDeadLetter
	}
	return err
}

// ReplayDeadLetters queues up to limit dead letters of a service again, those of a
// user in the order of their death, and returns how many. It makes a round trip for
// each partition and chunk.
func (s *Store) ReplayDeadLetters(ctx context.Context, service string, limit int) (done int, err error) {
	for p := range presence.Partition(s.keys.Partitions) {
		for done < limit {
			chunk := min(replayChunk, limit-done)
			n, err := s.letters(ctx, p, service, "", chunk, "replay")
			if err != nil {
				return done, err
			}
			if done += n; n < chunk {
				break
			}
		}
	}
	return done, nil
}

func (s *Store) letters(ctx context.Context, p presence.Partition, service, sid string, limit int, what string) (int, error) {
	reply, err := s.run(ctx, what+" dead letters", hookReplayScript, p, service, sid, limit, what)
	if err != nil {
		return 0, err
	}
	n, ok := reply.(int64)
	if !ok {
		return 0, malformed(what+" dead letters", reply)
	}
	return int(n), nil
}
