package twilsock

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/rollcall-presence/rollcall/fanout"
	"github.com/rollcall-presence/rollcall/presence"
)

// replayed is what a client is told of bob at a revision when it claims to know one:
// the events, and the id of the last.
func replayed(t testing.TB, h *handler, rev, known int64) (ids []int64, last int64) {
	t.Helper()
	v := presence.Snapshot{Identity: "bob", SID: "US1", Attributes: "{}", Online: presence.True, Rev: rev}
	var events []itemEvent
	last = h.replay(&events, &v, known)
	if frame := encodeItems(events); frame != nil {
		ids = idsOf(t, frame)
	}
	return ids, last
}

func idsOf(t testing.TB, frame []byte) (ids []int64) {
	t.Helper()
	for _, e := range readBack(t, frame).events(t) {
		id, err := strconv.ParseInt(strings.Fields(e)[0], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	return ids
}

func TestReplay(t *testing.T) {
	for name, tt := range map[string]struct {
		rev, known int64
		ids        []int64
		last       int64
	}{
		"knows nothing":      {100, 0, []int64{100, 100, 100}, 100},
		"knows less":         {100, 99, []int64{100, 100, 100}, 100},
		"knows it":           {100, 100, nil, 100},
		"knows more":         {100, 101, []int64{102, 102, 102}, 102},
		"knows the furthest": {100, maxEventID - 1, []int64{maxEventID, maxEventID, maxEventID}, maxEventID},
		"nobody":             {0, 0, []int64{0, 0, 0}, 0},
		"nobody, was known":  {0, 7, []int64{8, 8, 8}, 8},
	} {
		ids, last := replayed(t, &handler{}, tt.rev, tt.known)
		if diff := cmp.Diff(tt.ids, ids); diff != "" || last != tt.last {
			t.Errorf("%s: last %d (want %d), ids (-want +got):\n%s", name, last, tt.last, diff)
		}
	}
}

// TestReplayToTheBlind: who does not look at what it reads gets it again as an event,
// unless there is nothing to be seen.
func TestReplayToTheBlind(t *testing.T) {
	h := &handler{}
	h.blind.Store(true)
	if ids, last := replayed(t, h, 10, 10); last != 11 || len(ids) != 3 {
		t.Errorf("replayed %v, last %d; want three items with id 11", ids, last)
	}
	var events []itemEvent
	if last := h.replay(&events, &presence.Snapshot{Identity: "ann", SID: "US2", Rev: 10}, 10); last != 10 || len(events) != 0 {
		t.Errorf("of a user of whom nothing is known: %v, last %d; want nothing", events, last)
	}
}

// TestFloors: a client that has seen an id above the user's revision takes nothing at
// or below it, so what it is sent goes on above, until the revisions have caught up.
func TestFloors(t *testing.T) {
	h := &handler{}
	if _, last := replayed(t, h, 10, 50); last != 51 {
		t.Fatalf("last = %d; want 51", last)
	}
	var got []string
	tell := func(items ...fanout.Item) {
		for _, m := range messages(t, h.Append(nil, items)) {
			for _, e := range readMessage(t, m).events(t) {
				got = append(got, strings.Join(strings.Fields(e)[:2], " "))
			}
		}
	}
	tell(fanout.Item{Update: online("bob", 11)}, fanout.Item{Update: online("ann", 11)})
	tell(fanout.Item{Update: online("bob", 12)})
	tell(fanout.Item{Update: online("bob", 53)}) // the last floor itself
	tell(fanout.Item{Update: online("bob", 55)})
	tell(fanout.Item{Update: online("bob", 56)})
	if diff := cmp.Diff([]string{"52 bob", "11 ann", "53 bob", "54 bob", "55 bob", "56 bob"}, got); diff != "" {
		t.Errorf("ids (-want +got):\n%s", diff)
	}

	// An update that was taken before the snapshot, and written after, is not the newer.
	h = &handler{}
	replayed(t, h, 12, 50)
	if b := h.Frame(&fanout.Item{Update: online("bob", 11)}); len(b) > 0 {
		t.Errorf("an update from before the snapshot was told with ids %v", idsOf(t, b))
	}

	// Whoever has no floor gets the shared frame, with the revision itself.
	u := online("bob", 20)
	floored := (&handler{floors: map[string]floor{"bob": {10, 30}}}).update(u)
	if a, b := idsOf(t, floored), idsOf(t, (&handler{}).update(u)); a[0] != 31 || b[0] != 20 {
		t.Errorf("ids %v and %v; want 31 and 20", a, b)
	}

	// A client that asks for all again, and says less than it was sent, gets it above that.
	h = &handler{}
	replayed(t, h, 10, 50)
	for _, known := range []int64{0, 9, 20, 51} {
		_, floor := replayed(t, h, 10, h.floors["bob"].id)
		if ids, _ := replayed(t, h, 10, known); len(ids) != 3 || ids[0] <= floor {
			t.Errorf("after %d it says %d and is sent %v; want what is above", floor, known, ids)
		}
	}
}

// Whatever a client claims, what it is sent of a user is above all that it was sent
// and said before, unless it says that it has nothing, or has it all already.
func TestIDsGrow(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		h := &handler{}
		rev, last := int64(1), int64(0)
		for i := range rapid.IntRange(1, 40).Draw(rt, "steps") {
			step := rapid.SampledFrom([]string{"update", "merged", "again", "lie", "forgot"}).Draw(rt, fmt.Sprint("step", i))
			rev += rapid.SampledFrom([]int64{0, 1, 2, 1000}).Draw(rt, fmt.Sprint("grows", i))
			if step == "update" || step == "merged" {
				rev++ // the hub's updates do
				ids := idsOf(t, h.Append(nil, []fanout.Item{{Update: online("bob", rev)}}))
				if step == "merged" {
					rev++
					ids = append(ids, idsOf(t, h.Append(nil, []fanout.Item{{Update: online("bob", rev)}, {Update: online("ann", 1)}}))[0])
				}
				for _, id := range ids {
					if id <= last {
						rt.Fatalf("step %d: %s has id %d after %d", i, step, id, last)
					}
					last = id
				}
				continue
			}
			known := last
			switch step {
			case "lie":
				known += rapid.Int64Range(1, 2000).Draw(rt, fmt.Sprint("by", i))
			case "forgot":
				known = 0
			}
			ids, established := replayed(t, h, rev, known)
			if len(ids) == 0 {
				if known != rev || established != rev {
					rt.Fatalf("step %d: nothing is replayed to who knows %d, at %d", i, known, rev)
				}
				last = max(last, known)
				continue
			}
			floor := max(last, known)
			if step == "forgot" && last <= rev {
				floor = last - 1 // the same again is fine: it is the same state
			}
			if ids[0] <= floor || established != ids[0] {
				rt.Fatalf("step %d: %s is replayed %v, established %d, after %d", i, step, ids, established, floor)
			}
			last = ids[0]
		}
	})
}
