package gateway_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"

	"github.com/rollcall-presence/rollcall/auth"
	"github.com/rollcall-presence/rollcall/gateway"
	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/presence"
)

func user(identity string) presence.Key { return presence.Key{Service: service, Identity: identity} }

func usersPath(identity string) string {
	return "/Client/v2/Services/" + service + "/Users/" + identity
}

// TestSDKStartUp: what the SDK asks for in the beginning, in its order, and what it
// builds on.
func TestSDKStartUp(t *testing.T) {
	bubble(t, nil, func(t *testing.T, n *node) {
		c := n.dialSDK()
		c.read()
		c.init(mint(t, service, "ålice/😀", time.Hour))
		f := c.reply("TM-init")
		token, _ := f.Header["continuation_token"].(string)
		if f.Status("status") != 200 || len(token) != 3+presence.SessionIDLen || f.Header["offline_storage"] != nil {
			t.Fatalf("init was answered with %v", f.Header)
		}
		if n.store.users[user("ålice/😀")].Online != presence.True {
			t.Error("the user is not online once init was answered")
		}

		conf := c.must(200, "GET", "/Client/v2/Configuration", "", "")
		links, _ := conf["links"].(map[string]any)
		objects, _ := conf["sync_objects"].(map[string]any)
		opt, _ := conf["options"].(map[string]any)
		if conf["identity"] != "ålice/😀" || opt["reachability_enabled"] != true || opt["user_infos_to_subscribe"] != 100. {
			t.Errorf("configuration = %v", conf)
		}
		for name, link := range links {
			host := "https://api.rollcall.invalid/" // for the SDK to send back
			if strings.HasPrefix(name, "media_") {
				host = "http://rollcall.test/" // it asks there itself
			}
			if s, _ := link.(string); !strings.HasPrefix(s, host) {
				t.Errorf("link %s = %v; want one to %s", name, link, host)
			}
		}
		path := func(link any) string { return strings.TrimPrefix(link.(string), "https://api.rollcall.invalid") }

		mine := c.ask("GET", "/v3/Maps/"+objects["my_conversations"].(string), "", "")
		info := c.ask("GET", "/v3/Maps/"+objects["my_user_info"].(string), `{"Include":"items"}`, "")
		conversations := c.reply(mine).Payload
		me := c.reply(info).Payload
		if conversations["sid"] != objects["my_conversations"] || conversations["last_event_id"] != 1. || conversations["items"] != nil {
			t.Errorf("map of conversations = %v", conversations)
		}
		rev := float64(n.store.revision(user("ålice/😀")))
		items, _ := me["items"].([]any)
		if me["sid"] != objects["my_user_info"] || me["last_event_id"] != rev || len(items) != 3 {
			t.Fatalf("map of the user = %v; want three items and the user's revision", me)
		}
		want := map[string]any{
			"friendlyName": map[string]any{"value": nil}, "attributes": map[string]any{"value": "{}"},
			"reachability": map[string]any{"online": true, "notifiable": nil},
		}
		for _, i := range items {
			i, _ := i.(map[string]any)
			if diff := cmp.Diff(want[i["key"].(string)], i["data"]); diff != "" || i["last_event_id"] != rev {
				t.Errorf("item %v (-want +got):\n%s", i, diff)
			}
		}
		itemsPath := strings.TrimPrefix(me["links"].(map[string]any)["items"].(string), "https://sync.rollcall.invalid")
		if got := c.must(200, "GET", itemsPath, `{"Key":"reachability"}`, "")["items"].([]any); len(got) != 1 || got[0].(map[string]any)["key"] != "reachability" {
			t.Errorf("items with a key = %v; want that one", got)
		}
		if got := c.must(200, "GET", itemsPath, `{"Key":"nothing"}`, "")["items"].([]any); len(got) != 0 {
			t.Errorf("items with another key = %v; want none", got)
		}
		if got := c.must(200, "GET", itemsPath, `{"PageSize":"50","Order":"asc"}`, "")["items"].([]any); len(got) != 3 {
			t.Errorf("items = %v; want all", got)
		}
		if got := c.must(200, "GET", path(links["my_conversations"]), "", ""); len(got["conversations"].([]any)) != 0 || got["meta"] == nil {
			t.Errorf("conversations = %v; want none", got)
		}
		c.subscribe("establish", object(conversations["sid"].(string), "1"), object(me["sid"].(string), fmt.Sprint(rev)))
		if diff := cmp.Diff([]string{"ålice/😀 1", fmt.Sprint("ålice/😀 ", rev)}, c.told("subscription_established")); diff != "" {
			t.Errorf("established (-want +got):\n%s", diff)
		}
		if u := c.must(200, "GET", path(links["current_user"]), "", ""); u["identity"] != "ålice/😀" || u["is_online"] != true ||
			u["sync_objects"].(map[string]any)["user_info_map"] != objects["my_user_info"] {
			t.Errorf("own user = %v", u)
		}
		for _, link := range []string{"typing", "messages_receipts", "conversations"} {
			c.refused(501, gateway.ErrorUnsupported, "POST", path(links[link]), "{}")
		}
		c.refused(404, gateway.ErrorUnsupported, "GET", path(links["conversations"])+"/CH1", "")
		c.frame(`{"id":"TM-t","method":"telemetry.v1","events":[]}`, "") // is not answered
		for _, method := range []string{"put_notification_ctx", "delete_notification_ctx"} {
			c.frame(`{"id":"TM-ctx","method":"`+method+`","notification_ctx_id":"x"}`, "")
			if got := c.reply("TM-ctx").Status("status"); got != 200 {
				t.Errorf("%s was answered with %d", method, got)
			}
		}
		c.frame(`{"id":"TM-u","method":"unheard.of"}`, "")
		if got := c.reply("TM-u").Status("status"); got != 400 {
			t.Errorf("an unknown method was answered with %d; want 400", got)
		}
		for name, want := range map[string]float64{
			"hello": 1, "configuration": 1, "map": 2, "map_items": 3, "conversations": 1, "subscribe": 1, "user": 1, "unsupported": 4,
			"telemetry": 1, "notification_context": 2, "unknown": 1, "reply": 1,
		} {
			if got := n.value("rollcall_requests_total", name); got != want {
				t.Errorf("%v requests %s were counted; want %v", got, name, want)
			}
		}
		begin := time.Now()
		c.frame(`{"id":"TM-bye","method":"close"}`, "")
		c.closes(gateway.CloseBye, 0)
		n.wantEnds(end{user("ålice/😀"), presence.EndClean, time.Time{}})
		if time.Since(begin) != 0 {
			t.Errorf("it took %v; want no time", time.Since(begin))
		}
	})
}

