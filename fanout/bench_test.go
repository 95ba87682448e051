package fanout_test

import (
	"context"
	"fmt"
	"runtime"
	"strconv"
	"testing"

	"github.com/rollcall-presence/rollcall/fanout"
	"github.com/rollcall-presence/rollcall/fanout/fanouttest"
	"github.com/rollcall-presence/rollcall/presence"
)

var ann = presence.Key{Service: "IS1", Identity: "ann"}

// audience is a hub with sessions that all listen to ann.
type audience struct {
	*node
	boxes []*fanout.Mailbox
	seq   uint64
	user  presence.User
	batch []fanout.Item
	wakes int
}

func newAudience(tb testing.TB, subs int) *audience {
	w := fanouttest.NewWorld(1)
	w.Flip(ann.Service, true)
	w.Online(ann, true)
	a := &audience{node: newNode(w, fanout.Options{}), batch: make([]fanout.Item, 0, 16)}
	users, err := w.ReadUsers(context.Background(), []presence.Key{ann})
	if err != nil {
		tb.Fatal(err)
	}
	a.user = users[0]
	a.user.Attributes = ""
	for range subs {
		b := &fanout.Mailbox{}
		b.Init(ann.Service, 0, func(bool) { a.wakes++ })
		a.Attach(b)
		if err := a.Subscribe(context.Background(), b, []string{ann.Identity}, nil, func([]presence.Snapshot) []byte { return []byte("x") }); err != nil {
			tb.Fatal(err)
		}
		a.boxes = append(a.boxes, b)
	}
	a.deliver(tb)
	a.wakes = 0
	return a
}

// publish tells of a transition of ann.
func (a *audience) publish() {
	a.seq++
	a.user.Rev++
	a.user.Online = presence.TriOf(a.user.Online != presence.True)
	a.Event(0, "run", a.seq, presence.Event{User: a.user, Reasons: presence.ReasonOnline})
}

// deliver takes all that waits, and how many updates that is.
func (a *audience) deliver(tb testing.TB) int {
	n := 0
	for _, b := range a.boxes {
		for {
			a.batch = b.Next(a.batch)
			if len(a.batch) == 0 {
				break
			}
			for _, item := range a.batch {
				if item.Update != nil {
					if len(item.Update.Frame(0, encode)) == 0 {
						tb.Fatal("empty frame")
					}
					n++
				}
			}
		}
	}
	return n
}

func encode(u *fanout.Update) []byte {
	return fmt.Appendf(nil, `{"identity":%q,"is_online":%s,"rev":%d}`, u.View.Identity, u.View.Online, u.View.Rev)
}

// An event costs the same few allocations however many subscribers it is published
// and delivered to.
func TestAllocations(t *testing.T) {
	var first float64
	for _, subs := range []int{1, 1000, 10_000} {
		a := newAudience(t, subs)
		allocs := testing.AllocsPerRun(20, func() {
			a.publish()
			if got := a.deliver(t); got != subs {
				t.Fatalf("delivered %d; want %d", got, subs)
			}
		})
		t.Logf("%d subscribers: %v allocations an event", subs, allocs)
		if first == 0 {
			first = allocs
		}
		// A pool may forget its list (under the race detector it often does), which
		// then grows again.
		if allocs > first+20 {
			t.Errorf("%d subscribers: %v allocations an event; want the %v of one subscriber, and a list's growth", subs, allocs, first)
		}
	}
}

// What one session with one subscription to a user nobody else listens to costs.
func TestMemory(t *testing.T) {
	const sessions, limit = 10_000, 640
	w := fanouttest.NewWorld(256)
	w.Flip(ann.Service, true)
	names := make([]string, sessions)
	for i := range names {
		names[i] = "user" + strconv.Itoa(i)
		w.Online(presence.Key{Service: ann.Service, Identity: names[i]}, true)
	}
	n := newNode(w, fanout.Options{})
	boxes := make([]fanout.Mailbox, sessions) // the session's own
	wake := func(bool) {}
	answer := func([]presence.Snapshot) []byte { return nil }
	before := heap()
	for i := range boxes {
		boxes[i].Init(ann.Service, 0, wake)
		n.Attach(&boxes[i])
		if err := n.Subscribe(t.Context(), &boxes[i], names[i:i+1], nil, answer); err != nil {
			t.Fatal(err)
		}
		for len(boxes[i].Next(nil)) > 0 {
		}
	}
	each := float64(heap()-before) / sessions
	runtime.KeepAlive(n)
	t.Logf("%.0f bytes a subscription", each)
	if each > limit {
		t.Errorf("%.0f bytes a subscription; want at most %d", each, limit)
	}
	runtime.KeepAlive(boxes)
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// From an event of the bus to its being in every mailbox.
func BenchmarkPublish(b *testing.B) {
	for _, subs := range []int{1, 1000, 10_000, 100_000} {
		b.Run("subs="+strconv.Itoa(subs), func(b *testing.B) {
			a := newAudience(b, subs)
			b.ReportAllocs()
			for b.Loop() {
				a.publish()
				b.StopTimer()
				if got := a.deliver(b); got != subs {
					b.Fatalf("delivered %d; want %d", got, subs)
				}
				b.StartTimer()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(subs), "ns/sub")
		})
	}
}

// The same, until the last session has taken its frame.
func BenchmarkPublishDeliver(b *testing.B) {
	for _, subs := range []int{1, 1000, 10_000} {
		b.Run("subs="+strconv.Itoa(subs), func(b *testing.B) {
			a := newAudience(b, subs)
			b.ReportAllocs()
			for b.Loop() {
				a.publish()
				if got := a.deliver(b); got != subs {
					b.Fatalf("delivered %d; want %d", got, subs)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(subs), "ns/sub")
		})
	}
}

// Updates that nobody reads: each replaces the last.
func BenchmarkConflate(b *testing.B) {
	for _, subs := range []int{1, 1000} {
		b.Run("subs="+strconv.Itoa(subs), func(b *testing.B) {
			a := newAudience(b, subs)
			a.publish()
			b.ReportAllocs()
			for b.Loop() {
				a.publish()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(subs), "ns/sub")
		})
	}
}

func BenchmarkSubscribe(b *testing.B) {
	for _, count := range []int{1, 500} {
		b.Run("identities="+strconv.Itoa(count), func(b *testing.B) {
			a := newAudience(b, 1)
			names := make([]string, count)
			for i := range names {
				names[i] = "user" + strconv.Itoa(i)
			}
			b.ReportAllocs()
			for b.Loop() {
				if err := a.Subscribe(b.Context(), a.boxes[0], names, nil, func([]presence.Snapshot) []byte { return nil }); err != nil {
					b.Fatal(err)
				}
				a.Unsubscribe(a.boxes[0], names)
				a.deliver(b)
			}
		})
	}
}
