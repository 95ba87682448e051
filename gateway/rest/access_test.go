package rest_test

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rollcall-presence/rollcall/auth"
	"github.com/rollcall-presence/rollcall/gateway/rest"
	"github.com/rollcall-presence/rollcall/internal/rate"
	"github.com/rollcall-presence/rollcall/presence"
)

func as(user, password string) func(*http.Request) {
	return func(r *http.Request) { r.SetBasicAuth(user, password) }
}

// refresh has the node hear of changed keys, which it does by itself where it is served.
func (f *fixture) refresh(t *testing.T) {
	t.Helper()
	if err := f.keyring.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestKeys(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		made := f.do(t, "POST", "/v1/Keys", url.Values{"FriendlyName": {"bäckend"}}.Encode())
		sid, _ := made.body["sid"].(string)
		password, _ := made.body["secret"].(string)
		if made.status != 201 || made.body["friendly_name"] != "bäckend" || made.body["account_sid"] != account || made.body["url"] != f.server.URL+"/v1/Keys/"+sid {
			t.Fatalf("made %d %v", made.status, made.body)
		}
		if a := f.do(t, "GET", "/v1/Services", "", as(sid, password)); a.status != 401 {
			t.Errorf("before the node heard of the key: %d; want 401", a.status)
		}
		f.refresh(t)
		if conf, err := f.client(sid, password).ConversationsV1.FetchConfiguration(); err != nil || *conf.AccountSid != account {
			t.Errorf("the helper library with the new key: %+v, %v", conf, err)
		}
		for _, path := range []string{"/v1/Keys", "/v1/Keys/" + sid} {
			for _, method := range []string{"GET", "POST", "DELETE"} {
				if method == "DELETE" && path == "/v1/Keys" {
					continue
				}
				if a := f.do(t, method, path, "", as(sid, password)); a.status != 403 || a.body["code"] != 20403.0 {
					t.Errorf("%s %s by a key: %d %v; want 403", method, path, a.status, a.body)
				}
			}
		}
		if a := f.do(t, "GET", "/v1/Keys/"+sid, ""); a.status != 200 || a.body["secret"] != nil || a.body["friendly_name"] != "bäckend" {
			t.Errorf("fetched %d %v; want it without the secret", a.status, a.body)
		}
		if a := f.do(t, "POST", "/v1/Keys/"+sid, "FriendlyName="); a.status != 200 || a.body["friendly_name"] != "" || a.body["secret"] != nil {
			t.Errorf("renamed %d %v", a.status, a.body)
		}
		if a := f.do(t, "POST", "/v1/Keys/"+sid, ""); a.status != 200 || a.body["friendly_name"] != "" {
			t.Errorf("an update of nothing %d %v", a.status, a.body)
		}
		second := f.do(t, "POST", "/v1/Keys", "")
		all := f.do(t, "GET", "/v1/Keys", "")
		var sids []any
		for _, k := range all.body["keys"].([]any) {
			k := k.(map[string]any)
			if sids = append(sids, k["sid"]); k["secret"] != nil {
				t.Errorf("the list tells a secret: %v", k)
			}
		}
		if !slices.Equal(sids, []any{sid, second.body["sid"]}) {
			t.Errorf("listed %v; want both keys", sids)
		}
		if a := f.do(t, "POST", "/v1/Keys", url.Values{"FriendlyName": {strings.Repeat("é", 65)}}.Encode()); a.status != 400 || a.body["code"] != 50003.0 {
			t.Errorf("a long name: %d %v", a.status, a.body)
		}
		if a := f.do(t, "DELETE", "/v1/Keys/"+sid, ""); a.status != 204 {
			t.Errorf("revoked: %d", a.status)
		}
		f.refresh(t)
		if a := f.do(t, "GET", "/v1/Services", "", as(sid, password)); a.status != 401 {
			t.Errorf("a revoked key: %d; want 401", a.status)
		}
		for _, method := range []string{"GET", "POST", "DELETE"} {
			for _, of := range []string{sid, keySID, "SK"} { // the configured key is nobody's to revoke
				if a := f.do(t, method, "/v1/Keys/"+of, "FriendlyName=x"); a.status != 404 || a.body["code"] != 20404.0 {
					t.Errorf("%s of %s: %d %v; want 404", method, of, a.status, a.body)
				}
			}
		}
		for range presence.MaxAPIKeys - 1 {
			if _, err := f.store.CreateAPIKey(t.Context(), account, ""); err != nil {
				t.Fatal(err)
			}
		}
		if a := f.do(t, "POST", "/v1/Keys", ""); a.status != 409 || a.body["code"] != 20409.0 {
			t.Errorf("a key too many: %d %v; want 409", a.status, a.body)
		}
	})
}

