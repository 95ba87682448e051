package e2e

import (
	"fmt"
	"testing"

	"github.com/rollcall-presence/rollcall/client"

	"github.com/rollcall-presence/rollcall/internal/testkit/rig"
)

// docs/metrics.md has a row for each metric that a running node shows, with its
// labels, all their values, and its help, and none for others.
// What the metrics are there for: each moves when it should.
func TestMetricsMove(t *testing.T) {
	n := rig.Start(t, "embedded", "ROLLCALL_HEARTBEAT=200ms")
	sid := n.NewService()
	w := rig.Watch(t, n.WS(), sid, "watcher", "ada")
	rig.Eventually(t, "each of the 16 partitions has had a heartbeat", func() error {
		if got := n.Metrics()[`rollcall_lease_renewals_total{outcome="ok"}`]; got < 32 {
			return fmt.Errorf("%v heartbeats", got)
		}
		return nil
	})
	before := n.Metrics()
	ada := rig.Connect(t, n.WS(), sid, "ada", client.Options{})
	if err := ada.Close(); err != nil {
		t.Fatal(err)
	}
	rig.Eventually(t, "ada left", func() error {
		if got := w.History("ada"); got != "true false" {
			return fmt.Errorf("saw %q", got)
		}
		return nil
	})
	rig.Eventually(t, "all is counted", func() error {
		after := n.Metrics()
		for name, grew := range map[string]float64{
			`rollcall_transitions_total{cause="connect",kind="online"}`: 1,
			`rollcall_transitions_total{cause="clean",kind="offline"}`:  1,
			"rollcall_events_published_total":                           2,
			"rollcall_events_received_total":                            2,
			"rollcall_events_delivered_total":                           2,
			`rollcall_closes_total{by="server",code="1000"}`:            1,
			`rollcall_session_ends_total{how="bye"}`:                    1,
			"rollcall_sessions":                                         0,
		} {
			if got := after[name] - before[name]; got != grew {
				return fmt.Errorf("%s grew by %v; want %v", name, got, grew)
			}
		}
		for _, name := range []string{`rollcall_lease_renewals_total{outcome="ok"}`, `rollcall_redis_seconds_count{kind="pipeline",outcome="ok"}`} {
			if after[name] <= before[name] {
				return fmt.Errorf("%s is %v; was %v", name, after[name], before[name])
			}
		}
		if after["rollcall_sessions"] != 1 || after["rollcall_subscriptions"] != 1 {
			return fmt.Errorf("%v sessions, %v subscriptions; want 1 of each", after["rollcall_sessions"], after["rollcall_subscriptions"])
		}
		return nil
	})
}
