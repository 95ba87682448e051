package load

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

func TestPace(t *testing.T) {
	type call struct {
		i       int
		due, at time.Duration
	}
	const ms = time.Millisecond
	for name, tt := range map[string]struct {
		rate  float64
		until time.Duration
		work  func(i int) time.Duration // that a call takes
		stop  int                       // the call that returns false
		want  []call
	}{
		"in time":                          {10, 300 * ms, nil, -1, []call{{0, 0, 0}, {1, 100 * ms, 100 * ms}, {2, 200 * ms, 200 * ms}, {3, 300 * ms, 300 * ms}}},
		"stopped":                          {10, time.Hour, nil, 1, []call{{0, 0, 0}, {1, 100 * ms, 100 * ms}}},
		"late ones are due when they were": {10, 300 * ms, func(i int) time.Duration { return []time.Duration{0, 250 * ms, 0, 0}[i] }, -1, []call{{0, 0, 0}, {1, 100 * ms, 100 * ms}, {2, 200 * ms, 350 * ms}, {3, 300 * ms, 350 * ms}}},
		"none is left out":                 {1000, 3 * ms, func(int) time.Duration { return time.Second }, -1, []call{{0, 0, 0}, {1, ms, time.Second}, {2, 2 * ms, 2 * time.Second}, {3, 3 * ms, 3 * time.Second}}},
		"seldom":                           {0.5, 3 * time.Second, nil, -1, []call{{0, 0, 0}, {1, 2 * time.Second, 2 * time.Second}}},
		"over before it began":             {10, -ms, nil, -1, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				var got []call
				err := pace(t.Context(), began, began.Add(tt.until), tt.rate, func(i int, due time.Time) bool {
					got = append(got, call{i, due.Sub(began), time.Since(began)})
					if tt.work != nil {
						time.Sleep(tt.work(i))
					}
					return i != tt.stop
				})
				if err != nil || !slices.Equal(got, tt.want) {
					t.Errorf("pace = %v with %v; want %v", err, got, tt.want)
				}
			})
		})
	}
	t.Run("ends with its context, and says why", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			why := errors.New("enough")
			time.AfterFunc(time.Minute, func() { cancel(why) })
			if err := pace(ctx, time.Now(), time.Now().Add(time.Hour), 0.001, func(int, time.Time) bool { return true }); !errors.Is(err, why) {
				t.Errorf("pace = %v; want %v", err, why)
			}
		})
	})
}

func genCast(rosters rosters) *rapid.Generator[cast] {
	return rapid.Custom(func(rt *rapid.T) cast {
		return cast{rapid.IntRange(1, 60).Draw(rt, "watchers"), rapid.IntRange(0, 60).Draw(rt, "actors"), rapid.IntRange(0, 40).Draw(rt, "watch"), rosters}
	})
}

// Whoever draws the lists, in whatever shares: together they are the same, each is ascending
// without doubles and names users that there are, and the longest is as long as was said.
func TestRosters(t *testing.T) {
	for name, r := range map[string]rosters{"ring": ring, "everybody": everybody, "powerLaw": powerLaw} {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				c := genCast(r).Draw(rt, "cast")
				all := c.watched(0, c.watchers)
				of := rapid.IntRange(1, 8).Draw(rt, "processes")
				var parts [][]uint32
				for i := range of {
					parts = append(parts, c.watched(share(c.watchers, i, of))...)
				}
				if !slices.EqualFunc(all, parts, slices.Equal) {
					rt.Fatalf("in %d shares: %v; want %v", of, parts, all)
				}
				most := 0
				for i, list := range all {
					most = max(most, len(list))
					for j, u := range list {
						if j > 0 && u <= list[j-1] || u >= c.bare() || u == uint32(i) {
							rt.Fatalf("watcher %d watches %v", i, list)
						}
					}
				}
				if got := r.most(c); got != most {
					rt.Fatalf("most = %d; the longest list has %d", got, most)
				}
			})
		})
	}
}

