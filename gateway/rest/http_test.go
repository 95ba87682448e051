package rest_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/rollcall-presence/rollcall/gateway/rest"
	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/presence"
)

func TestPaths(t *testing.T) {
	f := newMini(t)
	// One segment is one identity, unescaped once.
	for _, identity := range []string{"a/b", "a//b", "..", ".", "a%2Fb", "a+b", "a b", "%", "?", "#", "null", "Users", "\x00", "{}", "é", "a\nb"} {
		made := f.do(t, "POST", "/v1/Users", "Identity="+url.QueryEscape(identity))
		if made.status != http.StatusCreated || made.body["identity"] != identity {
			t.Errorf("create %q = %d %v; want 201", identity, made.status, made.body)
		}
		for _, base := range []string{"/v1/Users/", "/v1/Services/" + f.service + "/Users/"} {
			got := f.do(t, "GET", base+strings.ReplaceAll(url.PathEscape(identity), ".", "%2E"), "")
			if got.status != http.StatusOK || got.body["sid"] != made.body["sid"] {
				t.Errorf("fetch %q below %s = %d %v; want it", identity, base, got.status, got.body)
			}
		}
	}
	for _, path := range []string{
		"/v1", "/v1/", "/v1/services", "/v1/Services/", "/v1/Services/default", "/v1/Services/" + noSID, "/v1/Services/" + strings.ToUpper(f.service),
		"/v1/Services/" + f.service + "/", "/v1/Services/" + f.service + "/Users/", "/v1/Services/" + f.service + "/Nothing",
		"/v1/Services//Users", "/v1/Users/a/b/c", "/v1/Users/%20", "/v1/Users/US00000000000000000000000000000000", "/v2/Services", "/v1%2FServices",
		"/v1/Users/" + strings.Repeat("x", 5000),
	} {
		got := f.do(t, "GET", path, "")
		if want := "The requested resource " + path + " was not found"; got.status != 404 || got.body["code"] != 20404.0 || got.body["message"] != want {
			t.Errorf("GET %.60s = %d %v; want 404, %q", path, got.status, got.body, want)
		}
	}
	if got := f.do(t, "GET", "/%76%31/Services", ""); got.status != 200 {
		t.Errorf("an escaped path = %d; want 200", got.status)
	}
}

