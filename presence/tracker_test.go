package presence_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rollcall-presence/rollcall/presence"
	"github.com/rollcall-presence/rollcall/presence/presencetest"
)

const service = "IS0123456789abcdef0123456789abcdef"

var ada = presence.Key{Service: service, Identity: "ada"}

func sid(n int) presence.SessionID {
	return presence.SessionID(fmt.Sprintf("%0*d", presence.SessionIDLen, n))
}

// cluster is some nodes on one store, in a bubble.
type cluster struct {
	t     *testing.T
	store *presencetest.Memory

	mu    sync.Mutex     // guards the following
	seen  []presence.Tri // published online states
	left  []presence.Departure
	ended []presence.SessionID
}

func newCluster(t *testing.T) *cluster {
	c := &cluster{t: t, store: &presencetest.Memory{}}
	c.store.Published = func(e presencetest.Transition) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.seen = append(c.seen, e.Online)
	}
	c.store.SetService(presence.Service{SID: service, Enabled: true, Linger: -1})
	return c
}

// node starts a node; stop ends it as kill -9 does.
func (c *cluster) node(n presence.NodeID) (tracker *presence.Tracker, stop func()) {
	d := presence.NewDirectory(c.store, 3*time.Second)
	tr := presence.NewTracker(c.store, d, presence.TrackerOptions{Node: n, Ended: func(s presence.SessionID) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.ended = append(c.ended, s)
	}, Departed: func(d presence.Departure) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.left = append(c.left, d)
	}})
	ctx, cancel := context.WithCancel(c.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = d.Serve(ctx) })
	wg.Go(func() { _ = tr.Serve(ctx) })
	stop = func() { cancel(); wg.Wait() }
	c.t.Cleanup(stop)
	synctest.Wait()
	return tr, stop
}

func (c *cluster) open(tr *presence.Tracker, k presence.Key, s int) {
	c.t.Helper()
	if _, err := tr.Open(c.t.Context(), k, sid(s)); err != nil {
		c.t.Fatalf("Open(%v, %d) = %v", k, s, err)
	}
}

func (c *cluster) close(tr *presence.Tracker, k presence.Key, s int, how presence.End) {
	c.t.Helper()
	if err := tr.Close(c.t.Context(), k, sid(s), how, time.Now()); err != nil {
		c.t.Fatalf("Close(%v, %d) = %v", k, s, err)
	}
}

func (c *cluster) wait(d time.Duration) { time.Sleep(d); synctest.Wait() }

func (c *cluster) want(when string, want ...presence.Tri) {
	c.t.Helper()
	if got := c.published(); !slices.Equal(got, want) {
		c.t.Errorf("%s: published %v; want %v", when, got, want)
	}
}

// published returns what was published since the last call.
func (c *cluster) published() []presence.Tri {
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	seen := c.seen
	c.seen = nil
	return seen
}

// endedSince returns the sessions to be ended since the last call.
func (c *cluster) endedSince() []presence.SessionID {
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	ended := c.ended
	c.ended = nil
	return ended
}

func bubble(t *testing.T, f func(t *testing.T, c *cluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newCluster(t)) })
}

func TestCleanEndIsOfflineAtOnce(t *testing.T) {
	bubble(t, func(_ *testing.T, c *cluster) {
		n, _ := c.node("n1")
		c.open(n, ada, 1)
		c.want("open", presence.True)
		c.close(n, ada, 1, presence.EndClean)
		c.want("clean end", presence.False)
	})
}

// A departure is measured from when the session really ended, by the node that published it.
func TestDeparted(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		n, _ := c.node("n1")
		end := func(s int, how presence.End, ago time.Duration) error {
			c.open(n, ada, s)
			return n.Close(t.Context(), ada, sid(s), how, time.Now().Add(-ago))
		}
		if err := end(1, presence.EndOperator, time.Second); err != nil {
			t.Fatal(err)
		}
		c.open(n, ada, 3) // another device
		if err := end(2, presence.EndClean, 0); err != nil {
			t.Fatal(err)
		}
		c.store.SetAway(true)
		if err := n.Close(t.Context(), ada, sid(3), presence.EndClean, time.Now()); err == nil {
			t.Error("Close with the store away succeeded")
		}
		c.wait(20 * time.Second)
		c.store.SetAway(false)
		c.wait(4 * time.Second)
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(c.left) != 2 || c.left[0] != (presence.Departure{How: presence.EndOperator, After: time.Second}) ||
			c.left[1].How != presence.EndAway || c.left[1].After < 20*time.Second || c.left[1].After > 24*time.Second {
			t.Errorf("departed = %v; want by an operator after 1 s, and while the store was away, after 20 to 24 s", c.left)
		}
	})
}

