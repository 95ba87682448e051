package gateway_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/rollcall-presence/rollcall/gateway"
	"github.com/rollcall-presence/rollcall/presence"
)

// closeCases make the server close with each code of the table.
var closeCases = map[gateway.CloseCode]func(*node) *peer{
	gateway.CloseBye:       func(n *node) *peer { p := n.connect("alice"); p.send(`{"type":"bye"}`); return p },
	gateway.CloseGoingAway: func(n *node) *peer { p := n.connect("alice"); n.stop(); return p },
	gateway.CloseProtocol: func(n *node) *peer {
		p := n.connect("alice")
		writeFrame(n.t, p.raw, 0xc1, "a reserved bit")
		return p
	},
	gateway.CloseNotUTF8: func(n *node) *peer { p := n.connect("alice"); p.send("{\"type\":\"\xff\"}"); return p },
	gateway.CloseTooBig: func(n *node) *peer {
		p := n.connect("alice")
		_ = p.conn.Write(n.t.Context(), websocket.MessageText, make([]byte, 64<<10+1))
		return p
	},
	gateway.CloseRestart: func(n *node) *peer {
		p := n.connect("alice")
		go n.Shutdown(n.t.Context())
		return p
	},
	gateway.CloseInternal: func(n *node) *peer {
		n.store.mu.Lock()
		n.store.broken = true
		n.store.mu.Unlock()
		return n.hello("alice")
	},
	gateway.CloseUnavailable: func(n *node) *peer { n.store.setAway(true); return n.hello("alice") },
	gateway.CloseTokenExpired: func(n *node) *peer {
		p := n.dial(nil).read()
		p.send(`{"type":"hello","token":"` + mint(n.t, service, "alice", time.Minute) + `"}`)
		return p
	},
	gateway.CloseRateLimited: func(n *node) *peer {
		p := n.connect("alice")
		go func() {
			for p.conn.Write(n.t.Context(), websocket.MessageText, []byte(`{"type":"ping"}`)) == nil {
			}
		}()
		return p
	},
	gateway.CloseBadToken:   func(n *node) *peer { p := n.dial(nil).read(); p.send(`{"type":"hello","token":"x"}`); return p },
	gateway.CloseBadRequest: func(n *node) *peer { p := n.connect("alice"); p.send(`null`); return p },
	gateway.CloseNoHello:    func(n *node) *peer { return n.dial(nil).read() },
	gateway.CloseEnded:      func(n *node) *peer { p := n.connect("alice"); n.end("alice"); return p },
	gateway.CloseTooMany: func(n *node) *peer {
		for range 100 {
			n.connect("alice")
		}
		return n.hello("alice")
	},
	gateway.CloseSubscriptions: func(n *node) *peer {
		known := map[string]int{}
		for i := range 1001 {
			known[fmt.Sprint("user-", i)] = 0
		}
		b, _ := json.Marshal(known)
		p := n.dial(nil).read()
		p.send(`{"type":"hello","token":"` + mint(n.t, service, "alice", time.Hour) + `","known":` + string(b) + `}`)
		return p
	},
}

// hello says hello and waits for nothing.
func (n *node) hello(identity string) *peer {
	n.t.Helper()
	p := n.dial(nil).read()
	p.send(`{"type":"hello","token":"` + mint(n.t, service, identity, time.Hour) + `"}`)
	return p
}

// TestCloseCodes drives the server to close with each code that a client can
// receive; the two others are for clients that do not read, and counted in their
// own tests. Each is counted, and no other session is disturbed.
func TestCloseCodes(t *testing.T) {
	for _, c := range gateway.Closes() {
		t.Run(c.Name, func(t *testing.T) {
			if len(c.Reason) > 123 {
				t.Errorf("reason of %d bytes; a close frame holds 123", len(c.Reason))
			}
			cause, ok := closeCases[c.Code]
			if !ok {
				if c.Code != gateway.CloseSlow && c.Code != gateway.CloseNoPong {
					t.Fatal("no case for this code")
				}
				return
			}
			bubble(t, nil, func(t *testing.T, n *node) {
				bystander := n.connect("bystander")
				p := cause(n)
				reason := p.wantClose(c.Code)
				if c.Reason != "" && reason != c.Reason {
					t.Errorf("reason = %q; want %q", reason, c.Reason)
				}
				var hint struct {
					MS int64 `json:"retry_after_ms"`
				}
				if c.Reason == "" && (json.Unmarshal([]byte(reason), &hint) != nil || hint.MS < 200 || hint.MS > 2000) {
					t.Errorf("reason = %q; want a hint of 200 to 2000 ms", reason)
				}
				if c.Code == gateway.CloseGoingAway || c.Code == gateway.CloseRestart {
					return // of the bystander too
				}
				if n.store.broken || n.store.away {
					return
				}
				synctest.Wait()
				if got := n.value("rollcall_closes_total", "server", fmt.Sprint(c.Code)); got != 1 {
					t.Errorf("closes counted = %v; want 1", got)
				}
				bystander.send(`{"type":"ping","id":1}`)
				bystander.want("pong")
			})
		})
	}
}

