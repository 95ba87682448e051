package fanout

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rollcall-presence/rollcall/presence"
)

// Store is what a Hub needs of the shared state.
type Store interface {
	Users
	// Partition is where a user lives; Partitions is how many there are.
	Partition(k presence.Key) presence.Partition
	Partitions() int
}

// Options tunes a Hub. The zero value is ready for use.
type Options struct {
	// MaxSubscriptions bounds the users one session is subscribed to. Default 1000.
	MaxSubscriptions int
	// Late is how long an event may be on its way after the store counted it, before
	// it is taken for lost. Default 250ms.
	Late time.Duration
}

// Hub knows who on this node listens to whom. Its methods are safe for concurrent
// use, but those that name one mailbox must not overlap, Detach excepted.
type Hub struct {
	bus      Bus
	store    Store
	services Services
	opt      Options

	parts []partition
	dirty chan presence.Partition // to be repaired; each at most once, so sending never blocks
	late  chan lateBeat
	wakes sync.Pool // of *wakes

	mu      sync.RWMutex // guards tenants
	tenants map[string]*tenant

	failing  atomic.Int32 // failed repairs since one succeeded
	counters struct {
		received, delivered, conflated, repairs, failed atomic.Uint64
		gaps                                            [presence.GapBeat + 1]atomic.Uint64
		resubscribed                                    atomic.Uint64
		subscriptions, partitions                       atomic.Int64
	}
}

// NewHub returns a Hub that does nothing by itself until Serve runs.
func NewHub(bus Bus, store Store, services Services, opt Options) *Hub {
	if opt.MaxSubscriptions <= 0 {
		opt.MaxSubscriptions = 1000
	}
	if opt.Late <= 0 {
		opt.Late = 250 * time.Millisecond
	}
	n := store.Partitions()
	return &Hub{
		bus: bus, store: store, services: services, opt: opt,
		parts: make([]partition, n), dirty: make(chan presence.Partition, n), late: make(chan lateBeat, n),
		tenants: map[string]*tenant{},
	}
}

// wakes are mailboxes whose sessions must be woken once no lock is held.
type wakes struct{ boxes []*Mailbox }

// gather returns empty wakes; call wakes them and gives the list back.
func (h *Hub) gather() *wakes {
	if w, ok := h.wakes.Get().(*wakes); ok {
		return w
	}
	return &wakes{}
}

func (h *Hub) call(w *wakes) {
	for _, b := range w.boxes {
		b.wake(false)
	}
	clear(w.boxes)
	w.boxes = w.boxes[:0]
	h.wakes.Put(w)
}

// dispatch puts an update into the mailbox of each subscriber. The partition is locked.
func (h *Hub) dispatch(t *topic, u *Update, w *wakes) {
	if t.one == nil {
		return
	}
	conflated := uint64(0)
	put := func(s *subscription) {
		wake, merged := s.box.put(s, u)
		if wake {
			w.boxes = append(w.boxes, s.box)
		}
		if merged {
			conflated++
		}
	}
	put(t.one)
	for _, s := range t.more {
		put(s)
	}
	h.counters.delivered.Add(uint64(t.subscribers())) //nolint:gosec // not negative
	h.counters.conflated.Add(conflated)
}

// Event takes in an event from the bus. It does not block. Unknown partitions are
// ignored, as are users that nobody here listens to.
func (h *Hub) Event(p presence.Partition, run string, seq uint64, e presence.Event) {
	if p < 0 || int(p) >= len(h.parts) {
		return
	}
	part := &h.parts[p]
	part.mu.Lock()
	if !part.held {
		part.mu.Unlock()
		return
	}
	h.counters.received.Add(1)
	h.gapLocked(p, part.cursor.Event(run, seq))
	var w *wakes
	if ten := h.tenant(e.User.Service); ten != nil {
		if t := part.topics[topicKey{ten, e.User.Identity}]; t != nil {
			if u := part.took(t, t.event(&e)); u != nil {
				w = h.gather()
				h.dispatch(t, u, w)
			}
		}
	}
	part.mu.Unlock()
	if w != nil {
		h.call(w)
	}
}

// took notes that something was taken in and returns the update to dispatch, if any.
func (p *partition) took(t *topic, o outcome) *Update {
	if !o.stale {
		p.clock++
		t.told = p.clock
	}
	return o.update
}

func (h *Hub) tenant(sid string) *tenant {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.tenants[sid]
}

// Attach makes the mailbox part of its service: it will be told when the switch is
// flipped. It must come before Subscribe, and before the session reads the switch
// it tells its client.
func (h *Hub) Attach(b *Mailbox) {
	h.mu.Lock()
	t := h.tenants[b.service]
	if t == nil {
		t = &tenant{sid: strings.Clone(b.service)}
		h.tenants[t.sid] = t
	}
	t.users++
	h.mu.Unlock()
	t.mu.Lock()
	b.tenant, b.at = t, len(t.boxes)
	t.boxes = append(t.boxes, b)
	t.mu.Unlock()
}

