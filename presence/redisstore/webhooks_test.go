package redisstore_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/presence"
	"github.com/rollcall-presence/rollcall/presence/redisstore"
)

// outbox is a store with one partition and a service whose backend wants everything.
type outbox struct {
	*redisstore.Store
	t       *testing.T
	client  *redis.Client
	service presence.Service
	offset  *atomic.Int64
	session int
	held    map[string]presence.SessionID
}

// eachOutbox runs a test on miniredis and on a real redis-server.
func eachOutbox(t *testing.T, test func(*testing.T, *outbox)) {
	t.Run("miniredis", func(t *testing.T) {
		_, c := testkit.Mini(t)
		test(t, newOutbox(t, c))
	})
	t.Run("redis", func(t *testing.T) {
		c := testkit.Redis(t).Client()
		t.Cleanup(func() { _ = c.Close() })
		test(t, newOutbox(t, c))
	})
}

func newOutbox(t *testing.T, c *redis.Client) *outbox {
	t.Helper()
	o := &outbox{t: t, client: c, offset: new(atomic.Int64), held: map[string]presence.SessionID{}}
	o.Store = redisstore.New(c, redisstore.Options{Partitions: 1, Offset: o.offset})
	if err := o.Init(t.Context(), account); err != nil {
		t.Fatal(err)
	}
	s, err := o.CreateService(t.Context(), presence.Service{Account: account, FriendlyName: "outbox", Linger: -1})
	if err != nil {
		t.Fatal(err)
	}
	o.service = s
	o.update(presence.ServiceUpdate{Enabled: new(true)})
	return o
}

func (o *outbox) update(u presence.ServiceUpdate) {
	o.t.Helper()
	s, err := o.UpdateService(o.t.Context(), o.service.SID, u)
	if err != nil {
		o.t.Fatal(err)
	}
	o.service = s
}

const all = "onUserAdded,onUserUpdated,onReachabilityChanged"

func hooks(url, filters string) *presence.WebhooksUpdate {
	return &presence.WebhooksUpdate{PostURL: &url, Filters: &filters}
}

func (o *outbox) key(identity string) presence.Key {
	return presence.Key{Service: o.service.SID, Identity: identity}
}

func (o *outbox) online(identity string) {
	o.t.Helper()
	o.session++
	id := presence.SessionID(fmt.Sprintf("%024x", o.session))
	o.held[identity] = id
	if _, err := o.Register(o.t.Context(), 0, "n1", []presence.Held{{Key: o.key(identity), ID: id, Service: o.service}}); err != nil {
		o.t.Fatal(err)
	}
}

func (o *outbox) offline(identity string) {
	o.t.Helper()
	if _, err := o.End(o.t.Context(), 0, "n1", []presence.Ended{{Key: o.key(identity), ID: o.held[identity], Service: o.service}}); err != nil {
		o.t.Fatal(err)
	}
}

func (o *outbox) claim(busy ...string) presence.Claim {
	o.t.Helper()
	claims, errs := o.ClaimWebhooks(o.t.Context(), []presence.Partition{0}, busy)
	if errs[0] != nil {
		o.t.Fatal(errs[0])
	}
	return claims[0]
}

func (o *outbox) settle(s presence.Settled) (dead int, next time.Duration) {
	o.t.Helper()
	settled, errs := o.SettleWebhooks(o.t.Context(), []presence.Partition{0}, [][]presence.Settled{{s}}, 24*time.Hour)
	if errs[0] != nil {
		o.t.Fatal(errs[0])
	}
	return settled[0].Dead, settled[0].Next
}

// drain takes all that is due, delivered, as "identity event online" in order.
func (o *outbox) drain() (list []string) {
	o.t.Helper()
	for {
		c := o.claim()
		if len(c.Users) == 0 {
			return list
		}
		for _, u := range c.Users {
			done := presence.Settled{Key: u.Key}
			for _, e := range u.Events {
				list = append(list, fmt.Sprintf("%s %s %v", u.Identity, e.Event, e.User.Online))
				done.Delivered = append(done.Delivered, e.SID)
			}
			o.settle(done)
		}
	}
}

func (o *outbox) want(what string, want ...string) {
	o.t.Helper()
	if diff := cmp.Diff(want, o.drain()); diff != "" {
		o.t.Errorf("%s: owed (-want +got):\n%s", what, diff)
	}
}

func (o *outbox) advance(d time.Duration) { o.offset.Add(d.Milliseconds()) }

