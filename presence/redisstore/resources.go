package redisstore

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rollcall-presence/rollcall/presence"
)

// stockRoles are the roles that every service comes with. New users get the second,
// creators of conversations the third and other participants the fourth.
var stockRoles = []presence.Role{
	{FriendlyName: "service admin", Type: presence.RoleOfService, Permissions: []string{
		"addParticipant", "createConversation", "deleteAnyMessage", "deleteConversation", "editAnyMessage", "editAnyMessageAttributes",
		"editAnyUserInfo", "editConversationAttributes", "editConversationName", "editOwnMessage", "editOwnMessageAttributes",
		"editOwnUserInfo", "joinConversation", "removeParticipant",
	}},
	{FriendlyName: "service user", Type: presence.RoleOfService, Permissions: []string{
		"createConversation", "editOwnMessage", "editOwnMessageAttributes", "editOwnUserInfo", "joinConversation",
	}},
	{FriendlyName: "channel admin", Type: presence.RoleOfConversation, Permissions: []string{
		"addParticipant", "deleteAnyMessage", "deleteConversation", "deleteOwnMessage", "editAnyMessage", "editAnyMessageAttributes",
		"editConversationAttributes", "editConversationName", "editOwnMessage", "editOwnMessageAttributes", "editOwnUserInfo",
		"leaveConversation", "removeParticipant", "sendMediaMessage", "sendMessage",
	}},
	{FriendlyName: "channel user", Type: presence.RoleOfConversation, Permissions: []string{
		"deleteOwnMessage", "editOwnMessage", "editOwnMessageAttributes", "editOwnUserInfo", "leaveConversation", "sendMediaMessage", "sendMessage",
	}},
}

func roleOf(service string, f fields) (r presence.Role, err error) {
	err = json.Unmarshal([]byte(f["permissions"]), &r.Permissions)
	r.SID, r.Service, r.FriendlyName, r.Type = f["sid"], service, f["friendly_name"], presence.RoleType(f["type"])
	r.Created, r.Updated = time.UnixMicro(f.int("created")).UTC(), f.millis("updated")
	return r, err
}

func permissionsField(permissions []string) (string, error) {
	if permissions == nil {
		permissions = []string{}
	}
	b, err := json.Marshal(permissions)
	return string(b), err
}

// stock makes the roles that the service comes with, unless it has roles; ErrNoService.
func (s *Store) stock(ctx context.Context, service string) error {
	args := []any{service, s.newSID("RL")}
	for _, r := range stockRoles {
		permissions, err := permissionsField(r.Permissions)
		if err != nil {
			return err
		}
		args = append(args, r.FriendlyName, string(r.Type), permissions)
	}
	reply, err := s.run(ctx, "stock roles", roleStockScript, presence.Services, args...)
	if err == nil && reply == int64(0) {
		return presence.ErrNoService
	}
	return err
}

// CreateRole makes a role of a service. SID and dates are filled in; ErrNoService,
// ErrTooManyRoles.
func (s *Store) CreateRole(ctx context.Context, r presence.Role) (presence.Role, error) {
	permissions, err := permissionsField(r.Permissions)
	if err != nil {
		return presence.Role{}, err
	}
	args := []any{"create", r.Service, s.newSID("RL"), permissions, r.FriendlyName, string(r.Type), presence.MaxRoles}
	reply, err := s.run(ctx, "create role", roleWriteScript, presence.Services, args...)
	if err == nil && reply == "stock" {
		if err := s.stock(ctx, r.Service); err != nil {
			return presence.Role{}, err
		}
		reply, err = s.run(ctx, "create role", roleWriteScript, presence.Services, args...)
	}
	return roleReply(r.Service, reply, err, presence.ErrNoService)
}

// UpdateRole replaces a role's permissions and returns it; ErrNoRole.
func (s *Store) UpdateRole(ctx context.Context, service, sid string, permissions []string) (presence.Role, error) {
	if _, err := s.Role(ctx, service, sid); err != nil { // a stock role may have to be made first
		return presence.Role{}, err
	}
	text, err := permissionsField(permissions)
	if err != nil {
		return presence.Role{}, err
	}
	reply, err := s.run(ctx, "update role", roleWriteScript, presence.Services, "update", service, sid, text)
	return roleReply(service, reply, err, presence.ErrNoRole)
}

func roleReply(service string, reply any, err, missing error) (presence.Role, error) {
	if err != nil {
		return presence.Role{}, err
	}
	switch reply {
	case "missing":
		return presence.Role{}, missing
	case "full":
		return presence.Role{}, presence.ErrTooManyRoles
	}
	f, ok := hash(reply)
	if !ok {
		return presence.Role{}, malformed("role", reply)
	}
	return roleOf(service, f)
}