// TestIdentityLimit: the configured limit holds for those subscribed to and for the
// client's own identity.
func TestIdentityLimit(t *testing.T) {
	bubble(t, func(o *gateway.Options) { o.Limits.Identity = 5 }, func(t *testing.T, n *node) {
		p := n.connect("alice")
		p.send(`{"type":"subscribe","id":1,"identities":["charlie"]}`)
		p.wantError(gateway.ErrorIdentityTooLong, 1.)
		q := n.dial(nil).read()
		q.send(`{"type":"hello","token":"` + mint(t, service, "charlie", time.Hour) + `"}`)
		q.wantError(gateway.ErrorIdentityTooLong, nil)
		q.wantClose(gateway.CloseBadRequest)
	})
}

// TestWrongRequests: a request that is merely wrong gets an error with its id, and
// the session lives on.
func TestWrongRequests(t *testing.T) {
	long := strings.Repeat("x", presence.MaxIdentity+1)
	tests := map[string]struct {
		frame string
		code  gateway.ErrorCode
		id    any
	}{
		"unknown type":          {`{"type":"dance","id":1}`, gateway.ErrorUnknownType, 1.},
		"no type":               {`{"id":1}`, gateway.ErrorUnknownType, 1.},
		"type of wrong type":    {`{"type":7,"id":1}`, gateway.ErrorBadField, 1.},
		"identities not a list": {`{"type":"subscribe","id":"x","identities":"bob"}`, gateway.ErrorBadField, "x"},
		"identity not a string": {`{"type":"subscribe","id":1,"identities":[1]}`, gateway.ErrorBadField, 1.},
		"no identities":         {`{"type":"subscribe","id":1}`, gateway.ErrorBadField, 1.},
		"unsubscribe none":      {`{"type":"unsubscribe","id":1,"identities":null}`, gateway.ErrorBadField, 1.},
		"id is an object":       {`{"type":"ping","id":{}}`, gateway.ErrorBadField, nil},
		"id too long":           {`{"type":"ping","id":"` + long + `"}`, gateway.ErrorBadField, nil},
		"empty identity":        {`{"type":"subscribe","id":1,"identities":["a",""]}`, gateway.ErrorIdentityEmpty, 1.},
		"overlong identity":     {`{"type":"subscribe","id":1,"identities":["` + long + `"]}`, gateway.ErrorIdentityTooLong, 1.},
		"half a surrogate pair": {`{"type":"subscribe","id":1,"identities":["\ud800"]}`, gateway.ErrorIdentityEncoding, 1.},
		"501 identities":        {`{"type":"subscribe","id":1,"identities":[` + list(501) + `]}`, gateway.ErrorTooManyIdentities, 1.},
		"no token":              {`{"type":"token","id":1}`, gateway.ErrorBadField, 1.},
		"token not a string":    {`{"type":"token","id":1,"token":1}`, gateway.ErrorBadField, 1.},
	}
	names := map[gateway.ErrorCode]string{}
	for _, e := range gateway.ErrorTexts() {
		names[e.Code] = e.Name
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, nil, func(t *testing.T, n *node) {
				p := n.connect("alice")
				p.send(tt.frame)
				p.wantError(tt.code, tt.id)
				if got := n.value("rollcall_errors_total", names[tt.code]); got != 1 {
					t.Errorf("errors counted = %v; want 1", got)
				}
				p.send(`{"type":"subscribe","id":"after","identities":["bob"]}`)
				p.want("subscribed")
			})
		})
	}
}

func list(n int) string {
	quoted := make([]string, n)
	for i := range quoted {
		quoted[i] = fmt.Sprintf(`"user-%d"`, i)
	}
	return strings.Join(quoted, ",")
}