// What the service's filters name is owed, and nothing else; the account's hooks
// count where the service has none.
func TestWebhooksFilters(t *testing.T) {
	eachOutbox(t, func(t *testing.T, o *outbox) {
		o.online("ada")
		o.want("nothing configured")
		o.update(presence.ServiceUpdate{Webhooks: hooks("http://example.com/", all)})
		o.offline("ada")
		o.want("all", "ada onUserUpdated false", "ada onReachabilityChanged false")
		o.online("bob")
		o.want("a new user", "bob onUserAdded true", "bob onUserUpdated true", "bob onReachabilityChanged true")
		o.update(presence.ServiceUpdate{Webhooks: hooks("http://example.com/", "onUserAdded,onMessageAdded")})
		o.offline("bob")
		o.want("filtered")
		if _, err := o.UpdateAccountWebhooks(t.Context(), *hooks("http://example.com/", "onReachabilityChanged")); err != nil {
			t.Fatal(err)
		}
		o.online("bob")
		o.want("the service's own override the account's")
		o.update(presence.ServiceUpdate{Webhooks: hooks("", "")})
		o.offline("bob")
		o.want("the account's", "bob onReachabilityChanged false")
		w, err := o.AccountWebhooks(t.Context())
		if err != nil || w != (presence.Webhooks{PostURL: "http://example.com/", Filters: "onReachabilityChanged"}) {
			t.Errorf("AccountWebhooks = %+v, %v", w, err)
		}
	})
}