func TestBodies(t *testing.T) {
	f := newMini(t)
	as := func(contentType string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set("Content-Type", contentType) }
	}
	conf, pres := "/v1/Services/"+f.service+"/Configuration", "/v1/Services/"+f.service+"/Configuration/Presence"
	for _, tc := range []struct {
		name, path, body string
		edit             func(*http.Request)
		status, code     int
	}{
		{"JSON", conf, `{"ReachabilityEnabled":true}`, as("application/json"), 400, 20001},
		{"no content type", conf, "ReachabilityEnabled=true", as(""), 400, 20001},
		{"malformed escape", conf, "ReachabilityEnabled=%zz", nil, 400, 20001},
		{"semicolon", conf, "a=b;c=d", nil, 400, 20001},
		{"too large", conf, strings.Repeat("a", 1<<17), nil, 413, 20001},
		{"not a boolean", conf, "ReachabilityEnabled=perhaps", nil, 400, 20001},
		{"upper case", conf, "ReachabilityEnabled=TRUE", nil, 400, 20001},
		{"empty boolean", conf, "ReachabilityEnabled=", nil, 400, 20001},
		{"default service malformed", "/v1/Configuration", "DefaultChatServiceSid=x", nil, 400, 20001},
		{"default service unknown", "/v1/Configuration", "DefaultChatServiceSid=" + noSID, nil, 400, 20001},
		{"linger negative", pres, "Linger=-1", nil, 400, 20001},
		{"linger long", pres, "Linger=61", nil, 400, 20001},
		{"linger huge", pres, "Linger=99999999999999999999", nil, 400, 20001},
		{"linger fraction", pres, "Linger=1.5", nil, 400, 20001},
		{"linger words", pres, "Linger=10s", nil, 400, 20001},

		{"charset", conf, "ReachabilityEnabled=true", as("application/x-www-form-urlencoded; charset=utf-8"), 200, 0},
		{"empty JSON", conf, "", as("application/json"), 200, 0},
		{"unknown fields", conf, "IsOnline=true&Nothing=%FF&Unknown=x", nil, 200, 0},
		{"repeated", conf, "ReachabilityEnabled=true&ReachabilityEnabled=perhaps", nil, 200, 0},
		{"query is no form", conf + "?ReachabilityEnabled=perhaps", "", nil, 200, 0},
	} {
		edit := tc.edit
		if edit == nil {
			edit = func(*http.Request) {}
		}
		a := f.do(t, "POST", tc.path, tc.body, edit)
		if a.status != tc.status || tc.code != 0 && a.body["code"] != float64(tc.code) {
			t.Errorf("%s: %d %v; want %d, %d", tc.name, a.status, a.body, tc.status, tc.code)
		}
		if a.status >= 400 && a.body["status"] != float64(a.status) {
			t.Errorf("%s: status %v in the body of a %d", tc.name, a.body["status"], a.status)
		}
	}

	up := f.do(t, "POST", "/v1/Users", "Identity=alice&Attributes=%7B%22a%22%3A1%7D&IsOnline=true")
	if up.body["attributes"] != `{"a":1}` || up.body["is_online"] != nil {
		t.Errorf("created %v; want the attributes, and no say on is_online", up.body)
	}
	if up = f.do(t, "POST", "/v1/Users/alice", "Attributes="); up.body["attributes"] != "{}" {
		t.Errorf("attributes cleared = %v; want {}", up.body["attributes"])
	}
}

func TestLinger(t *testing.T) {
	f := newMini(t)
	path := "/v1/Services/" + f.service + "/Configuration/Presence"
	if a := f.do(t, "GET", path, ""); a.status != 200 || a.body["linger"] != nil || a.body["url"] != f.server.URL+path || a.body["chat_service_sid"] != f.service {
		t.Errorf("at first: %d %v; want linger null", a.status, a.body)
	}
	for value, want := range map[string]any{"0": 0.0, "60": 60.0, "5": 5.0, "": nil} {
		if a := f.do(t, "POST", path, "Linger="+value); a.status != 200 || a.body["linger"] != want {
			t.Errorf("Linger=%s: %d %v; want %v", value, a.status, a.body, want)
		}
		if a := f.do(t, "POST", path, ""); a.body["linger"] != want {
			t.Errorf("an update of nothing after Linger=%s: %v; want it kept", value, a.body)
		}
	}
	if a := f.do(t, "GET", "/v1/Services/"+noSID+"/Configuration/Presence", ""); a.status != 404 {
		t.Errorf("of no service: %d; want 404", a.status)
	}
}