// TestViolations: who breaks the protocol is closed.
func TestViolations(t *testing.T) {
	open := func(frame string) func(*node) *peer {
		return func(n *node) *peer { p := n.connect("alice"); p.send(frame); return p }
	}
	stranger := func(frame string) func(*node) *peer {
		return func(n *node) *peer {
			p := n.dial(nil).read()
			p.send(strings.ReplaceAll(frame, "TOKEN", mint(n.t, service, "alice", time.Hour)))
			return p
		}
	}
	tests := map[string]func(*node) *peer{
		"malformed JSON": open(`{"type":`),
		"an array":       open(`[]`),
		"nothing":        open(``),
		"trailing data":  open(`{"type":"ping"}{}`),
		"deeply nested":  open(`{"type":` + strings.Repeat("[", 20000) + `}`),
		"binary frame": func(n *node) *peer {
			p := n.connect("alice")
			_ = p.conn.Write(n.t.Context(), websocket.MessageBinary, []byte(`{"type":"ping"}`))
			return p
		},
		"second hello":          open(`{"type":"hello","token":"x"}`),
		"before hello":          stranger(`{"type":"ping"}`),
		"hello, no token":       stranger(`{"type":"hello"}`),
		"hello, bad known":      stranger(`{"type":"hello","token":"TOKEN","known":{"bob":"new"}}`),
		"hello, empty identity": stranger(`{"type":"hello","token":"TOKEN","known":{"":1}}`),
		"hello, half a pair":    stranger(`{"type":"hello","token":"TOKEN","known":{"\udc00":1}}`),
	}
	for name, do := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, nil, func(_ *testing.T, n *node) { do(n).wantClose(gateway.CloseBadRequest) })
		})
	}
}

func TestExpiredTokenSaysSo(t *testing.T) {
	bubble(t, nil, func(t *testing.T, n *node) {
		token := mint(t, service, "alice", time.Minute)
		time.Sleep(2 * time.Minute)
		p := n.dial(nil).read()
		p.send(`{"type":"hello","id":1,"token":"` + token + `"}`)
		p.wantError(gateway.ErrorTokenExpired, 1.)
		p.wantClose(gateway.CloseBadToken)
	})
}

func TestTooManySubscriptions(t *testing.T) {
	bubble(t, nil, func(t *testing.T, n *node) {
		p := n.connect("alice")
		for i := range 2 {
			ids := strings.ReplaceAll(list(500), "user", fmt.Sprint("group-", i))
			p.send(`{"type":"subscribe","identities":[` + ids + `]}`)
			p.want("subscribed")
		}
		p.send(`{"type":"subscribe","id":1,"identities":["one more"]}`)
		p.wantError(gateway.ErrorSubscriptions, 1.)
		n.store.set(presence.Key{Service: service, Identity: "group-0-7"}, presence.True)
		p.want("user.updated")
	})
}

// TestRequestRate: beyond the burst requests are refused with the time to wait;
// who waits is served again.
func TestRequestRate(t *testing.T) {
	bubble(t, nil, func(t *testing.T, n *node) {
		p := n.connect("alice")
		for range 200 {
			p.send(`{"type":"ping"}`)
			p.want("pong")
		}
		p.send(`{"type":"ping","id":1}`)
		if wait := p.wantError(gateway.ErrorRateLimited, 1.)["retry_after_ms"].(float64); wait != 20 {
			t.Errorf("retry_after_ms = %v; want 20", wait)
		}
		time.Sleep(20 * time.Millisecond)
		p.send(`{"type":"ping"}`)
		p.want("pong")
	})
}

func TestShed(t *testing.T) {
	tests := map[string]struct {
		tune   func(*gateway.Options)
		header http.Header
		status int
		retry  string
	}{
		"connections":         {func(o *gateway.Options) { o.Limits.Connections = 1 }, nil, 503, "5"},
		"pending":             {func(o *gateway.Options) { o.Limits.Pending = 1 }, nil, 503, "1"},
		"pending_per_address": {func(o *gateway.Options) { o.Limits.PendingPerAddress = 1 }, nil, 503, "1"},
		"accept_rate":         {func(o *gateway.Options) { o.Limits.AcceptRate, o.Limits.AcceptBurst = 1, 1 }, nil, 503, "1"},
		"origin":              {nil, http.Header{"Origin": {"https://evil.test"}}, 403, ""},
	}
	for reason, tt := range tests {
		t.Run(reason, func(t *testing.T) {
			bubble(t, tt.tune, func(t *testing.T, n *node) {
				first := n.dial(nil)
				_, resp, err := n.tryDial(tt.header)
				if err == nil {
					t.Fatal("the second connection was accepted")
				}
				if resp == nil || resp.StatusCode != tt.status || resp.Header.Get("Retry-After") != tt.retry {
					t.Fatalf("answer = %v; want %d with Retry-After %q", resp, tt.status, tt.retry)
				}
				var body struct{ Code, Status int }
				if err := json.NewDecoder(resp.Body).Decode(&body); err != nil || body.Status != tt.status {
					t.Errorf("body = %+v, %v; want JSON with the status", body, err)
				}
				if got := n.value("rollcall_shed_total", reason); got != 1 {
					t.Errorf("shed counted = %v; want 1", got)
				}
				_ = first.conn.CloseNow()
				synctest.Wait()
				time.Sleep(time.Second)
				n.connect("alice") // there is room again
			})
		})
	}
}

