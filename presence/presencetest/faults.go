package presencetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rollcall-presence/rollcall/presence"
)

// Timers of the nodes, and of their store, while faults are played.
const (
	FaultLease     = 10 * time.Second
	FaultStall     = 5 * time.Second
	faultHeartbeat = 3 * time.Second
	faultLinger    = 5 * time.Second
	faultHandover  = 8 * time.Second
	faultRequest   = 2 * time.Second // what a client waits for
)

// Fault is one step of a random history of whole nodes: Trackers and Directories on
// one store, whose calls are cut, delayed, or carried out without an answer.
type Fault struct {
	Op      string
	Node    int // 0 to 2
	Who     Who // its Session is not used
	Index   int // of the open sessions, one
	How     presence.End
	Link    LinkMode
	On      bool
	Seconds int
}

// LinkMode is how the calls of a node fare on their way to the store.
type LinkMode uint8

// The modes of a link.
const (
	LinkOK   LinkMode = iota
	LinkCut           // a call fails and is not carried out
	LinkMute          // a call is carried out and fails: the answer is lost
	LinkHang          // a call is carried out when the link is better, perhaps long after it was given up
	LinkSlow          // a call takes its time
)

var (
	linkNames = []string{"works", "is cut", "loses all answers", "hangs", "is slow"}
	endNames  = []string{"is lost", "says bye", "is handed over"}
)

func (f Fault) String() string {
	n := stepNodes[f.Node]
	switch f.Op {
	case "open":
		return fmt.Sprintf("%s connects to %s", f.Who.user(), n)
	case "close":
		return fmt.Sprintf("session %d %s", f.Index, endNames[f.How])
	case "wait":
		return fmt.Sprintf("%ds pass", f.Seconds)
	case "link":
		return fmt.Sprintf("link of %s %s", n, linkNames[f.Link])
	case "away":
		return fmt.Sprintf("the store %s", linkNames[f.Link])
	case "deaf":
		return fmt.Sprintf("%s hears events: %v", n, !f.On)
	case "kill", "drain":
		return fmt.Sprintf("%s %s", f.Op, n)
	case "flip":
		return fmt.Sprintf("switch of B: %v", f.On)
	case "delete user":
		return "delete user " + f.Who.user()
	case "end sessions":
		return "operator ends sessions of " + f.Who.user()
	case "lose":
		return "all data are lost"
	case "fail over":
		return "what was written since the snapshot is lost"
	}
	return f.Op // snapshot, delete service
}

var faultOps = []string{
	"open", "open", "open", "close", "close", "wait", "wait", "link", "link", "away", "deaf", "kill", "drain",
	"flip", "delete user", "end sessions", "snapshot", "fail over", "lose", "delete service",
}

func genFault(r *rand.Rand, c cast, op string) Fault {
	f := Fault{Op: op}
	node := func() { f.Node = r.IntN(c.nodes) }
	who := func() { f.Who = Who{Service: r.IntN(c.services), User: r.IntN(c.users)} }
	switch op {
	case "open":
		node()
		who()
	case "close":
		f.Index = r.IntN(10)
		f.How = []presence.End{presence.EndLost, presence.EndClean}[r.IntN(2)]
	case "wait":
		f.Seconds = []int{1, 2, 4, 6, 12, 25}[r.IntN(6)]
	case "link":
		node()
		f.Link = LinkMode(r.IntN(int(LinkSlow) + 1)) //nolint:gosec // small
	case "away":
		f.Link = LinkMode(r.IntN(int(LinkSlow) + 1)) //nolint:gosec // small
	case "deaf":
		node()
		f.On = r.IntN(2) == 0
	case "kill", "drain":
		node()
	case "flip":
		f.On = r.IntN(2) == 0
	case "delete user", "end sessions":
		who()
	}
	return f
}

// truth is a session as its client knows it.
type truth struct {
	key    presence.Key
	node   *faultNode
	opened time.Time // when it was told so
}

// faultNode is a node, from its start to its death.
type faultNode struct {
	id      presence.NodeID
	tracker *presence.Tracker
	dir     *presence.Directory
	stop    func()
	link    *link
	deaf    bool // guarded by cluster.mu
}

