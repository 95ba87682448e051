package faults

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/internal/testkit/rig"
)

// Redis is killed and started again with what it had written down.
func TestRedisRestartWithData(t *testing.T) {
	Scenario{
		Name: "Redis killed and started again with its data (append-only file)", Guarantees: "G1, G7, G8, G12",
		Bound: "nobody offline who is connected; views true again within a heartbeat of its return",
		Store: func(t testing.TB) Store {
			return One(testkit.Redis(t, "--appendonly", "yes", "--appendfsync", "always"))
		},
		Fault: func(w *World) {
			w.Gaps()
			from := w.Note("Redis is killed")
			w.Store.Redis.Kill()
			w.Elapse(w.pick(3*time.Second, 15*time.Second))
			w.Store.Redis.Start(w)
			to := w.Note("Redis is back, with its data")
			w.Away(Away{From: from, To: to, Extra: w.Timers.Heartbeat, Why: "Redis was down"})
		},
	}.run(t)
}

// Redis is killed and comes back empty: nodes write back what they hold.
func TestRedisRestartWithoutData(t *testing.T) {
	var before map[string]string
	Scenario{
		Name: "Redis killed and started again empty", Guarantees: "G1, G7, G8",
		Bound: "nobody offline who is connected; services, their switch and the users of live sessions under their SIDs are back within a heartbeat",
		Fault: func(w *World) {
			w.Gaps()
			before = w.sids()
			from := w.Note("Redis is killed")
			w.Rec.Add(Entry{Kind: Forgot})
			w.Store.Redis.Kill()
			w.Elapse(w.pick(3*time.Second, 15*time.Second))
			w.Store.Redis.Start(w)
			to := w.Note("Redis is back, empty")
			w.Rec.Add(Entry{Kind: Forgot})
			w.Away(Away{From: from, To: to, Extra: w.Timers.Heartbeat, Why: "Redis was down"})
		},
		After: func(w *World) { w.restored(before) },
	}.run(t)
}

// FLUSHALL: as a restart without data, but nobody notices until the next heartbeat.
func TestFlushAll(t *testing.T) {
	var before map[string]string
	Scenario{
		Name: "FLUSHALL", Guarantees: "G1, G7, G8",
		Bound: "nobody offline who is connected; services, their switch and the users of live sessions under their SIDs are back within a heartbeat",
		Fault: func(w *World) {
			before = w.sids()
			c := w.Store.Redis.Client()
			defer func() { _ = c.Close() }()
			w.Note("FLUSHALL")
			w.Rec.Add(Entry{Kind: Forgot})
			if err := c.FlushAll(w.Context()).Err(); err != nil {
				w.Fatal(err)
			}
			w.Elapse(w.Timers.Heartbeat)
		},
		After: func(w *World) { w.restored(before) },
	}.run(t)
}

// The switch is flipped off and on again and again while users come and go.
func TestSwitchFlips(t *testing.T) {
	Scenario{
		Name: "the switch is turned off and on three times, on another node each", Guarantees: "G1, G8",
		Bound: "off: everybody null; on: who is connected online, within a heartbeat",
		Fault: func(w *World) {
			for i := range 3 {
				w.Note("the switch is turned off on node %d", i)
				w.Flip(i, false)
				w.Elapse(w.pick(time.Second, 5*time.Second))
				w.Note("the switch is turned on on node %d", (i+1)%3)
				w.Flip((i+1)%3, true)
				w.Elapse(w.pick(3*time.Second, 10*time.Second))
			}
		},
	}.run(t)
}

// sids are the SIDs of the steady users.
func (w *World) sids() map[string]string {
	sids := map[string]string{}
	for _, u := range w.read(0) {
		if u.SID != nil {
			sids[u.Identity] = *u.SID
		}
	}
	return sids
}

// restored wants what is promised after the store has lost its data.
func (w *World) restored(before map[string]string) {
	w.Helper()
	var conf struct {
		Enabled bool `json:"reachability_enabled"`
	}
	for i := range w.Nodes {
		if code := w.Node(i).REST(http.MethodGet, "/v1/Services/"+w.Service+"/Configuration", nil, &conf); code != http.StatusOK || !conf.Enabled {
			w.Errorf("node %d: the service's configuration after the loss: %d, enabled %v", i, code, conf.Enabled)
		}
	}
	after := w.sids()
	kept := 0
	for _, user := range w.steady {
		if before[user] == "" || after[user] != before[user] {
			w.Errorf("%s had the SID %s, and has %q now", user, before[user], after[user])
			continue
		}
		kept++
	}
	w.Saw("the service and its switch are back, %d of %d users who stayed connected under their SIDs", kept, len(w.steady))
}

// await waits until each device that is to be connected is.
func (w *World) await(what string) {
	w.Helper()
	rig.Within(w, 2*time.Minute, what, w.churn.connected)
}

// sessions are the names of the sessions that are open.
func (c *churn) sessions() (names []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, open := range c.open {
		for _, d := range open {
			d.mu.Lock()
			if d.peer != nil {
				names = append(names, fmt.Sprint(d.user, d.session))
			}
			d.mu.Unlock()
		}
	}
	return names
}
