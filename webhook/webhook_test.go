package webhook_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	twilio "github.com/twilio/twilio-go/client"

	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/presence"
	"github.com/rollcall-presence/rollcall/presence/redisstore"
	"github.com/rollcall-presence/rollcall/webhook"
)

const (
	account = "AC0123456789abcdef0123456789abcdef"
	token   = "authTokenSecret"
)

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

// world is a store, a deliverer of all its partitions, and services with targets.
type world struct {
	t        *testing.T
	client   *redis.Client
	store    *redisstore.Store
	d        *webhook.Deliverer
	reg      *prometheus.Registry
	services webhook.Services // of the deliverer; nil: the store
	sessions int
	stop     func() // the deliverer; may be called twice
}

// fresh are services without copies.
type fresh struct{ *redisstore.Store }

func (f fresh) Fresh(ctx context.Context, sid string) (presence.Service, error) {
	return f.Service(ctx, sid)
}

func newWorld(t *testing.T) *world {
	t.Helper()
	_, c := testkit.Mini(t)
	w := &world{t: t, client: c, store: redisstore.New(c, redisstore.Options{Partitions: 4})}
	if err := w.store.Init(t.Context(), account); err != nil {
		t.Fatal(err)
	}
	return w
}

// start starts a deliverer, which ends with the test.
func (w *world) start(opt webhook.Options, edit ...func(*webhook.Deliverer)) {
	w.t.Helper()
	opt.AuthToken, w.reg = token, prometheus.NewRegistry()
	opt.Metrics = w.reg
	services := cmp.Or[webhook.Services](w.services, fresh{w.store})
	w.d = webhook.New(w.store, services, opt)
	for _, e := range edit {
		e(w.d)
	}
	ctx, cancel := context.WithCancel(context.Background())
	sub := w.client.Subscribe(ctx, w.store.Keys().Wake())
	if _, err := sub.Receive(ctx); err != nil {
		w.t.Fatal(err)
	}
	var wg sync.WaitGroup
	d := w.d
	wg.Go(func() {
		for m := range sub.Channel() {
			p, _ := strconv.Atoi(m.Payload[1:])
			d.Wake(presence.Partition(p))
		}
	})
	wg.Go(func() {
		if err := d.Serve(ctx); err != nil {
			w.t.Errorf("Serve = %v", err)
		}
	})
	for p := range w.store.Partitions() {
		d.Beat(presence.Partition(p), true, 0)
	}
	w.stop = sync.OnceFunc(func() { cancel(); _ = sub.Close(); wg.Wait() })
	w.t.Cleanup(w.stop)
}

// service makes a service with the switch on, whose backend listens at a URL.
func (w *world) service(target, filters string) string {
	w.t.Helper()
	s, err := w.store.CreateService(w.t.Context(), presence.Service{Account: account, FriendlyName: "world", Linger: -1})
	if err == nil {
		_, err = w.store.UpdateService(w.t.Context(), s.SID, presence.ServiceUpdate{
			Enabled: new(true), Webhooks: &presence.WebhooksUpdate{PostURL: &target, PreURL: &target, Filters: &filters},
		})
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return s.SID
}

// online has a session of a user begin, and returns its end.
func (w *world) online(service, identity string) (offline func()) {
	w.t.Helper()
	s, err := w.store.Service(w.t.Context(), service)
	if err != nil {
		w.t.Fatal(err)
	}
	w.sessions++
	k, id := presence.Key{Service: service, Identity: identity}, presence.SessionID(fmt.Sprintf("%024x", w.sessions))
	if _, err := w.store.Register(w.t.Context(), w.store.Partition(k), "n1", []presence.Held{{Key: k, ID: id, Service: s}}); err != nil {
		w.t.Fatal(err)
	}
	return func() {
		w.t.Helper()
		if _, err := w.store.End(w.t.Context(), w.store.Partition(k), "n1", []presence.Ended{{Key: k, ID: id, Service: s}}); err != nil {
			w.t.Fatal(err)
		}
	}
}

// until waits for a condition.
func (w *world) until(what string, f func() bool) {
	w.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(30 * time.Second); !f(); {
		select {
		case <-tick.C:
		case <-deadline:
			w.t.Fatalf("not within 30 s: %s", what)
		}
	}
}

// metric is the value of a counter or gauge with those label values.
func (w *world) metric(name string, labels ...string) float64 {
	w.t.Helper()
	families, err := w.reg.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			var have []string
			for _, l := range m.GetLabel() {
				have = append(have, l.GetValue())
			}
			if slices.Equal(have, labels) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	w.t.Fatalf("no metric %s %v", name, labels)
	return 0
}

// target is a backend that records what it is told. Every request must be signed.
type target struct {
	*httptest.Server
	t     *testing.T
	mu    sync.Mutex // guards the following
	got   []url.Values
	heads []http.Header
	// answer, if set, decides what to answer to the request.
	answer func(w http.ResponseWriter, r *http.Request)
}

func newTarget(t *testing.T, answer func(http.ResponseWriter, *http.Request)) *target {
	tg := &target{t: t, answer: answer}
	tg.Server = httptest.NewServer(tg)
	t.Cleanup(tg.Close)
	return tg
}

func (tg *target) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		tg.t.Error(err)
	}
	checkSigned(tg.t, tg.URL, r)
	tg.mu.Lock()
	tg.got, tg.heads = append(tg.got, r.Form), append(tg.heads, r.Header.Clone())
	tg.mu.Unlock()
	if tg.answer != nil {
		tg.answer(w, r)
	}
}

