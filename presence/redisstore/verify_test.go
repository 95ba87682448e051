package redisstore_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/presence"
	"github.com/rollcall-presence/rollcall/presence/presencetest"
	"github.com/rollcall-presence/rollcall/presence/redisstore"
)

// records is a store in use: ada has sessions on two nodes, bob lingers, cy was online,
// dee has a push binding and a session, eve never connected.
type records struct {
	*presencetest.Harness
	t       *testing.T
	c       redis.UniversalClient
	s       *redisstore.Store
	ctx     context.Context //nolint:containedctx // of the test
	service presence.Service
	seen    map[string]presence.User // as a subscriber has it
}

func newRecords(t *testing.T, c redis.UniversalClient) *records {
	t.Helper()
	h := harness(t, c)
	w := &records{Harness: h, t: t, c: c, s: h.Store.(*redisstore.Store), ctx: t.Context(), seen: map[string]presence.User{}}
	on := true
	v, err := w.s.CreateService(w.ctx, presence.Service{Account: account})
	w.must(err)
	w.service, err = w.s.UpdateService(w.ctx, v.SID, presence.ServiceUpdate{Enabled: &on})
	w.must(err)
	for _, n := range []presence.NodeID{"n1", "n2"} {
		_, errs := w.s.Beat(w.ctx, []presence.Partition{0, 1}, n)
		w.must(errs...)
	}
	w.open("n1", "ada", 1)
	w.open("n2", "ada", 2)
	w.open("n1", "bob", 3)
	w.end("n1", "bob", 3, time.Minute)
	w.open("n1", "cy", 4)
	w.end("n1", "cy", 4, 0)
	w.open("n2", "dee", 5)
	credential, err := w.s.CreateCredential(w.ctx, account, presence.PushFCM, presence.CredentialUpdate{})
	w.must(err)
	_, err = w.s.Bind(w.ctx, w.key("dee"), presence.Registration{Type: presence.PushFCM, Address: "phone", Credential: credential.SID})
	w.must(err)
	_, err = w.s.CreateUser(w.ctx, w.key("eve"), presence.UserUpdate{})
	w.must(err)
	w.watch()
	return w
}

