package e2e

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	conversations "github.com/twilio/twilio-go/rest/conversations/v1"

	"github.com/rollcall-presence/rollcall/internal/testkit/rig"
)

var readOperations = []operation{
	{id: "ListServiceUserSession", run: func(t *testing.T, c *contract) {
		tn := c.newTenant(t, "of sessions")
		path := tn.path("/v1/Services/{ChatServiceSid}/Users/{Sid}/Sessions")
		tn.connect(t, tn.identity)
		if got := c.list(t, path, "sessions", "id"); len(got) != 2 || !slices.Contains(got, tn.has["Sessions"]) {
			t.Errorf("sessions %v; want two, one of which is %s", got, tn.has["Sessions"])
		}
		if err := c.must(t, http.MethodGet, path, "").is(object{"identity": tn.identity, "user_sid": tn.alice}); err != nil {
			t.Error(err)
		}
	}},
	{id: "DeleteServiceUserSession", run: func(t *testing.T, c *contract) {
		tn := c.newTenant(t, "of an ended session")
		other := tn.connect(t, tn.identity)
		path := tn.path("/v1/Services/{ChatServiceSid}/Users/{Sid}/Sessions/{SessionId}")
		c.must(t, http.MethodDelete, path, "")
		tn.wantOnline(t, tn.identity, "true") // the other goes on
		last := c.list(t, tn.base("/Users/"+tn.alice+"/Sessions"), "sessions", "id")
		if len(last) != 1 {
			t.Fatalf("sessions left: %v; want one", last)
		}
		c.must(t, http.MethodDelete, tn.base("/Users/"+tn.alice+"/Sessions/"+last[0]), "")
		tn.wantOnline(t, tn.identity, "false")
		wantClosed(t, other, 3503)
		_, err := c.do(http.MethodDelete, path, "")
		wantError(t, "ending it again", err, 404, 20404)
	}},
	{id: "DeleteServiceUserSessions", run: func(t *testing.T, c *contract) {
		tn := c.newTenant(t, "of ended sessions")
		one, two := tn.connect(t, tn.identity), tn.connect(t, tn.identity)
		path := tn.path("/v1/Services/{ChatServiceSid}/Users/{Sid}/Sessions")
		c.must(t, http.MethodDelete, path, "")
		tn.wantOnline(t, tn.identity, "false")
		wantClosed(t, one, 3503)
		wantClosed(t, two, 3503)
		c.must(t, http.MethodDelete, path, "") // of none
	}},

	{id: "ListPresence", params: "Identity=x", run: func(t *testing.T, c *contract) {
		tn := c.newTenant(t, "read in bulk")
		identities := []string{tn.identity, "nobody", "b&b"}
		for i := range 5 {
			identities = append(identities, fmt.Sprintf("online.%d", i))
		}
		if _, err := c.api.CreateServiceUser(tn.service, &conversations.CreateServiceUserParams{Identity: &identities[2]}); err != nil {
			t.Fatal(err)
		}
		want := []string{tn.identity + " true", "nobody null", "b&b null"}
		for _, identity := range identities[3:] {
			tn.connect(t, identity)
			want = append(want, identity+" true")
		}
		// The dot of an identity is what the library takes from a query: this is asked by hand.
		var got []string
		a := tn.get(t, tn.base("/Presence")+"?"+url.Values{"Identity": identities}.Encode())
		for _, u := range a["users"].([]any) {
			u := u.(map[string]any)
			got = append(got, strings.ReplaceAll(fmt.Sprint(u["identity"], " ", u["is_online"]), "<nil>", "null"))
			if (u["sid"] == nil) != (u["identity"] == "nobody") {
				t.Errorf("%v has SID %v", u["identity"], u["sid"])
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("presence %v; want %v, in the order asked", got, want)
		}
		online := append([]string{tn.identity}, identities[3:]...)
		if got := items(c.forward(t, tn.base("/Presence"), "Online=true", "users", "identity")); !slices.Equal(got, online) {
			t.Errorf("pages of who is online = %v; want %v, in the order of their coming", got, online)
		}
		if err := c.must(t, http.MethodGet, tn.base("/Presence"), "Online=true&PageSize=1").is(object{"online_count": len(online), "reachability_enabled": true}); err != nil {
			t.Error(err)
		}
	}, refuses: append([]refusal{
		{what: "nobody asked for", status: 400, code: 20001},
		{what: "both ways at once", params: "Online=true&Identity=x", status: 400, code: 20001},
		{what: "who is offline", params: "Online=false", status: 400, code: 20001},
		{what: "too many", params: strings.Repeat("Identity=x&", 501), status: 400, code: 20001},
	}, withParams(listRefusals, "Online=true")...)},
	{id: "ListPresenceChange", run: func(t *testing.T, c *contract) {
		tn := c.newTenant(t, "of changes")
		path := tn.base("/Presence/Changes")
		// read goes on from a cursor to the end of the log.
		read := func(cursor string, limit int) (got []string, end string) {
			t.Helper()
			for {
				a := c.must(t, http.MethodGet, path, fmt.Sprintf("Cursor=%s&Limit=%d", cursor, limit))
				users := a["users"].([]any)
				if len(users) > limit {
					t.Errorf("%d users in an answer; want at most %d", len(users), limit)
				}
				for _, u := range users {
					u := u.(map[string]any)
					got = append(got, strings.ReplaceAll(fmt.Sprint(u["identity"], " ", u["is_online"], " ", u["deleted"]), "<nil>", "null"))
				}
				if cursor = a["cursor"].(string); a["more"] == false {
					return got, cursor
				}
			}
		}
		got, cursor := read("", 1)
		if want := []string{tn.identity + " true false"}; !slices.Equal(got, want) {
			t.Errorf("from the beginning %v; want %v", got, want)
		}
		now := c.must(t, http.MethodGet, path, "Cursor=now")
		if len(now["users"].([]any)) != 0 {
			t.Errorf("from now on %v; want nothing", now["users"])
		}
		for _, identity := range []string{"one", "two", "gone"} {
			if _, err := c.api.CreateServiceUser(tn.service, &conversations.CreateServiceUserParams{Identity: &identity}); err != nil {
				t.Fatal(err)
			}
		}
		session := tn.connect(t, "two")
		if err := c.api.DeleteServiceUser(tn.service, "gone", nil); err != nil {
			t.Fatal(err)
		}
		if err := session.Close(); err != nil {
			t.Fatal(err)
		}
		tn.wantOnline(t, "two", "false")
		want := []string{"gone null true", "one null false", "two false false"} // each once, at its newest
		for _, from := range []string{cursor, now["cursor"].(string)} {
			var got []string
			end := from
			rig.Eventually(t, "changes are told", func() error { // of the last millisecond, the next answer tells
				var more []string
				more, end = read(end, 2)
				if got = append(got, more...); len(got) < len(want) {
					return fmt.Errorf("after %s %v; want %v", from, got, want)
				}
				return nil
			})
			if slices.Sort(got); !slices.Equal(got, want) {
				t.Errorf("after %s %v; want %v", from, got, want)
			}
			if more, _ := read(end, 500); len(more) > 0 {
				t.Errorf("after the end %v; want nothing", more)
			}
		}
	}, refuses: []refusal{
		{what: "a cursor of nobody", params: "Cursor=nonsense", status: 400, code: 20001},
		{what: "a cursor from before the store lost its data", prepare: lostCursor, status: 410, code: 20410},
		{what: "no limit", params: "Limit=0", status: 400, code: 20001},
	}},
	{id: "StreamPresenceEvents", run: func(t *testing.T, c *contract) {
		tn, other := c.newTenant(t, "streamed"), c.newTenant(t, "not streamed")
		all := tn.stream(t, "")
		one := tn.stream(t, "?Identity=bob")
		other.connect(t, "elsewhere")
		tn.connect(t, "ann")
		bob := tn.connect(t, "bob")
		all.want(t, "online ann", "online bob")
		one.want(t, "online bob")
		if err := bob.Close(); err != nil {
			t.Fatal(err)
		}
		all.want(t, "offline bob")
		// Another stream, on the other gateway, goes on where one left off.
		seen := one.id
		one.want(t, "offline bob")
		tn.stream(t, "?Cursor="+seen).want(t, "offline bob")
		tn.stream(t, "?Identity=bob&Identity=ann", "Last-Event-ID", seen).want(t, "offline bob")
	}, refuses: []refusal{
		{what: "a cursor of nobody", params: "Cursor=nonsense", status: 400, code: 20001},
		{what: "a cursor from before the store lost its data", prepare: lostCursor, status: 410, code: 20410},
		{what: "too many", params: strings.Repeat("Identity=x&", 501), status: 400, code: 20001},
	}},
}

// lostCursor is a cursor of another run of the store than this one.
func lostCursor(t *testing.T, c *contract) (path, params string) {
	cursor := c.must(t, http.MethodGet, c.main.base("/Presence/Changes"), "Cursor=now")["cursor"].(string)
	text, err := base64.RawURLEncoding.DecodeString(cursor)
	run, rest, ok := strings.Cut(string(text), ".")
	if err != nil || !ok {
		t.Fatalf("cursor %q is %q, %v; want it to begin with a run", cursor, text, err)
	}
	return "", "Cursor=" + base64.RawURLEncoding.EncodeToString([]byte(run+"0."+rest))
}

// withParams are refusals with more parameters before theirs.
func withParams(list []refusal, more string) (all []refusal) {
	for _, r := range list {
		r.params = more + "&" + r.params
		all = append(all, r)
	}
	return all
}

// get makes a request past the library, which takes ".1" out of queries.
func (tn *tenant) get(t *testing.T, path string) object {
	t.Helper()
	resp := tn.open(t.Context(), t, path)
	defer func() { _ = resp.Body.Close() }()
	var a object
	if err := json.NewDecoder(resp.Body).Decode(&a); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s = %d %v, %v", path, resp.StatusCode, a, err)
	}
	return a
}