// checkSigned validates a request's two signatures, the one with the unmodified
// validator of the official library.
func checkSigned(t *testing.T, base string, r *http.Request) {
	t.Helper()
	form := map[string]string{}
	for name := range r.PostForm {
		form[name] = r.PostForm.Get(name)
	}
	v := twilio.NewRequestValidator(token)
	if s := r.Header.Get("X-Twilio-Signature"); !v.Validate(base+r.RequestURI, form, s) {
		t.Errorf("%s %s: the validator refuses signature %q", r.Method, r.RequestURI, s)
	}
	if v := twilio.NewRequestValidator("another"); v.Validate(base+r.RequestURI, form, r.Header.Get("X-Twilio-Signature")) {
		t.Error("the validator takes a signature of another token")
	}
	ours := r.Header.Get("X-Rollcall-Signature")
	at, _, _ := strings.Cut(strings.TrimPrefix(ours, "t="), ",")
	seconds, err := strconv.ParseInt(at, 10, 64)
	body := r.PostForm.Encode() // as it was sent: both are in the order of the names
	if err != nil || ours != webhook.Signature(token, seconds, base+r.RequestURI, body) || time.Since(time.Unix(seconds, 0)).Abs() > time.Minute {
		t.Errorf("X-Rollcall-Signature %q is not that of the request", ours)
	}
}

// history is what was told of a user, as its isOnline or event, in order.
func (tg *target) history(identity string) (list []string) {
	tg.mu.Lock()
	defer tg.mu.Unlock()
	for _, v := range tg.got {
		if v.Get("Identity") == identity {
			list = append(list, v.Get("isOnline"))
		}
	}
	return list
}

func (tg *target) count() int {
	tg.mu.Lock()
	defer tg.mu.Unlock()
	return len(tg.got)
}

// The published vectors, on which both official libraries agree.
func TestTwilioSignature(t *testing.T) {
	for _, c := range []struct {
		token, url, want string
		form             url.Values
	}{
		{"12345", "https://mycompany.com/myapp.php?foo=1&bar=2", "RSOYDt4T1cUTdK1PDd93/VVr8B8=", url.Values{
			"CallSid": {"CA1234567890ABCDE"}, "Caller": {"+14158675309"}, "Digits": {"1234"}, "From": {"+14158675309"}, "To": {"+18005551212"},
		}},
		{"tok", "http://127.0.0.1:9999/hook", "MrumCjjpi8VJXhBXL+35yZg6PT4=", url.Values{
			"ChatServiceSid": {"IS1"}, "EventType": {"onUserUpdated"}, "isOnline": {"true"},
		}},
	} {
		if got := webhook.TwilioSignature(c.token, c.url, c.form); got != c.want {
			t.Errorf("signature of %s = %q; want %q", c.url, got, c.want)
		}
	}
}

func TestSignature(t *testing.T) {
	// printf '1700000000.http://127.0.0.1:9999/hook.a=b' | openssl dgst -sha256 -hmac tok
	const want = "t=1700000000,v1=472361eda1e8cc860e3eeaeffc8873683d4e5a1b837475fea6c689d193b40f3f"
	if got := webhook.Signature("tok", 1700000000, "http://127.0.0.1:9999/hook", "a=b"); got != want {
		t.Errorf("signature = %q; want %q", got, want)
	}
}