func TestRevocations(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		path := "/v1/Services/" + f.service + "/Revocations"
		before := time.Now().Add(-time.Hour).UTC().Truncate(time.Second)
		alice := f.do(t, "POST", path, url.Values{"Identity": {"ali/ce"}, "IssuedBefore": {before.Format(time.RFC3339)}}.Encode())
		if alice.status != 201 || alice.body["identity"] != "ali/ce" || alice.body["issued_before"] != before.Format("2006-01-02T15:04:05.000Z") || alice.body["chat_service_sid"] != f.service {
			t.Fatalf("revoked %d %v", alice.status, alice.body)
		}
		now := f.do(t, "POST", path, "Identity=bob", as(keySID, secret))
		at, err := time.Parse(time.RFC3339, now.body["issued_before"].(string))
		if now.status != 201 || err != nil || time.Since(at).Abs() > time.Minute {
			t.Errorf("until now: %d %v", now.status, now.body)
		}
		all := f.do(t, "POST", path, url.Values{"IssuedBefore": {before.In(time.FixedZone("", 3600)).Format(time.RFC3339)}}.Encode())
		if all.status != 201 || all.body["identity"] != nil || all.body["issued_before"] != before.Format("2006-01-02T15:04:05.000Z") {
			t.Errorf("everybody: %d %v", all.status, all.body)
		}
		page := f.do(t, "GET", path+"?PageSize=2", "")
		list := page.body["revocations"].([]any)
		next, _ := strings.CutPrefix(page.body["meta"].(map[string]any)["next_page_url"].(string), f.server.URL)
		list = append(list, f.do(t, "GET", next, "").body["revocations"].([]any)...)
		if fmt.Sprint(list) != fmt.Sprint([]any{alice.body, now.body, all.body}) {
			t.Errorf("listed %v; want what was made", list)
		}
		f.refresh(t)
		for _, tc := range []struct {
			identity string
			issued   time.Time
			want     bool
		}{{"ali/ce", before.Add(-time.Second), true}, {"ali/ce", before, false}, {"bob", at.Add(-time.Second), true}, {"carol", before.Add(-time.Second), true}, {"carol", before, false}} {
			if got := f.keyring.Revoked(auth.Claims{Service: f.service, Identity: tc.identity, Issued: tc.issued}); got != tc.want {
				t.Errorf("a token of %s from %v is revoked: %v; want %v", tc.identity, tc.issued, got, tc.want)
			}
		}
		for form, code := range map[string]float64{
			"":                                     20001, // everybody, and nobody said so
			"Identity=":                            50204,
			"Identity=%FF":                         20001,
			"Identity=US" + noSID[2:]:              50206,
			"Identity=" + strings.Repeat("a", 257): 50207,
			"IssuedBefore=":                        20001,
			"IssuedBefore=yesterday":               20001,
			"IssuedBefore=1790000000":              20001,
			"IssuedBefore=" + time.Now().Add(time.Hour).UTC().Format(time.RFC3339):     20001,
			"IssuedBefore=" + time.Now().Add(-25*time.Hour).UTC().Format(time.RFC3339): 20001,
		} {
			if a := f.do(t, "POST", path, form); a.status != 400 || a.body["code"] != code {
				t.Errorf("%q: %d %v; want 400, %v", form, a.status, a.body, code)
			}
		}
		// Nothing of it shows in another service.
		other := f.do(t, "POST", "/v1/Services", "FriendlyName=other").body["sid"].(string)
		if a := f.do(t, "GET", "/v1/Services/"+other+"/Revocations", ""); a.status != 200 || len(a.body["revocations"].([]any)) != 0 {
			t.Errorf("of another service: %d %v; want none", a.status, a.body)
		}
		for _, method := range []string{"GET", "POST"} {
			if a := f.do(t, method, "/v1/Services/"+noSID+"/Revocations", "Identity=a"); a.status != 404 {
				t.Errorf("%s of no service: %d; want 404", method, a.status)
			}
		}
	})
}

