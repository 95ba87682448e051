package faults

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

var epoch = time.UnixMilli(1_790_000_000_000)

// ms is a time since the start, in milliseconds.
func ms(n int) time.Duration { return time.Duration(n) * time.Millisecond }

// A story is a history under construction; times are milliseconds since its start.
type story []Entry

func (s story) add(at int, e Entry) story { e.At = ms(at); return append(slices.Clip(s), e) }

func (s story) joined(at int, watcher string) story {
	return s.add(at, Entry{Kind: Joined, Watcher: watcher, Node: "node 0"})
}

func (s story) parted(at int, watcher string) story {
	return s.add(at, Entry{Kind: Parted, Watcher: watcher})
}

// opened is a session of a user that is opened 10 ms after it began.
func (s story) opened(at int, user, session string) story {
	return s.add(at, Entry{Kind: Began, User: user, Session: session, Node: "node 0"}).add(at+10, Entry{Kind: Opened, User: user, Session: session})
}

// ended is the end of a session by its client, or by what happened to it.
func (s story) ended(at int, user, session, how string) story {
	if how == Bye || how == Drop {
		s = s.add(at, Entry{Kind: Leaving, User: user, Session: session, How: how})
	}
	return s.add(at+1, Entry{Kind: Ended, User: user, Session: session, How: how})
}

// seen is what a watcher is told 2 ms after it was published.
func (s story) seen(at int, watcher, user, online string) story {
	return s.add(at+2, Entry{Kind: Seen, Watcher: watcher, User: user, Online: online, Rev: rev(at)})
}

func (s story) read(at, published int, watcher, user, online string) story {
	return s.add(at, Entry{Kind: Read, Watcher: watcher, User: user, Online: online, Rev: rev(published)})
}

func (s story) told(at, published int, node, user, online string) story {
	return s.add(at, Entry{Kind: Told, Node: node, User: user, Online: online, Rev: rev(published)})
}

func rev(at int) int64 { return epoch.UnixMilli() + int64(at) }

// history sorts the entries by time.
func (s story) history(end int) History {
	entries := slices.Clone([]Entry(s))
	slices.SortStableFunc(entries, func(a, b Entry) int { return int(a.At - b.At) })
	return History{epoch, ms(end), entries}
}

var rules = Rules{Timers: defaultTimers, Slack: time.Second}

