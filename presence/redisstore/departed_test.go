package redisstore_test

import (
	"testing"
	"time"

	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/presence"
	"github.com/rollcall-presence/rollcall/presence/presencetest"
	"github.com/rollcall-presence/rollcall/presence/redisstore"
)

// A heartbeat that publishes a departure tells how the user left and when, whichever
// node's it is; the time for which nobody could beat is not counted.
func TestDeparted(t *testing.T) {
	_, c := testkit.Mini(t)
	h := harness(t, c)
	ctx := t.Context()
	service, k := newService(t, h)
	q := h.Store.Partition(k)
	beat := func(n presence.NodeID) []presence.Departure {
		t.Helper()
		beats, errs := h.Store.Beat(ctx, []presence.Partition{q}, n)
		if errs[0] != nil {
			t.Fatal(errs[0])
		}
		return beats[0].Departed
	}
	want := func(got []presence.Departure, how presence.End, after, late time.Duration) {
		t.Helper()
		if len(got) != 1 || got[0].How != how || got[0].After < after || got[0].After > after+late {
			t.Errorf("departed = %v; want %s after %v", got, how, after)
		}
	}
	register := func() {
		t.Helper()
		if _, err := h.Store.Register(ctx, q, "n1", []presence.Held{{Key: k, ID: "000000000000000000000001", Service: service}}); err != nil {
			t.Fatal(err)
		}
	}
	step := presencetest.Stall / 2
	for _, how := range []presence.End{presence.EndReload, presence.EndSilent, presence.EndExpired, presence.EndDrain} {
		beat("n1")
		register()
		e := presence.Ended{Key: k, ID: "000000000000000000000001", Service: service, Linger: step, How: how, Left: time.Now().Add(-7 * time.Second)}
		if _, err := h.Store.End(ctx, q, "n1", []presence.Ended{e}); err != nil {
			t.Fatal(err)
		}
		if got := beat("n2"); got != nil {
			t.Errorf("departed = %v before the linger is over", got)
		}
		h.Advance(step + time.Second)
		want(beat("n2"), how, 8*time.Second+step, time.Second)
		if got := beat("n1"); got != nil {
			t.Errorf("departed = %v once more", got)
		}
	}
	if err := h.Store.Leave(ctx, []presence.Partition{q}, "n1", 0); err != nil {
		t.Fatal(err)
	}
	beat("n1")
	register()
	beat("n2")
	h.Advance(10 * presencetest.Lease) // nobody beat
	beat("n2")
	for range 2 * presencetest.Lease / step {
		h.Advance(step)
		if got := beat("n2"); got != nil {
			want(got, presence.EndNodeLost, presencetest.Lease, step)
			return
		}
	}
	t.Error("the node's user never left")
}

// Of a user whom a repair has linger nobody knows when it left.
func TestDepartedAfterARepair(t *testing.T) {
	_, c := testkit.Mini(t)
	w := newRecords(t, c)
	w.must(w.c.ZRem(w.ctx, w.at("bob", ":linger"), w.service.SID+"bob").Err())
	if got := w.verify(redisstore.VerifyOptions{Repair: true}); kindsOf(got.Disagreements) != "stuck_online" {
		t.Fatalf("found %+v; want that bob is stuck", got.Disagreements)
	}
	offline := 0
	for range 3 {
		w.Advance(presencetest.Stall - time.Second)
		beats, errs := w.s.Beat(w.ctx, []presence.Partition{w.s.Partition(w.key("bob"))}, "n2")
		w.must(errs...)
		offline += beats[0].OfflineByLinger
		for _, d := range beats[0].Departed {
			if d.How != presence.EndNodeLost {
				t.Errorf("departed: %v", d)
			}
		}
	}
	if offline != 1 {
		t.Errorf("%d users offline by linger; want bob", offline)
	}
}

// Redis may go away before a partition had its first heartbeat; that time, too, is not
// counted against the leases in it.
func TestSilenceBeforeTheFirstHeartbeat(t *testing.T) {
	_, c := testkit.Mini(t)
	h := harness(t, c)
	ctx := t.Context()
	service, k := newService(t, h)
	q := h.Store.Partition(k)
	if _, err := h.Store.Register(ctx, q, "n1", []presence.Held{{Key: k, ID: "000000000000000000000001", Service: service}}); err != nil {
		t.Fatal(err)
	}
	h.Advance(2 * presencetest.Lease)
	beats, errs := h.Store.Beat(ctx, []presence.Partition{q}, "n2")
	if errs[0] != nil || beats[0].Reaped != 0 || beats[0].Stalled < presencetest.Lease {
		t.Errorf("the first heartbeat = %+v, %v; want none reaped, and a stall", beats[0], errs[0])
	}
}
