package faults

import (
	"testing"
	"time"
)

// A node is killed with -9: each of its users that does not come back is seen to leave once, the others never.
func TestKillNode(t *testing.T) {
	Scenario{
		Name: "kill -9 of a node, which is started again", Guarantees: "G1, G3, G5, G8",
		Bound: "who does not come back is offline once, within lease + heartbeat or linger; who comes back, never",
		Fault: func(w *World) {
			w.Kill(1)
			w.Elapse(w.Timers.Lease + w.Timers.Heartbeat)
			w.Restart(1)
		},
	}.run(t)
}

var _ = time.Second
