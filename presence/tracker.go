package presence

import (
	"container/heap"
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// TrackerOptions tunes a Tracker. Node is required; the rest of the zero value is
// ready for use.
type TrackerOptions struct {
	Node NodeID
	// Heartbeat is the time between two heartbeats of a partition. Default 3s; at
	// most a third of the store's lease.
	Heartbeat time.Duration
	// Linger is the grace time of services that have none of their own. Default 10s.
	Linger time.Duration
	// Handover is how long users linger whose sessions this node gives up when it
	// goes away: long enough for their clients to come back. Default 20s.
	Handover time.Duration
	// Renew is the time after which sessions are registered anew, and what the store
	// has of them is compared. Default 5m, half of the online state's lifetime.
	Renew time.Duration
	// Ended is called for a session that was ended by an operator and must be closed.
	// It may be called more than once for one session, and must not block.
	Ended func(SessionID)
	// Beat is called after each heartbeat of a partition with the state of its event
	// counter. It must not block.
	Beat func(p Partition, run string, seq uint64)
	// Departed is called for each offline transition that this node published, once the
	// store has answered. It must not block.
	Departed func(Departure)
	// Webhooks is called after each heartbeat of a partition: whether this node is to
	// deliver its webhooks, and how long until there is one to deliver, negative if
	// there is none. It must not block.
	Webhooks func(p Partition, mine bool, next time.Duration)
}

const (
	// registerChunk bounds the sessions that one script registers, and so how long
	// it keeps Redis from others: about 1.5 ms where nothing changes, 5 ms for users that
	// are new, and twice that with webhooks to queue (measured, redis 7.0).
	registerChunk = 100
	// beatGroups is how many pipelines a round of heartbeats is spread over.
	beatGroups = 16
	// urgentWorkers bounds the partitions that are served out of turn at one time.
	urgentWorkers = 8
	// lingerSlack is how long after its due time a linger is settled at the earliest,
	// and lingerSlot the time whose lingers of one partition are settled together, so
	// that many sessions lost at once cost few heartbeats.
	lingerSlack, lingerSlot = 20 * time.Millisecond, 50 * time.Millisecond
	// endChunk bounds the ends of sessions that one script is told of.
	endChunk = 100
)

// Tracker keeps the store's record of one node's sessions true: it registers and
// ends them, renews the node's leases, reaps what other nodes left behind, settles
// lingers, and registers its sessions anew when the store has lost them.
//
// While the store cannot be reached nobody is declared anything: sessions stay held,
// ends are remembered and told when it is back.
type Tracker struct {
	store Store
	dir   *Directory
	opt   TrackerOptions
	parts []part
	stats trackerStats

	urgent chan Partition // to be served out of turn

	mu      sync.Mutex // guards the following
	lingers dueHeap
	wake    chan struct{} // told when lingers has a new first
}

// part is what the tracker knows of one partition.
type part struct {
	mu     sync.Mutex // guards the following
	held   map[SessionID]held
	owed   map[SessionID]Ended // ends that the store has not confirmed yet
	dirty  bool                // held is to be registered anew
	lost   bool                // and nobody knows for how long: services may have been deleted since
	unsure bool                // what the store has is to be compared with held
	renew  time.Time           // when held is to be registered anew anyway
	queued bool                // is in urgent
	// Operations of this node as the store counts them: the highest count seen, and
	// how many were answered. Where the two differ while none is under way, one was
	// carried out that was given up here.
	ops, answered int64
	started       int64 // operations ever begun
	flying        int   // of those, under way
	// registering is closed when the registering anew that runs now is over. An end
	// waits for it, lest it be overtaken and the session come back to life.
	registering chan struct{}
	serving     chan struct{} // lock: one heartbeat at a time
}

type held struct {
	key Key
	sid string // of the user
}

type trackerStats struct {
	online, reasserted, offlineClean, offlineLinger, offlineLease, lingering atomic.Int64
	beats, beatErrors, reaped, lost, stalls, registered                      atomic.Int64
	sessions, owed, expired                                                  atomic.Int64
	lastBeat                                                                 atomic.Int64 // UnixNano
}

// TrackerStats counts what a Tracker did since it was made.
type TrackerStats struct {
	// Transitions that this node published, by kind and cause.
	OnlineConnect, OnlineReassert, OfflineClean, OfflineLinger, OfflineLease int64
	Lingering                                                                int64 // lingers begun
	Beats, BeatErrors                                                        int64 // heartbeats of one partition
	Reaped                                                                   int64 // sessions of lapsed nodes
	Lost                                                                     int64 // partitions in which the store had lost this node
	Stalls                                                                   int64 // heartbeats that found that nobody had beaten for long
	Registered                                                               int64 // sessions registered anew
	Sessions, Owed                                                           int64 // held now; ends not told yet
	Expired                                                                  int64 // push bindings that this node removed as expired
	LastBeat                                                                 time.Time
}

// Stats returns the counters; it may be called at any time.
func (t *Tracker) Stats() TrackerStats {
	s := &t.stats
	st := TrackerStats{
		OnlineConnect: s.online.Load(), OnlineReassert: s.reasserted.Load(), OfflineClean: s.offlineClean.Load(),
		OfflineLinger: s.offlineLinger.Load(), OfflineLease: s.offlineLease.Load(), Lingering: s.lingering.Load(),
		Beats: s.beats.Load(), BeatErrors: s.beatErrors.Load(), Reaped: s.reaped.Load(), Lost: s.lost.Load(),
		Stalls: s.stalls.Load(), Registered: s.registered.Load(), Sessions: s.sessions.Load(), Owed: s.owed.Load(), Expired: s.expired.Load(),
	}
	if n := s.lastBeat.Load(); n != 0 {
		st.LastBeat = time.Unix(0, n)
	}
	return st
}

// NewTracker returns a Tracker, which does nothing before Serve. It watches dir for
// flips of the switch.
func NewTracker(store Store, dir *Directory, opt TrackerOptions) *Tracker {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&opt.Heartbeat, 3*time.Second)
	def(&opt.Linger, 10*time.Second)
	def(&opt.Handover, 20*time.Second)
	def(&opt.Renew, 5*time.Minute)
	t := &Tracker{
		store: store, dir: dir, opt: opt, parts: make([]part, store.Partitions()),
		urgent: make(chan Partition, store.Partitions()), wake: make(chan struct{}, 1),
	}
	for i := range t.parts {
		t.parts[i].serving = make(chan struct{}, 1)
		t.parts[i].renew = t.nextRenew()
	}
	dir.Watch(t.serviceChanged)
	return t
}