// Detach ends every subscription of the mailbox and empties it for good; what is
// put into it later is dropped. It may be called at any time, once.
func (h *Hub) Detach(b *Mailbox) {
	t := b.tenant
	t.mu.Lock()
	last := t.boxes[len(t.boxes)-1]
	t.boxes[b.at], last.at = last, b.at
	t.boxes[len(t.boxes)-1] = nil
	t.boxes = t.boxes[:len(t.boxes)-1]
	t.mu.Unlock()

	for _, s := range b.detach() {
		p := h.store.Partition(presence.Key{Service: t.sid, Identity: s.t.identity})
		part := &h.parts[p]
		part.mu.Lock()
		idle := h.leaveLocked(part, s)
		part.mu.Unlock()
		if idle {
			h.bus.Unwatch(p)
		}
	}
	h.mu.Lock()
	if t.users--; t.users == 0 {
		delete(h.tenants, t.sid)
	}
	h.mu.Unlock()
}

// leaveLocked takes a subscription from its topic. It reports whether the partition
// needs its listener no more.
func (h *Hub) leaveLocked(part *partition, s *subscription) (idle bool) {
	if s.at < 0 {
		return false
	}
	s.t.remove(s)
	h.counters.subscriptions.Add(-1)
	if s.t.one != nil {
		return false
	}
	return h.forgetLocked(part, s.t)
}

// forgetLocked drops a topic without subscribers.
func (h *Hub) forgetLocked(part *partition, t *topic) (idle bool) {
	delete(part.topics, t.topicKey)
	if len(part.topics) > 0 {
		return false
	}
	part.topics = nil // a map does not shrink
	if !part.held {
		return false
	}
	part.held, part.cursor = false, presence.Cursor{}
	h.counters.partitions.Add(-1)
	return true
}

// Unsubscribe ends subscriptions; others are ignored. What still waits for them is
// dropped.
func (h *Hub) Unsubscribe(b *Mailbox, identities []string) {
	for _, identity := range identities {
		p := h.store.Partition(presence.Key{Service: b.service, Identity: identity})
		part := &h.parts[p]
		part.mu.Lock()
		s := b.drop(identity)
		idle := s != nil && h.leaveLocked(part, s)
		part.mu.Unlock()
		if idle {
			h.bus.Unwatch(p)
		}
	}
}

// Subscribe subscribes the mailbox's session to users of its service and puts
// answer(snapshots), in the order asked, in line for it: the session sees each
// user's snapshot before any update of it that is newer, and no other update of it
// after. Being subscribed already is fine, and so is asking twice. known has the
// revisions that the client was told of some of them elsewhere, and may be nil: a
// snapshot that may tell another state than such a one has a revision above it.
//
// It blocks until the store has answered, and before that while earlier answers of
// the mailbox's size have not been taken. On error nothing new is subscribed and
// nothing is answered: ErrTooMany beyond the session's limit, ErrNoService,
// ErrDetached, ErrFull, KindUnavailable, or the context's cause.
func (h *Hub) Subscribe(ctx context.Context, b *Mailbox, identities []string, known map[string]int64, answer func([]presence.Snapshot) []byte) error {
	ten := b.tenant
	if err := h.load(ctx, ten); err != nil {
		return err
	}
	asked := identities
	identities = slices.Compact(slices.Sorted(slices.Values(asked)))
	if b.Subscriptions()+b.missing(identities) > h.opt.MaxSubscriptions {
		return ErrTooMany
	}
	if err := b.await(ctx); err != nil {
		return err
	}

	keys := make([]presence.Key, len(identities))
	homes := make([]presence.Partition, len(identities))
	for i, identity := range identities {
		keys[i] = presence.Key{Service: ten.sid, Identity: identity}
		homes[i] = h.store.Partition(keys[i])
	}
	spare := slices.Clone(homes) // partitions whose listener is not handed to the topics
	slices.Sort(spare)
	spare = slices.Compact(spare)
	if err := h.bus.Watch(ctx, spare...); err != nil {
		return err
	}

	place := b.reserve()
	began := make([]uint64, len(identities))
	var added []string
	var err error
	for i, identity := range identities {
		part := &h.parts[homes[i]]
		part.mu.Lock()
		var fresh bool
		if fresh, err = h.joinLocked(part, ten, b, identity); fresh {
			added = append(added, identity)
		}
		if err == nil && !part.held {
			part.held = true
			h.counters.partitions.Add(1)
			at, _ := slices.BinarySearch(spare, homes[i])
			spare = slices.Delete(spare, at, at+1)
		}
		began[i] = part.clock
		part.mu.Unlock()
		if err != nil {
			break
		}
	}
	h.bus.Unwatch(spare...)

	var users []presence.User
	if err == nil {
		users, err = h.readUsers(ctx, keys)
	}
	if err != nil {
		b.cancel(place)
		h.Unsubscribe(b, added)
		return err
	}
	snapshots := make([]presence.Snapshot, len(identities))
	w := h.gather()
	for i := range users {
		part := &h.parts[homes[i]]
		part.mu.Lock()
		if s := b.find(identities[i]); s != nil {
			if u := part.took(s.t, s.t.read(&users[i], began[i], s)); u != nil {
				h.dispatch(s.t, u, w)
			}
			snapshots[i] = s.t.snapshot(&users[i], b.take(s), known[identities[i]])
		}
		part.mu.Unlock()
	}
	h.call(w)
	inOrder := make([]presence.Snapshot, len(asked))
	for i, identity := range asked {
		at, _ := slices.BinarySearch(identities, identity)
		inOrder[i] = snapshots[at]
	}
	return b.fill(place, answer(inOrder))
}

