package redisstore

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rollcall-presence/rollcall/presence"
)

func credentialOf(f fields) presence.Credential {
	return presence.Credential{
		SID: f["sid"], Account: f["account"], Type: presence.PushType(f["type"]), FriendlyName: f["friendly_name"], Sandbox: f["sandbox"] == "1",
		Created: time.UnixMicro(f.int("created")).UTC(), Updated: f.millis("updated"),
	}
}

// CreateCredential makes a push credential of an account.
func (s *Store) CreateCredential(ctx context.Context, account string, t presence.PushType, u presence.CredentialUpdate) (presence.Credential, error) {
	return s.writeCredential(ctx, "create", s.newSID("CR"), u, "account", account, "type", string(t))
}

// UpdateCredential changes a push credential and returns it; ErrNoCredential.
func (s *Store) UpdateCredential(ctx context.Context, sid string, u presence.CredentialUpdate) (presence.Credential, error) {
	return s.writeCredential(ctx, "update", sid, u)
}

func (s *Store) writeCredential(ctx context.Context, mode, sid string, u presence.CredentialUpdate, more ...any) (presence.Credential, error) {
	if !presence.IsSID(sid, "CR") {
		return presence.Credential{}, presence.ErrNoCredential
	}
	args := append([]any{mode, sid}, more...)
	args = given(args, []optional{{"friendly_name", u.FriendlyName}, {"certificate", u.Certificate}, {"private_key", u.PrivateKey}, {"api_key", u.APIKey}, {"secret", u.Secret}})
	if u.Sandbox != nil {
		args = append(args, "sandbox", flag(*u.Sandbox))
	}
	op := mode + " credential"
	reply, err := s.run(ctx, op, credentialWriteScript, presence.Services, args...)
	f, err := written(op, reply, err, presence.ErrNoCredential)
	if err != nil {
		return presence.Credential{}, err
	}
	return credentialOf(f), nil
}

// credentialFields are what is read back of a credential.
var credentialFields = []string{"sid", "account", "type", "friendly_name", "sandbox", "created", "updated"}

// Credential returns a push credential; ErrNoCredential.
func (s *Store) Credential(ctx context.Context, sid string) (presence.Credential, error) {
	if !presence.IsSID(sid, "CR") {
		return presence.Credential{}, presence.ErrNoCredential
	}
	list, err := s.readCredentials(ctx, []string{sid})
	if err != nil {
		return presence.Credential{}, err
	}
	if len(list) == 0 {
		return presence.Credential{}, presence.ErrNoCredential
	}
	return list[0], nil
}

func (s *Store) readCredentials(ctx context.Context, sids []string) (list []presence.Credential, err error) {
	cmds := make([]*redis.SliceCmd, len(sids))
	_, err = s.client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, sid := range sids {
			cmds[i] = pipe.HMGet(ctx, s.keys.Credential(sid), credentialFields...)
		}
		return nil
	})
	if err != nil {
		return nil, unavailable("credentials", err)
	}
	for _, c := range cmds {
		f := fields{}
		for i, v := range c.Val() {
			f[credentialFields[i]], _ = v.(string)
		}
		if f["sid"] != "" { // not deleted between the rounds
			list = append(list, credentialOf(f))
		}
	}
	return list, nil
}

// ListCredentials returns up to limit push credentials in creation order; as
// ListUsers.
func (s *Store) ListCredentials(ctx context.Context, cursor string, limit int) (presence.Page[presence.Credential], error) {
	return listed(ctx, s, []string{s.keys.Credentials()}, cursor, limit, func(sids []string) ([]presence.Credential, error) {
		return s.readCredentials(ctx, sids)
	})
}

// DeleteCredential deletes a push credential and its bindings; ErrNoCredential. From
// the first round trip on nothing is bound with it; its bindings follow, in chunks.
func (s *Store) DeleteCredential(ctx context.Context, sid string) error {
	if !presence.IsSID(sid, "CR") {
		return presence.ErrNoCredential
	}
	reply, err := s.run(ctx, "delete credential", credentialDeleteScript, presence.Services, sid, ms(purgeAgain))
	if err != nil {
		return err
	}
	if reply == int64(0) {
		return presence.ErrNoCredential
	}
	_ = s.purgeCredential(ctx, sid) // what this misses the later purge finds
	return nil
}

// purgeCredential removes the bindings of a deleted credential.
func (s *Store) purgeCredential(ctx context.Context, sid string) error {
	read := s.servicesOnce()
	for {
		chunks := make([]*redis.StringSliceCmd, s.keys.Partitions)
		_, err := s.client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
			for p := range chunks {
				chunks[p] = pipe.SRandMemberN(ctx, s.keys.BindingsWith(presence.Partition(p), sid), purgeChunk)
			}
			return nil
		})
		if err != nil {
			return unavailable("purge credential", err)
		}
		found := false
		for _, chunk := range chunks {
			var list []unbinding
			for _, member := range chunk.Val() {
				if len(member) != 2*sidLen {
					return malformed("purge credential", member)
				}
				service, _, err := read(ctx, member[:sidLen])
				if err != nil {
					return err
				}
				list = append(list, unbinding{service: service, sid: member[sidLen:]})
			}
			found = found || len(list) > 0
			if _, err := s.remove(ctx, "unregister_push", sid, list); err != nil {
				return err
			}
		}
		if !found {
			return nil
		}
	}
}
