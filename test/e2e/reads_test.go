package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rollcall-presence/rollcall/client"
	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/internal/testkit/rig"
)

// follower follows a service's event stream, as a follower does that must not miss
// anything.
type follower struct {
	t    *testing.T
	mu   sync.Mutex // guards the following
	last string     // event id
	seen map[string]heard
}

type heard struct {
	state string // name of the event
	rev   int64
	at    time.Time
}

// follow opens the stream on a node, where the last one ended. The channel is closed
// when it ends.
func (b *follower) follow(n *rig.Node, sid string) <-chan struct{} {
	b.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, "GET", "http://"+n.Addr+"/v1/Services/"+sid+"/Presence/Events", nil)
	if err != nil {
		b.t.Fatal(err)
	}
	req.SetBasicAuth(rig.Account, rig.AuthToken)
	b.mu.Lock()
	if b.last != "" {
		req.Header.Set("Last-Event-ID", b.last)
	}
	b.mu.Unlock()
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil || res.StatusCode != http.StatusOK {
		b.t.Fatalf("opening the stream: %v, %v", res, err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		b.read(bufio.NewReader(res.Body))
	}()
	b.t.Cleanup(func() { cancel(); <-ended; _ = res.Body.Close() })
	return ended
}

func (b *follower) read(r *bufio.Reader) {
	var name, id, data string
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch field {
		case "id":
			id = value
		case "event":
			name = value
		case "data":
			data = value
		case "":
			b.event(name, id, data)
			name, data = "", ""
		}
	}
}

func (b *follower) event(name, id, data string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last = id
	if name == "" {
		return
	}
	var e struct {
		Identity string `json:"identity"`
		Rev      int64  `json:"rev"`
	}
	if err := json.Unmarshal([]byte(data), &e); err != nil {
		b.t.Errorf("event data %q: %v", data, err)
	}
	if was := b.seen[e.Identity]; e.Rev < was.rev {
		b.t.Errorf("revision %d of %s after %d", e.Rev, e.Identity, was.rev)
	}
	b.seen[e.Identity] = heard{name, e.Rev, time.Now()}
}

// knows waits until the follower has been told the states.
func (b *follower) knows(want map[string]string) {
	b.t.Helper()
	rig.Eventually(b.t, "the follower knows all", func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		for identity, state := range want {
			if got := b.seen[identity].state; got != state {
				return fmt.Errorf("%s is %q; want %q", identity, got, state)
			}
		}
		return nil
	})
}

// A stream on one node tells of users of another. When its node is gone, stopped in
// order or killed, it goes on elsewhere from its last event, and what happened
// meanwhile is told.
func TestEventStreamAcrossNodes(t *testing.T) {
	redisURL := "redis://" + testkit.Redis(t).Addr
	n := rig.Start(t, redisURL)
	sid := n.NewService()
	b := &follower{t: t, seen: map[string]heard{}}
	want := map[string]string{}
	clients := map[string]*client.Client{}
	join := func(identity string) time.Time {
		clients[identity] = rig.Connect(t, n.WS(), sid, identity, client.Options{})
		want[identity] = "online"
		return time.Now()
	}
	leave := func(identity string) {
		if err := clients[identity].Close(); err != nil {
			t.Fatal(err)
		}
		want[identity] = "offline"
	}
	for round, how := range []func(*rig.Node){(*rig.Node).Stop, (*rig.Node).Kill} {
		other := rig.Start(t, redisURL)
		ended := b.follow(other, sid)
		name := func(i int) string { return fmt.Sprintf("user-%d-%d", round, i) }
		online := map[string]time.Time{}
		for i := range 20 {
			online[name(i)] = join(name(i))
		}
		b.knows(want)
		var slowest time.Duration
		b.mu.Lock()
		for identity, at := range online {
			slowest = max(slowest, b.seen[identity].at.Sub(at))
		}
		b.mu.Unlock()
		t.Logf("told of 20 users; the slowest %v after it was online", slowest)
		if slowest > 2*time.Second {
			t.Errorf("told of a user %v after it was online", slowest)
		}

		gone := make(chan struct{})
		go func() { defer close(gone); how(other) }()
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			t.Fatal("the stream goes on, though its node is gone")
		}
		for i := range 10 {
			leave(name(i))
		}
		join(name(0))
		for i := range 5 {
			join(name(20 + i))
		}
		if code := n.REST("DELETE", "/v1/Services/"+sid+"/Users/"+name(19), nil, nil); code != http.StatusNoContent {
			t.Fatalf("deleting: %d", code)
		}
		want[name(19)] = "deleted"
		<-gone
		b.follow(n, sid)
		b.knows(want)
	}

	// What it was told is what is true.
	query := url.Values{}
	for identity := range maps.Keys(want) {
		query.Add("Identity", identity)
	}
	var truth struct {
		Users []struct {
			rig.User
			Identity string `json:"identity"`
			Rev      int64  `json:"rev"`
		} `json:"users"`
	}
	if code := n.REST("GET", "/v1/Services/"+sid+"/Presence?"+query.Encode(), nil, &truth); code != http.StatusOK || len(truth.Users) != len(want) {
		t.Fatalf("reading the truth: %d, %d users", code, len(truth.Users))
	}
	states := map[string]string{"true": "online", "false": "offline"}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, u := range truth.Users {
		got := b.seen[u.Identity]
		if u.SID == "" {
			if got.state != "deleted" {
				t.Errorf("%s was told as %+v; it is deleted", u.Identity, got)
			}
		} else if got.state != states[rig.State(u.IsOnline)] || got.rev != u.Rev {
			t.Errorf("%s was told as %+v; it is %s at revision %d", u.Identity, got, rig.State(u.IsOnline), u.Rev)
		}
	}
}

