package load

import (
	"errors"
	"os"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rollcall-presence/rollcall/internal/load/wire"
)

// boardOf is a board of so many users.
func boardOf(t testing.TB, users int) *board {
	t.Helper()
	b, name, err := newBoard(users)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.close(); _ = os.Remove(name) })
	return b
}

// Processes that open a board see one another's acts.
func TestBoardIsShared(t *testing.T) {
	b, name, err := newBoard(3)
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	other, err := openBoard(name, 3)
	if err != nil {
		t.Fatal(err)
	}
	defer other.close()
	due := time.Unix(5, 7)
	b.begin(2, due)
	s := &other.slots[2]
	if d, ok := s.since(1, due.Add(time.Millisecond)); s.acts.Load() != 1 || !ok || d != time.Millisecond {
		t.Errorf("the other sees %d acts, the first %v, %t ago; want 1, 1ms", s.acts.Load(), d, ok)
	}
	if n := other.slots[1].acts.Load(); n != 0 {
		t.Errorf("another user has %d acts", n)
	}
	_ = os.Remove(name)
	if _, err := openBoard(name, 3); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("openBoard = %v once the file is gone", err)
	}
}

// The time of an act is forgotten before it is overwritten.
func TestBoardForgets(t *testing.T) {
	b := boardOf(t, 1)
	s := &b.slots[0]
	for n := range uint32(20) {
		b.begin(0, time.Unix(int64(n+1), 0))
		for act := uint32(1); act <= n+1; act++ {
			d, ok := s.since(act, time.Unix(100, 0))
			if want := n+1-act < recent-1; ok != want || ok && d != time.Duration(100-act)*time.Second {
				t.Errorf("after %d acts the %dth was %v ago, %t; want %t", n+1, act, d, ok, want)
			}
		}
	}
}

func TestSettled(t *testing.T) {
	b := boardOf(t, 1)
	s := &b.slots[0]
	for acts := range uint32(5) {
		for _, is := range []bool{true, false} {
			want := acts
			if online(acts) != is && acts > 0 {
				want--
			}
			if got := s.settled(is); got != want {
				t.Errorf("after %d acts, online %t: settled = %d; want %d", acts, is, got, want)
			}
		}
		b.begin(0, time.Now())
	}
}

// watcher is a session that watches user 1, with a tally of its own, without a connection.
func watcher(t testing.TB, b *board) *session {
	w := &worker{board: b, tally: newTally()}
	return newSession(w, 0, []uint32{1})
}

