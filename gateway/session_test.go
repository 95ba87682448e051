package gateway_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"

	"github.com/rollcall-presence/rollcall/gateway"
	"github.com/rollcall-presence/rollcall/presence"
)

func TestHello(t *testing.T) {
	bubble(t, nil, func(t *testing.T, n *node) {
		p := n.dial(nil).read()
		p.send(`{"type":"hello","token":"` + mint(t, service, "alice", time.Hour) + `"}`)
		w := p.want("welcome")
		user, _ := w["user"].(map[string]any)
		if len(fmt.Sprint(w["session"])) != presence.SessionIDLen || user["is_online"] != true {
			t.Errorf("welcome = %v; want a session id, and a user online", w)
		}
		delete(w, "session")
		delete(w, "user")
		want := map[string]any{
			"type": "welcome", "service_sid": service, "identity": "alice",
			"reachability_enabled": true, "ping_interval_ms": 25000., "users": []any{},
		}
		if diff := cmp.Diff(want, w); diff != "" {
			t.Errorf("welcome (-want +got):\n%s", diff)
		}
		if n.value("rollcall_sessions") != 1 || n.value("rollcall_hello_seconds") != 1 {
			t.Error("the session was not counted")
		}
	})
}

func TestInvisible(t *testing.T) {
	bubble(t, nil, func(t *testing.T, n *node) {
		p := n.dial(nil).read()
		p.send(`{"type":"hello","invisible":true,"token":"` + mint(t, service, "alice", time.Hour) + `"}`)
		user, _ := p.want("welcome")["user"].(map[string]any)
		if user["sid"] == nil || user["is_online"] != nil {
			t.Errorf("user = %v; want one that exists and is not online", user)
		}
		p.send(`{"type":"bye"}`)
		p.wantClose(gateway.CloseBye)
		if ends := n.store.ended(); len(ends) != 0 {
			t.Errorf("ends = %v; want none: presence knew of no session", ends)
		}
	})
}

func TestSubscribe(t *testing.T) {
	bubble(t, nil, func(t *testing.T, n *node) {
		bob := presence.Key{Service: service, Identity: "bob"}
		n.store.set(bob, presence.True)
		p := n.connect("alice")
		p.send(`{"type":"subscribe","id":"a-1","identities":["nobody","bob"]}`)
		v := p.want("subscribed")
		users, _ := v["users"].([]any)
		if v["id"] != "a-1" || len(users) != 2 {
			t.Fatalf("subscribed = %v; want id a-1 and two users", v)
		}
		nobody := map[string]any{
			"identity": "nobody", "sid": nil, "friendly_name": nil, "attributes": "{}",
			"is_online": nil, "is_notifiable": nil, "rev": 0., "date_last_online": nil,
		}
		if diff := cmp.Diff(nobody, users[0]); diff != "" {
			t.Errorf("users[0] (-want +got):\n%s", diff)
		}
		if b, _ := users[1].(map[string]any); b["identity"] != "bob" || b["is_online"] != true {
			t.Errorf("users[1] = %v; want bob, online", b)
		}

		n.store.set(bob, presence.False)
		v = p.want("user.updated")
		u, _ := v["user"].(map[string]any)
		if diff := cmp.Diff([]any{"reachabilityOnline"}, v["update_reasons"]); diff != "" || u["is_online"] != false {
			t.Errorf("user.updated = %v; want bob offline", v)
		}
		if _, ok := u["friendly_name"]; ok {
			t.Errorf("user.updated = %v; want no friendly_name, which did not change", v)
		}

		p.send(`{"type":"unsubscribe","id":2,"identities":["bob","never"]}`)
		if v := p.want("unsubscribed"); v["id"] != 2. {
			t.Errorf("unsubscribed = %v; want id 2", v)
		}
		n.store.set(bob, presence.True)
		p.send(`{"type":"ping","id":3}`)
		if v := p.want("pong"); v["id"] != 3. {
			t.Errorf("pong = %v; want id 3, and no update before it", v)
		}
	})
}

