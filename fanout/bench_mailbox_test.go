package fanout_test

import (
	"fmt"
	"testing"

	"github.com/rollcall-presence/rollcall/fanout"
	"github.com/rollcall-presence/rollcall/presence"
)

// letterbox is a mailbox, and an update for each of the users it is subscribed to.
type letterbox struct {
	fanout.Mailbox
	subs    []*fanout.Subscription
	updates []*fanout.Update
	batch   []fanout.Item
}

func newLetterbox(tb testing.TB, users int) *letterbox {
	tb.Helper()
	b := &letterbox{batch: make([]fanout.Item, 0, 32)} // as the gateway's writer has it
	b.Init(ann.Service, 0, func(bool) {})
	for i := range users {
		identity := fmt.Sprint("user", i)
		s, err := b.Add(identity)
		if err != nil {
			tb.Fatal(err)
		}
		b.subs = append(b.subs, s)
		b.updates = append(b.updates, &fanout.Update{
			Service: ann.Service, Reasons: presence.ReasonOnline,
			View: presence.Snapshot{Identity: identity, SID: "US1", Online: presence.True, Rev: 1},
		})
	}
	return b
}

// put puts one update of each user, and returns how many replaced one that waited.
func (b *letterbox) put() (conflated int) {
	for i, s := range b.subs {
		if _, merged := b.Put(s, b.updates[i]); merged {
			conflated++
		}
	}
	return conflated
}

func (b *letterbox) take() (n int) {
	for b.batch = b.Next(b.batch); len(b.batch) > 0; b.batch = b.Next(b.batch) {
		n += len(b.batch)
	}
	return n
}

var pendings = []int{1, 100, 1000}

// To put updates and to take them allocates nothing, however many wait; one that
// takes the place of one that waits is merged with it into a new one, and that is all.
func TestMailboxAllocations(t *testing.T) {
	for _, pending := range pendings {
		b := newLetterbox(t, pending)
		if got := testing.AllocsPerRun(20, func() {
			if b.put() != 0 || b.take() != pending {
				t.Fatal("an update was lost")
			}
		}); got != 0 {
			t.Errorf("%d pending: %v allocations to put and take all; want 0", pending, got)
		}
		b.put()
		if got := testing.AllocsPerRun(20, func() {
			if b.put() != pending {
				t.Fatal("an update was not conflated")
			}
		}); got != float64(pending) {
			t.Errorf("%d pending: %v allocations to conflate all; want %d", pending, got, pending)
		}
	}
}

func BenchmarkMailbox(b *testing.B) {
	for _, pending := range pendings {
		perItem := func(b *testing.B) {
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*pending), "ns/item")
		}
		// So many updates are put, and then taken.
		b.Run(fmt.Sprintf("op=put-take/pending=%d", pending), func(b *testing.B) {
			box := newLetterbox(b, pending)
			b.ReportAllocs()
			for b.Loop() {
				box.put()
				if got := box.take(); got != pending {
					b.Fatalf("took %d; want %d", got, pending)
				}
			}
			perItem(b)
		})
		// While so many wait, each is replaced by a newer one.
		b.Run(fmt.Sprintf("op=conflate/pending=%d", pending), func(b *testing.B) {
			box := newLetterbox(b, pending)
			box.put()
			b.ReportAllocs()
			for b.Loop() {
				if got := box.put(); got != pending {
					b.Fatalf("conflated %d; want %d", got, pending)
				}
			}
			perItem(b)
		})
	}
}