func TestPages(t *testing.T) {
	f := newMini(t)
	base := "/v1/Services/" + f.service + "/Users"
	meta := func(a answer) map[string]any {
		m, _ := a.body["meta"].(map[string]any)
		return m
	}
	identities := func(a answer) (all []string) {
		list, ok := a.body["users"].([]any)
		if !ok {
			t.Fatalf("users is %v; want an array", a.body["users"])
		}
		for _, u := range list {
			all = append(all, u.(map[string]any)["identity"].(string))
		}
		return all
	}
	if a := f.do(t, "GET", base, ""); a.status != 200 || len(identities(a)) != 0 || meta(a)["next_page_url"] != nil || meta(a)["previous_page_url"] != nil ||
		meta(a)["url"] != f.server.URL+base+"?PageSize=50&Page=0" || meta(a)["key"] != "users" {
		t.Errorf("an empty list: %v", a.body)
	}
	var want []string
	for i := range 7 {
		want = append(want, "user"+strconv.Itoa(i))
		f.do(t, "POST", base, "Identity="+want[i])
	}
	// follow gets a page URL as a library does: as it came, at our origin.
	follow := func(u any) answer {
		t.Helper()
		path, ok := strings.CutPrefix(u.(string), f.server.URL)
		if !ok {
			t.Fatalf("page URL %v does not begin with the request's origin", u)
		}
		return f.do(t, "GET", path, "")
	}
	first := f.do(t, "GET", base+"?PageSize=3", "")
	second := follow(meta(first)["next_page_url"])
	third := follow(meta(second)["next_page_url"])
	if got := slices.Concat(identities(first), identities(second), identities(third)); !slices.Equal(got, want) {
		t.Errorf("three pages of 3: %v; want %v", got, want)
	}
	if m := meta(third); m["page"] != 2.0 || m["page_size"] != 3.0 || m["next_page_url"] != nil || m["first_page_url"] != f.server.URL+base+"?PageSize=3&Page=0" {
		t.Errorf("last page: %v", m)
	}
	if got := follow(meta(third)["url"]); !slices.Equal(identities(got), identities(third)) {
		t.Errorf("a page's own URL gives %v; want %v", identities(got), identities(third))
	}
	back := follow(meta(third)["previous_page_url"])
	start := follow(meta(back)["previous_page_url"])
	if !slices.Equal(identities(back), identities(second)) || !slices.Equal(identities(start), identities(first)) || meta(start)["page"] != 0.0 {
		t.Errorf("going back: %v, %v; want the pages before", identities(back), identities(start))
	}
	// A deletion and an arrival behind a reader's back lose and repeat nothing.
	f.do(t, "DELETE", base+"/user0", "")
	f.do(t, "POST", base, "Identity=user7")
	if got := slices.Concat(identities(follow(meta(first)["next_page_url"])), identities(follow(meta(second)["next_page_url"]))); !slices.Equal(got, []string{"user3", "user4", "user5", "user6", "user7"}) {
		t.Errorf("after a change before the page: %v", got)
	}
	// A token is good for the list that it came from alone: elsewhere it would silently
	// leave records out.
	token := meta(first)["next_page_url"].(string)
	token = token[strings.Index(token, "?"):]
	other := f.do(t, "POST", "/v1/Services", "FriendlyName=other").body["sid"].(string)
	for what, path := range map[string]string{
		"another service's list": "/v1/Services/" + other + "/Users" + token, "a list of something else": "/v1/Services/" + f.service + "/Roles" + token,
		"services": "/v1/Services" + token, "the short form": "/v1/Users" + token, "a filter": base + token + "&Identity=user4",
	} {
		if a := f.do(t, "GET", path, ""); a.status != 400 || a.body["code"] != 20001.0 {
			t.Errorf("a token with %s: %d %v; want 400, 20001", what, a.status, a.body)
		}
	}
	for query, size := range map[string]float64{"": 50, "?PageSize=1": 1, "?PageSize=1000": 50, "?Page=0": 50, "?PageSize=2&Other=x": 2} {
		if a := f.do(t, "GET", base+query, ""); a.status != 200 || meta(a)["page_size"] != size {
			t.Errorf("%s: %d, page_size %v; want %v", query, a.status, meta(a)["page_size"], size)
		}
	}
	if a := f.do(t, "GET", "/v1/Services?PageSize=1000", ""); meta(a)["page_size"] != 100.0 || meta(a)["key"] != "services" {
		t.Errorf("services: %v; want pages of 100", meta(a))
	}
	for _, query := range []string{"?PageSize=0", "?PageSize=-1", "?PageSize=abc", "?PageSize=", "?Page=-1", "?Page=x", "?Page=1", "?PageToken=x", "?PageToken=PT%00", "?a=%zz"} {
		if a := f.do(t, "GET", base+query, ""); a.status != 400 || a.body["code"] != 20001.0 {
			t.Errorf("%s: %d %v; want 400, 20001", query, a.status, a.body)
		}
	}
}

