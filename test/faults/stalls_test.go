package faults

import (
	"context"
	"slices"
	"time"

	"github.com/rollcall-presence/rollcall/internal/testkit/rig"
)

// maxStalls is how many silences the checker makes allowance for beside those of the fault itself. Nodes that found one
// all the time would put everything off forever.
const maxStalls = 5

// stalls asks the nodes, as long as ctx lasts, whether their heartbeats found that no node had beaten for long, as they
// do on a machine that is too busy. What was due then is due later, as after any other time in which nobody could tell
// anything: see docs/reliability.md.
func (w *World) stalls(ctx context.Context) {
	found := map[*rig.Node]float64{}
	var began time.Duration
	windows := 0
	asked := w.Rec.Now()
	for sleep(ctx, w.Timers.Heartbeat/2) {
		grew := false
		for i := range w.Nodes {
			n := w.Node(i)
			once, cancel := context.WithTimeout(ctx, time.Second)
			count, err := n.TryMetric(once, "rollcall_stalls_total")
			cancel()
			if err == nil && count > found[n] {
				grew, found[n] = true, count
			}
		}
		before := asked
		asked = w.Rec.Now()
		if !grew {
			continue
		}
		w.mu.Lock()
		expected := slices.ContainsFunc(w.rules.Away, func(a Away) bool {
			return a.Why != stalled && before <= a.To+2*w.Timers.Heartbeat && asked >= a.From
		})
		// Each partition finds the same silence, all of them within a heartbeat.
		if !expected && (windows == 0 || asked > began+w.Timers.Heartbeat+time.Second) {
			began = asked
			windows++
		}
		if !expected && windows <= maxStalls {
			w.rules.Away = append(w.rules.Away, Away{From: before - w.Timers.Lease, To: asked, Why: stalled})
		}
		w.mu.Unlock()
		if !expected {
			w.Note("heartbeats found that no node had beaten for long")
		}
	}
}

const stalled = "no node had beaten"