func TestKnown(t *testing.T) {
	bubble(t, nil, func(t *testing.T, n *node) {
		for _, identity := range []string{"bob", "carol"} {
			n.store.set(presence.Key{Service: service, Identity: identity}, presence.True)
		}
		seen := n.store.users[presence.Key{Service: service, Identity: "bob"}].Rev
		p := n.dial(nil).read()
		p.send(fmt.Sprintf(`{"type":"hello","token":%q,"known":{"bob":%d,"carol":1}}`, mint(t, service, "alice", time.Hour), seen))
		users, _ := p.want("welcome")["users"].([]any)
		if len(users) != 1 || users[0].(map[string]any)["identity"] != "carol" {
			t.Errorf("users = %v; want only carol, who changed", users)
		}
		n.store.set(presence.Key{Service: service, Identity: "bob"}, presence.False)
		p.want("user.updated")
	})
}

func TestSwitch(t *testing.T) {
	bubble(t, nil, func(t *testing.T, n *node) {
		p, other := n.connect("alice"), n.dial(nil).read()
		other.send(`{"type":"hello","token":"` + mint(t, otherService, "alice", time.Hour) + `"}`)
		other.want("welcome")
		n.store.flip(n.hub, service, false)
		if v := p.want("service.updated"); v["reachability_enabled"] != false {
			t.Errorf("service.updated = %v; want false", v)
		}
		n.store.flip(n.hub, service, true)
		if v := p.want("service.updated"); v["reachability_enabled"] != true {
			t.Errorf("service.updated = %v; want true", v)
		}
		other.send(`{"type":"ping"}`)
		other.want("pong") // and nothing of the other service before it
	})
}

func TestBatch(t *testing.T) {
	bubble(t, nil, func(t *testing.T, n *node) {
		p := n.dial(nil)
		p.send(`{"type":"hello","batch":true,"token":"` + mint(t, service, "alice", time.Hour) + `"}`)
		p.send(`{"type":"subscribe","identities":["a","b","c"]}`)
		synctest.Wait() // the writer waits: nobody reads yet
		for _, identity := range []string{"a", "b", "c"} {
			n.store.set(presence.Key{Service: service, Identity: identity}, presence.True)
		}
		p.read()
		p.want("welcome")
		p.want("subscribed")
		messages, _ := p.want("batch")["messages"].([]any)
		if len(messages) != 3 {
			t.Errorf("batch = %v; want three updates", messages)
		}
	})
}

// A client that takes batches gets the first update at once, and those that follow
// together, Timers.Batch later; what it asked for never waits. Others get each at once.
func TestBatchDelay(t *testing.T) {
	bubble(t, func(o *gateway.Options) { o.Timers.Batch = 100 * time.Millisecond }, func(t *testing.T, n *node) {
		batch, plain := n.dial(nil).read(), n.connect("bob")
		batch.send(`{"type":"hello","batch":true,"token":"` + mint(t, service, "alice", time.Hour) + `"}`)
		batch.want("welcome")
		for _, p := range []*peer{batch, plain} {
			p.send(`{"type":"subscribe","identities":["a","b","c","d"]}`)
			p.want("subscribed")
		}
		time.Sleep(time.Second)
		began := time.Now()
		took := func(what string, want time.Duration) {
			t.Helper()
			if got := time.Since(began); got != want {
				t.Errorf("%s after %v; want %v", what, got, want)
			}
		}
		set := func(identity string) {
			synctest.Wait() // no writer is at work
			k := presence.Key{Service: service, Identity: identity}
			n.store.set(k, presence.TriOf(n.store.users[k].Online != presence.True))
			plain.want("user.updated")
		}
		set("a")
		batch.want("user.updated")
		took("the first update", 0)
		time.Sleep(30 * time.Millisecond)
		set("b")
		set("c")
		took("the updates of one that takes no batches", 30*time.Millisecond)
		batch.none()
		time.Sleep(20 * time.Millisecond)
		batch.send(`{"type":"ping"}`)
		if m, _ := batch.want("batch")["messages"].([]any); len(m) != 2 {
			t.Errorf("batch = %v; want the two that waited", m)
		}
		batch.want("pong")
		took("an answer, and what was before it", 50*time.Millisecond)
		set("d")
		batch.want("user.updated")
		took("an update after a write", 130*time.Millisecond) // of the round that b began
		time.Sleep(200 * time.Millisecond)
		began = time.Now()
		set("a")
		set("b")
		batch.want("user.updated")
		took("the first update after a quiet time", 0)
		batch.want("user.updated")
		took("the next", 100*time.Millisecond)
	})
}

