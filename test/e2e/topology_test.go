package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rollcall-presence/rollcall/client"
	"github.com/rollcall-presence/rollcall/internal/keys"
	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/internal/testkit/rig"
	"github.com/rollcall-presence/rollcall/presence"
)

// topology is three nodes on a Redis of some kind, each with users who stay connected
// throughout and a watcher of all of them.
type topology struct {
	t        *testing.T
	nodes    []*rig.Node
	sid      string
	stays    []string // identities
	watchers []*rig.Watcher
	left     []map[string]bool // of each watcher: who was last seen to leave
	visits   int
}

var partitions = keys.Keys{Prefix: "rc:", Partitions: 64}

func onTopology(t *testing.T, redisURL string) *topology {
	t.Helper()
	env := []string{
		"ROLLCALL_HEARTBEAT=500ms", "ROLLCALL_LEASE_TTL=6s", "ROLLCALL_LINGER=2s", fmt.Sprint("ROLLCALL_PARTITIONS=", partitions.Partitions),
		"ROLLCALL_WEBHOOK_ALLOWED_NETWORKS=127.0.0.0/8",
	}
	w := &topology{t: t}
	for range 3 {
		w.nodes = append(w.nodes, rig.Start(t, redisURL, env...))
	}
	w.sid = w.nodes[0].NewService()
	for i := range 60 {
		w.stays = append(w.stays, fmt.Sprint("stays", i))
	}
	for i, n := range w.nodes {
		w.left = append(w.left, map[string]bool{})
		w.watchers = append(w.watchers, rig.Watch(t, n.WS(), w.sid, fmt.Sprint("watcher", i), append(w.visitors(), w.stays...)...))
	}
	for i, identity := range w.stays {
		rig.Connect(t, w.nodes[i%3].WS(), w.sid, identity, client.Options{})
	}
	for i, watcher := range w.watchers {
		rig.Eventually(t, fmt.Sprintf("watcher %d sees all come", i), func() error {
			for _, identity := range w.stays {
				if got := watcher.History(identity); got != "true" {
					return fmt.Errorf("%s: %q", identity, got)
				}
			}
			return nil
		})
		watcher.Reset()
	}
	return w
}

// visitors are the users who come and go, in many partitions.
func (w *topology) visitors() []string {
	var all []string
	for i := range 40 {
		all = append(all, fmt.Sprint("visitor", i))
	}
	return all
}

// works has a user come to each node and leave again, and checks that every watcher sees that and nothing
// else, and that REST tells the truth on each node.
func (w *topology) works(when string) {
	w.t.Helper()
	seen := map[string]bool{}
	for _, n := range w.nodes {
		identity := w.visitors()[w.visits%40]
		w.visits++
		seen[identity] = true
		c := rig.Connect(w.t, n.WS(), w.sid, identity, client.Options{})
		w.see(when+", "+identity+" has come", identity, "true")
		if err := c.Close(); err != nil {
			w.t.Fatalf("%s: closing %s: %v", when, identity, err)
		}
		w.see(when+", "+identity+" has left", identity, "true false")
	}
	for i, watcher := range w.watchers {
		for identity, history := range watcher.Seen() {
			if !seen[identity] {
				w.t.Errorf("%s: watcher %d saw %s of %s, who did nothing", when, i, history, identity)
			}
			w.left[i][identity] = true
		}
		watcher.Reset()
	}
	for i, n := range w.nodes {
		for _, identity := range w.stays {
			rig.Eventually(w.t, fmt.Sprintf("%s: REST on node %d", when, i), func() error {
				var u rig.User
				if code, err := n.TryREST("GET", "/v1/Services/"+w.sid+"/Users/"+identity, nil, &u); err != nil || code != http.StatusOK {
					return errors.Join(fmt.Errorf("answered with %d", code), err)
				}
				if rig.State(u.IsOnline) != "true" {
					w.t.Errorf("%s: is_online of %s is %s on node %d; want true", when, identity, rig.State(u.IsOnline), i)
				}
				return nil
			})
		}
	}
}

func (w *topology) see(what, identity, want string) {
	w.t.Helper()
	for i, watcher := range w.watchers {
		rig.Within(w.t, 20*time.Second, fmt.Sprintf("%s: watcher %d", what, i), func() error {
			if got := watcher.History(identity); got != want {
				return fmt.Errorf("saw %q; want %q", got, want)
			}
			return nil
		})
	}
}