func TestLostSessionLingers(t *testing.T) {
	bubble(t, func(_ *testing.T, c *cluster) {
		n1, _ := c.node("n1")
		n2, _ := c.node("n2")
		c.open(n1, ada, 1)
		c.want("open", presence.True)
		c.close(n1, ada, 1, presence.EndLost)
		c.wait(9 * time.Second)
		c.open(n2, ada, 2)
		c.wait(time.Minute)
		c.want("back within linger, elsewhere")
		c.close(n2, ada, 2, presence.EndLost)
		c.wait(9900 * time.Millisecond)
		c.want("just before linger is over")
		c.wait(200 * time.Millisecond) // settled by the node that saw the end, not by the next heartbeat
		c.want("linger over", presence.False)
	})
}

// Many sessions lost at once are settled by few heartbeats.
func TestLingersAreSettledTogether(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		n, _ := c.node("n1")
		const users = 200
		key := func(i int) presence.Key { return presence.Key{Service: service, Identity: fmt.Sprint(i)} }
		for i := range users {
			c.open(n, key(i), i)
		}
		c.published()
		c.store.Calls()
		for i := range users {
			c.close(n, key(i), i, presence.EndLost)
			c.wait(time.Millisecond)
		}
		c.wait(10200 * time.Millisecond)
		c.want("linger over", slices.Repeat([]presence.Tri{presence.False}, users)...)
		if beats := c.store.Calls()["Beat"]; beats > 10 { // 4 of them come anyway
			t.Errorf("%d heartbeats for %d lingers; want a few", beats, users)
		}
	})
}

func TestLingerOfTheService(t *testing.T) {
	bubble(t, func(_ *testing.T, c *cluster) {
		c.store.SetService(presence.Service{SID: service, Enabled: true, Linger: 0})
		n, _ := c.node("n1")
		c.open(n, ada, 1)
		c.close(n, ada, 1, presence.EndLost)
		c.want("no linger", presence.True, presence.False)
		c.open(n, ada, 2)
		c.close(n, ada, 2, presence.EndDrain)
		c.wait(15 * time.Second)
		c.want("handed over, whatever the service's linger", presence.True)
		c.wait(10 * time.Second)
		c.want("never came back", presence.False)
	})
}

func TestKilledNodeIsReapedOnce(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		n1, kill := c.node("n1")
		n2, _ := c.node("n2")
		_, _ = c.node("n3")
		for i := range 5 {
			c.open(n1, presence.Key{Service: service, Identity: fmt.Sprint(i)}, i)
		}
		c.open(n1, ada, 10)
		c.open(n2, ada, 11) // she has another session elsewhere
		c.published()
		kill()
		c.wait(9 * time.Second)
		c.want("within the lease")
		c.wait(4 * time.Second) // lease 10 s + sweep 3 s
		c.want("reaped", slices.Repeat([]presence.Tri{presence.False}, 5)...)
		if online, sessions := c.store.User(ada); online != presence.True || sessions != 1 {
			t.Errorf("ada = %v with %d sessions; want online with 1", online, sessions)
		}
	})
}

func TestCutOffNodeRegistersAnew(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		n1, _ := c.node("n1")
		was, err := n1.Open(t.Context(), ada, sid(1))
		if err != nil {
			t.Fatal(err)
		}
		c.want("open", presence.True)
		c.store.Lose()
		c.wait(4 * time.Second)
		c.want("registered anew after the data was lost", presence.True)
		if s := n1.Stats(); s.Lost != 1 || s.OnlineReassert != 1 {
			t.Errorf("stats = %+v; want one loss, one reassertion", s)
		}
		u, err := n1.Open(t.Context(), ada, sid(2))
		if err != nil || u.SID != was.SID {
			t.Errorf("SID after the loss = %q, %v; want %q", u.SID, err, was.SID)
		}
		if v, err := c.store.Service(t.Context(), service); err != nil || !v.Enabled || v.Epoch != 1 {
			t.Errorf("service after the loss = %+v, %v; want it written back", v, err)
		}
		if ended := c.endedSince(); len(ended) != 0 {
			t.Errorf("ended = %v; want nobody's session", ended)
		}
		c.store.RemoveService(service) // is not mistaken for another loss
		c.wait(4 * time.Second)
		if ended := c.endedSince(); len(ended) != 2 {
			t.Errorf("ended = %v; want both sessions", ended)
		}
	})
}