// Few actors are watched by many and many by few, in the end by one; as many as was asked for
// on average, and watchers have about the same to do.
func TestPowerLaw(t *testing.T) {
	c := cast{1000, 1000, 20, powerLaw}
	followers := make([]int, c.actors)
	shortest, longest := math.MaxInt, 0
	for _, list := range c.watched(0, c.watchers) {
		shortest, longest = min(shortest, len(list)), max(longest, len(list))
		for _, u := range list {
			followers[int(u)-c.watchers]++
		}
	}
	sum := 0
	for i, n := range followers {
		sum += n
		if n < 1 || i > 0 && n > followers[i-1] {
			t.Fatalf("actor %d has %d followers, the one before %d", i, n, followers[max(i-1, 0)])
		}
	}
	if mean := float64(sum) / float64(c.actors); mean < 19.5 || mean > 20.5 {
		t.Errorf("an actor has %v followers on average; want 20", mean)
	}
	if longest-shortest > 1 {
		t.Errorf("watchers watch from %d to %d", shortest, longest)
	}
	// the exponent, from two points of the curve
	if got := math.Log(float64(followers[9])/float64(followers[299])) / math.Log(10./300); math.Abs(got+0.8) > 0.05 {
		t.Errorf("followers fall with the power of %.2f; want -0.8", got)
	}
}

func TestShares(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n, of := rapid.IntRange(0, 1000).Draw(rt, "n"), rapid.IntRange(1, 50).Draw(rt, "of")
		end := 0
		for i := range of {
			lo, hi := share(n, i, of)
			if lo != end || hi < lo || hi-lo > n/of+1 {
				rt.Fatalf("share %d of %d is from %d to %d; the last ended at %d", i, of, lo, hi, end)
			}
			end = hi
		}
		if end != n {
			rt.Fatalf("the shares end at %d of %d", end, n)
		}
	})
}

