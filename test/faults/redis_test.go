package faults

import (
	"strings"
	"testing"
	"time"

	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/internal/testkit/proxy"
	"github.com/rollcall-presence/rollcall/internal/testkit/rig"
	"github.com/rollcall-presence/rollcall/internal/testkit/skew"
)

// line is one redis-server that each node reaches through a proxy of its own.
type line struct {
	server  *testkit.Server
	proxies []*proxy.Proxy
}

// store is for Scenario.Store.
func (l *line) store(t testing.TB) Store {
	l.server, l.proxies = testkit.Redis(t), nil
	for range 3 {
		l.proxies = append(l.proxies, proxy.New(t, l.server.Addr))
	}
	return Store{URL: func(i int) string { return "redis://" + l.proxies[i].Addr() }, Redis: l.server}
}

// set has a rule hold for the connections of a kind, of all nodes.
func (l *line) set(k proxy.Kind, r proxy.Rule) {
	for _, p := range l.proxies {
		p.Set(k, r)
	}
}

// hole is what holds all bytes back, in both directions.
var hole = proxy.Rule{Up: proxy.Flow{Hole: true}, Down: proxy.Flow{Hole: true}}

// paused has Redis stand still for a while, and says so to the checker.
func paused(w *World, how string, still func(d time.Duration)) {
	w.Gaps()
	d := w.pick(6*time.Second, 30*time.Second)
	from := w.Note("Redis is paused for %v (%s)", d, how)
	still(d)
	to := w.Note("Redis answers again")
	w.Away(Away{From: from, To: to, Extra: w.Timers.Heartbeat, Why: "Redis was paused"})
	w.Elapse(w.Timers.Heartbeat)
}

const pausedBound = "nobody is offline who is connected; what is due meanwhile is told within a heartbeat, and its own time, of Redis answering again"

func TestRedisStopped(t *testing.T) {
	Scenario{
		Name: "Redis stands still for 30 s (SIGSTOP)", Guarantees: "G1, G7, G8", Bound: pausedBound,
		Fault: func(w *World) {
			paused(w, "SIGSTOP", func(d time.Duration) {
				w.Store.Redis.Stop(w)
				defer w.Store.Redis.Cont(w)
				w.Elapse(d)
			})
		},
	}.run(t)
}

func TestRedisPaused(t *testing.T) {
	Scenario{
		Name: "Redis is paused for 30 s (CLIENT PAUSE)", Guarantees: "G1, G7, G8", Bound: pausedBound,
		Fault: func(w *World) {
			paused(w, "CLIENT PAUSE", func(d time.Duration) {
				c := w.Store.Redis.Client()
				defer func() { _ = c.Close() }()
				if err := c.ClientPause(w.Context(), d).Err(); err != nil {
					w.Fatal(err)
				}
				w.Elapse(d)
			})
		},
	}.run(t)
}

func TestPubSubKilled(t *testing.T) {
	var l line
	Scenario{
		Name: "the pub/sub connections of all nodes are killed, again and again", Guarantees: "G7, G8",
		Bound: "nothing is missed: the nodes subscribe anew and read what they may have missed",
		Store: l.store,
		Fault: func(w *World) {
			w.Gaps()
			killed := 0
			for range 10 {
				for _, p := range l.proxies {
					killed += p.Cut(proxy.PubSub)
				}
				w.Elapse(w.pick(400*time.Millisecond, 2*time.Second))
			}
			w.Note("%d pub/sub connections were killed", killed)
			w.Saw("%d connections killed", killed)
			if killed < 20 {
				w.Errorf("%d pub/sub connections were killed; want 20 at least", killed)
			}
		},
	}.run(t)
}

// What pub/sub does not bring, the numbers that the heartbeats bring tell of.
func TestPubSubBlackHole(t *testing.T) {
	var l line
	Scenario{
		Name: "pub/sub brings nothing any more, without a word, while commands work", Guarantees: "G7, G8",
		Bound: "all is told within a heartbeat",
		Store: l.store,
		Fault: func(w *World) {
			w.Gaps()
			w.Slack(w.Timers.Heartbeat + 3*time.Second)
			w.Note("what Redis publishes reaches no node")
			l.set(proxy.PubSub, proxy.Rule{Down: proxy.Flow{Hole: true}})
			w.Elapse(w.pick(8*time.Second, 25*time.Second))
			held := 0
			for _, p := range l.proxies {
				held += p.Held(proxy.PubSub)
			}
			if held == 0 {
				w.Error("nothing was held back")
			}
			l.set(proxy.PubSub, proxy.Rule{})
			w.Note("it does again")
		},
	}.run(t)
}

