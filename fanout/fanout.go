// Package fanout moves changes of presence to those who asked to hear of them.
//
// A Bus carries events between nodes; the Hub knows who on this node listens to
// whom; a Mailbox is what waits for one session, at most one update per user. The
// bus may lose messages: the Hub notices and reads again what it needs, so that
// each subscriber sees revisions of a user strictly increase and ends at the true
// state. It knows no WebSocket and no Redis.
package fanout

import (
	"context"
	"sync/atomic"

	"github.com/rollcall-presence/rollcall/presence"
)

// Bus brings the events of partitions to this node, to Hub.Event, and calls
// Hub.Resync where events may have been lost. Its methods are called concurrently.
type Bus interface {
	// Watch adds a listener to each partition and returns once their events are
	// delivered. On error, which is the context's or of KindUnavailable, none is added.
	Watch(ctx context.Context, ps ...presence.Partition) error
	// Unwatch removes a listener of each. It does not block. The bus may go on to deliver for
	// a while after the last is gone.
	Unwatch(ps ...presence.Partition)
}

// Handler is what a Bus delivers to, one call at a time. Its methods do not block;
// presence.Services is a partition too.
type Handler interface {
	Event(p presence.Partition, run string, seq uint64, e presence.Event)
	// ServiceEvent tells that a service changed, was made or deleted.
	ServiceEvent(run string, seq uint64, sid string)
	// Resync tells that events of the partition may have been lost.
	Resync(p presence.Partition)
}

// Users reads users from the store, in the order asked; one that does not exist
// has SID "".
type Users interface {
	ReadUsers(ctx context.Context, keys []presence.Key) ([]presence.User, error)
}

// Services has the services in use; each change is told to Hub.ServiceChanged.
type Services interface {
	Service(ctx context.Context, sid string) (presence.Service, error)
}

// What Subscribe and Control refuse.
var (
	// ErrTooMany tells that a session would have more subscriptions than it may.
	ErrTooMany = &presence.Error{Op: "too many subscriptions", Kind: presence.KindLimited}
	// ErrFull tells that a session reads too slowly: it must be closed.
	ErrFull = &presence.Error{Op: "session reads too slowly", Kind: presence.KindLimited}
	// ErrDetached tells that the mailbox's session is over.
	ErrDetached = &presence.Error{Op: "session is over", Kind: presence.KindDenied}
)

// Slots is how many wire protocols may cache their encoding of an Update.
const Slots = 2

// Update is one change as subscribers see it. It is shared between them and must
// not be changed.
type Update struct {
	Service string
	// Reasons is what changed; empty where the user was created or deleted and
	// nothing else can be seen of it.
	Reasons presence.Reasons
	// Another tells that the SID is another than before: the user was made or deleted.
	Another bool
	// View is the user's state. FriendlyName and Attributes are set only if Reasons
	// names them; else they are as before, or unset if the user is Another. A deleted
	// user has none.
	View presence.Snapshot

	frames [Slots]atomic.Pointer[[]byte]
}

// Frame returns the update as encoded for a protocol's slot, 0 to Slots-1. Only the
// first calls for a slot encode; all get the same bytes, which must not be changed.
// It is safe for concurrent use.
func (u *Update) Frame(slot int, encode func(*Update) []byte) []byte {
	if f := u.frames[slot].Load(); f != nil {
		return *f
	}
	f := encode(u)
	if !u.frames[slot].CompareAndSwap(nil, &f) {
		return *u.frames[slot].Load()
	}
	return f
}

// updateCost is what a pending update is taken to weigh, beside its profile values,
// in a mailbox that shares it with others.
const updateCost = 128

func (u *Update) cost() int {
	n := updateCost + len(u.View.Attributes)
	if u.View.FriendlyName != nil {
		n += len(*u.View.FriendlyName)
	}
	return n
}

// merge is the update that stands for old and then u: u's state, and what either
// tells of the profile.
func merge(old, u *Update) *Update {
	const profile = presence.ReasonFriendlyName | presence.ReasonAttributes
	m := &Update{Service: u.Service, Reasons: old.Reasons | u.Reasons, Another: old.Another || u.Another, View: u.View}
	if old.View.SID != u.View.SID { // another user by the same name, or none
		m.Reasons = old.Reasons&^profile | u.Reasons
		return m
	}
	if u.Reasons&presence.ReasonFriendlyName == 0 {
		m.View.FriendlyName = old.View.FriendlyName
	}
	if u.Reasons&presence.ReasonAttributes == 0 {
		m.View.Attributes = old.View.Attributes
	}
	return m
}

// Gaps are the causes by which a Hub took it that it missed events.
type Gaps struct{ Seq, Run, Beat, Resubscribe uint64 }

// Stats are a Hub's counters since it was made, and what it holds now.
type Stats struct {
	Received  uint64 // events from the bus for partitions with a subscriber here
	Delivered uint64 // updates put into mailboxes
	Conflated uint64 // of those, merged into one that still waited
	Gaps      Gaps
	Repairs   uint64 // partitions read again
	Failed    uint64 // attempts at that which failed, and were put off
	// Subscriptions and Partitions are what is held now: pairs of session and user,
	// and partitions with any.
	Subscriptions, Partitions int64
}