// Each scenario's defaults are valid, and what is not is refused with the name of its flag.
func TestValidate(t *testing.T) {
	options := func(scenario string) Options {
		s, ok := ScenarioOf(scenario)
		if !ok {
			t.Fatalf("there is no scenario %q", scenario)
		}
		o := Options{Settings: s.Defaults, Nodes: 2}
		o.Scenario = scenario
		return o
	}
	for _, s := range Scenarios() {
		o := options(s.Name)
		if err := o.Validate(); err != nil {
			t.Errorf("the defaults of %s: %v", s.Name, err)
		}
		if o.Linger != 10*time.Second {
			t.Errorf("the linger of %s is %v", s.Name, o.Linger)
		}
	}
	nan := math.NaN()
	for name, tt := range map[string]struct {
		scenario string
		change   func(o *Options)
		want     string
	}{
		"scenario":             {"idle", func(o *Options) { o.Scenario = "idel" }, `no scenario "idel"`},
		"url of http":          {"idle", func(o *Options) { o.Nodes, o.URLs = 0, []string{"http://h/v1/connect"} }, "url: "},
		"url of nothing":       {"idle", func(o *Options) { o.Nodes, o.URLs = 0, []string{"ws:///x"} }, "url: "},
		"no url":               {"idle", func(o *Options) { o.Nodes = 0 }, "url: say where"},
		"url and nodes":        {"idle", func(o *Options) { o.URLs = []string{"ws://h/"} }, "nodes: "},
		"nodes":                {"idle", func(o *Options) { o.Nodes = 65 }, "nodes: "},
		"no sessions":          {"idle", func(o *Options) { o.Sessions = 0 }, "sessions: "},
		"too many sessions":    {"idle", func(o *Options) { o.Sessions = maxUsers + 1 }, "sessions: "},
		"actors":               {"churn", func(o *Options) { o.Actors = -1 }, "actors: "},
		"no actors":            {"churn", func(o *Options) { o.Actors = 0 }, "actors: "},
		"watch":                {"churn", func(o *Options) { o.Watch = -1 }, "watch: "},
		"watch too many":       {"idle", func(o *Options) { o.Watch, o.Sessions = maxUsers, maxUsers }, "watch, actors: a session would watch 9999999 users"},
		"watched by everybody": {"slow", func(o *Options) { o.Actors = 1001 }, "watch, actors: a session would watch 1001 users"},
		"rate":                 {"idle", func(o *Options) { o.Rate = 0 }, "rate: "},
		"rate of nothing":      {"idle", func(o *Options) { o.Rate = nan }, "rate: "},
		"acts":                 {"churn", func(o *Options) { o.Acts = nan }, "acts: "},
		"no acts":              {"celebrity", func(o *Options) { o.Acts = 0 }, "acts: "},
		"too many acts":        {"celebrity", func(o *Options) { o.Acts = 10.5 }, "acts: "},
		"for":                  {"idle", func(o *Options) { o.For = 0 }, "for: "},
		"slow":                 {"slow", func(o *Options) { o.Slow = 1.1 }, "slow: "},
		"slow of nothing":      {"slow", func(o *Options) { o.Slow = nan }, "slow: "},
		"back":                 {"storm", func(o *Options) { o.Back = -1 }, "back: "},
		"back after linger":    {"reload", func(o *Options) { o.Back = 10 * time.Second }, "back: must be less than the linger"},
		"linger":               {"idle", func(o *Options) { o.Linger = 2 * time.Minute }, "linger: "},
		"half a second":        {"idle", func(o *Options) { o.Linger = 1500 * time.Millisecond }, "linger: must be whole seconds"},
		"processes":            {"idle", func(o *Options) { o.Processes = -1 }, "processes: "},
		"from":                 {"idle", func(o *Options) { o.From = []string{"127.0.0.1", "localhost"} }, `from: "localhost" is no IP address`},
		"admin":                {"idle", func(o *Options) { o.Nodes, o.URLs, o.Admins = 0, []string{"ws://h/"}, []string{"h:9090"} }, "admin: "},
		"admins":               {"idle", func(o *Options) { o.Nodes, o.URLs, o.Admins = 0, []string{"ws://h/"}, []string{"http://a", "http://b"} }, "admin: name one for each"},
		"restart":              {"rolling", func(o *Options) { o.Nodes, o.URLs = 0, []string{"ws://h/"} }, "restart: "},
		"one node":             {"rolling", func(o *Options) { o.Nodes = 1 }, "nodes: a rolling restart needs two"},
		"bare":                 {"churn", func(o *Options) { o.Bare = true }, "bare: "},
		"at rest":              {"idle", func(o *Options) { o.Nodes, o.URLs, o.AtRest = 0, []string{"ws://h/"}, true }, "at-rest: "},
		"profiles":             {"idle", func(o *Options) { o.Nodes, o.URLs, o.Profiles = 0, []string{"ws://h/"}, "x" }, "profiles: "},
	} {
		t.Run(name, func(t *testing.T) {
			o := options(tt.scenario)
			tt.change(&o)
			if err := o.Validate(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Validate = %v; want one about %q", err, tt.want)
			}
		})
	}
	o := options("idle")
	o.Sessions, o.Rate, o.For = 0, 0, 0
	if err := o.Validate(); strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("Validate = %v; want three lines", err)
	}
}

// A slow reader waits long before each look, while others act, and not else.
func TestSlowReadersDawdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &worker{set: Settings{Scenario: "idle"}}
		idle := make(chan struct{})
		close(idle)
		w.busy.Store(&idle)
		took := func() time.Duration {
			began := time.Now()
			w.dawdle()
			return time.Since(began)
		}
		if d := took(); d != 0 {
			t.Errorf("before the acts it waits for %v", d)
		}
		acting := make(chan error, 1)
		go func() {
			_, err := w.do(t.Context(), order{Do: "act", At: time.Now(), In: slowPause + time.Second})
			acting <- err
		}()
		synctest.Wait()
		if d := took(); d != slowPause {
			t.Errorf("during the acts it waits for %v; want %v", d, slowPause)
		}
		if d := took(); d != time.Second {
			t.Errorf("at the end of the acts it waits for %v; want 1s", d)
		}
		if err := <-acting; err != nil {
			t.Error(err)
		}
		if d := took(); d != 0 {
			t.Errorf("after the acts it waits for %v", d)
		}
	})
}
