package gateway_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/rollcall-presence/rollcall/gateway"
	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/presence"
)

// TestSDKRate: beyond its rate a request is answered with 429 and when to ask again;
// who goes on is closed.
func TestSDKRate(t *testing.T) {
	bubble(t, nil, func(t *testing.T, n *node) {
		c := n.arrive("alice")
		for i := range 200 {
			if code, body := c.request("GET", "/Client/v2/Configuration", "", ""); code != 200 {
				t.Fatalf("request %d = %d %v", i, code, body)
			}
		}
		if body := c.refused(429, gateway.ErrorRateLimited, "GET", "/Client/v2/Configuration", ""); body["retry_after_ms"] != 20. {
			t.Errorf("refusal = %v; want to ask again in 20 ms", body)
		}
		c.frame(`{"id":"TM-u","method":"update","token":"`+mint(t, service, "alice", 2*time.Hour)+`"}`, "")
		if got := c.reply("TM-u").Status("status"); got != 200 {
			t.Errorf("update was answered with %d; want 200: the SDK would close over a refusal", got)
		}
		time.Sleep(time.Second)
		for range 50 {
			c.alive()
		}
		c.refused(429, gateway.ErrorRateLimited, "GET", "/v3/Maps/"+testkit.UserMap("alice"), "")
		c.refused(429, gateway.ErrorRateLimited, "POST", "/v4/Subscriptions", "")
		c.refused(429, gateway.ErrorRateLimited, "GET", "/no/such/thing", "")
		go func() {
			for c.conn.Write(t.Context(), websocket.MessageBinary, []byte(testkit.TwilsockText(`{"id":"x","method":"message"}`, ""))) == nil {
			}
		}()
		if hint := c.closes(gateway.CloseRateLimited, 308); hint < 200 {
			t.Errorf("reconnect_min_ms = %v; want a hint", hint)
		}
		n.wantEnds(end{user("alice"), presence.EndLost, time.Time{}})
	})
}

// TestSDKAcknowledgements: those that are owed cost nothing, however many; others are
// requests like any.
func TestSDKAcknowledgements(t *testing.T) {
	bubble(t, nil, func(t *testing.T, n *node) {
		c := n.arrive("alice")
		n.store.set(user("bob"), presence.False)
		c.follow(n, "bob")
		for i := range 500 {
			n.store.set(user("bob"), presence.TriOf(i%2 == 0))
			c.items() // and acknowledges it
		}
		synctest.Wait()
		for range 199 { // the first was the subscription
			c.alive()
		}
		c.refused(429, gateway.ErrorRateLimited, "GET", "/Client/v2/Configuration", "")
		if got := n.value("rollcall_requests_total", "reply"); got != 501 {
			t.Errorf("%v acknowledgements were counted; want 501", got)
		}

		time.Sleep(10 * time.Second)
		for range 100 {
			c.acknowledge("RC-nothing")
		}
		for range 100 {
			c.alive()
		}
		c.refused(429, gateway.ErrorRateLimited, "GET", "/Client/v2/Configuration", "")
		go func() {
			for c.conn.Write(t.Context(), websocket.MessageBinary, []byte(testkit.TwilsockText(`{"id":"x","method":"reply"}`, ""))) == nil {
			}
		}()
		c.closes(gateway.CloseRateLimited, 308)
	})
}