// Partition is the partition of the store that user k is in.
func (t *Tracker) Partition(k Key) Partition { return t.store.Partition(k) }

// Open records session s of user k and returns the user, created if it is new, once
// the store has both: from then on the user is online, and stays so while this
// node's lease is renewed. It fails with ErrNoService, ErrEnded if the session was
// ended already, or KindUnavailable; the session is then not held. Open may be
// called by any goroutine; calls for one session must not overlap.
func (t *Tracker) Open(ctx context.Context, k Key, s SessionID) (User, error) {
	q := t.store.Partition(k)
	p := &t.parts[q]
	// Held before the service is read: a flip of the switch either is in what is
	// read here, or finds the session.
	p.mu.Lock()
	if p.held == nil {
		p.held = map[SessionID]held{}
	}
	p.held[s] = held{key: k}
	p.mu.Unlock()
	t.stats.sessions.Add(1)

	service, err := t.dir.Service(ctx, k.Service)
	if err != nil {
		t.drop(p, s)
		return User{}, err
	}
	var u User
	r, err := t.operate(p, func() (r Registered, err error) {
		r, u, err = t.store.Open(ctx, q, t.opt.Node, Held{Key: k, ID: s, Service: service})
		return r, err
	})
	if err != nil {
		t.drop(p, s)
		return User{}, err
	}
	switch r.Outcomes[0] {
	case Refused:
		t.drop(p, s)
		return User{}, ErrEnded
	case Changed:
		t.stats.online.Add(1)
	case Unchanged, Lingering:
	}
	p.mu.Lock()
	if h, ok := p.held[s]; ok {
		h.sid = u.SID
		p.held[s] = h
	}
	p.mu.Unlock()
	return u, nil
}

