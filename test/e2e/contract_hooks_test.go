package e2e

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	twilioclient "github.com/twilio/twilio-go/client"
	conversations "github.com/twilio/twilio-go/rest/conversations/v1"

	"github.com/rollcall-presence/rollcall/internal/testkit/rig"
)

// filters are all that can be asked for: those about conversations are kept and never
// fire.
var filters = []string{
	"onMessageAdd", "onMessageAdded", "onMessageUpdate", "onMessageUpdated", "onMessageRemove", "onMessageRemoved",
	"onConversationAdd", "onConversationAdded", "onConversationUpdate", "onConversationUpdated", "onConversationRemove", "onConversationRemoved",
	"onParticipantAdd", "onParticipantAdded", "onParticipantUpdate", "onParticipantUpdated", "onParticipantRemove", "onParticipantRemoved",
	"onConversationStateUpdated", "onDeliveryUpdated", "onUserAdded", "onUserUpdate", "onUserUpdated", "onReachabilityChanged",
}

// hookRefusals are what both configurations of webhooks refuse.
var hookRefusals = []refusal{
	{what: "a method that is none", params: "Method=PUT", status: 400, code: 50055},
	{what: "a URL that is none", params: "PostWebhookUrl=nonsense", status: 400, code: 50078},
	{what: "a pre URL that is none", params: "PreWebhookUrl=ftp://example.com/", status: 400, code: 50054},
	{what: "a filter that is none", params: "Filters=onNothing", status: 400, code: 20001},
	{what: "an address that is not allowed", params: "PostWebhookUrl=http://10.0.0.1/hook", status: 400, code: 50078},
}

