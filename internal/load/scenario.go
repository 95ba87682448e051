package load

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"
	"sync"
	"time"
)

// Settings are what a run is to do. Scenarios fill in what is zero: see Scenario.Defaults.
type Settings struct {
	Scenario string
	URLs     []string // of the nodes, ws or wss
	// The credentials of a service that is made for the run, and whose users it makes.
	Service, Account, KeySID, KeySecret string

	// Sessions is how many stay connected.
	Sessions int
	// Actors is how many users come and go.
	Actors int
	// Watch is how many users a session watches; in churn, how many sessions watch an actor on average.
	Watch int
	// Rate is how many sessions are opened a second.
	Rate float64
	// Acts is how many acts there are a second: an actor's coming or going, a reload.
	Acts float64
	// For is how long the acts, or the idleness, go on.
	For time.Duration
	// Slow is the share of sessions that barely read.
	Slow float64
	// Back is the time within which sessions that were cut are back.
	Back time.Duration
	// Linger is the service's.
	Linger time.Duration
	// Batch has sessions allow batches.
	Batch bool
	// BareURL is the address of a bare loop that each session connects to as well.
	BareURL string
}

// A Scenario is a story of clients that a run plays.
type Scenario struct {
	Name, Summary string
	Defaults      Settings
	// Silent means that no event may come once all are connected.
	Silent bool
	// Broken means that connections end other than by the clients' wish.
	Broken bool

	rosters rosters
	act     func(ctx context.Context, w *worker, at, until time.Time) error
}

// Scenarios are all there are.
func Scenarios() []Scenario {
	const k = 1000
	return []Scenario{
		{
			Name: "idle", Summary: "sessions that do nothing; nobody may hear anything", Silent: true,
			Defaults: Settings{Sessions: 10 * k, Watch: 1, Rate: 1 * k, For: 30 * time.Second},
			rosters:  ring, act: wait,
		},
		{
			Name: "ramp", Summary: "sessions that connect at a rate and stay", Silent: true,
			Defaults: Settings{Sessions: 10 * k, Watch: 1, Rate: 1 * k, For: time.Second},
			rosters:  ring, act: wait,
		},
		{
			Name: "churn", Summary: "users come and go at a rate, each watched by some: few by many, many by few",
			Defaults: Settings{Sessions: 1 * k, Actors: 1 * k, Watch: 20, Rate: 1 * k, Acts: 100, For: 30 * time.Second},
			rosters:  powerLaw, act: toggle,
		},
		{
			Name: "celebrity", Summary: "one user whom all sessions watch comes and goes",
			Defaults: Settings{Sessions: 1 * k, Actors: 1, Watch: 1, Rate: 1 * k, Acts: 2, For: 30 * time.Second},
			rosters:  everybody, act: toggle,
		},
		{
			Name: "storm", Summary: "all connections are cut at once and come back; nobody may hear of those back within the linger", Silent: true, Broken: true,
			Defaults: Settings{Sessions: 5 * k, Watch: 1, Rate: 1 * k, For: time.Second, Back: 5 * time.Second},
			rosters:  ring, act: storm,
		},
		{
			Name: "slow", Summary: "users come and go while a share of the sessions barely reads",
			Defaults: Settings{Sessions: 200, Actors: 100, Watch: 100, Rate: 1 * k, Acts: 100, Slow: 0.1, For: 30 * time.Second},
			rosters:  everybody, act: toggle,
		},
		{
			Name: "reload", Summary: "pages are loaded again at a rate, within the linger; nobody may hear of it", Silent: true,
			Defaults: Settings{Sessions: 2 * k, Watch: 5, Rate: 1 * k, Acts: 100, For: 30 * time.Second, Back: 2 * time.Second},
			rosters:  ring, act: reload,
		},
		{
			Name: "rolling", Summary: "nodes are restarted one after the other; nobody may hear of it", Silent: true, Broken: true,
			Defaults: Settings{Sessions: 2 * k, Watch: 1, Rate: 1 * k, For: 30 * time.Second},
			rosters:  ring, act: wait,
		},
	}
}

// ScenarioOf is the scenario of a name; false if there is none.
func ScenarioOf(name string) (Scenario, bool) {
	list := Scenarios()
	i := slices.IndexFunc(list, func(s Scenario) bool { return s.Name == name })
	if i < 0 {
		return Scenario{}, false
	}
	return list[i], true
}

func (s *Settings) scenario() Scenario {
	found, _ := ScenarioOf(s.Scenario)
	return found
}

// maxWatch is how many users a session may watch: the nodes' default for max_subscriptions.
const maxWatch = 1000

// tokenLife is how long tokens are good for; no session takes a newer one.
const tokenLife = 12 * time.Hour

// maxUsers bounds a run's users.
const maxUsers = 10_000_000