// TestSlowReaderConflates is G9: who reads late gets the final state, and was not
// closed for it.
func TestSlowReaderConflates(t *testing.T) {
	bubble(t, nil, func(t *testing.T, n *node) {
		p := n.dial(nil)
		p.send(`{"type":"hello","token":"` + mint(t, service, "alice", time.Hour) + `"}`)
		p.send(`{"type":"subscribe","identities":["bob"]}`)
		bob := presence.Key{Service: service, Identity: "bob"}
		for range 1000 {
			n.store.set(bob, presence.True)
			n.store.set(bob, presence.False)
		}
		time.Sleep(5 * time.Second)
		p.read()
		p.want("welcome")
		rev, got, last := -1., 0, map[string]any{}
		for last["rev"] != float64(n.store.users[bob].Rev) {
			v := p.want([]string{"subscribed", "user.updated"}[min(got, 1)])
			got++
			if users, ok := v["users"].([]any); ok {
				v["user"] = users[0]
			}
			if last, _ = v["user"].(map[string]any); last["rev"].(float64) <= rev {
				t.Fatalf("revision %v after %v; want them to grow", last["rev"], rev)
			}
			rev = last["rev"].(float64)
		}
		if got > 10 || last["is_online"] != false {
			t.Errorf("got %d frames, last %v; want few, and bob offline", got, last)
		}
	})
}

func TestToken(t *testing.T) {
	bubble(t, nil, func(t *testing.T, n *node) {
		p := n.dial(nil).read()
		p.send(`{"type":"hello","token":"` + mint(t, service, "alice", 5*time.Minute) + `"}`)
		p.want("welcome")
		begin := time.Now()
		v := p.want("token.expiring")
		// A tenth of its life before its end, give or take a tick of the wheel.
		if at := time.Since(begin); at < 4*time.Minute+29*time.Second || at > 4*time.Minute+31*time.Second {
			t.Errorf("token.expiring after %v; want 30 s before 5 min", at)
		}
		if ms := v["expires_in_ms"].(float64); ms < 29000 || ms > 30000 {
			t.Errorf("expires_in_ms = %v; want 30 s", ms)
		}
		p.send(`{"type":"token","id":1,"token":"` + mint(t, service, "bob", time.Hour) + `"}`)
		p.wantError(gateway.ErrorTokenIdentity, 1.)
		p.send(`{"type":"token","id":2,"token":"` + mint(t, otherService, "alice", time.Hour) + `"}`)
		p.wantError(gateway.ErrorTokenService, 2.)
		p.send(`{"type":"token","id":3,"token":"x"}`)
		p.wantError(gateway.ErrorTokenInvalid, 3.)
		p.send(`{"type":"token","id":4,"token":"` + mint(t, service, "alice", 10*time.Minute) + `"}`)
		if v := p.want("token_accepted"); v["id"] != 4. || v["expires_at"] != time.Now().Add(10*time.Minute).UTC().Format(time.RFC3339) {
			t.Errorf("token_accepted = %v; want id 4, and in 10 minutes", v)
		}
		begin = time.Now()
		p.want("token.expiring")
		p.wantClose(gateway.CloseTokenExpired)
		if at := time.Since(begin); at < 9*time.Minute+59*time.Second || at > 10*time.Minute+time.Second {
			t.Errorf("closed after %v; want 10 minutes", at)
		}
		n.wantEnds(end{presence.Key{Service: service, Identity: "alice"}, presence.EndExpired, time.Time{}})
	})
}

// wantEnds waits until all is done and compares what presence was told, times aside.
func (n *node) wantEnds(want ...end) {
	n.t.Helper()
	synctest.Wait()
	got := n.store.ended()
	for i := range got {
		got[i].At = time.Time{}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		n.t.Errorf("ends (-want +got):\n%s", diff)
	}
}