var hookOperations = []operation{
	{id: "FetchServiceWebhookConfiguration", run: func(t *testing.T, c *contract) {
		tn := c.newTenant(t, "unhooked")
		h, err := c.api.FetchServiceWebhookConfiguration(tn.service)
		if err != nil {
			t.Fatal(err)
		}
		same(t, "chat_service_sid", h.ChatServiceSid, tn.service)
		same(t, "account_sid", h.AccountSid, rig.Account)
		if h.PreWebhookUrl != nil || h.PostWebhookUrl != nil || h.Filters != nil || h.Method != nil {
			t.Errorf("at first %+v; want the four settings null", h)
		}
		if !strings.HasSuffix(*h.Url, tn.base("/Configuration/Webhooks")) {
			t.Errorf("url %s", *h.Url)
		}
	}},
	{id: "UpdateServiceWebhookConfiguration", run: func(t *testing.T, c *contract) {
		tn := c.newTenant(t, "hooked")
		h, err := c.api.UpdateServiceWebhookConfiguration(tn.service, &conversations.UpdateServiceWebhookConfigurationParams{
			PreWebhookUrl: new("http://127.0.0.1:9/pre?a=b&c=d"), PostWebhookUrl: new("http://127.0.0.1:9/post"), Method: new("GET"), Filters: &filters,
		})
		if err != nil {
			t.Fatal(err)
		}
		same(t, "pre_webhook_url", h.PreWebhookUrl, "http://127.0.0.1:9/pre?a=b&c=d")
		same(t, "post_webhook_url", h.PostWebhookUrl, "http://127.0.0.1:9/post")
		same(t, "method", h.Method, "GET")
		if !slices.Equal(slices.Sorted(slices.Values(*h.Filters)), slices.Sorted(slices.Values(filters))) {
			t.Errorf("filters %v; want all of them", *h.Filters)
		}
		// Of what is not named nothing changes; an empty URL clears.
		if _, err := c.api.UpdateServiceWebhookConfiguration(tn.service, &conversations.UpdateServiceWebhookConfigurationParams{Filters: &[]string{"onUserUpdated"}}); err != nil {
			t.Fatal(err)
		}
		if h, err = c.api.UpdateServiceWebhookConfiguration(tn.service, &conversations.UpdateServiceWebhookConfigurationParams{PreWebhookUrl: new("")}); err != nil {
			t.Fatal(err)
		}
		if h.PreWebhookUrl != nil || show(h.PostWebhookUrl) != "http://127.0.0.1:9/post" || fmt.Sprint(*h.Filters) != "[onUserUpdated]" {
			t.Errorf("pre %s, post %s, filters %v; want the first cleared and the rest kept", show(h.PreWebhookUrl), show(h.PostWebhookUrl), *h.Filters)
		}
	}, refuses: hookRefusals},
	{id: "FetchConfigurationWebhook", run: func(t *testing.T, c *contract) {
		h, err := c.api.FetchConfigurationWebhook()
		if err != nil {
			t.Fatal(err)
		}
		same(t, "account_sid", h.AccountSid, rig.Account)
		same(t, "target", h.Target, "webhook")
		if !strings.HasSuffix(*h.Url, "/v1/Configuration/Webhooks") {
			t.Errorf("url %s", *h.Url)
		}
	}},
	{id: "UpdateConfigurationWebhook", run: func(t *testing.T, c *contract) {
		h, err := c.api.UpdateConfigurationWebhook(&conversations.UpdateConfigurationWebhookParams{
			Method: new("POST"), Filters: &[]string{"onUserAdded", "onUserUpdate"}, PreWebhookUrl: new("http://127.0.0.1:9/pre"),
			PostWebhookUrl: new("http://127.0.0.1:9/post"), Target: new("flex"),
		})
		if err != nil {
			t.Fatal(err)
		}
		same(t, "method", h.Method, "POST")
		same(t, "target", h.Target, "flex")
		same(t, "post_webhook_url", h.PostWebhookUrl, "http://127.0.0.1:9/post")
		h, err = c.api.UpdateConfigurationWebhook(&conversations.UpdateConfigurationWebhookParams{PreWebhookUrl: new(""), PostWebhookUrl: new(""), Target: new("webhook")})
		if err != nil || h.PreWebhookUrl != nil || h.PostWebhookUrl != nil || h.Filters == nil {
			t.Errorf("cleared = %+v, %v; want no URL, and an array of filters", h, err)
		}
		if a := c.must(t, http.MethodPost, "/v1/Configuration/Webhooks", ""); fmt.Sprint(a["filters"]) != "[onUserAdded onUserUpdate]" {
			t.Errorf("filters after an update of nothing = %v; want them kept", a["filters"])
		}
	}, refuses: append([]refusal{
		{what: "a target that is none", params: "Target=moon", status: 400, code: 20001},
	}, hookRefusals...)},

	{id: "ListDeadLetter", run: func(t *testing.T, c *contract) {
		tn := c.newTenant(t, "of dead letters")
		tn.bury(t, 5)
		if got := c.pages(t, tn.base("/Webhooks/DeadLetters"), "", "dead_letters", "sid"); len(got) != 5 || len(slices.Compact(slices.Sorted(slices.Values(got)))) != 5 {
			t.Errorf("pages of dead letters = %v; want 5", got)
		}
	}, refuses: listRefusals},
	{id: "FetchDeadLetter", run: func(t *testing.T, c *contract) {
		tn := c.newTenant(t, "of a dead letter")
		if err := c.must(t, http.MethodGet, tn.path("/v1/Services/{ChatServiceSid}/Webhooks/DeadLetters/{Sid}"), "").is(object{
			"sid": tn.of("DeadLetters"), "user_sid": tn.alice, "identity": tn.identity, "event_type": "onUserUpdated", "reason": "overflow", "chat_service_sid": tn.service,
		}); err != nil {
			t.Error(err)
		}
	}},
	{id: "DeleteDeadLetter", run: func(t *testing.T, c *contract) {
		path := c.newTenant(t, "of a dead letter that goes").path("/v1/Services/{ChatServiceSid}/Webhooks/DeadLetters/{Sid}")
		c.must(t, http.MethodDelete, path, "")
		_, err := c.do(http.MethodGet, path, "")
		wantError(t, "fetching it", err, 404, 20404)
		_, err = c.do(http.MethodDelete, path, "")
		wantError(t, "deleting it again", err, 404, 20404)
	}},
	{id: "ReplayDeadLetter", run: func(t *testing.T, c *contract) {
		tn := c.newTenant(t, "of a dead letter that comes back")
		sid, back := tn.of("DeadLetters"), newTarget(t)
		tn.hook(t, back.URL+"/hook", "POST", "onUserUpdated")
		if err := c.must(t, http.MethodPost, tn.path("/v1/Services/{ChatServiceSid}/Webhooks/DeadLetters/{Sid}/Replay"), "").is(object{"replayed": 1}); err != nil {
			t.Error(err)
		}
		back.among(t, sid)
		_, err := c.do(http.MethodGet, tn.base("/Webhooks/DeadLetters/"+sid), "")
		wantError(t, "fetching it", err, 404, 20404)
	}},
	{id: "ReplayAllDeadLetters", run: func(t *testing.T, c *contract) {
		tn := c.newTenant(t, "of dead letters that come back")
		sids, back := tn.bury(t, 3), newTarget(t)
		tn.hook(t, back.URL+"/hook", "POST", "onUserUpdated")
		if err := c.must(t, http.MethodPost, tn.base("/Webhooks/Replay"), "").is(object{"replayed": 3, "more": false}); err != nil {
			t.Error(err)
		}
		back.among(t, sids...)
	}},
}

