package faults

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// A node is killed with -9: each of its users that does not come back is seen to leave once, the others never.
func TestKillNode(t *testing.T) {
	Scenario{
		Name: "kill -9 of a node, which is started again", Guarantees: "G1, G3, G5, G8",
		Bound: "who does not come back is offline once, within the larger of lease + heartbeat and linger; nobody else",
		Fault: func(w *World) {
			w.Kill(1)
			w.Elapse(w.Timers.Lease + w.Timers.Heartbeat)
			w.Restart(1)
		},
	}.run(t)
}

// All nodes are killed at once. Nobody can tell anything until the first is back; then it is told as if they had just
// died, and nothing of who has come back by then.
func TestKillAllNodes(t *testing.T) {
	Scenario{
		Name: "kill -9 of all nodes at once, which are started again", Guarantees: "G1, G5, G7",
		Bound: "who does not come back is offline once, within lease + two heartbeats of the first node's return; nobody else",
		Fault: func(w *World) {
			var from time.Duration
			for i := range w.Nodes {
				at := w.Kill(i)
				if i == 0 {
					from = at
				}
			}
			w.Elapse(w.Timers.Lease + w.Timers.Heartbeat)
			for i := range w.Nodes {
				w.Restart(i)
			}
			w.Away(Away{From: from, To: w.Rec.Now(), Extra: w.Timers.Heartbeat, Why: "no node ran"})
		},
	}.run(t)
}

// A node is stopped for longer than its lease lasts. Its users are shown offline, which nothing can prevent, since
// nobody can tell it from a dead one; when it continues, they are shown online again.
func TestStopNode(t *testing.T) {
	Scenario{
		Name: "SIGSTOP of a node for longer than its lease, then SIGCONT", Guarantees: "G5, G8",
		Bound: "users of the stopped node are offline once and online again within a heartbeat of its return; nobody else",
		Fault: func(w *World) {
			from := w.Suspend(1)
			w.Elapse(2*w.Timers.Lease + w.Timers.Heartbeat)
			w.Continue(1)
			to := w.Rec.Now() + w.Timers.Heartbeat + w.Timers.Linger + 3*time.Second
			there := w.on(1)
			w.Excuse(Excuse{
				Rules: []string{Connected, InTime}, From: from, To: to, Users: there,
				Why: "shown offline while connected to the stopped node",
			})
			w.Excuse(Excuse{
				Rules: []string{Once, Covered}, From: from, To: to, Users: there,
				Why: "told of a session whose end the stopped node could not see",
			})
			w.Excuse(Excuse{
				Rules: []string{Once, InTime}, From: from, To: to, Watchers: func(name string) bool { return name == "w1" || name == balanced || name == SDKWatcher },
				Why: "told late to a watcher on the stopped node",
			})
			w.Away(Away{From: from, To: w.Rec.Now(), Why: "a node did not see what its clients did"})
		},
	}.run(t)
}

// All nodes are replaced one after the other, each drained, while users come and go: those whom only the restart
// touched are never spoken of.
func TestRollingRestart(t *testing.T) {
	Scenario{
		Name: "rolling restart of all nodes (SIGTERM, drain)", Guarantees: "G1, G6, G8", Faithful: true,
		Bound: "0 events of users that only the restart disconnects",
		Fault: func(w *World) {
			from := w.Note("rolling restart begins")
			for i := range w.Nodes {
				w.Note("node %d is drained", i)
				w.Node(i).Stop()
				w.Restart(i)
			}
			w.quiet(from)
		},
	}.run(t)
}

// The load balancer is restarted: all sockets are cut at once and come back as fast as the nodes let them.
func TestBalancerRestart(t *testing.T) {
	// At these rates all are let in within a third of the linger, which leaves room for the waits between attempts.
	const burst = 100
	rate, users, steady, timers := 150, 600, 540, Timers{Linger: 8 * time.Second}
	if *full {
		rate, users, steady, timers = 300, 3000, 2900, Timers{}
	}
	Scenario{
		Name: "load balancer restart: all sockets are cut at once and come back", Guarantees: "G3, G8", Faithful: true, Balanced: true,
		Users: users, Steady: steady, Timers: timers,
		Env: []string{
			fmt.Sprint("ROLLCALL_ACCEPT_RATE=", rate), fmt.Sprint("ROLLCALL_ACCEPT_BURST=", burst),
			"ROLLCALL_MAX_SUBSCRIPTIONS=5000", "ROLLCALL_MAX_FRAME=1MiB",
		},
		Bound: fmt.Sprintf("0 events of users that only the restart disconnects; at most %d connections a second on each node after the first %d", rate, burst),
		Fault: func(w *World) {
			before := len(w.churn.sessions())
			from := w.Note("the balancer is restarted")
			w.Balancer.Down()
			w.Balancer.Up(w)
			w.await("everybody is connected again")
			took := w.Rec.Now() - from
			w.Saw("%d sockets cut, all back in %s, no more at any time than may be", before, brief(took))
			w.paced(from, float64(len(w.Nodes)*rate), float64(len(w.Nodes)*burst))
			shed := 0.0
			for i := range w.Nodes {
				shed += w.Node(i).Metrics()[`rollcall_shed_total{reason="accept_rate"}`]
			}
			if shed == 0 && *full { // in short fewer come, which a busy machine does slower than the rate
				w.Error("no connection was refused for the rate; the test shows less than it should")
			}
			w.quiet(from)
		},
	}.run(t)
}

// on returns which users have, or may have, a session on node i.
func (w *World) on(i int) func(string) bool {
	there := map[string]bool{}
	for _, e := range w.Rec.History().Entries {
		if e.Kind == Began && (e.Node == fmt.Sprint("node ", i) || e.Node == "the balancer") {
			there[e.User] = true
		}
	}
	return func(user string) bool { return there[user] }
}

// quiet wants that no watcher was told anything of the steady users since a time. It waits for lingers to be over.
func (w *World) quiet(from time.Duration) {
	w.Helper()
	w.await("everybody is connected again")
	w.Elapse(w.Timers.Linger + w.Timers.Heartbeat)
	h, events := w.Rec.History(), 0
	cut := map[string]bool{}
	for _, e := range h.Entries {
		if e.At < from || !slices.Contains(w.steady, e.User) {
			continue
		}
		switch e.Kind {
		case Seen:
			events++
		case Ended:
			cut[e.User] = true
		default:
		}
	}
	w.Saw("%d events of the %d users that only the fault disconnected", events, len(cut))
	if events > 0 {
		w.Errorf("%d events were told of users that only the fault disconnected; want none", events)
	}
	if len(cut) < len(w.steady)/2 {
		w.Errorf("the fault disconnected %d of %d users; the test shows less than it should", len(cut), len(w.steady))
	}
}

// paced wants that by each moment after from no more sessions were welcomed than burst and rate a second allow.
func (w *World) paced(from time.Duration, rate, burst float64) {
	w.Helper()
	welcomed := 0.0
	for _, e := range w.Rec.History().Entries {
		if e.Kind != Opened || e.At < from {
			continue
		}
		welcomed++
		if limit := burst + rate*(e.At-from).Seconds(); welcomed > limit {
			w.Errorf("%.0f sessions were welcomed within %v; want at most %.0f", welcomed, e.At-from, limit)
			return
		}
	}
}
