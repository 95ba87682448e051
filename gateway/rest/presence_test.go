package rest_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/rollcall-presence/rollcall/gateway/rest"
	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/presence"
)

// presence is the path of a service's presence.
func (f *fixture) presence(rest string) string {
	return "/v1/Services/" + f.service + "/Presence" + rest
}

func (f *fixture) flip(t *testing.T, on bool) {
	t.Helper()
	if a := f.do(t, "POST", "/v1/Services/"+f.service+"/Configuration", fmt.Sprintf("ReachabilityEnabled=%v", on)); a.status != 200 {
		t.Fatal(a)
	}
}

// states are the users of an answer with what it says of them: identity=is_online.
func states(a answer) (list []string) {
	users, _ := a.body["users"].([]any)
	for _, u := range users {
		m, _ := u.(map[string]any)
		s := fmt.Sprintf("%v=%v", m["identity"], m["is_online"])
		if m["deleted"] == true {
			s += " deleted"
		}
		if m["sid"] == nil {
			s += " no sid"
		}
		list = append(list, s)
	}
	return list
}

func want(t *testing.T, what string, a answer, list ...string) {
	t.Helper()
	if diff := cmp.Diff(list, states(a)); a.status != http.StatusOK || diff != "" {
		t.Errorf("%s: %d (-want +got):\n%s", what, a.status, diff)
	}
}

// Many users are read in one answer: the truth, in the order asked, strangers too.
func TestPresence(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.flip(t, true)
		f.connect(t, f.service, "ann", true)
		f.connect(t, f.service, "b/o&b", true)
		f.connect(t, f.service, "b/o&b", false)
		asked := f.presence("?Identity=b%2Fo%26b&Identity=nobody&Identity=ann&Identity=ann")
		a := f.do(t, "GET", asked, "")
		want(t, "four asked", a, "b/o&b=false", "nobody=<nil> no sid", "ann=true", "ann=true")
		if a.body["meta"] != nil || a.body["online_count"] != nil || a.body["reachability_enabled"] != true {
			t.Errorf("answer = %v; want no page and no count", a.body)
		}
		f.flip(t, false)
		want(t, "switched off", f.do(t, "GET", f.presence("?Identity=ann&Identity=nobody"), ""), "ann=<nil>", "nobody=<nil> no sid")

		many := url.Values{}
		for i := range 501 {
			many.Add("Identity", fmt.Sprintf("user%d", i))
		}
		for query, code := range map[string]int{
			"": 20001, "?Online=false": 20001, "?Online=true&Identity=ann": 20001, "?Identity=": 50204, "?Identity=%FF": 20001, "?%": 20001,
			"?Identity=" + strings.Repeat("x", 257): 50207, "?" + many.Encode(): 20001, "?Online=true&PageToken=x": 20001, "?Online=true&PageSize=0": 20001,
		} {
			f.flip(t, true)
			if a := f.do(t, "GET", f.presence(query), ""); a.status != 400 || a.body["code"] != float64(code) {
				t.Errorf("%.60q = %d, %v; want 400, %d", query, a.status, a.body, code)
			}
		}
		many.Del("Identity")
		for i := range 500 {
			many.Add("Identity", fmt.Sprintf("user%d", i))
		}
		if a := f.do(t, "GET", f.presence("?"+many.Encode()), ""); len(states(a)) != 500 {
			t.Errorf("500 asked = %d, %d users", a.status, len(states(a)))
		}
		if a := f.do(t, "GET", "/v1/Services/"+noSID+"/Presence?Identity=ann", ""); a.status != 404 {
			t.Errorf("no such service = %d; want 404", a.status)
		}
	})
}

// The online list has pages whose URLs lead on, and the count.
func TestOnlineList(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.flip(t, true)
		var online []string
		for i := range 23 {
			identity := fmt.Sprintf("user%d", i)
			f.connect(t, f.service, identity, true)
			online = append(online, identity+"=true")
		}
		f.connect(t, f.service, "gone", true)
		f.connect(t, f.service, "gone", false)
		var got []string
		pages := 0
		for next := f.presence("?Online=true&PageSize=10"); next != ""; pages++ {
			a := f.do(t, "GET", next, "")
			if a.body["online_count"] != 23.0 {
				t.Errorf("online_count = %v; want 23", a.body["online_count"])
			}
			got = append(got, states(a)...)
			m, _ := a.body["meta"].(map[string]any)
			to, _ := m["next_page_url"].(string)
			next = strings.TrimPrefix(to, f.server.URL)
		}
		if diff := cmp.Diff(online, got); diff != "" || pages != 3 {
			t.Errorf("%d pages (-want +got):\n%s", pages, diff)
		}
		f.flip(t, false)
		if a := f.do(t, "GET", f.presence("?Online=true"), ""); len(states(a)) != 0 || a.body["online_count"] != nil || a.body["reachability_enabled"] != false {
			t.Errorf("switched off = %v; want nobody and no count", a.body)
		}
	})
}