// TestWebhooks tells a backend of users, which checks each request as the
// library does.
func TestWebhooks(t *testing.T) {
	contracts(t, func(t *testing.T, c *contract) {
		tn, back := c.newTenant(t, "told"), newTarget(t)
		// A quarter of the signature's traps: a port, a query with escapes, and a fragment.
		tn.hook(t, back.URL+"/hook?of=a%20b&x#fragment", "POST", "onUserAdded", "onUserUpdated", "onReachabilityChanged")

		u, err := c.api.CreateServiceUser(tn.service, &conversations.CreateServiceUserParams{
			Identity: new("bob & söns"), FriendlyName: new("B+b"), Attributes: new(`{"a":"=&"}`), XTwilioWebhookEnabled: new("true"),
		})
		if err != nil {
			t.Fatal(err)
		}
		bob := url.PathEscape("bob & söns")
		back.want(t, url.Values{
			"EventType": {"onUserAdded"}, "AccountSid": {rig.Account}, "ChatServiceSid": {tn.service}, "UserSid": {*u.Sid}, "Identity": {"bob & söns"},
			"FriendlyName": {"B+b"}, "Attributes": {`{"a":"=&"}`}, "RoleSid": {tn.role}, "Source": {"API"},
		})
		if _, err := c.api.UpdateServiceUser(tn.service, bob, &conversations.UpdateServiceUserParams{FriendlyName: new("not told")}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.api.UpdateServiceUser(tn.service, bob, &conversations.UpdateServiceUserParams{FriendlyName: new("told"), XTwilioWebhookEnabled: new("true")}); err != nil {
			t.Fatal(err)
		}
		// Of one user events come in their order: what was not to be told was not.
		back.want(t, url.Values{"EventType": {"onUserUpdated"}, "FriendlyName": {"told"}, "Source": {"API"}})
		session := tn.connect(t, "bob & söns")
		back.want(t, url.Values{"EventType": {"onUserUpdated"}, "isOnline": {"true"}, "Source": {"SDK"}, "ClientIdentity": {"bob & söns"}, "DateCreated": nil, "DateUpdated": nil})
		back.want(t, url.Values{"EventType": {"onReachabilityChanged"}, "isOnline": {"true"}, "Revision": nil, "Cause": nil})
		tn.bind(t, "bob & söns", "fcm", "of bob", "")
		back.want(t, url.Values{"EventType": {"onUserUpdated"}, "isOnline": {"true"}, "isNotifiable": {"true"}})
		back.want(t, url.Values{"EventType": {"onReachabilityChanged"}, "isNotifiable": {"true"}})
		if err := session.Close(); err != nil {
			t.Fatal(err)
		}
		back.want(t, url.Values{"EventType": {"onUserUpdated"}, "isOnline": {"false"}, "isNotifiable": {"true"}})

		// By GET the parameters are in the URL, which alone is signed.
		other := newTarget(t)
		tn.hook(t, other.URL, "GET", "onUserAdded")
		if _, err := c.api.CreateServiceUser(tn.service, &conversations.CreateServiceUserParams{Identity: new("got"), XTwilioWebhookEnabled: new("true")}); err != nil {
			t.Fatal(err)
		}
		other.want(t, url.Values{"EventType": {"onUserAdded"}, "Identity": {"got"}})

		// The backend is asked before a change that it wants to be told of.
		deny := newTarget(t)
		deny.status.Store(http.StatusForbidden)
		if _, err := c.api.UpdateServiceWebhookConfiguration(tn.service, &conversations.UpdateServiceWebhookConfigurationParams{
			PreWebhookUrl: new(deny.URL), Filters: &[]string{"onUserUpdate"}, Method: new("POST"),
		}); err != nil {
			t.Fatal(err)
		}
		_, err = c.api.UpdateServiceUser(tn.service, bob, &conversations.UpdateServiceUserParams{FriendlyName: new("denied"), XTwilioWebhookEnabled: new("true")})
		wantError(t, "a change that the backend denies", err, 400, 50056)
		deny.want(t, url.Values{"EventType": {"onUserUpdate"}, "FriendlyName": {"denied"}, "Identity": {"bob & söns"}, "UserSid": {*u.Sid}})
		if u, err := c.api.FetchServiceUser(tn.service, bob); err != nil || *u.FriendlyName != "told" {
			t.Errorf("after it friendly_name is %s, %v; want it as it was", show(u.FriendlyName), err)
		}

		// The account's webhooks are for services that have none of their own.
		acc, plain := newTarget(t), c.newTenant(t, "plain")
		if _, err := c.api.UpdateConfigurationWebhook(&conversations.UpdateConfigurationWebhookParams{PostWebhookUrl: new(acc.URL), Filters: &[]string{"onUserAdded"}, Method: new("POST")}); err != nil {
			t.Fatal(err)
		}
		for _, tn := range []*tenant{tn, plain} {
			if _, err := c.api.CreateServiceUser(tn.service, &conversations.CreateServiceUserParams{Identity: new("whose"), XTwilioWebhookEnabled: new("true")}); err != nil {
				t.Fatal(err)
			}
		}
		acc.want(t, url.Values{"ChatServiceSid": {plain.service}, "Identity": {"whose"}})
	})
}

// target is a backend that hears of users, and checks each request as the library does.
type target struct {
	*httptest.Server
	status atomic.Int64
	got    chan url.Values
}

func newTarget(t *testing.T) *target {
	t.Helper()
	b := &target{got: make(chan url.Values, 1000)}
	b.status.Store(http.StatusOK)
	validator := twilioclient.NewRequestValidator(rig.AuthToken)
	b.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		at := "http://" + r.Host + r.RequestURI
		form, err := url.ParseQuery(string(body))
		signed := map[string]string{}
		for name, values := range form {
			if signed[name] = values[0]; len(values) != 1 {
				t.Errorf("%s comes %d times", name, len(values))
			}
		}
		if err != nil || !validator.Validate(at, signed, r.Header.Get("X-Twilio-Signature")) {
			t.Errorf("the library does not accept the signature of %s %s %s", r.Method, at, body)
		}
		var seconds int64
		var ours string
		if _, err := fmt.Sscanf(r.Header.Get("X-Rollcall-Signature"), "t=%d,v1=%s", &seconds, &ours); err != nil || time.Since(time.Unix(seconds, 0)).Abs() > time.Minute {
			t.Errorf("X-Rollcall-Signature %q: %v", r.Header.Get("X-Rollcall-Signature"), err)
		}
		mac := hmac.New(sha256.New, []byte(rig.AuthToken))
		_, _ = fmt.Fprintf(mac, "%d.%s.%s", seconds, at, body)
		if want := hex.EncodeToString(mac.Sum(nil)); ours != want {
			t.Errorf("X-Rollcall-Signature v1=%s; want %s", ours, want)
		}
		maps.Copy(form, r.URL.Query())
		w.WriteHeader(int(b.status.Load()))
		b.got <- form
	}))
	t.Cleanup(b.Close)
	return b
}