// TestSDKContinuation: a client that comes back names itself, and nobody minds how.
func TestSDKContinuation(t *testing.T) {
	bubble(t, nil, func(t *testing.T, n *node) {
		for _, given := range []string{`"CT1` + strings.Repeat("0", presence.SessionIDLen) + `"`, `"what"`, `null`, `""`} {
			c := n.dialSDK()
			c.read()
			c.frame(`{"id":"TM-init","method":"init","token":"`+mint(t, service, "alice", time.Hour)+`","continuation_token":`+given+`}`, "")
			f := c.reply("TM-init")
			if kept := fmt.Sprintf("%q", f.Header["continuation_token"]) == given; kept != strings.HasPrefix(given, `"CT1`) {
				t.Errorf("given %s it has %v", given, f.Header["continuation_token"])
			}
		}
	})
}

// TestSDKRefused: who is not let in gets the reason in the answer to init, and then the
// close code that the other protocol gets.
func TestSDKRefused(t *testing.T) {
	broken := func(n *node) { n.store.mu.Lock(); n.store.broken = true; n.store.mu.Unlock() }
	away := func(n *node) { n.store.setAway(true) }
	for name, tt := range map[string]struct {
		service, identity string
		token             string
		ttl               time.Duration
		tune              func(*gateway.Options)
		before            func(*node)
		status            int
		code              gateway.ErrorCode
		close             gateway.CloseCode
	}{
		"garbage":         {token: "garbage", status: 401, code: gateway.ErrorTokenInvalid, close: gateway.CloseBadToken},
		"expired":         {ttl: time.Second, status: 401, code: gateway.ErrorTokenExpired, close: gateway.CloseBadToken},
		"no service":      {service: "IS" + strings.Repeat("9", 32), status: 403, code: gateway.ErrorNoService, close: gateway.CloseBadToken},
		"long identity":   {identity: "charlie", tune: func(o *gateway.Options) { o.Limits.Identity = 5 }, status: 403, code: gateway.ErrorIdentityTooLong, close: gateway.CloseBadRequest},
		"too many":        {tune: func(o *gateway.Options) { o.Limits.SessionsPerUser = 1 }, before: func(n *node) { n.arrive("alice") }, status: 429, code: gateway.ErrorTooManySessions, close: gateway.CloseTooMany},
		"store broken":    {before: broken, status: 500, code: gateway.ErrorInternal, close: gateway.CloseInternal},
		"store away":      {before: away, status: 503, code: gateway.ErrorUnavailable, close: gateway.CloseUnavailable},
		"does not wait":   {tune: func(o *gateway.Options) { o.Timers.Wait = -1 }, before: away, status: 503, code: gateway.ErrorUnavailable, close: gateway.CloseUnavailable},
		"too many waits":  {tune: func(o *gateway.Options) { o.Limits.Waiting = 1 }, before: func(n *node) { away(n); n.hello("bob") }, status: 503, code: gateway.ErrorTooManyWaiting, close: gateway.CloseUnavailable},
		"token elsewhere": {token: "a.b.c", status: 401, code: gateway.ErrorTokenInvalid, close: gateway.CloseBadToken},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, tt.tune, func(t *testing.T, n *node) {
				if tt.before != nil {
					tt.before(n)
					synctest.Wait()
				}
				if tt.service == "" {
					tt.service = service
				}
				if tt.identity == "" {
					tt.identity = "alice"
				}
				if tt.ttl == 0 {
					tt.ttl = time.Hour
				}
				if tt.token == "" {
					tt.token = mint(t, tt.service, tt.identity, tt.ttl)
				}
				time.Sleep(2 * time.Second)
				before := len(n.store.live)
				c := n.dialSDK()
				c.read()
				c.init(tt.token)
				f := c.reply("TM-init")
				st, _ := f.Header["status"].(map[string]any)
				if f.Status("status") != tt.status || st["errorCode"] != float64(tt.code) || st["description"] != tt.code.Text() || st["status"] != http.StatusText(tt.status) {
					t.Errorf("init was answered with %v; want %d, error %d", f.Header, tt.status, tt.code)
				}
				if back := strings.Contains(f.Text, `"reconnect_min_ms":30000`); back != (tt.status == 429) {
					t.Errorf("payload of the refusal = %s", f.Text)
				}
				c.closes(tt.close, 0)
				synctest.Wait()
				if len(n.store.live) != before {
					t.Error("the session is registered")
				}
			})
		})
	}
}