func (s *session) seen(t testing.TB) counts {
	t.Helper()
	c, _, err := s.w.tally.take()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Of a user who comes and goes any number of times, and of whose updates any were merged into
// a later one, and the last was not: each is matched with its act, whether the user's own
// welcome came before or after its watchers heard of it, and however far behind they are.
func TestUpdatesAreMatchedWithActs(t *testing.T) {
	b := boardOf(t, 2)
	rapid.Check(t, func(rt *rapid.T) {
		b.slots[1] = slot{}
		s := watcher(t, b)
		type update struct {
			act uint32
			rev int64
		}
		var waiting []update
		rev, welcome := int64(0), int64(0) // a welcome that did not come yet
		told, merged, last := int64(0), int64(0), uint32(0)
		acts := rapid.IntRange(1, 40).Draw(rt, "acts")
		lag := rapid.SampledFrom([]int{0, 1, 2, recent, 30}).Draw(rt, "lag")
		deliver := func() { // the first that waits
			u := waiting[0]
			s.update(&s.views[0], wire.User{Online: online(u.act), Rev: u.rev})
			got, n := s.views[0].act.Load(), b.slots[1].acts.Load()
			if got > u.act || got <= last || n-u.act < recent-2 && got != u.act {
				rt.Fatalf("with %d acts, act %d was taken for %d after %d", n, u.act, got, last)
			}
			merged += int64(got - last - 1)
			told, last, waiting = told+1, got, waiting[1:]
		}
		for act := range uint32(acts) {
			if welcome != 0 { // nobody goes before it was welcomed
				b.slots[1].welcomed(welcome)
				welcome = 0
			}
			b.begin(1, time.Now())
			rev += rapid.Int64Range(1, 3).Draw(rt, "step")
			if online(act + 1) {
				welcome = rev
			}
			if rapid.Bool().Draw(rt, "merged") && len(waiting) > 0 {
				waiting[len(waiting)-1] = update{act + 1, rev}
			} else {
				waiting = append(waiting, update{act + 1, rev})
			}
			if welcome != 0 && rapid.Bool().Draw(rt, "welcome first") {
				b.slots[1].welcomed(welcome)
				welcome = 0
			}
			for len(waiting) > lag {
				deliver()
			}
		}
		for len(waiting) > 0 {
			deliver()
		}
		c := s.seen(t)
		if c.Unexpected+c.Disordered > 0 || c.Events != told || c.Merged != merged || last != uint32(acts) {
			rt.Fatalf("of %d acts, %d told, %d merged: the tally has %+v, the last is %d", acts, told, merged, c, last)
		}
	})
}

// What a server may not send is counted as what it is, and what follows is still understood.
func TestWrongUpdates(t *testing.T) {
	on, off := true, false
	type update struct {
		online bool
		rev    int64
	}
	for name, tt := range map[string]struct {
		acts    int // the user's, with revisions 10, 20, ...; all were welcomed
		updates []update
		want    counts
		act     uint32
	}{
		"all is well":                    {3, []update{{on, 10}, {off, 20}, {on, 30}}, counts{Events: 3}, 3},
		"one is missing":                 {3, []update{{on, 10}, {on, 30}}, counts{Events: 2, Merged: 1}, 3},
		"the last is missing":            {3, []update{{on, 10}, {off, 20}}, counts{Events: 2}, 2},
		"all are missing":                {3, nil, counts{}, 0},
		"twice":                          {2, []update{{on, 10}, {on, 10}, {off, 20}}, counts{Events: 2, Disordered: 1}, 2},
		"back":                           {2, []update{{on, 10}, {off, 20}, {on, 10}}, counts{Events: 2, Disordered: 1}, 2},
		"back to another state":          {3, []update{{on, 10}, {on, 30}, {off, 20}}, counts{Events: 2, Merged: 1, Disordered: 1}, 3},
		"the same anew":                  {1, []update{{on, 10}, {on, 11}}, counts{Events: 1, Unexpected: 1}, 1},
		"the same anew after it went":    {2, []update{{on, 10}, {off, 20}, {off, 21}}, counts{Events: 2, Unexpected: 1}, 2},
		"gone without an act":            {1, []update{{on, 10}, {off, 11}}, counts{Events: 1, Unexpected: 1}, 1},
		"gone and back without an act":   {1, []update{{on, 10}, {off, 11}, {on, 12}}, counts{Events: 1, Unexpected: 2}, 1},
		"come without an act":            {2, []update{{on, 10}, {off, 20}, {on, 21}}, counts{Events: 2, Unexpected: 1}, 2},
		"nobody came":                    {0, []update{{on, 10}}, counts{Unexpected: 1}, 0},
		"nobody went":                    {0, []update{{off, 10}}, counts{Unexpected: 1}, 0},
		"what follows something wrong":   {3, []update{{on, 10}, {off, 11}, {off, 20}, {on, 30}}, counts{Events: 3, Unexpected: 1}, 3},
		"a revision from before it came": {1, []update{{off, 5}}, counts{Unexpected: 1}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			b := boardOf(t, 2)
			s := watcher(t, b)
			for i := range tt.acts {
				b.begin(1, time.Now())
				if online(uint32(i + 1)) {
					b.slots[1].welcomed(int64(10 * (i + 1)))
				}
			}
			for _, u := range tt.updates {
				s.update(&s.views[0], wire.User{Online: u.online, Rev: u.rev})
			}
			c := s.seen(t)
			if c.Events != tt.want.Events || c.Merged != tt.want.Merged || c.Unexpected != tt.want.Unexpected || c.Disordered != tt.want.Disordered {
				t.Errorf("the tally is %+v; want %+v", c, tt.want)
			}
			if got := s.views[0].act.Load(); got != tt.act {
				t.Errorf("the last act seen is %d; want %d", got, tt.act)
			}
			s.phase = opened
			s.w.watchers = []*session{s}
			if got, want := s.w.behind(), int64(tt.acts)-int64(tt.act); got != want {
				t.Errorf("behind = %d; want %d", got, want)
			}
		})
	}
}

// A session that is not open when it should be is as bad as an event that it did not see.
func TestBehindCountsSessionsThatAreNotOpen(t *testing.T) {
	s := watcher(t, boardOf(t, 2))
	s.w.watchers = []*session{s}
	if got := s.w.behind(); got != 1 {
		t.Errorf("behind = %d; want 1", got)
	}
}