// faulty is some nodes on one store, what clients know of their sessions, and what was
// published. It is used in a bubble.
type faulty struct {
	*Harness
	t        *testing.T
	start    time.Time
	nodes    []*faultNode // changed by play alone, under mu
	starts   int
	sessions int
	restore  func()
	services []presence.Service

	mu       sync.Mutex // guards the following
	open     map[presence.SessionID]*truth
	endable  map[presence.SessionID]bool
	deleted  map[presence.Key]bool // a deletion that was not lost, and no wish to connect was carried out since
	last     map[presence.Key]presence.Event
	revs     map[presence.Key]int64
	offline  map[presence.Key]bool // the last event, with nothing since that would excuse another
	lost     bool                  // data, at any time
	flipped  bool                  // service B, at any time
	removed  bool                  // service B, at any time: whoever hears of it late ends its sessions late
	anyBeat  map[presence.Partition]time.Time
	problems []string
	calls    int // that clients wait for
	log      []string
}

// PlayFaults plays a history in a bubble, then mends what is broken, waits for as long
// as the timers promise it takes, and compares the store with what clients know. All
// along no user goes offline who has a session on a node that could say so, no
// departure is told twice, and revisions grow.
func PlayFaults(t *testing.T, open func(*testing.T, func(presence.Event)) *Harness, steps []Fault) (err error) {
	synctest.Test(t, func(t *testing.T) {
		f := &faulty{
			t: t, start: time.Now(), open: map[presence.SessionID]*truth{}, endable: map[presence.SessionID]bool{},
			deleted: map[presence.Key]bool{}, last: map[presence.Key]presence.Event{}, revs: map[presence.Key]int64{},
			offline: map[presence.Key]bool{}, anyBeat: map[presence.Partition]time.Time{},
		}
		f.Harness = open(t, f.hear)
		err = f.run(steps)
	})
	return err
}

func (f *faulty) run(steps []Fault) error {
	ctx := f.t.Context()
	on := true
	for i, linger := range []time.Duration{-1, 0} {
		s, err := f.Store.CreateService(ctx, presence.Service{Account: "AC0", FriendlyName: string(rune('A' + i)), Linger: linger})
		if err == nil {
			s, err = f.Store.UpdateService(ctx, s.SID, presence.ServiceUpdate{Enabled: &on})
		}
		if err != nil {
			return err
		}
		f.services = append(f.services, s)
	}
	f.nodes = make([]*faultNode, len(stepNodes))
	for i := range stepNodes {
		f.startNode(i)
	}
	f.restore = f.Snapshot()
	f.wait(faultHeartbeat)
	var err error
	for i, s := range steps {
		f.note("%d. %v", i+1, s)
		if err = f.play(s); err != nil {
			break
		}
		synctest.Wait()
		if err = f.problem(); err != nil {
			break
		}
	}
	if err == nil {
		err = errors.Join(f.end(), f.problem())
	}
	for _, n := range f.nodes {
		n.stop()
	}
	f.answered()
	if err != nil {
		return fmt.Errorf("%w\nwhat happened:\n  %s", err, strings.Join(f.log, "\n  "))
	}
	return nil
}

func (f *faulty) note(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.noteLocked(format, args...)
}

func (f *faulty) noteLocked(format string, args ...any) {
	f.log = append(f.log, fmt.Sprintf("%6.2fs ", time.Since(f.start).Seconds())+fmt.Sprintf(format, args...))
}

func (f *faulty) problem() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.problems) == 0 {
		return nil
	}
	return errors.New(strings.Join(f.problems, "\n"))
}

// wrong notes what must not be; the caller holds mu.
func (f *faulty) wrong(format string, args ...any) {
	f.problems = append(f.problems, fmt.Sprintf("%6.2fs ", time.Since(f.start).Seconds())+fmt.Sprintf(format, args...))
}

func (f *faulty) wait(d time.Duration) { time.Sleep(d); synctest.Wait() } //nolint:forbidigo // in a bubble

func (f *faulty) key(w Who) presence.Key {
	return presence.Key{Service: f.services[w.Service].SID, Identity: stepIdentities[w.User]}
}

func (f *faulty) name(k presence.Key) string {
	i := slices.IndexFunc(f.services, func(s presence.Service) bool { return s.SID == k.Service })
	return string(rune('A'+i)) + "/" + k.Identity //nolint:gosec // G115: a few
}

// startNode puts a new node in a place where none, or a dead one, was.
func (f *faulty) startNode(i int) {
	n, serve := f.newNode()
	f.mu.Lock()
	f.nodes[i] = n
	f.mu.Unlock()
	serve()
}