// TestSDKViolations: who breaks the framing or its order is closed without a word, by
// which the SDK tries again in a second, and then ever later.
func TestSDKViolations(t *testing.T) {
	binary := func(s string) func(*node, *sdk) {
		return func(n *node, c *sdk) { _ = c.conn.Write(n.t.Context(), websocket.MessageBinary, []byte(s)) }
	}
	deep := strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000)
	for name, tt := range map[string]struct {
		fresh bool // before init
		do    func(*node, *sdk)
		code  gateway.CloseCode
		count string
	}{
		"no init":            {true, func(*node, *sdk) {}, gateway.CloseNoHello, ""},
		"not init":           {true, binary(testkit.TwilsockText(`{"id":"1","method":"message"}`, "")), gateway.CloseBadRequest, "unknown"},
		"close before init":  {true, binary(testkit.TwilsockText(`{"id":"1","method":"close"}`, "")), gateway.CloseBadRequest, "unknown"},
		"reply before init":  {true, binary(testkit.TwilsockText(`{"id":"1","method":"reply"}`, "")), gateway.CloseBadRequest, "unknown"},
		"garbage at first":   {true, binary("GET / HTTP/1.1\r\n\r\n"), gateway.CloseBadRequest, "malformed"},
		"native at first":    {true, func(_ *node, c *sdk) { c.send(`{"type":"hello"}`) }, gateway.CloseBadRequest, "malformed"},
		"init in a text":     {true, func(_ *node, c *sdk) { c.send(testkit.TwilsockText(`{"id":"1","method":"init"}`, "")) }, gateway.CloseBadRequest, "malformed"},
		"text":               {false, func(_ *node, c *sdk) { c.send(testkit.TwilsockText(`{"id":"1","method":"close"}`, "")) }, gateway.CloseBadRequest, "malformed"},
		"text of no UTF-8":   {false, func(_ *node, c *sdk) { c.send("\xff") }, gateway.CloseBadRequest, "malformed"},
		"second init":        {false, binary(testkit.TwilsockText(`{"id":"1","method":"init","token":"x"}`, "")), gateway.CloseBadRequest, "hello"},
		"garbage":            {false, binary("\x00\xff"), gateway.CloseBadRequest, "malformed"},
		"empty":              {false, binary(""), gateway.CloseBadRequest, "malformed"},
		"lying length":       {false, binary("TWILSOCK V3.0 5\r\n{\"id\":\"1\"}\r\n"), gateway.CloseBadRequest, "malformed"},
		"lying payload":      {false, binary("TWILSOCK V3.0 27\r\n{\"id\":\"1\",\"payload_size\":3}\r\nab"), gateway.CloseBadRequest, "malformed"},
		"deep header":        {false, binary(testkit.TwilsockText(`{"id":"1","x":`+deep+`}`, "")), gateway.CloseBadRequest, "malformed"},
		"header of no UTF-8": {false, binary(testkit.TwilsockText("{\"id\":\"\xff\"}", "")), gateway.CloseBadRequest, "malformed"},
		"too big":            {false, binary(strings.Repeat("x", 64<<10+1)), gateway.CloseTooBig, ""},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, nil, func(t *testing.T, n *node) {
				var c *sdk
				if tt.fresh {
					c = n.dialSDK()
					c.read()
				} else {
					c = n.arrive("alice")
				}
				before := 0.
				if tt.count != "" {
					before = n.value("rollcall_requests_total", tt.count)
				}
				begin := time.Now()
				tt.do(n, c)
				c.closes(tt.code, 0)
				if took := time.Since(begin); tt.code == gateway.CloseNoHello && (took < 10*time.Second || took > 11*time.Second) {
					t.Errorf("closed after %v; want 10 s", took)
				}
				if tt.count != "" && n.value("rollcall_requests_total", tt.count) != before+1 {
					t.Errorf("it was not counted as %s", tt.count)
				}
				if !tt.fresh {
					n.wantEnds(end{user("alice"), presence.EndLost, time.Time{}})
				}
			})
		})
	}
}

