package e2e

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rollcall-presence/rollcall/auth"
	"github.com/rollcall-presence/rollcall/client"

	"github.com/rollcall-presence/rollcall/internal/testkit/rig"
)

// bystander is a session that lives all the while: another user comes and goes, and
// each time it must hear of that soon.
type bystander struct {
	*rig.Watcher
	stop   chan struct{}
	done   sync.WaitGroup
	rounds int // owned by the goroutine until done
}

const beacon = "beacon"

func stand(t *testing.T, n *rig.Node, sid string) *bystander {
	t.Helper()
	b := &bystander{stop: make(chan struct{})}
	b.Watcher = rig.WatchAs(t, n.WS(), sid, "bystander", client.Options{OnDisconnect: func(err error, _ time.Duration) {
		select {
		case <-b.stop:
		default:
			t.Errorf("the bystander lost its connection: %v", err)
		}
	}}, beacon)
	b.done.Go(func() { b.run(t, n, sid) })
	return b
}

func (b *bystander) run(t *testing.T, n *rig.Node, sid string) {
	hears := func(want string) bool {
		limit, tick := time.After(5*time.Second), time.NewTicker(5*time.Millisecond)
		defer tick.Stop()
		for b.History(beacon) != want {
			select {
			case <-limit:
				t.Errorf("round %d: the bystander heard %q for 5 s; want %q", b.rounds, b.History(beacon), want)
				return false
			case <-tick.C:
			}
		}
		return true
	}
	pause := time.NewTicker(50 * time.Millisecond)
	defer pause.Stop()
	for {
		select {
		case <-b.stop:
			return
		case <-pause.C:
		}
		b.Reset()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		c, err := client.Dial(ctx, n.WS(), client.Options{Token: rig.Mint(sid, beacon)})
		cancel()
		if err != nil {
			t.Errorf("the beacon cannot connect: %v", err)
			return
		}
		came := hears("true")
		err = c.Close()
		if err != nil {
			t.Errorf("the beacon cannot leave: %v", err)
		}
		if !came || !hears("true false") {
			return
		}
		b.rounds++
	}
}

// undisturbed ends the bystander and tells whether it heard all that it should.
func (b *bystander) undisturbed(t *testing.T) {
	t.Helper()
	close(b.stop)
	b.done.Wait()
	if b.rounds < 5 {
		t.Errorf("the bystander heard of %d rounds; the test shows less than it should", b.rounds)
	}
	if err := b.Close(); err != nil {
		t.Errorf("the bystander cannot leave: %v", err)
	}
}

// forge is a token with the header and claims as they are given, signed with secret.
func forge(secret, header string, claims map[string]any) string {
	payload, err := json.Marshal(claims)
	if err != nil {
		panic(err)
	}
	signed := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString(payload)
	mac := hmac.New(sha256.New, []byte(secret))
	_, _ = mac.Write([]byte(signed))
	return signed + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

func claimsOf(sid, identity string, change map[string]any) map[string]any {
	now := time.Now().Unix()
	c := map[string]any{
		"iss": rig.KeySID, "sub": rig.Account, "exp": now + 3600,
		"grants": map[string]any{"identity": identity, "chat": map[string]any{"service_sid": sid}},
	}
	maps.Copy(c, change)
	return c
}

func quoted(identities ...string) string {
	b, err := json.Marshal(identities)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func numbered(prefix string, n int) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprint(prefix, i)
	}
	return ids
}

func serverClose(code int) string {
	return fmt.Sprintf(`rollcall_closes_total{by="server",code="%d"}`, code)
}
func errorSent(name string) string { return fmt.Sprintf(`rollcall_errors_total{code="%s"}`, name) }
func requestOf(typ string) string  { return fmt.Sprintf(`rollcall_requests_total{type="%s"}`, typ) }

