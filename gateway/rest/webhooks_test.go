package rest_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	conversations "github.com/twilio/twilio-go/rest/conversations/v1"

	"github.com/rollcall-presence/rollcall/gateway/rest"
	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/presence"
)

// The four settings of a service that has none are null; each is kept until it is set
// again, and an empty value clears it.
func TestTwilioServiceWebhooks(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		api := f.twilio.ConversationsV1
		got, err := api.FetchServiceWebhookConfiguration(f.service)
		if err != nil || got.PreWebhookUrl != nil || got.PostWebhookUrl != nil || got.Filters != nil || got.Method != nil ||
			*got.AccountSid != account || *got.ChatServiceSid != f.service || *got.Url != f.server.URL+"/v1/Services/"+f.service+"/Configuration/Webhooks" {
			t.Fatalf("never configured: %+v, %v", got, err)
		}
		got, err = api.UpdateServiceWebhookConfiguration(f.service, &conversations.UpdateServiceWebhookConfigurationParams{
			PreWebhookUrl: new("https://example.com/pre?a=b"), PostWebhookUrl: new("https://example.com/post"), Method: new("GET"),
			Filters: &[]string{"onUserUpdated", "onMessageAdd", "onUserUpdated", "onReachabilityChanged"},
		})
		if err != nil || *got.PreWebhookUrl != "https://example.com/pre?a=b" || *got.PostWebhookUrl != "https://example.com/post" || *got.Method != "GET" ||
			!slices.Equal(*got.Filters, []string{"onUserUpdated", "onMessageAdd", "onReachabilityChanged"}) {
			t.Fatalf("updated: %+v, %v", got, err)
		}
		got, err = api.UpdateServiceWebhookConfiguration(f.service, &conversations.UpdateServiceWebhookConfigurationParams{Method: new("POST")})
		if err != nil || *got.PostWebhookUrl != "https://example.com/post" || *got.Method != "POST" || len(*got.Filters) != 3 {
			t.Fatalf("updated again: %+v, %v", got, err)
		}
		f.do(t, "POST", "/v1/Services/"+f.service+"/Configuration/Webhooks", "PreWebhookUrl=&Filters=")
		got, err = api.FetchServiceWebhookConfiguration(f.service)
		if err != nil || got.PreWebhookUrl != nil || got.Filters != nil || *got.PostWebhookUrl != "https://example.com/post" {
			t.Errorf("cleared: %+v, %v", got, err)
		}
		for _, c := range []struct {
			p    conversations.UpdateServiceWebhookConfigurationParams
			code int
		}{
			{conversations.UpdateServiceWebhookConfigurationParams{PreWebhookUrl: new("forbidden")}, 50054},
			{conversations.UpdateServiceWebhookConfigurationParams{PostWebhookUrl: new("forbidden")}, 50078},
			{conversations.UpdateServiceWebhookConfigurationParams{Method: new("PUT")}, 50055},
			{conversations.UpdateServiceWebhookConfigurationParams{Filters: &[]string{"onNothing"}}, 20001},
		} {
			_, err := api.UpdateServiceWebhookConfiguration(f.service, &c.p)
			wantError(t, "a bad webhook", err, 400, c.code)
		}
		_, err = api.FetchServiceWebhookConfiguration(noSID)
		wantError(t, "no such service", err, 404, 20404)
	})
}

func TestTwilioAccountWebhooks(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		api := f.twilio.ConversationsV1
		got, err := api.FetchConfigurationWebhook()
		if err != nil || got.PreWebhookUrl != nil || got.PostWebhookUrl != nil || len(*got.Filters) != 0 || *got.Method != "POST" || *got.Target != "webhook" {
			t.Fatalf("never configured: %+v, %v", got, err)
		}
		got, err = api.UpdateConfigurationWebhook(&conversations.UpdateConfigurationWebhookParams{
			PostWebhookUrl: new("https://example.com/post"), Method: new("GET"), Filters: &[]string{"onUserAdded"}, Target: new("flex"),
		})
		if err != nil || *got.PostWebhookUrl != "https://example.com/post" || *got.Method != "GET" || !slices.Equal(*got.Filters, []string{"onUserAdded"}) || *got.Target != "flex" {
			t.Fatalf("updated: %+v, %v", got, err)
		}
		again, err := api.UpdateConfigurationWebhook(nil)
		if err != nil || *again.PostWebhookUrl != *got.PostWebhookUrl || *again.Url != f.server.URL+"/v1/Configuration/Webhooks" {
			t.Errorf("an empty update: %+v, %v", again, err)
		}
		_, err = api.UpdateConfigurationWebhook(&conversations.UpdateConfigurationWebhookParams{Target: new("nowhere")})
		wantError(t, "a bad target", err, 400, 20001)
		_, err = api.UpdateConfigurationWebhook(&conversations.UpdateConfigurationWebhookParams{PostWebhookUrl: new("forbidden")})
		wantError(t, "a bad URL", err, 400, 50078)
	})
}

