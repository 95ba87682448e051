package fanout

import (
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/rollcall-presence/rollcall/presence"
)

// DefaultMailbox is how many bytes may wait in a Mailbox by default.
const DefaultMailbox = 256 << 10

// controlCost is what a control frame weighs beside its bytes.
const controlCost = 96

// Mailbox holds what waits for one session. It is passive: it calls wake when there
// is something to take, and the session then takes it with Next until nothing is
// left.
//
// Per user at most one update waits, the newest, so a slow reader gets fewer
// updates and then the final state. Beyond its size the mailbox becomes full: it
// drops what it holds and stays so, and its session must be closed.
//
// Init must be called first. All other methods are safe for concurrent use.
type Mailbox struct {
	service string
	max     int
	wake    func(urgent bool)

	mu    sync.Mutex // guards the following; taken after a partition's, never before
	front *node      // waiting, oldest first
	back  *node
	subs  []*subscription // by identity
	room  chan struct{}   // closed when answers fall below max; nil if nobody waits
	bytes int             // of control frames and updates that wait
	held  int             // of answers that wait
	count int32           // of nodes that wait
	owed  presence.Tri    // the switch, if service.updated waits; else Null
	awake rouse           // how wake was called since Next returned empty
	full  bool
	gone  bool // detached

	at     int     // guarded by the tenant: index among its boxes
	tenant *tenant // set by Attach
}

// node is a place in a mailbox's line: of an update (embedded in its subscription,
// so that waiting costs no memory) or of a frame.
type node struct {
	prev, next *node
	update     *Update // nil unless an update waits here
	control    *control
}

type control struct {
	node   // control points to itself
	frame  []byte
	answer bool // of Subscribe or Answer
	ready  bool // false: what follows must wait for this answer
	waits  bool // in line
}

// subscription is one session's wish to hear about one user.
type subscription struct {
	node          // guarded by box.mu
	box  *Mailbox // immutable
	t    *topic   // immutable
	at   int32    // guarded by the partition: index among the topic's subscribers, -1 when not among them
}

// Item is one thing to send: exactly one of Frame, Update and ServiceEnabled is set.
type Item struct {
	Frame          []byte       // an answer, as given to Control or made by Subscribe
	Update         *Update      // of one user
	ServiceEnabled presence.Tri // service.updated: the switch is now True or False
}

// Init makes the mailbox ready for a session of a service. Control frames and
// updates that wait may take maxBytes, 0 means DefaultMailbox; of answers the same,
// and one more.
//
// wake is called when there is something to take after Next returned nothing, and once more
// when the mailbox becomes full. It is called without locks, by any goroutine, and must not
// block. What is not urgent, because only updates wait, may be taken a little later, with those
// that come meanwhile; if an answer comes meanwhile, wake is called again, urgently.
func (b *Mailbox) Init(service string, maxBytes int, wake func(urgent bool)) {
	if maxBytes <= 0 {
		maxBytes = DefaultMailbox
	}
	b.service, b.max, b.wake = service, maxBytes, wake
}

// Control puts an answer at the end of the line. Frames are never conflated and
// keep their order. ErrFull means that the session must be closed as too slow.
func (b *Mailbox) Control(frame []byte) error {
	b.mu.Lock()
	if b.full || b.bytes+controlCost+len(frame) > b.max {
		wake := b.overflowLocked()
		b.mu.Unlock()
		if wake {
			b.wake(true)
		}
		return ErrFull
	}
	if b.gone {
		b.mu.Unlock()
		return ErrDetached
	}
	c := &control{frame: frame, ready: true}
	b.bytes += controlCost + len(frame)
	b.pushControlLocked(c)
	wake := b.rouseLocked(urgent)
	b.mu.Unlock()
	if wake {
		b.wake(true)
	}
	return nil
}

// Answer is Control for a frame that may be large: it counts like an answer to
// Subscribe, and waits while earlier ones of the mailbox's size have not been taken.
// ErrFull, ErrDetached, or the context's cause.
func (b *Mailbox) Answer(ctx context.Context, frame []byte) error {
	if err := b.await(ctx); err != nil {
		return err
	}
	return b.fill(b.reserve(), frame)
}

