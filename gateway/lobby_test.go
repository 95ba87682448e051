package gateway_test

import (
	"context"
	"fmt"
	"hash/crc32"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/rollcall-presence/rollcall/auth"
	"github.com/rollcall-presence/rollcall/gateway"
	"github.com/rollcall-presence/rollcall/presence"
)

// wantWaits holds how many sessions wait, and what became of those that did.
func (n *node) wantWaits(waiting float64, outcomes map[string]float64) {
	n.t.Helper()
	synctest.Wait()
	if got := n.value("rollcall_sessions_waiting"); got != waiting {
		n.t.Errorf("waiting = %v; want %v", got, waiting)
	}
	for _, outcome := range []string{"let_in", "full", "timeout", "refused", "left", "drained"} {
		if got := n.value("rollcall_waits_total", outcome); got != outcomes[outcome] {
			n.t.Errorf("waits %s = %v; want %v", outcome, got, outcomes[outcome])
		}
	}
}

// none holds that nothing came.
func (p *peer) none() {
	p.t.Helper()
	synctest.Wait()
	select {
	case m, ok := <-p.in:
		p.t.Fatalf("got %q (open: %v); want nothing", m, ok)
	default:
	}
}

// TestWaiting: a session that comes while the store is away is told so at each request
// that needs it, keeps its connection and its token in order, and is let in when the
// store is back, with all that it asked for.
func TestWaiting(t *testing.T) {
	bubble(t, func(o *gateway.Options) { o.Push = noPush{} }, func(t *testing.T, n *node) {
		n.store.set(presence.Key{Service: service, Identity: "bob"}, presence.True)
		n.store.setAway(true)
		p := n.dial(nil).read()
		p.send(`{"type":"hello","token":"` + mint(t, service, "alice", time.Minute) + `","known":{"bob":0}}`)
		p.none()
		n.wantWaits(1, nil)
		for i, request := range []string{
			`"subscribe","identities":["carol"]`, `"unsubscribe","identities":["bob"]`,
			`"register_push","binding_type":"fcm","address":"x"`, `"unregister_push","sid":"BS1"`,
		} {
			p.send(fmt.Sprintf(`{"id":%d,"type":%s}`, i, request))
			if v := p.wantError(gateway.ErrorUnavailable, float64(i)); v["retry_after_ms"].(float64) < 1 {
				t.Errorf("error = %v; want retry_after_ms", v)
			}
		}
		p.send(`{"type":"ping","id":9}`)
		p.want("pong")
		p.send(`{"type":"token","id":10,"token":"` + mint(t, service, "alice", time.Hour) + `"}`)
		p.want("token_accepted")
		if n.value("rollcall_sessions") != 0 || len(n.store.live) != 0 {
			t.Error("the session counts before it was let in")
		}
		time.Sleep(20 * time.Second)
		p.none()
		n.store.setAway(false)
		w := p.want("welcome")
		users, _ := w["users"].([]any)
		if user, _ := w["user"].(map[string]any); user["is_online"] != true || len(users) != 1 {
			t.Errorf("welcome = %v; want alice online, and bob", w)
		}
		n.wantWaits(0, map[string]float64{"let_in": 1})
		n.store.set(presence.Key{Service: service, Identity: "bob"}, presence.False)
		p.want("user.updated")
		p.send(`{"type":"subscribe","id":11,"identities":["carol"]}`)
		p.want("subscribed")
		time.Sleep(2 * time.Minute) // the first token would have expired
		p.send(`{"type":"bye"}`)
		p.wantClose(gateway.CloseBye)
		n.wantEnds(end{presence.Key{Service: service, Identity: "alice"}, presence.EndClean, time.Time{}})
	})
}

// noPush is a service for push that must not be asked.
type noPush struct{ presence.Bindings }