// Ensure returns user k, created if it is new, without making it online. It fails
// as Open does.
func (t *Tracker) Ensure(ctx context.Context, k Key) (User, error) {
	service, err := t.dir.Service(ctx, k.Service)
	if err != nil {
		return User{}, err
	}
	return t.store.EnsureUser(ctx, k, service)
}

// Close records that session s of user k ended, at the time left as well as is known.
// It is idempotent, and does nothing for a session that is not held. On an error the
// tracker itself tells the store later.
func (t *Tracker) Close(ctx context.Context, k Key, s SessionID, how End, left time.Time) error {
	q := t.store.Partition(k)
	p := &t.parts[q]
	e := t.ended(k, s, how, left)
	p.mu.Lock()
	if _, ok := p.held[s]; !ok {
		p.mu.Unlock()
		return nil
	}
	delete(p.held, s)
	if p.owed == nil {
		p.owed = map[SessionID]Ended{}
	}
	p.owed[s] = e
	p.mu.Unlock()
	t.stats.sessions.Add(-1)
	t.stats.owed.Add(1)
	err := t.end(ctx, q, []Ended{e})
	if err == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if e, ok := p.owed[s]; ok {
		e.How = EndAway
		p.owed[s] = e
	}
	return err
}

// ended is the end of a session as the store is told of it.
func (t *Tracker) ended(k Key, s SessionID, how End, left time.Time) Ended {
	service, _ := t.dir.Cached(k.Service)
	if service.SID == "" { // deleted meanwhile
		service.SID, service.Linger = k.Service, -1
	}
	e := Ended{Key: k, ID: s, Service: service, How: how, Left: left}
	switch {
	case how == EndDrain:
		e.Linger = max(service.LingerOr(t.opt.Linger), t.opt.Handover)
	case !how.AtOnce():
		e.Linger = service.LingerOr(t.opt.Linger)
	}
	return e
}

// end tells the store of ends, after a registering anew that may hold them still.
// What it takes is not owed any longer. To tell of an end twice changes nothing.
func (t *Tracker) end(ctx context.Context, q Partition, ends []Ended) error {
	p := &t.parts[q]
	p.mu.Lock()
	registering := p.registering
	p.mu.Unlock()
	if registering != nil {
		select {
		case <-registering:
		case <-ctx.Done():
			return &Error{Op: "end", Kind: KindUnavailable, Err: ctx.Err()}
		}
	}
	for chunk := range slices.Chunk(ends, endChunk) {
		r, err := t.operate(p, func() (Registered, error) { return t.store.End(ctx, q, t.opt.Node, chunk) })
		if err != nil {
			return err
		}
		p.mu.Lock()
		before := len(p.owed)
		for _, e := range chunk {
			delete(p.owed, e.ID)
		}
		t.stats.owed.Add(int64(len(p.owed) - before))
		p.mu.Unlock()
		for i, o := range r.Outcomes {
			switch o {
			case Changed:
				t.stats.offlineClean.Add(1)
				t.departed(Departure{chunk[i].How, time.Since(chunk[i].Left)})
			case Lingering:
				t.stats.lingering.Add(1)
				t.settleAt(time.Now().Add(chunk[i].Linger+lingerSlack), q)
			case Unchanged, Refused:
			}
		}
	}
	return nil
}

func (t *Tracker) departed(d Departure) {
	if t.opt.Departed != nil {
		t.opt.Departed(d)
	}
}

// drop forgets a session that could not be opened. The store may have it all the
// same, or a registering anew may have told it.
func (t *Tracker) drop(p *part, s SessionID) {
	p.mu.Lock()
	_, ok := p.held[s]
	delete(p.held, s)
	p.unsure = true
	p.mu.Unlock()
	if ok {
		t.stats.sessions.Add(-1)
	}
}

// operate carries out an operation that the store counts, and takes note of the
// count. On an error nothing is known: it may have happened, or may yet.
func (t *Tracker) operate(p *part, op func() (Registered, error)) (Registered, error) {
	p.mu.Lock()
	before := p.ops
	p.started++
	p.flying++
	p.mu.Unlock()
	r, err := op()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flying--
	if err != nil {
		p.unsure = true
		return Registered{}, err
	}
	p.answered++
	if r.Ops <= before {
		t.lostLocked(p, r.Ops)
	}
	p.ops = max(p.ops, r.Ops)
	return r, nil
}