func (f *faulty) newNode() (n *faultNode, serve func()) {
	f.starts++
	n = &faultNode{id: presence.NodeID(fmt.Sprint("n", f.starts))}
	n.link = &link{Store: f.Store, f: f, node: n.id, last: map[presence.Partition]time.Time{}, trouble: map[presence.Partition]time.Time{}}
	n.dir = presence.NewDirectory(n.link, faultHeartbeat)
	n.tracker = presence.NewTracker(n.link, n.dir, presence.TrackerOptions{
		Node: n.id, Heartbeat: faultHeartbeat, Linger: faultLinger, Handover: faultHandover, Renew: time.Minute,
		Ended: func(s presence.SessionID) { f.ended(n, s) },
	})
	ctx, cancel := context.WithCancel(f.t.Context())
	var wg sync.WaitGroup
	n.stop = func() { cancel(); wg.Wait() }
	return n, func() {
		wg.Go(func() { _ = n.dir.Serve(ctx) })
		wg.Go(func() { _ = n.tracker.Serve(ctx) })
	}
}

// ended is a node being told to close a session.
func (f *faulty) ended(n *faultNode, s presence.SessionID) {
	f.mu.Lock()
	tr, open := f.open[s]
	if open && !f.endable[s] && (!f.removed || tr.key.Service != f.services[1].SID) {
		f.wrong("%s is told to end a session of %s that nobody ended", n.id, f.name(tr.key))
	}
	delete(f.open, s)
	f.mu.Unlock()
	if open {
		f.async(func() { f.close(s, tr, presence.EndClean) })
	}
}

// async makes a call that a client waits for; the caller does not hold mu. A WaitGroup
// would not do: sessions are told to end while others are waited for.
func (f *faulty) async(call func()) {
	f.mu.Lock()
	f.calls++
	f.mu.Unlock()
	go func() {
		call()
		f.mu.Lock()
		defer f.mu.Unlock()
		f.calls--
	}()
}

// answered waits until no client waits for a call.
func (f *faulty) answered() {
	for {
		synctest.Wait()
		f.mu.Lock()
		calls := f.calls
		f.mu.Unlock()
		if calls == 0 {
			return
		}
		time.Sleep(50 * time.Millisecond) //nolint:forbidigo // in a bubble
	}
}

func (f *faulty) close(s presence.SessionID, tr *truth, how presence.End) {
	ctx, cancel := context.WithTimeout(f.t.Context(), faultRequest)
	defer cancel()
	_ = tr.node.tracker.Close(ctx, tr.key, s, how, time.Now()) // what fails the tracker tells later
}

// sorted are the sessions in the order in which they were made.
func (f *faulty) sorted() []presence.SessionID { return slices.Sorted(maps.Keys(f.open)) }

func (f *faulty) play(s Fault) error {
	ctx := f.t.Context()
	n := f.nodes[s.Node]
	switch s.Op {
	case "open":
		f.connect(n, f.key(s.Who))
	case "close":
		f.mu.Lock()
		var id presence.SessionID
		if list := f.sorted(); len(list) > 0 {
			id = list[s.Index%len(list)]
		}
		tr := f.open[id]
		delete(f.open, id)
		f.mu.Unlock()
		if tr != nil {
			f.async(func() { f.close(id, tr, s.How) })
		}
	case "wait":
		f.wait(time.Duration(s.Seconds) * time.Second)
	case "link":
		n.link.set(s.Link)
	case "away":
		for _, n := range f.nodes {
			n.link.set(s.Link)
		}
	case "deaf":
		f.mu.Lock()
		defer f.mu.Unlock()
		n.deaf = s.On
	case "kill":
		f.stop(n, false)
		f.startNode(s.Node)
	case "drain":
		f.stop(n, true)
		f.startNode(s.Node)
	case "snapshot":
		f.restore = f.Snapshot()
	case "fail over", "lose":
		f.lose(s.Op)
	default:
		return f.operate(ctx, s)
	}
	return nil
}

// connect has a client open a session.
func (f *faulty) connect(n *faultNode, k presence.Key) {
	f.sessions++
	id := presence.SessionID(fmt.Sprintf("%0*d", presence.SessionIDLen, f.sessions))
	f.async(func() {
		ctx, cancel := context.WithTimeout(f.t.Context(), faultRequest)
		defer cancel()
		_, err := n.tracker.Open(ctx, k, id)
		f.mu.Lock()
		if err == nil {
			f.open[id] = &truth{k, n, time.Now()}
		}
		f.mu.Unlock()
	})
}

