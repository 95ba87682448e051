package faults

import (
	"context"
	"flag"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/internal/testkit/rig"
)

var (
	full   = flag.Bool("full", false, "run the faults in full: the default timers, hundreds of users, one fault after the other")
	seed   = flag.Uint64("seed", 0, "repeat the churn of the run that printed this seed; 0: another each time")
	report = flag.String("report", "", "write a row for each fault that was run and withstood into this file, between its markers")
)

func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		_ = f.Value.Set("4") // scenarios mostly wait
	}
	code := rig.Run(m)
	if *report != "" {
		if err := writeReport(*report); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// Scenario is one fault under steady churn.
type Scenario struct {
	Name       string // what is done, as it stands in the report: "kill -9 of a node"
	Guarantees string // which guarantees it tries to break: "G1, G5"
	Bound      string // what is allowed to be seen, in words, for the report

	// Store is what the nodes share. Default: one redis-server.
	Store func(t testing.TB) Store
	// Timers of the nodes and the checker. What is zero is the default of the run: the program's own in full, shorter
	// ones in short.
	Timers Timers
	// Env is further environment of all nodes.
	Env []string
	// Users is how many come and go. Default 300 in full, 90 in short.
	Users int
	// Steady are users of them that stay connected unless the fault cuts them off. Default a fifth.
	Steady int
	// Spare are users beside those, whom nobody connects but the fault.
	Spare int
	// Faithful users always come back when they are cut off. By default a third does not, but for the steady ones.
	Faithful bool
	// Balanced clients all connect through the balancer. By default half of them do.
	Balanced bool
	// Nodes is how many there are. Default 3.
	Nodes int
	// Start starts node i with the environment of all. Default rig.Start.
	Start func(w *World, i int, env []string) *rig.Node

	// Fault does it, while users come and go. It returns when what it broke works again; w's methods tell the checker
	// what is allowed to be seen meanwhile.
	Fault func(w *World)
	// After is looked at when the checker has passed: what only this scenario promises. May be nil.
	After func(w *World)
}

// Store is what nodes share.
type Store struct {
	// URL is where node i, counted from 0, finds it; nodes that are started again find it at the same place.
	URL func(i int) string
	// Redis is the server, where there is just one.
	Redis *testkit.Server
}

// One is a Store of one server.
func One(s *testkit.Server) Store {
	return Store{URL: func(int) string { return "redis://" + s.Addr }, Redis: s}
}

// run runs the scenario as a subtest's body.
func (s Scenario) run(t *testing.T) {
	if !*full {
		t.Parallel()
	}
	began := *seed
	if began == 0 {
		began = rand.Uint64N(1 << 32)
	}
	name := fnv.New64a()
	_, _ = name.Write([]byte(s.Name))
	r := result{Scenario: s}
	defer func() { results.add(r, t.Failed()) }()
	w := s.world(t, rand.New(rand.NewPCG(began, name.Sum64())))
	t.Logf("seed %d", began)
	start := time.Now()

	w.Elapse(w.pick(2*time.Second, 5*time.Second))
	watching, quit := context.WithCancel(t.Context())
	var stalls sync.WaitGroup
	stalls.Go(func() { w.stalls(watching) })
	defer stalls.Wait()
	defer quit()
	s.Fault(w)
	w.Elapse(w.pick(4*time.Second, 10*time.Second))
	w.churn.stop()
	w.settle()
	quit()
	stalls.Wait()
	w.watchers.stop()
	h := w.Rec.History()
	took := time.Since(start)

	verdict := Check(h, w.rules)
	for _, v := range verdict.Violations[:min(len(verdict.Violations), 5)] {
		var b strings.Builder
		Shrink(h, w.rules, v).Print(&b)
		b.WriteString("all of that user:\n")
		h.of(v).Print(&b)
		t.Errorf("seed %d, %s: %s\nthe shortest history that shows it:\n%s", began, s.Name, v, b.String())
	}
	if n := len(verdict.Violations); n > 5 {
		t.Errorf("and %d more", n-5)
	}
	t.Logf("%s", verdict.Summary())
	if t.Failed() {
		for i, n := range w.Nodes {
			m := n.Metrics()
			t.Logf("node %d: %v partitions lost, %v heartbeats failed, %v found a stall, %v sessions reaped", i, m["rollcall_lost_partitions_total"],
				m[`rollcall_lease_renewals_total{outcome="failed"}`], m["rollcall_stalls_total"], m["rollcall_reaped_sessions_total"])
		}
	}
	if s.After != nil {
		s.After(w)
	}
	r.users, r.nodes, r.took, r.seed, r.verdict, r.saw = w.users, len(w.Nodes), took, began, verdict, w.saw
}

// world makes what the scenario runs in.
func (s Scenario) world(t *testing.T, random *rand.Rand) *World {
	t.Helper()
	timers := s.Timers.or(shortTimers)
	if *full {
		timers = s.Timers.or(defaultTimers)
	}
	w := &World{T: t, Rand: random, Timers: timers, rules: Rules{Timers: timers}, balanced: s.Balanced}
	w.users = s.Users
	if w.users == 0 {
		w.users = 90
		if *full {
			w.users = 300
		}
	}
	store := s.Store
	if store == nil {
		store = func(t testing.TB) Store { return One(testkit.Redis(t)) }
	}
	w.Store = store(t)
	w.env = append([]string{
		"ROLLCALL_LINGER=" + timers.Linger.String(), "ROLLCALL_LEASE_TTL=" + timers.Lease.String(),
		"ROLLCALL_HEARTBEAT=" + timers.Heartbeat.String(), "ROLLCALL_DRAIN_TIMEOUT=" + timers.Drain.String(),
	}, s.Env...)
	count := s.Nodes
	if count == 0 {
		count = 3
	}
	w.start = s.Start
	if w.start == nil {
		w.start = func(w *World, i int, env []string) *rig.Node { return rig.Start(w, w.Store.URL(i), env...) }
	}
	for i := range count {
		w.Nodes = append(w.Nodes, w.start(w, i, w.env))
	}
	w.Balancer = rig.Balance(t, w.Nodes...)
	w.Service = w.Nodes[0].NewService()
	w.Elapse(1200 * time.Millisecond) // until the clock has caught up with the revisions: to turn the switch on put them a second ahead
	w.Rec = NewRecorder()
	steady := s.Steady
	if steady == 0 {
		steady = w.users / 5
	}
	for i := range w.users {
		w.Identities = append(w.Identities, fmt.Sprintf("u%03d", i))
	}
	w.steady, w.coming = w.Identities[:steady], w.Identities[steady:]
	for i := range s.Spare {
		w.Spare = append(w.Spare, fmt.Sprintf("s%03d", i))
	}
	w.Identities = append(w.Identities, w.Spare...)
	w.watchers = startWatchers(w)
	w.churn = newChurn(w, s.Faithful)
	return w
}

// World is what a fault may break, and how it tells the checker what it did. Its methods may be called by any
// goroutine of the fault.
type World struct {
	*testing.T
	Nodes      []*rig.Node // replaced by Restart; guarded by mu where another goroutine replaces them
	Balancer   *rig.Balancer
	Store      Store
	Rand       *rand.Rand // the fault's own; not for use by several goroutines
	Service    string
	Identities []string // of all users
	Spare      []string // of them, those that are the fault's own
	Timers     Timers
	Rec        *Recorder

	env      []string
	start    func(w *World, i int, env []string) *rig.Node
	users    int
	steady   []string // users that only the fault cuts off
	coming   []string // users that come and go
	balanced bool
	churn    *churn
	watchers *watchers

	mu    sync.Mutex // guards the following
	rules Rules
	saw   []string
}

// Full tells whether the run is a full one.
func (w *World) Full() bool { return *full }

func (w *World) pick(short, long time.Duration) time.Duration {
	if *full {
		return long
	}
	return short
}

// Note records what is done, in words. Printed with a violation.
func (w *World) Note(format string, args ...any) time.Duration {
	what := fmt.Sprintf(format, args...)
	w.Logf("%+8.3fs %s", w.Rec.Now().Seconds(), what)
	return w.Rec.Add(Entry{Kind: Fault, What: what})
}

// Saw adds to what the report says was seen.
func (w *World) Saw(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.saw = append(w.saw, fmt.Sprintf(format, args...))
}

// Elapse lets d go by, while users come and go.
func (w *World) Elapse(d time.Duration) { rig.Elapse(w, d) }

// Excuse allows a rule to be broken in a window of time: what the product does not promise. It is said in the report.
func (w *World) Excuse(e Excuse) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rules.Excuses = append(w.rules.Excuses, e)
}