// Each rule is broken by some history, and only that rule; histories that keep them all are let pass.
func TestCheck(t *testing.T) {
	failing := rules
	failing.NodeFails = true
	base := story{}.joined(0, "w").opened(1000, "ada", "s1").seen(1005, "w", "ada", "true")
	for _, tt := range []struct {
		name  string
		story story
		rules Rules
		want  string // the rule that is broken, or nothing
	}{
		{"connected to the end", base, rules, ""},
		{"so quick that the revision's millisecond began before", story{}.joined(0, "w").add(1000, Entry{Kind: Began, User: "ada", Session: "s1"}).
			add(1001, Entry{Kind: Opened, User: "ada", Session: "s1"}).seen(999, "w", "ada", "true"), rules, ""},
		{"bye", base.ended(5000, "ada", "s1", Bye).seen(5000, "w", "ada", "false"), rules, ""},
		{"cut off, and offline after linger", base.ended(5000, "ada", "s1", Drop).seen(15_001, "w", "ada", "false"), rules, ""},
		{"page reload", base.ended(5000, "ada", "s1", Drop).opened(5100, "ada", "s2"), rules, ""},
		{"back just before linger is over", base.ended(5000, "ada", "s1", Drop).opened(14_980, "ada", "s2"), rules, ""},
		{"back just too late", base.ended(5000, "ada", "s1", Drop).seen(15_001, "w", "ada", "false").opened(15_000, "ada", "s2").seen(15_008, "w", "ada", "true"), rules, ""},
		{"two devices, one leaves", base.opened(2000, "ada", "s2").ended(5000, "ada", "s1", Bye), rules, ""},
		{"node killed", base.ended(5000, "ada", "s1", Lost).seen(14_000, "w", "ada", "false"), failing, ""},
		{"moved by a drain, and back", base.ended(5000, "ada", "s1", Moved).opened(20_000, "ada", "s2"), rules, ""},
		{"a watcher that missed offline and online", base.ended(5000, "ada", "s1", Bye).opened(5600, "ada", "s2").seen(5605, "w", "ada", "true"), rules, ""},
		{"a watcher that comes back", base.parted(4000, "w").ended(5000, "ada", "s1", Bye).joined(7000, "w").read(6999, 5000, "w", "ada", "false"), rules, ""},
		{"switch off and on", base.add(5000, Entry{Kind: Off}).seen(6000, "w", "ada", "null").add(9000, Entry{Kind: On}).seen(10_000, "w", "ada", "true"), rules, ""},
		{"bye soon after flips", base.add(1500, Entry{Kind: Off}).seen(2500, "w", "ada", "null").add(2000, Entry{Kind: On}).seen(3500, "w", "ada", "true").
			ended(9000, "ada", "s1", Bye).seen(9000, "w", "ada", "false").opened(12_000, "ada", "s2").seen(12_005, "w", "ada", "true").ended(14_000, "ada", "s2", Bye).seen(14_000, "w", "ada", "false"), rules, ""},
		{"refused before it is let in", base.ended(5000, "ada", "s1", Drop).add(6000, Entry{Kind: Began, User: "ada", Session: "s2"}).
			add(6100, Entry{Kind: Ended, User: "ada", Session: "s2", How: Refused}).opened(7000, "ada", "s3"), rules, ""},
		{"agreement", base.ended(5000, "ada", "s1", Bye).seen(5000, "w", "ada", "false").told(9000, 5000, "node 0", "ada", "false").told(9000, 5000, "node 1", "ada", "false"), rules, ""},
		{"a user who never came", base.told(9000, 1005, "node 0", "ada", "true").read(0, 0, "w", "bob", "none").told(9000, 0, "node 0", "bob", "none"), rules, ""},

		{"the same revision again", base.seen(1005, "w", "ada", "true"), rules, Order},
		{"a lower revision", base.opened(1200, "ada", "s2").ended(5000, "ada", "s1", Bye).add(6000, Entry{Kind: Seen, Watcher: "w", User: "ada", Online: "true", Rev: rev(1003)}), rules, Order},
		{"a lower revision after coming back", base.parted(4000, "w").read(6000, 1002, "w", "ada", "true").joined(6001, "w"), rules, Order},
		{"one revision, two states", base.parted(4000, "w").ended(4500, "ada", "s1", Bye).read(6000, 1005, "w", "ada", "null").joined(6001, "w"), rules, Order},

		{"offline while connected", base.seen(5000, "w", "ada", "false").seen(5100, "w", "ada", "true"), rules, Connected},
		{"offline while another device is connected", base.opened(2000, "ada", "s2").ended(5000, "ada", "s1", Bye).seen(5000, "w", "ada", "false").seen(5001, "w", "ada", "true"), rules, Connected},
		{"null while connected", base.seen(5000, "w", "ada", "null").seen(5001, "w", "ada", "true"), rules, Connected},
		{"offline in a snapshot while connected", base.parted(4000, "w").read(6000, 5000, "w", "ada", "false").joined(6001, "w").seen(6002, "w", "ada", "true"), rules, Connected},

		{"a departure never told", base.ended(5000, "ada", "s1", Bye), rules, Once},
		{"a lost session never told", base.ended(5000, "ada", "s1", Lost), failing, Once},
		{"told to one watcher only", base.joined(0, "v").seen(1006, "v", "ada", "true").ended(5000, "ada", "s1", Bye).seen(5000, "w", "ada", "false"), rules, Once},
		{"told twice", base.ended(5000, "ada", "s1", Bye).seen(5000, "w", "ada", "false").seen(5300, "w", "ada", "false"), rules, Once},
		{"told twice, much later", base.ended(5000, "ada", "s1", Lost).seen(15_001, "w", "ada", "false").seen(18_000, "w", "ada", "false"), failing, Once},
		{"a ghost", base.ended(5000, "ada", "s1", Bye).seen(5000, "w", "ada", "false").seen(9000, "w", "ada", "true"), rules, Once},
		{"offline who was never there", story{}.joined(0, "w").read(0, 0, "w", "bob", "none").seen(5000, "w", "bob", "false"), rules, Once},

		{"offline within linger", base.ended(5000, "ada", "s1", Drop).seen(6000, "w", "ada", "false"), rules, Covered},
		{"offline right after a reload began", base.ended(5000, "ada", "s1", Drop).seen(5001, "w", "ada", "false").opened(5020, "ada", "s2").seen(5025, "w", "ada", "true"), rules, Covered},
		{"offline within the lease", base.ended(5000, "ada", "s1", Lost).seen(6000, "w", "ada", "false"), failing, Covered},
		{"offline during the handover", base.ended(5000, "ada", "s1", Moved).seen(15_100, "w", "ada", "false").opened(16_000, "ada", "s2").seen(16_005, "w", "ada", "true"), rules, Covered},
		{"online again after a reload", base.ended(5000, "ada", "s1", Drop).opened(5100, "ada", "s2").seen(5105, "w", "ada", "true"), rules, Covered},
		{"online again for a second device", base.opened(2000, "ada", "s2").seen(2005, "w", "ada", "true"), rules, Covered},

		{"a watcher that believes otherwise", base.told(9000, 1005, "node 0", "ada", "true").ended(7000, "ada", "s1", Bye).seen(7000, "w", "ada", "false").read(8000, 7500, "w", "ada", "true").told(9000, 7000, "node 1", "ada", "false"), rules, Agreement},
		{"REST says otherwise", base.told(9000, 1005, "node 0", "ada", "false"), rules, Agreement},
		{"two nodes disagree", base.ended(5000, "ada", "s1", Bye).seen(5000, "w", "ada", "false").told(9000, 5000, "node 0", "ada", "false").told(9000, 1005, "node 1", "ada", "true"), rules, Agreement},
		{"two nodes disagree on the revision", base.told(9000, 1005, "node 0", "ada", "true").told(9000, 1006, "node 1", "ada", "true"), rules, Agreement},
		{"online though the switch is off", base.add(5000, Entry{Kind: Off}).told(9000, 1005, "node 0", "ada", "true"), rules, Agreement},

		{"a bye told late", base.ended(5000, "ada", "s1", Bye).add(9000, Entry{Kind: Seen, Watcher: "w", User: "ada", Online: "false", Rev: rev(5000)}), rules, InTime},
		{"a lost session told late", base.ended(5000, "ada", "s1", Lost).seen(25_000, "w", "ada", "false"), failing, InTime},
		{"an arrival told late", story{}.joined(0, "w").opened(1000, "ada", "s1").add(9000, Entry{Kind: Seen, Watcher: "w", User: "ada", Online: "true", Rev: rev(1005)}), rules, InTime},
		{"an arrival never told", story{}.joined(0, "w").opened(1000, "ada", "s1"), rules, InTime},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := tt.story.history(40_000)
			broken := map[string]bool{}
			v := Check(h, tt.rules)
			for _, v := range v.Violations {
				broken[v.Rule] = true
			}
			if got := strings.Join(slices.Sorted(maps.Keys(broken)), " "); got != tt.want {
				var b strings.Builder
				h.Print(&b)
				t.Errorf("broken: %q; want %q\n%v\n%s", got, tt.want, v.Violations, b.String())
			}
		})
	}
}

