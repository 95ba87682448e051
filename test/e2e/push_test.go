package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/rollcall-presence/rollcall/client"
	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/internal/testkit/rig"
)

// notified follows what one session is told of users being notifiable.
func notified(t *testing.T, n *rig.Node, sid string, identities ...string) *notifications {
	t.Helper()
	w := &notifications{t: t, events: make(chan string, 64)}
	w.Client = rig.Connect(t, n.WS(), sid, "watcher", client.Options{Invisible: true, OnEvent: func(e client.Event) {
		if e.Kind == client.UserUpdated {
			w.events <- fmt.Sprint(e.User.Identity, " ", rig.State(e.User.IsNotifiable), " ", e.Reasons)
		}
	}})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	users, err := w.Subscribe(ctx, identities...)
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range users {
		w.first = append(w.first, rig.State(u.IsNotifiable))
	}
	return w
}

type notifications struct {
	*client.Client
	t      *testing.T
	first  []string // as in the snapshots
	events chan string
}

// want takes the next updates, each for being notifiable alone, in order.
func (w *notifications) want(when string, d time.Duration, states ...string) {
	w.t.Helper()
	deadline := time.After(d)
	for _, want := range states {
		select {
		case got := <-w.events:
			if got != want+" [reachabilityNotifiable]" {
				w.t.Errorf("%s: told %q; want %q", when, got, want)
			}
		case <-deadline:
			w.t.Fatalf("%s: not told %q within %v", when, want, d)
		}
	}
}

// Devices registered on one node, over a connection and over REST, make their users
// notifiable for a subscriber on another; an address that another user registers
// takes both with it; and expiry, the deletion of a credential and of a binding take
// it back. No user is seen to come or go by any of it.
func TestPushBindings(t *testing.T) {
	redis := testkit.Redis(t)
	redisURL := "redis://" + redis.Addr
	here, there := rig.Start(t, redisURL), rig.Start(t, redisURL)
	sid := here.NewService()
	ctx := t.Context()
	users := map[string]*client.Client{}
	for _, id := range []string{"alice", "bob"} {
		users[id] = rig.Connect(t, here.WS(), sid, id, client.Options{})
	}
	w := notified(t, there, sid, "alice", "bob", "carol")
	if got := fmt.Sprint(w.first); got != "[null null null]" {
		t.Errorf("before anybody registered: %s; want nulls", got)
	}
	register := func(identity string, p client.Push) client.Binding {
		t.Helper()
		b, err := users[identity].RegisterPush(ctx, p)
		if err != nil {
			t.Fatalf("registering %s: %v", identity, err)
		}
		return b
	}
	rest := func(method, path string, form url.Values, want int) map[string]any {
		t.Helper()
		var v map[string]any
		if code := there.REST(method, path, form, &v); code != want {
			t.Fatalf("%s %s = %d %v; want %d", method, path, code, v, want)
		}
		return v
	}

	phone := client.Push{BindingType: "fcm", Address: "shared-phone"}
	first := register("alice", phone)
	w.want("registered", 5*time.Second, "alice true")
	if again := register("alice", phone); again.SID != first.SID {
		t.Errorf("registered again as %s; want %s", again.SID, first.SID)
	}
	register("bob", phone)
	w.want("moved", 5*time.Second, "bob true", "alice false")
	if b := rest("GET", "/v1/Services/"+sid+"/Bindings", nil, http.StatusOK)["bindings"].([]any); len(b) != 1 || b[0].(map[string]any)["identity"] != "bob" {
		t.Errorf("REST lists %v; want bob's binding alone", b)
	}

	credential := rest("POST", "/v1/Credentials", url.Values{"Type": {"apn"}, "PrivateKey": {"secret"}}, http.StatusCreated)["sid"].(string)
	register("alice", client.Push{BindingType: "apn", Address: "tablet", CredentialSID: credential})
	w.want("registered with a credential", 5*time.Second, "alice true")
	rest("DELETE", "/v1/Credentials/"+credential, nil, http.StatusNoContent)
	w.want("credential deleted", 5*time.Second, "alice false")
	if _, err := users["alice"].RegisterPush(ctx, client.Push{BindingType: "apn", Address: "tablet", CredentialSID: credential}); err == nil {
		t.Error("a deleted credential was taken")
	}

	short := client.Push{BindingType: "webpush", Address: "https://push.example/alice", ExpiresInS: 60}
	register("alice", short)
	expires := time.Now().Add(time.Minute)
	w.want("registered for a minute", 5*time.Second, "alice true")

	// Over REST, for a user who is not there; then the user's deletion.
	rest("POST", "/v1/Services/"+sid+"/Users", url.Values{"Identity": {"carol"}}, http.StatusCreated)
	if got := <-w.events; got != "carol null []" {
		t.Errorf("created: told %q; want carol null", got)
	}
	made := rest("POST", "/v1/Services/"+sid+"/Users/carol/Bindings", url.Values{"BindingType": {"gcm"}, "Address": {"c"}}, http.StatusCreated)
	w.want("registered over REST", 5*time.Second, "carol true")
	rest("DELETE", fmt.Sprintf("/v1/Services/%s/Bindings/%s", sid, made["sid"]), nil, http.StatusNoContent)
	w.want("deleted over REST", 5*time.Second, "carol false")

	// The switch.
	there.Flip(sid, false)
	rig.Eventually(t, "all is null", func() error {
		for _, id := range []string{"alice", "bob", "carol"} {
			var u struct {
				IsNotifiable *bool `json:"is_notifiable"`
			}
			here.REST("GET", "/v1/Services/"+sid+"/Users/"+id, nil, &u)
			if u.IsNotifiable != nil {
				return fmt.Errorf("%s is notifiable: %v", id, *u.IsNotifiable)
			}
		}
		return nil
	})
	there.Flip(sid, true)
	last := map[string]string{}
	rig.Within(t, 10*time.Second, "switched on again", func() error {
		for {
			select {
			case e := <-w.events:
				var id, s string
				_, _ = fmt.Sscan(e, &id, &s)
				last[id] = s
				continue
			default:
			}
			if got := fmt.Sprint(last); got != "map[alice:true bob:true carol:null]" {
				return fmt.Errorf("told %s", got)
			}
			return nil
		}
	})

	// Expired: a heartbeat of either node finds it.
	w.want("expired", time.Until(expires)+10*time.Second, "alice false")
	if early := time.Until(expires); early > 0 {
		t.Errorf("expired %v too early", early)
	}
	if err := users["bob"].UnregisterPush(ctx, register("bob", phone).SID); err != nil {
		t.Fatal(err)
	}
	w.want("unregistered", 5*time.Second, "bob false")
	for id := range users {
		if got := rig.State(there.Online(sid, id)); got != "true" {
			t.Errorf("is_online of %s = %s; want true", id, got)
		}
	}
}
