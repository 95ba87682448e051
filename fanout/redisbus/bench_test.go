package redisbus_test

import (
	"context"
	"fmt"
	"strconv"
	"testing"

	"github.com/rollcall-presence/rollcall/fanout"
	"github.com/rollcall-presence/rollcall/fanout/fanouttest"
	"github.com/rollcall-presence/rollcall/fanout/redisbus"
	"github.com/rollcall-presence/rollcall/internal/keys"
	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/presence"
)

// To read a message allocates nothing, unless a string of it has escapes.
func TestDecodeAllocatesNothing(t *testing.T) {
	for _, payload := range []string{transition, samples[1], samples[3]} {
		if got := testing.AllocsPerRun(100, func() {
			if _, _, _, err := redisbus.Decode(payload); err != nil {
				t.Fatal(err)
			}
		}); got != 0 {
			t.Errorf("decode(%s) allocates %v times; want 0", payload, got)
		}
	}
}

// theatre is a node's bus and hub, with sessions that all listen to the same users.
type theatre struct {
	receive func(payload string)
	boxes   []*fanout.Mailbox
	batch   []fanout.Item
	seq     int64
	wakes   int
}

type stage struct{ *fanout.Hub }

func (stage) ServiceEvent(string, uint64, string) {}
func (stage) Woken(byte, presence.Partition)      {}

// scenes is how many users there are: so many events can be taken in before a mailbox
// has to be emptied, lest what is measured is conflation.
const scenes = 64

func newTheatre(tb testing.TB, subs int) *theatre {
	tb.Helper()
	const sid = "IS0123456789abcdef0123456789abcdef"
	w := fanouttest.NewWorld(1)
	w.Flip(sid, true)
	names := make([]string, scenes)
	for i := range names {
		names[i] = "user" + strconv.Itoa(i)
		w.Online(presence.Key{Service: sid, Identity: names[i]}, true)
	}
	h := &stage{}
	h.Hub = fanout.NewHub(fanouttest.NewBus(h), w, w, fanout.Options{})
	th := &theatre{
		receive: redisbus.New(nil, keys.Keys{Prefix: "rc:", Partitions: 1}, "n1", redisbus.Options{}).Receiver(h, 0),
		batch:   make([]fanout.Item, 0, 32),
	}
	for range subs {
		b := &fanout.Mailbox{}
		b.Init(sid, 0, func(bool) { th.wakes++ })
		h.Attach(b)
		if err := h.Subscribe(context.Background(), b, names, nil, func([]presence.Snapshot) []byte { return nil }); err != nil {
			tb.Fatal(err)
		}
		th.boxes = append(th.boxes, b)
	}
	th.empty()
	return th
}

// next are the next messages, one of each user, as a store's script publishes them.
func (th *theatre) next(who string) (payloads [scenes]string) {
	for i := range payloads {
		th.seq++
		payloads[i] = fmt.Sprintf(`{"l":"1763800000123","i":"%s%d","s":"IS0123456789abcdef0123456789abcdef","v":"%d","q":"%d","n":"0",`+
			`"ne":"3","r":"1763790000123456","m":1,"u":"US00a7456789abcdef0123456789abcdef","o":"%d","e":"3"}`,
			who, i, 4_000_000_000_000+th.seq, th.seq, th.seq/scenes%2)
	}
	return payloads
}

// empty takes all that waits, and returns how many updates that is.
func (th *theatre) empty() (n int) {
	for _, b := range th.boxes {
		for th.batch = b.Next(th.batch); len(th.batch) > 0; th.batch = b.Next(th.batch) {
			n += len(th.batch)
		}
	}
	return n
}

// What a message from Redis allocates on its way into the mailboxes is the update that
// all subscribers share; one of a user nobody here listens to allocates nothing.
func TestDispatchAllocations(t *testing.T) {
	for _, tt := range []struct {
		who        string
		subs       int
		want, most float64 // most: with a pool that forgets its list, which then grows again
	}{{"user", 1, 1, 4}, {"user", 100, 1, 16}, {"user", 1000, 1, 20}, {"nobody", 100, 0, 0}} {
		th := newTheatre(t, tt.subs)
		if testkit.Race {
			tt.want = tt.most
		}
		for _, payload := range th.next(tt.who) { // whose SIDs are news
			th.receive(payload)
		}
		th.empty()
		payloads, messages := th.next(tt.who), 0
		got := testing.AllocsPerRun(scenes-1, func() { // which runs it once more, before
			th.receive(payloads[messages])
			messages++
		})
		if got > tt.want {
			t.Errorf("%d subscribers of %s: %v allocations a message; want %v", tt.subs, tt.who, got, tt.want)
		}
		if delivered, want := th.empty(), tt.subs*scenes; tt.who == "user" && delivered != want {
			t.Errorf("%d subscribers: %d updates delivered; want %d", tt.subs, delivered, want)
		}
	}
}

// BenchmarkDispatch is a message from Redis until it is in the mailbox of each
// subscriber on this node; without one it is read and dropped.
func BenchmarkDispatch(b *testing.B) {
	for _, subs := range []int{0, 1, 100, 1000} {
		b.Run(fmt.Sprintf("subs=%d", subs), func(b *testing.B) {
			who := "user"
			if subs == 0 {
				who = "nobody"
			}
			th := newTheatre(b, max(subs, 1))
			next, payloads := scenes, [scenes]string{}
			b.ReportAllocs()
			for b.Loop() {
				if next == scenes {
					b.StopTimer()
					th.empty()
					next, payloads = 0, th.next(who)
					b.StartTimer()
				}
				th.receive(payloads[next])
				next++
			}
			if subs > 0 {
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*subs), "ns/sub")
			}
		})
	}
}