func TestStoreAway(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		n1, _ := c.node("n1")
		_, _ = c.node("n2")
		c.open(n1, ada, 1)
		c.open(n1, bob, 2)
		c.published()
		c.store.SetAway(true)
		if _, err := n1.Open(t.Context(), bob, sid(3)); presence.KindOf(err) != presence.KindUnavailable {
			t.Errorf("Open with the store away = %v; want unavailable", err)
		}
		if err := n1.Close(t.Context(), bob, sid(2), presence.EndClean, time.Now()); err == nil {
			t.Error("Close with the store away succeeded")
		}
		c.wait(30 * time.Second)
		c.want("away")
		c.store.SetAway(false)
		c.wait(4 * time.Second)
		c.want("back: the end is told, nobody else is declared gone", presence.False)
		if s := n1.Stats(); s.Owed != 0 || s.Sessions != 1 {
			t.Errorf("stats = %+v; want nothing owed, one session", s)
		}
	})
}

var (
	bob = presence.Key{Service: service, Identity: "bob"}
	cy  = presence.Key{Service: service, Identity: "cy"}
)

// An opening that failed here but happened, or happens after all, leaves nobody online.
func TestOpenWithoutAnswer(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		n, _ := c.node("n1")
		c.open(n, ada, 1)
		c.store.SetMute(true)
		if _, err := n.Open(t.Context(), bob, sid(2)); presence.KindOf(err) != presence.KindUnavailable {
			t.Fatalf("Open without an answer = %v; want unavailable", err)
		}
		c.store.SetMute(false)
		c.wait(14 * time.Second) // a heartbeat, and linger
		c.want("given up, though it happened", presence.True, presence.True, presence.False)

		late := presence.Held{Key: cy, ID: sid(3), Service: presence.Service{SID: service, Enabled: true, Epoch: 1}}
		if _, err := c.store.Register(t.Context(), 0, "n1", []presence.Held{late}); err != nil {
			t.Fatal(err)
		}
		c.wait(14 * time.Second)
		c.want("given up, and happened later", presence.True, presence.False)
		if online, sessions := c.store.User(ada); online != presence.True || sessions != 1 {
			t.Errorf("ada = %v with %d sessions; want online with 1", online, sessions)
		}
	})
}

// That the store lost this node is not hidden by an operation whose answer was lost.
func TestLossHiddenByLostAnswer(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		n, _ := c.node("n1")
		c.open(n, ada, 1)
		c.store.Lose()
		c.store.SetMute(true)
		_, _ = n.Open(t.Context(), bob, sid(2))
		c.store.SetMute(false)
		c.open(n, cy, 3)
		c.wait(7 * time.Second) // two heartbeats
		if online, sessions := c.store.User(ada); online != presence.True || sessions != 1 {
			t.Errorf("ada = %v with %d sessions; want online with 1", online, sessions)
		}
	})
}

// A loss that two operations hide, one of them unanswered, is found although another is
// under way whenever the node compares.
func TestLossHiddenWhileOthersOpen(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		n, _ := c.node("n1")
		c.open(n, ada, 1)
		c.store.Lose()
		c.store.SetService(presence.Service{SID: service, Enabled: true, Linger: -1})
		c.store.SetMute(true)
		_, _ = n.Open(t.Context(), bob, sid(2))
		c.store.SetMute(false)
		c.open(n, bob, 3)
		hold, first := make(chan struct{}), true
		c.store.Before = func(method string) {
			c.mu.Lock()
			mine := first && method == "Register"
			first = first && !mine
			c.mu.Unlock()
			if mine {
				<-hold
			}
		}
		var wg sync.WaitGroup
		wg.Go(func() { c.open(n, presence.Key{Service: service, Identity: "cy"}, 4) })
		c.wait(7 * time.Second)
		close(hold)
		wg.Wait()
		c.wait(7 * time.Second)
		if online, sessions := c.store.User(ada); online != presence.True || sessions != 1 {
			t.Errorf("ada = %v with %d sessions; want online with 1", online, sessions)
		}
	})
}