// A client that goes away while it waits is never registered.
func TestLeavesWhileWaiting(t *testing.T) {
	for name, leave := range map[string]func(*peer){
		"bye":         func(p *peer) { p.send(`{"type":"bye"}`); p.wantClose(gateway.CloseBye) },
		"closes":      func(p *peer) { _ = p.conn.Close(websocket.StatusGoingAway, "") },
		"socket lost": func(p *peer) { _ = p.raw.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, nil, func(t *testing.T, n *node) {
				n.store.setAway(true)
				p := n.hello("alice")
				stays := n.hello("bob")
				time.Sleep(5 * time.Second)
				leave(p)
				n.wantWaits(1, map[string]float64{"left": 1})
				if got := n.Sessions(); got != 1 {
					t.Errorf("sessions = %d; want 1", got)
				}
				n.store.setAway(false)
				stays.want("welcome")
				time.Sleep(time.Minute)
				if _, ok := n.store.users[presence.Key{Service: service, Identity: "alice"}]; ok {
					t.Error("who left was registered")
				}
			})
		})
	}
}

// A peer that vanishes without a word while it waits is found by its ping.
func TestDiesWhileWaiting(t *testing.T) {
	bubble(t, func(o *gateway.Options) { o.Timers.Wait = 10 * time.Minute }, func(t *testing.T, n *node) {
		n.store.setAway(true)
		p := n.dial(nil) // answers no ping
		p.send(`{"type":"hello","token":"` + mint(t, service, "alice", time.Hour) + `"}`)
		n.wantWaits(1, nil)
		if _, err := readFrame(p.raw); err != nil { // the ping
			t.Fatal(err)
		}
		time.Sleep(20 * time.Second)
		n.wantWaits(0, map[string]float64{"left": 1})
	})
}

// A session that waited for long enough is refused, with a hint.
func TestWaitTimeout(t *testing.T) {
	bubble(t, nil, func(t *testing.T, n *node) {
		n.store.setAway(true)
		begin := time.Now()
		p := n.hello("alice")
		if v := p.wantError(gateway.ErrorUnavailable, nil); v["retry_after_ms"].(float64) < 1 {
			t.Errorf("error = %v; want retry_after_ms", v)
		}
		p.wantClose(gateway.CloseUnavailable)
		if took := time.Since(begin); took < 30*time.Second || took > 31*time.Second {
			t.Errorf("refused after %v; want 30 s", took)
		}
		n.wantWaits(0, map[string]float64{"timeout": 1})
	})
}

// Without a wait all are refused at once.
func TestNoWait(t *testing.T) {
	bubble(t, func(o *gateway.Options) { o.Timers.Wait = -1 }, func(t *testing.T, n *node) {
		n.store.setAway(true)
		p := n.hello("alice")
		p.wantError(gateway.ErrorUnavailable, nil)
		p.wantClose(gateway.CloseUnavailable)
		n.wantWaits(0, nil)
	})
}

// TestWaitingLimit: beyond the limit a session is refused with its own error.
func TestWaitingLimit(t *testing.T) {
	bubble(t, func(o *gateway.Options) { o.Limits.Waiting = 2 }, func(t *testing.T, n *node) {
		n.store.setAway(true)
		first := n.hello("alice")
		second := n.hello("bob")
		n.wantWaits(2, nil)
		third := n.hello("carol")
		if v := third.wantError(gateway.ErrorTooManyWaiting, nil); v["retry_after_ms"].(float64) < 1 {
			t.Errorf("error = %v; want retry_after_ms", v)
		}
		third.wantClose(gateway.CloseUnavailable)
		n.wantWaits(2, map[string]float64{"full": 1})
		_ = first.raw.Close()
		n.wantWaits(1, map[string]float64{"full": 1, "left": 1})
		fourth := n.hello("dora")
		n.store.setAway(false)
		second.want("welcome")
		fourth.want("welcome")
		n.wantWaits(0, map[string]float64{"full": 1, "left": 1, "let_in": 2})
	})
}