// want fails unless the next request has these parameters, any value for nil.
func (b *target) want(t *testing.T, want url.Values) {
	t.Helper()
	select {
	case got := <-b.got:
		for name, values := range want {
			if !got.Has(name) || values != nil && got.Get(name) != values[0] {
				t.Errorf("the backend is told %v; want %s %v", got, name, values)
			}
		}
	case <-time.After(15 * time.Second):
		t.Fatalf("the backend is told nothing; want %v", want)
	}
}

// among fails unless these events come, among others that have waited.
func (b *target) among(t *testing.T, sids ...string) {
	t.Helper()
	for late := time.After(30 * time.Second); len(sids) > 0; {
		select {
		case got := <-b.got:
			sids = slices.DeleteFunc(sids, func(sid string) bool { return sid == got.Get("EventSid") })
		case <-late:
			t.Fatalf("the backend was not told of %v", sids)
		}
	}
}

// hook sets the tenant's webhooks.
func (tn *tenant) hook(t *testing.T, target, method string, events ...string) {
	t.Helper()
	if _, err := tn.api.UpdateServiceWebhookConfiguration(tn.service, &conversations.UpdateServiceWebhookConfigurationParams{
		PostWebhookUrl: &target, Method: &method, Filters: &events,
	}); err != nil {
		t.Fatal(err)
	}
}

// bury makes dead letters: of more events of a user than may wait, the oldest become
// some. Nobody listens at the port.
func (tn *tenant) bury(t testing.TB, n int) []string {
	t.Helper()
	const waiting = 100
	if _, err := tn.api.UpdateServiceWebhookConfiguration(tn.service, &conversations.UpdateServiceWebhookConfigurationParams{
		PostWebhookUrl: new("http://127.0.0.1:9/"), Method: new("POST"), Filters: &[]string{"onUserUpdated"},
	}); err != nil {
		t.Fatal(err)
	}
	for i := range waiting + n {
		if _, err := tn.api.UpdateServiceUser(tn.service, tn.alice, &conversations.UpdateServiceUserParams{
			FriendlyName: new(fmt.Sprint(tn.name, i)), XTwilioWebhookEnabled: new("true"),
		}); err != nil {
			t.Fatal(err)
		}
	}
	a, err := tn.do(http.MethodGet, tn.base("/Webhooks/DeadLetters"), "")
	if err != nil {
		t.Fatal(err)
	}
	var sids []string
	for _, d := range a["dead_letters"].([]any) {
		sids = append(sids, d.(map[string]any)["sid"].(string))
	}
	if len(sids) != n {
		t.Fatalf("%d dead letters; want %d", len(sids), n)
	}
	return sids
}
