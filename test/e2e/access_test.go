package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rollcall-presence/rollcall/auth"
	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/internal/testkit/rig"
)

// answer is what a request got, with whatever credentials.
type answer struct {
	status int
	code   int
	retry  time.Duration
	body   map[string]any
}

func ask(t testing.TB, n *rig.Node, user, password, method, path string, form url.Values) (a answer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+n.Addr+path, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth(user, password)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if len(data) > 0 {
		if err := json.Unmarshal(data, &a.body); err != nil {
			t.Fatalf("%s %s: %v in %q", method, path, err, data)
		}
	}
	a.status = res.StatusCode
	if code, ok := a.body["code"].(float64); ok {
		a.code = int(code)
	}
	if s := res.Header.Get("Retry-After"); s != "" {
		seconds, err := strconv.Atoi(s)
		if err != nil || seconds < 1 {
			t.Errorf("%s %s: Retry-After %q", method, path, s)
		}
		a.retry = time.Duration(seconds) * time.Second
	}
	return a
}

// heartbeats are so far apart that only the event can be what tells a node.
var rareHeartbeats = []string{"ROLLCALL_HEARTBEAT=30s", "ROLLCALL_LEASE_TTL=90s", "ROLLCALL_LOG_LEVEL=debug"}

// holds opens a session on a token, and returns what was said to a refused one.
func hello(t testing.TB, n *rig.Node, token string) (c *rig.Raw, code int) {
	t.Helper()
	c = n.Raw(t)
	c.Text(`{"type":"hello","token":"` + token + `"}`)
	m, err := c.Next()
	switch {
	case err != nil:
		t.Fatal(err)
	case m["type"] == "error":
		c.Ends(3500)
		return nil, int(m["code"].(float64))
	case m["type"] != "welcome":
		t.Fatalf("got %v; want a welcome", m)
	}
	return c, 0
}