// What a scenario allows is let pass, and no more than that.
func TestExcuses(t *testing.T) {
	h := story{}.joined(0, "w").opened(1000, "ada", "s1").seen(1005, "w", "ada", "true").
		seen(5000, "w", "ada", "false").seen(5100, "w", "ada", "true").history(40_000)
	excuse := Excuse{Rules: []string{Connected}, From: ms(4000), To: ms(6000), Why: "stopped"}
	with := func(change func(*Excuse)) Rules {
		r, e := rules, excuse
		change(&e)
		r.Excuses = []Excuse{e}
		return r
	}
	for _, tt := range []struct {
		name string
		r    Rules
		want int
	}{
		{"none", rules, 1},
		{"it", with(func(*Excuse) {}), 0},
		{"another rule", with(func(e *Excuse) { e.Rules = []string{Once} }), 1},
		{"an earlier time", with(func(e *Excuse) { e.To = ms(4500) }), 1},
		{"another user", with(func(e *Excuse) { e.Users = func(user string) bool { return user == "bob" } }), 1},
		{"another watcher", with(func(e *Excuse) { e.Watchers = func(name string) bool { return name == "v" } }), 1},
	} {
		v := Check(h, tt.r)
		if len(v.Violations) != tt.want || len(v.Excused) != 1-tt.want {
			t.Errorf("excusing %s: violations %v, excused %v; want %d violations", tt.name, v.Violations, v.Excused, tt.want)
		}
	}

	late := story{}.joined(0, "w").opened(1000, "ada", "s1").seen(1005, "w", "ada", "true").
		ended(5000, "ada", "s1", Drop).seen(24_000, "w", "ada", "false").history(40_000)
	r := rules
	if v := Check(late, r); len(v.Violations) != 1 || v.Violations[0].Rule != InTime {
		t.Errorf("told 19 s after it was cut off: %v; want it found late", v.Violations)
	}
	r.Away = []Away{{From: ms(6000), To: ms(13_000), Extra: time.Second}}
	if v := Check(late, r); len(v.Violations) != 0 {
		t.Errorf("the same while the store was away for 7 s: %v; want nothing", v.Violations)
	}
	r.Away = []Away{{From: ms(6000), To: ms(11_000), Extra: time.Second}}
	if v := Check(late, r); len(v.Violations) != 1 {
		t.Errorf("the same while the store was away for 5 s: %v; want it found late", v.Violations)
	}
}

