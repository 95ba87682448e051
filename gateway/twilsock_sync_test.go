package gateway_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rollcall-presence/rollcall/gateway"
	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/presence"
)

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