// TestSDKCredit: a user and its map are one request, so that an application may ask at
// once for all users that it may be subscribed to.
func TestSDKCredit(t *testing.T) {
	bubble(t, nil, func(t *testing.T, n *node) {
		const users = 100
		for i := range users {
			n.store.set(user(fmt.Sprint("user-", i)), presence.True)
		}
		c := n.arrive("alice")
		for i := range users {
			c.ask("GET", usersPath(fmt.Sprint("user-", i)), "", "")
		}
		var objects []string
		for i := range users {
			f := c.take()
			if f.Status("http_status") != 200 {
				t.Fatalf("getUser %d = %v", i, f)
			}
			objects = append(objects, f.Payload["sync_objects"].(map[string]any)["user_info_map"].(string))
		}
		for i, sid := range objects {
			m := c.must(200, "GET", "/v3/Maps/"+sid, `{"Include":"items"}`, "")
			objects[i] = object(sid, fmt.Sprint(m["last_event_id"]))
		}
		c.subscribe("establish", objects...)
		if got := c.told("subscription_established"); len(got) != users {
			t.Errorf("%d subscriptions; want %d", len(got), users)
		}
		// 101 of 200 are spent; the maps' credit is too.
		for range 99 {
			c.must(200, "GET", "/v3/Maps/"+testkit.UserMap("alice"), "", "")
		}
		c.refused(429, gateway.ErrorRateLimited, "GET", "/v3/Maps/"+testkit.UserMap("alice"), "")
	})
}

// TestSDKCreditIsBounded: credit is for the users that may be subscribed to, and not to
// be saved up.
func TestSDKCreditIsBounded(t *testing.T) {
	bubble(t, nil, func(t *testing.T, n *node) {
		c := n.arrive("alice")
		for range 5 {
			for range 50 {
				c.must(200, "GET", usersPath("alice"), "", "")
			}
			time.Sleep(time.Second)
		}
		time.Sleep(10 * time.Second)
		for range 300 {
			c.must(200, "GET", "/v3/Maps/"+testkit.UserMap("alice"), "", "")
		}
		c.refused(429, gateway.ErrorRateLimited, "GET", "/v3/Maps/"+testkit.UserMap("alice"), "")
		// A user that is not there earns nothing.
		time.Sleep(10 * time.Second)
		for range 50 {
			c.refused(404, gateway.ErrorNoUser, "GET", usersPath("nobody"), "")
		}
		for range 150 {
			c.must(200, "GET", "/v3/Maps/"+testkit.UserMap("alice"), "", "")
		}
		c.refused(429, gateway.ErrorRateLimited, "GET", "/v3/Maps/"+testkit.UserMap("alice"), "")
	})
}