// A backend is told what its filters name, with all that belongs to it, signed.
func TestEvents(t *testing.T) {
	w := newWorld(t)
	w.start(webhook.Options{AllowedNetworks: loopback})
	tg := newTarget(t, nil)
	sid := w.service(tg.URL+"/hook?a=b&c=%20d#gone", "onUserAdded,onUserUpdated,onReachabilityChanged")
	identity := "zoë +%&=/?#" + strings.Repeat("x", 20)
	offline := w.online(sid, identity)
	w.until("the first three", func() bool { return tg.count() == 3 })
	offline()
	w.until("the other two", func() bool { return tg.count() == 5 })
	tell := presence.UserUpdate{FriendlyName: new("Zoë & Söns"), Attributes: new(`{"a": "+ é"}`), Tell: presence.OriginAPI}
	u, err := w.store.UpdateUser(t.Context(), presence.Key{Service: sid, Identity: identity}, tell)
	if err != nil {
		t.Fatal(err)
	}
	w.until("the profile", func() bool { return tg.count() == 6 })
	tg.mu.Lock()
	defer tg.mu.Unlock()
	seen := map[string]bool{}
	var revs []string
	for i, want := range []string{"onUserAdded", "onUserUpdated", "onReachabilityChanged", "onUserUpdated", "onReachabilityChanged", "onUserUpdated"} {
		got, head := tg.got[i], tg.heads[i]
		if got.Get("EventType") != want || got.Get("AccountSid") != account || got.Get("ChatServiceSid") != sid || got.Get("UserSid") != u.SID ||
			got.Get("Identity") != identity || got.Get("a") != "b" || got.Get("c") != " d" {
			t.Errorf("event %d is %v; want %s of the user", i, got, want)
		}
		if ev := got.Get("EventSid"); ev != head.Get("I-Twilio-Idempotency-Token") || !presence.IsSID(ev, "EV") || seen[ev] || head.Get("X-Rollcall-Attempt") != "1" {
			t.Errorf("event %d: EventSid %q, headers %v", i, ev, head)
		}
		seen[got.Get("EventSid")] = true
		for name, values := range got {
			if len(values) != 1 {
				t.Errorf("event %d has %s %d times; validators want one", i, name, len(values))
			}
			if strings.HasPrefix(name, "Date") || name == "EventDate" {
				if at, err := time.Parse("2006-01-02T15:04:05.000Z", values[0]); err != nil || time.Since(at) > time.Minute {
					t.Errorf("event %d: %s = %q", i, name, values[0])
				}
			}
		}
		if want == "onReachabilityChanged" {
			revs = append(revs, got.Get("PreviousRevision"), got.Get("Revision"))
		}
	}
	if a := tg.got[0]; a.Has("isOnline") || a.Get("Attributes") != "{}" || a.Has("FriendlyName") || !a.Has("DateCreated") || a.Get("Source") != "SDK" || a.Get("ClientIdentity") != identity {
		t.Errorf("onUserAdded: %v", a)
	}
	if a := tg.got[2]; a.Get("isOnline") != "true" || a.Has("isNotifiable") || a.Get("Cause") != "connect" || a.Has("DateLastOnline") || a.Has("Attributes") {
		t.Errorf("onReachabilityChanged: %v", a)
	}
	if a := tg.got[4]; a.Get("isOnline") != "false" || a.Get("Cause") != "end" || !a.Has("DateLastOnline") {
		t.Errorf("onReachabilityChanged: %v", a)
	}
	if revs[0] != "" || revs[1] == "" || revs[2] != revs[1] || revs[3] <= revs[2] {
		t.Errorf("revisions %v; want each to name the one before", revs)
	}
	if a := tg.got[5]; a.Get("isOnline") != "false" || a.Get("FriendlyName") != "Zoë & Söns" || a.Get("Attributes") != `{"a": "+ é"}` || a.Get("Source") != "API" || a.Has("ClientIdentity") || a.Get("RoleSid") != u.Role {
		t.Errorf("onUserUpdated: %v", a)
	}
}

// With the method GET all is in the query, and the signature is of the URL alone.
func TestGet(t *testing.T) {
	w := newWorld(t)
	w.start(webhook.Options{AllowedNetworks: loopback})
	tg := newTarget(t, nil)
	for _, u := range []string{tg.URL + "/hook", tg.URL + "/hook?a=b"} {
		sid := w.service(u, "onReachabilityChanged")
		if _, err := w.store.UpdateService(t.Context(), sid, presence.ServiceUpdate{Webhooks: &presence.WebhooksUpdate{Method: new("GET")}}); err != nil {
			t.Fatal(err)
		}
		before := tg.count()
		w.online(sid, "ada")
		w.until("it is told", func() bool { return tg.count() == before+1 })
		if got := tg.history("ada"); got[before] != "true" {
			t.Errorf("told %v", got)
		}
	}
}