// TestEnds: how a session ends is what presence is told.
func TestEnds(t *testing.T) {
	tests := map[string]struct {
		do  func(*node, *peer)
		how presence.End
	}{
		"bye":             {func(_ *node, p *peer) { p.send(`{"type":"bye"}`); p.wantClose(gateway.CloseBye) }, presence.EndClean},
		"close 1000":      {func(_ *node, p *peer) { _ = p.conn.Close(1000, "") }, presence.EndClean},
		"close 1001":      {func(_ *node, p *peer) { _ = p.conn.Close(1001, "") }, presence.EndReload},
		"close 4000":      {func(_ *node, p *peer) { _ = p.conn.Close(4000, "") }, presence.EndLost},
		"close no status": {func(_ *node, p *peer) { _ = p.conn.Close(websocket.StatusNoStatusRcvd, "") }, presence.EndLost},
		"socket lost":     {func(_ *node, p *peer) { _ = p.raw.Close() }, presence.EndLost},
		"operator":        {func(n *node, p *peer) { n.end("alice"); p.wantClose(gateway.CloseEnded) }, presence.EndOperator},
		"bad frame":       {func(_ *node, p *peer) { p.send(`[`); p.wantClose(gateway.CloseBadRequest) }, presence.EndLost},
		"node stops":      {func(n *node, _ *peer) { n.stop() }, presence.EndDrain},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, nil, func(_ *testing.T, n *node) {
				tt.do(n, n.connect("alice"))
				n.wantEnds(end{presence.Key{Service: service, Identity: "alice"}, tt.how, time.Time{}})
			})
		})
	}
}

// end ends a user's sessions as an operator does.
func (n *node) end(identity string) {
	n.store.mu.Lock()
	defer n.store.mu.Unlock()
	for id, k := range n.store.live {
		if k.Identity == identity {
			n.End(id)
		}
	}
}

// TestByeIsRecordedAtOnce is G2's part of the gateway: not even the client's
// answer to the close frame is waited for.
func TestByeIsRecordedAtOnce(t *testing.T) {
	bubble(t, nil, func(t *testing.T, n *node) {
		p := n.dial(nil)
		p.send(`{"type":"hello","token":"` + mint(t, service, "alice", time.Hour) + `"}`)
		p.send(`{"type":"bye"}`)
		begin := time.Now()
		synctest.Wait()
		if ends := n.store.ended(); len(ends) != 1 || ends[0].How != presence.EndClean || time.Since(begin) != 0 {
			t.Errorf("ends = %v; want one, clean, at once", ends)
		}
	})
}

// TestDeadPeer is G4: a peer that answers no ping is lost after ping and pong times.
func TestDeadPeer(t *testing.T) {
	bubble(t, nil, func(t *testing.T, n *node) {
		p := n.connect("alice")
		_ = p // its reader answers
		dead := n.dial(nil)
		dead.send(`{"type":"hello","token":"` + mint(t, service, "bob", time.Hour) + `"}`)
		for range 2 { // the welcome and the ping's header are taken off the wire, and nothing answered
			if _, err := readFrame(dead.raw); err != nil {
				t.Fatal(err)
			}
		}
		begin := time.Now()
		for len(n.store.ended()) == 0 {
			time.Sleep(100 * time.Millisecond)
			if time.Since(begin) > time.Minute {
				t.Fatal("not lost within a minute")
			}
		}
		if at := time.Since(begin); at < 7*time.Second || at > 9*time.Second {
			t.Errorf("lost %v after the ping; want 8 s", at)
		}
		// What counts is when it was last heard, which was before the ping it did not answer.
		if left := n.store.ended()[0].At; left.After(begin) || begin.Sub(left) > 25*time.Second {
			t.Errorf("it left %v before the ping; want when it was last heard", begin.Sub(left))
		}
		n.wantEnds(end{presence.Key{Service: service, Identity: "bob"}, presence.EndSilent, time.Time{}})
		synctest.Wait()
		time.Sleep(10 * time.Second) // for what cannot be written to be given up
		if got := n.value("rollcall_closes_total", "server", "3004"); got != 1 {
			t.Errorf("closes with 3004 = %v; want 1", got)
		}
		time.Sleep(10 * time.Minute)
		p.send(`{"type":"ping"}`)
		p.want("pong")
	})
}