// Snapshots say what a session missed while it was away, and must not go back.
func TestSnapshots(t *testing.T) {
	b := boardOf(t, 2)
	s := watcher(t, b)
	v := &s.views[0]
	step := func(what string, u wire.User, act uint32, want counts) {
		t.Helper()
		s.snapshot(v, u)
		if c := s.seen(t); v.act.Load() != act || c.Unexpected != want.Unexpected || c.Disordered != want.Disordered || c.Events != 0 {
			t.Errorf("%s: the last act seen is %d, the tally %+v; want %d, %+v", what, v.act.Load(), c, act, want)
		}
	}
	step("no user yet", wire.User{}, 0, counts{})
	b.begin(1, time.Now())
	step("about to come", wire.User{}, 0, counts{})
	step("came", wire.User{Online: true, Rev: 10}, 1, counts{})
	b.slots[1].welcomed(10)
	step("the same", wire.User{Online: true, Rev: 10}, 1, counts{})
	b.begin(1, time.Now())
	b.begin(1, time.Now())
	b.slots[1].welcomed(30)
	b.begin(1, time.Now())
	step("came and went meanwhile", wire.User{Rev: 40}, 4, counts{})
	step("back", wire.User{Online: true, Rev: 30}, 4, counts{Disordered: 1})
	step("another revision for nothing", wire.User{Rev: 41}, 4, counts{Disordered: 1, Unexpected: 1})
}

// Of a user who was away for about the linger either is right, to be seen to leave or not.
func TestLenient(t *testing.T) {
	b := boardOf(t, 2)
	s := watcher(t, b)
	b.begin(1, time.Now())
	b.slots[1].welcomed(10)
	s.update(&s.views[0], wire.User{Online: true, Rev: 10})
	b.slots[1].lenient.Store(1)
	s.update(&s.views[0], wire.User{Rev: 11})
	if got := s.views[0].act.Load(); got != 0 {
		t.Errorf("seen to leave: the last act is %d; want 0", got)
	}
	s.update(&s.views[0], wire.User{Online: true, Rev: 12})
	if c := s.seen(t); c.Events != 1 || c.Unexpected+c.Disordered != 0 || s.views[0].act.Load() != 1 {
		t.Errorf("the tally is %+v; want one event and nothing wrong", c)
	}
	s.update(&s.views[0], wire.User{Rev: 11})
	if c := s.seen(t); c.Disordered != 1 {
		t.Errorf("a revision that goes back is not found: %+v", c)
	}
}

// Slow readers are counted by themselves, and their latency not at all; so is the bare loop.
func TestSlowAndBareAreCountedApart(t *testing.T) {
	for _, kind := range []string{"", "slow", "bare"} {
		b := boardOf(t, 2)
		s := watcher(t, b)
		s.slow, s.bare = kind == "slow", kind == "bare"
		for range 3 {
			b.begin(1, time.Now())
		}
		b.slots[1].welcomed(30)
		s.update(&s.views[0], wire.User{Online: true, Rev: 30})
		want, hist := counts{Events: 1, Merged: 2}, latencyEvent
		switch kind {
		case "slow":
			want, hist = counts{SlowEvents: 1, SlowMerged: 2}, ""
		case "bare":
			want, hist = counts{BareEvents: 1}, latencyBare
		}
		c, hists, _ := s.w.tally.take()
		if c.Events != want.Events || c.Merged != want.Merged || c.SlowEvents != want.SlowEvents || c.SlowMerged != want.SlowMerged || c.BareEvents != want.BareEvents {
			t.Errorf("%q: the tally is %+v; want %+v", kind, c, want)
		}
		if _, ok := hists[hist]; ok != (hist != "") || len(hists) > 1 {
			t.Errorf("%q: latencies of %v; want %q", kind, hists, hist)
		}
	}
}

// A latency counts from when the act was due, not from when it was done.
func TestLatencyCountsFromDue(t *testing.T) {
	b := boardOf(t, 2)
	s := watcher(t, b)
	b.begin(1, time.Now().Add(-5*time.Second))
	s.update(&s.views[0], wire.User{Online: true, Rev: 1})
	_, hists, _ := s.w.tally.take()
	total := newTotals()
	total.take(0, status{Hists: hists})
	if l, ok := total.latency(latencyEvent); !ok || l.Count != 1 || l.Max < 5000 || l.Max > 6000 {
		t.Errorf("the latency is %+v; want one of 5 s", l)
	}
}

func TestIdentities(t *testing.T) {
	for _, u := range []uint32{0, 1, maxUsers, 1<<32 - 1} {
		if got, err := userOf([]byte(identity(u))); got != u || err != nil {
			t.Errorf("userOf(%s) = %d, %v", identity(u), got, err)
		}
		if n := len(identity(u)); n != 22 {
			t.Errorf("%s is %d bytes long", identity(u), n)
		}
	}
	for _, bad := range []string{"", "alice", "user-", "user-x", "user-99999999999999999", "user--1"} {
		if got, err := userOf([]byte(bad)); err == nil {
			t.Errorf("userOf(%q) = %d", bad, got)
		}
	}
}

// remove removes a board's file.
func remove(t testing.TB, name string) {
	t.Helper()
	if err := os.Remove(name); err != nil {
		t.Error(err)
	}
}