// What is withdrawn or over while a session waits ends it, or refuses it in the end.
func TestRefusedWhileWaiting(t *testing.T) {
	keys := &turnable{keys: auth.StaticKeys{key.SID: key}}
	bubble(t, func(o *gateway.Options) { o.Tokens = auth.NewVerifier(keys) }, func(t *testing.T, n *node) {
		n.store.setAway(true)
		expires := n.dial(nil).read()
		expires.send(`{"type":"hello","token":"` + mint(t, service, "alice", 10*time.Second) + `"}`)
		revoked := n.hello("bob")
		orphan := n.dial(nil).read()
		orphan.send(`{"type":"hello","token":"` + mint(t, otherService, "carol", time.Hour) + `"}`)
		n.wantWaits(3, nil)
		expires.wantClose(gateway.CloseTokenExpired)
		keys.turn(func() { keys.revoked = func(c auth.Claims) bool { return c.Identity == "bob" } })
		n.Recheck()
		revoked.wantClose(gateway.CloseBadToken)
		n.store.mu.Lock()
		delete(n.store.services, otherService)
		n.store.away = false
		n.store.mu.Unlock()
		orphan.wantError(gateway.ErrorNoService, nil)
		orphan.wantClose(gateway.CloseBadToken)
		n.wantWaits(0, map[string]float64{"refused": 3})
	})
}

// TestDrainWhileWaiting: a node that stops sends those who wait elsewhere.
func TestDrainWhileWaiting(t *testing.T) {
	bubble(t, nil, func(t *testing.T, n *node) {
		n.store.setAway(true)
		p := n.hello("alice")
		n.wantWaits(1, nil)
		begin := time.Now()
		n.Shutdown(t.Context())
		p.wantClose(gateway.CloseRestart)
		n.wantWaits(0, map[string]float64{"drained": 1})
		if took := time.Since(begin); took > 10*time.Second {
			t.Errorf("drained in %v; want within 10 s", took)
		}
	})
}

// gauge counts the Opens under way, and carries some out though it reports a failure.
type gauge struct {
	*store
	now, most, calls atomic.Int64

	mu    sync.Mutex // guards the following
	mute  bool       // what is asked happens, but the answer is lost
	asked map[presence.SessionID]int
}

// Partition has users in 64 partitions.
func (*gauge) Partition(k presence.Key) presence.Partition {
	return presence.Partition(crc32.ChecksumIEEE([]byte(k.Identity)) % 64)
}

func (g *gauge) Open(ctx context.Context, k presence.Key, id presence.SessionID) (presence.User, error) {
	g.calls.Add(1)
	defer g.now.Add(-1)
	g.most.Store(max(g.most.Load(), g.now.Add(1)))
	time.Sleep(time.Millisecond)
	u, err := g.store.Open(ctx, k, id)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked[id]++
	if g.mute {
		return presence.User{}, errAway
	}
	return u, err
}

// TestWaitingHerd: while the store is away a few attempts at a time are made for all, and
// when it is back those who waited come in a few at a time.
func TestWaitingHerd(t *testing.T) {
	var g *gauge
	tune := func(o *gateway.Options) {
		g = &gauge{store: o.Presence.(*store), asked: map[presence.SessionID]int{}}
		o.Presence = g
	}
	bubble(t, tune, func(t *testing.T, n *node) {
		n.store.setAway(true)
		n.hello("first")
		synctest.Wait()
		time.Sleep(time.Second)
		peers := make([]*peer, 500)
		for i := range peers {
			peers[i] = n.hello(fmt.Sprint("user-", i))
		}
		time.Sleep(10 * time.Millisecond)
		n.wantWaits(501, nil)
		before := g.calls.Load()
		time.Sleep(10 * time.Second)
		if asked := g.calls.Load() - before; asked < 20*16*3/4 || asked > 20*31*5/4 {
			t.Errorf("the store was asked %d times in 10 s; want 16 to 31 times each 0.5 s", asked)
		}
		n.store.setAway(false)
		g.most.Store(0)
		begin := time.Now()
		for _, p := range peers {
			p.want("welcome")
		}
		if took := time.Since(begin); took > 2*time.Second {
			t.Errorf("let in within %v; want 2 s", took)
		}
		if most := g.most.Load(); most != 16 {
			t.Errorf("%d were let in at one time; want 16", most)
		}
		n.wantWaits(0, map[string]float64{"let_in": 501})
	})
}