// While one service's target hangs, another's is told all, and the first one's share
// shrinks; what it was owed is delivered once it answers.
func TestSlowTarget(t *testing.T) {
	w := newWorld(t)
	w.start(webhook.Options{AllowedNetworks: loopback, TargetConcurrency: 4, Concurrency: 8}, func(d *webhook.Deliverer) { d.SetTimeout(200 * time.Millisecond) })
	mended := make(chan struct{})
	hung := newTarget(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-mended:
		case <-r.Context().Done():
		}
	})
	fast := newTarget(t, nil)
	slow, quick := w.service(hung.URL, "onReachabilityChanged"), w.service(fast.URL, "onReachabilityChanged")
	const users = 40
	for i := range users {
		w.online(slow, fmt.Sprint("user", i))
	}
	w.until("the target's share has shrunk", func() bool { return w.d.Limit(slow) == 1 })
	for i := range users {
		w.online(quick, fmt.Sprint("user", i))
	}
	w.until("the other service is told all", func() bool { return fast.count() == users })
	close(mended)
	w.until("the first is told all", func() bool {
		return w.metric("rollcall_webhook_attempts_total", "onReachabilityChanged", "ok") == 2*users
	})
	if w.metric("rollcall_webhook_attempts_total", "onReachabilityChanged", "timeout") == 0 {
		t.Error("nothing timed out: the target did not hang")
	}
}

// More services than may be under way at one time take turns, even if all hang.
func TestConcurrencyIsShared(t *testing.T) {
	w := newWorld(t)
	w.start(webhook.Options{AllowedNetworks: loopback, TargetConcurrency: 2, Concurrency: 2}, func(d *webhook.Deliverer) { d.SetTimeout(50 * time.Millisecond) })
	hung := newTarget(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	fast := newTarget(t, nil)
	for range 3 {
		sid := w.service(hung.URL, "onReachabilityChanged")
		for i := range 10 {
			w.online(sid, fmt.Sprint("user", i))
		}
	}
	w.until("the targets hang", func() bool { return hung.count() > 3 })
	sid := w.service(fast.URL, "onReachabilityChanged")
	for i := range 20 {
		w.online(sid, fmt.Sprint("user", i))
	}
	w.until("the fast one is told all", func() bool { return fast.count() == 20 })
	if n := w.metric("rollcall_webhook_running"); n > 2 {
		t.Errorf("%v users' events under way; want at most 2", n)
	}
}

// What fails is tried again, and what the user is owed after it waits, so that the
// order stays; other users do not wait.
func TestRetryKeepsOrder(t *testing.T) {
	w := newWorld(t)
	w.start(webhook.Options{AllowedNetworks: loopback})
	var mu sync.Mutex
	failures := map[string][]int{"ada": {500, 302}, "bob": {404}}
	tg := newTarget(t, func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if list := failures[r.Form.Get("Identity")]; len(list) > 0 {
			failures[r.Form.Get("Identity")] = list[1:]
			rw.Header().Set("Location", "/elsewhere")
			rw.WriteHeader(list[0])
			if r.RequestURI != "/hook" {
				t.Errorf("asked for %s", r.RequestURI)
			}
		}
	})
	sid := w.service(tg.URL+"/hook", "onReachabilityChanged")
	w.online(sid, "ada")()
	w.online(sid, "ada")
	w.online(sid, "bob")
	w.online(sid, "eve")
	w.until("all told", func() bool {
		return len(tg.history("ada")) == 5 && len(tg.history("bob")) == 2 && len(tg.history("eve")) == 1 && w.d.Idle()
	})
	if got := tg.history("ada"); !slices.Equal(got, []string{"true", "true", "true", "false", "true"}) {
		t.Errorf("ada: %v; want the first three times, then the others", got)
	}
	tg.mu.Lock()
	var attempts []string
	for i, v := range tg.got {
		if v.Get("Identity") == "ada" {
			attempts = append(attempts, tg.heads[i].Get("X-Rollcall-Attempt"))
		}
	}
	tg.mu.Unlock()
	if !slices.Equal(attempts, []string{"1", "2", "3", "1", "1"}) {
		t.Errorf("attempts %v", attempts)
	}
	for outcome, want := range map[string]float64{"http_5xx": 1, "http_3xx": 1, "http_4xx": 1, "ok": 5} {
		if got := w.metric("rollcall_webhook_attempts_total", "onReachabilityChanged", outcome); got != want {
			t.Errorf("%s = %v; want %v", outcome, got, want)
		}
	}
}

