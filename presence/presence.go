// Package presence is the domain of Rollcall: who is reachable right now.
//
// It holds the vocabulary (services, users, sessions, leases, revisions), the
// rules that turn stored state into what a reader may see, and the Tracker, which
// keeps the store's record of a node's sessions true. It knows no Redis, HTTP or
// WebSocket; the store lives in presence/redisstore.
package presence

import (
	"encoding/json"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Sizes of what comes from outside.
const (
	// MaxIdentity is the longest identity, in bytes of UTF-8.
	MaxIdentity = 256
	// DefaultAttributes is the longest attributes text, in bytes, unless configured.
	DefaultAttributes = 16 << 10
	// MaxAttributes is the most that it may be configured to.
	MaxAttributes = 1 << 20
	// MaxAttributesDepth is how deeply objects and arrays may lie in each other in
	// attributes: clients that follow a user walk through them, some on their stack
	// (the Conversations SDK overflows it at about 3,000).
	MaxAttributesDepth = 64
	// MaxFriendlyName is the longest friendly name, in characters.
	MaxFriendlyName = 256
)

// Key names one user: an identity in a service. The zero Key names nobody.
type Key struct {
	Service  string // IS SID
	Identity string // case-sensitive, 1 to MaxIdentity bytes of UTF-8
}

// SessionID names one live client connection, across all nodes and restarts:
// SessionIDLen characters of [0-9a-f].
type SessionID string

// SessionIDLen is the length of every SessionID; its being fixed lets the store
// join it with a key without a separator.
const SessionIDLen = 24

// NodeID names one gateway process. A restarted process takes a new one.
type NodeID string

// Partition is a unit of co-location, fan-out and reaping; see DESIGN vocabulary
// in docs/ARCHITECTURE.md. Services is the pseudo-partition of service records.
type Partition int

// Services is the Partition whose events tell of changed services.
const Services Partition = -1

// Tri is true, false or null. Its zero value is Null.
type Tri int8

// The three values of a Tri.
const (
	Null Tri = iota
	False
	True
)

// TriOf is True or False.
func TriOf(b bool) Tri {
	if b {
		return True
	}
	return False
}

// String is "null", "false" or "true", which is also its JSON.
func (t Tri) String() string {
	switch t {
	case True:
		return "true"
	case False:
		return "false"
	case Null:
	}
	return "null"
}

// MarshalJSON writes null, false or true.
func (t Tri) MarshalJSON() ([]byte, error) { return []byte(t.String()), nil }

// Reasons is the set of things that changed about a user.
type Reasons uint8

// The reasons of an update, with their names on the wire.
const (
	ReasonOnline       Reasons = 1 << iota // reachabilityOnline
	ReasonNotifiable                       // reachabilityNotifiable
	ReasonFriendlyName                     // friendlyName
	ReasonAttributes                       // attributes

	// Reachability is both reachability reasons.
	Reachability = ReasonOnline | ReasonNotifiable
)

// Service is a tenant as stored.
type Service struct {
	SID          string
	Account      string
	FriendlyName string
	// Enabled is the reachability switch; off by default.
	Enabled bool
	// Epoch grows by one each time the switch is turned on; 0 before the first.
	Epoch int64
	// Rev is the revision of the last flip of the switch: at the time of the flip
	// it is greater than every revision of the service's users, so a reader that
	// takes the larger of the two (see Service.View) sees revisions grow.
	Rev int64
	// Linger is the grace time after a user's last session ended abnormally, 0 to
	// MaxLinger; negative means the node's default.
	Linger time.Duration
	// Webhooks are the service's own; see Webhooks.Or. A change of reachability is
	// told once it has lasted for Debounce; 0: at once.
	Webhooks Webhooks
	Debounce time.Duration
	// WebhooksVersion grows with each change of the two.
	WebhooksVersion int64
	// The roles that new users and conversations get.
	DefaultServiceRole, DefaultConversationRole, DefaultConversationCreatorRole string

	Created, Updated time.Time // second precision is all that is promised
}

// MaxLinger bounds the linger of a service.
const MaxLinger = time.Minute

// LingerOr is the service's linger, or def where it has none of its own.
func (s Service) LingerOr(def time.Duration) time.Duration {
	if s.Linger < 0 {
		return def
	}
	return s.Linger
}

// User is a user as stored. SID is empty where there is no such user; all else
// but Key is then zero.
type User struct {
	Key
	SID          string
	FriendlyName *string // nil when never set
	Attributes   string  // JSON text, "{}" when never set
	Role         string  // RL SID

	// Online and Notifiable are the last recorded state, whatever the switch says;
	// readers want Service.View.
	Online, Notifiable Tri
	Epoch              int64 // of the service when Online last was or became true under an enabled switch
	NotifiableEpoch    int64 // the same for Notifiable
	Rev                int64
	LastOnline         time.Time // when the user last was seen to leave; zero if never, millisecond precision

	Created, Updated time.Time
}

// Snapshot is what a reader may see of a user: the state with its revision.
type Snapshot struct {
	Identity     string
	SID          string // "" where there is no such user (yet, or any more)
	FriendlyName *string
	Attributes   string
	Online       Tri
	Notifiable   Tri
	Rev          int64
	LastOnline   time.Time
}

// View applies the service's switch and epoch to a stored user:
//
//   - disabled: both null;
//   - online: true while recorded online; false if the user was online since the
//     switch was last turned on; else null;
//   - notifiable: the same rule over push registrations;
//   - revision: the larger of the user's and the switch's, so that a flip of the
//     switch is itself a newer state of each of its users; 0 where there is no user.
func (s Service) View(u User) Snapshot {
	v := Snapshot{Identity: u.Identity, SID: u.SID, FriendlyName: u.FriendlyName, Attributes: u.Attributes, LastOnline: u.LastOnline}
	v.Online = s.reach(u.Online, u.Epoch)
	v.Notifiable = s.reach(u.Notifiable, u.NotifiableEpoch)
	if u.SID != "" {
		v.Rev = max(u.Rev, s.Rev)
	} else {
		v.Rev = u.Rev // of a deletion, else 0
	}
	return v
}

func (s Service) reach(state Tri, epoch int64) Tri {
	switch {
	case !s.Enabled || state == Null:
		return Null
	case state == True:
		return True
	case epoch == s.Epoch:
		return False
	}
	return Null
}

// Event is one published change of a user, as it travels between nodes. It
// carries recorded state; the receiving node applies View.
type Event struct {
	User    User    // FriendlyName and Attributes are set only if Reasons names them
	Reasons Reasons // what changed; empty for a creation that changed nothing visible, and for a deletion
	Deleted bool    // the user is gone: SID is empty, Rev that of the deletion
}

// End tells how a session ended. It decides whether its user's offline transition
// is published at once or after linger.
type End uint8

// The ways a session ends.
const (
	EndLost     End = iota // the socket was lost: linger
	EndClean               // a bye or close code 1000: offline at once
	EndDrain               // the node is going away: linger, and long enough for the client to come back
	EndReload              // close code 1001, as of a page that is loaded again: linger
	EndSilent              // the peer answered no ping: linger
	EndStuck               // the peer took nothing of what was written: linger
	EndExpired             // the token expired: linger
	EndOperator            // ended by an operator, or the token was revoked: offline at once
	// The last two are not told to a Tracker; they are how a user was found to have left.
	EndNodeLost // the node that held the session was killed or cut off: offline with its lease
	EndAway     // any of the first, while the store was away: told once it is back
)

var endNames = [...]string{
	EndLost: "lost", EndClean: "bye", EndDrain: "drained", EndReload: "reload", EndSilent: "silent", EndStuck: "stuck",
	EndExpired: "expired", EndOperator: "operator", EndNodeLost: "node_lost", EndAway: "redis_away",
}

// String is the end's stable name, as in metrics.
func (e End) String() string { return endNames[e] }

// AtOnce reports whether the user is offline at once, if it was its last session.
func (e End) AtOnce() bool { return e == EndClean || e == EndOperator }

// Ends are all ends.
func Ends() []End {
	all := make([]End, len(endNames))
	for i := range all {
		all[i] = End(i)
	}
	return all
}

// EndOf is the end of a name; false if there is none.
func EndOf(name string) (End, bool) {
	i := slices.Index(endNames[:], name)
	return End(max(i, 0)), i >= 0 //nolint:gosec // G115: a few
}

// Departure is a user's being found to have left.
type Departure struct {
	How End
	// After is from when its last session really ended, as well as the nodes know, to
	// the publication. The time for which the store was away counts only in EndAway.
	After time.Duration
}

// CheckIdentity returns nil for an identity that may be used: 1 to MaxIdentity
// bytes of valid UTF-8. Any character is allowed. The error is ErrIdentityEmpty,
// ErrIdentityTooLong or ErrIdentityEncoding.
func CheckIdentity(identity string) error {
	switch {
	case identity == "":
		return ErrIdentityEmpty
	case len(identity) > MaxIdentity:
		return ErrIdentityTooLong
	case !utf8.ValidString(identity):
		return ErrIdentityEncoding
	}
	return nil
}

// CheckFriendlyName returns nil for a friendly name of at most MaxFriendlyName
// characters, else ErrFriendlyName.
func CheckFriendlyName(name string) error {
	if utf8.RuneCountInString(name) > MaxFriendlyName {
		return ErrFriendlyName
	}
	return nil
}

// CheckAttributes returns nil for attributes that are JSON text of at most limit
// bytes and not too deep, else ErrAttributesTooLong, ErrAttributes or ErrAttributesDepth.
func CheckAttributes(text string, limit int) error {
	switch {
	case len(text) > limit:
		return ErrAttributesTooLong
	case !json.Valid([]byte(text)):
		return ErrAttributes
	case depth(text) > MaxAttributesDepth:
		return ErrAttributesDepth
	}
	return nil
}

// depth is how deeply objects and arrays lie in each other in valid JSON.
func depth(text string) (deepest int) {
	d, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"':
			quoted = !quoted
		case quoted && c == '\\':
			i++ // what follows ends no string
		case quoted:
		case c == '{' || c == '[':
			d++
			deepest = max(deepest, d)
		case c == '}' || c == ']':
			d--
		}
	}
	return deepest
}

// IsSID reports whether s is a SID with the given two-letter prefix.
func IsSID(s, prefix string) bool {
	if len(s) != 34 || !strings.HasPrefix(s, prefix) {
		return false
	}
	for _, c := range []byte(s[2:]) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
			return false
		}
	}
	return true
}