func TestOrigin(t *testing.T) {
	f := newMini(t)
	if a := f.do(t, "GET", "/v1/Services/"+f.service, "", func(r *http.Request) { r.Host = "presence.example:8443" }); a.body["url"] != "http://presence.example:8443/v1/Services/"+f.service {
		t.Errorf("url %v; want the request's host", a.body["url"])
	}
	if a := f.do(t, "GET", "/v1/Services/"+f.service, "", func(r *http.Request) { r.Header.Set("X-Forwarded-Host", "evil.example") }); strings.Contains(a.body["url"].(string), "evil") {
		t.Errorf("url %v follows a header that anybody may send", a.body["url"])
	}
	h := rest.New(f.store, credentials(), rest.Options{Origin: func(*http.Request) string { return "https://public.example" }})
	r := httptest.NewRequestWithContext(t.Context(), "GET", "/v1/Users", nil)
	r.SetBasicAuth(keySID, secret)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if !strings.Contains(w.Body.String(), `"first_page_url":"https://public.example/v1/Users?PageSize=50&Page=0"`) {
		t.Errorf("with an origin given: %s", w.Body)
	}
}

func TestUnauthenticated(t *testing.T) {
	f := newMini(t)
	for _, path := range []string{"/v1/Services", "/v1/Nothing", "/v1/Services/" + f.service} {
		for _, method := range []string{"GET", "POST", "PUT"} {
			a := f.do(t, method, path, strings.Repeat("x", 1<<17), func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+authTok) })
			if a.status != 401 || a.body["code"] != 20003.0 || a.body["message"] != "Authenticate" || a.header.Get("WWW-Authenticate") != `Basic realm="Twilio API"` {
				t.Errorf("%s %s = %d %v; want 401, whatever is there", method, path, a.status, a.body)
			}
		}
	}
}

func TestUnavailable(t *testing.T) {
	f := newMini(t)
	f.mini.Close()
	for _, path := range []string{"/v1/Services", "/v1/Users/alice", "/v1/Configuration"} {
		a := f.do(t, "GET", path, "")
		if a.status != 503 || a.body["code"] != 20503.0 || a.header.Get("Retry-After") != "1" {
			t.Errorf("GET %s without a store = %d %v; want 503 with Retry-After", path, a.status, a.body)
		}
	}
	if n := f.logs.FilterLevelExact(zapcore.WarnLevel).Len(); n != 3 {
		t.Errorf("%d warnings; want 3", n)
	}
	if err := f.mini.Restart(); err != nil {
		t.Fatal(err)
	}
	if a := f.do(t, "GET", "/v1/Services", ""); a.status != 200 {
		t.Errorf("with the store back: %d; want 200", a.status)
	}
}

// TestStalled holds that a Redis that accepts and says nothing is a 503 in time.
func TestStalled(t *testing.T) {
	server := testkit.Redis(t)
	c := redis.NewClient(&redis.Options{Addr: server.Addr, ContextTimeoutEnabled: true})
	t.Cleanup(func() { _ = c.Close() })
	f := serve(t, c, rest.Options{Timeout: 200 * time.Millisecond})
	if err := server.Process().Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if a := f.do(t, "GET", "/v1/Services", ""); a.status != http.StatusServiceUnavailable {
		t.Errorf("a store that says nothing = %d; want 503", a.status)
	}
	if d := time.Since(start); d > 2*time.Second { // below the client's own read timeout
		t.Errorf("answered after %v; want about 200ms", d)
	}
	if err := server.Process().Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	status := 0
	for range 50 { // each waits its timeout at most
		if status = f.do(t, "GET", "/v1/Services", "").status; status == http.StatusOK {
			return
		}
	}
	t.Errorf("the store is back, and the API answers %d", status)
}

