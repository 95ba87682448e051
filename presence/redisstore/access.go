package redisstore

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"strconv"
	"time"

	"github.com/rollcall-presence/rollcall/presence"
)

const (
	// accessChunk bounds the revocations, and keys, that one script reads or writes.
	accessChunk = 1000
	// keyMemory is for how long a deleted key is not written back by a node that was
	// away when it was deleted.
	keyMemory = 7 * 24 * time.Hour
)

func keyOf(f fields) presence.APIKey {
	return presence.APIKey{
		SID: f["sid"], Account: f["account"], FriendlyName: f["friendly_name"], Secret: f["secret"],
		Created: time.UnixMicro(f.int("created")).UTC(), Updated: f.millis("updated"),
	}
}

// CreateAPIKey makes an API key of an account. SID, secret (letters and digits only,
// since client libraries refuse others) and dates are filled in; ErrTooManyKeys.
func (s *Store) CreateAPIKey(ctx context.Context, account, name string) (presence.APIKey, error) {
	return keyReply(s.run(ctx, "create key", keyWriteScript, presence.Services, "create", s.newSID("SK"), name, account, rand.Text()+rand.Text(), presence.MaxAPIKeys))
}

// UpdateAPIKey renames an API key and returns it; ErrNoKey.
func (s *Store) UpdateAPIKey(ctx context.Context, sid, name string) (presence.APIKey, error) {
	return keyReply(s.run(ctx, "update key", keyWriteScript, presence.Services, "update", sid, name))
}

func keyReply(reply any, err error) (presence.APIKey, error) {
	if err != nil {
		return presence.APIKey{}, err
	}
	switch reply {
	case "missing":
		return presence.APIKey{}, presence.ErrNoKey
	case "full":
		return presence.APIKey{}, presence.ErrTooManyKeys
	}
	f, ok := hash(reply)
	if !ok {
		return presence.APIKey{}, malformed("key", reply)
	}
	return keyOf(f), nil
}

// APIKey returns an API key; ErrNoKey.
func (s *Store) APIKey(ctx context.Context, sid string) (presence.APIKey, error) {
	if !presence.IsSID(sid, "SK") {
		return presence.APIKey{}, presence.ErrNoKey
	}
	f, err := s.client.HGetAll(ctx, s.keys.APIKey(sid)).Result()
	if err != nil {
		return presence.APIKey{}, unavailable("key", err)
	}
	if f["sid"] == "" {
		return presence.APIKey{}, presence.ErrNoKey
	}
	return keyOf(f), nil
}

// ListAPIKeys returns up to limit API keys in creation order; as ListUsers.
func (s *Store) ListAPIKeys(ctx context.Context, cursor string, limit int) (presence.Page[presence.APIKey], error) {
	return listed(ctx, s, []string{s.keys.APIKeys()}, cursor, limit, func(sids []string) (list []presence.APIKey, err error) {
		hashes, err := s.hashes(ctx, "list keys", len(sids), func(i int) string { return s.keys.APIKey(sids[i]) })
		for _, f := range hashes {
			if f["sid"] != "" {
				list = append(list, keyOf(f))
			}
		}
		return list, err
	})
}

// DeleteAPIKey deletes an API key; ErrNoKey.
func (s *Store) DeleteAPIKey(ctx context.Context, sid string) error {
	reply, err := s.run(ctx, "delete key", keyDeleteScript, presence.Services, sid, ms(keyMemory))
	if err == nil && reply == int64(0) {
		return presence.ErrNoKey
	}
	return err
}

// Revoke withdraws a service's access tokens that were issued before a time (the
// zero time: now, by the store's clock), of one identity or ("") of everybody;
// ErrNoService, ErrTooManyRevocations.
func (s *Store) Revoke(ctx context.Context, service, identity string, before time.Time) (presence.Revocation, error) {
	at := ""
	if !before.IsZero() {
		at = strconv.FormatInt(before.UnixMilli(), 10)
	}
	reply, err := s.run(ctx, "revoke", revokeScript, presence.Services, service, identity, at, ms(presence.RevocationLife), presence.MaxRevocations)
	if err != nil {
		return presence.Revocation{}, err
	}
	switch reply {
	case "missing":
		return presence.Revocation{}, presence.ErrNoService
	case "full":
		return presence.Revocation{}, presence.ErrTooManyRevocations
	}
	v, ok := texts(reply)
	if !ok || len(v) != 3 {
		return presence.Revocation{}, malformed("revoke", reply)
	}
	return presence.Revocation{SID: v[0], Service: service, Identity: identity, Before: millis(v[1]), Created: millis(v[2])}, nil
}