func TestDebounceWindow(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		path := "/v1/Services/" + f.service + "/Configuration/Presence"
		if a := f.do(t, "GET", path, ""); a.body["debounce_window"] != 0.0 {
			t.Errorf("default = %v; want 0", a.body)
		}
		for value, want := range map[string]int{"30": 200, "1": 200, "0": 200, "31": 400, "-1": 400, "1.5": 400, "": 400, "x": 400} {
			if a := f.do(t, "POST", path, "DebounceWindow="+value); a.status != want {
				t.Errorf("DebounceWindow=%s: %d; want %d", value, a.status, want)
			}
		}
		if a := f.do(t, "POST", path, "DebounceWindow=7&Linger=3"); a.body["debounce_window"] != 7.0 || a.body["linger"] != 3.0 {
			t.Errorf("updated: %v", a.body)
		}
	})
}

// hookGate is a delivery that knows one forbidden URL, and refuses changes while told to.
type hookGate struct {
	refuse bool
	asked  int
}

func (*hookGate) CheckURL(url string) error {
	if url == "forbidden" {
		return errors.New("forbidden")
	}
	return nil
}

func (g *hookGate) BeforeUserUpdate(context.Context, presence.Service, presence.User, presence.UserUpdate) error {
	g.asked++
	if g.refuse {
		return presence.ErrRejected
	}
	return nil
}

// The backend is asked before an update that says so, and is told of what says so.
func TestWebhookEnabled(t *testing.T) {
	_, c := testkit.Mini(t)
	gate := &hookGate{}
	f := serve(t, c, rest.Options{Hooks: gate})
	f.do(t, "POST", "/v1/Services/"+f.service+"/Configuration/Webhooks", "PostWebhookUrl=http://example.com/&Filters=onUserAdded&Filters=onUserUpdated")
	owed := func() (n int) {
		ps := make([]presence.Partition, f.store.Partitions())
		for p := range ps {
			ps[p] = presence.Partition(p)
		}
		claims, errs := f.store.ClaimWebhooks(t.Context(), ps, nil)
		for i, c := range claims {
			if errs[i] != nil {
				t.Fatal(errs[i])
			}
			for _, u := range c.Users {
				n += len(u.Events)
			}
		}
		return n
	}
	api := f.twilio.ConversationsV1
	for i, enabled := range []*string{nil, new("false"), new("true")} {
		name := "user" + string(rune('0'+i))
		if _, err := api.CreateServiceUser(f.service, &conversations.CreateServiceUserParams{Identity: &name, XTwilioWebhookEnabled: enabled}); err != nil {
			t.Fatal(err)
		}
		if _, err := api.UpdateServiceUser(f.service, name, &conversations.UpdateServiceUserParams{FriendlyName: new("x"), XTwilioWebhookEnabled: enabled}); err != nil {
			t.Fatal(err)
		}
		if err := api.DeleteServiceUser(f.service, name, &conversations.DeleteServiceUserParams{XTwilioWebhookEnabled: enabled}); err != nil {
			t.Fatal(err)
		}
		want := 0
		if i == 2 {
			want = 2
		}
		if got := owed(); got != want || gate.asked != want/2 {
			t.Errorf("header %s: %d events owed, asked %d times; want %d and %d", show(enabled), got, gate.asked, want, want/2)
		}
	}
	if _, err := api.CreateServiceUser(f.service, &conversations.CreateServiceUserParams{Identity: new("ada")}); err != nil {
		t.Fatal(err)
	}
	gate.refuse = true
	_, err := api.UpdateServiceUser(f.service, "ada", &conversations.UpdateServiceUserParams{FriendlyName: new("x"), XTwilioWebhookEnabled: new("true")})
	wantError(t, "refused by the backend", err, 400, 50056)
	if got, err := api.FetchServiceUser(f.service, "ada"); err != nil || got.FriendlyName != nil {
		t.Errorf("after it was refused: %+v, %v", got, err)
	}
}

