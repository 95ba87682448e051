package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	twilio "github.com/twilio/twilio-go/client"

	"github.com/rollcall-presence/rollcall/client"
	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/internal/testkit/rig"
)

// told is one webhook as a backend received it.
type told struct {
	sid, identity, online, cause string
	rev, before                  int64
}

// backend receives webhooks, refuses some of them, and keeps what it took in the order
// in which it came.
type backend struct {
	*httptest.Server
	t        testing.TB
	requests atomic.Int64
	mu       sync.Mutex // guards the following
	took     []told
}

func newBackend(t testing.TB) *backend {
	b := &backend{t: t}
	b.Server = httptest.NewServer(b)
	t.Cleanup(b.Close)
	return b
}

func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		return // cut off: its node was killed
	}
	params := map[string]string{}
	for name := range r.PostForm {
		params[name] = r.PostForm.Get(name)
	}
	v := twilio.NewRequestValidator(rig.AuthToken)
	if !v.Validate(b.URL+r.RequestURI, params, r.Header.Get("X-Twilio-Signature")) {
		b.t.Errorf("a webhook's signature is not valid: %v", params)
	}
	if b.requests.Add(1)%11 == 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	n := func(name string) int64 { n, _ := strconv.ParseInt(params[name], 10, 64); return n }
	b.mu.Lock()
	defer b.mu.Unlock()
	b.took = append(b.took, told{
		sid: params["EventSid"], identity: params["Identity"], online: params["isOnline"], cause: params["Cause"],
		rev: n("Revision"), before: n("PreviousRevision"),
	})
}

// history is what was told of a user, without what was told more than once.
func (b *backend) history(identity string) (list []told) {
	b.mu.Lock()
	defer b.mu.Unlock()
	seen := map[string]bool{}
	for _, w := range b.took {
		if w.identity == identity && !seen[w.sid] {
			seen[w.sid] = true
			list = append(list, w)
		}
	}
	return list
}

// complete reports what a user's history lacks of all its transitions, up to a revision.
func complete(history []told, last int64) error {
	var before int64
	online := "false"
	for i, w := range history {
		switch {
		case w.before != before:
			return fmt.Errorf("event %d has revision %d after %d, but the one before was %d", i, w.rev, w.before, before)
		case w.rev <= before:
			return fmt.Errorf("event %d has revision %d, not above %d", i, w.rev, before)
		case w.online == online:
			return fmt.Errorf("event %d says %s twice in a row", i, online)
		}
		before, online = w.rev, w.online
	}
	if before != last {
		return fmt.Errorf("%d events, the last has revision %d; the user's is %d", len(history), before, last)
	}
	return nil
}

// The check that the fault test ends with sees what is missing, out of order or late.
func TestComplete(t *testing.T) {
	whole := []told{{rev: 5, online: "true"}, {rev: 7, before: 5, online: "false"}, {rev: 9, before: 7, online: "true"}, {rev: 12, before: 9, online: "false"}}
	if err := complete(whole, 12); err != nil {
		t.Errorf("a complete history: %v", err)
	}
	if complete(whole, 13) == nil || complete(nil, 12) == nil {
		t.Error("a history that lacks its end is taken for complete")
	}
	for i := range whole {
		if complete(slices.Delete(slices.Clone(whole), i, i+1), 12) == nil {
			t.Errorf("a history that lacks event %d is taken for complete", i)
		}
	}
	swapped := slices.Clone(whole)
	swapped[1], swapped[2] = swapped[2], swapped[1]
	if complete(swapped, 12) == nil {
		t.Error("a history out of order is taken for complete")
	}
}

