package redisstore_test

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/presence"
	"github.com/rollcall-presence/rollcall/presence/redisstore"
)

// resources is a store to keep resources in, whose clock can be put forward.
type resources struct {
	*redisstore.Store
	client  *redis.Client
	offset  *atomic.Int64
	service string
}

// eachStore runs a test on miniredis and on a real redis-server.
func eachStore(t *testing.T, test func(*testing.T, resources)) {
	t.Run("miniredis", func(t *testing.T) {
		_, c := testkit.Mini(t)
		test(t, openResources(t, c))
	})
	t.Run("redis", func(t *testing.T) { test(t, realResources(t)) })
}

func realResources(t *testing.T) resources {
	t.Helper()
	c := testkit.Redis(t).Client()
	t.Cleanup(func() { _ = c.Close() })
	return openResources(t, c)
}

func openResources(t *testing.T, c *redis.Client) resources {
	t.Helper()
	r := resources{client: c, offset: new(atomic.Int64)}
	r.Store = redisstore.New(c, redisstore.Options{Partitions: 2, Offset: r.offset})
	if err := r.Init(t.Context(), account); err != nil {
		t.Fatal(err)
	}
	var err error
	if r.service, err = r.DefaultService(t.Context()); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r resources) advance(d time.Duration) { r.offset.Add(d.Milliseconds()) }

// read reads all changes since a mark.
func (r resources) read(t *testing.T, have presence.AccessMark) (all presence.AccessChange) {
	t.Helper()
	for more := true; more; {
		c, err := r.ReadAccess(t.Context(), have)
		if err != nil {
			t.Fatal(err)
		}
		if c.NewKeys {
			all.NewKeys, all.Keys = true, c.Keys
		}
		all.Revocations = append(all.Revocations, c.Revocations...)
		all.Mark, all.Lost, have, more = c.Mark, c.Lost, c.Mark, c.More
	}
	return all
}