// changes reads changes until it has heard of what is wanted, and returns the cursor. What
// happened in the last millisecond is told a millisecond later.
func (f *fixture) changes(t *testing.T, cursor string, want ...string) string {
	t.Helper()
	var got []string
	for len(got) < len(want) {
		a := f.do(t, "GET", f.presence("/Changes?Limit=2&Cursor="+cursor), "")
		if a.status != http.StatusOK {
			t.Fatalf("changes since %q = %d, %v", cursor, a.status, a.body)
		}
		got = append(got, states(a)...)
		cursor, _ = a.body["cursor"].(string)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	return cursor
}

// A backend that was away catches up from its cursor.
func TestPresenceChanges(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.flip(t, true)
		f.connect(t, f.service, "ann", true)
		f.connect(t, f.service, "bob", true)
		cursor := f.changes(t, "", "ann=true", "bob=true")
		f.connect(t, f.service, "bob", false)
		f.connect(t, f.service, "cy", true)
		f.connect(t, f.service, "bob", true)
		cursor = f.changes(t, cursor, "cy=true", "bob=true") // each at its last
		if a := f.do(t, "DELETE", "/v1/Services/"+f.service+"/Users/cy", ""); a.status != 204 {
			t.Fatal(a)
		}
		cursor = f.changes(t, cursor, "cy=<nil> deleted no sid")

		now := f.do(t, "GET", f.presence("/Changes?Cursor=now"), "")
		if at, _ := now.body["cursor"].(string); len(states(now)) != 0 || at == "" {
			t.Errorf("from now = %v; want a cursor and no users", now.body)
		}
		f.flip(t, false)
		if a := f.do(t, "GET", f.presence("/Changes?Cursor="+cursor), ""); a.body["reset"] != true || a.body["reachability_enabled"] != false {
			t.Errorf("after the switch = %v; want a reset", a.body)
		}
		for query, status := range map[string]int{
			"?Cursor=nonsense": 400, "?Limit=0": 400, "?Limit=x": 400, "?%": 400, "?Limit=100000": 200,
			"?Cursor=" + presence.Place{Run: "another", Since: time.Now().UnixMicro()}.String(): 410,
		} {
			a := f.do(t, "GET", f.presence("/Changes"+query), "")
			if a.status != status || status == 410 && a.body["code"] != 20410.0 {
				t.Errorf("%s = %d %v; want %d", query, a.status, a.body, status)
			}
		}
	})
}

// Sessions of a user are listed and ended, one or all; what is not there is 404.
func TestSessions(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.flip(t, true)
		s, err := f.store.Service(t.Context(), f.service)
		if err != nil {
			t.Fatal(err)
		}
		k := presence.Key{Service: f.service, Identity: "ann"}
		id := func(n int) presence.SessionID { return presence.SessionID(fmt.Sprintf("%024d", n)) }
		for n := range 3 {
			if _, err := f.store.Register(t.Context(), f.store.Partition(k), "node", []presence.Held{{Key: k, ID: id(n), Service: s}}); err != nil {
				t.Fatal(err)
			}
		}
		path := "/v1/Services/" + f.service + "/Users/ann/Sessions"
		list := func() (ids []string) {
			a := f.do(t, "GET", path, "")
			for _, v := range a.body["sessions"].([]any) {
				m := v.(map[string]any)
				ids = append(ids, m["id"].(string)+"@"+m["node"].(string))
			}
			return ids
		}
		if got := list(); !slices.Equal(got, []string{string(id(0)) + "@node", string(id(1)) + "@node", string(id(2)) + "@node"}) {
			t.Errorf("sessions = %v", got)
		}
		for _, c := range []struct {
			path string
			want int
			left int
		}{
			{path + "/" + string(id(1)), 204, 2},
			{path + "/" + string(id(1)), 404, 2},
			{path + "/nonsense", 404, 2},
			{path, 204, 0},
			{path, 204, 0},
			{"/v1/Services/" + f.service + "/Users/nobody/Sessions", 404, 0},
		} {
			if a := f.do(t, "DELETE", c.path, ""); a.status != c.want || len(list()) != c.left {
				t.Errorf("DELETE %s = %d, %d left; want %d, %d", c.path, a.status, len(list()), c.want, c.left)
			}
		}
		want(t, "all ended", f.do(t, "GET", f.presence("?Identity=ann"), ""), "ann=false")
		if n := f.logs.FilterMessage("resource changed").FilterField(zap.String("change", "user's sessions ended")).Len(); n != 3 {
			t.Errorf("%d audit lines; want 3", n)
		}
	})
}

// events is an open event stream.
type events struct {
	t    *testing.T
	resp *http.Response
	r    *bufio.Reader
	last string // id
	end  context.CancelFunc
}

