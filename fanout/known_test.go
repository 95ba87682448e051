package fanout_test

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/rollcall-presence/rollcall/fanout"
	"github.com/rollcall-presence/rollcall/fanout/fanouttest"
	"github.com/rollcall-presence/rollcall/presence"
)

// one is a store of one user.
type one struct {
	service presence.Service
	user    presence.User
}

func (*one) Partition(presence.Key) presence.Partition                   { return 0 }
func (*one) Partitions() int                                             { return 1 }
func (o *one) Service(context.Context, string) (presence.Service, error) { return o.service, nil }
func (o *one) ReadUsers(context.Context, []presence.Key) ([]presence.User, error) {
	return []presence.User{o.user}, nil
}

// A flip puts the service's revision a second ahead of the clock. Who leaves in that second, as its linger or its
// node's lease ends, gets a revision below it, and so has that of the service before and after. A client that was told
// of it before and moves to another node must hear of it all the same, and so must the next that moves.
func TestKnownAtAFlip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const flip = 1_790_000_001_000
		store := &one{
			service: presence.Service{SID: sid, Enabled: true, Epoch: 2, Rev: flip},
			user:    presence.User{Key: key("ann"), SID: "US1", Online: presence.True, Epoch: 2, Rev: flip - 1500, Attributes: "{}"},
		}
		// ask subscribes on a node that nobody is on, and returns what a client that knows a revision is told.
		ask := func(known map[string]int64) (told presence.Snapshot, changed bool) {
			n := &node{}
			n.bus = fanouttest.NewBus(n)
			n.Hub = fanout.NewHub(n.bus, store, store, fanout.Options{})
			c := newClient(n.Hub, sid, 0)
			defer n.Detach(&c.box)
			err := n.Subscribe(t.Context(), &c.box, []string{"ann"}, known, func(list []presence.Snapshot) []byte {
				told = list[0]
				return []byte("x")
			})
			if err != nil {
				t.Fatal(err)
			}
			return told, told.Rev != known["ann"]
		}
		before, _ := ask(nil)
		if before.Online != presence.True || before.Rev != flip {
			t.Fatalf("before: %v, revision %d; want true, the flip's", before.Online, before.Rev)
		}
		store.user.Online, store.user.Rev = presence.False, flip-500
		after, changed := ask(map[string]int64{"ann": before.Rev})
		if !changed || after.Online != presence.False || after.Rev <= before.Rev {
			t.Errorf("after: changed %v, %v, revision %d; want false under a revision above %d", changed, after.Online, after.Rev, before.Rev)
		}
		// What did not change about a flip, a client that knows it is not told again.
		store.user.Rev = flip + 1
		if last, changed := ask(map[string]int64{"ann": flip + 1}); changed {
			t.Errorf("an unchanged user has revision %d; want %d, which is known", last.Rev, flip+1)
		}
		store.user.Rev = flip - 3_600_000
		if last, changed := ask(map[string]int64{"ann": flip}); changed {
			t.Errorf("a user unchanged since long before the flip has revision %d; want %d, which is known", last.Rev, flip)
		}
	})
}