// during runs f while users come and go on each node by themselves, and then waits until every
// watcher has seen each of them leave.
func (w *topology) during(when string, f func()) {
	w.t.Helper()
	over := make(chan struct{})
	done := make(chan []string)
	for i, n := range w.nodes {
		go func() {
			var came []string
			for j := 0; ; j++ {
				select {
				case <-over:
					done <- came
					return
				default:
				}
				identity := fmt.Sprint("visitor", 12+i*9+j%9)
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
				c, err := client.Dial(ctx, n.WS(), client.Options{Token: rig.Mint(w.sid, identity), BackoffBase: 50 * time.Millisecond, BackoffLimit: 200 * time.Millisecond})
				cancel()
				if err != nil {
					continue // its partition could not be served all that time
				}
				came = append(came, identity)
				_ = c.Close()
			}
		}()
	}
	f()
	close(over)
	var came []string
	for range w.nodes {
		came = append(came, <-done...)
	}
	if len(came) < 9 {
		w.t.Errorf("%s: only %d users came and left", when, len(came))
	}
	for i, watcher := range w.watchers {
		rig.Eventually(w.t, fmt.Sprintf("%s: watcher %d sees all leave", when, i), func() error {
			for _, identity := range came {
				// Who came and left between the loss of a message and its repair may not be seen at all.
				if got := watcher.History(identity); !strings.HasSuffix(got, "false") && (got != "" || !w.left[i][identity]) {
					return fmt.Errorf("saw %q of %s", got, identity)
				}
			}
			return nil
		})
	}
	rig.Elapse(w.t, 2*time.Second) // a few heartbeats: what is still to be repaired comes within one
	for i, watcher := range w.watchers {
		for identity, history := range watcher.Seen() {
			if !slices.Contains(came, identity) {
				w.t.Errorf("%s: watcher %d saw %s of %s, who did nothing", when, i, history, identity)
			}
			if !strings.HasSuffix(history, "false") {
				w.t.Errorf("%s: watcher %d saw %s of %s, who has left", when, i, history, identity)
			}
			w.left[i][identity] = true
		}
		watcher.Reset()
	}
}

// On a Redis Cluster: slots move under load, a replica takes over in good order, a primary dies. Nobody who
// stays is seen to leave, and afterwards everything works as before.
func TestOnCluster(t *testing.T) {
	cluster := testkit.StartCluster(t, 3, 1)
	w := onTopology(t, cluster.URL())
	w.works("at the start")
	for i, n := range w.nodes {
		if got := n.Metric("rollcall_bus_connections"); got != 4 {
			t.Errorf("node %d has %v connections that receive; want one to each of 3 primaries, and one", i, got)
		}
	}

	w.during("while slots move", func() {
		for p := range presence.Partition(6) {
			slot := cluster.Slot(t, partitions.Channel(p))
			from := cluster.Owner(t, slot)
			m := cluster.BeginMove(t, slot, cluster.Servers[(slices.Index(cluster.Servers, from)+1)%3])
			for m.Keys(t, 5) > 0 {
				rig.Elapse(t, 20*time.Millisecond) // in between its keys are on both sides
			}
			m.End(t)
		}
	})
	w.works("after slots have moved")

	w.during("while a replica takes over", func() { cluster.Failover(t, cluster.Servers[0]) })
	w.works("after a replica has taken over")

	slot := cluster.Slot(t, partitions.Channel(10))
	victim := cluster.Owner(t, slot)
	victim.Kill()
	cluster.AwaitFailover(t, slot, victim)
	w.works("after a primary has died")
	victim.Start(t)
	w.works("after it has come back")
}

// Under Sentinel: a failover in good order, and one that loses the last writes.
func TestOnSentinel(t *testing.T) {
	sentinels := testkit.StartSentinels(t)
	w := onTopology(t, sentinels.URL())
	w.works("at the start")
	sentinels.Failover(t)
	w.works("after a failover")

	// What is written from here on is lost: that a user came, among others.
	sentinels.Sever(t)
	rig.Connect(t, w.nodes[1].WS(), w.sid, "visitor30", client.Options{})
	w.see("the late one has come", "visitor30", "true")
	old := sentinels.Primary(t)
	old.Kill()
	for _, s := range sentinels.Servers {
		if s != old {
			s.Cont(t)
		}
	}
	sentinels.AwaitFailover(t, old)
	rig.Eventually(t, "the late one is recorded again", func() error {
		var u rig.User
		code, err := w.nodes[0].TryREST("GET", "/v1/Services/"+w.sid+"/Users/visitor30", nil, &u)
		if err == nil && (code != http.StatusOK || rig.State(u.IsOnline) != "true") {
			err = fmt.Errorf("%d, is_online %s", code, rig.State(u.IsOnline))
		}
		return err
	})
	for i, watcher := range w.watchers {
		if got := watcher.History("visitor30"); strings.Contains(got, "false") {
			t.Errorf("watcher %d saw %s of one who stayed", i, got)
		}
		for identity, history := range watcher.Seen() {
			if identity != "visitor30" {
				t.Errorf("watcher %d saw %s of %s, who did nothing", i, history, identity)
			}
		}
		watcher.Reset()
	}
	w.works("after a failover that lost writes")
}