// broken panics on any use.
type broken struct{}

func (broken) Admit(netip.Addr, string, string) (string, error) { panic("broken") }
func (broken) Good(string, string) bool                         { return false }

func TestPanic(t *testing.T) {
	f := newMini(t)
	core, logs := observer.New(zapcore.ErrorLevel)
	f.server.Config.Handler = rest.New(f.store, broken{}, rest.Options{Log: zap.New(core)})
	a := f.do(t, "GET", "/v1/Services", "")
	if a.status != 500 || a.body["code"] != 20500.0 {
		t.Errorf("a panic = %d %v; want 500", a.status, a.body)
	}
	if lines := logs.All(); len(lines) != 1 || lines[0].ContextMap()["request"] != a.header.Get("Twilio-Request-Id") {
		t.Errorf("logged %v; want one line that names the request", lines)
	}
}

func TestAudit(t *testing.T) {
	f := newMini(t)
	as := func(r *http.Request) { r.SetBasicAuth(keySID, secret) }
	service := f.do(t, "POST", "/v1/Services", "FriendlyName=private-name", as).body["sid"].(string)
	base := "/v1/Services/" + service
	f.do(t, "POST", base+"/Configuration", "ReachabilityEnabled=true&Unknown=private-junk", as)
	f.do(t, "POST", base+"/Configuration", "", as)
	f.do(t, "POST", base+"/Configuration/Presence", "Linger=3", as)
	made := f.do(t, "POST", base+"/Users", "Identity=private-alice&FriendlyName=private-ann&Attributes=%22private-data%22", as)
	user := made.body["sid"].(string)
	f.do(t, "POST", base+"/Users/private-alice", "FriendlyName=private-ann2", as)
	f.do(t, "POST", base+"/Users/private-alice", "Attributes=private-broken", as)
	binding := f.do(t, "POST", base+"/Users/private-alice/Bindings", "BindingType=fcm&Address=private-token", as).body["sid"].(string)
	f.do(t, "DELETE", base+"/Bindings/"+binding, "", as)
	credential := f.do(t, "POST", "/v1/Credentials", "Type=fcm&Secret=private-key", as).body["sid"].(string)
	f.do(t, "POST", "/v1/Credentials/"+credential, "Secret=private-key2", as)
	f.do(t, "POST", "/v1/Credentials/"+credential, "", as)
	f.do(t, "DELETE", "/v1/Credentials/"+credential, "", as)
	f.do(t, "DELETE", base+"/Users/"+user, "", as)
	f.do(t, "POST", "/v1/Configuration", "DefaultChatServiceSid="+service, as)
	f.do(t, "DELETE", "/v1/Services/"+f.service, "", as)
	f.do(t, "GET", base, "", func(r *http.Request) { r.SetBasicAuth(account, "private-guess") })

	want := [][2]string{
		{"service created", service},
		{"service configuration updated", service},
		{"service presence updated", service},
		{"user created", user},
		{"user updated", user},
		{"binding created", binding},
		{"binding deleted", binding},
		{"credential created", credential},
		{"credential updated", credential},
		{"credential deleted", credential},
		{"user deleted", user},
		{"account configuration updated", service},
		{"service deleted", f.service},
	}
	lines := f.logs.All()
	if len(lines) != len(want) {
		t.Fatalf("%d lines; want one for each change: %v", len(lines), lines)
	}
	for i, line := range lines {
		fields := line.ContextMap()
		text, err := json.Marshal(fields)
		if err != nil {
			t.Fatal(err)
		}
		if fields["change"] != want[i][0] || fields["credential"] != keySID || !strings.Contains(string(text), want[i][1]) || line.Level != zapcore.InfoLevel {
			t.Errorf("line %d: %s; want %v by %s", i, text, want[i], keySID)
		}
		for _, s := range []string{"private", secret, authTok} {
			if strings.Contains(string(text), s) {
				t.Errorf("line %d tells %q: %s", i, s, text)
			}
		}
	}
	if id := lines[3].ContextMap()["request"]; id != made.header.Get("Twilio-Request-Id") {
		t.Errorf("logged request %v; want the one answered, %v", id, made.header.Get("Twilio-Request-Id"))
	}
}