func (f *fixture) events(t *testing.T, query, last string, edit ...func(*http.Request)) *events {
	t.Helper()
	ctx, end := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, "GET", f.server.URL+f.presence("/Events"+query), nil)
	if err != nil {
		t.Fatal(err)
	}
	r.SetBasicAuth(account, authTok)
	for _, e := range edit {
		e(r)
	}
	if last != "" {
		r.Header.Set("Last-Event-ID", last)
	}
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	e := &events{t: t, resp: resp, r: bufio.NewReader(resp.Body), end: end}
	t.Cleanup(e.close)
	if resp.StatusCode == http.StatusOK {
		if ct := resp.Header.Get("Content-Type"); ct != "text/event-stream" {
			t.Errorf("Content-Type %q", ct)
		}
		if name, _, err := e.block(); name != "" || err != nil || e.last == "" {
			t.Errorf("the stream began with %q, %v; want its place", name, err)
		}
	}
	return e
}

func (e *events) close() {
	e.end()
	_ = e.resp.Body.Close()
}

// block reads up to an empty line, as a browser does.
func (e *events) block() (name string, data map[string]any, err error) {
	for {
		line, err := e.r.ReadString('\n')
		if err != nil {
			return "", nil, err
		}
		field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch field {
		case "":
			return name, data, nil
		case "id":
			e.last = value
		case "event":
			name = value
		case "data":
			if err := json.Unmarshal([]byte(value), &data); err != nil {
				e.t.Fatalf("data %q: %v", value, err)
			}
		}
	}
}

// next is the next event, as "name identity".
func (e *events) next() string {
	e.t.Helper()
	for {
		name, data, err := e.block()
		if err != nil {
			return err.Error()
		}
		if name == "reset" {
			return fmt.Sprint("reset ", data["reachability_enabled"])
		}
		if name != "" {
			return fmt.Sprint(name, " ", data["identity"])
		}
	}
}

func (e *events) want(list ...string) {
	e.t.Helper()
	for _, w := range list {
		if got := e.next(); got != w {
			e.t.Fatalf("event %q; want %q", got, w)
		}
	}
}

// A stream tells of each change, resumes where it was left, and shows no other
// service's users.
func TestEvents(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.flip(t, true)
		f.connect(t, f.service, "before", true)
		f.changes(t, "", "before=true")
		e := f.events(t, "", "")
		some := f.events(t, "?Identity=bob&Identity=cy", "")
		f.connect(t, f.service, "ann", true)
		e.want("online ann")
		f.connect(t, f.service, "ann", false)
		e.want("offline ann")
		f.connect(t, f.service, "bob", true)
		e.want("online bob")
		some.want("online bob")
		e.close()
		other, err := f.store.CreateService(t.Context(), presence.Service{Account: account})
		if err != nil {
			t.Fatal(err)
		}
		f.connect(t, other.SID, "stranger", true)
		f.connect(t, f.service, "cy", true)
		f.connect(t, f.service, "bob", false)
		some.want("online cy", "offline bob")
		if a := f.do(t, "DELETE", "/v1/Services/"+f.service+"/Users/ann", ""); a.status != 204 {
			t.Fatal(a)
		}
		again := f.events(t, "", e.last)
		again.want("online cy", "offline bob", "deleted ann")

		f.flip(t, false)
		again.want("reset false")
		some.want("reset false") // a stream that is behind is told of the last flip only
		f.flip(t, true)
		// ann is told of though deleted: who resumes from before must hear it.
		again.want("reset true", "online before", "online cy", "unknown bob", "deleted ann")
		some.want("reset true", "online cy", "unknown bob")
	})
}

func TestEventsRefused(t *testing.T) {
	_, c := testkit.Mini(t)
	draining := make(chan struct{})
	f := serve(t, c, rest.Options{MaxStreams: 2, Draining: draining})
	refused := func(what, query, last string, status, code int) {
		t.Helper()
		e := f.events(t, query, last)
		var body map[string]any
		if err := json.NewDecoder(e.resp.Body).Decode(&body); err != nil || e.resp.StatusCode != status || body["code"] != float64(code) {
			t.Errorf("%s = %d %v, %v; want %d, %d", what, e.resp.StatusCode, body, err, status, code)
		}
	}
	refused("a cursor that is none", "?Cursor=nonsense", "", 400, 20001)
	refused("an old id", "?Cursor=now", presence.Place{Run: "another"}.String(), 410, 20410)
	refused("an identity that is none", "?Identity=", "", 400, 50204)
	refused("too many identities", "?"+strings.Repeat("Identity=a&", 501), "", 400, 20001)
	first, second := f.events(t, "", ""), f.events(t, "?Cursor=now", "")
	refused("a third stream", "", "", 503, 20503)
	if g := f.gauge(t, "rollcall_rest_streams"); g != 2 {
		t.Errorf("%v streams; want 2", g)
	}
	if n := f.gauge(t, "rollcall_rest_streams_refused_total"); n != 1 {
		t.Errorf("%v refused; want 1", n)
	}
	close(draining)
	for _, e := range []*events{first, second} {
		if got := e.next(); got != "EOF" {
			t.Errorf("the stream of a draining node ended with %q; want EOF", got)
		}
	}
	refused("a stream of a draining node", "", "", 503, 20503)
}