// cutOff cuts node 0 off from Redis for a time. Its clients stay.
func cutOff(w *World, l *line, d time.Duration) (from, to time.Duration) {
	w.Gaps()
	from = w.Note("node 0 is cut off from Redis for %v", d)
	l.proxies[0].SetAll(hole)
	w.Elapse(d)
	l.proxies[0].SetAll(proxy.Rule{})
	return from, w.Note("node 0 reaches Redis again")
}

func TestNodeCutOffBriefly(t *testing.T) {
	var l line
	Scenario{
		Name: "a node is cut off from Redis for less than its lease, its clients stay", Guarantees: "G1, G5, G7",
		Bound: "no event: its users stay online",
		Store: l.store,
		Fault: func(w *World) {
			from, to := cutOff(w, &l, w.Timers.Lease-2*w.Timers.Heartbeat)
			w.Away(Away{From: from, To: to, Extra: w.Timers.Heartbeat, Why: "a node was cut off"})
		},
	}.run(t)
}

func TestNodeCutOff(t *testing.T) {
	var l line
	Scenario{
		Name: "a node is cut off from Redis for longer than its lease, its clients stay", Guarantees: "G5, G7, G8",
		Bound: "its users are offline once, after the lease, and online again within a heartbeat of its return; nobody else is",
		Store: l.store,
		Fault: func(w *World) {
			w.nodeFails()
			from, to := cutOff(w, &l, w.Timers.Lease+w.pick(3*time.Second, 15*time.Second))
			w.Away(Away{From: from, To: to, Extra: w.Timers.Heartbeat, Why: "a node was cut off"})
			w.Excuse(Excuse{
				Rules: []string{Connected, Covered}, From: from + w.Timers.Lease - 2*w.Timers.Heartbeat, To: to + w.Timers.Heartbeat,
				Users: func(user string) bool { return w.mayBeOn("node 0", user) },
				Why:   "offline at the lease's end, of the node that was cut off for longer",
			})
		},
	}.run(t)
}

// mayBeOn tells whether a session of the user went to a node, or through the balancer, which may have chosen that.
func (w *World) mayBeOn(node, user string) bool {
	for _, e := range w.Rec.History().Entries {
		if e.Kind == Began && e.User == user && (e.Node == node || !strings.HasPrefix(e.Node, "node")) {
			return true
		}
	}
	return false
}

func TestSlowRedis(t *testing.T) {
	var l line
	Scenario{
		Name: "each answer of Redis takes 200 ms longer", Guarantees: "G1, G3, G7, G8",
		Bound: "all bounds hold, with as many round trips more as a step takes",
		Store: l.store,
		Fault: func(w *World) {
			w.Slack(4 * time.Second)
			w.Note("Redis is 200 ms away")
			slow := proxy.Flow{Latency: 100 * time.Millisecond}
			for _, k := range proxy.Kinds {
				l.set(k, proxy.Rule{Up: slow, Down: slow})
			}
			w.Elapse(w.pick(8*time.Second, 40*time.Second))
		},
	}.run(t)
}

func TestClocks(t *testing.T) {
	binary := ""
	Scenario{
		Name: "the clock of one node is 10 min ahead, of another 10 min behind; the third is killed, and the switch flipped", Guarantees: "G5, G8, G10",
		Bound: "as with right clocks",
		Start: func(w *World, i int, env []string) *rig.Node {
			if binary == "" {
				binary = skew.Build(w, rig.Program)
			}
			off := []time.Duration{10 * time.Minute, -10 * time.Minute, 0}[i]
			return rig.StartBinary(w, binary, w.Store.URL(i), append(env, skew.Env(off))...)
		},
		Fault: func(w *World) {
			w.Kill(2)
			w.Elapse(w.Timers.Lease + w.Timers.Heartbeat)
			w.Restart(2)
			w.Elapse(w.Timers.Linger)
			w.Flip(0, false)
			w.Elapse(w.Timers.Heartbeat)
			w.Flip(1, true)
			w.Elapse(w.Timers.Heartbeat)
		},
	}.run(t)
}
