package redisstore_test

import (
	"context"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/presence"
	"github.com/rollcall-presence/rollcall/presence/redisstore"
)

// A node's own check shows what it finds as metrics, repairs it only if it is told to,
// and goes on after a round that failed.
func TestSelfCheck(t *testing.T) {
	m, c := testkit.Mini(t)
	w := newRecords(t, c)
	rounds := make(chan redisstore.Verified, 1)
	var compared [2]int
	start := func(repair bool) (*prometheus.Registry, func()) {
		reg := prometheus.NewRegistry()
		check := redisstore.NewSelfCheck(w.s, redisstore.Paced(redisstore.SelfCheckOptions{
			Node: "n1", Every: 20 * time.Millisecond, Confirm: time.Millisecond, Linger: 3 * time.Minute, Repair: repair, Metrics: reg,
			Compare: func(_ context.Context, p presence.Partition, _ time.Duration) (presence.Compared, error) {
				compared[p]++
				return presence.Compared{Missing: 1}, nil
			},
			Found: func(v redisstore.Verified) { rounds <- v },
		}, time.Millisecond))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { _ = check.Serve(ctx); close(done) }()
		return reg, func() {
			cancel()
			for {
				select {
				case <-rounds:
				case <-done:
					return
				}
			}
		}
	}
	value := func(reg *prometheus.Registry, name, label string) float64 {
		families, err := reg.Gather()
		w.must(err)
		for _, f := range families {
			for _, m := range f.GetMetric() {
				if f.GetName() == name && m.GetLabel()[0].GetValue() == label {
					return m.GetGauge().GetValue() + m.GetCounter().GetValue()
				}
			}
		}
		t.Errorf("there is no %s of %s", name, label)
		return 0
	}
	want := func(reg *prometheus.Registry, name, label string, want float64) {
		t.Helper()
		if got := value(reg, name, label); got != want {
			t.Errorf("%s of %s = %v; want %v", name, label, got, want)
		}
	}
	// n1 is not alone: it is all of n2's partitions' business, too, until n2 has left
	w.end("n2", "ada", 2, 0)
	w.end("n2", "dee", 5, 0)
	w.must(w.s.Leave(w.ctx, []presence.Partition{0, 1}, "n2", 0))

	// nor is a handover that is longer than any other linger amiss
	w.open("n1", "bob", 6)
	w.end("n1", "bob", 6, 3*time.Minute)
	w.watch()

	reg, stop := start(false)
	if v := <-rounds; v.Partitions != 2 || len(v.Disagreements) > 0 {
		t.Errorf("first round: %+v; want two partitions and nothing", v)
	}
	w.must(w.set("cy", fieldNotifiable, "1"))
	<-rounds // may have begun before
	for range 2 {
		if v := <-rounds; kindsOf(v.Disagreements) != "notifiable" || v.Disagreements[0].Repaired {
			t.Errorf("with a flag too many: %+v", v)
		}
	}
	want(reg, "rollcall_drift_users", "notifiable", 1)
	want(reg, "rollcall_drift_users", "stuck_online", 0)
	want(reg, "rollcall_verify_repaired_total", "notifiable", 0)
	m.SetError("LOADING")
	for value(reg, "rollcall_verify_rounds_total", "failed") == 0 {
		select { // what ended before
		case <-rounds:
		case <-time.After(5 * time.Millisecond):
		}
	}
	m.SetError("")
	<-rounds
	stop()
	if compared[0] == 0 || compared[1] == 0 {
		t.Errorf("compared %v times; want both partitions", compared)
	}
	if value(reg, "rollcall_drift_sessions_total", "missing") == 0 {
		t.Error("sessions that the store had lost are not counted")
	}
	want(reg, "rollcall_drift_sessions_total", "surplus", 0)

	reg, stop = start(true)
	if v := <-rounds; kindsOf(v.Disagreements) != "notifiable" || !v.Disagreements[0].Repaired {
		t.Errorf("told to repair: %+v", v)
	}
	if v := <-rounds; len(v.Disagreements) > 0 {
		t.Errorf("after the repair: %+v", v)
	}
	stop()
	want(reg, "rollcall_verify_repaired_total", "notifiable", 1)
	want(reg, "rollcall_drift_users", "notifiable", 0)
	w.wantSeen("after the repair")
}