// lostLocked: the store has reaped this node, or lost what it was told.
func (t *Tracker) lostLocked(p *part, ops int64) {
	t.stats.lost.Add(1)
	p.ops, p.answered = ops, ops
	p.dirty, p.lost = true, true
}

// nextRenew spreads renewals, so that partitions which were registered together are
// not renewed together.
func (t *Tracker) nextRenew() time.Time {
	half := t.opt.Renew / 2
	return time.Now().Add(half + rand.N(half)) //nolint:gosec // G404: jitter is no secret
}

// serviceChanged has every partition with sessions of a service that was switched
// on served out of turn, which registers them anew, under the new epoch.
func (t *Tracker) serviceChanged(was, is Service, exists bool) {
	// The epoch alone does not tell: it is the same where a failover lost that the service
	// was switched off.
	if exists && (!is.Enabled || was.Enabled && is.Epoch == was.Epoch) {
		return
	}
	var all []SessionID
	for q := range t.parts {
		p := &t.parts[q]
		p.mu.Lock()
		found := false
		for s, h := range p.held {
			if h.key.Service == was.SID {
				found = true
				if !exists {
					all = append(all, s)
				}
			}
		}
		if found && exists {
			p.dirty = true
		}
		p.mu.Unlock()
		if found && exists {
			t.serveSoon(Partition(q))
		}
	}
	if t.opt.Ended != nil {
		for _, s := range all {
			t.opt.Ended(s)
		}
	}
}

// Wake has a partition served out of turn if sessions of it are held here: some of
// them are to be ended. It does not block.
func (t *Tracker) Wake(q Partition) {
	p := &t.parts[q]
	p.mu.Lock()
	holds := len(p.held) > 0
	p.mu.Unlock()
	if holds {
		t.serveSoon(q)
	}
}

func (t *Tracker) serveSoon(q Partition) {
	p := &t.parts[q]
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.queued {
		p.queued = true
		t.urgent <- q // has room for every partition
	}
}

