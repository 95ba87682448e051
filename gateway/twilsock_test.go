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
			c.wantsToken(gateway.CloseBadToken)
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

// TestSDKReplay: a subscription begins with what the client has not seen, and no more.
func TestSDKReplay(t *testing.T) {
	for name, tt := range map[string]struct {
		last func(rev int64) string
		want func(rev int64) (ids, last int64) // ids 0: nothing is replayed
	}{
		"equal":   {func(rev int64) string { return fmt.Sprint(rev) }, func(rev int64) (int64, int64) { return 0, rev }},
		"lower":   {func(rev int64) string { return fmt.Sprint(rev - 1) }, func(rev int64) (int64, int64) { return rev, rev }},
		"zero":    {func(int64) string { return "0" }, func(rev int64) (int64, int64) { return rev, rev }},
		"null":    {func(int64) string { return "null" }, func(rev int64) (int64, int64) { return rev, rev }},
		"absent":  {func(int64) string { return "" }, func(rev int64) (int64, int64) { return rev, rev }},
		"higher":  {func(rev int64) string { return fmt.Sprint(rev + 1000) }, func(rev int64) (int64, int64) { return rev + 1001, rev + 1001 }},
		"beyond":  {func(int64) string { return "9007199254740991" }, func(rev int64) (int64, int64) { return rev, rev }},
		"below 0": {func(int64) string { return "-5" }, func(rev int64) (int64, int64) { return rev, rev }},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, nil, func(t *testing.T, n *node) {
				n.store.set(user("bob"), presence.True)
				n.store.set(user("bob"), presence.False)
				rev := n.store.revision(user("bob"))
				c := n.arrive("alice")
				c.subscribe("establish", object(testkit.UserMap("bob"), tt.last(rev)))
				id, last := tt.want(rev)
				if id != 0 {
					want := []string{
						fmt.Sprintf(`%d bob friendlyName {"value":null}`, id), fmt.Sprintf(`%d bob attributes {"value":"{}"}`, id),
						fmt.Sprintf(`%d bob reachability {"notifiable":null,"online":false}`, id),
					}
					if diff := cmp.Diff(want, c.items()); diff != "" {
						t.Errorf("replayed (-want +got):\n%s", diff)
					}
				}
				if diff := cmp.Diff([]string{fmt.Sprint("bob ", last)}, c.told("subscription_established")); diff != "" {
					t.Errorf("established (-want +got):\n%s", diff)
				}
				n.store.set(user("bob"), presence.True)
				next := max(last+1, n.store.revision(user("bob")))
				if diff := cmp.Diff([]string{fmt.Sprintf(`%d bob reachability {"notifiable":null,"online":true}`, next)}, c.items()); diff != "" {
					t.Errorf("the next event (-want +got):\n%s", diff)
				}
				c.none()
			})
		})
	}
}

// TestSDKBegunWhileOff: an SDK that was told at its start that reachability is off does not
// look at it when it reads a user later, so it is sent it as an event, on its later
// connections too.
func TestSDKBegunWhileOff(t *testing.T) {
	bubble(t, nil, func(t *testing.T, n *node) {
		n.store.flip(n.hub, service, false)
		c := n.dialSDK()
		c.read()
		c.init(mint(t, service, "alice", time.Hour))
		token, _ := c.reply("TM-init").Header["continuation_token"].(string)
		if conf := c.must(200, "GET", "/Client/v2/Configuration", "", ""); conf["options"].(map[string]any)["reachability_enabled"] != false {
			t.Fatalf("configuration = %v; want it off", conf)
		}
		n.store.flip(n.hub, service, true)
		n.store.set(user("bob"), presence.True)
		rev := fmt.Sprint(n.store.revision(user("bob")))
		follow := func(when string) {
			t.Helper()
			c.subscribe("establish", object(testkit.UserMap("bob"), rev))
			if got := c.items(); len(got) != 3 || !strings.HasSuffix(got[2], ` bob reachability {"notifiable":null,"online":true}`) {
				t.Errorf("%s it is told %v; want bob online", when, got)
			}
			c.told("subscription_established")
		}
		follow("when it has read bob")

		c = n.dialSDK()
		c.read()
		c.frame(`{"id":"TM-init","method":"init","token":"`+mint(t, service, "alice", time.Hour)+`","continuation_token":"`+token+`"}`, "")
		c.reply("TM-init")
		follow("on another connection")

		c = n.arrive("carol") // it began with reachability on
		c.must(200, "GET", "/Client/v2/Configuration", "", "")
		c.subscribe("establish", object(testkit.UserMap("bob"), rev))
		c.told("subscription_established")
	})
}