// A deleted service's streams end; a lost store's are refused when they come back.
func TestEventsEnd(t *testing.T) {
	f := newMini(t)
	s, err := f.store.CreateService(t.Context(), presence.Service{Account: account})
	if err != nil {
		t.Fatal(err)
	}
	f.service = s.SID
	e := f.events(t, "", "")
	if a := f.do(t, "DELETE", "/v1/Services/"+s.SID, ""); a.status != 204 {
		t.Fatal(a)
	}
	if got := e.next(); got != "EOF" {
		t.Errorf("the stream of a deleted service ended with %q; want EOF", got)
	}
	if f.service, err = f.store.DefaultService(t.Context()); err != nil {
		t.Fatal(err)
	}
	e = f.events(t, "", "")
	f.mini.FlushAll()
	if err := f.store.Init(t.Context(), account); err != nil {
		t.Fatal(err)
	}
	if got := e.next(); got != "EOF" {
		t.Errorf("the stream ended with %q after the store lost its data; want EOF", got)
	}
}

// A revoked API key's streams end, at once where nothing changes, and no other's do.
func TestEventsRevoked(t *testing.T) {
	f := newMini(t)
	f.flip(t, true)
	made := f.do(t, "POST", "/v1/Keys", "").body
	sid, password := made["sid"].(string), made["secret"].(string)
	f.refresh(t)
	revoked, stays := f.events(t, "", "", as(sid, password)), f.events(t, "", "")
	f.connect(t, f.service, "ann", true)
	revoked.want("online ann")
	stays.want("online ann")
	f.do(t, "DELETE", "/v1/Keys/"+sid, "")
	f.refresh(t)
	defer time.AfterFunc(5*time.Second, revoked.end).Stop()
	if got := revoked.next(); got != "EOF" {
		t.Errorf("the stream of a revoked key ended with %q; want EOF", got)
	}
	f.connect(t, f.service, "bob", true)
	stays.want("online bob")
}

// A stream that is far behind reads the log for itself, and misses nothing.
func TestEventsFarBehind(t *testing.T) {
	s := testkit.Redis(t)
	c := redis.NewClient(&redis.Options{Addr: s.Addr})
	t.Cleanup(func() { _ = c.Close() })
	f := serve(t, c, rest.Options{})
	f.flip(t, true)
	first := f.events(t, "", "")
	const n = 1200 // more than two pages
	service, err := f.store.Service(t.Context(), f.service)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{}
	for i := range n {
		k := presence.Key{Service: f.service, Identity: fmt.Sprintf("user%d", i)}
		want["online "+k.Identity] = true
		if _, err := f.store.Register(t.Context(), f.store.Partition(k), "node", []presence.Held{{Key: k, ID: presence.SessionID(fmt.Sprintf("%024d", i)), Service: service}}); err != nil {
			t.Fatal(err)
		}
	}
	for name, e := range map[string]*events{"open from the start": first, "resumed": f.events(t, "", first.last)} {
		got := map[string]bool{}
		for len(got) < n {
			w := e.next()
			if !want[w] {
				t.Fatalf("%s: event %q", name, w)
			}
			got[w] = true
		}
	}
}

// gauge is the value of a metric without labels.
func (f *fixture) gauge(t *testing.T, name string) float64 {
	t.Helper()
	families, err := f.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == name {
			return family.GetMetric()[0].GetGauge().GetValue() + family.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// FuzzIdentities holds that a query which names users is read as any other is.
func FuzzIdentities(f *testing.F) {
	for _, seed := range []string{
		"Identity=a%40b&Identity=c+d", "Online=true&Identity=", "Identity&Identity=%", "Identity=%4", "Identity=a;b", "Identit%79=a&Identity=b",
		"Identity=%zz", "x=1;y=2", "&&Identity=a=b&", "Identity=%ff%2B+%C3%A9",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, query string) {
		list, rest, err := rest.Identities(query)
		want, wrong := url.ParseQuery(query)
		if (err != nil) != (wrong != nil) {
			t.Fatalf("%q: %v; want %v", query, err, wrong)
		}
		if err == nil && (!slices.Equal(list, want["Identity"]) || rest.Get("Online") != want.Get("Online")) {
			t.Errorf("%q: %q, %v; want %v", query, list, rest, want)
		}
	})
}
