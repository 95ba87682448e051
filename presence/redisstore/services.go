package redisstore

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rollcall-presence/rollcall/presence"
)

const (
	// purgeChunk bounds the users that one purge script deletes.
	purgeChunk = 200
	// purgeAgain is when a deleted service is purged once more: by then every node
	// has heard of the deletion and registers nothing in it any longer.
	purgeAgain = 30 * time.Second
)

func serviceOf(f fields) presence.Service {
	v := presence.Service{
		SID: f["sid"], Account: f["account"], FriendlyName: f["friendly_name"],
		Enabled: f["enabled"] == "1", Epoch: f.int("epoch"), Rev: f.int("rev"), Linger: -1,
		DefaultServiceRole: f["role_service"], DefaultConversationRole: f["role_conversation"], DefaultConversationCreatorRole: f["role_creator"],
		Created: time.UnixMicro(f.int("created")).UTC(), Updated: f.millis("updated"),
	}
	v.Webhooks, v.WebhooksVersion = webhooksOf(f), f.int("hook_version")
	v.Debounce = time.Duration(f.int("debounce")) * time.Millisecond
	if n := f.int("linger"); n >= 0 {
		v.Linger = time.Duration(n) * time.Millisecond
	}
	return v
}

// CreateService makes a service. SID, dates and default roles are filled in; the
// switch is off.
func (s *Store) CreateService(ctx context.Context, v presence.Service) (presence.Service, error) {
	return s.writeService(ctx, "create", v)
}

func (s *Store) writeService(ctx context.Context, mode string, v presence.Service) (presence.Service, error) {
	return s.serviceReply(s.run(ctx, mode+" service", serviceWriteScript, presence.Services, mode, s.newSID("IS"),
		"account", v.Account, "friendly_name", v.FriendlyName, "enabled", "0", "linger", lingerField(v.Linger),
		"role_service", s.newSID("RL"), "role_conversation", s.newSID("RL"), "role_creator", s.newSID("RL")))
}

// lingerField is a linger in milliseconds, -1 for any negative one.
func lingerField(d time.Duration) int64 {
	if d < 0 {
		return -1
	}
	return ms(d)
}

// UpdateService changes a service and returns it; ErrNoService, ErrNoRole. A flip of the
// switch is a new revision, and turning it on a new epoch. A change of webhooks or
// debounce is told to every partition in one round more, and holds for what happens
// after; should that fail, some node makes up for it within seconds.
func (s *Store) UpdateService(ctx context.Context, sid string, u presence.ServiceUpdate) (presence.Service, error) {
	args := []any{"update", sid}
	if u.Enabled != nil {
		args = append(args, "enabled", flag(*u.Enabled))
	}
	if u.Linger != nil {
		args = append(args, "linger", lingerField(*u.Linger))
	}
	args = given(args, []optional{{"role_service", u.DefaultServiceRole}, {"role_conversation", u.DefaultConversationRole}, {"role_creator", u.DefaultConversationCreatorRole}})
	if u.Webhooks != nil {
		args = append(args, webhookFields(*u.Webhooks)...)
	}
	if u.Debounce != nil {
		args = append(args, "debounce", ms(*u.Debounce))
	}
	v, err := s.serviceReply(s.run(ctx, "update service", serviceWriteScript, presence.Services, args...))
	if err == nil && (u.Webhooks != nil || u.Debounce != nil) {
		s.tellPartitions(ctx, sid, v.WebhooksVersion)
	}
	return v, err
}

func (s *Store) serviceReply(reply any, err error) (presence.Service, error) {
	if err != nil {
		return presence.Service{}, err
	}
	switch reply {
	case "missing":
		return presence.Service{}, presence.ErrNoService
	case "no role":
		return presence.Service{}, presence.ErrNoRole
	}
	f, ok := hash(reply)
	if !ok {
		return presence.Service{}, malformed("service", reply)
	}
	return serviceOf(f), nil
}

// Service returns a service; ErrNoService.
func (s *Store) Service(ctx context.Context, sid string) (presence.Service, error) {
	if !presence.IsSID(sid, "IS") {
		return presence.Service{}, presence.ErrNoService
	}
	f, err := s.client.HGetAll(ctx, s.keys.Service(sid)).Result()
	if err != nil {
		return presence.Service{}, unavailable("service", err)
	}
	if f["sid"] == "" {
		return presence.Service{}, presence.ErrNoService
	}
	return serviceOf(f), nil
}