// TestLimits holds how limits look from outside; what they count is auth's to test.
func TestLimits(t *testing.T) {
	f := newMini(t)
	reason := func(opt auth.GuardOptions) {
		f.server.Config.Handler = rest.New(f.store, guard(nil, opt), rest.Options{Client: func(r *http.Request) netip.Addr {
			return netip.MustParseAddr(r.Header.Get("X-Test-Client"))
		}})
	}
	from := func(addr string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set("X-Test-Client", addr) }
	}
	limited := func(what string, a answer, seconds string) {
		t.Helper()
		if a.status != 429 || a.body["code"] != 20429.0 || a.header.Get("Retry-After") != seconds {
			t.Errorf("%s: %d %v, Retry-After %q; want 429, 20429, %s", what, a.status, a.body, a.header.Get("Retry-After"), seconds)
		}
	}
	reason(auth.GuardOptions{Credential: rate.Limit{PerSecond: 1, Burst: 2}})
	for range 2 {
		if a := f.do(t, "GET", "/v1/Services", "", from("192.0.2.1")); a.status != 200 {
			t.Errorf("within the rate: %d", a.status)
		}
	}
	limited("a request too many", f.do(t, "POST", "/v1/Users", "Identity=never", from("192.0.2.2")), "1")

	reason(auth.GuardOptions{Address: rate.Limit{PerSecond: 1, Burst: 1}})
	if a := f.do(t, "GET", "/v1/Users/never", "", from("192.0.2.1")); a.status != 404 {
		t.Errorf("what was limited was carried out: %d", a.status)
	}
	limited("a request too many of an address, to nowhere", f.do(t, "GET", "/v1/Nothing", "", from("192.0.2.1")), "1")
	if a := f.do(t, "GET", "/v1/Services", "", from("192.0.2.2")); a.status != 200 {
		t.Errorf("another address: %d", a.status)
	}

	reason(auth.GuardOptions{Failures: 3, Lockout: 90 * time.Second})
	for _, guess := range []string{"guess", "guess again", "and again"} {
		if a := f.do(t, "GET", "/v1/Services", "", from("192.0.2.1"), as(account, guess)); a.status != 401 {
			t.Errorf("a guess: %d; want 401", a.status)
		}
	}
	limited("a good password while locked out", f.do(t, "GET", "/v1/Services", "", from("192.0.2.1")), "90")
	if a := f.do(t, "GET", "/v1/Services", "", from("192.0.2.2")); a.status != 200 {
		t.Errorf("another address: %d", a.status)
	}
}

// TestAuditResources holds that each change of these resources is logged, without
// what it says.
func TestAuditResources(t *testing.T) {
	f := newMini(t)
	base := "/v1/Services/" + f.service
	r := f.do(t, "POST", base+"/Roles", "FriendlyName=private&Type=service&Permission=private").body["sid"].(string)
	f.do(t, "POST", base+"/Roles/"+r, "Permission=private")
	f.do(t, "DELETE", "/v1/Roles/"+r, "")
	f.do(t, "POST", base+"/Configuration/Notifications", "NewMessage.Template=private")
	f.do(t, "POST", "/v1/Configuration", "DefaultClosedTimer=P1D")
	k := f.do(t, "POST", "/v1/Keys", "FriendlyName=private")
	sid := k.body["sid"].(string)
	f.do(t, "POST", "/v1/Keys/"+sid, "FriendlyName=private")
	f.do(t, "DELETE", "/v1/Keys/"+sid, "")
	v := f.do(t, "POST", base+"/Revocations", "Identity=private").body["sid"].(string)
	want := [][2]string{
		{"role created", r},
		{"role updated", r},
		{"role deleted", r},
		{"notifications configuration updated", f.service},
		{"account configuration updated", "DefaultClosedTimer"},
		{"API key created", sid},
		{"API key updated", sid},
		{"API key revoked", sid},
		{"tokens revoked", v},
	}
	lines := f.logs.FilterMessage("resource changed").All()
	if len(lines) != len(want) {
		t.Fatalf("%d lines; want %d", len(lines), len(want))
	}
	for i, line := range lines {
		text := fmt.Sprint(line.ContextMap())
		if line.ContextMap()["change"] != want[i][0] || !strings.Contains(text, want[i][1]) || !strings.Contains(text, account) {
			t.Errorf("line %d: %s; want %v by the account", i, text, want[i])
		}
		if strings.Contains(text, "private") || strings.Contains(text, k.body["secret"].(string)) {
			t.Errorf("line %d tells what it should not: %s", i, text)
		}
	}
}