// FuzzRequest holds that whatever is asked gets a well-formed answer that is never
// our fault, and that a user who was made can be read back under its identity.
func FuzzRequest(f *testing.F) {
	fix := newMini(f)
	handler := rest.New(fix.store, credentials(), rest.Options{})
	for _, seed := range [][3]string{
		{"GET", "/v1/Services?PageSize=1", ""},
		{"POST", "/v1/Users", "Identity=a%2Fb&Attributes=%7B%7D"},
		{"GET", "/v1/Users/a%2Fb", ""},
		{"POST", "/v1/Services/" + fix.service + "/Configuration", "ReachabilityEnabled=true"},
		{"POST", "/v1/Services/" + fix.service + "/Configuration/Presence", "Linger=60"},
		{"DELETE", "/v1/Users/%00", ""},
		{"GET", "/v1/Users?Page=1&PageToken=PTYTAwMDE", ""},
		{"PUT", "/%76%31//..", ";"},
		{"POST", "/v1/Roles", "FriendlyName=a&Type=service&Permission=b&Permission=c"},
		{"GET", "/v1/Services/" + fix.service + "/Roles?PageSize=2", ""},
		{"POST", "/v1/Configuration", "DefaultInactiveTimer=P1Y2M3DT4H5M6.7S&DefaultClosedTimer="},
		{"POST", "/v1/Services/" + fix.service + "/Configuration/Notifications", "NewMessage.WithMedia.Template=x&LogEnabled=true"},
		{"POST", "/v1/Services/" + fix.service + "/Revocations", "Identity=a%00b&IssuedBefore=2026-11-22T15:04:05.5%2B01:00"},
		{"POST", "/v1/Keys", "FriendlyName=a"},
	} {
		f.Add(seed[0], seed[1], seed[2])
	}
	call := func(t *testing.T, method, target, body string) (int, map[string]any) {
		u, err := url.ParseRequestURI(target)
		if err != nil || u.Host != "" {
			return 0, nil // nothing that could be a request line
		}
		r := &http.Request{
			Method: method, URL: u, Host: "h", Body: http.NoBody,
			Header: http.Header{"Content-Type": {"application/x-www-form-urlencoded"}},
		}
		r = r.WithContext(t.Context())
		if body != "" {
			r.Body = httptest.NewRequestWithContext(t.Context(), "POST", "/", strings.NewReader(body)).Body
		}
		r.SetBasicAuth(account, authTok)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if err := checkAnswer(method, u.EscapedPath(), w.Result(), w.Body.Bytes()); err != nil {
			t.Fatalf("%s %q %q = %d %s: %v", method, target, body, w.Code, w.Body, err)
		}
		if w.Code >= 500 {
			t.Fatalf("%s %q %q = %d %s", method, target, body, w.Code, w.Body)
		}
		var answer map[string]any
		if w.Code != http.StatusNoContent {
			if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
				t.Fatal(err)
			}
		}
		return w.Code, answer
	}
	f.Fuzz(func(t *testing.T, method, target, body string) {
		if status, made := call(t, method, target, body); status == http.StatusCreated && made["identity"] != nil {
			identity := made["identity"].(string)
			if presence.CheckIdentity(identity) != nil || !utf8.ValidString(identity) {
				t.Fatalf("made a user of identity %q", identity)
			}
			if _, got := call(t, "GET", "/v1/Users/"+url.PathEscape(identity), ""); got["sid"] != made["sid"] && strings.HasPrefix(target, "/v1/Users") {
				t.Fatalf("user %q made as %v, read as %v", identity, made["sid"], got["sid"])
			}
		}
	})
}