// An event that cannot be delivered for long becomes a dead letter.
func TestExpired(t *testing.T) {
	w := newWorld(t)
	w.start(webhook.Options{RetryFor: time.Millisecond}) // loopback is not allowed
	tg := newTarget(t, nil)
	sid := w.service(tg.URL, "onReachabilityChanged")
	w.online(sid, "ada")
	w.until("it is dead", func() bool { return w.metric("rollcall_webhook_dead_letters_total", "expired") == 1 })
	page, err := w.store.ListDeadLetters(t.Context(), sid, "", 10)
	if err != nil || len(page.Items) != 1 || page.Items[0].Why != "blocked" || page.Items[0].Attempts != 1 {
		t.Errorf("dead letters %+v, %v; want one that was blocked", page, err)
	}
	if tg.count() != 0 {
		t.Error("a target in a network that is not allowed was called")
	}
}

// Events that nobody is to be told of any more are dropped, and counted.
func TestDropped(t *testing.T) {
	w := newWorld(t)
	tg := newTarget(t, nil)
	const both = "onUserUpdated,onReachabilityChanged"
	off, unwanted := w.service(tg.URL, both), w.service(tg.URL, both)
	w.online(off, "ada")
	w.online(unwanted, "bob")
	if _, err := w.store.UpdateUser(t.Context(), presence.Key{Service: off, Identity: "ada"}, presence.UserUpdate{FriendlyName: new("Ada"), Tell: presence.OriginAPI}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.store.UpdateService(t.Context(), off, presence.ServiceUpdate{Enabled: new(false)}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.store.UpdateService(t.Context(), unwanted, presence.ServiceUpdate{Webhooks: &presence.WebhooksUpdate{Filters: new("")}}); err != nil {
		t.Fatal(err)
	}
	k := presence.Key{Service: off, Identity: "eve"}
	base := w.store.Keys().Base(w.store.Partition(k))
	w.client.RPush(t.Context(), base+":"+off+":q:eve", "1 EV00000000000000000000000000000000 not JSON")
	w.client.ZAdd(t.Context(), base+":"+off+":due", redis.Z{Score: 1, Member: "eve"})
	w.client.ZAdd(t.Context(), base+":hookdue", redis.Z{Score: 1, Member: off})
	w.start(webhook.Options{AllowedNetworks: loopback})
	w.until("all dropped", func() bool {
		return w.metric("rollcall_webhook_dropped_total", "void") == 2 && w.metric("rollcall_webhook_dropped_total", "unwanted") == 2 &&
			w.metric("rollcall_webhook_dropped_total", "unreadable") == 1 && tg.count() == 1 && w.d.Idle()
	})
	tg.mu.Lock()
	if got := tg.got[0]; got.Get("FriendlyName") != "Ada" || got.Has("isOnline") {
		t.Errorf("told %v; want the profile only", got)
	}
	tg.mu.Unlock()
	w.until("the queues are empty", func() bool { return len(w.client.Keys(t.Context(), "*:q:*").Val()) == 0 })
}

// The account's webhooks hold for services that have none.
func TestAccountWebhooks(t *testing.T) {
	w := newWorld(t)
	w.start(webhook.Options{AllowedNetworks: loopback})
	accounts, own := newTarget(t, nil), newTarget(t, nil)
	if _, err := w.store.UpdateAccountWebhooks(t.Context(), presence.WebhooksUpdate{PostURL: &accounts.URL, Filters: new("onReachabilityChanged")}); err != nil {
		t.Fatal(err)
	}
	w.online(w.service("", ""), "ada")
	w.online(w.service(own.URL, "onReachabilityChanged"), "bob")
	w.until("both told", func() bool { return accounts.count() == 1 && own.count() == 1 })
	if len(accounts.history("ada")) != 1 {
		t.Errorf("the account's backend was told %v", accounts.got)
	}
}

// A deliverer that ends gives back what it has not delivered: the next has it at once.
func TestServeEnds(t *testing.T) {
	w := newWorld(t)
	w.start(webhook.Options{AllowedNetworks: loopback, TargetConcurrency: 1})
	block := make(chan struct{})
	tg := newTarget(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-block:
		case <-r.Context().Done():
		}
	})
	sid := w.service(tg.URL, "onReachabilityChanged")
	w.online(sid, "ada")
	w.until("ada is under way", func() bool { return tg.count() == 1 })
	w.online(sid, "bob")
	w.until("bob waits", func() bool { return w.metric("rollcall_webhook_waiting") == 1 })
	w.stop()
	if n := w.metric("rollcall_webhook_attempts_total", "onReachabilityChanged", "aborted"); n != 1 {
		t.Errorf("%v attempts aborted; want 1", n)
	}
	close(block)
	w.start(webhook.Options{AllowedNetworks: loopback})
	w.until("both are told", func() bool { return w.metric("rollcall_webhook_attempts_total", "onReachabilityChanged", "ok") == 2 })
	tg.mu.Lock()
	defer tg.mu.Unlock()
	for _, h := range tg.heads {
		if h.Get("X-Rollcall-Attempt") != "1" {
			t.Errorf("attempt %s; what was aborted does not count", h.Get("X-Rollcall-Attempt"))
		}
	}
}