// TestSDKSlowReader is G9: who reads late gets the final state, in few events whose ids
// grow, and was not closed for it.
func TestSDKSlowReader(t *testing.T) {
	bubble(t, nil, func(t *testing.T, n *node) {
		c := n.dialSDK() // reads nothing
		c.init(mint(t, service, "alice", time.Hour))
		var objects []string
		const users = 40
		for i := range users {
			objects = append(objects, object(testkit.UserMap(fmt.Sprint("user-", i)), "null"))
			n.store.set(user(fmt.Sprint("user-", i)), presence.False)
		}
		c.ask("POST", "/v4/Subscriptions", "", subscriptionsBody("establish", objects...))
		synctest.Wait()
		big := strings.Repeat("x", 4<<10)
		for round := range 300 {
			for i := range users {
				n.store.set(user(fmt.Sprint("user-", i)), presence.TriOf(round%2 == 0))
			}
			attributes := fmt.Sprintf(`"%d%s"`, round, big)
			if _, err := n.store.UpdateUser(t.Context(), user("user-7"), presence.UserUpdate{Attributes: &attributes}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(5 * time.Second)
		c.read()
		c.reply("TM-init")
		last, ids, frames := map[string]string{}, map[string]int64{}, 0
		c.reply("TM-1")
		for {
			synctest.Wait()
			if len(c.in) == 0 {
				break
			}
			f := c.take()
			frames++
			c.notes = append(c.notes, f)
			if f.Payload["event_type"] == "subscription_established" {
				c.told("subscription_established")
				continue
			}
			for _, e := range c.items() {
				var id int64
				var who, key, data string
				if _, err := fmt.Sscan(e, &id, &who, &key, &data); err != nil {
					t.Fatal(err)
				}
				if id < ids[who] || id == ids[who] && last[who+key] != "" && strings.HasPrefix(last[who+key], fmt.Sprint(id)) {
					t.Fatalf("event %.100s after id %d", e, ids[who])
				}
				ids[who], last[who+key] = id, fmt.Sprint(id, " ", data)
			}
		}
		if frames > 8 {
			t.Errorf("%d frames; want few", frames)
		}
		for i := range users {
			who := fmt.Sprint("user-", i)
			if ids[who] != n.store.revision(user(who)) || !strings.Contains(last[who+"reachability"], `"online":false`) {
				t.Errorf("the last of %s is %d, %s; want revision %d, offline", who, ids[who], last[who+"reachability"], n.store.revision(user(who)))
			}
		}
		if !strings.Contains(last["user-7attributes"], `\"299xxx`) {
			t.Errorf("the last attributes are %.60s; want those of the last round", last["user-7attributes"])
		}
	})
}

// TestSDKTooManyAnswers: what cannot be conflated is bounded by the mailbox's size.
func TestSDKTooManyAnswers(t *testing.T) {
	tune := func(o *gateway.Options) { o.Limits.Mailbox, o.Limits.RequestBurst = 16<<10, 1000 }
	bubble(t, tune, func(t *testing.T, n *node) {
		c := n.dialSDK()
		c.init(mint(t, service, "alice", time.Hour))
		for range 200 {
			if c.conn.Write(t.Context(), websocket.MessageBinary, []byte(testkit.TwilsockText(`{"id":"x","method":"message"}`, ""))) != nil {
				break
			}
		}
		time.Sleep(10 * time.Second)
		if got := n.value("rollcall_closes_total", "server", "3003"); got != 1 {
			t.Errorf("closes with 3003 = %v; want 1", got)
		}
		n.wantEnds(end{user("alice"), presence.EndStuck, time.Time{}})
	})
}

// TestSDKLargeAnswers: a client that asks for many users with large profiles at once, and
// reads slowly, gets them all.
func TestSDKLargeAnswers(t *testing.T) {
	tune := func(o *gateway.Options) { o.Limits.Mailbox = 16 << 10 }
	bubble(t, tune, func(t *testing.T, n *node) {
		attributes := `"` + strings.Repeat("x", 8<<10) + `"`
		n.store.set(user("bob"), presence.False)
		if _, err := n.store.UpdateUser(t.Context(), user("bob"), presence.UserUpdate{Attributes: &attributes}); err != nil {
			t.Fatal(err)
		}
		c := n.arrive("alice")
		const requests = 100
		go func() {
			for i := range requests {
				c.frame(fmt.Sprintf(`{"id":"TM-%d","method":"message","http_request":{"method":"GET","path":"/v3/Maps/%s","params":{"Include":"items"}}}`, i, testkit.UserMap("bob")), "")
			}
		}()
		for i := range requests {
			time.Sleep(100 * time.Millisecond)
			if f := c.reply(fmt.Sprint("TM-", i)); f.Status("http_status") != 200 || len(f.Text) < 8<<10 {
				t.Fatalf("answer %d is %v with %d bytes", i, f.Header, len(f.Text))
			}
		}
		c.alive()
	})
}

// TestSDKWaiting: a session that comes while the store is away is answered when it is
// back; until then its requests are told when to ask again.
func TestSDKWaiting(t *testing.T) {
	bubble(t, func(o *gateway.Options) { o.Push = noPush{} }, func(t *testing.T, n *node) {
		n.store.setAway(true)
		c := n.dialSDK()
		c.read()
		c.init(mint(t, service, "alice", time.Minute))
		c.none()
		n.wantWaits(1, nil)
		for _, r := range []struct{ method, path, body string }{
			{"GET", usersPath("bob"), ""},
			{"GET", "/v3/Maps/" + testkit.UserMap("alice"), ""},
			{"GET", "/v3/Maps/" + testkit.UserMap("alice") + "/Items", ""},
			{"POST", usersPath("alice"), `{"friendly_name":"x"}`},
			{"POST", "/v4/Subscriptions", subscriptionsBody("establish", object(testkit.UserMap("bob"), "1"))},
			{"POST", "/v4/Subscriptions", subscriptionsBody("cancel", object(testkit.UserMap("bob"), ""))},
			{"POST", "/v1/registrations", `{"channel_type":"fcm","data":{"registration_id":"x"}}`},
			{"DELETE", "/v1/registrations/BS1", "{}"},
			{"DELETE", "/v1/registrations", `{"binding_type":"fcm","address":"x"}`},
		} {
			if body := c.refused(503, gateway.ErrorUnavailable, r.method, r.path, r.body); body["retry_after_ms"].(float64) < 1 {
				t.Errorf("%s %s = %v; want retry_after_ms", r.method, r.path, body)
			}
		}
		c.frame(`{"id":"TM-u","method":"update","token":"`+mint(t, service, "alice", time.Hour)+`"}`, "")
		if got := c.reply("TM-u").Status("status"); got != 200 {
			t.Errorf("update was answered with %d", got)
		}
		time.Sleep(20 * time.Second)
		c.none()
		n.store.setAway(false)
		if got := c.reply("TM-init").Status("status"); got != 200 {
			t.Errorf("init was answered with %d", got)
		}
		n.wantWaits(0, map[string]float64{"let_in": 1})
		c.subscribe("establish", object(testkit.UserMap("alice"), "null"))
		if got := c.items(); len(got) != 3 {
			t.Errorf("replayed %v; want three items", got)
		}
		c.told("subscription_established")
		time.Sleep(2 * time.Minute) // the first token would have expired
		c.alive()
	})
}

// TestSDKImpatience: the SDK does not wait for as long as a session may, and closes in a way
// that elsewhere is a bye: its user has not left.
func TestSDKImpatience(t *testing.T) {
	t.Run("told in time", func(t *testing.T) {
		bubble(t, func(o *gateway.Options) { o.Timers.Wait = 10 * time.Minute }, func(t *testing.T, n *node) {
			n.store.setAway(true)
			c := n.dialSDK()
			c.read()
			begin := time.Now()
			c.init(mint(t, service, "alice", time.Hour))
			if got := c.reply("TM-init").Status("status"); got != 503 {
				t.Errorf("init was answered with %d; want 503", got)
			}
			if took := time.Since(begin); took > 29*time.Second || took < 20*time.Second {
				t.Errorf("answered after %v; want before the SDK's 30 s", took)
			}
			c.closes(gateway.CloseUnavailable, 0)
		})
	})
	t.Run("gives up", func(t *testing.T) {
		bubble(t, nil, func(t *testing.T, n *node) {
			n.store.set(user("alice"), presence.True)
			n.store.setMute(true) // carries out what it is asked, and does not say so
			c := n.dialSDK()
			c.read()
			c.init(mint(t, service, "alice", time.Hour))
			c.none()
			c.frame(`{"id":"1","method":"close"}`, "")
			c.closes(gateway.CloseBye, 0)
			n.wantEnds(end{user("alice"), presence.EndLost, time.Time{}})
		})
	})
}

// TestSDKSlowHook: while a backend is asked whether a user may change itself, the session
// goes on: others' requests, a newer token, and its end.
func TestSDKSlowHook(t *testing.T) {
	asking, let := make(chan string, 16), make(chan struct{})
	tune := func(o *gateway.Options) {
		o.BeforeUserUpdate = func(ctx context.Context, _ presence.Service, _ presence.User, update presence.UserUpdate) error {
			asking <- *update.FriendlyName
			select {
			case <-let:
			case <-ctx.Done():
			}
			return nil
		}
	}
	for name, leave := range map[string]struct {
		do  func(*sdk)
		how presence.End
	}{
		"signs out": {func(c *sdk) { c.frame(`{"id":"1","method":"close"}`, ""); c.closes(gateway.CloseBye, 0) }, presence.EndClean},
		"is lost":   {func(c *sdk) { _ = c.raw.Close() }, presence.EndLost},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				asking, let = make(chan string, 16), make(chan struct{})
				n := start(t, tune)
				c := n.arrive("alice")
				for i := range 8 {
					c.ask("POST", usersPath("alice"), "", fmt.Sprintf(`{"friendly_name":"name %d"}`, i))
				}
				c.refused(429, gateway.ErrorRateLimited, "POST", usersPath("alice"), `{"friendly_name":"one too many"}`)
				c.frame(`{"id":"TM-u","method":"update","token":"`+mint(t, service, "alice", 2*time.Hour)+`"}`, "")
				if got := c.reply("TM-u").Status("status"); got != 200 {
					t.Errorf("update was answered with %d", got)
				}
				c.alive()
				let <- struct{}{} // one is answered, the next begins
				c.reply("TM-1")
				synctest.Wait()
				if got := []string{<-asking, <-asking}; len(asking) != 0 || got[0] != "name 0" || got[1] != "name 1" {
					t.Errorf("asked about %v and %d more; want one after the other", got, len(asking))
				}
				begin := time.Now()
				leave.do(c)
				n.wantEnds(end{user("alice"), leave.how, time.Time{}})
				if took := time.Since(begin); took > time.Second {
					t.Errorf("its end took %v; want it at once", took)
				}
				n.stop()
				if got := n.store.name(user("alice")); got != "name 0" || len(asking) != 0 {
					t.Errorf("it is called %q, and %d more were asked about; want what waited dropped", got, len(asking))
				}
			})
		})
	}
}

