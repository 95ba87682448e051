package e2e

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/rollcall-presence/rollcall/client"
	"github.com/rollcall-presence/rollcall/internal/testkit"
)

// A node that is stopped for longer than its lease loses its users to the others,
// each once; when it goes on they come back, each once, over the sockets they had.
func TestStoppedNode(t *testing.T) {
	redisURL := "redis://" + testkit.Redis(t).Addr
	env := []string{"ROLLCALL_LEASE_TTL=3s", "ROLLCALL_HEARTBEAT=1s", "ROLLCALL_LINGER=1s"}
	stopped, other := start(t, redisURL, env...), start(t, redisURL, env...)
	sid := stopped.newService()
	ids := numbered("user", 50)
	here, there := watch(t, stopped.ws(), sid, "here", ids...), watch(t, other.ws(), sid, "there", ids...)
	for _, id := range ids {
		connect(t, stopped.ws(), sid, id, client.Options{OnDisconnect: func(err error, _ time.Duration) { t.Errorf("%s was disconnected: %v", id, err) }})
	}
	all := func(want string, ws ...*watcher) {
		t.Helper()
		eventually(t, "all see "+want, func() error {
			for _, w := range ws {
				for _, id := range ids {
					if got := w.history(id); got != want {
						return fmt.Errorf("of %s was seen %q", id, got)
					}
				}
			}
			return nil
		})
	}
	all("true", here, there)
	if err := stopped.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	all("true false", there)
	if err := stopped.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	all("true false true", here, there)
	// Nothing more comes: three more heartbeats.
	settled := time.Now().Add(3 * time.Second)
	eventually(t, "three more heartbeats", func() error {
		if time.Now().Before(settled) {
			return errNotYet
		}
		return nil
	})
	all("true false true", here, there)
	m := stopped.metrics()
	if m["rollcall_lost_partitions_total"] == 0 || m[`rollcall_closes_total{by="server",code="3004"}`] != 0 || m["rollcall_sessions"] != 51 {
		t.Errorf("lost partitions %v, no pong %v, sessions %v; want some, none and 51", m["rollcall_lost_partitions_total"],
			m[`rollcall_closes_total{by="server",code="3004"}`], m["rollcall_sessions"])
	}
	if reaped := other.metrics()["rollcall_reaped_sessions_total"]; reaped != 50 {
		t.Errorf("the other node reaped %v sessions; want 50", reaped)
	}
}