func TestSubprotocol(t *testing.T) {
	bubble(t, nil, func(t *testing.T, n *node) {
		upgrade := http.Header{
			"Connection": {"Upgrade"}, "Upgrade": {"websocket"},
			"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"AAAAAAAAAAAAAAAAAAAAAA=="},
		}
		upgrade.Set("Sec-WebSocket-Protocol", "mqtt, other")
		if resp, _ := n.get(n.public, "/v1/connect", upgrade); resp.StatusCode != http.StatusBadRequest {
			t.Errorf("status = %d; want 400", resp.StatusCode)
		}
		if resp, _ := n.get(n.public, "/v1/connect", nil); resp.StatusCode != http.StatusUpgradeRequired {
			t.Errorf("status of a plain request = %d; want 426", resp.StatusCode)
		}
		if got := n.value("rollcall_connections"); got != 0 {
			t.Errorf("connections = %v; want 0", got)
		}
	})
}

func TestOrigins(t *testing.T) {
	patterns := []string{"https://app.example.com", "*.example.org", "http://localhost:*"}
	tests := []struct {
		origin string
		want   bool
	}{
		{"", true},
		{"http://rollcall.test", true},
		{"https://ROLLCALL.test", true},
		{"http://rollcall.test:8080", false},
		{"https://app.example.com", true},
		{"http://app.example.com", false},
		{"https://app.example.com.evil.test", false},
		{"https://x.example.org", true},
		{"https://example.org", false},
		{"http://localhost:3000", true},
		{"null", false},
		{"://", false},
	}
	for _, tt := range tests {
		r := &http.Request{Host: "rollcall.test", Header: http.Header{}}
		if tt.origin != "" {
			r.Header.Set("Origin", tt.origin)
		}
		if got := gateway.OriginAllowed(r, patterns); got != tt.want {
			t.Errorf("originAllowed(%q) = %v; want %v", tt.origin, got, tt.want)
		}
		if !gateway.OriginAllowed(r, []string{"*"}) {
			t.Errorf("originAllowed(%q) with * = false; want true", tt.origin)
		}
	}
}

func TestProxies(t *testing.T) {
	trusted := gateway.Proxies{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	tests := []struct {
		peer, forwarded, proto string
		client, origin         string
	}{
		{"192.0.2.1:5", "203.0.113.9", "https", "192.0.2.1", "http://h"},
		{"10.1.1.1:5", "", "", "10.1.1.1", "http://h"},
		{"10.1.1.1:5", "203.0.113.9", "https", "203.0.113.9", "https://h"},
		{"10.1.1.1:5", "6.6.6.6, 203.0.113.9, 10.2.2.2", "https", "203.0.113.9", "https://h"},
		{"10.1.1.1:5", "203.0.113.9, junk", "ftp", "10.1.1.1", "http://h"},
		{"[::ffff:10.1.1.1]:5", "2001:db8::1", "http", "2001:db8::1", "http://h"},
		{"[fd00::1]:5", "10.9.9.9", "", "10.9.9.9", "http://h"},
	}
	for _, tt := range tests {
		r := &http.Request{Host: "h", RemoteAddr: tt.peer, Header: http.Header{}}
		if tt.forwarded != "" {
			r.Header.Set("X-Forwarded-For", tt.forwarded)
		}
		r.Header.Set("X-Forwarded-Proto", tt.proto)
		if got := trusted.Client(r).String(); got != tt.client {
			t.Errorf("Client(%s, %q) = %s; want %s", tt.peer, tt.forwarded, got, tt.client)
		}
		if got := trusted.Origin(r); got != tt.origin {
			t.Errorf("Origin(%s, %q) = %s; want %s", tt.peer, tt.proto, got, tt.origin)
		}
	}
}

// TestRefusedTokenIsExplained: the log names the rule that a refused token broke, and nothing of the token.
func TestRefusedTokenIsExplained(t *testing.T) {
	core, logs := observer.New(zap.DebugLevel)
	bubble(t, func(o *gateway.Options) { o.Log = zap.New(core) }, func(t *testing.T, n *node) {
		token := mint(t, service, "alice", time.Minute)
		time.Sleep(2 * time.Minute)
		p := n.dial(nil).read()
		p.send(`{"type":"hello","token":"` + token + `"}`)
		p.wantClose(gateway.CloseBadToken)
		synctest.Wait()
		var got []string
		for _, e := range logs.All() {
			fields := fmt.Sprint(e.ContextMap())
			if strings.Contains(fields, token) || strings.Contains(fields, "alice") {
				t.Errorf("the log tells of the token: %s", fields)
			}
			if why, ok := e.ContextMap()["refusal"].(string); ok {
				got = append(got, why)
			}
		}
		if len(got) != 1 || !strings.Contains(got[0], "exp has passed") {
			t.Errorf("refusals in the log: %q; want that exp has passed", got)
		}
	})
}