// TestSDKStoreAway: while the store is away open sessions stay, and what needs it is
// told when to ask again.
func TestSDKStoreAway(t *testing.T) {
	bubble(t, func(o *gateway.Options) { o.Push = awayPush{} }, func(t *testing.T, n *node) {
		c := n.arrive("alice")
		n.store.setAway(true)
		for _, r := range []struct{ method, path, body string }{
			{"GET", usersPath("alice"), ""},
			{"GET", "/v3/Maps/" + testkit.UserMap("bob"), ""},
			{"POST", usersPath("alice"), `{"attributes":"{}"}`},
			{"POST", "/v4/Subscriptions", subscriptionsBody("establish", object(testkit.UserMap("bob"), "1"))},
			{"POST", "/v1/registrations", `{"channel_type":"fcm","data":{"registration_id":"x"}}`},
		} {
			if body := c.refused(503, gateway.ErrorUnavailable, r.method, r.path, r.body); body["retry_after_ms"].(float64) < 1 {
				t.Errorf("%s %s = %v; want retry_after_ms", r.method, r.path, body)
			}
		}
		c.alive()
		time.Sleep(time.Minute)
		n.store.setAway(false)
		c.subscribe("establish", object(testkit.UserMap("bob"), "1"))
		c.items()
		c.told("subscription_established")
	})
}