// While the store is away, failing openings cost no memory.
func TestFailedOpensAreNotOwed(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		n, _ := c.node("n1")
		c.open(n, ada, 1)
		c.store.SetAway(true)
		for i := range 1000 {
			_, _ = n.Open(t.Context(), bob, sid(10+i))
		}
		if s := n.Stats(); s.Owed != 0 || s.Sessions != 1 {
			t.Errorf("stats = %+v; want nothing owed, one session", s)
		}
	})
}

// A clean end that is on its way is not mistaken for a stray session, which would linger.
func TestCleanEndDuringRegisteringAnew(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		hold, held := make(chan struct{}), false
		c.store.Before = func(method string) {
			c.mu.Lock()
			first := method == "End" && !held
			held = held || first
			c.mu.Unlock()
			if first {
				<-hold
			}
		}
		n, _ := c.node("n1")
		c.open(n, ada, 1)
		c.open(n, bob, 2) // has the partition registered anew
		c.store.SetService(presence.Service{SID: service, Linger: -1})
		c.wait(4 * time.Second)
		c.published()
		var wg sync.WaitGroup
		wg.Go(func() { c.close(n, ada, 1, presence.EndClean) })
		synctest.Wait()
		c.store.SetService(presence.Service{SID: service, Enabled: true, Linger: -1})
		c.wait(4 * time.Second)
		close(hold)
		wg.Wait()
		got := c.published() // bob under the new epoch, too
		if slices.Sort(got); !slices.Equal(got, []presence.Tri{presence.False, presence.True}) {
			t.Errorf("signed out: published %v; want one false for ada, one true for bob", got)
		}
	})
}

// What registering anew ends lingers as its service says.
func TestStrayLingersAsItsServiceSays(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		c.store.SetService(presence.Service{SID: service, Enabled: true, Linger: 30 * time.Second})
		n, _ := c.node("n1")
		c.open(n, ada, 1)
		c.store.SetMute(true)
		_, _ = n.Open(t.Context(), bob, sid(2))
		c.store.SetMute(false)
		c.wait(29 * time.Second)
		c.want("lingering", presence.True, presence.True)
		c.wait(6 * time.Second)
		c.want("linger over", presence.False)
	})
}

func TestSwitch(t *testing.T) {
	bubble(t, func(_ *testing.T, c *cluster) {
		c.store.SetService(presence.Service{SID: service, Linger: -1})
		n, _ := c.node("n1")
		c.open(n, ada, 1)
		c.want("switch off: creation alone", presence.True)
		c.store.SetService(presence.Service{SID: service, Enabled: true, Linger: -1})
		c.wait(4 * time.Second)
		c.want("switched on", presence.True)
	})
}

func TestEndedByOperator(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		n, _ := c.node("n1")
		c.open(n, ada, 1)
		c.store.Remove(ada)
		c.wait(4 * time.Second)
		if ended := c.endedSince(); !slices.Contains(ended, sid(1)) {
			t.Errorf("ended = %v; want the deleted user's session", ended)
		}
		n.Wake(0)
		if ended := c.endedSince(); !slices.Contains(ended, sid(1)) {
			t.Errorf("ended = %v at once after a wake; want the session that is still held", ended)
		}
		c.close(n, ada, 1, presence.EndClean)
		c.open(n, ada, 2)
		c.endedSince()
		c.store.RemoveService(service)
		c.wait(4 * time.Second)
		if ended := c.endedSince(); !slices.Equal(ended, []presence.SessionID{sid(2)}) {
			t.Errorf("ended = %v; want the deleted service's session", ended)
		}
		if _, err := n.Open(t.Context(), ada, sid(3)); !errors.Is(err, presence.ErrNoService) {
			t.Errorf("Open in a deleted service = %v; want ErrNoService", err)
		}
	})
}

// A node that holds no session of a partition has nothing to do there.
func TestWakeWithoutSessions(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		n, _ := c.node("n1")
		before := n.Stats().Beats
		n.Wake(0)
		synctest.Wait()
		if got := n.Stats().Beats; got != before {
			t.Errorf("%d heartbeats for a wake; want none", got-before)
		}
		c.open(n, ada, 1)
		n.Wake(0)
		synctest.Wait()
		if got := n.Stats().Beats; got != before+1 {
			t.Errorf("%d heartbeats for a wake with a session held; want 1", got-before)
		}
	})
}

func TestLeaveHandsOver(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		n1, stop := c.node("n1")
		n2, _ := c.node("n2")
		c.open(n1, ada, 1)
		c.published()
		stop()
		if err := n1.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.wait(15 * time.Second)
		c.open(n2, ada, 2)
		c.wait(time.Minute)
		c.want("handed over")
	})
}

