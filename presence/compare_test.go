package presence_test

import (
	"testing"
	"time"

	"github.com/rollcall-presence/rollcall/presence"
)

// What the store lost of a node, or has too much, is counted and mended; what is on
// its way is not.
func TestCompare(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		n, _ := c.node("n1")
		bob := presence.Key{Service: service, Identity: "bob"}
		v, err := c.store.Service(t.Context(), service)
		if err != nil {
			t.Fatal(err)
		}
		sockets := map[presence.SessionID]bool{sid(1): true, sid(2): true}
		want := func(when string, want presence.Compared) {
			t.Helper()
			got, err := n.Compare(t.Context(), 0, 100*time.Millisecond, func(s presence.SessionID) bool { return sockets[s] })
			if err != nil || got != want {
				t.Errorf("%s: Compare = %+v, %v; want %+v", when, got, err, want)
			}
		}
		c.open(n, ada, 1)
		c.open(n, ada, 2)
		want("all is well", presence.Compared{})
		c.wait(time.Second)

		if _, err := c.store.End(t.Context(), 0, "n1", []presence.Ended{{Key: ada, ID: sid(1), Service: v}}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.store.Register(t.Context(), 0, "n1", []presence.Held{{Key: bob, ID: sid(7), Service: v}}); err != nil {
			t.Fatal(err)
		}
		want("one too many and one lost", presence.Compared{Missing: 1, Surplus: 1})
		c.wait(20 * time.Second)
		want("mended", presence.Compared{})
		if online, sessions := c.store.User(ada); online != presence.True || sessions != 2 {
			t.Errorf("ada is online: %v, with %d sessions; want true, 2", online, sessions)
		}
		if online, sessions := c.store.User(bob); online != presence.False || sessions != 0 {
			t.Errorf("bob is online: %v, with %d sessions; want false, 0", online, sessions)
		}

		c.store.SetAway(true)
		if _, err := n.Compare(t.Context(), 0, time.Second, nil); presence.KindOf(err) != presence.KindUnavailable {
			t.Errorf("Compare while the store is away = %v; want unavailable", err)
		}
		_ = n.Close(t.Context(), ada, sid(2), presence.EndLost, time.Now()) // owed
		c.store.SetAway(false)
		want("an end is owed", presence.Compared{})

		c.published()
		sockets[sid(1)] = false
		want("a socket is closed that nobody was told of", presence.Compared{Closed: 1})
		c.wait(time.Minute)
		c.want("the session without socket lingered", presence.False)
		want("closed", presence.Compared{})
	})
}