// A profile changed over REST is told only if the request says so; a client's doing
// always.
func TestWebhooksOfProfiles(t *testing.T) {
	eachOutbox(t, func(t *testing.T, o *outbox) {
		o.update(presence.ServiceUpdate{Webhooks: hooks("http://example.com/", all)})
		name := "Ada"
		write := func(tell presence.Origin, u presence.UserUpdate) {
			t.Helper()
			u.Tell = tell
			if _, err := o.UpdateUser(t.Context(), o.key("ada"), u); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := o.CreateUser(t.Context(), o.key("ada"), presence.UserUpdate{FriendlyName: &name}); err != nil {
			t.Fatal(err)
		}
		write(presence.OriginUntold, presence.UserUpdate{FriendlyName: new("A")})
		o.want("without being asked to")
		if _, err := o.CreateUser(t.Context(), o.key("bob"), presence.UserUpdate{FriendlyName: &name, Tell: presence.OriginAPI}); err != nil {
			t.Fatal(err)
		}
		o.want("created", "bob onUserAdded null")
		write(presence.OriginAPI, presence.UserUpdate{Attributes: new(`{"a":"\u00e9 é"}`)})
		c := o.claim()
		if len(c.Users) != 1 || len(c.Users[0].Events) != 1 {
			t.Fatalf("claimed %+v; want one event", c)
		}
		e := c.Users[0].Events[0]
		_, u, err := o.User(t.Context(), o.key("ada").Service, "ada")
		if err != nil {
			t.Fatal(err)
		}
		u.Created, u.Updated, u.Key = e.User.Created, e.User.Updated, e.User.Key // of another precision
		if diff := cmp.Diff(u, e.User); diff != "" || !e.Profile || e.Origin != "API" || e.Cause != "update" || !presence.IsSID(e.SID, "EV") {
			t.Errorf("owed %+v, the user differs (-have +owed):\n%s", e, diff)
		}
		o.settle(presence.Settled{Key: c.Users[0].Key, Delivered: []string{e.SID}})
		write(presence.OriginAPI, presence.UserUpdate{Role: new("RL00000000000000000000000000000001")})
		o.want("a role", "ada onUserUpdated null")
		write(presence.OriginAPI, presence.UserUpdate{Role: new("RL00000000000000000000000000000001")})
		o.want("no change")
		if _, err := o.EnsureUser(t.Context(), o.key("eve"), o.service); err != nil {
			t.Fatal(err)
		}
		o.want("an invisible client", "eve onUserAdded null")
	})
}

// Events of a user come in order, each with the revision of the one before, and none
// is due while one before it is claimed; what is not settled comes again.
func TestWebhooksClaims(t *testing.T) {
	eachOutbox(t, func(t *testing.T, o *outbox) {
		o.update(presence.ServiceUpdate{Webhooks: hooks("http://example.com/", "onReachabilityChanged")})
		for range 3 {
			o.online("ada")
			o.offline("ada")
		}
		o.online("bob")
		if c := o.claim(o.service.SID); len(c.Users) != 0 || !c.LeftOut || c.Next >= 0 {
			t.Errorf("claimed with the service left out = %+v; want nothing, and to be told", c)
		}
		first := o.claim()
		if len(first.Users) != 2 || len(first.Users[0].Events) != 4 || len(first.Users[1].Events) != 1 {
			t.Fatalf("claimed %+v; want 4 of ada, 1 of bob", first)
		}
		o.offline("bob")
		if c := o.claim(); len(c.Users) != 0 || c.Next <= 25*time.Second || c.Next > 30*time.Second {
			t.Errorf("claimed again %+v; want nothing for 30 s", c)
		}
		ada := first.Users[0]
		for i, e := range ada.Events {
			if i > 0 && (e.Before != ada.Events[i-1].User.Rev || e.User.Rev <= e.Before) || i == 0 && e.Before != 0 {
				t.Errorf("event %d: revision %d after %d", i, e.User.Rev, e.Before)
			}
		}
		// One delivered, the next failed.
		o.settle(presence.Settled{Key: ada.Key, Delivered: []string{ada.Events[0].SID}, Failed: ada.Events[1].SID, Retry: time.Minute, Why: "timeout"})
		if c := o.claim(); len(c.Users) != 0 {
			t.Errorf("claimed %+v before the time to retry", c)
		}
		o.advance(31 * time.Second) // bob's claim lapses
		c := o.claim()
		if len(c.Users) != 1 || c.Users[0].Identity != "bob" || c.Users[0].Events[0].SID != first.Users[1].Events[0].SID {
			t.Fatalf("claimed %+v; want bob's again", c)
		}
		o.settle(presence.Settled{Key: c.Users[0].Key, Delivered: []string{c.Users[0].Events[0].SID}})
		// The first claimer is late: what it says of bob no longer counts.
		if _, next := o.settle(presence.Settled{Key: o.key("bob"), Delivered: []string{first.Users[1].Events[0].SID}}); next != 0 {
			t.Errorf("next = %v; want bob's next at once", next)
		}
		o.want("bob's rest", "bob onReachabilityChanged false")
		o.advance(30 * time.Second)
		c = o.claim()
		if len(c.Users) != 1 || c.Users[0].Failed != 1 || c.Users[0].Events[0].SID != ada.Events[1].SID || len(c.Users[0].Events) != 4 {
			t.Fatalf("claimed %+v; want ada's second on, which failed once", c)
		}
		// Given back without an attempt, it is due at once.
		o.settle(presence.Settled{Key: ada.Key, Failed: ada.Events[1].SID, Retry: -1})
		if c = o.claim(); len(c.Users) != 1 || c.Users[0].Failed != 1 {
			t.Fatalf("claimed %+v; want ada's again", c)
		}
		o.settle(presence.Settled{Key: ada.Key, Failed: ada.Events[1].SID, Retry: -1})
		if got := o.drain(); len(got) != 5 {
			t.Errorf("the rest is %v; want 5", got)
		}
		if c := o.claim(); c.Next >= 0 || c.LeftOut {
			t.Errorf("an empty queue has work: %+v", c)
		}
		for _, pattern := range []string{"*:q:*", "*:due", "*:tries", "*:hookdue", "*:debounce"} {
			if keys := o.client.Keys(t.Context(), pattern).Val(); len(keys) > 0 {
				t.Errorf("left behind: %v", keys)
			}
		}
	})
}

// An event that failed for a day becomes a dead letter, which can be read, replayed
// and deleted, by its own service only; the user's next event goes on.
func TestDeadLetters(t *testing.T) {
	eachOutbox(t, func(t *testing.T, o *outbox) {
		ctx := t.Context()
		o.update(presence.ServiceUpdate{Webhooks: hooks("http://example.com/", "onReachabilityChanged")})
		o.online("ada")
		o.offline("ada")
		ada := o.claim().Users[0]
		o.advance(24*time.Hour - 30*time.Second)
		if dead, _ := o.settle(presence.Settled{Key: ada.Key, Failed: ada.Events[0].SID, Retry: time.Second, Why: "http_500"}); dead != 0 {
			t.Error("dead before its day was over")
		}
		o.advance(time.Minute)
		dead, next := o.settle(presence.Settled{Key: ada.Key, Failed: ada.Events[0].SID, Retry: time.Minute, Why: "timeout"})
		if dead != 1 || next != 0 {
			t.Errorf("settled: %d dead, next in %v; want 1 and the next event at once", dead, next)
		}
		o.want("what is left", "ada onReachabilityChanged false")
		sid := ada.Events[0].SID
		d, err := o.DeadLetter(ctx, o.service.SID, sid)
		if err != nil || d.Attempts != 2 || d.Why != "timeout" || d.User.Identity != "ada" || d.User.Rev != ada.Events[0].User.Rev || d.Died.Before(d.Queued) {
			t.Errorf("DeadLetter = %+v, %v", d, err)
		}
		other, err := o.DefaultService(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"EV" + strings.Repeat("0", 32), "EVffff" + sid[6:], "x"} {
			if _, err := o.DeadLetter(ctx, o.service.SID, name); !errors.Is(err, presence.ErrNoDeadLetter) {
				t.Errorf("DeadLetter(%s) = %v; want none", name, err)
			}
		}
		for what, f := range map[string]func(context.Context, string, string) error{"delete": o.DeleteDeadLetter, "replay": o.ReplayDeadLetter} {
			if err := f(ctx, other, sid); !errors.Is(err, presence.ErrNoDeadLetter) {
				t.Errorf("%s by another service = %v", what, err)
			}
		}
		if page, err := o.ListDeadLetters(ctx, other, "", 10); err != nil || len(page.Items) != 0 {
			t.Errorf("another service's dead letters: %+v, %v", page, err)
		}
		if err := o.ReplayDeadLetter(ctx, o.service.SID, sid); err != nil {
			t.Fatal(err)
		}
		again := o.claim().Users[0]
		if again.Events[0].SID != sid || again.Failed != 0 {
			t.Errorf("replayed %+v; want it under its own SID, with a clean record", again)
		}
		// It has another day.
		if dead, _ := o.settle(presence.Settled{Key: ada.Key, Failed: sid, Retry: time.Second, Why: "timeout"}); dead != 0 {
			t.Error("dead at once after the replay")
		}
		o.advance(25 * time.Hour)
		o.settle(presence.Settled{Key: ada.Key, Failed: sid, Retry: time.Second, Why: "timeout"})
		if err := o.DeleteDeadLetter(ctx, o.service.SID, sid); err != nil {
			t.Fatal(err)
		}
		if _, err := o.DeadLetter(ctx, o.service.SID, sid); !errors.Is(err, presence.ErrNoDeadLetter) {
			t.Errorf("deleted, but %v", err)
		}
	})
}

// At most 100 events of a user wait, and 100 dead letters of a partition: the oldest
// make room, but for what may be under way, and it is counted.
func TestWebhooksBounds(t *testing.T) {
	eachOutbox(t, func(t *testing.T, o *outbox) {
		o.update(presence.ServiceUpdate{Webhooks: hooks("http://example.com/", "onReachabilityChanged")})
		var revs []int64
		for i := range 210 {
			if i%2 == 0 {
				o.online("ada")
			} else {
				o.offline("ada")
			}
			_, u, err := o.User(t.Context(), o.key("ada").Service, "ada")
			if err != nil {
				t.Fatal(err)
			}
			revs = append(revs, u.Rev)
		}
		c := o.claim()
		if c.Overflowed != 110 || c.Lost != 10 || c.Users[0].Events[0].User.Rev != revs[0] {
			t.Errorf("overflowed %d, lost %d; want 110 and 10, and the first event still there", c.Overflowed, c.Lost)
		}
		var got []int64
		page, cursor := presence.Page[presence.DeadLetter]{}, ""
		for pages := 0; pages == 0 || cursor != ""; pages++ {
			var err error
			if page, err = o.ListDeadLetters(t.Context(), o.service.SID, cursor, 30); err != nil {
				t.Fatal(err)
			}
			for _, d := range page.Items {
				got = append(got, d.User.Rev)
				if d.Why != "overflow" {
					t.Errorf("why = %q", d.Why)
				}
			}
			cursor = page.Next
		}
		if want := revs[4+10 : 4+110]; !slices.Equal(got, want) {
			t.Errorf("dead letters are revisions %v; want %v", got, want)
		}
		if c := o.claim(); c.Overflowed != 0 || c.Lost != 0 {
			t.Errorf("counted twice: %+v", c)
		}
		o.advance(31 * time.Second)
		if got := o.drain(); len(got) != 100 {
			t.Errorf("%d waited; want 100", len(got))
		}
		if n, err := o.ReplayDeadLetters(t.Context(), o.service.SID, 70); n != 70 || err != nil {
			t.Errorf("ReplayDeadLetters = %d, %v; want 70", n, err)
		}
		if n, err := o.ReplayDeadLetters(t.Context(), o.service.SID, 70); n != 30 || err != nil {
			t.Errorf("ReplayDeadLetters = %d, %v; want the other 30", n, err)
		}
		if got := o.drain(); len(got) != 100 {
			t.Errorf("%d were replayed; want 100", len(got))
		}
	})
}

// Only a change that lasts for the debounce window is told, with its own cause and time.
func TestDebounce(t *testing.T) {
	eachOutbox(t, func(t *testing.T, o *outbox) {
		window := 5 * time.Second
		o.update(presence.ServiceUpdate{Webhooks: hooks("http://example.com/", "onReachabilityChanged"), Debounce: &window})
		o.online("ada")
		o.want("at once")
		if c := o.claim(); c.Next < 4*time.Second || c.Next > window {
			t.Errorf("next work in %v; want when the change has lasted", c.Next)
		}
		o.advance(4 * time.Second)
		o.want("early")
		o.advance(time.Second)
		c := o.claim()
		if len(c.Users) != 1 || c.Users[0].Events[0].Cause != "connect" || c.Users[0].Events[0].Queued.Sub(c.Users[0].Events[0].At) < window-time.Second {
			t.Fatalf("claimed %+v; want ada's connect, as of when it happened", c)
		}
		o.settle(presence.Settled{Key: o.key("ada"), Delivered: []string{c.Users[0].Events[0].SID}})
		told := c.Users[0].Events[0].User.Rev
		o.offline("ada")
		o.advance(4 * time.Second)
		o.online("ada")
		o.advance(time.Minute)
		o.want("back before it lasted")
		o.offline("ada")
		o.advance(4 * time.Second)
		o.online("ada")
		o.advance(time.Second)
		o.offline("ada")
		o.advance(4 * time.Second)
		o.want("each change begins the window anew")
		o.advance(time.Second)
		c = o.claim()
		if len(c.Users) != 1 || len(c.Users[0].Events) != 1 || c.Users[0].Events[0].Before != told || c.Users[0].Events[0].User.Online != presence.False {
			t.Errorf("claimed %+v; want one offline, after what was told last", c)
		}
		o.settle(presence.Settled{Key: o.key("ada"), Delivered: []string{c.Users[0].Events[0].SID}})
		// Turned off while a change waits: it is told when its time has come.
		o.online("ada")
		o.update(presence.ServiceUpdate{Debounce: new(time.Duration)})
		o.online("bob")
		o.want("no window", "bob onReachabilityChanged true")
		o.advance(window)
		o.want("what waited", "ada onReachabilityChanged true")
	})
}

// What a deleted service's backend was owed goes with it.
func TestPurgeTakesWebhooks(t *testing.T) {
	eachOutbox(t, func(t *testing.T, o *outbox) {
		o.update(presence.ServiceUpdate{Webhooks: hooks("http://example.com/", all), Debounce: new(5 * time.Second)})
		o.online("ada")
		o.update(presence.ServiceUpdate{Debounce: new(time.Duration)})
		for range 60 {
			o.online("bob")
			o.offline("bob")
		}
		if err := o.DeleteService(t.Context(), o.service.SID); err != nil {
			t.Fatal(err)
		}
		if c := o.claim(); len(c.Users) > 0 || c.Next >= 0 {
			t.Errorf("claimed %+v of a deleted service", c)
		}
		if keys := o.client.Keys(t.Context(), "rc:{p000}*"+o.service.SID+"*").Val(); len(keys) > 0 {
			t.Errorf("left behind: %v", keys)
		}
		if have := o.client.HGetAll(t.Context(), "rc:{p000}:hooks").Val(); len(have) > 0 {
			t.Errorf("the partition still has %v", have)
		}
	})
}

// A change of webhooks that its node did not finish telling is told by another, and
// never overtakes a later one.
func TestWebhooksToldLater(t *testing.T) {
	eachOutbox(t, func(t *testing.T, o *outbox) {
		ctx := t.Context()
		o.update(presence.ServiceUpdate{Webhooks: hooks("http://example.com/", all)})
		later := o.client.HGet(ctx, "rc:{p000}:hooks", o.service.SID).Val()
		if n := o.client.ZCard(ctx, "rc:{svc}:todo").Val(); n != 0 {
			t.Errorf("%d changes are to be told again; want none", n)
		}
		// as if the node had died before it told anybody
		o.client.HDel(ctx, "rc:{p000}:hooks", o.service.SID)
		version := strings.Fields(later)[0]
		o.client.ZAdd(ctx, "rc:{svc}:todo", redis.Z{Score: 1, Member: "hooks " + o.service.SID + " " + version})
		if _, _, err := o.BeatServices(ctx); err != nil {
			t.Fatal(err)
		}
		if got := o.client.HGet(ctx, "rc:{p000}:hooks", o.service.SID).Val(); !sameWanted(got, later) {
			t.Errorf("the partition has %q; want %q", got, later)
		}
		if n := o.client.ZCard(ctx, "rc:{svc}:todo").Val(); n != 0 {
			t.Errorf("%d changes are still to be told", n)
		}
		// Lost with all data, it comes back with the service.
		s := o.service
		o.client.FlushAll(ctx)
		if _, err := o.RestoreService(ctx, s, "an older run"); err != nil {
			t.Fatal(err)
		}
		if _, _, err := o.BeatServices(ctx); err != nil {
			t.Fatal(err)
		}
		o.online("ada")
		if got := o.drain(); len(got) != 3 {
			t.Errorf("owed %v after the service was written back; want three", got)
		}
	})
}

// sameWanted compares what a partition knows; the wanted events have no order.
func sameWanted(a, b string) bool {
	sorted := func(s string) string { r := []rune(s); slices.Sort(r); return string(r) }
	return sorted(a) == sorted(b)
}

// One live node delivers a partition's webhooks, and another when it has gone; nobody
// while none are configured.
func TestWebhooksOwner(t *testing.T) {
	eachOutbox(t, func(t *testing.T, o *outbox) {
		ctx := t.Context()
		owners := func(nodes ...presence.NodeID) (mine []presence.NodeID) {
			for range 2 { // in the second round all know of all
				mine = nil
				for _, n := range nodes {
					beats, errs := o.Beat(ctx, []presence.Partition{0}, n)
					if errs[0] != nil {
						t.Fatal(errs[0])
					}
					if beats[0].Delivers {
						mine = append(mine, n)
					}
				}
			}
			return mine
		}
		if got := owners("n1", "n2", "n3"); len(got) != 0 {
			t.Errorf("%v deliver, though nothing is configured", got)
		}
		o.update(presence.ServiceUpdate{Webhooks: hooks("http://example.com/", all)})
		got := owners("n1", "n2", "n3")
		if len(got) != 1 {
			t.Fatalf("%v deliver; want one", got)
		}
		rest := slices.DeleteFunc([]presence.NodeID{"n1", "n2", "n3"}, func(n presence.NodeID) bool { return n == got[0] })
		if err := o.Leave(ctx, []presence.Partition{0}, got[0], 0); err != nil {
			t.Fatal(err)
		}
		if next := owners(rest...); len(next) != 1 {
			t.Errorf("%v deliver after %v has left; want one", next, got)
		}
		beats, _ := o.Beat(ctx, []presence.Partition{0}, "n1")
		if beats[0].Webhooks >= 0 {
			t.Errorf("work in %v; want none", beats[0].Webhooks)
		}
		o.online("ada")
		beats, _ = o.Beat(ctx, []presence.Partition{0}, "n1")
		if beats[0].Webhooks != 0 {
			t.Errorf("work in %v; want now", beats[0].Webhooks)
		}
	})
}

// A queue that gets its first event wakes the node that delivers, on a channel of its own.
func TestWebhooksWake(t *testing.T) {
	eachOutbox(t, func(t *testing.T, o *outbox) {
		sub := o.client.Subscribe(t.Context(), o.Keys().Wake())
		defer func() { _ = sub.Close() }()
		if _, err := sub.Receive(t.Context()); err != nil {
			t.Fatal(err)
		}
		o.update(presence.ServiceUpdate{Webhooks: hooks("http://example.com/", all)})
		o.online("ada")
		m, err := sub.ReceiveMessage(t.Context())
		if err != nil || m.Payload != "w0" {
			t.Errorf("woken by %v, %v; want w0", m, err)
		}
	})
}