// rights are what docs/redis.md says the node's user needs.
func rights(t *testing.T, section string) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/redis.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(page), "<!-- "+section+" -->\n```\n")
	rules, _, ok2 := strings.Cut(rest, "\n```")
	if !ok || !ok2 {
		t.Fatalf("docs/redis.md has no %s", section)
	}
	_, rules, _ = strings.Cut(rules, ">PASSWORD ")
	return strings.ReplaceAll(rules, "\\\n", "")
}

// Over TLS with certificates on both sides, and as a user who may do what docs/redis.md lists and nothing
// else: Redis notes each command that it denies.
func TestSecuredRedis(t *testing.T) {
	redis := testkit.StartSecured(t, rights(t, "acl"))
	w := onTopology(t, redis.URL())
	w.works("over TLS")
	exercise(t, w, redis.URL())

	for _, bad := range []struct{ what, url string }{
		{"no client certificate", strings.Split(redis.URL(), "?")[0] + "?ca=" + url.QueryEscape(redis.CA)},
		{"an unknown authority", strings.Split(redis.URL(), "?")[0]},
		{"no TLS", "redis://" + redis.Addr},
	} {
		if said := refuses(t, bad.url); !strings.Contains(said, "ROLLCALL_REDIS_URL") {
			t.Errorf("with %s the node says %q; want it to name the setting", bad.what, said)
		}
	}

	c := redis.Client()
	defer func() { _ = c.Close() }()
	denied, err := c.Do(t.Context(), "acl", "log").Slice()
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range denied {
		if text := fmt.Sprint(entry); !strings.Contains(text, "maint_notifications") {
			t.Errorf("denied: %s", text)
		}
	}
}

