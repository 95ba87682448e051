package presencetest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rollcall-presence/rollcall/presence"
)

// Store is all that a presence store offers.
type Store interface {
	presence.Store
	presence.Bindings
	Binding(ctx context.Context, service, sid string) (presence.Binding, error)
	ListBindings(ctx context.Context, service string, f presence.BindingFilter, cursor string, limit int) (presence.Page[presence.Binding], error)
	CreateCredential(ctx context.Context, account string, t presence.PushType, u presence.CredentialUpdate) (presence.Credential, error)
	Credential(ctx context.Context, sid string) (presence.Credential, error)
	ListCredentials(ctx context.Context, cursor string, limit int) (presence.Page[presence.Credential], error)
	UpdateCredential(ctx context.Context, sid string, u presence.CredentialUpdate) (presence.Credential, error)
	DeleteCredential(ctx context.Context, sid string) error
	CreateService(context.Context, presence.Service) (presence.Service, error)
	Service(ctx context.Context, sid string) (presence.Service, error)
	ListServices(ctx context.Context, cursor string, limit int) (presence.Page[presence.Service], error)
	UpdateService(ctx context.Context, sid string, u presence.ServiceUpdate) (presence.Service, error)
	DeleteService(ctx context.Context, sid string) error
	DefaultService(context.Context) (string, error)
	UpdateAccount(ctx context.Context, u presence.AccountUpdate) error
	BeatServices(context.Context) (run string, seq uint64, err error)
	RestoreService(ctx context.Context, s presence.Service, run string) (presence.Service, error)
	CreateUser(context.Context, presence.Key, presence.UserUpdate) (presence.User, error)
	User(ctx context.Context, service, name string) (presence.Service, presence.User, error)
	ListUsers(ctx context.Context, service, cursor string, limit int) (presence.Page[presence.User], error)
	UpdateUser(context.Context, presence.Key, presence.UserUpdate) (presence.User, error)
	DeleteUser(context.Context, presence.Key) error
	ReadUsers(context.Context, []presence.Key) ([]presence.User, error)
	CountSessions(context.Context, []presence.Key) ([]int, error)
	UserSessions(context.Context, presence.Key) ([]presence.UserSession, error)
	EndSessions(context.Context, presence.Key, presence.Service, presence.SessionID) (int, error)
	Presence(ctx context.Context, service string, identities []string) (presence.Service, iter.Seq[presence.User], error)
	OnlineUsers(ctx context.Context, service, cursor string, limit int) (presence.Page[presence.User], int64, error)
	Moment(context.Context) (presence.Moment, error)
	Changes(ctx context.Context, s presence.Service, from presence.Place, limit int, m presence.Moment) (presence.Changes, error)
}

// Harness is a fresh store under test. Its lease is Lease, its stall Stall.
type Harness struct {
	Store Store
	// Advance moves the store's clock.
	Advance func(time.Duration)
	// Events returns what was published since the last call, in order.
	Events func() []presence.Event
	// Apart tells that the order holds within each partition only: their events come by different ways.
	Apart bool
	// Reset empties the store, and sets its clock and its source of SIDs back; the
	// default service is made anew.
	Reset func()
	// Wipe empties the store and nothing else, as FLUSHALL does. A harness that has no
	// Wipe, or no Snapshot, plays histories without losses.
	Wipe func()
	// Snapshot remembers all that the store holds, which the function it returns
	// brings back: what was written between the two is lost.
	Snapshot func() (restore func())
	// Check, if set, is called after each step of a random history.
	Check func() error
}

// The timers of a Harness's store: so long that the real time which a test takes
// on a real server does not matter; no sum of steps in the tests meets Stall.
const (
	Lease  = 100 * time.Second
	Stall  = 55 * time.Second
	Linger = 60 * time.Second

	// reaped is how many sessions, and lingers, one heartbeat settles.
	reaped = 25
)

