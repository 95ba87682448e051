package fanout

import (
	"hash/maphash"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rollcall-presence/rollcall/presence"
)

// partition is a shard of the Hub: the users of one partition of the store.
type partition struct {
	mu     sync.Mutex // guards the following and its topics
	topics map[topicKey]*topic
	cursor presence.Cursor
	clock  uint64 // counts events and reads taken in
	held   bool   // the topics hold one listener of the bus
	queued bool   // for repair
}

type topicKey struct {
	tenant   *tenant
	identity string
}

// tenant is a service with a session here.
type tenant struct {
	sid   string
	users int // guarded by Hub.mu: boxes attached
	// The service as last told; nil before anyone asked.
	service atomic.Pointer[presence.Service]

	mu    sync.Mutex // guards the following
	boxes []*Mailbox
}

// topic is a user that sessions here listen to. All is guarded by its partition.
type topic struct {
	topicKey
	rec record // as the store has it: an event may overtake the news of its service's switch
	// Hashes of the profile, 0 while unknown: enough to tell that it changed.
	name, attributes uint64
	// As shown to subscribers.
	shown              int64 // revision
	online, notifiable presence.Tri
	seen               bool // anything was shown

	told uint64 // the partition's clock when an event or a read was last taken in

	// Subscribers; one is the first, and never nil while there are more.
	one  *subscription
	more []*subscription
}

// record is a user as the store has it.
type record struct {
	sid                    string
	rev                    int64
	epoch, notifiableEpoch int64
	last                   int64 // last online, ms; 0 if never
	online, notifiable     presence.Tri
}

var seed = maphash.MakeSeed()

// digest is a hash of a profile value; never 0.
func digest(s string) uint64 { return maphash.String(seed, s) | 1 }

func digestName(name *string) uint64 {
	if name == nil {
		return 2
	}
	return digest(*name)
}

func digestAttributes(a string) uint64 {
	if a == "" { // of no user
		a = "{}"
	}
	return digest(a)
}

func (t *topic) subscribers() int {
	if t.one == nil {
		return 0
	}
	return 1 + len(t.more)
}

func (t *topic) add(s *subscription) {
	if t.one == nil {
		t.one, s.at = s, 0
		return
	}
	t.more = append(t.more, s)
	s.at = int32(len(t.more)) //nolint:gosec // a node has far fewer sessions
}

func (t *topic) remove(s *subscription) {
	if s.at < 0 {
		return
	}
	last, n := t.one, len(t.more)
	if n > 0 {
		last = t.more[n-1]
		t.more[n-1] = nil
		t.more = t.more[:n-1]
	} else {
		t.one = nil
	}
	if last != s {
		last.at = s.at
		if s.at == 0 {
			t.one = last
		} else {
			t.more[s.at-1] = last
		}
	}
	s.at = -1
	switch n = len(t.more); {
	case n == 0:
		t.more = nil
	case cap(t.more) >= 64 && n <= cap(t.more)/4:
		t.more = append(make([]*subscription, 0, 2*n), t.more...)
	}
}

// event takes in a published change.
func (t *topic) event(e *presence.Event) outcome {
	u := &e.User
	if u.Rev <= t.rec.rev {
		return outcome{stale: true}
	}
	reasons := e.Reasons &^ presence.Reachability
	if e.Deleted {
		reasons = 0
	}
	sid := t.rec.sid
	t.record(u)
	if sid != t.rec.sid {
		t.name, t.attributes = digestName(nil), digestAttributes("")
	}
	if reasons&presence.ReasonFriendlyName != 0 {
		t.name = digestName(u.FriendlyName)
	}
	if reasons&presence.ReasonAttributes != 0 {
		t.attributes = digestAttributes(u.Attributes)
	}
	return outcome{update: t.look(reasons, sid != t.rec.sid, u)}
}

// outcome is what became of an event or a read.
type outcome struct {
	update *Update // to dispatch, or nil
	stale  bool    // it was not taken in
}

