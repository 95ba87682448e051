package redisstore_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/presence"
	"github.com/rollcall-presence/rollcall/presence/presencetest"
)

// crash is a hook of the client that lets so many round trips through, and no more,
// until it is set anew. The one after the last is carried out, its answer lost, if
// mute is set.
type crash struct {
	left atomic.Int64
	mute atomic.Bool
}

var errCrash = errors.New("crashed")

func (c *crash) DialHook(next redis.DialHook) redis.DialHook { return next }

func (c *crash) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		return c.let(func() error { return next(ctx, cmd) })
	}
}

func (c *crash) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		return c.let(func() error { return next(ctx, cmds) })
	}
}

func (c *crash) let(run func() error) error {
	switch left := c.left.Add(-1); {
	case left >= 0:
		return run()
	case left == -1 && c.mute.Load():
		_ = run()
	}
	return errCrash
}

// A node that dies at any step of moving an address to another user, or of taking a
// binding off, leaves nothing that a repetition, or else a heartbeat, does not mend.
func TestBindingCrash(t *testing.T) {
	_, c := testkit.Mini(t)
	h := harness(t, c)
	hook := &crash{}
	hook.left.Store(1 << 30)
	c.AddHook(hook)
	ctx := t.Context()
	on := true
	service, err := h.Store.CreateService(ctx, presence.Service{})
	if err == nil {
		service, err = h.Store.UpdateService(ctx, service.SID, presence.ServiceUpdate{Enabled: &on})
	}
	if err != nil {
		t.Fatal(err)
	}
	key := func(identity string) presence.Key { return presence.Key{Service: service.SID, Identity: identity} }
	holders := func() (list []string) {
		page, err := h.Store.ListBindings(ctx, service.SID, presence.BindingFilter{}, "", 50)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range page.Items {
			list = append(list, b.Identity)
		}
		return list
	}
	settle := func() {
		h.Advance(10 * time.Second)
		for p := range presence.Partition(h.Store.Partitions()) {
			if _, err := h.Store.ExpireBindings(ctx, p); err != nil {
				t.Fatal(err)
			}
		}
	}
	bind := func(identity string) error {
		_, err := h.Store.Bind(ctx, key(identity), presence.Registration{Type: presence.PushFCM, Address: "phone"})
		return err
	}
	users := 0
	user := func() string {
		users++
		id := fmt.Sprint("user", users)
		if _, err := h.Store.CreateUser(ctx, key(id), presence.UserUpdate{}); err != nil {
			t.Fatal(err)
		}
		return id
	}
	crashed := func(steps int, mute bool, what func() error) {
		hook.mute.Store(mute)
		hook.left.Store(int64(steps))
		_ = what()
		hook.left.Store(1 << 30)
	}
	want := func(when string, identities ...string) {
		t.Helper()
		if got := holders(); fmt.Sprint(got) != fmt.Sprint(identities) {
			t.Errorf("%s: the address is bound to %v; want %v", when, got, identities)
		}
		for i := 1; i <= users; i++ {
			id := fmt.Sprint("user", i)
			_, u, err := h.Store.User(ctx, key(id).Service, id)
			if err != nil {
				t.Fatal(err)
			}
			if bound := fmt.Sprint(identities) == fmt.Sprint([]string{id}); (u.Notifiable == presence.True) != bound {
				t.Errorf("%s: %s is notifiable: %v; want %v", when, id, u.Notifiable, bound)
			}
		}
	}

	const most = 12 // round trips of any of these
	owner := user()
	if err := bind(owner); err != nil {
		t.Fatal(err)
	}
	for steps := range most {
		for _, mute := range []bool{false, true} {
			when := fmt.Sprintf("crash after %d round trips, mute %v", steps, mute)
			to := user()
			crashed(steps, mute, func() error { return bind(to) })
			if steps%2 == 0 { // else a heartbeat alone has to do
				if err := bind(to); err != nil {
					t.Fatal(err)
				}
				owner = to
				want(when+", moved again", to)
			}
			settle()
			got := holders()
			if len(got) != 1 || got[0] != to && got[0] != owner {
				t.Fatalf("%s, settled: bound to %v; want %s or %s", when, got, owner, to)
			}
			owner = got[0]
			want(when+", settled", owner)

			crashed(steps, mute, func() error { return h.Store.UnbindAddress(ctx, key(owner), presence.PushFCM, "phone") })
			if err := h.Store.UnbindAddress(ctx, key(owner), presence.PushFCM, "phone"); err != nil && !errors.Is(err, presence.ErrNoBinding) {
				t.Fatal(err)
			}
			want(when + ", taken off")
			settle()
			if n := c.HLen(ctx, "rc:{p000}:"+service.SID+":addr").Val() + c.HLen(ctx, "rc:{p001}:"+service.SID+":addr").Val(); n != 0 && steps%2 == 0 {
				t.Errorf("%s, taken off and settled: %d addresses are left", when, n)
			}
			owner = user()
			if err := bind(owner); err != nil {
				t.Fatal(err)
			}
			want(when+", bound by another", owner)
		}
	}
}

// A deleted service and a deleted credential leave no key behind that names them.
func TestBindingsLeaveNothing(t *testing.T) {
	_, c := testkit.Mini(t)
	h := harness(t, c)
	ctx := t.Context()
	service, err := h.Store.CreateService(ctx, presence.Service{})
	if err != nil {
		t.Fatal(err)
	}
	credential, err := h.Store.CreateCredential(ctx, account, presence.PushFCM, presence.CredentialUpdate{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 250 { // more than one script purges
		k := presence.Key{Service: service.SID, Identity: fmt.Sprint("user", i)}
		if _, err := h.Store.CreateUser(ctx, k, presence.UserUpdate{}); err != nil {
			t.Fatal(err)
		}
		r := presence.Registration{Type: presence.PushFCM, Address: k.Identity}
		if i%2 == 0 {
			r.Credential = credential.SID
		}
		if _, err := h.Store.Bind(ctx, k, r); err != nil {
			t.Fatal(err)
		}
	}
	h.Events()
	if err := h.Store.DeleteCredential(ctx, credential.SID); err != nil {
		t.Fatal(err)
	}
	if n := len(h.Events()); n != 125 {
		t.Errorf("%d users are told to be not notifiable; want 125", n)
	}
	if err := h.Store.DeleteService(ctx, service.SID); err != nil {
		t.Fatal(err)
	}
	h.Advance(presencetest.Lease)
	for range 2 { // one of the two at a time
		if _, _, err := h.Store.BeatServices(ctx); err != nil {
			t.Fatal(err)
		}
	}
	keys, err := c.Keys(ctx, "*").Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		if strings.Contains(k, service.SID) || strings.Contains(k, credential.SID) {
			t.Errorf("%s is left", k)
		}
		if k == "rc:{svc}:deleted" { // which are remembered for Verify
			continue
		}
		for _, member := range append(c.ZRange(ctx, k, 0, -1).Val(), c.SMembers(ctx, k).Val()...) {
			if strings.Contains(member, service.SID) || strings.Contains(member, credential.SID) {
				t.Errorf("%s holds %s", k, member)
			}
		}
	}
}