// ListRevocations returns up to limit revocations in force in a service, the oldest
// first; as ListUsers.
func (s *Store) ListRevocations(ctx context.Context, service, cursor string, limit int) (presence.Page[presence.Revocation], error) {
	const op = "list revocations"
	return listed(ctx, s, []string{s.keys.Revocations(service)}, cursor, limit, func(sids []string) (list []presence.Revocation, err error) {
		values, err := s.client.HMGet(ctx, s.keys.Revoked(service), sids...).Result()
		if err != nil {
			return nil, unavailable(op, err)
		}
		for i, v := range values {
			text, ok := v.(string)
			if !ok {
				continue // ended between the rounds
			}
			var r struct{ I, B, C string }
			if err := json.Unmarshal([]byte(text), &r); err != nil {
				return nil, malformed(op, v)
			}
			list = append(list, presence.Revocation{SID: sids[i], Service: service, Identity: r.I, Before: millis(r.B), Created: millis(r.C)})
		}
		return list, nil
	})
}

// ReadAccess returns what of API keys and revocations is newer than the mark.
func (s *Store) ReadAccess(ctx context.Context, have presence.AccessMark) (presence.AccessChange, error) {
	const op = "read access"
	reply, err := s.run(ctx, op, accessReadScript, presence.Services, have.Run, have.Keys, have.Stamp, accessChunk, ms(presence.RevocationLife))
	if err != nil {
		return presence.AccessChange{}, err
	}
	list, ok := reply.([]any)
	if !ok || len(list) < 5 {
		return presence.AccessChange{}, malformed(op, reply)
	}
	n, ok := list[3].(int64)
	head, ok1 := texts(list[:3])
	rest, ok2 := texts(list[5:])
	keys := int(max(n, 0))
	if !ok || !ok1 || !ok2 || len(rest) < 6*keys || (len(rest)-6*keys)%5 != 0 {
		return presence.AccessChange{}, malformed(op, reply)
	}
	f := fields{"keys": head[1], "stamp": head[2]}
	c := presence.AccessChange{Mark: presence.AccessMark{Run: head[0], Keys: f.int("keys"), Stamp: f.int("stamp")}, Lost: n == -2, NewKeys: n >= 0, More: list[4] == int64(1)}
	for ; keys > 0; keys, rest = keys-1, rest[6:] {
		c.Keys = append(c.Keys, keyOf(fields{
			"sid": rest[0], "account": rest[1], "friendly_name": rest[2], "secret": rest[3], "created": rest[4], "updated": rest[5],
		}))
	}
	for ; len(rest) > 0; rest = rest[5:] {
		c.Revocations = append(c.Revocations, presence.Revocation{Service: rest[0], SID: rest[1], Before: millis(rest[2]), Created: millis(rest[3]), Identity: rest[4]})
	}
	return c, nil
}

// RestoreAccess writes back API keys and revocations that the store lost with its
// data. Those that it has, and keys that were deleted lately, it leaves alone. It
// makes a round trip for each thousand.
func (s *Store) RestoreAccess(ctx context.Context, keys []presence.APIKey, revocations []presence.Revocation) error {
	for len(keys)+len(revocations) > 0 {
		k, r := keys[:min(len(keys), accessChunk)], revocations[:min(len(revocations), accessChunk)]
		keys, revocations = keys[len(k):], revocations[len(r):]
		args := []any{ms(presence.RevocationLife), presence.MaxRevocations, len(k)}
		for _, k := range k {
			args = append(args, k.SID, k.Account, k.FriendlyName, k.Secret, k.Created.UnixMicro(), k.Updated.UnixMilli())
		}
		for _, r := range r {
			args = append(args, r.Service, r.Identity, r.Before.UnixMilli(), r.Created.UnixMilli())
		}
		if _, err := s.run(ctx, "restore access", accessRestoreScript, presence.Services, args...); err != nil {
			return err
		}
	}
	return nil
}

func millis(text string) time.Time {
	f := fields{"": text}
	return f.millis("")
}
