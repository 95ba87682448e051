package faults

import (
	"testing"
	"time"

	"github.com/rollcall-presence/rollcall/internal/keys"
	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/presence"
)

func at(url string) Store { return Store{URL: func(int) string { return url }} }

// Sentinel makes a replica the primary that has not got what was written last.
func TestSentinelFailover(t *testing.T) {
	var s *testkit.Sentinels
	Scenario{
		Name: "Sentinel fails over to a replica that lacks the last second's writes", Guarantees: "G1, G7, G8",
		Bound: "who is connected is online within a heartbeat, also who came back in what was lost; a departure that was lost is undone, and told again after a heartbeat and the linger",
		Store: func(t testing.TB) Store {
			s = testkit.StartSentinels(t)
			return at(s.URL())
		},
		Fault: func(w *World) {
			w.Gaps()
			replica := s.Other(w)
			from := w.Note("the replica hears no more of the primary")
			s.Sever(w)
			w.Elapse(time.Second)
			old := s.Primary(w)
			w.Note("the primary is killed")
			w.Rec.Add(Entry{Kind: Forgot})
			old.Kill()
			replica.Cont(w)
			s.AwaitFailover(w, old)
			w.Rec.Add(Entry{Kind: Forgot})
			to := w.Note("the replica is the primary")
			w.Away(Away{From: from, To: to, Extra: w.Timers.Heartbeat + w.Timers.Linger, Why: "writes were lost"})
			w.Excuse(Excuse{
				Rules: []string{Once, Covered}, From: from, To: to + w.Timers.Heartbeat + w.Timers.Linger + 3*time.Second,
				Why: "told once more what the failover had lost",
			})
			w.Excuse(Excuse{
				Rules: []string{Connected}, From: to, To: to + w.Timers.Heartbeat + 3*time.Second, Users: w.came(from, to),
				Why: "shown offline, as its linger was due, until its node had written back the return that the failover had lost",
			})
			w.Elapse(w.Timers.Heartbeat)
		},
	}.run(t)
}

// came returns which users began to connect between two times.
func (w *World) came(from, to time.Duration) func(string) bool {
	came := map[string]bool{}
	for _, e := range w.Rec.History().Entries {
		if e.Kind == Began && from <= e.At && e.At <= to {
			came[e.User] = true
		}
	}
	return func(user string) bool { return came[user] }
}

// cluster is for the Store of scenarios on a Cluster of three primaries with a replica each.
func cluster(c **testkit.Cluster) func(testing.TB) Store {
	return func(t testing.TB) Store {
		*c = testkit.StartCluster(t, 3, 3)
		return at((*c).URL())
	}
}

// base is the key that all keys of a partition share their slot with.
func base(p int) string { return keys.Keys{Prefix: "rc:", Partitions: 256}.Base(presence.Partition(p)) }

func TestClusterFailover(t *testing.T) {
	var c *testkit.Cluster
	Scenario{
		Name: "a primary of a Cluster is killed, its replica takes its place", Guarantees: "G1, G7, G8",
		Bound: "nobody is offline who is connected; what is due meanwhile is told within a heartbeat, and its own time, of the failover",
		Store: cluster(&c),
		Fault: func(w *World) {
			w.Gaps()
			slot := c.Slot(w, base(7))
			old := c.Owner(w, slot)
			from := w.Note("a primary is killed")
			old.Kill()
			c.AwaitFailover(w, slot, old)
			to := w.Note("its replica has its slots")
			w.Away(Away{From: from, To: to, Extra: w.Timers.Heartbeat, Why: "a third of the slots was nobody's"})
			w.Elapse(w.Timers.Heartbeat)
		},
	}.run(t)
}

func TestClusterMigration(t *testing.T) {
	var c *testkit.Cluster
	Scenario{
		Name: "slots of a Cluster move from one primary to another, a few keys at a time", Guarantees: "G1, G7, G8",
		Bound: "nothing is lost, and nothing told twice",
		Store: cluster(&c),
		Fault: func(w *World) {
			w.Gaps()
			moved, slots := 0, 20
			if w.Full() {
				slots = 80
			}
			from := w.Note("slots begin to move")
			for p := range slots {
				slot := c.Slot(w, base(p))
				owner := c.Owner(w, slot)
				to := c.Servers[0]
				if owner == to {
					to = c.Servers[1]
				}
				m := c.BeginMove(w, slot, to)
				w.Elapse(20 * time.Millisecond)
				for n := m.Keys(w, 3); n > 0; n = m.Keys(w, 3) {
					moved += n
					w.Elapse(5 * time.Millisecond)
				}
				m.End(w)
			}
			to := w.Note("%d keys have moved", moved)
			w.Saw("%d keys of %d slots moved", moved, slots)
			w.Away(Away{From: from, To: to, Extra: w.Timers.Heartbeat, Why: "a slot that moves is not served"})
		},
	}.run(t)
}