func (w *records) must(errs ...error) {
	w.t.Helper()
	for _, err := range errs {
		if err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *records) key(identity string) presence.Key {
	return presence.Key{Service: w.service.SID, Identity: identity}
}

func session(n int) presence.SessionID {
	return presence.SessionID(fmt.Sprintf("%0*x", presence.SessionIDLen, n))
}

func (w *records) open(n presence.NodeID, identity string, id int) {
	w.t.Helper()
	h := presence.Held{Key: w.key(identity), ID: session(id), Service: w.service}
	_, err := w.s.Register(w.ctx, w.s.Partition(h.Key), n, []presence.Held{h})
	w.must(err)
}

func (w *records) end(n presence.NodeID, identity string, id int, linger time.Duration) {
	w.t.Helper()
	e := presence.Ended{Key: w.key(identity), ID: session(id), Linger: linger, Service: w.service}
	_, err := w.s.End(w.ctx, w.s.Partition(e.Key), n, []presence.Ended{e})
	w.must(err)
}

// watch takes in what was published, as a subscriber does.
func (w *records) watch() {
	w.t.Helper()
	for _, e := range w.Events() {
		id := e.User.Identity
		if e.User.Rev <= w.seen[id].Rev {
			w.t.Errorf("revision %d of %s after %d", e.User.Rev, id, w.seen[id].Rev)
		}
		if e.Deleted {
			e.User = presence.User{Rev: e.User.Rev}
		}
		w.seen[id] = e.User
	}
}

// wantSeen compares what a subscriber has with the store.
func (w *records) wantSeen(when string) {
	w.t.Helper()
	w.watch()
	for id, seen := range w.seen {
		users, err := w.s.ReadUsers(w.ctx, []presence.Key{w.key(id)})
		w.must(err)
		if u := users[0]; (seen.SID == "") != (u.SID == "") || seen.Online != u.Online || seen.Notifiable != u.Notifiable || u.SID != "" && seen.Rev != u.Rev {
			w.t.Errorf("%s: a subscriber has of %s %+v; the store %+v", when, id, seen, u)
		}
	}
}

func (w *records) verify(opt redisstore.VerifyOptions) redisstore.Verified {
	w.t.Helper()
	opt.Confirm = time.Millisecond
	got, err := w.s.Verify(w.ctx, opt)
	w.must(err)
	return got
}

// at is the base of a user's keys in its partition, and its service.
func (w *records) at(identity, rest string) string {
	return w.s.Keys().Base(w.s.Partition(w.key(identity))) + rest
}

func (w *records) of(identity, rest string) string {
	return w.at(identity, ":"+w.service.SID+rest)
}

// What :state says of a user, by position.
const (
	fieldOnline, fieldNotifiable, fieldEpoch = 1, 2, 3
	fieldOn                                  = 10
)

func (w *records) fields(identity string) []string {
	text, err := w.c.HGet(w.ctx, w.of(identity, ":state"), identity).Result()
	w.must(err)
	return strings.Split(text, " ")
}

func (w *records) set(identity string, field int, value string) error {
	f := w.fields(identity)
	f[field] = value
	return w.c.HSet(w.ctx, w.of(identity, ":state"), identity, strings.Join(f, " ")).Err()
}

// block is the key of the block that has a session of a user, and its number.
func (w *records) block(identity string, id int) (key, n string) {
	for n := range strings.SplitSeq(w.fields(identity)[fieldOn], ",") {
		key := w.of(identity, ":on:"+n)
		if strings.Contains(w.c.HGet(w.ctx, key, identity).Val(), string(session(id))) {
			return key, n
		}
	}
	w.t.Fatalf("session %d of %s is in no block", id, identity)
	return "", ""
}

func (w *records) binding(identity string) string {
	sids, err := w.c.HKeys(w.ctx, w.s.Keys().BindingsOf(w.key(identity))).Result()
	w.must(err)
	return sids[0]
}

func (w *records) later(d time.Duration) float64 { return float64(time.Now().Add(d).UnixMilli()) }

// damage is one thing done to the store by hand, and what Verify is to say of it.
type damage struct {
	name     string
	kinds    string // found, in alphabetic order
	identity string
	plant    func(w *records) error
	after    map[string]presence.Tri // is_online once it is mended, where that is not as before
}

var damages = []damage{
	{"an online state names a node without a lease", "session_without_lease", "eve", func(w *records) error {
		w.open("ghost", "eve", 9)
		w.c.HDel(w.ctx, w.at("eve", ":seq"), "ops:ghost")
		w.c.Del(w.ctx, w.at("eve", ":node:ghost"))
		return w.c.ZRem(w.ctx, w.at("eve", ":nodes"), "ghost").Err()
	}, map[string]presence.Tri{"eve": presence.False}},
	{"one of several sessions is of a node without a lease", "session_without_lease", "ada", func(w *records) error {
		key := w.of("ada", ":on:99")
		w.must(w.set("ada", fieldOn, w.fields("ada")[fieldOn]+",99"), w.c.HSet(w.ctx, key, "", "ghost", "ada", string(session(9))).Err())
		return w.c.Expire(w.ctx, key, time.Hour).Err()
	}, nil},
	{"a node's record lacks a block", "session_unlisted", "ada", func(w *records) error {
		_, n := w.block("ada", 1)
		key := w.at("ada", ":node:n1")
		rest := slices.DeleteFunc(strings.Split(w.c.HGet(w.ctx, key, w.service.SID).Val(), ","), func(v string) bool { return v == n })
		return w.c.HSet(w.ctx, key, w.service.SID, strings.Join(rest, ",")).Err()
	}, nil},
	{"the online state lacks a session", "session_lost", "ada", func(w *records) error {
		key, _ := w.block("ada", 1)
		return w.c.HDel(w.ctx, key, "ada").Err()
	}, nil},
	{"a user's record lacks a session", "session_not_online", "ada", func(w *records) error {
		_, n := w.block("ada", 2)
		return w.set("ada", fieldOn, n)
	}, nil},
	{"a block is of another node", "session_unlisted", "ada", func(w *records) error {
		key, _ := w.block("ada", 1)
		return w.c.HSet(w.ctx, key, "", "n2").Err()
	}, nil},
	{"an online state is lost", "session_lost stuck_online", "dee", func(w *records) error {
		key, _ := w.block("dee", 5)
		return w.c.Del(w.ctx, key).Err()
	}, nil},
	{"a connected user's record is lost", "entry_without_user session_without_user user_index", "ada", func(w *records) error {
		return w.c.HDel(w.ctx, w.of("ada", ":state"), "ada").Err()
	}, nil},
	{"an online state never expires", "online_without_ttl", "dee", func(w *records) error {
		key, _ := w.block("dee", 5)
		return w.c.Persist(w.ctx, key).Err()
	}, nil},
	{"a node without lease left operations", "node_without_lease", "", func(w *records) error {
		return w.c.HSet(w.ctx, w.s.Keys().Base(0)+":seq", "ops:n9", 3).Err()
	}, nil},
	{"what a node was to end is kept for ever", "node_without_lease", "", func(w *records) error {
		w.must(w.s.Leave(w.ctx, []presence.Partition{0, 1}, "n3", 0))
		_, errs := w.s.Beat(w.ctx, []presence.Partition{1}, "n3") // which is known to another partition
		w.must(errs...)
		return w.c.SAdd(w.ctx, w.s.Keys().Base(0)+":end:n3", string(session(9))).Err()
	}, nil},
	{"a node lost its lease", "node_without_lease session_without_lease", "dee", func(w *records) error {
		return w.c.ZRem(w.ctx, w.at("dee", ":nodes"), "n2").Err()
	}, map[string]presence.Tri{"dee": presence.False}},
	{"nobody reaps a node", "lease_overdue", "", func(w *records) error {
		return w.c.ZAdd(w.ctx, w.at("dee", ":nodes"), redis.Z{Score: w.later(-2 * time.Minute), Member: "n2"}).Err()
	}, map[string]presence.Tri{"dee": presence.False}},
	{"a lease lasts a year", "lease_overdue", "", func(w *records) error {
		return w.c.ZAdd(w.ctx, w.at("dee", ":nodes"), redis.Z{Score: w.later(365 * 24 * time.Hour), Member: "n2"}).Err()
	}, nil},
	{"a user is online for no reason", "change_log stuck_online", "cy", func(w *records) error {
		return w.set("cy", fieldOnline, "1")
	}, nil},
	{"a connected user's record says offline", "change_log shown_offline", "ada", func(w *records) error {
		return w.set("ada", fieldOnline, "0")
	}, nil},
	{"the service lost a flip of its switch", "epoch", "dee", func(w *records) error {
		return w.set("dee", fieldEpoch, "7")
	}, nil},
	{"an offline user lingers", "linger_stray", "cy", func(w *records) error {
		return w.c.ZAdd(w.ctx, w.at("cy", ":linger"), redis.Z{Score: w.later(time.Second), Member: w.service.SID + "cy"}).Err()
	}, nil},
	{"nobody settles the linger of a connected user", "linger_overdue", "ada", func(w *records) error {
		return w.c.ZAdd(w.ctx, w.at("ada", ":linger"), redis.Z{Score: w.later(-2 * time.Minute), Member: w.service.SID + "ada"}).Err()
	}, nil},
	{"nobody settles a linger", "linger_overdue", "bob", func(w *records) error {
		return w.c.ZAdd(w.ctx, w.at("bob", ":linger"), redis.Z{Score: w.later(-2 * time.Minute), Member: w.service.SID + "bob"}).Err()
	}, map[string]presence.Tri{"bob": presence.False}},
	{"a linger is due in a year", "linger_overdue", "bob", func(w *records) error {
		return w.c.ZAdd(w.ctx, w.at("bob", ":linger"), redis.Z{Score: w.later(365 * 24 * time.Hour), Member: w.service.SID + "bob"}).Err()
	}, nil},
	{"a linger is lost", "stuck_online", "bob", func(w *records) error {
		return w.c.ZRem(w.ctx, w.at("bob", ":linger"), w.service.SID+"bob").Err()
	}, nil},
	{"a user stands not in the list", "user_index", "cy", func(w *records) error {
		return w.c.Del(w.ctx, w.of("cy", ":users")).Err()
	}, nil},
	{"a SID too many", "user_index", "cy", func(w *records) error {
		return w.c.ZAdd(w.ctx, w.of("cy", ":users"), redis.Z{Member: "0123456789abcdef0123456789abcy"}).Err()
	}, nil},
	{"a record cannot be read", "entry_without_user user_index", "cy", func(w *records) error {
		return w.c.HSet(w.ctx, w.of("cy", ":state"), "cy", "1  1  5 ").Err()
	}, nil},
	{"a user is in both lists", "change_log", "cy", func(w *records) error {
		return w.c.ZAdd(w.ctx, w.of("cy", ":online"), redis.Z{Score: 5, Member: "cy"}).Err()
	}, nil},
	{"a user counts as deleted", "change_log", "cy", func(w *records) error {
		return w.c.ZAdd(w.ctx, w.of("cy", ":gone"), redis.Z{Score: 5, Member: "cy"}).Err()
	}, nil},
	{"a record of nobody", "entry_without_user", "nobody", func(w *records) error {
		return w.c.HSet(w.ctx, w.of("nobody", ":state"), "nobody", "0123456789abcdef0123456789ab 1  1  5 ").Err()
	}, nil},
	{"a linger of nobody", "entry_without_user", "nobody", func(w *records) error {
		return w.c.ZAdd(w.ctx, w.at("nobody", ":linger"), redis.Z{Score: w.later(time.Second), Member: w.service.SID + "nobody"}).Err()
	}, nil},
	{"a user's record is lost", "entry_without_user user_index", "cy", func(w *records) error {
		return w.c.HDel(w.ctx, w.of("cy", ":state"), "cy").Err()
	}, nil},
	{"a flag is lost", "notifiable", "dee", func(w *records) error {
		return w.set("dee", fieldNotifiable, "0")
	}, nil},
	{"a flag too many", "notifiable", "cy", func(w *records) error {
		return w.set("cy", fieldNotifiable, "1")
	}, nil},
	{"a binding is not found by SID", "address binding_index", "dee", func(w *records) error {
		return w.c.HDel(w.ctx, w.of("dee", ":bsids"), w.binding("dee")).Err()
	}, nil},
	{"a binding never expires", "binding_index", "dee", func(w *records) error { return w.c.Del(w.ctx, w.at("dee", ":bindexp")).Err() }, nil},
	{"a binding is not listed", "binding_index", "dee", func(w *records) error { return w.c.Del(w.ctx, w.of("dee", ":bindings")).Err() }, nil},
	{"a binding that there is not expires", "binding_index", "", func(w *records) error {
		return w.c.ZAdd(w.ctx, w.at("dee", ":bindexp"), redis.Z{Score: w.later(time.Hour), Member: w.service.SID + "BS00000123456789abcdef0123456789ab"}).Err()
	}, nil},
	{"a binding that there is not is listed", "binding_index", "", func(w *records) error {
		return w.c.ZAdd(w.ctx, w.of("dee", ":bindings"), redis.Z{Member: "0123456789012345BS00000123456789abcdef0123456789ab"}).Err()
	}, nil},
	{"a SID of no binding", "binding_index", "eve", func(w *records) error {
		return w.c.HSet(w.ctx, w.of("eve", ":bsids"), "BS00000123456789abcdef0123456789ab", "eve").Err()
	}, nil},
	{"nobody removes an expired binding", "binding_overdue", "dee", func(w *records) error {
		sid := w.binding("dee")
		raw, err := w.c.HGet(w.ctx, w.s.Keys().BindingsOf(w.key("dee")), sid).Result()
		if err != nil {
			return err
		}
		at := strings.Index(raw, `"x":"`) + len(`"x":"`)
		past := fmt.Sprintf("%.0f", w.later(-time.Hour))
		w.c.ZAdd(w.ctx, w.at("dee", ":bindexp"), redis.Z{Score: w.later(-time.Hour), Member: w.service.SID + sid})
		return w.c.HSet(w.ctx, w.s.Keys().BindingsOf(w.key("dee")), sid, raw[:at]+past+raw[at+len(past):]).Err()
	}, nil},
	{"an address is nobody's", "address", "dee", func(w *records) error { return w.c.HDel(w.ctx, w.held("fcm:phone"), "fcm:phone").Err() }, nil},
	{"an address was claimed and never bound", "address", "dee", func(w *records) error {
		return w.c.HSet(w.ctx, w.held("fcm:phone"), "fcm:phone", "BS00000123456789abcdef0123456789ab,"+w.binding("dee")).Err()
	}, nil},
	{"an address has no binding", "address", "", func(w *records) error {
		return w.c.HSet(w.ctx, w.held("fcm:tablet"), "fcm:tablet", "BS00000123456789abcdef0123456789ab").Err()
	}, nil},
	{"a deleted service came back", "deleted_service", "", func(w *records) error {
		v, err := w.s.CreateService(w.ctx, presence.Service{})
		if err == nil {
			err = w.s.DeleteService(w.ctx, v.SID)
		}
		if err != nil {
			return err
		}
		h := presence.Held{Key: presence.Key{Service: v.SID, Identity: "late"}, ID: session(8), Service: v}
		_, err = w.s.Register(w.ctx, w.s.Partition(h.Key), "n1", []presence.Held{h})
		w.c.ZRem(w.ctx, w.s.Keys().Todo(), v.SID)
		w.Events()
		return err
	}, nil},
}

// held is where it is kept who has an address.
func (w *records) held(address string) string {
	return w.s.Keys().Addresses(w.s.Partition(w.key(address)), w.service.SID)
}

func kindsOf(list []redisstore.Disagreement) string {
	var kinds []string
	for _, d := range list {
		kinds = append(kinds, d.Kind)
	}
	slices.Sort(kinds)
	return strings.Join(slices.Compact(kinds), " ")
}

func eachServer(t *testing.T, test func(*testing.T, func(*testing.T) redis.UniversalClient)) {
	t.Run("miniredis", func(t *testing.T) {
		test(t, func(t *testing.T) redis.UniversalClient { _, c := testkit.Mini(t); return c })
	})
	t.Run("redis", func(t *testing.T) {
		server := testkit.Redis(t)
		test(t, func(t *testing.T) redis.UniversalClient {
			c := server.Client()
			t.Cleanup(func() { _ = c.Close() })
			return c
		})
	})
	t.Run("cluster", func(t *testing.T) {
		cluster := testkit.StartCluster(t, 3, 0)
		test(t, func(t *testing.T) redis.UniversalClient { return connect(t, cluster.URL()) })
	})
}

// Each kind of damage is found, named and mended, what subscribers see follows, and
// nothing is found then.
func TestVerify(t *testing.T) {
	eachServer(t, func(t *testing.T, open func(*testing.T) redis.UniversalClient) {
		planted := map[string]bool{}
		for _, d := range damages {
			for kind := range strings.SplitSeq(d.kinds, " ") {
				planted[kind] = true
			}
			t.Run(d.name, func(t *testing.T) {
				w := newRecords(t, open(t))
				if got := w.verify(redisstore.VerifyOptions{}); len(got.Disagreements) > 0 {
					t.Fatalf("before anything is damaged: %+v", got.Disagreements)
				}
				before, err := w.s.ReadUsers(w.ctx, []presence.Key{w.key("ada"), w.key("bob"), w.key("cy"), w.key("dee"), w.key("eve")})
				w.must(err)
				w.must(d.plant(w))
				got := w.verify(redisstore.VerifyOptions{})
				if kindsOf(got.Disagreements) != d.kinds {
					t.Errorf("found %q; want %q: %+v", kindsOf(got.Disagreements), d.kinds, got.Disagreements)
				}
				if !slices.ContainsFunc(got.Disagreements, func(x redisstore.Disagreement) bool { return x.Identity == d.identity }) {
					t.Errorf("found %+v; want it of %q", got.Disagreements, d.identity)
				}
				for _, x := range got.Disagreements {
					if x.What == "" || x.Says == "" || x.Cause == "" || x.Repair == "" || x.Repaired || x.Service != "" && !presence.IsSID(x.Service, "IS") {
						t.Errorf("says %+v", x)
					}
				}
				if again := w.verify(redisstore.VerifyOptions{}); kindsOf(again.Disagreements) != d.kinds {
					t.Errorf("looking changed what there is to see: %q, then %q", d.kinds, kindsOf(again.Disagreements))
				}
				for _, x := range w.verify(redisstore.VerifyOptions{Repair: true}).Disagreements {
					if !x.Repaired {
						t.Errorf("not repaired: %+v", x)
					}
				}
				if got := w.verify(redisstore.VerifyOptions{}); len(got.Disagreements) > 0 {
					t.Errorf("after the repair: %+v", got.Disagreements)
				}
				w.wantSeen("after the repair")
				w.settle()
				w.wantSeen("when all has settled")
				if got := w.verify(redisstore.VerifyOptions{}); len(got.Disagreements) > 0 {
					t.Errorf("when all has settled: %+v", got.Disagreements)
				}
				for _, u := range before {
					want, ok := d.after[u.Identity]
					if !ok {
						want = u.Online
					}
					if u.Identity == "bob" {
						want = presence.False // his linger is over
					}
					now, err := w.s.ReadUsers(w.ctx, []presence.Key{u.Key})
					w.must(err)
					if now[0].Online != want && now[0].SID != "" {
						t.Errorf("%s is online: %v; want %v", u.Identity, now[0].Online, want)
					}
				}
			})
		}
		for _, kind := range redisstore.Kinds() {
			if !planted[kind] {
				t.Errorf("no damage of kind %s is planted", kind)
			}
		}
	})
}

// A binding that cannot be read keeps nobody from looking. Its address is known only to
// who has it: once the binding is gone, nobody does.
func TestVerifyUnreadableBinding(t *testing.T) {
	eachServer(t, func(t *testing.T, open func(*testing.T) redis.UniversalClient) {
		w := newRecords(t, open(t))
		w.must(w.c.HSet(w.ctx, w.s.Keys().BindingsOf(w.key("dee")), w.binding("dee"), "5").Err())
		for _, kinds := range []string{"binding_index", "address", ""} {
			if got := w.verify(redisstore.VerifyOptions{Repair: true}); kindsOf(got.Disagreements) != kinds {
				t.Errorf("found %+v; want %q", got.Disagreements, kinds)
			}
		}
		w.wantSeen("after the repair")
	})
}

// The end of a session whose user's record is lost leaves nothing that looks like a user:
// who connects next is one, whole.
func TestEndWithoutUser(t *testing.T) {
	eachServer(t, func(t *testing.T, open func(*testing.T) redis.UniversalClient) {
		w := newRecords(t, open(t))
		w.must(w.c.HDel(w.ctx, w.of("ada", ":state"), "ada").Err())
		w.end("n1", "ada", 1, time.Minute)
		w.must(w.s.Leave(w.ctx, []presence.Partition{w.s.Partition(w.key("ada"))}, "n2", time.Minute))
		w.open("n1", "ada", 9)
		if _, u, err := w.s.User(w.ctx, w.service.SID, "ada"); err != nil || !presence.IsSID(u.SID, "US") || u.Online != presence.True {
			t.Errorf("the user is %+v, %v; want one that is online", u, err)
		}
	})
}

// A switch that is flipped while users are gone through, which may take long, makes no
// suspects of all that follow.
func TestVerifyWhileSwitched(t *testing.T) {
	_, c := testkit.Mini(t)
	w := newRecords(t, c)
	const users = 300
	name := func(i int) string { return fmt.Sprint("user", i) }
	for i := range users {
		w.open("n1", name(i), 100+i)
	}
	scripts := 0
	got := w.verify(redisstore.VerifyOptions{Pause: func(context.Context, int) error {
		if scripts++; scripts != 1 {
			return nil
		}
		for _, on := range []bool{false, true} {
			var err error
			w.service, err = w.s.UpdateService(w.ctx, w.service.SID, presence.ServiceUpdate{Enabled: &on})
			w.must(err)
		}
		for i := range users {
			w.open("n1", name(i), 100+i)
		}
		return nil
	}})
	if len(got.Disagreements) > 0 || got.Unexamined > 0 {
		t.Errorf("found %+v", got)
	}
	if scripts > 160 {
		t.Errorf("%d scripts; want not one for each of %d users", scripts, users)
	}
}

// settle does what nodes do that hold ada's and dee's sessions, until all lingers are over.
func (w *records) settle() {
	w.t.Helper()
	both := []presence.Partition{0, 1}
	held := map[presence.NodeID]map[string]int{"n1": {"ada": 1}, "n2": {"ada": 2, "dee": 5}}
	for range 4 {
		w.Advance(presencetest.Lease/2 - time.Second)
		for n, sessions := range held {
			_, errs := w.s.Beat(w.ctx, both, n)
			w.must(errs...)
			for identity, id := range sessions {
				users, err := w.s.ReadUsers(w.ctx, []presence.Key{w.key(identity)})
				w.must(err)
				counted, err := w.s.CountSessions(w.ctx, []presence.Key{w.key(identity)})
				w.must(err)
				if users[0].Online == presence.True && counted[0] == 0 || users[0].SID == "" {
					w.open(n, identity, id) // as a node that was asked does
				}
			}
		}
	}
}

// A node is looked after by none but itself, and every partition by one node.
func TestVerifyShares(t *testing.T) {
	_, c := testkit.Mini(t)
	w := newRecords(t, c)
	shared := 0
	for _, n := range []presence.NodeID{"n1", "n2", "n3"} {
		shared += w.verify(redisstore.VerifyOptions{Node: n}).Partitions
	}
	if shared != 2 {
		t.Errorf("nodes look at %d partitions; want each of 2 looked at once", shared)
	}
}

// Users beyond one chunk are looked at too, and so is the last of them.
func TestVerifyInChunks(t *testing.T) {
	eachServer(t, func(t *testing.T, open func(*testing.T) redis.UniversalClient) {
		w := newRecords(t, open(t))
		for range 450 { // services between, of which most have nobody
			_, err := w.s.CreateService(w.ctx, presence.Service{})
			w.must(err)
		}
		last, err := w.s.CreateService(w.ctx, presence.Service{})
		w.must(err)
		w.service = last
		const users = 330
		for i := range users {
			_, err := w.s.CreateUser(w.ctx, w.key(fmt.Sprint("user", i)), presence.UserUpdate{})
			w.must(err)
		}
		scripts := 0
		count := redisstore.VerifyOptions{Pause: func(context.Context, int) error { scripts++; return nil }}
		if got := w.verify(count); len(got.Disagreements) > 0 || got.Services != 453 {
			t.Fatalf("%+v; want no disagreement in 453 services", got)
		}
		if scripts > 60 {
			t.Errorf("%d scripts for %d users of 453 services in 2 partitions", scripts, users)
		}
		for i := range users {
			w.must(w.set(fmt.Sprint("user", i), fieldOnline, "1"))
		}
		got := w.verify(redisstore.VerifyOptions{Services: []string{last.SID}})
		if len(got.Disagreements) != 2*users {
			t.Errorf("%d disagreements; want 2 for each of %d users", len(got.Disagreements), users)
		}
		if diff := cmp.Diff("change_log stuck_online", kindsOf(got.Disagreements)); diff != "" {
			t.Error(diff)
		}
	})
}

// A node that has few sessions of each of many services is not looked at service by service; and none of them is left out.
func TestVerifyManyServices(t *testing.T) {
	eachServer(t, func(t *testing.T, open func(*testing.T) redis.UniversalClient) {
		w := newRecords(t, open(t))
		const services = 600
		for i := range services {
			v, err := w.s.CreateService(w.ctx, presence.Service{})
			w.must(err)
			w.service = v
			w.open("n1", "ada", 100+i)
			w.open("n1", "bob", 1000+i)
		}
		scripts := 0
		count := redisstore.VerifyOptions{Pause: func(context.Context, int) error { scripts++; return nil }}
		if got := w.verify(count); len(got.Disagreements) > 0 {
			t.Fatalf("%+v; want no disagreement", got)
		}
		if scripts > 300 {
			t.Errorf("%d scripts for 2 users in each of %d services in 2 partitions", scripts, services)
		}
		all, err := w.s.ListServices(w.ctx, "", services+3)
		w.must(err)
		damaged := 0
		for _, v := range all.Items {
			w.service = v
			if users, err := w.s.ReadUsers(w.ctx, []presence.Key{w.key("bob")}); err == nil && users[0].Online == presence.True && users[0].SID != "" {
				w.must(w.set("bob", fieldOn, ""))
				damaged++
			}
		}
		found := 0
		for _, d := range w.verify(redisstore.VerifyOptions{}).Disagreements {
			if d.Kind == "session_not_online" {
				found++
			}
		}
		if damaged < services || found < services {
			t.Errorf("%d of %d sessions that their users' records lack were found", found, damaged)
		}
	})
}