// TestSDKAgain: to establish what is established does no harm, in one request or two.
func TestSDKAgain(t *testing.T) {
	bubble(t, nil, func(t *testing.T, n *node) {
		n.store.set(user("bob"), presence.False)
		c := n.arrive("alice")
		for range 3 {
			last := fmt.Sprint(n.store.revision(user("bob")))
			c.subscribe("establish", object(testkit.UserMap("bob"), last), object(testkit.UserMap("bob"), last))
			if diff := cmp.Diff([]string{"bob " + last, "bob " + last}, c.told("subscription_established")); diff != "" {
				t.Errorf("established (-want +got):\n%s", diff)
			}
			n.store.set(user("bob"), presence.True)
			c.items()
			n.store.set(user("bob"), presence.False)
			c.items()
			c.none()
		}
		if got := n.hub.Stats().Subscriptions; got != 1 {
			t.Errorf("%d subscriptions; want 1", got)
		}
	})
}

func TestSDKCancel(t *testing.T) {
	bubble(t, nil, func(t *testing.T, n *node) {
		n.store.set(user("bob"), presence.False)
		n.store.set(user("cyd"), presence.False)
		c := n.arrive("alice")
		c.subscribe("establish", object(testkit.UserMap("bob"), "5000"), object(testkit.UserMap("cyd"), "null"))
		c.items()
		c.told("subscription_established")
		c.subscribe("cancel", object(testkit.UserMap("bob"), ""), object(testkit.UserMap("never"), ""), object("MPnonsense", ""), object("MPcYWxpY2U", ""))
		if got := c.told("subscription_canceled"); len(got) != 4 || got[0] != "bob" {
			t.Errorf("cancelled %v; want all that was asked for", got)
		}
		n.store.set(user("bob"), presence.True)
		n.store.set(user("cyd"), presence.True)
		if got := c.items(); len(got) != 1 || !strings.Contains(got[0], "cyd") {
			t.Errorf("got %v; want cyd's event alone", got)
		}
		// What it once claimed to know of bob is forgotten.
		c.subscribe("establish", object(testkit.UserMap("bob"), "null"))
		rev := n.store.revision(user("bob"))
		if got := c.items(); !strings.HasPrefix(got[0], fmt.Sprint(rev, " bob")) {
			t.Errorf("replayed %v; want revision %d", got, rev)
		}
	})
}

// TestSDKSwitch: the switch is not told as such, but by what it does to each user.
func TestSDKSwitch(t *testing.T) {
	bubble(t, nil, func(t *testing.T, n *node) {
		ctx, cancel := context.WithCancel(t.Context())
		served := make(chan struct{})
		go func() { _ = n.hub.Serve(ctx); close(served) }() // reads users again when the switch is on
		defer func() { cancel(); <-served }()
		n.store.set(user("bob"), presence.True)
		c := n.arrive("alice")
		c.follow(n, "bob")
		last := n.store.revision(user("bob"))
		for i, want := range []string{
			` bob reachability {"notifiable":null,"online":null}`, ` bob reachability {"notifiable":null,"online":true}`,
			` bob reachability {"notifiable":null,"online":null}`,
		} {
			n.store.flip(n.hub, service, i%2 == 1)
			got := c.items()
			var id int64
			if _, err := fmt.Sscan(got[0], &id); err != nil || len(got) != 1 || !strings.HasSuffix(got[0], want) || id <= last {
				t.Errorf("flip %d: %v after id %d; want%s", i, got, last, want)
			}
			last = id
		}
		c.none()
		if conf := c.must(200, "GET", "/Client/v2/Configuration", "", ""); conf["options"].(map[string]any)["reachability_enabled"] != false {
			t.Errorf("configuration = %v", conf)
		}
	})
}