// TestSDKSubprotocol: the SDK offers none.
func TestSDKSubprotocol(t *testing.T) {
	bubble(t, nil, func(t *testing.T, n *node) {
		if _, resp, err := n.tryDialAt("/v3/wsconnect", nil, "rollcall.v1.json"); err == nil || resp.StatusCode != 400 {
			t.Errorf("with a subprotocol: %v, %v; want 400", resp, err)
		}
	})
}

func TestSDKToken(t *testing.T) {
	bubble(t, nil, func(t *testing.T, n *node) {
		c := n.dialSDK()
		c.read()
		c.init(mint(t, service, "alice", 5*time.Minute))
		c.reply("TM-init")
		begin := time.Now()
		f := c.take()
		if f.Header["method"] != "client_update" || f.Header["client_update_type"] != "token_about_to_expire" || f.Header["id"] == "" {
			t.Fatalf("got %v; want a warning", f.Header)
		}
		if at := time.Since(begin); at < 4*time.Minute+29*time.Second || at > 4*time.Minute+31*time.Second {
			t.Errorf("warned after %v; want 30 s before 5 min", at)
		}
		for i, tt := range []struct {
			token  string
			status int
			code   gateway.ErrorCode
		}{
			{mint(t, service, "bob", time.Hour), 403, gateway.ErrorTokenIdentity},
			{mint(t, otherService, "alice", time.Hour), 403, gateway.ErrorTokenService},
			{"x", 401, gateway.ErrorTokenInvalid},
			{"", 401, gateway.ErrorTokenInvalid},
		} {
			id := fmt.Sprint("TM-u", i)
			c.frame(`{"id":"`+id+`","method":"update","token":"`+tt.token+`"}`, "")
			f := c.reply(id)
			if st, _ := f.Header["status"].(map[string]any); f.Status("status") != tt.status || st["errorCode"] != float64(tt.code) {
				t.Errorf("update %d was answered with %v; want %d, %d", i, f.Header, tt.status, tt.code)
			}
		}
		c.frame(`{"id":"TM-ok","method":"update","token":"`+mint(t, service, "alice", 10*time.Minute)+`"}`, "")
		if f := c.reply("TM-ok"); f.Status("status") != 200 || f.Text != "" {
			t.Errorf("update was answered with %v", f)
		}
		begin = time.Now()
		if f := c.take(); f.Header["method"] != "client_update" {
			t.Errorf("got %v; want a warning", f.Header)
		}
		if hint := c.closes(gateway.CloseTokenExpired, 0); hint != 0 {
			t.Errorf("the close has a hint of %v ms", hint)
		}
		if at := time.Since(begin); at < 9*time.Minute+59*time.Second || at > 10*time.Minute+time.Second {
			t.Errorf("closed after %v; want 10 minutes", at)
		}
		n.wantEnds(end{user("alice"), presence.EndExpired, time.Time{}})
	})
}