// An operator ends sessions on a node other than the one that is asked: they are
// closed with 3503 long before the next heartbeat, and with the last the user is
// seen to leave. So are the sessions of a deleted user.
func TestEndSessionsOnAnotherNode(t *testing.T) {
	redisURL := "redis://" + testkit.Redis(t).Addr
	env := []string{"ROLLCALL_HEARTBEAT=20s", "ROLLCALL_LEASE_TTL=60s"}
	holder, asked := rig.Start(t, redisURL, env...), rig.Start(t, redisURL, env...)
	sid := asked.NewService()
	w := rig.Watch(t, asked.WS(), sid, "watcher", "ann", "bob")
	open := func(n *rig.Node, identity string) (c *rig.Raw, id string) {
		token, err := rig.Mint(sid, identity)(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		c = n.Raw(t)
		c.Text(`{"type":"hello","token":"` + token + `"}`)
		id, _ = c.Message("welcome")["session"].(string)
		return c, id
	}
	one, first := open(holder, "ann")
	two, _ := open(holder, "ann")
	three, _ := open(asked, "ann")
	bob, _ := open(holder, "bob")

	path := "/v1/Services/" + sid + "/Users/ann/Sessions"
	sessions := func() (list []struct{ ID, Node string }) {
		var answer struct {
			Sessions []struct{ ID, Node string } `json:"sessions"`
		}
		if code := asked.REST("GET", path, nil, &answer); code != http.StatusOK {
			t.Fatalf("listing: %d", code)
		}
		return answer.Sessions
	}
	list := sessions()
	nodes := map[string]int{}
	for _, s := range list {
		nodes[s.Node]++
	}
	if len(list) != 3 || len(nodes) != 2 {
		t.Fatalf("sessions = %v; want three on two nodes", list)
	}
	prompt := func(what string, begin time.Time, ended ...*rig.Raw) {
		t.Helper()
		for _, c := range ended {
			c.Ends(3503)
		}
		took := time.Since(begin)
		t.Logf("%s: closed after %v", what, took)
		if took > 5*time.Second {
			t.Errorf("%s: closed after %v; the next heartbeat would have done it too", what, took)
		}
	}
	begin := time.Now()
	if code := asked.REST("DELETE", path+"/"+first, nil, nil); code != http.StatusNoContent {
		t.Fatalf("ending one: %d", code)
	}
	prompt("one session", begin, one)
	two.Alive()
	if got := len(sessions()); got != 2 {
		t.Errorf("%d sessions left; want 2", got)
	}
	if h := w.History("ann"); h != "true" {
		t.Errorf("the watcher saw %q; want ann to stay online", h)
	}
	begin = time.Now()
	if code := asked.REST("DELETE", path, nil, nil); code != http.StatusNoContent {
		t.Fatalf("ending all: %d", code)
	}
	prompt("all sessions", begin, two, three)
	rig.Within(t, 5*time.Second, "the watcher sees ann leave", func() error {
		if h := w.History("ann"); h != "true false" {
			return fmt.Errorf("saw %q", h)
		}
		return nil
	})
	begin = time.Now()
	if code := asked.REST("DELETE", "/v1/Services/"+sid+"/Users/bob", nil, nil); code != http.StatusNoContent {
		t.Fatalf("deleting: %d", code)
	}
	prompt("a deleted user's session", begin, bob)
}