// TestSDKAnotherUser: a user that is deleted and made again has nothing of the first.
func TestSDKAnotherUser(t *testing.T) {
	bubble(t, nil, func(t *testing.T, n *node) {
		n.store.set(user("bob"), presence.True)
		name := "Bob"
		if _, err := n.store.UpdateUser(t.Context(), user("bob"), presence.UserUpdate{FriendlyName: &name}); err != nil {
			t.Fatal(err)
		}
		c := n.arrive("alice")
		c.follow(n, "bob")
		n.store.remove(user("bob"))
		kinds := func(events []string) (list []string) {
			for _, e := range events {
				_, rest, _ := strings.Cut(e, " bob ")
				list = append(list, rest)
			}
			return list
		}
		gone := []string{`friendlyName {"value":null}`, `attributes {"value":"{}"}`, `reachability {"notifiable":null,"online":null}`}
		if diff := cmp.Diff(gone, kinds(c.items())); diff != "" {
			t.Errorf("deleted (-want +got):\n%s", diff)
		}
		c.refused(404, gateway.ErrorNoUser, "GET", usersPath("bob"), "")
		c.refused(404, gateway.ErrorNoMap, "GET", "/v3/Maps/"+testkit.UserMap("bob"), "")
		n.store.set(user("bob"), presence.True)
		gone[2] = `reachability {"notifiable":null,"online":true}`
		if diff := cmp.Diff(gone, kinds(c.items())); diff != "" {
			t.Errorf("made again (-want +got):\n%s", diff)
		}
	})
}

func TestSDKProfile(t *testing.T) {
	allow := true
	var asked []presence.UserUpdate
	tune := func(o *gateway.Options) {
		o.Limits.Attributes = 20
		o.BeforeUserUpdate = func(_ context.Context, s presence.Service, u presence.User, update presence.UserUpdate) error {
			if s.SID != service || u.Identity != "alice" || u.SID == "" || update.Tell != presence.OriginSDK {
				t.Errorf("asked about %v of %v: %+v", u, s, update)
			}
			asked = append(asked, update)
			if !allow {
				return presence.ErrRejected
			}
			return nil
		}
	}
	bubble(t, tune, func(t *testing.T, n *node) {
		c := n.arrive("alice")
		n.store.set(user("bob"), presence.True)
		c.follow(n, "alice")
		if u := c.must(200, "POST", usersPath("alice"), "", `{"friendly_name":"Al \ud83d\ude00"}`); u["friendly_name"] != "Al 😀" {
			t.Errorf("updated: %v", u)
		}
		if got := c.items(); len(got) != 1 || !strings.HasSuffix(got[0], ` alice friendlyName {"value":"Al 😀"}`) {
			t.Errorf("it was told %v", got)
		}
		c.must(200, "POST", usersPath("alice"), "", `{"attributes":"{\"a\":1}"}`)
		if got := c.items(); len(got) != 1 || !strings.HasSuffix(got[0], ` alice attributes {"value":"{\"a\":1}"}`) {
			t.Errorf("it was told %v", got)
		}
		if len(asked) != 2 {
			t.Errorf("the backend was asked %d times; want 2", len(asked))
		}
		for _, body := range []string{`{}`, `{"other":1}`, `null`} { // changes nothing, and asks nobody
			c.must(200, "POST", usersPath("alice"), "", body)
		}
		long := strings.Repeat("é", presence.MaxFriendlyName)
		c.must(200, "POST", usersPath("alice"), "", `{"friendly_name":"`+long+`"}`)
		c.items()
		for _, tt := range []struct {
			body string
			code gateway.ErrorCode
		}{
			{`{"friendly_name":"` + long + `x"}`, gateway.ErrorFriendlyName},
			{`{"attributes":"{"}`, gateway.ErrorAttributes},
			{`{"attributes":""}`, gateway.ErrorAttributes},
			{`{"attributes":"\"` + strings.Repeat("x", 19) + `\""}`, gateway.ErrorAttributesTooLong},
			{`{"attributes":{}}`, gateway.ErrorBadField},
			{`{"friendly_name":7}`, gateway.ErrorBadField},
			{`{"friendly_name":"\ud800"}`, gateway.ErrorBadField},
			{"{\"friendly_name\":\"\xff\"}", gateway.ErrorBadField},
			{`[]`, gateway.ErrorBadField},
			{``, gateway.ErrorBadField},
		} {
			c.refused(400, tt.code, "POST", usersPath("alice"), tt.body)
		}
		c.refused(403, gateway.ErrorNotOwn, "POST", usersPath("bob"), `{"friendly_name":"x"}`)
		c.refused(403, gateway.ErrorNotOwn, "POST", usersPath("nobody"), `{"friendly_name":"x"}`)
		c.refused(403, gateway.ErrorNotOwn, "GET", usersPath("bob")+"/Conversations", "")
		told := len(n.store.told)
		allow = false
		c.refused(403, gateway.ErrorHookRejected, "POST", usersPath("alice"), `{"friendly_name":"x"}`)
		if len(n.store.told) != told || told != 3 {
			t.Errorf("%d changes were made; want 3", len(n.store.told))
		}
		for _, o := range n.store.told {
			if o != presence.OriginSDK {
				t.Errorf("a change was told as of %q", o)
			}
		}
		c.none()
	})
}