// Gaps says that messages between the nodes are lost; see Rules.Gaps.
func (w *World) Gaps() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rules.Gaps = true
}

// Slack sets what is added to each bound; 3 s if it is not called.
func (w *World) Slack(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rules.Slack = d
}

// Away says that nothing could be told from one time to another: what was due then, or would have been due soon
// after, is due late.
func (w *World) Away(a Away) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rules.Away = append(w.rules.Away, a)
}

// Node is node i as it is now.
func (w *World) Node(i int) *rig.Node {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.Nodes[i]
}

// Restart starts a node in place i, which is down, with further environment.
func (w *World) Restart(i int, env ...string) {
	n := w.start(w, i, append(slices.Clone(w.env), env...))
	w.mu.Lock()
	w.Nodes[i] = n
	w.mu.Unlock()
	w.Balancer.Set(i, n)
	w.Note("node %d serves again", i)
}

// nodeFails tells the checker that a node will not notice all that it should.
func (w *World) nodeFails() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rules.NodeFails = true
}

// Kill kills node i as kill -9 does.
func (w *World) Kill(i int) time.Duration {
	w.nodeFails()
	defer w.Node(i).Kill()
	return w.Note("node %d is killed", i)
}

// Suspend stops node i as SIGSTOP does, and Continue continues it.
func (w *World) Suspend(i int) time.Duration {
	w.nodeFails()
	defer w.Node(i).Signal(syscall.SIGSTOP)
	return w.Note("node %d is stopped (SIGSTOP)", i)
}

// Continue continues a suspended node.
func (w *World) Continue(i int) time.Duration {
	w.Node(i).Signal(syscall.SIGCONT)
	return w.Note("node %d is continued", i)
}

// Flip turns the switch on a node, and tells the checker.
func (w *World) Flip(i int, on bool) {
	if !on {
		w.Rec.Add(Entry{Kind: Off})
	}
	w.Node(i).Flip(w.Service, on)
	if on {
		w.Rec.Add(Entry{Kind: On})
	}
}