// What the store has is compared, and renewed, without anything having happened.
func TestRenewal(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		n, _ := c.node("n1")
		c.open(n, ada, 1)
		if _, err := c.store.Register(t.Context(), 0, "n1", []presence.Held{{Key: ada, ID: sid(9), Service: presence.Service{SID: service, Enabled: true}}}); err != nil {
			t.Fatal(err) // a session that nobody holds
		}
		c.store.Calls()
		c.wait(6 * time.Minute)
		if calls := c.store.Calls(); calls["Register"] == 0 || calls["Register"] > 3 {
			t.Errorf("registered anew %d times in 6 minutes; want 1 to 3", calls["Register"])
		}
		if _, sessions := c.store.User(ada); sessions != 1 {
			t.Errorf("sessions = %d; want the stray one ended", sessions)
		}
	})
}

func TestViewTable(t *testing.T) {
	on := presence.Service{Enabled: true, Epoch: 2, Rev: 50}
	off := presence.Service{Epoch: 2, Rev: 50}
	for _, c := range []struct {
		name        string
		s           presence.Service
		u           presence.User
		online, not presence.Tri
		rev         int64
	}{
		{"disabled", off, presence.User{SID: "US", Online: presence.True, Epoch: 2, Notifiable: presence.True, NotifiableEpoch: 2, Rev: 10}, presence.Null, presence.Null, 50},
		{"never online", on, presence.User{SID: "US", Rev: 60}, presence.Null, presence.Null, 60},
		{"online", on, presence.User{SID: "US", Online: presence.True, Epoch: 2, Rev: 60}, presence.True, presence.Null, 60},
		{"online since before", on, presence.User{SID: "US", Online: presence.True, Epoch: 1}, presence.True, presence.Null, 50},
		{"left", on, presence.User{SID: "US", Online: presence.False, Epoch: 2, Notifiable: presence.False, NotifiableEpoch: 2}, presence.False, presence.False, 50},
		{"left in an older epoch", on, presence.User{SID: "US", Online: presence.False, Epoch: 1, Notifiable: presence.False, NotifiableEpoch: 1}, presence.Null, presence.Null, 50},
		{"notifiable", on, presence.User{SID: "US", Notifiable: presence.True}, presence.Null, presence.True, 50},
		{"no such user", on, presence.User{}, presence.Null, presence.Null, 0},
	} {
		if v := c.s.View(c.u); v.Online != c.online || v.Notifiable != c.not || v.Rev != c.rev {
			t.Errorf("%s: View = %v, %v, %d; want %v, %v, %d", c.name, v.Online, v.Notifiable, v.Rev, c.online, c.not, c.rev)
		}
	}
}

// A push binding that nobody renews is gone a heartbeat after its time, once, whatever
// node sees to it; while the store is away it waits.
func TestBindingExpires(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		n1, _ := c.node("n1")
		n2, _ := c.node("n2")
		c.open(n1, ada, 1)
		notifiable := func(when string, want presence.Tri, events int) {
			t.Helper()
			if got := len(c.published()); got != events {
				t.Errorf("%s: %d events; want %d", when, got, events)
			}
			u, err := c.store.EnsureUser(t.Context(), ada, presence.Service{})
			if err != nil || u.Notifiable != want {
				t.Errorf("%s: notifiable = %v, %v; want %v", when, u.Notifiable, err, want)
			}
		}
		bind := func() {
			t.Helper()
			if _, err := c.store.Bind(t.Context(), ada, presence.Registration{Type: presence.PushFCM, Address: "a", Life: time.Minute}); err != nil {
				t.Fatal(err)
			}
		}
		bind()
		notifiable("bound", presence.True, 2) // online, notifiable
		c.wait(50 * time.Second)
		bind()
		c.wait(59 * time.Second)
		notifiable("renewed", presence.True, 0)
		c.wait(4 * time.Second)
		notifiable("expired", presence.False, 1)
		bind()
		c.store.SetAway(true)
		c.wait(2 * time.Minute)
		c.store.SetAway(false)
		c.wait(4 * time.Second)
		notifiable("expired while the store was away", presence.False, 2)
		if n := n1.Stats().Expired + n2.Stats().Expired; n != 2 {
			t.Errorf("%d bindings counted as expired; want 2", n)
		}
	})
}