// TestSDKWrongRequests: a request that is merely wrong gets an answer, and the session
// lives on.
func TestSDKWrongRequests(t *testing.T) {
	long := strings.Repeat("x", presence.MaxIdentity+1)
	deep := strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000)
	bubble(t, func(o *gateway.Options) { o.Limits.RequestBurst = 1000 }, func(t *testing.T, n *node) {
		c := n.arrive("alice")
		for _, tt := range []struct {
			method, path, body string
			status             int
			code               gateway.ErrorCode
		}{
			{"GET", "/nothing", "", 404, gateway.ErrorUnsupported},
			{"POST", "/nothing", "", 501, gateway.ErrorUnsupported},
			{"GET", "", "", 404, gateway.ErrorUnsupported},
			{"GET", "/Client/v2/Services/" + otherService + "/Users/alice", "", 404, gateway.ErrorUnsupported},
			{"POST", "/Client/v2/Services/" + otherService + "/Users/alice", `{"friendly_name":"x"}`, 501, gateway.ErrorUnsupported},
			{"GET", usersPath(""), "", 400, gateway.ErrorIdentityEmpty},
			{"GET", usersPath(long), "", 400, gateway.ErrorIdentityTooLong},
			{"GET", usersPath("%ff"), "", 404, gateway.ErrorUnsupported},
			{"GET", usersPath("nobody"), "", 404, gateway.ErrorNoUser},
			{"GET", "/v3/Maps/", "", 404, gateway.ErrorNoMap},
			{"GET", "/v3/Maps/nonsense", "", 404, gateway.ErrorNoMap},
			{"GET", "/v3/Maps/MP00000000000000000000000000000000", "", 404, gateway.ErrorNoMap},
			{"GET", "/v3/Maps/" + testkit.UserMap("nobody"), "", 404, gateway.ErrorNoMap},
			{"GET", "/v3/Maps/" + testkit.UserMap("\xff"), "", 404, gateway.ErrorNoMap},
			{"GET", "/v3/Maps/MPcYm9i", "", 404, gateway.ErrorNoMap}, // bob's conversations
			{"GET", "/v3/Maps/MPcYm9i/Items", "", 404, gateway.ErrorNoMap},
			{"GET", "/v3/Documents/" + testkit.UserMap("alice"), "", 404, gateway.ErrorUnsupported},
			{"POST", "/v4/Subscriptions", "", 400, gateway.ErrorBadField},
			{"POST", "/v4/Subscriptions", "{}", 400, gateway.ErrorBadField},
			{"POST", "/v4/Subscriptions", "null", 400, gateway.ErrorBadField},
			{"POST", "/v4/Subscriptions", deep, 400, gateway.ErrorBadField},
			{"POST", "/v4/Subscriptions", `{"action":"establish","requests":[]}`, 400, gateway.ErrorBadField},
			{"POST", "/v4/Subscriptions", `{"action":"establish","correlation_id":"1","requests":[]}`, 400, gateway.ErrorBadField},
			{"POST", "/v4/Subscriptions", `{"action":"establish","correlation_id":{},"requests":[]}`, 400, gateway.ErrorBadField},
			{"POST", "/v4/Subscriptions", `{"action":"establish","correlation_id":null,"requests":[]}`, 400, gateway.ErrorBadField},
			{"POST", "/v4/Subscriptions", `{"action":"establish","correlation_id":` + strings.Repeat("1", 33) + `,"requests":[]}`, 400, gateway.ErrorBadField},
			{"POST", "/v4/Subscriptions", `{"action":"establish","correlation_id":1,"requests":null}`, 400, gateway.ErrorBadField},
			{"POST", "/v4/Subscriptions", `{"action":"establish","correlation_id":1,"requests":[7]}`, 400, gateway.ErrorBadField},
			{"POST", "/v4/Subscriptions", `{"action":"establish","correlation_id":1,"requests":[{"last_event_id":1.5}]}`, 400, gateway.ErrorBadField},
			{"POST", "/v4/Subscriptions", `{"action":"establish","correlation_id":1,"requests":[{"last_event_id":1e99}]}`, 400, gateway.ErrorBadField},
			{"POST", "/v4/Subscriptions", `{"action":"dance","correlation_id":1,"requests":[]}`, 400, gateway.ErrorBadField},
			{"POST", "/v4/Subscriptions", subscriptionsBody("establish", strings.Split(strings.Repeat("{} ", 501), " ")[:501]...), 400, gateway.ErrorTooManyIdentities},
			{"POST", "/v4/Subscriptions", subscriptionsBody("cancel", strings.Split(strings.Repeat("{} ", 501), " ")[:501]...), 400, gateway.ErrorTooManyIdentities},
			{"POST", "/v1/registrations", "", 400, gateway.ErrorBadField},
			{"POST", "/v1/registrations", "{}", 403, gateway.ErrorPushOff},
			{"DELETE", "/v1/registrations", "{}", 400, gateway.ErrorBadField},
			{"DELETE", "/v1/registrations", `{"binding_type":"fcm"}`, 400, gateway.ErrorBadField},
			{"DELETE", "/v1/registrations/", "{}", 400, gateway.ErrorBadField},
			{"DELETE", "/v1/registrations/BS1", "{}", 403, gateway.ErrorPushOff},
		} {
			c.refused(tt.status, tt.code, tt.method, tt.path, tt.body)
		}
		if got := n.hub.Stats().Subscriptions; got != 0 {
			t.Errorf("%d subscriptions; want none", got)
		}
		// Objects that there are not fail each by itself, and those that there are do not.
		c.subscribe("establish", object(testkit.UserMap("alice"), "null"), object("MPcYm9i", "1"), `{"object_sid":"`+testkit.UserMap("bob")+`","object_type":"document"}`,
			object("ESabc", "1"), object(testkit.UserMap(long), "1"), object(testkit.UserMap("\xff"), "1"), `{}`)
		if events, _ := c.note("subscription_failed").Payload["events"].([]any); len(events) != 6 {
			t.Errorf("failed %v; want six", events)
		} else {
			for _, e := range events {
				failure, _ := e.(map[string]any)["error"].(map[string]any)
				if failure["status"] != 404. || failure["code"] != float64(gateway.ErrorNoMap) {
					t.Errorf("failed with %v; want 404", failure)
				}
			}
		}
		c.items()
		c.told("subscription_established")
		c.subscribe("establish")
		c.subscribe("cancel")
		if got := c.told("subscription_canceled"); len(got) != 0 {
			t.Errorf("cancelled %v; want nothing", got)
		}
		for id, want := range map[string]string{"0": "0", "-7": "-7", "1.5e3": "1.5e3", "17953299749780000000000000": "17953299749780000000000000"} {
			c.must(202, "POST", "/v4/Subscriptions", "", `{"action":"cancel","correlation_id":`+id+`,"requests":[]}`)
			if f := c.note("subscription_canceled"); !strings.Contains(f.Text, `"correlation_id":`+want+`,`) {
				t.Errorf("correlation_id %s came back as %s", id, f.Text)
			}
		}
		c.alive()
	})
}
