package redisbus_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/rollcall-presence/rollcall/fanout"
	"github.com/rollcall-presence/rollcall/fanout/fanouttest"
	"github.com/rollcall-presence/rollcall/fanout/redisbus"
	"github.com/rollcall-presence/rollcall/internal/keys"
	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/presence"
	"github.com/rollcall-presence/rollcall/presence/redisstore"
)

func TestMain(m *testing.M) {
	// A pool that could not reach its server looks for it in a goroutine that sees only
	// once a second that the pool was closed, which is later than goleak waits.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"))
}

var names = keys.Keys{Prefix: "rc:", Partitions: 256}

// message is an event as the store's scripts publish it.
func message(t testing.TB, run string, seq uint64, e presence.Event) string {
	t.Helper()
	u := e.User
	n := func(v int64) string { return strconv.FormatInt(v, 10) }
	flag := map[presence.Tri]string{presence.True: "1", presence.False: "0"}
	m := map[string]any{"r": run, "q": strconv.FormatUint(seq, 10), "s": u.Service, "i": u.Identity, "v": n(u.Rev), "m": int(e.Reasons)}
	if e.Deleted {
		m["d"] = 1
	} else {
		m["u"], m["e"], m["ne"], m["o"], m["n"] = u.SID, n(u.Epoch), n(u.NotifiableEpoch), flag[u.Online], flag[u.Notifiable]
		if !u.LastOnline.IsZero() {
			m["l"] = n(u.LastOnline.UnixMilli())
		}
		if u.FriendlyName != nil {
			m["f"] = *u.FriendlyName
		}
		if u.Attributes != "" {
			m["a"] = u.Attributes
		}
	}
	if u.Identity == "" {
		m = map[string]any{"r": run, "q": m["q"], "s": u.Service}
	}
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func publish(c redis.UniversalClient) func(*testing.T, presence.Partition, string, uint64, presence.Event) {
	return func(t *testing.T, p presence.Partition, run string, seq uint64, e presence.Event) {
		if err := c.Publish(t.Context(), names.Channel(p), message(t, run, seq, e)).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

// asleep is a handler that no wake concerns.
type asleep struct{ fanout.Handler }

func (asleep) Woken(byte, presence.Partition) {}

// serve runs a bus until the test ends.
func serve(t *testing.T, c redis.UniversalClient, h fanout.Handler, opt redisbus.Options) *redisbus.Bus {
	b := redisbus.New(c, names, "node", opt)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := b.Serve(ctx, asleep{h}); err != nil {
			t.Errorf("Serve = %v", err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return b
}

func TestMiniredis(t *testing.T) {
	fanouttest.Run(t, func(t *testing.T, h fanout.Handler) fanouttest.Harness {
		m, c := testkit.Mini(t)
		return fanouttest.Harness{
			Bus: serve(t, c, h, redisbus.Options{}), Publish: publish(c),
			Cut: func(*testing.T) { m.Close() },
			Mend: func(t *testing.T) {
				if err := m.Restart(); err != nil {
					t.Fatal(err)
				}
			},
		}
	})
}

func TestRedis(t *testing.T) {
	s := testkit.Redis(t)
	fanouttest.Run(t, func(t *testing.T, h fanout.Handler) fanouttest.Harness {
		c := s.Client()
		t.Cleanup(func() { _ = c.Close() })
		p := newProxy(t, s.Addr)
		through := redis.NewClient(&redis.Options{Addr: p.addr, MaxRetries: -1, DialTimeout: time.Second})
		t.Cleanup(func() { _ = through.Close() })
		return fanouttest.Harness{
			Bus: serve(t, through, h, redisbus.Options{}), Publish: publish(c),
			Cut: func(*testing.T) { p.refuse(true) }, Mend: func(*testing.T) { p.refuse(false) },
		}
	})
}

// CLIENT KILL ends connections without the bus's doing; each partition is resynced,
// and nothing but what was published in between is missing.
func TestKilledConnection(t *testing.T) {
	s := testkit.Redis(t)
	c := s.Client()
	defer func() { _ = c.Close() }()
	own := s.Client()
	defer func() { _ = own.Close() }()
	r := fanouttest.NewRecorder()
	reg := prometheus.NewRegistry()
	b := serve(t, own, r, redisbus.Options{Metrics: reg})
	if err := b.Watch(t.Context(), 1, 2, 3); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		before := len(r.Resyncs())
		if n := c.Do(t.Context(), "client", "kill", "type", "pubsub").Val(); n == int64(0) {
			t.Fatal("no connection killed")
		}
		r.AwaitResyncs(t, before+4) // and the services
	}
	publish(c)(t, 2, "run", 9, presence.Event{User: presence.User{Key: presence.Key{Service: "IS0", Identity: "ann"}, Rev: 1}})
	if got := r.Events(t, 1)[0].Seq; got != 9 {
		t.Errorf("delivered seq %d; want 9", got)
	}
	for name, want := range map[string]float64{
		"rollcall_bus_reconnects_total lost": 3, "rollcall_bus_reconnects_total silent": 0, "rollcall_partitions_watched": 3,
	} {
		if got, ok := gather(t, reg)[name]; got != want || !ok {
			t.Errorf("%s = %v, %v; want %v", name, got, ok, want)
		}
	}
}

// gather returns counters and gauges by name and label values.
func gather(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			values[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return values
}

// A connection that dies without a word is noticed by the probe, and made anew.
func TestBlackHole(t *testing.T) {
	s := testkit.Redis(t)
	p := newProxy(t, s.Addr)
	c := redis.NewClient(&redis.Options{Addr: p.addr, MaxRetries: -1, ReadTimeout: 100 * time.Millisecond})
	defer func() { _ = c.Close() }()
	r, reg := fanouttest.NewRecorder(), prometheus.NewRegistry()
	b := serve(t, c, r, redisbus.Options{Probe: 50 * time.Millisecond, Metrics: reg})
	if err := b.Watch(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	until(t, "healthy", b.Healthy)
	p.swallow() // what is connected; new connections work
	r.AwaitResync(t, 1)
	if got := gather(t, reg)["rollcall_bus_reconnects_total silent"]; got < 1 {
		t.Errorf("rollcall_bus_reconnects_total silent = %v; want at least 1", got)
	}
	until(t, "healthy again", b.Healthy)

	direct := s.Client()
	defer func() { _ = direct.Close() }()
	publish(direct)(t, 1, "run", 2, presence.Event{User: presence.User{Key: presence.Key{Service: "IS0", Identity: "ann"}, Rev: 1}})
	r.Events(t, 1)

	p.refuse(true)
	until(t, "unhealthy while Redis is away", func() bool { return !b.Healthy() })
	before := len(r.Resyncs())
	p.refuse(false)
	r.AwaitResyncs(t, before+2)
	until(t, "healthy after it is back", b.Healthy)
}

// A restarted Redis is found again, and the partitions resynced.
func TestRestart(t *testing.T) {
	s := testkit.Redis(t)
	c := s.Client()
	defer func() { _ = c.Close() }()
	r := fanouttest.NewRecorder()
	b := serve(t, c, r, redisbus.Options{})
	if err := b.Watch(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	s.Kill()
	s.Start(t)
	r.AwaitResync(t, 1)
	publish(c)(t, 1, "run", 2, presence.Event{User: presence.User{Key: presence.Key{Service: "IS0", Identity: "ann"}, Rev: 1}})
	r.Events(t, 1)
}

// A channel without listeners is given up, but not at once.
func TestIdleChannel(t *testing.T) {
	s := testkit.Redis(t)
	c := s.Client()
	defer func() { _ = c.Close() }()
	b := serve(t, c, fanouttest.NewRecorder(), redisbus.Options{Idle: 20 * time.Millisecond})
	if err := b.Watch(t.Context(), 1, 2); err != nil {
		t.Fatal(err)
	}
	b.Unwatch(1)
	subscribed := func(p presence.Partition) bool {
		name := names.Channel(p)
		return c.PubSubNumSub(t.Context(), name).Val()[name] > 0
	}
	if !subscribed(1) {
		t.Error("the channel is given up at once")
	}
	until(t, "given up", func() bool { return !subscribed(1) })
	if !subscribed(2) || !subscribed(presence.Services) {
		t.Error("a channel with a listener is given up")
	}
	if err := b.Watch(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if !subscribed(1) {
		t.Error("Watch returned before the channel was subscribed")
	}
}

// Bytes that are no message are counted and change nothing.
func TestMalformed(t *testing.T) {
	_, c := testkit.Mini(t)
	r := fanouttest.NewRecorder()
	reg := prometheus.NewRegistry()
	b := serve(t, c, r, redisbus.Options{Metrics: reg})
	if err := b.Watch(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "{}", "[]", `{"r":"a","q":"1","s":"IS0"}`, `{"r":"a","q":"0","s":"IS0","i":"ann"}`} {
		if err := c.Publish(t.Context(), names.Channel(1), bad).Err(); err != nil {
			t.Fatal(err)
		}
	}
	publish(c)(t, 1, "run", 1, presence.Event{User: presence.User{Key: presence.Key{Service: "IS0", Identity: "ann"}, Rev: 1}})
	if got := r.Events(t, 1); len(got) != 1 || got[0].Run != "run" {
		t.Errorf("delivered %v; want the one good message", got)
	}
	if got := gather(t, reg)["rollcall_bus_malformed_total"]; got != 5 {
		t.Errorf("rollcall_bus_malformed_total = %v; want 5", got)
	}
}

// What the store's scripts publish is what the bus reads: the user just as the store
// has it, whatever bytes it holds.
func TestReadsWhatTheStorePublishes(t *testing.T) {
	s := testkit.Redis(t)
	c := s.Client()
	t.Cleanup(func() { _ = c.Close() })
	ctx := t.Context()
	store := redisstore.New(c, redisstore.Options{Prefix: names.Prefix, Partitions: names.Partitions})
	if err := store.Init(ctx, "AC0123456789abcdef0123456789abcdef"); err != nil {
		t.Fatal(err)
	}
	on := true
	service, err := store.CreateService(ctx, presence.Service{FriendlyName: "s"})
	if err == nil {
		service, err = store.UpdateService(ctx, service.SID, presence.ServiceUpdate{Enabled: &on})
	}
	if err != nil {
		t.Fatal(err)
	}
	r := fanouttest.NewRecorder()
	b := serve(t, c, r, redisbus.Options{})
	seen := 0
	next := func() fanouttest.Published {
		t.Helper()
		seen++
		return r.Events(t, seen)[seen-1]
	}
	text := func(s string) *string { return &s }
	every := make([]byte, 0, 128) // each ASCII character, as a friendly name may hold it
	for i := range byte(128) {
		every = append(every, i)
	}
	big := `{"a":"` + strings.Repeat(`\"`, (presence.MaxAttributes-8)/2) + `"}`
	for i, identity := range []string{
		"ann", "{p000}", "a:b", "a\x00b", `"`, `\`, `\u0041`, "\n\r\t", "\x1f\x7f", "日本語", "\u2028\U0001f600", "</script>",
		strings.Repeat("\x01", presence.MaxIdentity),
	} {
		k := presence.Key{Service: service.SID, Identity: identity}
		p := store.Partition(k)
		if err := b.Watch(ctx, p); err != nil {
			t.Fatal(err)
		}
		session := presence.SessionID(fmt.Sprintf("%0*d", presence.SessionIDLen, i))
		for _, step := range []struct {
			what string
			do   func() error
			want presence.Reasons
		}{
			{"created", func() error { _, err := store.CreateUser(ctx, k, presence.UserUpdate{}); return err }, 0},
			{"online", func() error {
				_, err := store.Register(ctx, p, "n1", []presence.Held{{Key: k, ID: session, Service: service}})
				return err
			}, presence.ReasonOnline},
			{"attributes", func() error { _, err := store.UpdateUser(ctx, k, presence.UserUpdate{Attributes: &big}); return err }, presence.ReasonAttributes},
			{"no name, notifiable", func() error { // as a binding will record it
				state, err := c.HGet(ctx, names.State(p, k.Service), k.Identity).Result()
				if err != nil {
					return err
				}
				fields := strings.Split(state, " ")
				fields[2], fields[4] = "1", "7"
				if err := c.HSet(ctx, names.State(p, k.Service), k.Identity, strings.Join(fields, " ")).Err(); err != nil {
					return err
				}
				_, err = store.UpdateUser(ctx, k, presence.UserUpdate{FriendlyName: text("")})
				return err
			}, presence.ReasonFriendlyName},
			{"both", func() error {
				_, err := store.UpdateUser(ctx, k, presence.UserUpdate{FriendlyName: text(string(every)), Attributes: text("{}")})
				return err
			}, presence.ReasonFriendlyName | presence.ReasonAttributes},
			{"offline", func() error {
				_, err := store.End(ctx, p, "n1", []presence.Ended{{Key: k, ID: session, Service: service}})
				return err
			}, presence.ReasonOnline},
		} {
			if err := step.do(); err != nil {
				t.Fatalf("%s, %q: %v", step.what, identity, err)
			}
			_, want, err := store.User(ctx, k.Service, k.Identity)
			if err != nil {
				t.Fatal(err)
			}
			got := next()
			want.Role, want.Created, want.Updated = "", time.Time{}, time.Time{}
			if step.want&presence.ReasonFriendlyName == 0 {
				want.FriendlyName = nil
			}
			if step.want&presence.ReasonAttributes == 0 {
				want.Attributes = ""
			}
			if diff := cmp.Diff(presence.Event{User: want, Reasons: step.want}, got.Event); diff != "" || got.P != p || got.Run == "" || got.Seq == 0 {
				t.Errorf("%s, %q: read %+v (-want +got):\n%s", step.what, identity, got, diff)
			}
		}
		_, was, err := store.User(ctx, k.Service, k.Identity)
		if err != nil {
			t.Fatal(err)
		}
		if was.LastOnline.IsZero() || was.NotifiableEpoch != 7 {
			t.Errorf("%q ended as %+v; the test shows less than it should", identity, was)
		}
		if err := store.DeleteUser(ctx, k); err != nil {
			t.Fatal(err)
		}
		if got := next().Event; !got.Deleted || got.User.Key != k || got.User.SID != "" || got.User.Rev <= was.Rev || got.Reasons != 0 {
			t.Errorf("deleted, %q: read %+v; want a deletion above revision %d", identity, got, was.Rev)
		}
	}
	if _, err := store.UpdateService(ctx, service.SID, presence.ServiceUpdate{Linger: new(time.Second)}); err != nil {
		t.Fatal(err)
	}
	if got := next(); got.P != presence.Services || got.Event.User.Service != service.SID {
		t.Errorf("service changed: read %+v", got)
	}
}

// until waits for a state that nothing announces.
func until(t *testing.T, what string, ok func() bool, why ...*string) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	timeout := time.NewTimer(20 * time.Second)
	defer timeout.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-timeout.C:
			for _, why := range why {
				what += ": " + *why
			}
			t.Fatalf("not %s in 20 s", what)
		}
	}
}

// proxy is the network between a bus and Redis.
type proxy struct {
	addr, to string
	wg       sync.WaitGroup

	mu      sync.Mutex // guards the following
	conns   map[net.Conn]bool
	refuses bool
	holes   map[net.Conn]bool // whose bytes are lost
}

func newProxy(t *testing.T, to string) *proxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{addr: l.Addr().String(), to: to, conns: map[net.Conn]bool{}, holes: map[net.Conn]bool{}}
	p.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.wg.Go(func() { p.carry(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		p.refuse(true)
		p.wg.Wait()
	})
	return p
}

func (p *proxy) carry(c net.Conn) {
	defer func() { _ = c.Close() }()
	r, err := net.Dial("tcp", p.to)
	if err != nil {
		return
	}
	defer func() { _ = r.Close() }()
	p.mu.Lock()
	if p.refuses {
		p.mu.Unlock()
		return
	}
	p.conns[c], p.conns[r] = true, true
	p.mu.Unlock()
	var wg sync.WaitGroup
	pipe := func(to, from net.Conn) {
		_, _ = io.Copy(sink{p, to}, from)
		_, _ = to.Close(), from.Close()
	}
	wg.Go(func() { pipe(c, r) })
	pipe(r, c)
	wg.Wait()
	p.mu.Lock()
	delete(p.conns, c)
	delete(p.conns, r)
	p.mu.Unlock()
}

// sink writes to a connection, unless it is a black hole.
type sink struct {
	*proxy
	to net.Conn
}

func (s sink) Write(b []byte) (int, error) {
	s.mu.Lock()
	lost := s.holes[s.to]
	s.mu.Unlock()
	if lost {
		return len(b), nil
	}
	return s.to.Write(b)
}

// refuse ends all connections, and each new one while on.
func (p *proxy) refuse(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuses = on
	if on {
		for c := range p.conns {
			_ = c.Close()
		}
	}
}

// swallow loses all bytes of the connections there are.
func (p *proxy) swallow() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		p.holes[c] = true
	}
}

// alarm is a handler that tells of wakes.
type alarm struct {
	*fanouttest.Recorder
	rang chan string
}

func (a alarm) Woken(kind byte, p presence.Partition) { a.rang <- string(kind) + strconv.Itoa(int(p)) }

// Wakes are heard from the start and over reconnections; what is none is counted.
func TestWake(t *testing.T) {
	s := testkit.Redis(t)
	c := s.Client()
	defer func() { _ = c.Close() }()
	own := s.Client()
	defer func() { _ = own.Close() }()
	a := alarm{fanouttest.NewRecorder(), make(chan string, 10)}
	reg := prometheus.NewRegistry()
	b := redisbus.New(own, names, "node", redisbus.Options{Metrics: reg})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = b.Serve(ctx, a) })
	defer wg.Wait()
	defer cancel()

	wake := func(text string) int64 { return c.Publish(t.Context(), names.Wake(), text).Val() }
	until(t, "subscribed", func() bool { return wake("e255") == 1 })
	for _, bad := range []string{"", "e", "e256", "e-1", "ex"} {
		wake(bad)
	}
	until(t, "counted", func() bool { return gather(t, reg)["rollcall_bus_malformed_total"] == 5 })
	c.Do(t.Context(), "client", "kill", "type", "pubsub")
	until(t, "subscribed again", func() bool { return wake("w7") == 1 })
	for _, want := range []string{"e255", "w7"} {
		if got := <-a.rang; got != want {
			t.Errorf("woken by %q; want %q", got, want)
		}
	}
}