// Run runs the suite.
func Run(t *testing.T, open func(*testing.T) *Harness) {
	for _, c := range []struct {
		name string
		test func(*testing.T, *Harness)
	}{
		{"NullSemantics", nullSemantics},
		{"Linger", linger},
		{"LapsedNode", lapsedNode},
		{"Stall", stall},
		{"BegunInAStall", begunInAStall},
		{"Leave", leave},
		{"Revisions", revisions},
		{"LateCloseOfOldSession", lateClose},
		{"LateSignOut", lateSignOut},
		{"EndUnderStaleSwitch", endUnderStaleSwitch},
		{"OpenUnderStaleEpoch", openUnderStaleEpoch},
		{"EndUnderNewEpoch", endUnderNewEpoch},
		{"ReapInChunks", reapInChunks},
		{"BackWithinLingerOnDyingNode", backOnDyingNode},
		{"LingerBesideDyingNode", lingerBesideDyingNode},
		{"DeleteUser", deleteUser},
		{"DeletedWhileCutOff", deletedWhileCutOff},
		{"EndedWhileCutOff", endedWhileCutOff},
		{"DeleteService", deleteService},
		{"RestoreService", restoreService},
		{"Tenancy", tenancy},
		{"ListUsers", listUsers},
		{"HostileIdentities", hostileIdentities},
		{"Profile", profile},
		{"DefaultService", defaultService},
		{"Notifiable", notifiable},
		{"BindingMoves", bindingMoves},
		{"BindingExpires", bindingExpires},
		{"BindingLimits", bindingLimits},
		{"BindingsGoWithTheirs", bindingsGoWithTheirs},
		{"BindingTenancy", bindingTenancy},
		{"ListBindings", listBindings},
		{"Credentials", credentials},
		{"ConcurrentMoves", concurrentMoves},
		{"Model", func(t *testing.T, h *Harness) { Operations(t, Histories{N: 200}, h) }},
		{"EndSessions", endSessions},
		{"Presence", presenceOfMany},
		{"OnlineUsers", onlineUsers},
		{"Places", places},
		{"Changes", changes},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
}

// world is a service on a harness, with shorthand that fails the test.
type world struct {
	*Harness
	t       testing.TB
	ctx     context.Context //nolint:containedctx // of the test
	service presence.Service
}

func newWorld(t testing.TB, h *Harness, enabled bool) *world {
	t.Helper()
	w := &world{Harness: h, t: t, ctx: t.Context()}
	w.service = must(h.Store.CreateService(w.ctx, presence.Service{Account: "AC0", FriendlyName: "test", Linger: -1}))(t)
	w.flip(enabled)
	h.Events()
	return w
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func (w *world) flip(on bool) {
	w.t.Helper()
	w.service = must(w.Store.UpdateService(w.ctx, w.service.SID, presence.ServiceUpdate{Enabled: &on}))(w.t)
}

func (w *world) key(identity string) presence.Key {
	return presence.Key{Service: w.service.SID, Identity: identity}
}

func sessionID(n int) presence.SessionID {
	return presence.SessionID(fmt.Sprintf("%0*x", presence.SessionIDLen, n))
}

func (w *world) register(n presence.NodeID, identity string, session int) presence.Outcome {
	w.t.Helper()
	h := presence.Held{Key: w.key(identity), ID: sessionID(session), Service: w.service}
	return must(w.Store.Register(w.ctx, w.Store.Partition(h.Key), n, []presence.Held{h}))(w.t).Outcomes[0]
}

func (w *world) end(n presence.NodeID, identity string, session int, linger time.Duration) presence.Outcome {
	w.t.Helper()
	e := presence.Ended{Key: w.key(identity), ID: sessionID(session), Linger: linger, Service: w.service}
	return must(w.Store.End(w.ctx, w.Store.Partition(e.Key), n, []presence.Ended{e}))(w.t).Outcomes[0]
}

func (w *world) beat(n presence.NodeID, identity string) presence.Beat {
	w.t.Helper()
	beats, errs := w.Store.Beat(w.ctx, []presence.Partition{w.Store.Partition(w.key(identity))}, n)
	return must(beats[0], errs[0])(w.t)
}

func (w *world) view(identity string) presence.Snapshot {
	w.t.Helper()
	return w.service.View(must(w.Store.ReadUsers(w.ctx, []presence.Key{w.key(identity)}))(w.t)[0])
}

func (w *world) wantOnline(when, identity string, want presence.Tri) {
	w.t.Helper()
	if got := w.view(identity).Online; got != want {
		w.t.Errorf("%s: is_online of %s = %v; want %v", when, identity, got, want)
	}
}

// wantEvents compares what was published with the online states wanted, in order.
func (w *world) wantEvents(when string, want ...presence.Tri) {
	w.t.Helper()
	got := []presence.Tri{}
	for _, e := range w.Events() {
		got = append(got, e.User.Online)
	}
	if !slices.Equal(got, want) {
		w.t.Errorf("%s: published %v; want %v", when, got, want)
	}
}

func nullSemantics(t *testing.T, h *Harness) {
	w := newWorld(t, h, false)
	w.wantOnline("unknown user", "ada", presence.Null)
	w.register("n1", "ada", 1)
	w.wantOnline("switch off, connected", "ada", presence.Null)
	w.register("n1", "bob", 2)
	w.end("n1", "bob", 2, 0)
	w.Events()

	w.flip(true)
	w.wantOnline("switched on, connected", "ada", presence.True)
	w.wantOnline("switched on, was online before only", "bob", presence.Null)
	if got := w.register("n1", "ada", 1); got != presence.Changed {
		t.Errorf("registering anew after switch-on = %v; want a transition", got)
	}
	w.wantEvents("registered anew after switch-on", presence.True)
	w.register("n1", "ada", 1)
	w.wantEvents("registered anew twice")
	w.end("n1", "ada", 1, 0)
	w.wantOnline("left", "ada", presence.False)
	w.wantEvents("left", presence.False)

	w.flip(false)
	w.wantOnline("switched off", "ada", presence.Null)
	w.flip(true)
	w.wantOnline("switched on again, not online since", "ada", presence.Null)
	w.register("n1", "ada", 3)
	w.wantOnline("back", "ada", presence.True)
	if v := w.view("ada"); v.Notifiable != presence.Null {
		t.Errorf("is_notifiable without a registration = %v; want null", v.Notifiable)
	}
}

func linger(t *testing.T, h *Harness) {
	w := newWorld(t, h, true)
	w.register("n1", "ada", 1)
	w.Events()
	if got := w.end("n1", "ada", 1, Linger); got != presence.Lingering {
		t.Errorf("lost = %v; want lingering", got)
	}
	w.Advance(Linger / 2)
	w.beat("n1", "ada")
	w.wantOnline("lingering", "ada", presence.True)
	w.register("n2", "ada", 2)
	w.Advance(Linger)
	w.beat("n2", "ada")
	w.wantOnline("back within linger", "ada", presence.True)
	w.wantEvents("back within linger")

	w.end("n2", "ada", 2, Linger)
	w.Advance(Linger / 2)
	w.end("n2", "ada", 2, Linger) // repeated: changes nothing
	w.beat("n1", "ada")
	w.Advance(Linger / 2)
	if b := w.beat("n1", "ada"); b.OfflineByLinger != 1 {
		t.Errorf("beat after linger = %+v; want one offline by linger", b)
	}
	w.wantOnline("linger over", "ada", presence.False)
	w.beat("n2", "ada")
	w.wantEvents("linger over", presence.False)
}

func lapsedNode(t *testing.T, h *Harness) {
	w := newWorld(t, h, true)
	w.beat("n1", "ada")
	w.beat("n2", "ada")
	w.register("n1", "ada", 1)
	r := must(w.Store.Register(w.ctx, w.Store.Partition(w.key("ada")), "n1", nil))(t)
	w.Events()
	for range 2 { // n2 lives on, n1 does not
		w.Advance(Lease / 3)
		w.beat("n2", "ada")
	}
	w.wantEvents("lease not over")
	w.Advance(Lease/3 + time.Second)
	if b := w.beat("n2", "ada"); b.OfflineByLease != 1 || b.Reaped != 1 {
		t.Errorf("beat after the lease lapsed = %+v; want one reaped, one offline", b)
	}
	w.wantEvents("lapsed", presence.False)
	w.wantOnline("lapsed", "ada", presence.False)
	if b := w.beat("n1", "ada"); b.Ops >= r.Ops {
		t.Errorf("operations of a reaped node = %d; want fewer than %d", b.Ops, r.Ops)
	}
	w.register("n1", "ada", 1)
	w.wantEvents("registered anew", presence.True)
}

func stall(t *testing.T, h *Harness) {
	w := newWorld(t, h, true)
	w.beat("n1", "ada")
	w.beat("n2", "ada")
	w.beat("n2", "bob")
	w.register("n1", "ada", 1)
	w.register("n2", "bob", 2)
	w.end("n2", "bob", 2, Linger)
	w.Events()
	w.Advance(Lease * 3) // Redis was paused: nobody could renew
	if b := w.beat("n2", "ada"); b.Stalled < Lease*3 || b.Reaped != 0 {
		t.Errorf("beat after a pause = %+v; want it credited and nothing reaped", b)
	}
	w.beat("n2", "bob")
	w.wantEvents("after a pause")
	w.wantOnline("after a pause", "ada", presence.True)

	// What ends between the pause and the next heartbeat lingers for its own time only.
	w.Advance(Lease * 3)
	w.end("n1", "ada", 1, Linger)
	w.beat("n2", "ada")
	w.Advance(Linger / 2)
	w.beat("n2", "ada")
	w.wantOnline("while it lingers", "ada", presence.True)
	w.Advance(Linger / 2)
	w.beat("n2", "ada")
	w.wantOnline("after its linger", "ada", presence.False)
}

// What begins between the end of a stall and the first heartbeat is not put off by it:
// neither a linger, nor a handover, nor the lease of a node.
func begunInAStall(t *testing.T, h *Harness) {
	w := newWorld(t, h, true)
	w.beat("n1", "ada")
	w.register("n1", "ada", 1)
	w.Advance(Lease * 10)
	w.end("n1", "ada", 1, Linger)
	w.beat("n2", "ada")
	w.Events()
	w.Advance(Linger / 2)
	w.beat("n2", "ada")
	w.wantEvents("lingering")
	w.Advance(Linger / 2)
	w.beat("n2", "ada")
	w.wantEvents("linger over", presence.False)

	w.register("n1", "ada", 1)
	w.Advance(Lease * 10)
	if err := w.Store.Leave(w.ctx, []presence.Partition{w.Store.Partition(w.key("ada"))}, "n1", Linger); err != nil {
		t.Fatal(err)
	}
	w.beat("n2", "ada")
	w.Events()
	w.Advance(Linger / 2)
	w.beat("n2", "ada")
	w.Advance(Linger / 2)
	w.beat("n2", "ada")
	w.wantEvents("handover over", presence.False)

	w.Advance(Lease * 10)
	w.register("n3", "ada", 3)
	w.beat("n2", "ada")
	w.Events()
	w.Advance(Lease / 2)
	w.beat("n2", "ada")
	w.wantEvents("n3 has its lease")
	w.Advance(Lease / 2)
	w.beat("n2", "ada")
	w.wantEvents("n3 died", presence.False)
}

func leave(t *testing.T, h *Harness) {
	w := newWorld(t, h, true)
	p := []presence.Partition{w.Store.Partition(w.key("ada"))}
	w.beat("n1", "ada")
	w.register("n1", "ada", 1)
	w.Events()
	if err := w.Store.Leave(w.ctx, p, "n1", Linger); err != nil {
		t.Fatal(err)
	}
	w.beat("n2", "ada")
	w.wantOnline("handed over", "ada", presence.True)
	w.Advance(Linger / 2)
	w.beat("n2", "ada")
	w.Advance(Linger / 2)
	w.beat("n2", "ada")
	w.wantOnline("never came back", "ada", presence.False)
	w.wantEvents("never came back", presence.False)

	// More sessions than one script hands over.
	var held []presence.Held
	for i := 0; len(held) < 450; i++ {
		if k := w.key(fmt.Sprint("user", i)); w.Store.Partition(k) == p[0] {
			held = append(held, presence.Held{Key: k, ID: sessionID(i), Service: w.service})
		}
	}
	must(w.Store.Register(w.ctx, p[0], "n1", held))(t)
	if err := w.Store.Leave(w.ctx, p, "n1", Linger); err != nil {
		t.Fatal(err)
	}
	w.Events()
	if left := must(w.Store.Sessions(w.ctx, p[0], "n1"))(t); len(left) != 0 {
		t.Errorf("%d sessions left; want none", len(left))
	}
	w.beat("n2", "ada")
	w.Advance(Linger / 2)
	w.beat("n2", "ada")
	w.wantEvents("handed over")
	w.Advance(Linger / 2)
	offline := 0
	for range 450 / reaped {
		offline += w.beat("n2", "ada").OfflineByLinger
	}
	if offline != 450 {
		t.Errorf("%d offline after the handover; want 450", offline)
	}
}

// Revisions grow over every path that changes what a reader sees.
func revisions(t *testing.T, h *Harness) {
	w := newWorld(t, h, false)
	var last int64
	grown := func(what string) {
		t.Helper()
		if v := w.view("ada"); v.Rev <= last {
			t.Errorf("revision after %s = %d; want more than %d", what, v.Rev, last)
		} else {
			last = v.Rev
		}
	}
	w.register("n1", "ada", 1)
	grown("creation")
	for range 2 {
		w.flip(true)
		grown("switch on")
		w.register("n1", "ada", 1)
		grown("registering anew")
		w.end("n1", "ada", 1, 0)
		grown("offline")
		w.register("n1", "ada", 1)
		grown("online")
		w.flip(false)
		grown("switch off")
	}
	name := "Ada"
	must(w.Store.UpdateUser(w.ctx, w.key("ada"), presence.UserUpdate{FriendlyName: &name}))(t)
	grown("profile")
	if err := w.Store.DeleteUser(w.ctx, w.key("ada")); err != nil {
		t.Fatal(err)
	}
	events := w.Events()
	if e := events[len(events)-1]; !e.Deleted || e.User.Rev <= last {
		t.Errorf("deletion published %+v; want a deletion above revision %d", e, last)
	} else {
		last = e.User.Rev
	}
	w.register("n1", "ada", 9)
	grown("creation after deletion")
	w.flip(true)
	h.Events()
	w.register("n1", "bob", 10)
	if e := h.Events(); len(e) != 1 || e[0].User.Rev <= w.service.Rev {
		t.Errorf("created after a flip: %+v; want a revision above %d", e, w.service.Rev)
	}
	w.flip(false)
	last = w.view("ada").Rev
	v := w.view("ada")
	w.flip(false)
	if got := w.view("ada"); got.Rev != v.Rev {
		t.Errorf("revision after a flip to the same = %d; want %d", got.Rev, v.Rev)
	}
}

// An old socket's late end never removes a newer one.
func lateClose(t *testing.T, h *Harness) {
	w := newWorld(t, h, true)
	w.register("n1", "ada", 1)
	w.register("n2", "ada", 2)
	w.Events()
	w.end("n1", "ada", 1, 0)
	w.wantOnline("another session lives", "ada", presence.True)
	w.end("n2", "ada", 2, Linger)
	w.end("n1", "ada", 1, 0) // once more, while the user lingers
	w.wantOnline("lingering", "ada", presence.True)
	w.wantEvents("late ends")
}

// A node that has not heard that the switch is on again publishes an end: others,
// who have heard, show the user online.
// A sign-out that is told late, because the store was away, does not cut short the linger of
// a session that ended after it; one that is told in time does.
func lateSignOut(t *testing.T, h *Harness) {
	w := newWorld(t, h, true)
	for _, c := range []struct {
		user    string
		late    time.Duration // between the sign-out and its being told
		outcome presence.Outcome
		online  presence.Tri
	}{
		{"ada", 7 * time.Second, presence.Lingering, presence.True},
		{"bob", 0, presence.Changed, presence.False},
	} {
		w.beat("n1", c.user)
		w.register("n1", c.user, 1)
		w.register("n2", c.user, 2)
		w.end("n2", c.user, 2, 10*time.Second)
		h.Advance(time.Second)
		e := presence.Ended{Key: w.key(c.user), ID: sessionID(1), Service: w.service, How: presence.EndClean, Left: time.Now().Add(-c.late)}
		r := must(w.Store.End(w.ctx, w.Store.Partition(e.Key), "n1", []presence.Ended{e}))(t)
		if r.Outcomes[0] != c.outcome {
			t.Errorf("a sign-out told %v late = %v; want %v", c.late, r.Outcomes[0], c.outcome)
		}
		w.wantOnline(fmt.Sprintf("after a sign-out told %v late", c.late), c.user, c.online)
	}
}

func endUnderStaleSwitch(t *testing.T, h *Harness) {
	w := newWorld(t, h, true)
	w.register("n1", "ada", 1)
	w.flip(false)
	behind := w.service
	w.flip(true)
	now := w.service
	w.Events()
	w.wantOnline("switched on again", "ada", presence.True)
	w.service = behind
	w.end("n1", "ada", 1, 0)
	w.service = now
	w.wantOnline("left", "ada", presence.Null)
	w.wantEvents("left, told by a node that is behind", presence.False)
}

// A node that is behind does not take a user back to an older epoch.
func openUnderStaleEpoch(t *testing.T, h *Harness) {
	w := newWorld(t, h, true)
	behind := w.service
	w.flip(false)
	w.flip(true)
	now := w.service
	w.register("n2", "ada", 2)
	w.end("n2", "ada", 2, 0)
	w.service = behind
	w.register("n1", "ada", 1)
	w.end("n1", "ada", 1, 0)
	w.service = now
	w.wantOnline("left", "ada", presence.False)
}

// A user that left under the switch as it is now reads as offline, though its
// session was not registered anew since the flip.
func endUnderNewEpoch(t *testing.T, h *Harness) {
	w := newWorld(t, h, true)
	w.register("n1", "ada", 1)
	w.flip(false)
	w.flip(true)
	w.Events()
	w.end("n1", "ada", 1, 0)
	w.wantOnline("left", "ada", presence.False)
	w.wantEvents("left", presence.False)
}

// What one heartbeat reaps is bounded; it tells that there is more.
func reapInChunks(t *testing.T, h *Harness) {
	w := newWorld(t, h, true)
	q := w.Store.Partition(w.key("ada"))
	var held []presence.Held
	for i := 0; len(held) < 450; i++ {
		if k := w.key(fmt.Sprint("user", i)); w.Store.Partition(k) == q {
			held = append(held, presence.Held{Key: k, ID: sessionID(i), Service: w.service})
		}
	}
	w.beat("n2", "ada")
	must(w.Store.Register(w.ctx, q, "n1", held[:150]))(t) // two nodes die together
	must(w.Store.Register(w.ctx, q, "n3", held[150:]))(t)
	w.Advance(Lease / 2)
	w.beat("n2", "ada")
	w.Advance(Lease / 2)
	left := 450
	for left > 0 {
		b := w.beat("n2", "ada")
		was := left
		left = len(must(w.Store.Sessions(w.ctx, q, "n1"))(t)) + len(must(w.Store.Sessions(w.ctx, q, "n3"))(t))
		if (left > 0) != (b.Due > 0) || b.Reaped > reaped || b.Reaped != was-left || b.Reaped == 0 {
			t.Fatalf("beat = %+v with %d left of %d; want at most %d reaped, and to be told of the rest", b, left, was, reaped)
		}
	}
	if events := w.Events(); left != 0 || len(events) != 900 {
		t.Errorf("%d sessions left, %d events; want none, and 450 each of online and offline", left, len(events))
	}

	must(w.Store.Register(w.ctx, q, "n2", held))(t)
	ends := make([]presence.Ended, len(held))
	for i, h := range held {
		ends[i] = presence.Ended{Key: h.Key, ID: h.ID, Linger: Linger / 2, Service: w.service}
	}
	must(w.Store.End(w.ctx, q, "n2", ends))(t)
	w.Events()
	w.Advance(Linger / 2)
	for left := 450; left >= 0; left -= reaped {
		if b := w.beat("n2", "ada"); b.OfflineByLinger != min(left, reaped) || (b.Due > 0) != (left > reaped) {
			t.Errorf("a beat with %d lingers due = %+v; want %d offline", left, b, min(left, reaped))
		}
	}
}

// A linger that a session's coming back ended is over: it neither hastens nor hides
// what becomes of that session.
func backOnDyingNode(t *testing.T, h *Harness) {
	w := newWorld(t, h, true)
	w.beat("n1", "ada")
	w.beat("n2", "ada")
	w.register("n1", "ada", 1)
	w.end("n1", "ada", 1, 10*Lease)
	w.register("n2", "ada", 2)
	w.Events()
	for range 2 {
		w.Advance(Lease / 2)
		w.beat("n1", "ada")
	}
	w.wantEvents("the node died after the session came back to it", presence.False)
}

// A user whose page is loaded again is not seen to leave because another session of it, on a node that is dead, is
// reaped in that moment.
func lingerBesideDyingNode(t *testing.T, h *Harness) {
	w := newWorld(t, h, true)
	w.beat("n1", "ada")
	w.beat("n2", "ada")
	w.register("n1", "ada", 1)
	w.register("n2", "ada", 2)
	w.Events()
	w.Advance(Lease / 2)
	w.beat("n2", "ada")
	if got := w.end("n2", "ada", 2, Linger); got != presence.Unchanged {
		t.Errorf("losing one of two sessions = %v; want nothing to change", got)
	}
	w.Advance(Lease / 2)
	if b := w.beat("n2", "ada"); b.Reaped != 1 {
		t.Errorf("beat = %+v; want the session of the dead node reaped", b)
	}
	w.wantEvents("the dead node's session is reaped while the user lingers")
	w.wantOnline("it lingers", "ada", presence.True)
	for range 2 {
		w.Advance(Linger / 2)
		w.beat("n2", "ada")
	}
	w.wantEvents("after the linger", presence.False)

	// The linger of one session does not put off the clean end of another.
	w.register("n2", "ada", 3)
	w.register("n2", "ada", 4)
	w.Events()
	w.end("n2", "ada", 3, Linger)
	w.end("n2", "ada", 4, 0)
	w.wantEvents("a clean end of the last session", presence.False)
	for range 2 {
		w.Advance(Linger / 2)
		w.beat("n2", "ada")
	}
	w.wantEvents("its linger is over")

	// A node that registers its sessions anew does not end the linger of another's.
	w.register("n1", "ada", 5)
	w.register("n2", "ada", 6)
	w.Events()
	w.Advance(Lease / 2)
	w.beat("n2", "ada")
	w.end("n2", "ada", 6, Linger)
	w.register("n1", "ada", 5)
	w.Advance(Lease / 2)
	if b := w.beat("n2", "ada"); b.Reaped != 1 {
		t.Errorf("beat = %+v; want the session of the dead node reaped", b)
	}
	w.wantEvents("the node that registered anew is dead while the user lingers")
	w.Advance(Linger / 2)
	w.beat("n2", "ada")
	w.wantEvents("after the linger", presence.False)
}

func deleteUser(t *testing.T, h *Harness) {
	w := newWorld(t, h, true)
	w.register("n1", "ada", 1)
	sid := w.view("ada").SID
	if err := w.Store.DeleteUser(w.ctx, w.key("ada")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.Store.User(w.ctx, w.service.SID, "ada"); !errors.Is(err, presence.ErrNoUser) {
		t.Errorf("User after deletion: %v; want ErrNoUser", err)
	}
	if _, _, err := w.Store.User(w.ctx, w.service.SID, sid); !errors.Is(err, presence.ErrNoUser) {
		t.Errorf("User by SID after deletion: %v; want ErrNoUser", err)
	}
	if b := w.beat("n1", "ada"); !slices.Equal(b.End, []presence.SessionID{sessionID(1)}) {
		t.Errorf("sessions to end = %v; want the one of the deleted user", b.End)
	}
	if got := w.register("n1", "ada", 1); got != presence.Refused {
		t.Errorf("registering an ended session = %v; want refused", got)
	}
	w.end("n1", "ada", 1, 0)
	if b := w.beat("n1", "ada"); len(b.End) != 0 {
		t.Errorf("sessions to end after they ended = %v; want none", b.End)
	}
	if err := w.Store.DeleteUser(w.ctx, w.key("ada")); !errors.Is(err, presence.ErrNoUser) {
		t.Errorf("deleting twice: %v; want ErrNoUser", err)
	}
	u := must(w.Store.CreateUser(w.ctx, w.key("ada"), presence.UserUpdate{}))(t)
	if u.SID == sid || w.view("ada").Online != presence.Null {
		t.Errorf("user made again = %+v; want a new SID and null", u)
	}
}

// lapse has n1 not be heard of until it is reaped.
func (w *world) lapse() {
	w.t.Helper()
	for range 3 {
		w.Advance(Lease / 2)
		w.beat("n2", "ada")
	}
	w.Events()
}

// A user deleted after its node was reaped is not made anew when that node is back and
// registers what it holds; a new connection of the same identity is a new user, to
// whom the old sessions do not belong.
func deletedWhileCutOff(t *testing.T, h *Harness) {
	w := newWorld(t, h, true)
	w.beat("n1", "ada")
	w.beat("n2", "ada")
	w.register("n1", "ada", 1)
	sid := w.view("ada").SID
	w.lapse()
	again := func(when string, want presence.Outcome) {
		t.Helper()
		held := []presence.Held{{Key: w.key("ada"), ID: sessionID(1), UserSID: sid, Service: w.service}}
		if r := must(w.Store.Register(w.ctx, w.Store.Partition(w.key("ada")), "n1", held))(t); r.Outcomes[0] != want {
			t.Errorf("%s: registering anew = %v; want %v", when, r.Outcomes[0], want)
		}
	}
	again("back after its lease", presence.Changed)
	w.lapse()
	if err := w.Store.DeleteUser(w.ctx, w.key("ada")); err != nil {
		t.Fatal(err)
	}
	again("deleted meanwhile", presence.Refused)
	if v := w.view("ada"); v.SID != "" {
		t.Errorf("a deleted user was made anew: %+v", v)
	}
	w.register("n2", "ada", 2)
	again("a new user of that name", presence.Refused)
	if v := w.view("ada"); v.SID == "" || v.SID == sid || v.Online != presence.True {
		t.Errorf("user of a new connection = %+v; want a new one, online", v)
	}
	if n := must(w.Store.CountSessions(w.ctx, []presence.Key{w.key("ada")}))(t)[0]; n != 1 {
		t.Errorf("the new user has %d sessions; want 1", n)
	}
}

// Sessions that are to be ended still are when their node is back after its lease.
func endedWhileCutOff(t *testing.T, h *Harness) {
	w := newWorld(t, h, true)
	w.beat("n1", "ada")
	w.beat("n2", "ada")
	w.register("n1", "ada", 1)
	must(w.Store.EndSessions(w.ctx, w.key("ada"), w.service, ""))(t)
	w.lapse()
	if b := w.beat("n1", "ada"); !slices.Equal(b.End, []presence.SessionID{sessionID(1)}) {
		t.Errorf("sessions to end = %v; want the one that was ended", b.End)
	}
	if got := w.register("n1", "ada", 1); got != presence.Refused {
		t.Errorf("registering an ended session anew = %v; want refused", got)
	}
	w.wantOnline("ended by the operator", "ada", presence.False)
}

func deleteService(t *testing.T, h *Harness) {
	w := newWorld(t, h, true)
	for i := range 5 {
		w.register("n1", fmt.Sprint("user", i), i)
	}
	for q := range presence.Partition(w.Store.Partitions()) { // more than one script purges
		var held []presence.Held
		for i := 0; len(held) < 210; i++ {
			if k := w.key(fmt.Sprint("more", i)); w.Store.Partition(k) == q {
				held = append(held, presence.Held{Key: k, ID: sessionID(1000 + i), Service: w.service})
			}
		}
		must(w.Store.Register(w.ctx, q, "n3", held))(t)
	}
	if err := w.Store.DeleteService(w.ctx, w.service.SID); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Store.Service(w.ctx, w.service.SID); !errors.Is(err, presence.ErrNoService) {
		t.Errorf("Service after deletion: %v; want ErrNoService", err)
	}
	if err := w.Store.DeleteService(w.ctx, w.service.SID); !errors.Is(err, presence.ErrNoService) {
		t.Errorf("deleting twice: %v; want ErrNoService", err)
	}
	if page := must(w.Store.ListUsers(w.ctx, w.service.SID, "", 50))(t); len(page.Items) != 0 {
		t.Errorf("users after deletion = %v; want none", page.Items)
	}
	for i := range 5 {
		if b := w.beat("n1", fmt.Sprint("user", i)); !slices.Contains(b.End, sessionID(i)) {
			t.Errorf("sessions to end = %v; want %s among them", b.End, sessionID(i))
		}
	}
	w.register("n2", "late", 9) // by a node that has not heard yet
	w.Advance(Lease)
	must(must3(w.Store.BeatServices(w.ctx)))(t)
	page := must(w.Store.ListUsers(w.ctx, w.service.SID, "", 50))(t)
	if len(page.Items) != 0 {
		t.Errorf("users after deletion = %v; want none", page.Items)
	}
	for i := range 5 {
		w.wantOnline("deleted", fmt.Sprint("user", i), presence.Null)
	}
}

// A service that was lost with the data is written back as it was; one that was
// deleted is not, and one that is there is left alone, but for a flip that was lost.
func restoreService(t *testing.T, h *Harness) {
	w := newWorld(t, h, true)
	second := must(w.Store.CreateService(w.ctx, presence.Service{Account: "AC0", FriendlyName: "never flipped", Linger: time.Second}))(t)
	run, _, err := w.Store.BeatServices(w.ctx)
	if err != nil || run == "" {
		t.Fatalf("BeatServices = %q, %v; want a run", run, err)
	}
	h.Reset()
	for range 2 {
		for _, lost := range []presence.Service{w.service, second} {
			if got := must(w.Store.RestoreService(w.ctx, lost, run))(t); got != lost {
				t.Errorf("restored %+v; want %+v", got, lost)
			}
		}
	}
	if got := must(w.Store.Service(w.ctx, w.service.SID))(t); got != w.service {
		t.Errorf("service reads as %+v; want %+v", got, w.service)
	}
	if page := must(w.Store.ListServices(w.ctx, "", 10))(t); len(page.Items) != 3 {
		t.Errorf("%d services; want the default and the two restored", len(page.Items))
	}
	w.flip(false)
	w.flip(true)
	if w.service.Epoch != 2 {
		t.Errorf("epoch after the next flip = %d; want 2", w.service.Epoch)
	}
	run, _, err = w.Store.BeatServices(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Store.DeleteService(w.ctx, second.SID); err != nil {
		t.Fatal(err)
	}
	for _, run := range []string{run, ""} {
		if _, err := w.Store.RestoreService(w.ctx, second, run); !errors.Is(err, presence.ErrNoService) {
			t.Errorf("restoring a deleted service under run %q: %v; want ErrNoService", run, err)
		}
	}
	if h.Snapshot == nil {
		return
	}
	restore, before := h.Snapshot(), w.service
	w.flip(false)
	w.flip(true)
	restore()
	if got := must(w.Store.RestoreService(w.ctx, w.service, run))(t); got.Epoch != w.service.Epoch || got.Rev != w.service.Rev || !got.Enabled {
		t.Errorf("after its flips were lost: %+v; want %+v", got, w.service)
	}
	if got := must(w.Store.RestoreService(w.ctx, before, run))(t); got.Epoch != w.service.Epoch || got.Rev != w.service.Rev {
		t.Errorf("after an older node wrote back what it knew: %+v; want %+v", got, w.service)
	}
}

func must3[A, B any](_ A, v B, err error) (B, error) { return v, err }

func tenancy(t *testing.T, h *Harness) {
	a, b := newWorld(t, h, true), newWorld(t, h, true)
	a.register("n1", "ada", 1)
	for _, e := range a.Events() {
		if e.User.Key != a.key("ada") {
			t.Errorf("event of %v; want only of %v", e.User.Key, a.key("ada"))
		}
	}
	b.wantOnline("other service", "ada", presence.Null)
	if _, _, err := b.Store.User(b.ctx, b.service.SID, a.view("ada").SID); !errors.Is(err, presence.ErrNoUser) {
		t.Errorf("SID of another service's user: %v; want ErrNoUser", err)
	}
	if err := b.Store.DeleteUser(b.ctx, b.key("ada")); !errors.Is(err, presence.ErrNoUser) {
		t.Errorf("deleting another service's user: %v; want ErrNoUser", err)
	}
	a.wantOnline("untouched", "ada", presence.True)
}

func listUsers(t *testing.T, h *Harness) {
	w := newWorld(t, h, true)
	var want []string
	for i := range 7 {
		want = append(want, fmt.Sprint("user", i))
		must(w.Store.CreateUser(w.ctx, w.key(want[i]), presence.UserUpdate{}))(t)
	}
	identities := func(p presence.Page[presence.User]) (list []string) {
		for _, u := range p.Items {
			list = append(list, u.Identity)
		}
		return list
	}
	var got []string
	var prev []string // cursor of each page's predecessor
	cursor, pages := "", 0
	for {
		page := must(w.Store.ListUsers(w.ctx, w.service.SID, cursor, 3))(t)
		got = append(got, identities(page)...)
		prev = append(prev, page.Prev)
		pages++
		if page.Next == "" {
			break
		}
		cursor = page.Next
	}
	if diff := cmp.Diff(want, got); diff != "" || pages != 3 {
		t.Errorf("list over %d pages (-want +got):\n%s", pages, diff)
	}
	back := must(w.Store.ListUsers(w.ctx, w.service.SID, prev[2], 3))(t)
	if diff := cmp.Diff(want[3:6], identities(back)); diff != "" || prev[0] != "" {
		t.Errorf("page before the last (-want +got):\n%s", diff)
	}
	first := must(w.Store.ListUsers(w.ctx, w.service.SID, back.Prev, 3))(t)
	if diff := cmp.Diff(want[:3], identities(first)); diff != "" || first.Prev != "" || first.Next == "" {
		t.Errorf("first page, coming back (-want +got):\n%s", diff)
	}
	for _, bad := range []string{"x", "PT", "PTxxxx", "PT" + strings.Repeat("A", 1000)} {
		if _, err := w.Store.ListUsers(w.ctx, w.service.SID, bad, 3); presence.KindOf(err) != presence.KindInvalid {
			t.Errorf("ListUsers with page token %.10q: %v; want invalid", bad, err)
		}
	}
	if page := must(w.Store.ListUsers(w.ctx, w.service.SID, "", 7))(t); page.Next != "" || len(page.Items) != 7 {
		t.Errorf("a page that fits = %d users, next %q; want 7 and no next", len(page.Items), page.Next)
	}
	services := must(w.Store.ListServices(w.ctx, "", 100))(t)
	if n := len(services.Items); n != 2 || services.Items[1].SID != w.service.SID {
		t.Errorf("services = %d; want the default one and this", n)
	}
}

// Identities may hold any byte that a key, a channel or a script could confuse.
func hostileIdentities(t *testing.T, h *Harness) {
	w := newWorld(t, h, true)
	for i, identity := range []string{
		"a:b", "}{", "{p000}", "a\x00b", "\"quoted\"", "back\\slash", "/slash", "line\nfeed\r", "日本語", "\u2028", "'; DROP", "*", "%41", " ", strings.Repeat("é", 128),
	} {
		w.register("n1", identity, i)
		events := w.Events()
		if len(events) != 1 || events[0].User.Identity != identity {
			t.Errorf("published for %q: %+v", identity, events)
		}
		u := must(must3(w.Store.User(w.ctx, w.service.SID, w.view(identity).SID)))(t)
		if u.Identity != identity || w.view(identity).Online != presence.True {
			t.Errorf("user %q reads as %q, online %v", identity, u.Identity, w.view(identity).Online)
		}
		list := must(w.Store.Sessions(w.ctx, w.Store.Partition(w.key(identity)), "n1"))(t)
		if !slices.ContainsFunc(list, func(e presence.Ended) bool { return e.Key == w.key(identity) && e.ID == sessionID(i) }) {
			t.Errorf("session of %q is not among %v", identity, list)
		}
		w.end("n1", identity, i, Linger)
	}
	for range 2 { // in steps too short for a stall
		w.Advance(Linger / 2)
		for p := range presence.Partition(w.Store.Partitions()) {
			_, errs := w.Store.Beat(w.ctx, []presence.Partition{p}, "n1")
			must(0, errs[0])(t)
		}
	}
	if got := len(w.Events()); got != 15 {
		t.Errorf("offline events = %d; want 15", got)
	}
}

func profile(t *testing.T, h *Harness) {
	w := newWorld(t, h, false)
	name, attributes, role := "Ada", `{"a":[1,2]}`, "RL0123456789abcdef0123456789abcdef"
	u := must(w.Store.CreateUser(w.ctx, w.key("ada"), presence.UserUpdate{FriendlyName: &name}))(t)
	if *u.FriendlyName != name || u.Attributes != "{}" || u.Role != w.service.DefaultServiceRole || u.Created.IsZero() {
		t.Errorf("created %+v", u)
	}
	if _, err := w.Store.CreateUser(w.ctx, w.key("ada"), presence.UserUpdate{}); !errors.Is(err, presence.ErrUserExists) {
		t.Errorf("creating twice: %v; want ErrUserExists", err)
	}
	if _, err := w.Store.UpdateUser(w.ctx, w.key("bob"), presence.UserUpdate{}); !errors.Is(err, presence.ErrNoUser) {
		t.Errorf("updating nobody: %v; want ErrNoUser", err)
	}
	w.Events()
	w.Advance(time.Minute)
	u2 := must(w.Store.UpdateUser(w.ctx, w.key("ada"), presence.UserUpdate{FriendlyName: &name, Attributes: &attributes, Role: &role}))(t)
	if u2.Attributes != attributes || u2.Role != role || !u2.Updated.After(u.Updated) || !u2.Created.Equal(u.Created) || u2.SID != u.SID {
		t.Errorf("updated %+v to %+v", u, u2)
	}
	events := w.Events()
	if len(events) != 1 || events[0].Reasons != presence.ReasonAttributes || events[0].User.Attributes != attributes || events[0].User.FriendlyName != nil {
		t.Errorf("published %+v; want the attributes alone", events)
	}
	if u3 := must(w.Store.UpdateUser(w.ctx, w.key("ada"), presence.UserUpdate{Attributes: &attributes}))(t); u3.Rev != u2.Rev {
		t.Errorf("an update that changes nothing: revision %d; want %d", u3.Rev, u2.Rev)
	}
	w.register("n1", "ada", 1)
	if u4 := must(must3(w.Store.User(w.ctx, w.service.SID, "ada")))(t); !u4.Updated.Equal(u2.Updated) {
		t.Errorf("presence moved the date of update")
	}
	ghost := presence.Key{Service: "IS00000000000000000000000000000000", Identity: "x"}
	if _, err := w.Store.CreateUser(w.ctx, ghost, presence.UserUpdate{}); !errors.Is(err, presence.ErrNoService) {
		t.Errorf("creating in no service: %v; want ErrNoService", err)
	}
}

func defaultService(t *testing.T, h *Harness) {
	w := newWorld(t, h, false)
	def := must(w.Store.DefaultService(w.ctx))(t)
	if err := w.Store.DeleteService(w.ctx, def); !errors.Is(err, presence.ErrDefaultService) {
		t.Errorf("deleting the default service: %v; want ErrDefaultService", err)
	}
	if err := w.Store.UpdateAccount(w.ctx, presence.AccountUpdate{DefaultService: new("IS00000000000000000000000000000000")}); !errors.Is(err, presence.ErrNoService) {
		t.Errorf("defaulting to no service: %v; want ErrNoService", err)
	}
	if err := w.Store.UpdateAccount(w.ctx, presence.AccountUpdate{DefaultService: &w.service.SID}); err != nil {
		t.Fatal(err)
	}
	if err := w.Store.DeleteService(w.ctx, def); err != nil {
		t.Errorf("deleting the former default service: %v", err)
	}
}