// TestHalfOpen: a peer that vanished while a write to it waits is given up too.
func TestReaderThatNeverReads(t *testing.T) {
	bubble(t, nil, func(t *testing.T, n *node) {
		other := n.connect("carol")
		p := n.dial(nil)
		p.send(`{"type":"hello","token":"` + mint(t, service, "alice", time.Hour) + `"}`)
		begin := time.Now()
		for len(n.store.ended()) == 0 && time.Since(begin) < 5*time.Minute {
			time.Sleep(time.Second)
		}
		if at := time.Since(begin); at > 2*33*time.Second {
			t.Errorf("given up after %v; want within twice the write time", at)
		}
		time.Sleep(10 * time.Second)
		if got := n.value("rollcall_closes_total", "server", "3003"); got != 1 {
			t.Errorf("closes with 3003 = %v; want 1", got)
		}
		other.send(`{"type":"ping"}`)
		other.want("pong")
		n.wantEnds(end{presence.Key{Service: service, Identity: "alice"}, presence.EndStuck, time.Time{}})
	})
}

// TestTooManyAnswers: what cannot be conflated is bounded by the mailbox's size.
func TestTooManyAnswers(t *testing.T) {
	tune := func(o *gateway.Options) { o.Limits.Mailbox, o.Limits.RequestRate = 4<<10, 1000 }
	bubble(t, tune, func(t *testing.T, n *node) {
		p := n.dial(nil)
		p.send(`{"type":"hello","token":"` + mint(t, service, "alice", time.Hour) + `"}`)
		for range 100 {
			if p.conn.Write(t.Context(), websocket.MessageText, []byte(`{"type":"ping"}`)) != nil {
				break
			}
		}
		time.Sleep(10 * time.Second)
		if got := n.value("rollcall_closes_total", "server", "3003"); got != 1 {
			t.Errorf("closes with 3003 = %v; want 1", got)
		}
		n.wantEnds(end{presence.Key{Service: service, Identity: "alice"}, presence.EndStuck, time.Time{}})
	})
}

// awayPush is a service for push whose store is away.
type awayPush struct{ presence.Bindings }

func (awayPush) Bind(context.Context, presence.Key, presence.Registration) (presence.Binding, error) {
	return presence.Binding{}, errAway
}

// TestStoreAway: while the store is away open sessions stay, and requests that
// need it say so.
func TestStoreAway(t *testing.T) {
	bubble(t, func(o *gateway.Options) { o.Push = awayPush{} }, func(t *testing.T, n *node) {
		p := n.connect("alice")
		n.store.setAway(true)
		p.send(`{"type":"subscribe","id":1,"identities":["bob"]}`)
		if v := p.wantError(gateway.ErrorUnavailable, 1.); v["retry_after_ms"].(float64) < 1 {
			t.Errorf("error = %v; want retry_after_ms", v)
		}
		p.send(`{"type":"register_push","id":3,"binding_type":"fcm","address":"x"}`)
		p.wantError(gateway.ErrorUnavailable, 3.)
		p.send(`{"type":"token","id":4,"token":"` + mint(t, service, "alice", 2*time.Hour) + `"}`)
		p.want("token_accepted")
		leaves := n.dial(nil).read()
		n.store.setAway(false)
		leaves.send(`{"type":"hello","token":"` + mint(t, service, "bob", time.Hour) + `"}`)
		leaves.want("welcome")
		n.store.setAway(true)
		leaves.send(`{"type":"bye"}`)
		leaves.wantClose(gateway.CloseBye) // presence remembers the end
		time.Sleep(30 * time.Second)
		n.store.setAway(false)
		p.send(`{"type":"subscribe","id":2,"identities":["bob"]}`)
		p.want("subscribed")
	})
}

func TestFragmentsAndControlFrames(t *testing.T) {
	bubble(t, nil, func(t *testing.T, n *node) {
		p := n.connect("alice")
		for i := range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if err := p.conn.Ping(ctx); err != nil {
				t.Fatalf("ping %d: %v", i, err)
			}
			cancel()
			w, err := p.conn.Writer(t.Context(), websocket.MessageText)
			if err != nil {
				t.Fatal(err)
			}
			for _, part := range []string{`{"type":`, `"ping",`, `"id":7}`} {
				if _, err := w.Write([]byte(part)); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				if err := p.raw.SetDeadline(time.Time{}); err != nil {
					t.Fatal(err)
				}
				// A control frame between fragments.
				writeFrame(t, p.raw, 0x89, "between")
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			if v := p.want("pong"); v["id"] != 7. {
				t.Errorf("pong = %v; want id 7", v)
			}
		}
	})
}