// The same rights, and those that only a Cluster needs, on a Cluster.
func TestClusterRights(t *testing.T) {
	acl := t.TempDir() + "/users.acl"
	rules := rights(t, "acl") + " " + rights(t, "acl-cluster")
	if err := os.WriteFile(acl, []byte("user default on nopass ~* &* +@all\nuser rollcall on >pass resetkeys resetchannels -@all "+rules+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cluster := testkit.StartCluster(t, 3, 0, "--aclfile", acl)
	as := strings.Replace(cluster.URL(), "://", "://rollcall:pass@", 1)
	w := onTopology(t, as)
	w.works("with few rights")
	exercise(t, w, as)
	for _, s := range cluster.Servers {
		c := s.Client()
		denied, err := c.Do(t.Context(), "acl", "log").Slice()
		_ = c.Close()
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range denied {
			if text := fmt.Sprint(entry); !strings.Contains(text, "maint_notifications") {
				t.Errorf("denied: %s", text)
			}
		}
	}
}

// refuses starts a node that is not to start, and returns what it says.
func refuses(t *testing.T, redisURL string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	said, err := command(ctx, t, redisURL, "serve").CombinedOutput()
	if err == nil || ctx.Err() != nil {
		t.Errorf("a node on %s ends with %v, %v; want it not to start", redisURL, err, ctx.Err())
	}
	return string(said)
}

// command is the program on a Redis.
func command(ctx context.Context, t *testing.T, redisURL string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(ctx, rig.Binary(t), args...)
	cmd.Env = []string{
		"ROLLCALL_ADDR=127.0.0.1:0", "ROLLCALL_ADMIN_ADDR=127.0.0.1:0", "ROLLCALL_REDIS_URL=" + redisURL, "HOME=" + os.Getenv("HOME"),
		"ROLLCALL_ACCOUNT_SID=" + rig.Account, "ROLLCALL_AUTH_TOKEN=" + rig.AuthToken,
		"ROLLCALL_API_KEY_SID=" + rig.KeySID, "ROLLCALL_API_KEY_SECRET=" + rig.KeySecret, fmt.Sprint("ROLLCALL_PARTITIONS=", partitions.Partitions),
	}
	return cmd
}

// exercise does at least one thing of each kind that makes a node ask something of Redis.
func exercise(t *testing.T, w *topology, redisURL string) {
	t.Helper()
	n := w.nodes[0]
	call := func(method, path string, form url.Values) string {
		t.Helper()
		var made struct{ SID string }
		code, err := n.TryREST(method, path, form, &made)
		if err != nil || code < 200 || code >= 300 {
			t.Errorf("%s %s = %d, %v", method, path, code, err)
		}
		return made.SID
	}
	service := "/v1/Services/" + w.sid
	get := func(paths ...string) {
		t.Helper()
		for _, path := range paths {
			call("GET", path, nil)
		}
	}
	backend := newBackend(t)
	hooks := url.Values{"PostWebhookUrl": {backend.URL + "/hooks"}, "Filters": {"onReachabilityChanged"}}
	call("POST", service+"/Configuration/Webhooks", hooks)
	call("POST", "/v1/Configuration/Webhooks", hooks)
	get("/v1/Configuration/Webhooks", service+"/Configuration/Webhooks", service+"/Webhooks/DeadLetters")

	user := call("POST", service+"/Users", url.Values{"Identity": {"made"}})
	call("POST", service+"/Users/"+user, url.Values{"FriendlyName": {"Made"}})
	get(service+"/Users/"+user, service+"/Users/made", service+"/Users", "/v1/Users", service+"/Presence?Identity=made", service+"/Presence?Online=true",
		service+"/Presence/Changes", service+"/Users/made/Sessions", service+"/Users/stays1/Sessions")
	get(service, "/v1/Services", service+"/Configuration", service+"/Configuration/Presence", service+"/Configuration/Notifications", "/v1/Configuration")
	call("POST", service+"/Configuration/Notifications", url.Values{"LogEnabled": {"true"}})
	call("POST", "/v1/Configuration", url.Values{"DefaultChatServiceSid": {w.sid}})

	credential := call("POST", "/v1/Credentials", url.Values{"Type": {"fcm"}, "Secret": {"x"}})
	call("POST", "/v1/Credentials/"+credential, url.Values{"FriendlyName": {"phones"}})
	for range 2 { // the address goes from one user to the other
		for _, identity := range []string{"made", "stays2"} {
			call("POST", service+"/Users/"+identity+"/Bindings", url.Values{"BindingType": {"fcm"}, "Address": {"phone"}, "CredentialSid": {credential}})
		}
	}
	binding := call("POST", service+"/Users/made/Bindings", url.Values{"BindingType": {"apn"}, "Address": {"other"}})
	get(service+"/Bindings", service+"/Bindings/"+binding, "/v1/Credentials", "/v1/Credentials/"+credential)
	call("DELETE", service+"/Bindings/"+binding, nil)
	call("DELETE", "/v1/Credentials/"+credential, nil)

	role := call("POST", service+"/Roles", url.Values{"FriendlyName": {"helper"}, "Type": {"conversation"}, "Permission": {"sendMessage"}})
	call("POST", service+"/Roles/"+role, url.Values{"Permission": {"sendMessage", "leaveConversation"}})
	get(service+"/Roles", service+"/Roles/"+role, "/v1/Roles")
	call("DELETE", service+"/Roles/"+role, nil)

	key := call("POST", "/v1/Keys", url.Values{"FriendlyName": {"backend"}})
	get("/v1/Keys", "/v1/Keys/"+key)
	call("DELETE", "/v1/Keys/"+key, nil)
	call("POST", service+"/Revocations", url.Values{"Identity": {"nobody"}})
	get(service + "/Revocations")

	rig.Connect(t, n.WS(), w.sid, "visitor39", client.Options{})
	call("DELETE", service+"/Users/visitor39/Sessions", nil)
	call("DELETE", service+"/Users/"+user, nil)
	rig.Eventually(t, "the backend is told", func() error {
		if backend.requests.Load() == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	other := n.NewService()
	rig.Connect(t, n.WS(), other, "somebody", client.Options{})
	call("DELETE", "/v1/Services/"+other, nil)
	if out, err := command(t.Context(), t, redisURL, "verify").CombinedOutput(); err != nil {
		t.Errorf("verify: %v\n%s", err, out)
	}
	w.nodes[2].Stop() // gives up its lease
}