// Role returns a role of a service; ErrNoRole.
func (s *Store) Role(ctx context.Context, service, sid string) (presence.Role, error) {
	if !presence.IsSID(sid, "RL") {
		return presence.Role{}, presence.ErrNoRole
	}
	for stocked := false; ; stocked = true {
		var role *redis.MapStringStringCmd
		var stock *redis.IntCmd
		_, err := s.client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
			role = pipe.HGetAll(ctx, s.keys.Role(service, sid))
			stock = pipe.Exists(ctx, s.keys.Roles(service))
			return nil
		})
		switch {
		case err != nil:
			return presence.Role{}, unavailable("role", err)
		case role.Val()["sid"] != "":
			return roleOf(service, role.Val())
		case stocked || stock.Val() == 1:
			return presence.Role{}, presence.ErrNoRole
		}
		if err := s.stock(ctx, service); errors.Is(err, presence.ErrNoService) {
			return presence.Role{}, presence.ErrNoRole
		} else if err != nil {
			return presence.Role{}, err
		}
	}
}

// ListRoles returns up to limit roles of a service in creation order; as ListUsers.
func (s *Store) ListRoles(ctx context.Context, service, cursor string, limit int) (presence.Page[presence.Role], error) {
	list := func() (presence.Page[presence.Role], error) {
		return listed(ctx, s, []string{s.keys.Roles(service)}, cursor, limit, func(sids []string) (list []presence.Role, err error) {
			hashes, err := s.hashes(ctx, "list roles", len(sids), func(i int) string { return s.keys.Role(service, sids[i]) })
			for _, f := range hashes {
				if f["sid"] == "" {
					continue
				}
				r, err := roleOf(service, f)
				if err != nil {
					return nil, err
				}
				list = append(list, r)
			}
			return list, err
		})
	}
	page, err := list()
	if err != nil || len(page.Items) > 0 || cursor != "" {
		return page, err
	}
	if err := s.stock(ctx, service); err != nil {
		return presence.Page[presence.Role]{}, err
	}
	return list()
}

// DeleteRole deletes a role; ErrNoRole, and ErrDefaultRole for a default of its
// service. Users who have it keep its SID until they are given another.
func (s *Store) DeleteRole(ctx context.Context, service, sid string) error {
	if _, err := s.Role(ctx, service, sid); err != nil { // a stock role may have to be made first
		return err
	}
	reply, err := s.run(ctx, "delete role", roleDeleteScript, presence.Services, service, sid)
	switch {
	case err != nil:
		return err
	case reply == int64(0):
		return presence.ErrNoRole
	case reply == int64(2):
		return presence.ErrDefaultRole
	}
	return nil
}

// Account returns the account's configuration.
func (s *Store) Account(ctx context.Context) (presence.Account, error) {
	f, err := s.client.HGetAll(ctx, s.keys.Account()).Result()
	if err != nil {
		return presence.Account{}, unavailable("account", err)
	}
	return presence.Account{MessagingService: f["messaging_service"], InactiveTimer: f["inactive_timer"], ClosedTimer: f["closed_timer"]}, nil
}

// UpdateAccount changes the account's configuration. With ErrNoService for the
// default one nothing was changed.
func (s *Store) UpdateAccount(ctx context.Context, u presence.AccountUpdate) error {
	args := []any{""}
	if u.DefaultService != nil {
		args[0] = *u.DefaultService
	}
	args = given(args, []optional{{"messaging_service", u.MessagingService}, {"inactive_timer", u.InactiveTimer}, {"closed_timer", u.ClosedTimer}})
	_, err := s.writeAccount(ctx, args)
	return err
}

// writeAccount runs account_write.lua.
func (s *Store) writeAccount(ctx context.Context, args []any) (fields, error) {
	const op = "update account"
	reply, err := s.run(ctx, op, accountWriteScript, presence.Services, args...)
	return written(op, reply, err, presence.ErrNoService)
}

// Notifications returns the push settings of a service that were ever set, by name.
func (s *Store) Notifications(ctx context.Context, service string) (map[string]string, error) {
	f, err := s.client.HGetAll(ctx, s.keys.Notifications(service)).Result()
	if err != nil {
		return nil, unavailable("notifications", err)
	}
	return f, nil
}

// UpdateNotifications sets push settings of a service, or clears those that are
// empty, and returns what holds then; ErrNoService.
func (s *Store) UpdateNotifications(ctx context.Context, service string, set map[string]string) (map[string]string, error) {
	args := []any{service}
	for name, value := range set {
		args = append(args, name, value)
	}
	const op = "update notifications"
	reply, err := s.run(ctx, op, notificationsWriteScript, presence.Services, args...)
	return written(op, reply, err, presence.ErrNoService)
}