// Whatever a client sends, it gets the documented code or close, that is counted, and
// a session that lives all the while goes on hearing of the others.
func TestBadInput(t *testing.T) {
	n := rig.Start(t, "embedded", "ROLLCALL_HELLO_TIMEOUT=1s", "ROLLCALL_PING_INTERVAL=1s", "ROLLCALL_PONG_TIMEOUT=900ms",
		"ROLLCALL_LINGER=1s", "ROLLCALL_MAILBOX_BYTES=64KiB", "ROLLCALL_LOG_LEVEL=debug")
	sid, other := n.NewService(), n.NewService()
	good, err := rig.Mint(sid, "mallory")(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	by := stand(t, n, sid)
	t.Run("strangers", func(t *testing.T) { badStrangers(t, n, good) })
	t.Run("tokens", func(t *testing.T) { badTokens(t, n, sid) })
	t.Run("known", func(t *testing.T) { badKnown(t, n, good) })
	t.Run("requests", func(t *testing.T) { badRequests(t, n, sid, other) })
	t.Run("endings", func(t *testing.T) { badEndings(t, n, sid) })
	t.Run("hostile identities", func(t *testing.T) { hostileIdentities(t, n, sid) })
	t.Run("expiry", func(t *testing.T) { expiry(t, n, sid) })
	t.Run("silence", func(t *testing.T) { silence(t, n, sid) })
	t.Run("flood", func(t *testing.T) { flood(t, n, sid) })
	t.Run("never reads", func(t *testing.T) { neverReads(t, n, sid) })
	by.undisturbed(t)
	for _, secret := range []string{good, good[strings.LastIndex(good, ".")+1:], rig.KeySecret, rig.AuthToken} {
		if strings.Contains(n.Log(), secret) {
			t.Errorf("the log holds %s", secret)
		}
	}
	rig.Eventually(t, "every session is gone", func() error {
		m := n.Metrics()
		if c, s := m["rollcall_connections"], m["rollcall_subscriptions"]; c != 0 || s != 0 {
			return fmt.Errorf("%v connections and %v subscriptions are left", c, s)
		}
		return nil
	})
}

func badStrangers(t *testing.T, n *rig.Node, good string) {
	deep := `{"type":"hello","x":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + `}`
	for _, tt := range []struct {
		name     string
		send     []byte
		err, end int
		counted  string
	}{
		{"not JSON", rig.Frame(rig.OpText, []byte(`{"type":`)), 0, 3501, requestOf("malformed")},
		{"no object", rig.Frame(rig.OpText, []byte(`["hello"]`)), 0, 3501, requestOf("malformed")},
		{"null", rig.Frame(rig.OpText, []byte(`null`)), 0, 3501, requestOf("malformed")},
		{"nothing", rig.Frame(rig.OpText, nil), 0, 3501, requestOf("malformed")},
		{"two objects", rig.Frame(rig.OpText, []byte(`{"type":"hello"}{}`)), 0, 3501, requestOf("malformed")},
		{"too deep", rig.Frame(rig.OpText, []byte(deep)), 0, 3501, requestOf("malformed")},
		{"binary", rig.Frame(rig.OpBinary, []byte(`{"type":"hello"}`)), 0, 3501, requestOf("malformed")},
		{"unknown type", rig.Frame(rig.OpText, []byte(`{"type":"hullo"}`)), 0, 3501, requestOf("unknown")},
		{"no type", rig.Frame(rig.OpText, []byte(`{}`)), 0, 3501, requestOf("unknown")},
		{"hello comes late", rig.Frame(rig.OpText, []byte(`{"type":"subscribe","identities":["a"]}`)), 0, 3501, requestOf("subscribe")},
		{"type of type", rig.Frame(rig.OpText, []byte(`{"type":7}`)), 0, 3501, requestOf("unknown")},
		{"no token", rig.Frame(rig.OpText, []byte(`{"type":"hello"}`)), 103, 3501, errorSent("bad_field")},
		{"type of token", rig.Frame(rig.OpText, []byte(`{"type":"hello","token":{}}`)), 103, 3501, errorSent("bad_field")},
		{"type of known", rig.Frame(rig.OpText, []byte(`{"type":"hello","token":"`+good+`","known":["a"]}`)), 103, 3501, errorSent("bad_field")},
		{"type of revision", rig.Frame(rig.OpText, []byte(`{"type":"hello","token":"`+good+`","known":{"a":1.5}}`)), 103, 3501, errorSent("bad_field")},
		{"not UTF-8", rig.Frame(rig.OpText, []byte("{\"type\":\"hello\",\"token\":\"\xff\"}")), 0, 1007, requestOf("malformed")},
		{"too big", rig.Frame(rig.OpText, make([]byte, 64<<10+1)), 0, 1009, serverClose(1009)},
		{"claims to be huge", append([]byte{rig.OpText, 0xff, 0, 0, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0}, make([]byte, 64<<10+1)...), 0, 1009, serverClose(1009)},
		{"negative length", []byte{rig.OpText, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 0, 1002, serverClose(1002)},
		{"not masked", []byte{rig.OpText, 2, '{', '}'}, 0, 1002, serverClose(1002)},
		{"reserved bits", rig.Frame(0x70|rig.OpText, []byte(`{}`)), 0, 1002, serverClose(1002)},
		{"reserved opcode", rig.Frame(0x83, []byte(`{}`)), 0, 1002, serverClose(1002)},
		{"continues nothing", rig.Frame(0x80, []byte(`{}`)), 0, 1002, serverClose(1002)},
		{"long ping", rig.Frame(rig.OpPing, make([]byte, 126)), 0, 1002, serverClose(1002)},
		{"ping in parts", rig.Frame(0x09, nil), 0, 1002, serverClose(1002)},
		{"close with half a code", rig.Frame(rig.OpClose, []byte{3}), 0, 1002, serverClose(1002)},
		{"close with a code of nobody", rig.Frame(rig.OpClose, []byte{0x03, 0xed}), 0, 1002, serverClose(1002)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := n.Raw(t)
			n.Counts(func() {
				c.Bytes(tt.send)
				if tt.err != 0 {
					c.Refused(tt.err)
				}
				c.Ends(tt.end)
			}, tt.counted, serverClose(tt.end))
		})
	}
	t.Run("says nothing", func(t *testing.T) {
		n.Counts(func() { n.Raw(t).Ends(3502) }, serverClose(3502))
	})
	t.Run("never finishes hello", func(t *testing.T) {
		c := n.Raw(t)
		n.Counts(func() {
			c.Bytes(rig.Frame(rig.OpText, []byte(`{"type":"hello"}`))[:9])
			c.Ends(3502)
		}, serverClose(3502))
	})
}

func badTokens(t *testing.T, n *rig.Node, sid string) {
	const header = `{"alg":"HS256","typ":"JWT","cty":"twilio-fpa;v=1"}`
	hour := time.Now().Add(-time.Hour).Unix()
	of := func(change map[string]any) string {
		return forge(rig.KeySecret, header, claimsOf(sid, "mallory", change))
	}
	grants := func(identity any, service string) string {
		return of(map[string]any{"grants": map[string]any{"identity": identity, "chat": map[string]any{"service_sid": service}}})
	}
	unsigned := of(nil)
	unsigned = unsigned[:strings.LastIndex(unsigned, ".")]
	for _, tt := range []struct {
		name, token string
		err         int
		counted     string
	}{
		{"no token", "", 20101, "token_invalid"},
		{"garbage", "a.b.c", 20101, "token_invalid"},
		{"no signature", unsigned, 20101, "token_invalid"},
		{"none", forge(rig.KeySecret, `{"alg":"none","typ":"JWT","cty":"twilio-fpa;v=1"}`, claimsOf(sid, "mallory", nil)), 20102, "token_header"},
		{"HS512", forge(rig.KeySecret, `{"alg":"HS512","typ":"JWT","cty":"twilio-fpa;v=1"}`, claimsOf(sid, "mallory", nil)), 20102, "token_header"},
		{"other secret", forge("guessed", header, claimsOf(sid, "mallory", nil)), 20107, "token_signature"},
		{"other key", of(map[string]any{"iss": "SK00000000000000000000000000000000"}), 20103, "token_issuer"},
		{"other account", of(map[string]any{"sub": "AC00000000000000000000000000000000"}), 20103, "token_issuer"},
		{"expired", of(map[string]any{"exp": hour}), 20104, "token_expired"},
		{"never expires", of(map[string]any{"exp": nil}), 20104, "token_expired"},
		{"lives too long", of(map[string]any{"exp": hour + 200_000}), 20104, "token_expired"},
		{"of tomorrow", of(map[string]any{"nbf": hour + 7000}), 20105, "token_not_yet_valid"},
		{"no grants", of(map[string]any{"grants": nil}), 20106, "token_grants"},
		{"nobody", grants("", sid), 20106, "token_grants"},
		{"number for a name", grants(7, sid), 20106, "token_grants"},
		{"long name", grants(strings.Repeat("x", 257), sid), 20106, "token_grants"},
		{"no service", grants("mallory", ""), 20106, "token_grants"},
		{"service of nobody", grants("mallory", "IS"+strings.Repeat("0", 32)), 112, "no_service"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := n.Raw(t)
			n.Counts(func() {
				c.Text(`{"type":"hello","id":1,"token":"` + tt.token + `"}`)
				c.Refused(tt.err)
				c.Ends(3500)
			}, errorSent(tt.counted), serverClose(3500))
		})
	}
}

func badKnown(t *testing.T, n *rig.Node, good string) {
	known := func(ids ...string) string {
		m := map[string]int{}
		for _, id := range ids {
			m[id] = 1
		}
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for _, tt := range []struct {
		name, known string
		err, end    int
		counted     string
	}{
		{"1,001 users", known(numbered("u", 1001)...), 105, 3505, "too_many_subscriptions"},
		{"empty identity", known(""), 106, 3501, "identity_empty"},
		{"long identity", known(strings.Repeat("x", 257)), 107, 3501, "identity_too_long"},
		{"half a character", `{"\ud800":1}`, 108, 3501, "identity_encoding"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := n.Raw(t)
			n.Counts(func() {
				c.Text(`{"type":"hello","token":"` + good + `","known":` + tt.known + `}`)
				c.Refused(tt.err)
				c.Ends(tt.end)
			}, errorSent(tt.counted), serverClose(tt.end))
		})
	}
}

// badRequests are refused one by one, and the session lives on.
func badRequests(t *testing.T, n *rig.Node, sid, other string) {
	minted := func(service, identity string) string {
		token, err := rig.Mint(service, identity)(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	expired, err := auth.Mint(auth.Key{SID: rig.KeySID, Secret: rig.KeySecret, Account: rig.Account}, sid, "mallory", time.Now().Add(-2*time.Hour), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	c := n.Session(t, sid, "mallory")
	for _, tt := range []struct {
		name, send string
		err        int
		counted    string
	}{
		{"unknown type", `{"type":"publish","id":1}`, 102, "unknown_type"},
		{"no type", `{"id":1}`, 102, "unknown_type"},
		{"type of type", `{"type":["ping"],"id":1}`, 103, "bad_field"},
		{"type of id", `{"type":"ping","id":{}}`, 103, "bad_field"},
		{"long id", `{"type":"ping","id":"` + strings.Repeat("x", 63) + `"}`, 103, "bad_field"},
		{"no identities", `{"type":"subscribe","id":1}`, 103, "bad_field"},
		{"identities of another type", `{"type":"subscribe","id":1,"identities":"a"}`, 103, "bad_field"},
		{"identity of another type", `{"type":"subscribe","id":1,"identities":["a",7]}`, 103, "bad_field"},
		{"501 identities", `{"type":"subscribe","id":1,"identities":` + quoted(numbered("u", 501)...) + `}`, 104, "too_many_identities"},
		{"501 identities to leave", `{"type":"unsubscribe","id":1,"identities":` + quoted(numbered("u", 501)...) + `}`, 104, "too_many_identities"},
		{"empty identity", `{"type":"subscribe","id":1,"identities":["a",""]}`, 106, "identity_empty"},
		{"long identity", `{"type":"subscribe","id":1,"identities":["` + strings.Repeat("é", 129) + `"]}`, 107, "identity_too_long"},
		{"half a character", `{"type":"subscribe","id":1,"identities":["\udc00"]}`, 108, "identity_encoding"},
		{"halves in the wrong order", `{"type":"subscribe","id":1,"identities":["\udc00\ud800"]}`, 108, "identity_encoding"},
		{"no token", `{"type":"token","id":1}`, 103, "bad_field"},
		{"another's token", `{"type":"token","id":1,"token":"` + minted(sid, "alice") + `"}`, 110, "token_identity"},
		{"another service's token", `{"type":"token","id":1,"token":"` + minted(other, "mallory") + `"}`, 111, "token_service"},
		{"expired token", `{"type":"token","id":1,"token":"` + expired + `"}`, 20104, "token_expired"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c.T = t
			n.Counts(func() {
				c.Text(tt.send)
				c.Refused(tt.err)
			}, errorSent(tt.counted))
			c.Alive()
		})
	}
	t.Run("1,001 subscriptions", func(t *testing.T) {
		c.T = t
		for _, half := range []string{"a", "b"} {
			c.Text(`{"type":"subscribe","id":1,"identities":` + quoted(numbered(half, 500)...) + `}`)
			if users, _ := c.Message("subscribed")["users"].([]any); len(users) != 500 {
				t.Fatalf("%d users; want 500", len(users))
			}
		}
		n.Counts(func() {
			c.Text(`{"type":"subscribe","id":1,"identities":["one more"]}`)
			c.Refused(105)
		}, errorSent("too_many_subscriptions"))
		c.Text(`{"type":"subscribe","id":2,"identities":["a0"]}`) // there already
		c.Message("subscribed")
		c.Text(`{"type":"unsubscribe","id":3,"identities":["a0"]}`)
		c.Message("unsubscribed")
		c.Text(`{"type":"subscribe","id":4,"identities":["one more"]}`)
		c.Message("subscribed")
	})
	c.T = t
	c.Text(`{"type":"bye"}`)
	c.Ends(1000)
}

// badEndings are what an open session is ended for.
func badEndings(t *testing.T, n *rig.Node, sid string) {
	for _, tt := range []struct {
		name    string
		send    []byte
		end     int
		counted string
	}{
		{"second hello", rig.Frame(rig.OpText, []byte(`{"type":"hello","token":"x"}`)), 3501, requestOf("hello")},
		{"not JSON", rig.Frame(rig.OpText, []byte(`{"type":"ping"`)), 3501, requestOf("malformed")},
		{"binary", rig.Frame(rig.OpBinary, []byte(`{"type":"ping"}`)), 3501, requestOf("malformed")},
		{"not UTF-8", rig.Frame(rig.OpText, []byte("{\"type\":\"subscribe\",\"identities\":[\"\xc3\x28\"]}")), 1007, requestOf("malformed")},
		{"too big", rig.Frame(rig.OpText, make([]byte, 64<<10+1)), 1009, serverClose(1009)},
		{"too big in parts", append(rig.Frame(0x01, make([]byte, 40<<10)), rig.Frame(0x80, make([]byte, 40<<10))...), 1009, serverClose(1009)},
		{"message within a message", append(rig.Frame(0x01, []byte(`{"type":`)), rig.Frame(rig.OpText, []byte(`{}`))...), 1002, serverClose(1002)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := n.Session(t, sid, "mallory")
			n.Counts(func() {
				c.Bytes(tt.send)
				c.Ends(tt.end)
			}, tt.counted, serverClose(tt.end))
		})
	}
	t.Run("vanishes", func(t *testing.T) {
		c := n.Session(t, sid, "mallory")
		n.Counts(func() { _ = c.Close() }, `rollcall_closes_total{by="client",code="1006"}`, `rollcall_session_ends_total{how="lost"}`)
	})
	t.Run("half a frame", func(t *testing.T) {
		c := n.Session(t, sid, "mallory")
		n.Counts(func() {
			c.Bytes(rig.Frame(rig.OpText, []byte(`{"type":"ping"}`))[:7])
			_ = c.Close()
		}, `rollcall_closes_total{by="client",code="1006"}`)
	})
	t.Run("too many sessions", func(t *testing.T) {
		for range 100 {
			n.Session(t, sid, "many")
		}
		c := n.Raw(t)
		token, err := rig.Mint(sid, "many")(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		n.Counts(func() {
			c.Text(`{"type":"hello","token":"` + token + `"}`)
			c.Refused(113)
			c.Ends(3504)
		}, errorSent("too_many_sessions"), serverClose(3504))
	})
}

// Identities with any byte that a key, a channel or a script could confuse are users
// like others, and each is another.
func hostileIdentities(t *testing.T, n *rig.Node, sid string) {
	ids := []string{
		":", "a:b", "a:", "{", "}", "{p001}", "*", "?", "[a]", `\`, `"`, "'", "\x00", "a\x00b", "\n", "\r\n", "\x7f", "\u0085", "\u2028",
		"%", "%41", "A", "a", "..", "../x", "/", "a/b", "?a=b", "#", " ", "  ", "é", "e\u0301", "\U0001F600", "\ufeffa", "\u202ea", "\ufffd", "null", "0", "-1", "1e3",
		"KEYS[1]", "]]..x", "rc:", sid, "u:a", strings.Repeat("\xf0\x9f\x98\x80", 64), "<script>alert(1)</script>",
	}
	w := n.Session(t, sid, "watcher of the hostile")
	w.Text(`{"type":"subscribe","id":1,"identities":` + quoted(ids...) + `}`)
	users, _ := w.Message("subscribed")["users"].([]any)
	if len(users) != len(ids) {
		t.Fatalf("%d users; want %d", len(users), len(ids))
	}
	for i, u := range users {
		if u, _ := u.(map[string]any); u["identity"] != ids[i] || u["sid"] != nil {
			t.Errorf("subscribed to %q; got %v", ids[i], u)
		}
	}
	for _, id := range ids {
		c := n.Session(t, sid, id)
		if m := w.Message("user.updated"); who(m) != id || online(m) != true {
			t.Fatalf("%q came; the watcher got %v", id, m)
		}
		c.Text(`{"type":"bye"}`)
		c.Ends(1000)
		if m := w.Message("user.updated"); who(m) != id || online(m) != false {
			t.Fatalf("%q left; the watcher got %v", id, m)
		}
	}
}

func who(m map[string]any) any {
	u, _ := m["user"].(map[string]any)
	return u["identity"]
}

func online(m map[string]any) any {
	u, _ := m["user"].(map[string]any)
	return u["is_online"]
}

// expiry: a session is warned before its token expires, and then closed.
func expiry(t *testing.T, n *rig.Node, sid string) {
	token, err := auth.Mint(auth.Key{SID: rig.KeySID, Secret: rig.KeySecret, Account: rig.Account}, sid, "mallory", time.Now(), 3*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	c := n.Raw(t)
	n.Counts(func() {
		c.Text(`{"type":"hello","token":"` + token + `"}`)
		c.Message("welcome")
		if m := c.Message("token.expiring"); m["expires_in_ms"].(float64) > 1000 {
			t.Errorf("got %v", m)
		}
		c.Ends(3002)
	}, serverClose(3002))
}

// silence: a peer that is gone without a FIN answers no ping, and reads nothing.
func silence(t *testing.T, n *rig.Node, sid string) {
	c := n.Session(t, sid, "mallory")
	n.Counts(func() {
		_, _ = io.CopyN(io.Discard, c, 1<<10) // reads the ping and whatever else comes, and answers nothing
	}, serverClose(3004), `rollcall_session_ends_total{how="silent"}`)
}

// flood: far too many requests are refused, and then end the session.
func flood(t *testing.T, n *rig.Node, sid string) {
	c := n.Session(t, sid, "mallory")
	var sent sync.WaitGroup
	ping := rig.Frame(rig.OpText, []byte(`{"type":"ping","id":1}`))
	n.Counts(func() {
		sent.Go(func() {
			for range 100 {
				c.Bytes([]byte(strings.Repeat(string(ping), 100)))
			}
		})
		answers, refusals := 0, 0
		for {
			m, err := c.Next()
			if err != nil {
				e, ok := errors.AsType[rig.CloseError](err)
				if !ok || e.Code != 3005 || !strings.Contains(e.Reason, "retry_after_ms") {
					t.Errorf("got %v; want a close with 3005 and a hint", err)
				}
				break
			}
			switch {
			case m["type"] == "pong":
				answers++
			case m["code"] == 109. && m["retry_after_ms"].(float64) > 0:
				refusals++
			default:
				t.Fatalf("got %v", m)
			}
		}
		if answers < 200 || answers > 1000 || refusals < 50 || refusals > 1000 {
			t.Errorf("%d answers and %d refusals; want a burst of 200, then refusals", answers, refusals)
		}
		_ = c.Close()
	}, serverClose(3005), errorSent("rate_limited"))
	sent.Wait()
}

// neverReads: a client that asks and never reads is closed when too much waits, and
// one whose window is full when nothing moves.
func neverReads(t *testing.T, n *rig.Node, sid string) {
	c := n.Session(t, sid, "mallory")
	if err := c.Conn.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
		t.Fatal(err)
	}
	n.Counts(func() {
		for range 150 { // at least 40 KB of answer each
			c.Text(`{"type":"subscribe","id":1,"identities":` + quoted(numbered("some rather long name of user ", 500)...) + `}`)
		}
	}, serverClose(3003))
}