// read takes in the user as read from the store, by a read that began at a time of
// the partition's clock: for own, which gets a snapshot, or for a repair if own is
// nil.
//
// The store's word is the truth, also where it is older than the topic: it lost
// data then. So a read during which anything else was taken in tells nothing:
// which of the two is newer cannot be said.
func (t *topic) read(u *presence.User, began uint64, own *subscription) outcome {
	if t.told > began {
		return outcome{stale: true}
	}
	name, attributes := digestName(u.FriendlyName), digestAttributes(u.Attributes)
	if u.SID != t.rec.sid && t.name != 0 { // another user, or none: no profile is known of it
		t.name, t.attributes = digestName(nil), digestAttributes("")
	}
	// Others wait for snapshots of their own while a hash is unknown; theirs may be
	// read already, and older than this one.
	alone := own != nil && t.subscribers() == 1
	var reasons presence.Reasons
	if u.SID != "" && t.name != name && (t.name != 0 || !alone) {
		reasons |= presence.ReasonFriendlyName
	}
	if u.SID != "" && t.attributes != attributes && (t.attributes != 0 || !alone) {
		reasons |= presence.ReasonAttributes
	}
	before := t.rec
	t.name, t.attributes = name, attributes
	t.record(u)
	if u.SID == "" && before.sid == "" {
		t.rec.rev = before.rev // of the deletion, which the store does not keep
	}
	if alone && !t.seen { // its snapshot will tell
		v := t.view()
		t.online, t.notifiable = v.Online, v.Notifiable
		return outcome{}
	}
	return outcome{update: t.look(reasons, before.sid != t.rec.sid, u)}
}

func (t *topic) record(u *presence.User) {
	sid := t.rec.sid
	if u.SID != sid {
		sid = strings.Clone(u.SID) // not the message it is part of
	}
	t.rec = record{
		sid: sid, rev: u.Rev, epoch: u.Epoch, notifiableEpoch: u.NotifiableEpoch,
		online: u.Online, notifiable: u.Notifiable,
	}
	if !u.LastOnline.IsZero() {
		t.rec.last = u.LastOnline.UnixMilli()
	}
}

func (t *topic) view() presence.Snapshot {
	u := presence.User{
		Key: presence.Key{Service: t.tenant.sid, Identity: t.identity}, SID: t.rec.sid, Rev: t.rec.rev,
		Online: t.rec.online, Notifiable: t.rec.notifiable,
		Epoch: t.rec.epoch, NotifiableEpoch: t.rec.notifiableEpoch,
	}
	if t.rec.last != 0 {
		u.LastOnline = time.UnixMilli(t.rec.last).UTC()
	}
	return t.tenant.service.Load().View(u)
}

// look compares what can be seen of the user with what was shown, and returns the
// update that tells the difference, or nil; u has the profile values that reasons
// names. The update's revision is above the last shown, also where the store's own
// fell back.
func (t *topic) look(reasons presence.Reasons, another bool, u *presence.User) *Update {
	v := t.view()
	if v.Online != t.online {
		reasons |= presence.ReasonOnline
	}
	if v.Notifiable != t.notifiable {
		reasons |= presence.ReasonNotifiable
	}
	if reasons == 0 && !another {
		return nil
	}
	v.Rev = max(v.Rev, t.shown+1)
	t.shown, t.online, t.notifiable, t.seen = v.Rev, v.Online, v.Notifiable, true
	if reasons&presence.ReasonFriendlyName != 0 {
		v.FriendlyName = u.FriendlyName
	}
	if reasons&presence.ReasonAttributes != 0 {
		v.Attributes = u.Attributes
	}
	return &Update{Service: t.tenant.sid, Reasons: reasons, Another: another, View: v}
}

// flips is as far as flips of the switch put a service's revision ahead of the clock: 1 s each.
const flips = 60_000

// ahead tells that the user last changed at about the time of a flip, which put the
// service's revision ahead of the clock: its state before the change is known by that
// revision, too, on nodes that showed it.
func (t *topic) ahead() bool {
	flip := t.tenant.service.Load().Rev
	return t.rec.sid != "" && t.rec.rev <= flip && t.rec.rev > flip-flips
}

// snapshot is the user as a new subscriber sees it: the newest reachability, and
// the profile as it read it, or as what waits for it tells since. known is the
// revision that the subscriber was told elsewhere, if any.
func (t *topic) snapshot(u *presence.User, waiting *Update, known int64) presence.Snapshot {
	v := t.view()
	v.Rev = max(v.Rev, t.shown)
	if known == v.Rev && t.ahead() {
		v.Rev++
	}
	v.Online, v.Notifiable = t.online, t.notifiable
	t.shown, t.seen = v.Rev, true
	if v.SID == "" {
		return v
	}
	if u.SID == v.SID {
		v.FriendlyName, v.Attributes = u.FriendlyName, u.Attributes
	}
	if waiting != nil && waiting.Reasons&presence.ReasonFriendlyName != 0 {
		v.FriendlyName = waiting.View.FriendlyName
	}
	if waiting != nil && waiting.Reasons&presence.ReasonAttributes != 0 {
		v.Attributes = waiting.View.Attributes
	}
	if v.Attributes == "" { // created since it was read
		v.Attributes = "{}"
	}
	return v
}