// TestSDKSubscriptionsLimit: what is beyond the limit is refused in a way that the SDK
// repeats, for it subscribes to a user before it cancels the one that makes way.
func TestSDKSubscriptionsLimit(t *testing.T) {
	bubble(t, nil, func(t *testing.T, n *node) {
		c := n.arrive("alice")
		for group := range 10 {
			var objects []string
			for i := range 100 {
				objects = append(objects, object(testkit.UserMap(fmt.Sprint("user-", group, "-", i)), "1"))
			}
			c.subscribe("establish", objects...)
			for range 2 {
				f := c.take()
				if f.Header["method"] != "notification" {
					t.Fatalf("got %v", f)
				}
			}
		}
		c.refused(429, gateway.ErrorSubscriptions, "POST", "/v4/Subscriptions", subscriptionsBody("establish", object(testkit.UserMap("one more"), "1")))
		if got := n.value("rollcall_errors_total", "too_many_subscriptions"); got != 1 {
			t.Errorf("%v errors were counted; want 1", got)
		}
		n.store.set(user("user-3-3"), presence.True)
		c.items()
		c.subscribe("cancel", object(testkit.UserMap("user-0-0"), ""))
		c.told("subscription_canceled")
		c.subscribe("establish", object(testkit.UserMap("one more"), "1"))
		c.items()
		c.told("subscription_established")
	})
}
