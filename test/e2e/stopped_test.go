package e2e

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/rollcall-presence/rollcall/client"
	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/internal/testkit/rig"
)

// A node that is stopped for longer than its lease loses its users to the others,
// each once; when it goes on they come back, each once, over the sockets they had.
func TestStoppedNode(t *testing.T) {
	redisURL := "redis://" + testkit.Redis(t).Addr
	env := []string{"ROLLCALL_LEASE_TTL=3s", "ROLLCALL_HEARTBEAT=1s", "ROLLCALL_LINGER=1s"}
	stopped, other := rig.Start(t, redisURL, env...), rig.Start(t, redisURL, env...)
	sid := stopped.NewService()
	ids := numbered("user", 50)
	here, there := rig.Watch(t, stopped.WS(), sid, "here", ids...), rig.Watch(t, other.WS(), sid, "there", ids...)
	for _, id := range ids {
		rig.Connect(t, stopped.WS(), sid, id, client.Options{OnDisconnect: func(err error, _ time.Duration) { t.Errorf("%s was disconnected: %v", id, err) }})
	}
	all := func(want string, ws ...*rig.Watcher) {
		t.Helper()
		rig.Eventually(t, "all see "+want, func() error {
			for _, w := range ws {
				for _, id := range ids {
					if got := w.History(id); got != want {
						return fmt.Errorf("of %s was seen %q", id, got)
					}
				}
			}
			return nil
		})
	}
	all("true", here, there)
	stopped.Signal(syscall.SIGSTOP)
	all("true false", there)
	stopped.Signal(syscall.SIGCONT)
	all("true false true", here, there)
	// Nothing more comes: three more heartbeats.
	settled := time.Now().Add(3 * time.Second)
	rig.Eventually(t, "three more heartbeats", func() error {
		if time.Now().Before(settled) {
			return rig.ErrNotYet
		}
		return nil
	})
	all("true false true", here, there)
	m := stopped.Metrics()
	if m["rollcall_lost_partitions_total"] == 0 || m[`rollcall_closes_total{by="server",code="3004"}`] != 0 || m["rollcall_sessions"] != 51 {
		t.Errorf("lost partitions %v, no pong %v, sessions %v; want some, none and 51", m["rollcall_lost_partitions_total"],
			m[`rollcall_closes_total{by="server",code="3004"}`], m["rollcall_sessions"])
	}
	if reaped := other.Metrics()["rollcall_reaped_sessions_total"]; reaped != 50 {
		t.Errorf("the other node reaped %v sessions; want 50", reaped)
	}
}