// Dead letters are listed in pages, fetched, replayed and deleted; those of another
// service are not there.
func TestDeadLettersAPI(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.do(t, "POST", "/v1/Services/"+f.service+"/Configuration", "ReachabilityEnabled=true")
		f.do(t, "POST", "/v1/Services/"+f.service+"/Configuration/Webhooks", "PostWebhookUrl=http://example.com/&Filters=onReachabilityChanged")
		f.connect(t, f.service, "ada", true)
		f.connect(t, f.service, "ada", false)
		f.connect(t, f.service, "bob", true)
		die := func() {
			t.Helper()
			ps := make([]presence.Partition, f.store.Partitions())
			for p := range ps {
				ps[p] = presence.Partition(p)
			}
			for left := true; left; {
				left = false
				claims, _ := f.store.ClaimWebhooks(t.Context(), ps, nil)
				for i, c := range claims {
					for _, u := range c.Users {
						left = true
						s := presence.Settled{Key: u.Key, Failed: u.Events[0].SID, Retry: time.Second, Why: "http_5xx"}
						if _, errs := f.store.SettleWebhooks(t.Context(), ps[i:i+1], [][]presence.Settled{{s}}, 0); errs[0] != nil {
							t.Fatal(errs[0])
						}
					}
				}
			}
		}
		die()
		base := "/v1/Services/" + f.service + "/Webhooks/"
		var sids []string
		for next := base + "DeadLetters?PageSize=2"; next != ""; {
			a := f.do(t, "GET", next, "")
			for _, item := range a.body["dead_letters"].([]any) {
				letter := item.(map[string]any)
				sids = append(sids, letter["sid"].(string))
				if letter["event_type"] != "onReachabilityChanged" || letter["attempts"] != 1.0 || letter["reason"] != "http_5xx" || letter["is_online"] == nil {
					t.Errorf("dead letter %v", letter)
				}
			}
			more, _ := a.body["meta"].(map[string]any)["next_page_url"].(string)
			next = strings.TrimPrefix(more, f.server.URL)
		}
		if len(sids) != 3 {
			t.Fatalf("dead letters %v; want 3", sids)
		}
		other, err := f.twilio.ConversationsV1.CreateService(&conversations.CreateServiceParams{FriendlyName: new("other")})
		if err != nil {
			t.Fatal(err)
		}
		theirs := "/v1/Services/" + *other.Sid + "/Webhooks/"
		for _, r := range []string{"GET DeadLetters/" + sids[0], "DELETE DeadLetters/" + sids[0], "POST DeadLetters/" + sids[0] + "/Replay"} {
			method, path, _ := strings.Cut(r, " ")
			if a := f.do(t, method, theirs+path, ""); a.status != http.StatusNotFound {
				t.Errorf("%s of another service: %d; want 404", r, a.status)
			}
		}
		if a := f.do(t, "POST", theirs+"Replay", ""); a.body["replayed"] != 0.0 {
			t.Errorf("another service replayed %v", a.body)
		}
		if a := f.do(t, "GET", base+"DeadLetters/"+sids[0], ""); a.body["sid"] != sids[0] || a.body["url"] != f.server.URL+base+"DeadLetters/"+sids[0] {
			t.Errorf("fetched %v", a.body)
		}
		if a := f.do(t, "DELETE", base+"DeadLetters/"+sids[0], ""); a.status != http.StatusNoContent {
			t.Errorf("deleting: %d", a.status)
		}
		if a := f.do(t, "GET", base+"DeadLetters/"+sids[0], ""); a.status != http.StatusNotFound {
			t.Errorf("deleted, but %d", a.status)
		}
		if a := f.do(t, "POST", base+"DeadLetters/"+sids[1]+"/Replay", ""); a.status != http.StatusOK || a.body["replayed"] != 1.0 || a.body["more"] != false {
			t.Errorf("replaying: %d %v", a.status, a.body)
		}
		if a := f.do(t, "POST", base+"DeadLetters/"+sids[1]+"/Replay", ""); a.status != http.StatusNotFound {
			t.Errorf("replaying it again: %d; want 404", a.status)
		}
		die()
		if a := f.do(t, "POST", base+"Replay", ""); a.body["replayed"] != 2.0 {
			t.Errorf("replaying the rest: %v", a.body)
		}
		if a := f.do(t, "GET", base+"DeadLetters", ""); len(a.body["dead_letters"].([]any)) != 0 {
			t.Errorf("left: %v", a.body)
		}
		if a := f.do(t, "GET", base+"DeadLetters/"+url.PathEscape("../x"), ""); a.status != http.StatusNotFound {
			t.Errorf("an odd SID: %d", a.status)
		}
	})
}