// An attempt to register that was carried out though it failed is not repeated under
// the same id, under which presence may yet undo it.
func TestWaitingUnderAnotherID(t *testing.T) {
	var g *gauge
	tune := func(o *gateway.Options) {
		g = &gauge{store: o.Presence.(*store), asked: map[presence.SessionID]int{}, mute: true}
		o.Presence = g
	}
	bubble(t, tune, func(t *testing.T, n *node) {
		p := n.hello("alice")
		time.Sleep(3 * time.Second)
		g.mu.Lock()
		g.mute = false
		g.mu.Unlock()
		id := presence.SessionID(fmt.Sprint(p.want("welcome")["session"]))
		for asked, times := range g.asked {
			if times != 1 {
				t.Errorf("session %s was opened %d times", asked, times)
			}
		}
		if len(g.asked) < 3 || g.asked[id] != 1 {
			t.Errorf("opened %v; want several, the last as %s", g.asked, id)
		}
		n.End(id)
		p.wantClose(gateway.CloseEnded)
	})
}

// A session that was registered, but whose snapshots could not be read any more, waits
// for those alone.
func TestWaitsForSnapshots(t *testing.T) {
	var g *gauge
	tune := func(o *gateway.Options) {
		g = &gauge{store: o.Presence.(*store), asked: map[presence.SessionID]int{}}
		o.Presence = g
	}
	bubble(t, tune, func(t *testing.T, n *node) {
		p := n.dial(nil).read()
		n.store.mu.Lock()
		n.store.blind = true
		n.store.mu.Unlock()
		p.send(`{"type":"hello","token":"` + mint(t, service, "alice", time.Hour) + `","known":{"bob":0}}`)
		time.Sleep(5 * time.Second)
		n.wantWaits(1, nil)
		n.store.mu.Lock()
		n.store.blind = false
		n.store.mu.Unlock()
		if user, _ := p.want("welcome")["user"].(map[string]any); user["is_online"] != true {
			t.Errorf("user = %v; want online", user)
		}
		if calls := g.calls.Load(); calls != 1 {
			t.Errorf("registered %d times; want once", calls)
		}
		p.send(`{"type":"bye"}`)
		p.wantClose(gateway.CloseBye)
		n.wantEnds(end{presence.Key{Service: service, Identity: "alice"}, presence.EndClean, time.Time{}})
	})
}

// partial is a store in two partitions, one of which is away.
type partial struct {
	*store
	away func(presence.Key) bool
}

func (p partial) Partition(k presence.Key) presence.Partition {
	if p.away(k) {
		return 1
	}
	return 0
}

func (p partial) Open(ctx context.Context, k presence.Key, id presence.SessionID) (presence.User, error) {
	if p.away(k) {
		return presence.User{}, errAway
	}
	return p.store.Open(ctx, k, id)
}

// TestWaitingForAPart: who needs a part of the store that is away does not hold up those
// who do not, such as when one primary of a Cluster is away.
func TestWaitingForAPart(t *testing.T) {
	lost := func(k presence.Key) bool { return strings.HasPrefix(k.Identity, "lost-") }
	tune := func(o *gateway.Options) { o.Presence = partial{o.Presence.(*store), lost} }
	bubble(t, tune, func(t *testing.T, n *node) {
		for i := range 200 {
			n.hello(fmt.Sprint("lost-", i))
			time.Sleep(50 * time.Millisecond)
		}
		n.wantWaits(200, nil)
		for i := range 20 {
			begin := time.Now()
			n.hello(fmt.Sprint("lost-again-", i))
			p := n.hello(fmt.Sprint("user-", i))
			p.want("welcome")
			if took := time.Since(begin); took != 0 {
				t.Fatalf("let in after %v; want at once", took)
			}
		}
		n.wantWaits(220, nil)
	})
}

// Who was told that it waited for too long is not registered any more, though its
// connection is not closed yet.
func TestWaitTimeoutIsFinal(t *testing.T) {
	bubble(t, func(o *gateway.Options) { o.Timers.Wait = 4 * time.Second }, func(t *testing.T, n *node) {
		n.store.setAway(true)
		p := n.dial(nil) // does not answer the close frame
		p.send(`{"type":"hello","token":"` + mint(t, service, "alice", time.Hour) + `"}`)
		time.Sleep(4*time.Second + 200*time.Millisecond)
		n.wantWaits(1, nil)
		n.store.setAway(false)
		time.Sleep(20 * time.Second)
		if _, ok := n.store.users[presence.Key{Service: service, Identity: "alice"}]; ok {
			t.Error("it was registered")
		}
		n.wantWaits(0, map[string]float64{"timeout": 1})
	})
}