// Users come and go on three nodes while nodes are killed with -9 and Redis is killed
// and restarted: the backend is told of every transition, in each user's order, and of
// each that a client saw.
func TestWebhooksSurvive(t *testing.T) {
	redis := testkit.Redis(t, "--appendonly", "yes", "--appendfsync", "always")
	redisURL := "redis://" + redis.Addr
	env := []string{
		"ROLLCALL_LEASE_TTL=3s", "ROLLCALL_HEARTBEAT=500ms", "ROLLCALL_LINGER=500ms", "ROLLCALL_PARTITIONS=32",
		"ROLLCALL_WEBHOOK_ALLOWED_NETWORKS=127.0.0.0/8",
	}
	nodes := []*rig.Node{rig.Start(t, redisURL, env...), rig.Start(t, redisURL, env...), rig.Start(t, redisURL, env...)}
	lb := rig.Balance(t, slices.Clone(nodes)...)
	sid := nodes[0].NewService()
	b := newBackend(t)
	if code := nodes[0].REST("POST", "/v1/Services/"+sid+"/Configuration/Webhooks", url.Values{
		"PostWebhookUrl": {b.URL + "/hooks?from=rollcall"}, "Filters": {"onReachabilityChanged"},
	}, nil); code != http.StatusOK {
		t.Fatalf("configuring webhooks: %d", code)
	}
	ids := numbered("user", 24)

	// What a client saw, as another witness.
	var mu sync.Mutex // guards saw
	saw := map[string]map[int64]bool{}
	witness := rig.Connect(t, nodes[2].WS(), sid, "witness", client.Options{Invisible: true, OnEvent: func(e client.Event) {
		if e.Kind == client.UserUpdated && e.User.IsOnline != nil {
			mu.Lock()
			defer mu.Unlock()
			if saw[e.User.Identity] == nil {
				saw[e.User.Identity] = map[int64]bool{}
			}
			saw[e.User.Identity][e.User.Rev] = *e.User.IsOnline
		}
	}})
	if _, err := witness.Subscribe(t.Context(), ids...); err != nil {
		t.Fatal(err)
	}

	churn, stop := context.WithCancel(t.Context())
	defer stop()
	var users sync.WaitGroup
	var sessions atomic.Int64
	for i, id := range ids {
		users.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 1))
			for churn.Err() == nil {
				ctx, cancel := context.WithTimeout(churn, 5*time.Second)
				c, err := client.Dial(ctx, lb.WS(), client.Options{Token: rig.Mint(sid, id)})
				cancel()
				if err == nil {
					sessions.Add(1)
				}
				select {
				case <-churn.Done():
				case <-time.After(time.Duration(50+r.IntN(300)) * time.Millisecond):
				}
				if err == nil && r.IntN(2) == 0 {
					_ = c.Close()
				} else if err == nil {
					c.Drop()
				}
				select {
				case <-churn.Done():
				case <-time.After(time.Duration(r.IntN(900)) * time.Millisecond):
				}
			}
		})
	}
	// Each fault comes once so many more sessions were made: life goes on in between.
	goOn := func(what string, more int64) {
		t.Helper()
		want := sessions.Load() + more
		rig.Within(t, 60*time.Second, what, func() error {
			if n := sessions.Load(); n < want {
				return fmt.Errorf("%d of %d sessions", n, want)
			}
			return nil
		})
	}
	replace := func(i int) {
		t.Helper()
		nodes[i].Kill()
		nodes[i] = rig.Start(t, redisURL, env...)
		lb.Set(i, nodes[i])
	}
	goOn("at first", 60)
	replace(0)
	goOn("a node was killed", 60)
	redis.Kill()
	redis.Start(t)
	goOn("Redis was restarted", 60)
	replace(1)
	redis.Kill()
	redis.Start(t)
	goOn("both", 60)
	replace(0)
	goOn("another node was killed", 30)
	stop()
	users.Wait()

	// In the end all are offline, and the backend knows each step that led there.
	w := rig.Connect(t, nodes[2].WS(), sid, "auditor", client.Options{Invisible: true})
	rig.Within(t, 120*time.Second, "every transition was told", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		now, err := w.Subscribe(ctx, ids...)
		if err != nil {
			return err
		}
		for _, u := range now {
			if got := rig.State(u.IsOnline); got != "false" {
				return fmt.Errorf("%s is online: %s", u.Identity, got)
			}
			if err := complete(b.history(u.Identity), u.Rev); err != nil {
				return fmt.Errorf("%s: %w", u.Identity, err)
			}
		}
		return nil
	})
	transitions, causes, revs := 0, map[string]int{}, map[string]string{}
	for _, id := range ids {
		for _, e := range b.history(id) {
			transitions++
			causes[e.cause]++
			revs[id+strconv.FormatInt(e.rev, 10)] = e.online
		}
	}
	mu.Lock()
	defer mu.Unlock()
	for id, states := range saw {
		for rev, online := range states {
			if got := revs[id+strconv.FormatInt(rev, 10)]; got != fmt.Sprint(online) {
				t.Errorf("a client saw %s, revision %d: %v; the backend was told %q", id, rev, online, got)
			}
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	t.Logf("%d sessions, %d transitions (%v), %d webhooks taken, %d requests", sessions.Load(), transitions, causes, len(b.took), b.requests.Load())
	if transitions < 100 || causes["linger"] == 0 || causes["end"] == 0 || causes["connect"] == 0 || len(saw) == 0 {
		t.Error("the test shows less than it should")
	}
}