// Partitions that are another node's are left alone.
func TestNotMine(t *testing.T) {
	w := newWorld(t)
	w.start(webhook.Options{AllowedNetworks: loopback})
	for p := range w.store.Partitions() {
		w.d.Beat(presence.Partition(p), false, 0)
	}
	if n := w.metric("rollcall_webhook_partitions"); n != 0 {
		t.Errorf("delivers %v partitions; want none", n)
	}
	tg := newTarget(t, nil)
	sid := w.service(tg.URL, "onReachabilityChanged")
	w.online(sid, "ada")
	claims, errs := w.store.ClaimWebhooks(t.Context(), []presence.Partition{w.store.Partition(presence.Key{Service: sid, Identity: "ada"})}, nil)
	if errs[0] != nil || len(claims[0].Users) != 1 || tg.count() != 0 {
		t.Errorf("claimed %+v, %v; want what nobody took", claims[0], errs[0])
	}
}

// A backend that refuses a change before it is made has its way; one that does not
// answer has not.
func TestBeforeUserUpdate(t *testing.T) {
	w := newWorld(t)
	w.start(webhook.Options{AllowedNetworks: loopback}, func(d *webhook.Deliverer) { d.SetTimeout(100 * time.Millisecond) })
	var status atomic.Int32
	tg := newTarget(t, func(rw http.ResponseWriter, r *http.Request) {
		if status.Load() == 0 {
			<-r.Context().Done()
			return
		}
		rw.WriteHeader(int(status.Load()))
	})
	sid := w.service(tg.URL, "onUserUpdate")
	ask := func() error {
		s, err := w.store.Service(t.Context(), sid)
		if err != nil {
			t.Fatal(err)
		}
		u := presence.User{Key: presence.Key{Service: sid, Identity: "ada"}, SID: "US1", Attributes: "{}"}
		return w.d.BeforeUserUpdate(t.Context(), s, u, presence.UserUpdate{FriendlyName: new("Ada")})
	}
	for _, c := range []struct {
		status int32
		want   error
	}{
		{200, nil}, {204, nil}, {400, presence.ErrRejected}, {403, presence.ErrRejected}, {500, presence.ErrRejected}, {302, nil}, {0, nil},
	} {
		status.Store(c.status)
		if got := ask(); !errors.Is(got, c.want) {
			t.Errorf("a backend that answers %d: %v; want %v", c.status, got, c.want)
		}
	}
	tg.mu.Lock()
	got := tg.got[0]
	tg.mu.Unlock()
	if got.Get("EventType") != "onUserUpdate" || got.Get("FriendlyName") != "Ada" || got.Has("isOnline") {
		t.Errorf("asked %v", got)
	}
	// Who wants the change is told, too.
	status.Store(200)
	for _, c := range []struct {
		origin         presence.Origin
		source, client string
	}{
		{presence.OriginSDK, "SDK", "ada"}, {presence.OriginAPI, "API", ""},
	} {
		s, err := w.store.Service(t.Context(), sid)
		if err != nil {
			t.Fatal(err)
		}
		u := presence.User{Key: presence.Key{Service: sid, Identity: "ada"}, SID: "US1", Attributes: "{}"}
		_ = w.d.BeforeUserUpdate(t.Context(), s, u, presence.UserUpdate{Attributes: new(`{"a":1}`), Tell: c.origin})
		tg.mu.Lock()
		got := tg.got[len(tg.got)-1]
		tg.mu.Unlock()
		if got.Get("Source") != c.source || got.Get("ClientIdentity") != c.client || got.Has("ClientIdentity") != (c.client != "") ||
			got.Get("Identity") != "ada" || got.Get("Attributes") != `{"a":1}` || got.Has("FriendlyName") {
			t.Errorf("for a change by %s asked %v", c.source, got)
		}
	}
	if _, err := w.store.UpdateService(t.Context(), sid, presence.ServiceUpdate{Webhooks: &presence.WebhooksUpdate{Filters: new("onUserUpdated")}}); err != nil {
		t.Fatal(err)
	}
	before := tg.count()
	status.Store(403)
	if ask() != nil || tg.count() != before {
		t.Error("asked, though the filters do not name it")
	}
}