// joinLocked adds the mailbox to a user's topic, making it if need be; false if it
// was there already.
func (h *Hub) joinLocked(part *partition, ten *tenant, b *Mailbox, identity string) (bool, error) {
	t := part.topics[topicKey{ten, identity}]
	if t == nil {
		t = &topic{topicKey: topicKey{ten, strings.Clone(identity)}, told: part.clock}
		if part.topics == nil {
			part.topics = map[topicKey]*topic{}
		}
		part.topics[t.topicKey] = t
	}
	s, err := b.add(t)
	if err != nil {
		if t.one == nil {
			h.forgetLocked(part, t)
		}
		return false, err
	}
	if s == nil {
		return false, nil
	}
	t.add(s)
	h.counters.subscriptions.Add(1)
	return true, nil
}

// load makes sure that the tenant knows its service.
func (h *Hub) load(ctx context.Context, t *tenant) error {
	if t.service.Load() != nil {
		return nil
	}
	s, err := h.services.Service(ctx, t.sid)
	if err != nil {
		return err
	}
	t.service.CompareAndSwap(nil, &s) // ServiceChanged knows better
	return nil
}

// maxRead is how many users are read in one round.
const maxRead = 500

func (h *Hub) readUsers(ctx context.Context, keys []presence.Key) ([]presence.User, error) {
	if len(keys) <= maxRead {
		return h.store.ReadUsers(ctx, keys)
	}
	users := make([]presence.User, 0, len(keys))
	for chunk := range slices.Chunk(keys, maxRead) {
		read, err := h.store.ReadUsers(ctx, chunk)
		if err != nil {
			return nil, err
		}
		users = append(users, read...)
	}
	return users, nil
}

// ServiceChanged takes in a changed copy of a service, from the Directory, whose
// calls for one service must not overlap; a service that was deleted does not
// exist. Sessions are told of a flipped switch. Off, their users' nulls follow at
// once. On, the users are read again first, for transitions are not published while
// the switch is off.
func (h *Hub) ServiceChanged(old, changed presence.Service, exists bool) {
	if !exists {
		changed = presence.Service{SID: old.SID, Account: old.Account, Epoch: old.Epoch, Rev: old.Rev}
	}
	ten := h.tenant(changed.SID)
	if ten == nil {
		return
	}
	if prev := ten.service.Swap(&changed); prev != nil {
		old = *prev
	}
	w := h.gather()
	if old.Enabled != changed.Enabled {
		ten.mu.Lock()
		for _, b := range ten.boxes {
			if b.switched(changed.Enabled) {
				w.boxes = append(w.boxes, b)
			}
		}
		ten.mu.Unlock()
	}
	if old.Enabled != changed.Enabled || old.Rev != changed.Rev || old.Epoch != changed.Epoch {
		for p := range h.parts {
			h.flip(presence.Partition(p), ten, changed.Enabled, w)
		}
	}
	h.call(w)
}

func (h *Hub) flip(p presence.Partition, ten *tenant, enabled bool, w *wakes) {
	part := &h.parts[p]
	part.mu.Lock()
	defer part.mu.Unlock()
	for _, t := range part.topics {
		if t.tenant != ten {
			continue
		}
		if enabled {
			h.repairLocked(p)
			return
		}
		if u := t.look(0, false, nil); u != nil {
			h.dispatch(t, u, w)
		}
	}
}

// Stats returns the counters as they are now.
func (h *Hub) Stats() Stats {
	c := &h.counters
	return Stats{
		Received: c.received.Load(), Delivered: c.delivered.Load(), Conflated: c.conflated.Load(),
		Gaps: Gaps{
			Seq: c.gaps[presence.GapSeq].Load(), Run: c.gaps[presence.GapRun].Load(),
			Beat: c.gaps[presence.GapBeat].Load(), Resubscribe: c.resubscribed.Load(),
		},
		Repairs: c.repairs.Load(), Failed: c.failed.Load(),
		Subscriptions: c.subscriptions.Load(), Partitions: c.partitions.Load(),
	}
}