// crowd is a long history of many users without a violation.
func crowd(random *rand.Rand, users int) story {
	s := story{}.joined(0, "w").joined(0, "v")
	for u := range users {
		user, at := fmt.Sprint("user", u), random.IntN(1000)
		for n := range 5 {
			session := fmt.Sprint(user, ".", n)
			s = s.opened(at, user, session).seen(at+5, "w", user, "true").seen(at+5, "v", user, "true")
			at += 1500 + random.IntN(3000)
			if random.IntN(2) == 0 {
				s = s.ended(at, user, session, Bye).seen(at, "w", user, "false").seen(at, "v", user, "false")
			} else {
				s = s.ended(at, user, session, Drop).seen(at+10_001, "w", user, "false").seen(at+10_001, "v", user, "false")
				at += 10_001
			}
			at += 1500 + random.IntN(3000)
		}
	}
	return s
}

// The shortest history of a violation is short, however long that was in which it was found, and shows the same.
func TestShrink(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	s := crowd(random, 30)
	long := s.history(200_000)
	if v := Check(long, rules); len(v.Violations) != 0 {
		t.Fatalf("the crowd breaks rules: %v", v.Violations)
	}
	for _, tt := range []struct {
		name    string
		with    story
		most    int
		rule    string
		telling []string // what the shortest history must have
	}{
		{"a false offline", s.opened(100_000, "ada", "a1").seen(100_005, "w", "ada", "true").seen(105_000, "w", "ada", "false").
			seen(105_100, "w", "ada", "true").seen(100_005, "v", "ada", "true"), 3, Connected, []string{"a1", "false"}},
		{"a departure not told", s.opened(100_000, "ada", "a1").seen(100_005, "w", "ada", "true").seen(100_005, "v", "ada", "true").ended(103_000, "ada", "a1", Bye).
			seen(103_000, "v", "ada", "false"), 6, Once, []string{"a1", "bye"}},
		{"told twice", s.opened(100_000, "ada", "a1").seen(100_005, "w", "ada", "true").seen(100_005, "v", "ada", "true").ended(103_000, "ada", "a1", Bye).
			seen(103_000, "v", "ada", "false").seen(103_000, "w", "ada", "false").seen(104_500, "w", "ada", "false"), 6, Once, []string{"false"}},
	} {
		h := tt.with.history(200_000)
		found := Check(h, rules).Violations
		if len(found) == 0 || found[0].Rule != tt.rule {
			t.Fatalf("%s: found %v; want %s", tt.name, found, tt.rule)
		}
		short := Shrink(h, rules, found[0])
		var b strings.Builder
		short.Print(&b)
		if len(short.Entries) > tt.most || !slices.ContainsFunc(Check(short, rules).Violations, found[0].same) {
			t.Errorf("%s: %d entries of %d; want at most %d that show the same\n%s", tt.name, len(short.Entries), len(h.Entries), tt.most, b.String())
		}
		for _, word := range tt.telling {
			if !strings.Contains(b.String(), word) {
				t.Errorf("%s: the shortest history says nothing of %q\n%s", tt.name, word, b.String())
			}
		}
	}
}