// Serve beats until ctx ends. Before the first round is over, users of nodes that
// died while no node ran are still shown as they were.
func (t *Tracker) Serve(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for range urgentWorkers {
		wg.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case q := <-t.urgent:
					p := &t.parts[q]
					p.mu.Lock()
					p.queued = false
					p.mu.Unlock()
					t.beat(ctx, []Partition{q}, true)
				}
			}
		})
	}
	wg.Go(func() { t.settle(ctx) })

	groups := make([][]Partition, min(beatGroups, len(t.parts)))
	for q := range t.parts {
		g := q % len(groups)
		groups[g] = append(groups[g], Partition(q))
	}
	ticker := time.NewTicker(t.opt.Heartbeat / time.Duration(len(groups)))
	defer ticker.Stop()
	for i := 0; ; i++ {
		group := groups[i%len(groups)]
		wg.Go(func() { t.beat(ctx, group, false) })
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// beat sends the heartbeat of partitions and does what follows from the answers.
// Partitions whose heartbeat is under way already are left out, or waited for.
func (t *Tracker) beat(ctx context.Context, group []Partition, wait bool) {
	ps := make([]Partition, 0, len(group))
	before := make([]opCount, 0, len(group))
	for _, q := range group {
		p := &t.parts[q]
		select {
		case p.serving <- struct{}{}:
		default:
			if !wait {
				continue
			}
			select {
			case p.serving <- struct{}{}:
			case <-ctx.Done():
				continue
			}
		}
		defer func() { <-p.serving }()
		p.mu.Lock()
		ps, before = append(ps, q), append(before, opCount{p.ops, p.started, p.flying == 0})
		p.mu.Unlock()
	}
	if len(ps) == 0 {
		return
	}
	// Of the work that follows, as of the heartbeat itself, what takes longer than a
	// heartbeat is left to the next.
	ctx, cancel := context.WithTimeout(ctx, t.opt.Heartbeat)
	defer cancel()
	beats, errs := t.store.Beat(ctx, ps, t.opt.Node)
	for i, q := range ps {
		if errs[i] != nil {
			t.stats.beatErrors.Add(1)
			continue
		}
		t.beaten(ctx, q, before[i], beats[i])
	}
}

// opCount is what was known of this node's operations when a heartbeat was sent.
type opCount struct {
	ops, started int64
	quiet        bool // none was under way
}

func (t *Tracker) beaten(ctx context.Context, q Partition, before opCount, b Beat) {
	t.stats.beats.Add(1)
	t.stats.lastBeat.Store(time.Now().UnixNano())
	t.stats.reaped.Add(int64(b.Reaped))
	t.stats.offlineLease.Add(int64(b.OfflineByLease))
	t.stats.offlineLinger.Add(int64(b.OfflineByLinger))
	if b.Stalled > 0 {
		t.stats.stalls.Add(1)
	}
	for _, d := range b.Departed {
		t.departed(d)
	}
	if t.opt.Beat != nil {
		t.opt.Beat(q, b.Run, b.Seq)
	}
	if t.opt.Webhooks != nil {
		t.opt.Webhooks(q, b.Delivers, b.Webhooks)
	}
	if t.opt.Ended != nil {
		for _, s := range b.End {
			t.opt.Ended(s)
		}
	}
	if b.Due > 0 || b.Bindings > ExpireChunk {
		t.serveSoon(q)
	}
	p := &t.parts[q]
	p.mu.Lock()
	if b.Ops < before.ops {
		t.lostLocked(p, b.Ops)
	} else if before.quiet && before.started == p.started && b.Ops != p.answered {
		p.ops, p.answered, p.unsure = b.Ops, b.Ops, true
	}
	anew := p.dirty || len(p.held) > 0 && !time.Now().Before(p.renew)
	unsure := p.unsure
	owed := slices.Collect(maps.Values(p.owed))
	p.mu.Unlock()
	if anew {
		t.reconcile(ctx, q)
	} else if unsure {
		t.compare(ctx, q)
	}
	_ = t.end(ctx, q, owed) // what fails stays owed
	if b.Bindings > 0 {
		n, _ := t.store.ExpireBindings(ctx, q) // what fails stays due
		t.stats.expired.Add(int64(n))
	}
}

// reconcile makes the store hold just the sessions that are held here: it registers
// all of them anew and ends those that are not. It runs only under serving.
func (t *Tracker) reconcile(ctx context.Context, q Partition) {
	p := &t.parts[q]
	done := make(chan struct{})
	p.mu.Lock()
	lost := p.lost
	p.dirty, p.lost = false, false
	p.registering = done
	list := make([]Held, 0, len(p.held))
	for s, h := range p.held {
		list = append(list, Held{Key: h.key, ID: s, UserSID: h.sid})
	}
	p.mu.Unlock()

	err := t.register(ctx, q, list, lost)
	p.mu.Lock()
	p.registering = nil
	close(done)
	p.mu.Unlock()
	if err == nil {
		_, err = t.endStrays(ctx, q)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.dirty, p.lost = true, p.lost || lost
		return
	}
	p.renew = t.nextRenew()
}

// compare ends what the store has but this node does not hold, and has all that it
// holds registered anew if the store lacks any of it. It runs only under serving.
func (t *Tracker) compare(ctx context.Context, q Partition) {
	missing, err := t.endStrays(ctx, q)
	p := &t.parts[q]
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unsure = p.unsure || err != nil
	p.dirty = p.dirty || missing
}

// register registers sessions anew. After a loss their services are read first: one
// that was deleted is not to have users again, and one that was lost comes before its
// users.
func (t *Tracker) register(ctx context.Context, q Partition, list []Held, lost bool) error {
	p := &t.parts[q]
	find := t.dir.Service
	if lost {
		find = t.dir.Fresh
	}
	services, gone := map[string]Service{}, map[string]bool{}
	known := list[:0]
	for _, h := range list {
		service, ok := services[h.Key.Service]
		if !ok && !gone[h.Key.Service] {
			var err error
			if service, err = find(ctx, h.Key.Service); err == nil {
				services[h.Key.Service], ok = service, true
			} else if KindOf(err) == KindNotFound {
				gone[h.Key.Service] = true // its sessions are ending
			} else {
				return err
			}
		}
		if ok {
			h.Service = service
			known = append(known, h)
		}
	}
	for chunk := range slices.Chunk(known, registerChunk) {
		r, err := t.operate(p, func() (Registered, error) { return t.store.Register(ctx, q, t.opt.Node, chunk) })
		if err != nil {
			return err
		}
		t.stats.registered.Add(int64(len(chunk)))
		for i, o := range r.Outcomes {
			switch o {
			case Changed:
				t.stats.reasserted.Add(1)
			case Refused:
				if t.opt.Ended != nil {
					t.opt.Ended(chunk[i].ID)
				}
			case Unchanged, Lingering:
			}
		}
	}
	return nil
}

// endStrays ends what the store has of this node but the node does not hold: a
// session whose end was lost with the store's data, or whose opening came through
// though it was reported as failed. Ends that are owed are told as they are owed.
// missing tells that the store lacks a session which is held.
func (t *Tracker) endStrays(ctx context.Context, q Partition) (missing bool, err error) {
	p := &t.parts[q]
	p.mu.Lock()
	p.unsure = false
	opened := make([]SessionID, 0, len(p.held)) // and answered: the store must have them
	for s, h := range p.held {
		if h.sid != "" {
			opened = append(opened, s)
		}
	}
	p.mu.Unlock()
	list, err := t.store.Sessions(ctx, q, t.opt.Node)
	if err != nil {
		return false, err
	}
	p.mu.Lock()
	strays, stored := p.straysLocked(list)
	for i, e := range strays {
		strays[i] = t.ended(e.Key, e.ID, EndLost, time.Now())
	}
	missing = slices.ContainsFunc(opened, func(s SessionID) bool {
		_, holds := p.held[s]
		return holds && !stored[s]
	})
	p.mu.Unlock()
	return missing, t.end(ctx, q, strays)
}

// straysLocked are those of the store's list of this node's sessions that it neither holds
// nor owes the end of; stored are all of the list.
func (p *part) straysLocked(list []Ended) (strays []Ended, stored map[SessionID]bool) {
	stored = make(map[SessionID]bool, len(list))
	for _, e := range list {
		stored[e.ID] = true
		_, holds := p.held[e.ID]
		if _, owes := p.owed[e.ID]; !holds && !owes {
			strays = append(strays, e)
		}
	}
	return strays, stored
}

// Leave gives up this node's leases. To be called last, after Serve has returned
// and the sessions are closed; those that are not linger for the handover.
func (t *Tracker) Leave(ctx context.Context) error {
	for q := range t.parts {
		p := &t.parts[q]
		p.mu.Lock()
		owed := slices.Collect(maps.Values(p.owed))
		p.mu.Unlock()
		if err := t.end(ctx, Partition(q), owed); err != nil {
			return err
		}
	}
	all := make([]Partition, len(t.parts))
	for q := range all {
		all[q] = Partition(q)
	}
	return t.store.Leave(ctx, all, t.opt.Node, t.opt.Handover)
}

// settleAt has a partition served at a time, to settle a linger.
func (t *Tracker) settleAt(at time.Time, q Partition) {
	at = at.Truncate(lingerSlot).Add(lingerSlot)
	t.mu.Lock()
	heap.Push(&t.lingers, due{at, q})
	first := t.lingers[0].at.Equal(at)
	t.mu.Unlock()
	if first {
		select {
		case t.wake <- struct{}{}:
		default:
		}
	}
}

func (t *Tracker) settle(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		next := time.Hour
		now := map[Partition]bool{}
		t.mu.Lock()
		for len(t.lingers) > 0 {
			if wait := time.Until(t.lingers[0].at); wait > 0 {
				next = wait
				break
			}
			now[heap.Pop(&t.lingers).(due).q] = true
		}
		t.mu.Unlock()
		for q := range now {
			t.serveSoon(q)
		}
		timer.Reset(next)
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-t.wake:
		}
	}
}

type due struct {
	at time.Time
	q  Partition
}

// dueHeap is a heap of due partitions, the first due on top.
type dueHeap []due

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h dueHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *dueHeap) Push(x any)        { *h = append(*h, x.(due)) }
func (h *dueHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}