func (tn *tenant) open(ctx context.Context, t *testing.T, path string, header ...string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://conversations.twilio.com"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.SetBasicAuth(rig.Account, rig.AuthToken)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := tn.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// events is an open stream.
type events struct {
	got chan string // event and identity
	id  string      // of the last that was wanted; owned by want
	ids chan string
}

func (tn *tenant) stream(t *testing.T, query string, header ...string) *events {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	resp := tn.open(ctx, t, tn.base("/Presence/Events")+query, header...)
	e := &events{got: make(chan string, 100), ids: make(chan string, 100)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		e.read(resp)
	}()
	t.Cleanup(func() {
		cancel()
		_ = resp.Body.Close()
		<-done
	})
	return e
}

// read reads the stream: an event is told once its data is there.
func (e *events) read(resp *http.Response) {
	var name, id string
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		field, value, _ := strings.Cut(lines.Text(), ": ")
		switch field {
		case "event":
			name = value
		case "id":
			id = value
		case "data":
			var u struct {
				Identity string `json:"identity"`
			}
			_ = json.Unmarshal([]byte(value), &u)
			e.got <- name + " " + u.Identity
			e.ids <- id
		}
	}
}

// want fails unless the next events are these.
func (e *events) want(t *testing.T, want ...string) {
	t.Helper()
	for _, w := range want {
		select {
		case got := <-e.got:
			e.id = <-e.ids
			if got != w {
				t.Errorf("the stream tells %q; want %q", got, w)
			}
		case <-time.After(15 * time.Second):
			t.Fatalf("the stream tells nothing; want %q", w)
		}
	}
}