// A backend is asked about so many changes at a time and no more.
func TestBeforeUserUpdateIsBounded(t *testing.T) {
	w := newWorld(t)
	w.start(webhook.Options{AllowedNetworks: loopback, TargetConcurrency: 2})
	let, came := make(chan struct{}), make(chan struct{}, 3)
	tg := newTarget(t, func(http.ResponseWriter, *http.Request) { came <- struct{}{}; <-let })
	sid := w.service(tg.URL, "onUserUpdate")
	s, err := w.store.Service(t.Context(), sid)
	if err != nil {
		t.Fatal(err)
	}
	ask := func() error {
		u := presence.User{Key: presence.Key{Service: sid, Identity: "ada"}, SID: "US1", Attributes: "{}"}
		return w.d.BeforeUserUpdate(t.Context(), s, u, presence.UserUpdate{FriendlyName: new("Ada")})
	}
	answers := make(chan error, 2)
	for range 2 {
		go func() { answers <- ask() }()
	}
	<-came
	<-came
	if err := ask(); !errors.Is(err, presence.ErrAsking) {
		t.Errorf("a third question at a time = %v; want ErrAsking", err)
	}
	close(let)
	for range 2 {
		if err := <-answers; err != nil {
			t.Errorf("a question that was let through = %v", err)
		}
	}
	if err := ask(); err != nil {
		t.Errorf("a question after those = %v", err)
	}
}

func TestBackoff(t *testing.T) {
	for failed, want := range map[int]time.Duration{0: time.Second, 1: 2 * time.Second, 5: 32 * time.Second, 8: 256 * time.Second, 9: 5 * time.Minute, 1000: 5 * time.Minute} {
		for range 50 {
			if got := webhook.Backoff(failed); got < want*4/5 || got >= want*6/5 {
				t.Errorf("backoff after %d = %v; want %v, give or take a fifth", failed, got, want)
			}
		}
	}
}