// An API key made on one node is good on the other within a second, for REST and for
// tokens; revoked, it is refused on both, and the sessions open on it are closed.
func TestKeysOnAllNodes(t *testing.T) {
	redis := "redis://" + testkit.Redis(t).Addr
	a, b := rig.Start(t, redis, rareHeartbeats...), rig.Start(t, redis, rareHeartbeats...)
	nodes := []*rig.Node{a, b}
	sid := a.NewService()

	made := ask(t, a, rig.Account, rig.AuthToken, "POST", "/v1/Keys", url.Values{"FriendlyName": {"backend"}})
	if made.status != http.StatusCreated {
		t.Fatalf("making a key: %d %v", made.status, made.body)
	}
	key := auth.Key{SID: made.body["sid"].(string), Secret: made.body["secret"].(string), Account: rig.Account}
	mintBy := func(k auth.Key, identity string) string {
		token, err := auth.Mint(k, sid, identity, time.Now(), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	rig.Within(t, time.Second, "the new key works on both nodes", func() error {
		for i, n := range nodes {
			if got := ask(t, n, key.SID, key.Secret, "GET", "/v1/Services/"+sid, nil); got.status != http.StatusOK {
				return fmt.Errorf("node %d: %d", i, got.status)
			}
		}
		return nil
	})
	if got := ask(t, b, key.SID, key.Secret, "GET", "/v1/Keys", nil); got.status != http.StatusForbidden || got.code != 20403 {
		t.Errorf("a key that lists keys: %d %v; want 403", got.status, got.body)
	}
	var open []*rig.Raw
	token := mintBy(key, "ada")
	for i, n := range nodes {
		c, code := hello(t, n, token)
		if code != 0 {
			t.Fatalf("node %d refuses a token of the new key with %d", i, code)
		}
		open = append(open, c)
	}
	bystander := b.Session(t, sid, "bystander") // on a token of the configured key

	if got := ask(t, b, rig.Account, rig.AuthToken, "DELETE", "/v1/Keys/"+key.SID, nil); got.status != http.StatusNoContent {
		t.Fatalf("revoking the key: %d %v", got.status, got.body)
	}
	begin := time.Now()
	for _, c := range open {
		c.Ends(3500)
	}
	rig.Within(t, time.Second, "the key is refused on both nodes", func() error {
		for i, n := range nodes {
			if got := ask(t, n, key.SID, key.Secret, "GET", "/v1/Services/"+sid, nil); got.status != http.StatusUnauthorized || got.code != 20003 {
				return fmt.Errorf("node %d: %d", i, got.status)
			}
		}
		return nil
	})
	if took := time.Since(begin); took > time.Second {
		t.Errorf("the sessions were closed, and the key refused, after %v; want within a second", took)
	}
	for i, n := range nodes {
		if _, code := hello(t, n, token); code != 20103 {
			t.Errorf("node %d answers a token of the revoked key with %d; want 20103", i, code)
		}
	}
	bystander.Alive()
	if on := a.Online(sid, "ada"); on == nil || *on {
		t.Errorf("ada is online: %v; want false at once", rig.State(on))
	}
	late := rig.Start(t, redis, rareHeartbeats...) // a node that comes later knows it too
	if got := ask(t, late, key.SID, key.Secret, "GET", "/v1/Services/"+sid, nil); got.status != http.StatusUnauthorized {
		t.Errorf("a node that came later: %d; want 401", got.status)
	}
	for i, n := range nodes {
		if said := n.Log(); strings.Contains(said, key.Secret) || strings.Contains(said, token) {
			t.Errorf("the log of node %d tells a secret", i)
		}
	}
	if !strings.Contains(b.Log(), `"change":"API key revoked"`) || !strings.Contains(a.Log(), `"change":"API key created"`) {
		t.Error("the changes of keys are not in the log")
	}
}

// A revoked identity's tokens are refused on both nodes, and its sessions closed;
// tokens made later are good, and nobody else is touched.
func TestRevocationOnAllNodes(t *testing.T) {
	server := testkit.Redis(t)
	redis := "redis://" + server.Addr
	a, b := rig.Start(t, redis, rareHeartbeats...), rig.Start(t, redis, rareHeartbeats...)
	nodes := []*rig.Node{a, b}
	sid, other := a.NewService(), a.NewService()
	mintAt := func(service, identity string, at time.Time) string {
		token, err := auth.Mint(auth.Key{SID: rig.KeySID, Secret: rig.KeySecret, Account: rig.Account}, service, identity, at, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	past := time.Now().Add(-time.Minute)
	old, bobs, namesake := mintAt(sid, "ada", past), mintAt(sid, "bob", past), mintAt(other, "ada", past)
	var closed, stay []*rig.Raw
	for _, n := range nodes {
		for _, tok := range []string{old, bobs, namesake} {
			c, code := hello(t, n, tok)
			if code != 0 {
				t.Fatalf("a good token is refused with %d", code)
			}
			if tok == old {
				closed = append(closed, c)
			} else {
				stay = append(stay, c)
			}
		}
	}
	// It has taken a newer token since, so the old one's end is not its end.
	newer, _ := hello(t, a, old)
	newer.Text(`{"type":"token","id":1,"token":"` + mintAt(sid, "ada", time.Now()) + `"}`)
	newer.Message("token_accepted")
	stay = append(stay, newer)

	form := url.Values{"Identity": {"ada"}, "IssuedBefore": {past.Add(30 * time.Second).UTC().Format(time.RFC3339)}}
	begin := time.Now()
	if got := ask(t, a, rig.KeySID, rig.KeySecret, "POST", "/v1/Services/"+sid+"/Revocations", form); got.status != http.StatusCreated {
		t.Fatalf("revoking: %d %v", got.status, got.body)
	}
	for _, c := range closed {
		c.Ends(3500)
	}
	if took := time.Since(begin); took > time.Second {
		t.Errorf("the sessions were closed after %v; want within a second", took)
	}
	for i, n := range nodes {
		if _, code := hello(t, n, old); code != 20101 {
			t.Errorf("node %d answers the revoked token with %d; want 20101", i, code)
		}
		c, code := hello(t, n, mintAt(sid, "ada", time.Now()))
		if code != 0 {
			t.Fatalf("node %d answers a token made later with %d; want it let in", i, code)
		}
		c.Alive()
	}
	for _, c := range stay {
		c.Alive()
	}

	// Redis loses everything; nodes that hear of it give back what they know.
	if err := server.Client().FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	made := ask(t, a, rig.Account, rig.AuthToken, "POST", "/v1/Keys", nil) // makes an event, which the nodes hear
	if made.status != http.StatusCreated {
		t.Fatalf("making a key: %d %v", made.status, made.body)
	}
	rig.Eventually(t, "the revocation is in Redis again", func() error {
		c := rig.Start(t, redis, rareHeartbeats...)
		defer c.Kill()
		if got := c.Metrics()["rollcall_revocations"]; got != 1 {
			return fmt.Errorf("a new node knows %v", got)
		}
		return nil
	})

	// Everybody.
	all := url.Values{"IssuedBefore": {time.Now().UTC().Format(time.RFC3339)}}
	sids := b.NewService()
	c, _ := hello(t, a, mintAt(sids, "eve", past))
	if got := ask(t, b, rig.Account, rig.AuthToken, "POST", "/v1/Services/"+sids+"/Revocations", all); got.status != http.StatusCreated {
		t.Fatalf("revoking all: %d %v", got.status, got.body)
	}
	c.Ends(3500)
}

// Limits answer 429 with when to come back, for REST and the page's own endpoints
// alike; what was limited was not done.
func TestLimitsOfCallers(t *testing.T) {
	n := rig.Start(t, "embedded", "ROLLCALL_REST_RATE=5", "ROLLCALL_REST_BURST=10", "ROLLCALL_LOCKOUT_FAILURES=4", "ROLLCALL_LOCKOUT_TIME=2s")
	limited := func(what string, a answer, atMost time.Duration) {
		t.Helper()
		if a.status != http.StatusTooManyRequests || a.code != 20429 || a.retry == 0 || a.retry > atMost {
			t.Errorf("%s: %d %v, Retry-After %v; want 429 with at most %v", what, a.status, a.body, a.retry, atMost)
		}
	}
	n.Counts(func() {
		var last answer
		for range 100 { // far quicker than 5 a second
			if last = ask(t, n, rig.KeySID, rig.KeySecret, "GET", "/v1/Services", nil); last.status != http.StatusOK {
				break
			}
		}
		limited("too many requests of a key", last, time.Second)
		if got := ask(t, n, rig.Account, rig.AuthToken, "GET", "/v1/Services", nil); got.status != http.StatusOK {
			t.Errorf("another credential: %d; want 200", got.status)
		}
	}, `rollcall_auth_refused_total{reason="credential_rate"}`, `rollcall_rest_requests_total{operation="ListService",status="429"}`)

	n.Counts(func() {
		for i := range 4 {
			user, password, path := rig.Account, "guess"+strconv.Itoa(i), "/v1/Services"
			if i%2 == 1 {
				path = "/console/api/services/IS00000000000000000000000000000000/settings"
			}
			if got := ask(t, n, user, password, "GET", path, nil); got.status != http.StatusUnauthorized || got.code != 20003 {
				t.Errorf("guess %d: %d %v; want 401", i, got.status, got.body)
			}
		}
		limited("REST with a good password while locked out", ask(t, n, rig.Account, rig.AuthToken, "POST", "/v1/Users", url.Values{"Identity": {"never"}}), 2*time.Second)
		limited("the page's sign-in while locked out", ask(t, n, rig.Account, rig.AuthToken, "POST", "/console/api/token", nil), 2*time.Second)
	}, `rollcall_auth_refused_total{reason="credentials"}`, `rollcall_auth_refused_total{reason="locked_out"}`, "rollcall_auth_lockouts_total")
	rig.Within(t, 10*time.Second, "the lock-out ends", func() error {
		if got := ask(t, n, rig.Account, rig.AuthToken, "GET", "/v1/Users/never", nil); got.status != http.StatusNotFound {
			return fmt.Errorf("%d %v", got.status, got.body)
		}
		return nil
	})
	if said := n.Log(); !strings.Contains(said, "address locked out") || strings.Contains(said, "guess") {
		t.Error("the lock-out is not in the log, or what was guessed is")
	}
}