// TestSDKDrain: each session is sent away with a hint of its own when to come back,
// and handed over.
func TestSDKDrain(t *testing.T) {
	bubble(t, nil, func(t *testing.T, n *node) {
		const sessions = 20
		var peers []*sdk
		for i := range sessions {
			peers = append(peers, n.arrive(fmt.Sprint("user-", i)))
		}
		done := make(chan struct{})
		go func() { n.Shutdown(t.Context()); close(done) }()
		hints := map[float64]bool{}
		for _, c := range peers {
			hint := c.closes(gateway.CloseRestart, 308)
			if hint < 200 || hint > 2000 {
				t.Errorf("reconnect_min_ms = %v; want 200 to 2000", hint)
			}
			if reason := c.wantClose(gateway.CloseRestart); reason != fmt.Sprintf(`{"retry_after_ms":%.0f}`, hint) {
				t.Errorf("the close frame's reason is %s; the frame before it says %v", reason, hint)
			}
			hints[hint] = true
		}
		<-done
		if len(hints) < sessions/2 {
			t.Errorf("%d different hints for %d sessions; want them spread", len(hints), sessions)
		}
		for _, e := range n.store.ended() {
			if e.How != presence.EndDrain {
				t.Errorf("end of %v = %v; want EndDrain", e.Key, e.How)
			}
			if n.store.users[e.Key].Online != presence.True {
				t.Errorf("%v was seen to leave", e.Key)
			}
		}
		if got := len(n.store.ended()); got != sessions {
			t.Errorf("%d ends; want %d", got, sessions)
		}
	})
}

// TestDroppedMidHandshake: a connection whose handshake is under way when the node
// drains or stops has no socket yet that could be closed.
func TestDroppedMidHandshake(t *testing.T) {
	for name, stop := range map[string]func(*node){
		"drain": func(n *node) { n.Shutdown(context.Background()) },
		"stop":  func(n *node) { n.stop() },
		"drain that is cut short": func(n *node) {
			ctx, cancel := context.WithCancel(context.Background())
			time.AfterFunc(time.Second, cancel)
			n.Shutdown(ctx)
		},
	} {
		for _, path := range []string{"/v1/connect", "/v3/wsconnect"} {
			for _, reads := range []bool{true, false} {
				t.Run(fmt.Sprint(name, path, " reads ", reads), func(t *testing.T) {
					bubble(t, nil, func(t *testing.T, n *node) {
						c, err := n.public.dial(t.Context())
						if err != nil {
							t.Fatal(err)
						}
						if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: rollcall.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
							"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", path); err != nil {
							t.Fatal(err)
						}
						synctest.Wait() // the node writes its answer, and nobody reads
						if got := n.Sessions(); got != 1 {
							t.Fatalf("%d sessions; want the one whose handshake is under way", got)
						}
						n.Recheck()
						done := make(chan struct{})
						go func() { stop(n); close(done) }()
						time.Sleep(100 * time.Millisecond)
						begin := time.Now()
						if reads {
							b := make([]byte, 4096)
							for err == nil {
								_, err = c.Read(b)
							}
						} else {
							_ = c.Close()
						}
						<-done
						if took := time.Since(begin); took > 2*time.Second {
							t.Errorf("it took %v; want it closed at once, and not for saying nothing", took)
						}
						n.stop()
						if got := n.Sessions(); got != 0 {
							t.Errorf("%d sessions are left", got)
						}
					})
				})
			}
		}
	}
}