// RestoreService implements presence.ServiceStore.
func (s *Store) RestoreService(ctx context.Context, v presence.Service, run string) (presence.Service, error) {
	d := s.defaultedTo.Load()
	args := []any{
		v.SID, run, flag(d != nil && *d == v.SID), s.keys.Partitions, v.Created.UnixMicro(),
		"account", v.Account, "friendly_name", v.FriendlyName, "enabled", flag(v.Enabled), "linger", lingerField(v.Linger),
		"role_service", v.DefaultServiceRole, "role_conversation", v.DefaultConversationRole, "role_creator", v.DefaultConversationCreatorRole,
		"updated", v.Updated.UnixMilli(),
	}
	if v.Rev != 0 {
		args = append(args, "rev", v.Rev, "epoch", v.Epoch)
	}
	if v.WebhooksVersion != 0 {
		w := v.Webhooks
		args = append(args, webhookFields(presence.WebhooksUpdate{PreURL: &w.PreURL, PostURL: &w.PostURL, Filters: &w.Filters, Method: &w.Method})...)
		args = append(args, "debounce", ms(v.Debounce), "hook_version", v.WebhooksVersion)
	}
	return s.serviceReply(s.run(ctx, "restore service", serviceRestoreScript, presence.Services, args...))
}

// ListServices returns up to limit services in creation order; as ListUsers.
func (s *Store) ListServices(ctx context.Context, cursor string, limit int) (presence.Page[presence.Service], error) {
	return listed(ctx, s, []string{s.keys.AllServices()}, cursor, limit, func(sids []string) (list []presence.Service, err error) {
		hashes, err := s.hashes(ctx, "list services", len(sids), func(i int) string { return s.keys.Service(sids[i]) })
		for _, f := range hashes {
			if f["sid"] != "" {
				list = append(list, serviceOf(f))
			}
		}
		return list, err
	})
}

// DefaultService is the SID of the default service. Where Redis lost it with its
// data, it is made anew.
func (s *Store) DefaultService(ctx context.Context) (string, error) {
	sid, err := s.client.Get(ctx, s.keys.DefaultService()).Result()
	if err == redis.Nil && s.account.Load() != nil { //nolint:errorlint // the client returns it bare
		return s.ensureDefault(ctx)
	}
	if err != nil {
		return "", unavailable("default service", err)
	}
	s.defaultedTo.Store(&sid)
	return sid, nil
}

// DeleteService deletes a service and its users; ErrNoService, and ErrDefaultService
// for the default one. From the first round trip on the service is gone for every
// reader; its users follow, one partition a round trip.
func (s *Store) DeleteService(ctx context.Context, sid string) error {
	reply, err := s.run(ctx, "delete service", serviceDeleteScript, presence.Services, sid, ms(purgeAgain))
	if err != nil {
		return err
	}
	switch reply {
	case int64(0):
		return presence.ErrNoService
	case int64(2):
		return presence.ErrDefaultService
	}
	// What this misses (the node dies, Redis goes away) the later purge finds.
	_ = s.purge(ctx, sid)
	return nil
}

func (s *Store) purge(ctx context.Context, sid string) error {
	for p := range presence.Partition(s.keys.Partitions) {
		if err := s.purgeIn(ctx, p, sid); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) purgeIn(ctx context.Context, p presence.Partition, sid string) error {
	for {
		left, err := s.run(ctx, "purge", purgeScript, p, sid, purgeChunk)
		if err != nil || left == int64(0) {
			return err
		}
	}
}

// BeatServices asks for the state of the services' event counter, and does what is
// left to do in the partitions, if that is due.
func (s *Store) BeatServices(ctx context.Context) (run string, seq uint64, err error) {
	reply, err := s.run(ctx, "beat services", serviceBeatScript, presence.Services, 1)
	if err != nil {
		return "", 0, err
	}
	list, ok := reply.([]any)
	if !ok || len(list) < 2 {
		return "", 0, malformed("beat services", reply)
	}
	run, _ = list[0].(string)
	n, _ := list[1].(string)
	seq, err = strconv.ParseUint(n, 10, 64)
	if err != nil {
		return "", 0, malformed("beat services", reply)
	}
	for _, v := range list[2:] {
		todo, _ := v.(string)
		if change, ok := strings.CutPrefix(todo, "hooks "); ok {
			owner, _, _ := strings.Cut(change, " ")
			err = s.tellWebhooks(ctx, owner)
		} else if presence.IsSID(todo, "CR") {
			err = s.purgeCredential(ctx, todo)
		} else {
			err = s.purge(ctx, todo)
		}
		if err != nil {
			return run, seq, err
		}
		if err := s.client.ZRem(ctx, s.keys.Todo(), todo).Err(); err != nil {
			return run, seq, unavailable("todo", err)
		}
	}
	return run, seq, nil
}
