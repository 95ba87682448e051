package e2e

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rollcall-presence/rollcall/client"
	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/internal/testkit/rig"
)

// Three processes on one real Redis: users come and go on each, watchers on each see
// the same, one node is killed with -9 and each of its users is seen to leave
// exactly once.
func TestThreeNodes(t *testing.T) {
	redis := testkit.Redis(t)
	redisURL := "redis://" + redis.Addr
	nodes := []*rig.Node{rig.Start(t, redisURL), rig.Start(t, redisURL), rig.Start(t, redisURL)}
	sid := nodes[0].NewService()

	const perNode = 30
	var identities []string
	for i := range nodes {
		for u := range perNode {
			identities = append(identities, fmt.Sprintf("user-%d-%d", i, u))
		}
	}
	var watchers []*rig.Watcher
	for i, n := range nodes {
		watchers = append(watchers, rig.Watch(t, n.WS(), sid, fmt.Sprint("watcher", i), identities...))
	}
	each := func(what, want string, d time.Duration, which func(identity string) bool) {
		t.Helper()
		for i, w := range watchers {
			if w == nil {
				continue
			}
			for _, id := range identities {
				if !which(id) {
					continue
				}
				rig.Within(t, d, fmt.Sprintf("%s: watcher %d sees %s", what, i, id), func() error {
					if got := w.History(id); got != want {
						return fmt.Errorf("saw %q; want %q", got, want)
					}
					return nil
				})
			}
		}
	}
	all := func(string) bool { return true }

	clients := map[string]*client.Client{}
	var mu sync.Mutex // guards clients
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Go(func() {
			for u := range perNode {
				id := fmt.Sprintf("user-%d-%d", i, u)
				c := rig.Connect(t, n.WS(), sid, id, client.Options{})
				mu.Lock()
				clients[id] = c
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	each("came", "true", 10*time.Second, all)

	// Clean sign-outs, and back.
	odd := func(id string) bool { return strings.HasSuffix(id, "1") }
	for id, c := range clients {
		if odd(id) {
			if err := c.Close(); err != nil {
				t.Errorf("closing %s: %v", id, err)
			}
		}
	}
	each("signed out", "true false", 10*time.Second, odd)
	for id := range clients {
		if odd(id) {
			clients[id] = rig.Connect(t, nodes[int(id[5]-'0')].WS(), sid, id, client.Options{})
		}
	}
	each("came back", "true false true", 10*time.Second, odd)
	for i, w := range watchers {
		w.Reset()
		if got := rig.State(nodes[i].Online(sid, identities[i])); got != "true" {
			t.Errorf("REST on node %d: is_online of %s = %s; want true", i, identities[i], got)
		}
	}

	// One node is killed; a few of its users come back elsewhere, within the lease.
	back := []string{"user-2-3", "user-2-4"}
	lost := func(id string) bool { return strings.HasPrefix(id, "user-2-") && !slices.Contains(back, id) }
	for id, c := range clients {
		if strings.HasPrefix(id, "user-2-") {
			c.Drop()
		}
	}
	nodes[2].Kill()
	watchers[2] = nil
	for _, id := range back {
		rig.Connect(t, nodes[0].WS(), sid, id, client.Options{})
	}
	// lease 10 s + sweep 3 s, and time for a busy machine
	each("killed", "false", 25*time.Second, lost)
	// Nothing else was seen, and nothing more comes: two more heartbeats.
	settled := time.Now().Add(7 * time.Second)
	rig.Eventually(t, "two more heartbeats", func() error {
		if time.Now().Before(settled) {
			return rig.ErrNotYet
		}
		return nil
	})
	each("exactly once", "false", time.Second, lost)
	each("nobody else", "", time.Second, func(id string) bool { return !lost(id) })
	for _, id := range identities {
		want := "true"
		if lost(id) {
			want = "false"
		}
		if got := rig.State(nodes[1].Online(sid, id)); got != want {
			t.Errorf("REST: is_online of %s = %s; want %s", id, got, want)
		}
	}
}

// Every node is replaced while clients stay: not one presence event is seen.
func TestRollingRestart(t *testing.T) {
	redis := testkit.Redis(t)
	redisURL := "redis://" + redis.Addr
	const drain = "ROLLCALL_DRAIN_TIMEOUT=6s"
	nodes := []*rig.Node{rig.Start(t, redisURL, drain), rig.Start(t, redisURL, drain), rig.Start(t, redisURL, drain)}
	lb := rig.Balance(t, slices.Clone(nodes)...)
	sid := nodes[0].NewService()

	const users = 60
	var identities []string
	for u := range users {
		identities = append(identities, fmt.Sprint("user", u))
	}
	var connects sync.Map // identity -> number of sessions it had
	for _, id := range identities {
		n := 0
		rig.Connect(t, lb.WS(), sid, id, client.Options{OnConnect: func(client.Welcome) { n++; connects.Store(id, n) }})
	}
	w := rig.Watch(t, lb.WS(), sid, "watcher", identities...)
	for i := range nodes {
		nodes[i].Stop()
		nodes[i] = rig.Start(t, redisURL, drain)
		lb.Set(i, nodes[i])
	}
	// Long enough for any linger that was begun to end.
	settled := time.Now().Add(23 * time.Second)
	rig.Within(t, 40*time.Second, "lingers to end", func() error {
		if time.Now().Before(settled) {
			return rig.ErrNotYet
		}
		return nil
	})
	if n := w.Events(); n != 0 {
		t.Errorf("saw %d presence events: %v; want none", n, w.Seen())
	}
	moved := 0
	for _, id := range identities {
		if got := rig.State(nodes[0].Online(sid, id)); got != "true" {
			t.Errorf("is_online of %s = %s; want true", id, got)
		}
		if n, _ := connects.Load(id); n.(int) > 1 {
			moved++
		}
	}
	if moved != users {
		t.Errorf("%d of %d users were moved; the test shows less than it should", moved, users)
	}
}

// A page reload within linger is not seen; a user that does not come back is, after
// linger; the switch turns all to null and back.
func TestEmbedded(t *testing.T) {
	n := rig.Start(t, "embedded", "ROLLCALL_LINGER=2s")
	sid := n.NewService()
	w := rig.Watch(t, n.WS(), sid, "watcher", "ada", "bob")
	see := func(what, identity, want string) {
		t.Helper()
		rig.Eventually(t, what, func() error {
			if got := w.History(identity); got != want {
				return fmt.Errorf("saw %q; want %q", got, want)
			}
			return nil
		})
	}
	ada := rig.Connect(t, n.WS(), sid, "ada", client.Options{})
	see("ada comes", "ada", "true")
	ada.Drop()
	ada = rig.Connect(t, n.WS(), sid, "ada", client.Options{})
	bob := rig.Connect(t, n.WS(), sid, "bob", client.Options{})
	see("bob comes", "bob", "true")
	began := time.Now()
	bob.Drop()
	see("bob is lost", "bob", "true false")
	if d := time.Since(began); d < 2*time.Second {
		t.Errorf("bob was seen to leave after %v; want linger first", d)
	}
	see("ada was never seen to leave", "ada", "true")
	n.Flip(sid, false)
	see("switched off", "ada", "true null")
	if got := n.Online(sid, "ada"); got != nil {
		t.Errorf("REST after the switch: %v; want null", *got)
	}
	n.Flip(sid, true)
	see("switched on", "ada", "true null true")
	see("bob was not online since", "bob", "true false null")
	if err := ada.Close(); err != nil {
		t.Error(err)
	}
	see("ada signs out", "ada", "true null true false")
	if code := n.REST("DELETE", "/v1/Services/"+sid+"/Users/bob", nil, nil); code != http.StatusNoContent {
		t.Errorf("deleting bob: %d", code)
	}
}

// Redis loses all it has while clients are connected: nobody is shown offline, nobody
// is disconnected, and what the nodes know of is there again.
func TestFlush(t *testing.T) {
	redis := testkit.Redis(t)
	redisURL := "redis://" + redis.Addr
	n1, n2 := rig.Start(t, redisURL), rig.Start(t, redisURL)
	sid := n1.NewService()
	var connects atomic.Int32
	bob := rig.Connect(t, n1.WS(), sid, "bob", client.Options{OnConnect: func(client.Welcome) { connects.Add(1) }})
	w := rig.Watch(t, n2.WS(), sid, "watcher", "bob")
	before := n1.User(sid, "bob")
	c := redis.Client()
	defer func() { _ = c.Close() }()
	if err := c.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	rig.Within(t, 10*time.Second, "bob is there again", func() error {
		if u := n2.User(sid, "bob"); u.SID != before.SID || rig.State(u.IsOnline) != "true" {
			return fmt.Errorf("%+v", u)
		}
		if got := w.History("bob"); got != "" && got != "null true" {
			return fmt.Errorf("saw %q", got)
		}
		return nil
	})
	if n := connects.Load(); n != 1 {
		t.Errorf("bob connected %d times; want once", n)
	}
	if code := n1.REST("GET", "/v1/Configuration", nil, nil); code != http.StatusOK {
		t.Errorf("account configuration after the flush: %d", code)
	}
	w.Reset()
	if err := bob.Close(); err != nil {
		t.Error(err)
	}
	rig.Eventually(t, "bob is seen to leave", func() error {
		if got := w.History("bob"); got != "false" {
			return fmt.Errorf("saw %q", got)
		}
		return nil
	})
}

// Services, users, bindings and credentials outlive nodes, and Redis with append-only files.
func TestResourcesSurvive(t *testing.T) {
	redis := testkit.Redis(t, "--appendonly", "yes", "--appendfsync", "always")
	redisURL := "redis://" + redis.Addr
	n := rig.Start(t, redisURL)
	sid := n.NewService()
	if code := n.REST("POST", "/v1/Services/"+sid+"/Users", url.Values{"Identity": {"ada"}, "FriendlyName": {"Ada"}}, nil); code != http.StatusCreated {
		t.Fatalf("creating ada: %d", code)
	}
	var credential, binding struct {
		SID        string `json:"sid"`
		Credential string `json:"credential_sid"`
	}
	if code := n.REST("POST", "/v1/Credentials", url.Values{"Type": {"fcm"}, "Secret": {"s"}}, &credential); code != http.StatusCreated {
		t.Fatalf("creating a credential: %d", code)
	}
	form := url.Values{"BindingType": {"fcm"}, "Address": {"phone"}, "CredentialSid": {credential.SID}}
	if code := n.REST("POST", "/v1/Services/"+sid+"/Users/ada/Bindings", form, &binding); code != http.StatusCreated {
		t.Fatalf("registering ada's phone: %d", code)
	}
	bob := rig.Connect(t, n.WS(), sid, "bob", client.Options{})
	watcher := rig.Watch(t, n.WS(), sid, "watcher", "ada", "bob")
	redis.Kill()
	redis.Start(t)
	n2 := rig.Start(t, redisURL)
	var u struct {
		FriendlyName string `json:"friendly_name"`
		IsNotifiable *bool  `json:"is_notifiable"`
	}
	if code := n2.REST("GET", "/v1/Services/"+sid+"/Users/ada", nil, &u); code != http.StatusOK || u.FriendlyName != "Ada" || rig.State(u.IsNotifiable) != "true" {
		t.Errorf("ada after the restart: %d, %+v, notifiable %s", code, u, rig.State(u.IsNotifiable))
	}
	found := binding
	if code := n2.REST("GET", "/v1/Services/"+sid+"/Bindings/"+binding.SID, nil, &found); code != http.StatusOK || found != binding || found.Credential != credential.SID {
		t.Errorf("ada's binding after the restart: %d, %+v; want %+v", code, found, binding)
	}
	if code := n2.REST("DELETE", "/v1/Credentials/"+credential.SID, nil, nil); code != http.StatusNoContent {
		t.Errorf("deleting the credential after the restart: %d", code)
	}
	rig.Eventually(t, "ada is not notifiable any more", func() error {
		if n2.REST("GET", "/v1/Services/"+sid+"/Users/ada", nil, &u); rig.State(u.IsNotifiable) != "false" {
			return fmt.Errorf("is_notifiable is %s", rig.State(u.IsNotifiable))
		}
		return nil
	})
	// The session lived through it, on the node that holds it and in what others see.
	rig.Eventually(t, "the node is in touch with Redis again", func() error {
		res, err := http.Get("http://" + n.Admin + "/readyz")
		if err != nil {
			return err
		}
		_ = res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("not ready: %d", res.StatusCode)
		}
		return nil
	})
	if got := rig.State(n2.Online(sid, "bob")); got != "true" {
		t.Errorf("is_online of bob after the restart = %s; want true", got)
	}
	if err := bob.Close(); err != nil {
		t.Error(err)
	}
	rig.Eventually(t, "bob is seen to leave", func() error {
		if got := watcher.History("bob"); got != "false" {
			return fmt.Errorf("saw %q", got)
		}
		return nil
	})
}