// stop ends a node: its sessions are lost with it, or are handed over.
func (f *faulty) stop(n *faultNode, drain bool) {
	f.mu.Lock()
	var gone []presence.SessionID
	for _, s := range f.sorted() {
		if f.open[s].node == n {
			gone = append(gone, s)
		}
	}
	lost := map[presence.SessionID]*truth{}
	for _, s := range gone {
		lost[s] = f.open[s]
		delete(f.open, s)
	}
	f.mu.Unlock()
	if drain {
		for _, s := range gone {
			f.close(s, lost[s], presence.EndDrain)
		}
	}
	f.answered() // none of them overlaps the end of the node
	n.stop()
	if drain {
		ctx, cancel := context.WithTimeout(f.t.Context(), faultRequest)
		defer cancel()
		_ = n.tracker.Leave(ctx) // else its lease lapses
	}
	// clients that were just let in
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.DeleteFunc(f.open, func(_ presence.SessionID, tr *truth) bool { return tr.node == n })
}

// lose has the store lose its data, which takes it two seconds.
func (f *faulty) lose(op string) {
	was := make([]LinkMode, len(f.nodes))
	for i, n := range f.nodes {
		was[i] = n.link.set(LinkCut)
	}
	f.wait(2 * time.Second)
	if op == "lose" {
		f.Wipe()
	} else {
		f.restore()
	}
	f.mu.Lock()
	f.lost = true
	clear(f.deleted)
	clear(f.offline)
	f.mu.Unlock()
	for i, n := range f.nodes {
		n.link.lost()
		n.link.set(was[i])
	}
}

// operate is what an operator does, on a node that is none of these.
func (f *faulty) operate(ctx context.Context, s Fault) error {
	k := f.key(s.Who)
	b := f.services[1].SID
	excuse := func(which func(presence.Key) bool) {
		f.mu.Lock()
		defer f.mu.Unlock()
		for id, tr := range f.open {
			f.endable[id] = f.endable[id] || which(tr.key)
		}
	}
	var err error
	switch s.Op {
	case "flip":
		if _, err = f.Store.UpdateService(ctx, b, presence.ServiceUpdate{Enabled: &s.On}); err == nil {
			f.mu.Lock()
			f.flipped = true
			f.mu.Unlock()
			f.tell(b)
			f.wait(time.Second) // revisions run ahead of the clock by a second a flip
		}
	case "delete service":
		f.answered()
		f.mu.Lock()
		f.removed = true
		f.mu.Unlock()
		if err = f.Store.DeleteService(ctx, b); err == nil {
			f.tell(b)
			f.wake()
		}
	case "delete user":
		f.answered()
		excuse(func(o presence.Key) bool { return o == k })
		if err = f.Store.DeleteUser(ctx, k); err == nil {
			f.mu.Lock()
			f.deleted[k] = !f.unheardLocked(k)
			f.mu.Unlock()
			f.wake()
		}
	case "end sessions":
		f.answered()
		var service presence.Service
		if service, err = f.Store.Service(ctx, k.Service); err == nil {
			excuse(func(o presence.Key) bool { return o == k })
			_, err = f.Store.EndSessions(ctx, k, service, "")
			f.wake()
		}
	}
	if errors.Is(err, presence.ErrNoUser) || errors.Is(err, presence.ErrNoService) {
		return nil // lost, or deleted already
	}
	return err
}

// unheardLocked reports whether a session of k is open that the store may have lost with its data: no deletion
// reaches it, and its node will register it, and its user, anew.
func (f *faulty) unheardLocked(k presence.Key) bool {
	for _, tr := range f.open {
		if f.lost && tr.key == k && !tr.node.link.reliable(f.Store.Partition(k)) {
			return true
		}
	}
	return false
}

// listeners are the nodes that events reach.
func (f *faulty) listeners() (list []*faultNode) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range f.nodes {
		if !n.deaf && n.link.mode() == LinkOK {
			list = append(list, n)
		}
	}
	return list
}

func (f *faulty) tell(service string) {
	for _, n := range f.listeners() {
		n.dir.Changed(service)
	}
	synctest.Wait()
}

func (f *faulty) wake() {
	for _, n := range f.listeners() {
		for q := range f.Store.Partitions() {
			n.tracker.Wake(presence.Partition(q))
		}
	}
	synctest.Wait()
}