func TestAPIKeys(t *testing.T) {
	eachStore(t, func(t *testing.T, r resources) {
		var made []presence.APIKey
		secrets := map[string]bool{}
		for i := range 5 {
			k, err := r.CreateAPIKey(t.Context(), account, fmt.Sprintf("key %d é", i))
			if err != nil {
				t.Fatal(err)
			}
			if !regexp.MustCompile(`^[A-Z0-9]{40,}$`).MatchString(k.Secret) || !presence.IsSID(k.SID, "SK") || k.Account != account || secrets[k.Secret] {
				t.Errorf("made %+v", k)
			}
			secrets[k.Secret] = true
			made = append(made, k)
			r.advance(time.Millisecond)
		}
		first, err := r.ListAPIKeys(t.Context(), "", 3)
		if err != nil {
			t.Fatal(err)
		}
		second, err := r.ListAPIKeys(t.Context(), first.Next, 3)
		if err != nil || len(first.Items) != 3 || len(second.Items) != 2 || first.Items[0] != made[0] || second.Items[1] != made[4] || second.Next != "" || second.Prev == "" {
			t.Errorf("two pages: %+v, %+v, %v", first, second, err)
		}
		start := r.read(t, presence.AccessMark{})
		if !start.NewKeys || len(start.Keys) != 5 || start.Keys[2] != made[2] || start.Lost {
			t.Errorf("read at first: %+v", start)
		}
		if c := r.read(t, start.Mark); c.NewKeys || len(c.Revocations) != 0 || c.Mark != start.Mark {
			t.Errorf("read again: %+v; want nothing new", c)
		}
		up, err := r.UpdateAPIKey(t.Context(), made[0].SID, "renamed")
		if err != nil || up.FriendlyName != "renamed" || up.Secret != made[0].Secret || up.Created != made[0].Created {
			t.Errorf("UpdateAPIKey = %+v, %v", up, err)
		}
		if err := r.DeleteAPIKey(t.Context(), made[1].SID); err != nil {
			t.Fatal(err)
		}
		if c := r.read(t, start.Mark); !c.NewKeys || len(c.Keys) != 4 || c.Keys[0] != up || c.Keys[1] != made[2] {
			t.Errorf("read after a change and a deletion: %+v", c)
		}
		for what, err := range map[string]error{
			"delete again": r.DeleteAPIKey(t.Context(), made[1].SID),
			"update":       errOf(r.UpdateAPIKey(t.Context(), made[1].SID, "x")),
			"fetch":        errOf(r.APIKey(t.Context(), made[1].SID)),
			"fetch junk":   errOf(r.APIKey(t.Context(), "SK")),
		} {
			if !errors.Is(err, presence.ErrNoKey) {
				t.Errorf("%s = %v; want ErrNoKey", what, err)
			}
		}
		for range presence.MaxAPIKeys - 4 {
			if _, err := r.CreateAPIKey(t.Context(), account, ""); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := r.CreateAPIKey(t.Context(), account, ""); !errors.Is(err, presence.ErrTooManyKeys) {
			t.Errorf("a key too many = %v; want ErrTooManyKeys", err)
		}
		if c := r.read(t, start.Mark); len(c.Keys) != presence.MaxAPIKeys {
			t.Errorf("read %d keys; want %d", len(c.Keys), presence.MaxAPIKeys)
		}
	})
}

func errOf[T any](_ T, err error) error { return err }

func TestRevocations(t *testing.T) {
	eachStore(t, func(t *testing.T, r resources) {
		ctx := t.Context()
		other, err := r.CreateService(ctx, presence.Service{Account: account, FriendlyName: "other", Linger: -1})
		if err != nil {
			t.Fatal(err)
		}
		mark := r.read(t, presence.AccessMark{}).Mark
		revoke := func(service, identity string, before time.Time) presence.Revocation {
			t.Helper()
			v, err := r.Revoke(ctx, service, identity, before)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
		past := time.Now().Add(-time.Hour).Truncate(time.Millisecond).UTC()
		alice := revoke(r.service, "alice", past)
		if alice.Before != past || alice.Identity != "alice" || alice.Service != r.service || !presence.IsSID(alice.SID, "RV") || time.Since(alice.Created).Abs() > time.Minute {
			t.Errorf("Revoke = %+v", alice)
		}
		everybody := revoke(r.service, "", past)
		star := revoke(r.service, "*", past)
		strange := revoke(r.service, "a\"\\{\x00é", past)
		theirs := revoke(other.SID, "alice", past)
		c := r.read(t, mark)
		if got := fmt.Sprint(c.Revocations); got != fmt.Sprint([]presence.Revocation{alice, everybody, star, strange, theirs}) || c.NewKeys {
			t.Errorf("read %v", got)
		}
		mark = c.Mark
		// Again: it keeps its SID, goes to the end, and is not weakened.
		r.advance(time.Second)
		again := revoke(r.service, "alice", past.Add(-time.Minute))
		if again.SID != alice.SID || again.Before != past || !again.Created.After(alice.Created) {
			t.Errorf("revoked again: %+v; was %+v", again, alice)
		}
		if c = r.read(t, mark); len(c.Revocations) != 1 || c.Revocations[0] != again {
			t.Errorf("read after that: %+v", c.Revocations)
		}
		page, err := r.ListRevocations(ctx, r.service, "", 3)
		if err != nil {
			t.Fatal(err)
		}
		last, err := r.ListRevocations(ctx, r.service, page.Next, 3)
		if err != nil || fmt.Sprint(page.Items, last.Items) != fmt.Sprint([]presence.Revocation{everybody, star, strange}, []presence.Revocation{again}) || last.Next != "" {
			t.Errorf("listed %v, %v, %v", page.Items, last.Items, err)
		}
		if _, err := r.Revoke(ctx, "IS00000000000000000000000000000000", "alice", past); !errors.Is(err, presence.ErrNoService) {
			t.Errorf("in no service = %v; want ErrNoService", err)
		}
		if err := r.DeleteService(ctx, other.SID); err != nil {
			t.Fatal(err)
		}
		if c = r.read(t, presence.AccessMark{}); len(c.Revocations) != 4 {
			t.Errorf("read from the start: %+v; want those of the service that is left", c.Revocations)
		}
		// They end, and leave nothing.
		r.advance(presence.RevocationLife + time.Second)
		if c = r.read(t, c.Mark); c.Lost {
			t.Error("their end looks like a loss")
		}
		if page, err := r.ListRevocations(ctx, r.service, "", 10); err != nil || len(page.Items) != 0 {
			t.Errorf("listed after their time: %+v, %v", page.Items, err)
		}
		if left := r.client.Keys(ctx, "*revo*").Val(); len(left) != 0 {
			t.Errorf("keys left: %v", left)
		}
	})
}

// On a real server only: miniredis takes half a minute over as many.
func TestRevocationLimit(t *testing.T) {
	r := realResources(t)
	ctx := t.Context()
	const some = 2500 // several reads' worth
	for i := range some {
		if _, err := r.Revoke(ctx, r.service, fmt.Sprint("user", i), time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
	c := r.read(t, presence.AccessMark{})
	if len(c.Revocations) != some || c.Revocations[some-1].Identity != fmt.Sprint("user", some-1) {
		t.Errorf("read %d; want %d in order", len(c.Revocations), some)
	}
	fill := make([]redis.Z, 0, presence.MaxRevocations)
	for i := range presence.MaxRevocations - some {
		fill = append(fill, redis.Z{Member: fmt.Sprintf("%016d%s%s", time.Now().UnixMicro(), r.service, fmt.Sprintf("RV%032x", i))})
	}
	if err := r.client.ZAdd(ctx, r.Keys().Base(presence.Services)+":revocations", fill...).Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Revoke(ctx, r.service, "one more", time.Time{}); !errors.Is(err, presence.ErrTooManyRevocations) {
		t.Errorf("a revocation too many = %v; want ErrTooManyRevocations", err)
	}
	if _, err := r.Revoke(ctx, r.service, "user1", time.Time{}); err != nil {
		t.Errorf("one that is there already, again = %v; want nil", err)
	}
}

func TestAccessLost(t *testing.T) {
	eachStore(t, func(t *testing.T, r resources) {
		ctx := t.Context()
		k, err := r.CreateAPIKey(ctx, account, "k")
		if err != nil {
			t.Fatal(err)
		}
		v, err := r.Revoke(ctx, r.service, "alice", time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		mark := r.read(t, presence.AccessMark{}).Mark
		if err := r.client.FlushAll(ctx).Err(); err != nil {
			t.Fatal(err)
		}
		if c := r.read(t, mark); !c.Lost || c.NewKeys {
			t.Errorf("after a flush: %+v; want it lost, and nothing else", c)
		}
		expired := v
		expired.Identity, expired.Created = "bob", v.Created.Add(-presence.RevocationLife-time.Second)
		for range 2 { // idempotent
			if err := r.RestoreAccess(ctx, []presence.APIKey{k}, []presence.Revocation{v, expired}); err != nil {
				t.Fatal(err)
			}
		}
		c := r.read(t, presence.AccessMark{})
		if len(c.Keys) != 1 || c.Keys[0] != k || len(c.Revocations) != 1 || c.Revocations[0] != v {
			t.Errorf("written back: %+v; want %+v and %+v", c, k, v)
		}
		if err := r.RestoreAccess(ctx, []presence.APIKey{k}, []presence.Revocation{v}); err != nil {
			t.Fatal(err)
		}
		if again := r.read(t, c.Mark); again.Mark != c.Mark {
			t.Errorf("writing back what is there changed %+v to %+v", c.Mark, again.Mark)
		}
		// An older copy of the data, under the same run, is a loss too.
		if c := r.read(t, presence.AccessMark{Run: c.Mark.Run, Keys: c.Mark.Keys + 1, Stamp: c.Mark.Stamp}); !c.Lost {
			t.Errorf("with fewer changes than the reader has seen: %+v; want it lost", c)
		}
	})
}

// A deleted service leaves nothing of its resources.
func TestDeletedServiceResources(t *testing.T) {
	eachStore(t, func(t *testing.T, r resources) {
		ctx := context.Background()
		s, err := r.CreateService(ctx, presence.Service{Account: account, FriendlyName: "s", Linger: -1})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.CreateRole(ctx, presence.Role{Service: s.SID, FriendlyName: "r", Type: presence.RoleOfService}); err != nil {
			t.Fatal(err)
		}
		if _, err := r.UpdateNotifications(ctx, s.SID, map[string]string{"log_enabled": "true"}); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Revoke(ctx, s.SID, "alice", time.Time{}); err != nil {
			t.Fatal(err)
		}
		if err := r.DeleteService(ctx, s.SID); err != nil {
			t.Fatal(err)
		}
		if left := r.client.Keys(ctx, "*"+s.SID+"*").Val(); len(left) != 0 {
			t.Errorf("keys left: %s", strings.Join(left, " "))
		}
		for what, err := range map[string]error{
			"create a role": errOf(r.CreateRole(ctx, presence.Role{Service: s.SID, FriendlyName: "r", Type: presence.RoleOfService})),
			"list roles":    errOf(r.ListRoles(ctx, s.SID, "", 10)),
			"settings":      errOf(r.UpdateNotifications(ctx, s.SID, map[string]string{"log_enabled": "true"})),
		} {
			if !errors.Is(err, presence.ErrNoService) {
				t.Errorf("%s = %v; want ErrNoService", what, err)
			}
		}
	})
}

// A role that is deleted while it is made a default stays one or the other.
func TestDefaultRoles(t *testing.T) {
	eachStore(t, func(t *testing.T, r resources) {
		role, err := r.CreateRole(t.Context(), presence.Role{Service: r.service, FriendlyName: "r", Type: presence.RoleOfService})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.UpdateService(t.Context(), r.service, presence.ServiceUpdate{DefaultServiceRole: &role.SID}); err != nil {
			t.Fatal(err)
		}
		if err := r.DeleteRole(t.Context(), r.service, role.SID); !errors.Is(err, presence.ErrDefaultRole) {
			t.Errorf("DeleteRole of a default = %v; want ErrDefaultRole", err)
		}
		gone := "RL00000000000000000000000000000000"
		enabled := true
		if _, err := r.UpdateService(t.Context(), r.service, presence.ServiceUpdate{Enabled: &enabled, DefaultServiceRole: &gone}); !errors.Is(err, presence.ErrNoRole) {
			t.Errorf("a default that is gone = %v; want ErrNoRole", err)
		}
		if s, err := r.Service(t.Context(), r.service); err != nil || s.DefaultServiceRole != role.SID || s.Enabled {
			t.Errorf("after what was refused: %+v, %v; want nothing changed", s, err)
		}
	})
}
