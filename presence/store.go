package presence

import (
	"context"
	"time"
)

// Page is one page of a list in creation order. Next and Prev are cursors of
// [A-Za-z0-9_-]+, empty at the ends.
type Page[T any] struct {
	Items      []T
	Next, Prev string
}

// Origin is who changes a user, as the service's backend is told by webhook.
type Origin string

// The origins. The backend is not told of what it did itself, unless it asks to be.
const (
	OriginUntold Origin = ""
	OriginAPI    Origin = "API" // over REST
	OriginSDK    Origin = "SDK" // the user itself, over its connection
)

// UserUpdate names what to set of a user; nil keeps what is there.
type UserUpdate struct {
	FriendlyName, Attributes, Role *string
	// Tell has the service's backend told of the change by webhook, and who made it.
	Tell Origin
}

// Empty reports whether u sets nothing.
func (u UserUpdate) Empty() bool {
	return u.FriendlyName == nil && u.Attributes == nil && u.Role == nil
}

// ServiceUpdate names what to set of a service; nil keeps what is there.
type ServiceUpdate struct {
	Enabled *bool
	Linger  *time.Duration // negative: the node's default
	// Webhooks and Debounce are told to the partitions; see redisstore.UpdateService.
	Webhooks *WebhooksUpdate
	Debounce *time.Duration
	// Roles that new users and conversations get.
	DefaultServiceRole, DefaultConversationRole, DefaultConversationCreatorRole *string
}

// Held is a session as its node registers it, with what the node knows of the
// user's service. A stale copy of the service does no lasting harm: the node
// registers its sessions again when it hears of a newer one.
type Held struct {
	Key
	ID      SessionID
	UserSID string // of the user, once known: a user lost with Redis's data comes back under it
	Service Service
}

// Ended is a session that ended.
type Ended struct {
	Key
	ID      SessionID
	Linger  time.Duration // 0: offline at once
	Service Service
	// How it ended and when, on this process's clock, for measuring; a zero Left is now.
	How  End
	Left time.Time
}

// UserSession is a live session of a user and the node that holds it.
type UserSession struct {
	ID   SessionID
	Node NodeID
}

// Outcome is what registering or ending one session did.
type Outcome uint8

// The outcomes.
const (
	Unchanged Outcome = iota // no transition
	Changed                  // a transition was published
	Lingering                // the user's last session is gone; linger has begun
	Refused                  // the session was ended by an operator and is not registered
)

// Registered is the answer to registering or ending sessions in a partition.
type Registered struct {
	// Ops is the store's count of this node's own operations in the partition. It
	// only ever grows while the store has what the node told it: a lower number
	// than one seen before means that the node's sessions were reaped or lost.
	Ops      int64
	Outcomes []Outcome // one each, in order
}

// Beat is the answer to a heartbeat in one partition.
type Beat struct {
	Run string // of the partition's event counter; another run is another counter
	Seq uint64 // events published in this run
	Ops int64  // as Registered.Ops
	// What this heartbeat reaped: sessions of lapsed nodes, and the offline
	// transitions it published for them and for lingers that fell due.
	Reaped, OfflineByLease, OfflineByLinger int
	Departed                                []Departure // of those transitions
	Due                                     int         // 1 if there is more to reap than one heartbeat takes
	Bindings                                int         // push bindings that ExpireBindings would see to
	End                                     []SessionID // sessions of this node that it must end
	Stalled                                 time.Duration
	// Delivers is whether this node is to deliver the partition's webhooks, and
	// Webhooks how long until there is one to deliver; negative if there is none.
	Delivers bool
	Webhooks time.Duration
}

// ExpireChunk bounds what one ExpireBindings removes, and what it finishes.
const ExpireChunk = 50

// Store is what a Tracker needs of the shared state. Each call works on one
// partition, and each is one atomic step in it. Implementations are safe for
// concurrent use; their errors carry a Kind.
type Store interface {
	// Partition is where a user lives; Partitions is how many there are.
	Partition(k Key) Partition
	Partitions() int
	// Register records sessions of a node in one partition, creating users that do
	// not exist, and publishes what that changed. It is idempotent.
	Register(ctx context.Context, p Partition, n NodeID, sessions []Held) (Registered, error)
	// Open registers one session and returns its user.
	Open(ctx context.Context, p Partition, n NodeID, h Held) (Registered, User, error)
	// End removes sessions and publishes, or puts off for the linger, what that
	// changed. It is idempotent.
	End(ctx context.Context, p Partition, n NodeID, sessions []Ended) (Registered, error)
	// Beat renews the node's lease in partitions and reaps what is due in them. The
	// answers are in order; an error is one partition's.
	Beat(ctx context.Context, ps []Partition, n NodeID) ([]Beat, []error)
	// Sessions lists what the store has of a node's sessions in a partition.
	Sessions(ctx context.Context, p Partition, n NodeID) ([]Ended, error)
	// Leave gives up the node's lease in partitions; sessions left there linger for handover.
	Leave(ctx context.Context, ps []Partition, n NodeID, handover time.Duration) error
	// ExpireBindings removes push bindings of a partition that have expired, publishing
	// what that changed, and finishes what a node that died left half done; up to
	// ExpireChunk of each. It returns how many expired.
	ExpireBindings(ctx context.Context, p Partition) (int, error)
	// EnsureUser returns the user, created if it does not exist.
	EnsureUser(ctx context.Context, k Key, s Service) (User, error)
}