// Whatever is taken from or put into what a watcher of a crowd was told, the checker notices.
func TestCheckNoticesAnything(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	s := crowd(random, 3)
	h := s.history(200_000)
	for i, e := range h.Entries {
		if e.Kind != Seen {
			continue
		}
		less := History{h.Start, h.End, slices.Delete(slices.Clone(h.Entries), i, i+1)}
		if len(Check(less, rules).Violations) == 0 {
			t.Errorf("nothing is wrong without: %s", h.line(e))
		}
		twice := e
		twice.Rev, twice.At = e.Rev+200, e.At+ms(200)
		more := slices.Insert(slices.Clone(h.Entries), i+1, twice)
		slices.SortStableFunc(more, func(a, b Entry) int { return int(a.At - b.At) })
		if len(Check(History{h.Start, h.End, more}, rules).Violations) == 0 {
			t.Errorf("nothing is wrong with, once more 200 ms later: %s", h.line(e))
		}
		other := slices.Clone(h.Entries)
		other[i].Online = map[string]string{"true": "false", "false": "true"}[e.Online]
		if len(Check(History{h.Start, h.End, other}, rules).Violations) == 0 {
			t.Errorf("nothing is wrong with the opposite of: %s", h.line(e))
		}
	}
}

// A silence after the fault puts off what was due, each by as much as it is declared, in whatever order they are.
func TestPutOff(t *testing.T) {
	r := rules
	r.NodeFails = true
	story := story{}.joined(0, "w").opened(1000, "ada", "s1").seen(1005, "w", "ada", "true").ended(5000, "ada", "s1", Drop).
		seen(30_000, "w", "ada", "false")
	for _, tt := range []struct {
		name string
		away []Away
		want string
	}{
		{"none", nil, InTime},
		{"long enough", []Away{{From: ms(4000), To: ms(17_000)}}, ""},
		{"too short", []Away{{From: ms(4000), To: ms(14_000)}}, InTime},
		{"over when it was due", []Away{{From: ms(1000), To: ms(1500)}}, InTime},
		{"the later is told first", []Away{{From: ms(19_500), To: ms(25_000)}, {From: ms(4000), To: ms(9000)}}, ""},
	} {
		r.Away = tt.away
		got := ""
		for _, v := range Check(story.history(60_000), r).Violations {
			got = v.Rule
		}
		if got != tt.want {
			t.Errorf("%s: %q is broken; want %q", tt.name, got, tt.want)
		}
	}
}