// Next takes what may go out now, in order, into batch[:0]: as much as its capacity
// holds, or up to 64 items if that is 0. What it took is no longer conflated, so a
// small batch serves a slow reader best. An empty answer means idle: wake will be
// called again.
func (b *Mailbox) Next(batch []Item) []Item {
	limit := cap(batch)
	if limit == 0 {
		limit = 64
	}
	batch = batch[:0]
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.owed != presence.Null {
		batch = append(batch, Item{ServiceEnabled: b.owed})
		b.owed = presence.Null
	}
	for len(batch) < limit && b.deliverableLocked() {
		n := b.front
		if c := n.control; c != nil {
			batch = append(batch, Item{Frame: c.frame})
			b.takeControlLocked(c)
		} else {
			batch = append(batch, Item{Update: n.update})
			b.takeUpdateLocked(n)
		}
	}
	if len(batch) == 0 {
		b.awake = asleep
	}
	return batch
}

// Len is how many items wait, among them answers that are being made.
func (b *Mailbox) Len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := int(b.count)
	if b.owed != presence.Null {
		n++
	}
	return n
}

// Full reports whether the mailbox ran over: its session must be closed as too slow.
func (b *Mailbox) Full() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.full
}

// Subscriptions is how many users the session is subscribed to.
func (b *Mailbox) Subscriptions() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.subs)
}

// put lets an update wait, in place of an older one of the same user. It tells
// whether the caller must call wake, and whether an update was replaced.
func (b *Mailbox) put(s *subscription, u *Update) (wake, conflated bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.gone || b.full {
		return false, false
	}
	if old := s.update; old != nil {
		u = merge(old, u)
		b.takeUpdateLocked(&s.node)
		conflated = true
	}
	cost := u.cost()
	if b.bytes+cost > b.max {
		return b.overflowLocked(), conflated
	}
	b.bytes += cost
	s.update = u
	b.pushLocked(&s.node)
	return b.rouseLocked(soon), conflated
}

// switched lets service.updated wait, in place of an older one.
func (b *Mailbox) switched(enabled bool) (wake bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.gone || b.full {
		return false
	}
	b.owed = presence.TriOf(enabled)
	return b.rouseLocked(soon)
}