// hear is called with each event, when it is published.
func (f *faulty) hear(e presence.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	k := e.User.Key
	f.noteLocked("    published: %s online=%v rev=%d deleted=%v", f.name(k), e.User.Online, e.User.Rev, e.Deleted)
	if e.User.Rev <= f.revs[k] && (!f.removed || k.Service != f.services[1].SID) { // of a service deleted nobody sees it
		f.wrong("%s: revision %d after %d", f.name(k), e.User.Rev, f.revs[k])
	}
	f.revs[k] = e.User.Rev
	f.last[k] = e
	off := !e.Deleted && e.User.Online == presence.False && e.Reasons&presence.ReasonOnline != 0
	if off && f.offline[k] && (!f.flipped || k.Service != f.services[1].SID) { // who comes while it is off comes silently
		f.wrong("%s: its departure is told twice", f.name(k))
	}
	f.offline[k] = off
	if !off {
		return
	}
	q := f.Store.Partition(k)
	for _, s := range f.sorted() {
		tr := f.open[s]
		if tr.key == k && !f.endable[s] && (!f.removed || k.Service != f.services[1].SID) && tr.opened.Before(time.Now()) && tr.node.link.reliable(q) {
			f.wrong("%s is offline while its session %s is open on %s", f.name(k), strings.TrimLeft(string(s), "0"), tr.node.id)
		}
	}
}

// end mends everything, waits, and compares.
func (f *faulty) end() error {
	ctx := f.t.Context()
	f.mu.Lock()
	for _, n := range f.nodes {
		n.deaf = false
	}
	f.mu.Unlock()
	for _, n := range f.nodes {
		n.link.set(LinkOK)
	}
	f.answered()
	// what was owed, a stray that lingers, a node whose lease lapses, one beat each
	f.wait(FaultLease + max(faultHandover, faultLinger) + 4*faultHeartbeat)
	f.answered()
	f.wait(faultLinger + faultHeartbeat)

	f.mu.Lock()
	defer f.mu.Unlock()
	var all []error
	for i, service := range f.services {
		now, err := f.Store.Service(ctx, service.SID)
		gone := errors.Is(err, presence.ErrNoService)
		if err != nil && !gone {
			return err
		}
		for u := range stepIdentities {
			all = append(all, f.compare(ctx, f.key(Who{Service: i, User: u}), now, gone))
		}
	}
	for _, n := range f.nodes {
		held := 0
		for _, tr := range f.open {
			if tr.node == n {
				held++
			}
		}
		if st := n.tracker.Stats(); st.Sessions != int64(held) || st.Owed != 0 {
			all = append(all, fmt.Errorf("%s holds %d sessions and owes %d ends; want %d and none", n.id, st.Sessions, st.Owed, held))
		}
	}
	return errors.Join(all...)
}

// compare is about one user, at the end. The caller holds mu.
func (f *faulty) compare(ctx context.Context, k presence.Key, service presence.Service, gone bool) error {
	users, err := f.Store.ReadUsers(ctx, []presence.Key{k})
	if err != nil {
		return err
	}
	got, err := f.Store.UserSessions(ctx, k)
	if err != nil {
		return err
	}
	var want []presence.UserSession
	for _, s := range f.sorted() {
		if tr := f.open[s]; tr.key == k {
			want = append(want, presence.UserSession{ID: s, Node: tr.node.id})
		}
	}
	u := users[0]
	online := presence.False
	if len(want) > 0 {
		online = presence.True
	}
	name := "at the end " + f.name(k)
	last, told := f.last[k]
	switch {
	case !slices.Equal(got, want):
		return fmt.Errorf("%s has sessions %v; want %v", name, got, want)
	case gone && (u.SID != "" && !f.lost || len(want) > 0): // whom the data were lost of may be left
		return fmt.Errorf("%s is there, its service is not", name)
	case len(want) > 0 && u.Online != presence.True, len(want) == 0 && u.Online == presence.True:
		return fmt.Errorf("%s is online=%v with %d sessions", name, u.Online, len(want))
	case online == presence.True && service.Enabled && u.Epoch != service.Epoch:
		return fmt.Errorf("%s is online under epoch %d; want %d", name, u.Epoch, service.Epoch)
	case f.deleted[k] && u.SID != "":
		return fmt.Errorf("%s was deleted, nobody connected as it since, and it is there", name)
	case f.lost || f.services[0].SID != k.Service || u.SID == "":
		return nil // what subscribers have of it is read again, or null
	case !told, last.User.Rev != u.Rev, last.User.Online != u.Online:
		return fmt.Errorf("%s is online=%v at revision %d; the last event told %v at %d", name, u.Online, u.Rev, last.User.Online, last.User.Rev)
	}
	return nil
}

// Faults plays random histories of faults.
func Faults(t *testing.T, o Histories, open func(*testing.T, func(presence.Event)) *Harness) {
	randomly(t, o, faultOps, genFault, func(steps []Fault) error { return PlayFaults(t, open, steps) })
}