// Validate joins all that is wrong with the settings, each with the name of its flag.
func (s *Settings) Validate() error {
	var errs []error
	wrong := func(is bool, format string, args ...any) {
		if is {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	if _, ok := ScenarioOf(s.Scenario); !ok {
		return fmt.Errorf("there is no scenario %q", s.Scenario)
	}
	for _, raw := range s.URLs {
		_, err := parse(raw)
		wrong(err != nil, "url: %w", err)
	}
	wrong(s.Sessions < 1 || s.Sessions > maxUsers, "sessions: must be from 1 to %d", maxUsers)
	wrong(s.Actors < 0 || s.Actors > maxUsers, "actors: must be from 0 to %d", maxUsers)
	wrong(s.Watch < 0 || s.Watch > maxUsers, "watch: must be from 0 to %d", maxUsers)
	wrong(!(s.Rate > 0) || s.Rate > 1e6, "rate: must be more than 0 and at most 1000000 a second")
	wrong(!(s.Acts >= 0) || s.Acts > 1e6, "acts: must be from 0 to 1000000 a second")
	wrong(s.For <= 0 || s.For > tokenLife-time.Hour, "for: must be more than 0 and at most %v", tokenLife-time.Hour)
	wrong(!(s.Slow >= 0 && s.Slow <= 1), "slow: must be from 0 to 1")
	wrong(s.Back < 0 || s.Back > time.Hour, "back: must be from 0 to 1h")
	wrong(s.Linger < 0 || s.Linger > time.Minute, "linger: must be from 0 to 1m")
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	if c := s.cast(); c.rosters.most(c) > maxWatch {
		return fmt.Errorf("watch, actors: a session would watch %d users; a node lets it watch %d", c.rosters.most(c), maxWatch)
	}
	switch s.Scenario {
	case "churn", "celebrity", "slow":
		wrong(s.Actors == 0, "actors: must be at least 1")
		wrong(s.Acts == 0, "acts: must be more than 0 a second")
		wrong(s.Acts > 0 && s.Acts > 10*float64(s.Actors), "acts: %v a second of %d users is more than 10 of each: give more actors", s.Acts, s.Actors)
	case "reload":
		wrong(s.Acts == 0, "acts: must be more than 0 a second")
		wrong(s.Back >= s.Linger, "back: must be less than the linger, %v", s.Linger)
	}
	return errors.Join(errs...)
}

// cast is who takes part: watchers are users 0 to watchers-1, actors follow, then the one of the bare loop.
type cast struct {
	watchers, actors, watch int
	rosters                 rosters
}

func (s *Settings) cast() cast { return cast{s.Sessions, s.Actors, s.Watch, s.scenario().rosters} }

func (c cast) bare() uint32 { return uint32(c.watchers + c.actors) } //nolint:gosec // G115: users are few

// users is how many users there are, with that of the bare loop.
func (s *Settings) users() int { return s.Sessions + s.Actors + 1 }

// watched are whom the watchers from lo to hi-1 watch, ascending. They are the same each time.
func (c cast) watched(lo, hi int) [][]uint32 { return c.rosters.draw(c, lo, hi) }

// A rosters is a way to choose whom watchers watch.
type rosters struct {
	draw func(c cast, lo, hi int) [][]uint32
	most func(c cast) int // that one watches
}

// ring has each watcher watch those who come after it.
var ring = rosters{
	most: func(c cast) int { return min(c.watch, c.watchers-1) },
	draw: func(c cast, lo, hi int) [][]uint32 {
		lists := make([][]uint32, hi-lo)
		for i := range lists {
			list := make([]uint32, min(c.watch, c.watchers-1))
			for j := range list {
				list[j] = uint32((lo + i + j + 1) % c.watchers)
			}
			slices.Sort(list)
			lists[i] = list
		}
		return lists
	},
}

// everybody has each watcher watch all actors.
var everybody = rosters{
	most: func(c cast) int { return c.actors },
	draw: func(c cast, lo, hi int) [][]uint32 {
		list := make([]uint32, c.actors)
		for i := range list {
			list[i] = uint32(c.watchers + i)
		}
		return slices.Repeat([][]uint32{list}, hi-lo)
	},
}

// powerLaw has the i-th actor watched by a number of watchers that falls with i to the
// power of -0.8 (follower counts of social networks have exponents of about that) and is
// c.watch on average, at least 1.
var powerLaw = rosters{
	most: func(c cast) int {
		sum := 0
		for _, n := range c.followers() {
			sum += n
		}
		return (sum + c.watchers - 1) / c.watchers
	},
	draw: func(c cast, lo, hi int) [][]uint32 {
		lists := make([][]uint32, hi-lo)
		first := 0
		for i, n := range c.followers() {
			for j := range n {
				if w := (first + j) % c.watchers; lo <= w && w < hi {
					lists[w-lo] = append(lists[w-lo], uint32(c.watchers+i))
				}
			}
			first = (first + n) % c.watchers // so that watchers have equal lists, as far as may be
		}
		return lists
	},
}

// followers yields each actor, from 0, with how many watch it.
func (c cast) followers() iter.Seq2[int, int] {
	sum := 0.
	for i := range c.actors {
		sum += math.Pow(float64(i+1), -0.8)
	}
	return func(yield func(int, int) bool) {
		for i := range c.actors {
			n := int(math.Round(float64(c.watch) * float64(c.actors) * math.Pow(float64(i+1), -0.8) / sum))
			if !yield(i, min(max(n, 1), c.watchers)) {
				return
			}
		}
	}
}

// wait does nothing.
func wait(ctx context.Context, _ *worker, _, until time.Time) error {
	return sleep(ctx, time.Until(until))
}

// toggle has the actors come and go in turn.
func toggle(ctx context.Context, w *worker, at, until time.Time) error {
	if len(w.actors) == 0 {
		return wait(ctx, w, at, until)
	}
	rate := w.set.Acts * float64(len(w.actors)) / float64(w.set.Actors)
	at = at.Add(time.Duration(float64(w.part.Index) / float64(w.part.Of) / rate * float64(time.Second)))
	return pace(ctx, at, until, rate, func(i int, due time.Time) bool {
		w.toggle(ctx, w.actors[i%len(w.actors)], due)
		return true
	})
}

// toggle has one actor come or go, once its last act is over.
func (w *worker) toggle(ctx context.Context, s *session, due time.Time) {
	goes := online(w.board.slots[s.user].acts.Load())
	for began := time.Now(); ; {
		s.mu.Lock()
		ready := goes && s.phase == opened || !goes && s.phase == closed
		s.mu.Unlock()
		if ready {
			break
		}
		if time.Since(began) > w.patience {
			w.fail(fmt.Errorf("%s neither came nor went for %v", identity(s.user), w.patience))
		}
		if sleep(ctx, time.Millisecond) != nil {
			return
		}
	}
	w.board.begin(s.user, due)
	w.tally.note(func(c *counts) { c.Acts++ })
	if goes {
		s.leave()
	} else {
		w.dial(s, due)
	}
}

// storm cuts all connections, and waits until all sessions are back.
func storm(ctx context.Context, w *worker, at, until time.Time) error {
	if err := sleep(ctx, time.Until(at)); err != nil {
		return err
	}
	cut := time.Now()
	for i, s := range w.watchers {
		s.cut(cut.Add(w.set.Back*time.Duration(i)/time.Duration(len(w.watchers))), false)
	}
	var judging sync.WaitGroup
	defer judging.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // it is over long before if all goes well
	judging.Go(func() { w.excuse(ctx, cut.Add(w.set.Linger-500*time.Millisecond)) })
	if err := w.whole(ctx, cut.Add(w.set.Back)); err != nil {
		return err
	}
	w.tally.note(func(c *counts) { c.BackMS = time.Since(cut).Milliseconds() })
	// what the cut may have left behind shows itself when the lingers would be over
	return sleep(ctx, max(time.Until(until), time.Until(cut.Add(w.set.Linger+w.echo))))
}

// excuse has whoever is away at a time, shortly before the linger is over, perhaps be seen to leave.
func (w *worker) excuse(ctx context.Context, at time.Time) {
	if sleep(ctx, time.Until(at)) != nil {
		return
	}
	for _, s := range w.watchers {
		s.mu.Lock()
		away := s.phase != opened || s.back != 0
		s.mu.Unlock()
		if away {
			w.board.slots[s.user].lenient.Store(1)
			w.tally.note(func(c *counts) { c.Lenient++ })
		}
	}
}

// reload has the watchers' pages loaded again in turn.
func reload(ctx context.Context, w *worker, at, until time.Time) error {
	if len(w.watchers) == 0 {
		return wait(ctx, w, at, until)
	}
	rate := w.set.Acts / float64(w.part.Of)
	err := pace(ctx, at, until, rate, func(i int, due time.Time) bool {
		s := w.watchers[i%len(w.watchers)]
		// times from a twentieth of Back to Back, not in order
		back := w.set.Back * time.Duration(1+i*7%20) / 20
		if s.cut(due.Add(back), true) {
			w.tally.note(func(c *counts) { c.Acts++ })
		}
		return true
	})
	if err != nil {
		return err
	}
	if err := w.whole(ctx, time.Now().Add(w.set.Back)); err != nil {
		return err
	}
	return sleep(ctx, w.set.Linger+w.echo) // as after a storm
}

// Names are the scenarios' names, joined for messages.
func Names() string {
	var names []string
	for _, s := range Scenarios() {
		names = append(names, s.Name)
	}
	return strings.Join(names, ", ")
}