// TestSDKEnds: how a session ends is what presence is told, and what the SDK makes of it.
func TestSDKEnds(t *testing.T) {
	keys := &turnable{keys: auth.StaticKeys{key.SID: key}}
	tests := map[string]struct {
		do  func(*node, *sdk)
		how presence.End
	}{
		"close frame": {func(_ *node, c *sdk) { c.frame(`{"id":"1","method":"close"}`, ""); c.closes(gateway.CloseBye, 0) }, presence.EndClean},
		"revoked": {func(n *node, c *sdk) {
			keys.turn(func() { keys.revoked = func(auth.Claims) bool { return true } })
			n.Recheck()
			c.wantsToken(gateway.CloseBadToken)
		}, presence.EndOperator},
		// The SDK signs off when its token is refused, which is not its user's wish.
		"close frame after a refused token": {func(_ *node, c *sdk) {
			c.frame(`{"id":"TM-u","method":"update","token":"x"}`, "")
			c.reply("TM-u")
			c.frame(`{"id":"1","method":"close"}`, "")
			c.closes(gateway.CloseBye, 0)
		}, presence.EndLost},
		"close frame after a refused token and a good one": {func(_ *node, c *sdk) {
			for _, token := range []string{"x", mint(c.t, service, "alice", 2*time.Hour)} {
				c.frame(`{"id":"TM-u","method":"update","token":"`+token+`"}`, "")
				c.reply("TM-u")
			}
			c.frame(`{"id":"1","method":"close"}`, "")
			c.closes(gateway.CloseBye, 0)
		}, presence.EndClean},
		"operator":    {func(n *node, c *sdk) { n.end("alice"); c.closes(gateway.CloseEnded, 401) }, presence.EndOperator},
		"close 1000":  {func(_ *node, c *sdk) { _ = c.conn.Close(1000, "") }, presence.EndClean},
		"close 1001":  {func(_ *node, c *sdk) { _ = c.conn.Close(1001, "") }, presence.EndReload},
		"socket lost": {func(_ *node, c *sdk) { _ = c.raw.Close() }, presence.EndLost},
		"node stops":  {func(n *node, c *sdk) { n.stop(); c.closes(gateway.CloseGoingAway, 308) }, presence.EndDrain},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			keys.turn(func() { keys.revoked = nil })
			bubble(t, func(o *gateway.Options) { o.Tokens = auth.NewVerifier(keys) }, func(_ *testing.T, n *node) {
				tt.do(n, n.arrive("alice"))
				n.wantEnds(end{user("alice"), tt.how, time.Time{}})
			})
		})
	}
}

// TestSDKCloseIsRecordedAtOnce: not even the answer to the server's close frame is
// waited for, which an SDK that is shut down never gives.
func TestSDKCloseIsRecordedAtOnce(t *testing.T) {
	bubble(t, nil, func(t *testing.T, n *node) {
		c := n.dialSDK() // reads nothing
		c.init(mint(t, service, "alice", time.Hour))
		c.frame(`{"id":"1","method":"close"}`, "")
		begin := time.Now()
		n.wantEnds(end{user("alice"), presence.EndClean, time.Time{}})
		if time.Since(begin) != 0 {
			t.Errorf("it took %v; want no time", time.Since(begin))
		}
	})
}

// TestSDKPing: the SDK never finds out itself that a connection is dead.
func TestSDKPing(t *testing.T) {
	bubble(t, nil, func(t *testing.T, n *node) {
		c := n.arrive("alice") // its reader answers pings
		dead := n.dialSDK()
		dead.init(mint(t, service, "bob", time.Hour))
		for range 2 { // the answer and a ping
			if _, err := readFrame(dead.raw); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(9 * time.Second)
		n.wantEnds(end{user("bob"), presence.EndSilent, time.Time{}})
		time.Sleep(30 * time.Minute)
		c.alive()
		if got := n.value("rollcall_closes_total", "server", "3004"); got != 1 {
			t.Errorf("closes with 3004 = %v; want 1", got)
		}
	})
}