// await returns once an answer of any size may be reserved.
func (b *Mailbox) await(ctx context.Context) error {
	for {
		b.mu.Lock()
		switch {
		case b.gone:
			b.mu.Unlock()
			return ErrDetached
		case b.full:
			b.mu.Unlock()
			return ErrFull
		case b.held < b.max:
			b.mu.Unlock()
			return nil
		}
		if b.room == nil {
			b.room = make(chan struct{})
		}
		room := b.room
		b.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// reserve takes the place in line of an answer that is yet to be made.
func (b *Mailbox) reserve() *control {
	c := &control{answer: true}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.gone && !b.full {
		b.pushControlLocked(c)
	}
	return c
}

// fill makes a reserved place an answer that may go out.
func (b *Mailbox) fill(c *control, frame []byte) error {
	b.mu.Lock()
	if !c.waits {
		defer b.mu.Unlock()
		if b.full {
			return ErrFull
		}
		return ErrDetached
	}
	c.frame, c.ready = frame, true
	b.held += len(frame)
	wake := b.rouseLocked(urgent)
	b.mu.Unlock()
	if wake {
		b.wake(true)
	}
	return nil
}

// cancel gives a reserved place up.
func (b *Mailbox) cancel(c *control) {
	b.mu.Lock()
	if c.waits {
		b.takeControlLocked(c)
	}
	wake := b.rouseLocked(urgent)
	b.mu.Unlock()
	if wake {
		b.wake(true)
	}
}

// take removes what waits of a subscription, and returns it.
func (b *Mailbox) take(s *subscription) *Update {
	b.mu.Lock()
	defer b.mu.Unlock()
	u := s.update
	if u != nil {
		b.takeUpdateLocked(&s.node)
	}
	return u
}

// detach empties the mailbox for good and returns the subscriptions it had.
func (b *Mailbox) detach() []*subscription {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.gone = true
	subs := b.subs
	b.subs = nil
	b.dropLocked()
	return subs
}

// find returns the subscription to a user, or nil and where it would stand.
func (b *Mailbox) findLocked(identity string) (*subscription, int) {
	i, ok := slices.BinarySearchFunc(b.subs, identity, func(s *subscription, identity string) int {
		return strings.Compare(s.t.identity, identity)
	})
	if !ok {
		return nil, i
	}
	return b.subs[i], i
}

func (b *Mailbox) find(identity string) *subscription {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, _ := b.findLocked(identity)
	return s
}

// add makes the subscription to a topic's user; nil if there is one already.
func (b *Mailbox) add(t *topic) (*subscription, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.gone {
		return nil, ErrDetached
	}
	s, i := b.findLocked(t.identity)
	if s != nil {
		return nil, nil
	}
	s = &subscription{box: b, t: t, at: -1}
	b.subs = slices.Insert(b.subs, i, s)
	return s, nil
}

// drop ends the subscription to a user; nil if there is none.
func (b *Mailbox) drop(identity string) *subscription {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, i := b.findLocked(identity)
	if s == nil {
		return nil
	}
	b.subs = slices.Delete(b.subs, i, i+1)
	if len(b.subs) == 0 {
		b.subs = nil
	}
	if s.update != nil {
		b.takeUpdateLocked(&s.node)
	}
	return s
}

// missing counts the identities without a subscription.
func (b *Mailbox) missing(identities []string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for _, identity := range identities {
		if s, _ := b.findLocked(identity); s == nil {
			n++
		}
	}
	return n
}

func (b *Mailbox) deliverableLocked() bool {
	return b.front != nil && (b.front.control == nil || b.front.control.ready)
}

// rouse is how a mailbox's session was woken.
type rouse uint8

const (
	asleep rouse = iota
	soon
	urgent
)

// rouseLocked reports whether wake must be called, and takes it that it will be.
func (b *Mailbox) rouseLocked(how rouse) bool {
	if b.awake >= how || !b.deliverableLocked() && b.owed == presence.Null {
		return false
	}
	b.awake = how
	return true
}

func (b *Mailbox) overflowLocked() bool {
	if b.full || b.gone {
		return false
	}
	b.full, b.awake = true, urgent
	b.dropLocked()
	return true
}

// dropLocked empties the line.
func (b *Mailbox) dropLocked() {
	for b.front != nil {
		if c := b.front.control; c != nil {
			b.takeControlLocked(c)
		} else {
			b.takeUpdateLocked(b.front)
		}
	}
	b.owed = presence.Null
	b.releaseLocked()
}

func (b *Mailbox) releaseLocked() {
	if b.room != nil {
		close(b.room)
		b.room = nil
	}
}

func (b *Mailbox) pushControlLocked(c *control) {
	c.node.control = c
	c.waits = true
	b.pushLocked(&c.node)
}

func (b *Mailbox) takeControlLocked(c *control) {
	c.waits = false
	b.unlinkLocked(&c.node)
	if !c.answer {
		b.bytes -= controlCost + len(c.frame)
		return
	}
	if b.held -= len(c.frame); b.held < b.max {
		b.releaseLocked()
	}
}

func (b *Mailbox) takeUpdateLocked(n *node) {
	b.bytes -= n.update.cost()
	n.update = nil
	b.unlinkLocked(n)
}

func (b *Mailbox) pushLocked(n *node) {
	n.prev, n.next = b.back, nil
	if b.back != nil {
		b.back.next = n
	} else {
		b.front = n
	}
	b.back = n
	b.count++
}

func (b *Mailbox) unlinkLocked(n *node) {
	if n.prev != nil {
		n.prev.next = n.next
	} else {
		b.front = n.next
	}
	if n.next != nil {
		n.next.prev = n.prev
	} else {
		b.back = n.prev
	}
	n.prev, n.next = nil, nil
	b.count--
}