// Services whose targets hang, with many users each, do not take up the room for what
// is claimed: what a target that does not answer in time has no room for is given back.
func TestHungTargetsGiveBack(t *testing.T) {
	w := newWorld(t)
	w.start(webhook.Options{AllowedNetworks: loopback, TargetConcurrency: 2}, func(d *webhook.Deliverer) { d.SetTimeout(50 * time.Millisecond) })
	hung := newTarget(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	sid := w.service(hung.URL, "onReachabilityChanged")
	w.online(sid, "first")
	w.until("it is known to hang", func() bool { return w.d.Limit(sid) == 1 })
	for p := range w.store.Partitions() {
		w.d.Beat(presence.Partition(p), false, 0)
	}
	for i := range 200 {
		w.online(sid, fmt.Sprint("user", i))
	}
	for p := range w.store.Partitions() {
		w.d.Beat(presence.Partition(p), true, 0)
	}
	for asked := hung.count(); hung.count() < asked+8; {
		if n := w.metric("rollcall_webhook_waiting"); n > 1 {
			t.Fatalf("%v users wait for a target that hangs; want at most 1", n)
		}
	}
}

// endsAmid is a queue whose deliverer is told to end while a claim is under way: an
// answer that is not waited for is lost.
type endsAmid struct {
	*redisstore.Store
	end func()
}

func (q endsAmid) ClaimWebhooks(ctx context.Context, ps []presence.Partition, busy []string) ([]presence.Claim, []error) {
	claims, errs := q.Store.ClaimWebhooks(context.WithoutCancel(ctx), ps, busy)
	q.end()
	for i := range errs {
		if ctx.Err() != nil {
			claims[i], errs[i] = presence.Claim{}, ctx.Err()
		}
	}
	return claims, errs
}

// What is claimed while the deliverer is told to end is delivered or given back, not
// left to nobody until the claim lapses.
func TestServeEndsAmidClaim(t *testing.T) {
	w := newWorld(t)
	tg := newTarget(t, nil)
	w.online(w.service(tg.URL, "onReachabilityChanged"), "ada")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	d := webhook.New(endsAmid{w.store, cancel}, fresh{w.store}, webhook.Options{AuthToken: token, AllowedNetworks: loopback})
	for p := range w.store.Partitions() {
		d.Beat(presence.Partition(p), true, 0)
	}
	if err := d.Serve(ctx); err != nil {
		t.Fatal(err)
	}
	w.start(webhook.Options{AllowedNetworks: loopback})
	before := time.Now()
	w.until("it is told", func() bool { return tg.count() == 1 })
	if took := time.Since(before); took > 10*time.Second {
		t.Errorf("told after %v; want at once", took)
	}
}

// A target that takes the connection for itself, and then says nothing, holds up
// neither its own events for longer than an attempt, nor the end of the deliverer.
func TestSwitchingProtocols(t *testing.T) {
	w := newWorld(t)
	w.start(webhook.Options{AllowedNetworks: loopback}, func(d *webhook.Deliverer) { d.SetTimeout(100 * time.Millisecond) })
	over := make(chan struct{})
	defer close(over)
	tg := newTarget(t, func(rw http.ResponseWriter, _ *http.Request) {
		c, _, err := rw.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		_, _ = c.Write([]byte("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: sleep\r\n\r\n"))
		<-over
	})
	w.online(w.service(tg.URL, "onReachabilityChanged"), "ada")
	w.until("the attempt failed", func() bool {
		return w.metric("rollcall_webhook_attempts_total", "onReachabilityChanged", "http_3xx") == 1
	})
}

// What this node knows of a service, or of the account, may be older than an event:
// then the event is not taken for one that nobody wants.
func TestStaleCopies(t *testing.T) {
	w := newWorld(t)
	dir := presence.NewDirectory(w.store, time.Hour) // not served: it hears of no change
	w.services = dir
	w.start(webhook.Options{AllowedNetworks: loopback})
	tg := newTarget(t, nil)
	const both = "onUserUpdated,onReachabilityChanged"
	know := func(sid string) string {
		t.Helper()
		if _, err := dir.Service(t.Context(), sid); err != nil {
			t.Fatal(err)
		}
		return sid
	}
	update := func(sid string, u presence.ServiceUpdate) {
		t.Helper()
		if _, err := w.store.UpdateService(t.Context(), sid, u); err != nil {
			t.Fatal(err)
		}
	}
	told := func(what, identity string, want ...string) {
		t.Helper()
		w.until(what, func() bool { return len(tg.history(identity)) == len(want) })
		if got := tg.history(identity); !slices.Equal(got, want) {
			t.Errorf("%s: told %v; want %v", what, got, want)
		}
	}

	sid := know(w.service("", ""))
	update(sid, presence.ServiceUpdate{Webhooks: &presence.WebhooksUpdate{PostURL: &tg.URL, Filters: new(both)}})
	w.online(sid, "configured")
	told("the service was configured", "configured", "true", "true")

	sid = w.service(tg.URL, both)
	update(sid, presence.ServiceUpdate{Enabled: new(false)})
	know(sid)
	update(sid, presence.ServiceUpdate{Enabled: new(true)})
	w.online(sid, "enabled")
	told("the switch was turned on", "enabled", "true", "true")

	sid = know(w.service(tg.URL, both))
	update(sid, presence.ServiceUpdate{Enabled: new(false)})
	update(sid, presence.ServiceUpdate{Enabled: new(true)})
	w.online(sid, "epoch")()
	told("the switch was turned off and on", "epoch", "true", "true", "false", "false")

	sid = w.service("", "")
	account := func(filters string) {
		t.Helper()
		if _, err := w.store.UpdateAccountWebhooks(t.Context(), presence.WebhooksUpdate{PostURL: &tg.URL, Filters: &filters}); err != nil {
			t.Fatal(err)
		}
	}
	account("onReachabilityChanged")
	w.online(sid, "account1")
	told("the account was configured", "account1", "true")
	account(both)
	w.online(sid, "account2")
	told("the account wants more", "account2", "true", "true")
}
