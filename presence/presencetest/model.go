// Package presencetest holds what a presence store must do: a model of the rules in
// plain Go, and a suite that compares a store with it.
package presencetest

import (
	"maps"
	"slices"
	"time"

	"github.com/rollcall-presence/rollcall/presence"
)

// Model is the rules of the store once more, without Redis: what each operation
// does to the state, and which transitions it publishes. It is the specification
// that property tests hold the scripts against. Time is given by the caller.
type Model struct {
	Lease, Stall time.Duration
	Partition    func(presence.Key) presence.Partition

	users map[presence.Key]*user
	// deleted are the SIDs of deleted users.
	deleted map[string]bool
	// owner is which user of a service has an address.
	owner map[address]presence.Key
	parts map[presence.Partition]*partition
}

type user struct {
	sid      string // "" while the store has chosen one that the model was not told of
	online   presence.Tri
	epoch    int64
	sessions map[presence.SessionID]presence.NodeID

	notifiable      presence.Tri
	notifiableEpoch int64
	bindings        map[address]binding
}

type partition struct {
	leases map[presence.NodeID]time.Time
	held   map[presence.NodeID]map[presence.SessionID]presence.Key
	end    map[presence.NodeID]map[presence.SessionID]bool
	ops    map[presence.NodeID]int64
	linger map[presence.Key]time.Time
	away   map[presence.Key]time.Duration // of who lingers: for how long it will have been away then
	beat   time.Time
}

// Transition is a published event, less its revision.
type Transition struct {
	Key    presence.Key
	Online presence.Tri
	Epoch  int64
	// Notifiable and its epoch.
	Notifiable      presence.Tri
	NotifiableEpoch int64

	Reasons presence.Reasons
	Deleted bool
}

func (m *Model) part(p presence.Partition) *partition {
	if m.parts == nil {
		m.parts, m.users, m.owner = map[presence.Partition]*partition{}, map[presence.Key]*user{}, map[address]presence.Key{}
		m.deleted = map[string]bool{}
	}
	if m.parts[p] == nil {
		m.parts[p] = &partition{
			leases: map[presence.NodeID]time.Time{}, held: map[presence.NodeID]map[presence.SessionID]presence.Key{},
			end: map[presence.NodeID]map[presence.SessionID]bool{}, ops: map[presence.NodeID]int64{}, linger: map[presence.Key]time.Time{},
			away: map[presence.Key]time.Duration{},
		}
	}
	return m.parts[p]
}

func set[K, I comparable, V any](m map[K]map[I]V, k K, i I, v V) {
	if m[k] == nil {
		m[k] = map[I]V{}
	}
	m[k][i] = v
}

func (u *user) event(k presence.Key, r presence.Reasons) Transition {
	return Transition{Key: k, Online: u.online, Epoch: u.epoch, Notifiable: u.notifiable, NotifiableEpoch: u.notifiableEpoch, Reasons: r}
}

// Register is a node recording sessions of one partition.
func (m *Model) Register(now time.Time, n presence.NodeID, q presence.Partition, list []presence.Held) (r presence.Registered, out []Transition) {
	p := m.part(q)
	p.ops[n]++
	r.Ops = p.ops[n]
	if _, ok := p.leases[n]; !ok {
		p.leases[n] = now.Add(m.Lease - m.silence(p, now))
		if p.beat.IsZero() {
			p.beat = now
		}
	}
	for _, h := range list {
		o, ts := m.register(p, n, h)
		r.Outcomes, out = append(r.Outcomes, o), append(out, ts...)
	}
	return r, out
}

func (m *Model) register(p *partition, n presence.NodeID, h presence.Held) (presence.Outcome, []Transition) {
	if p.end[n][h.ID] || m.deleted[h.UserSID] {
		return presence.Refused, nil
	}
	u, exists := m.users[h.Key]
	if !exists {
		u = m.create(h.Key, h.UserSID)
	}
	if _, had := u.sessions[h.ID]; !had {
		delete(p.linger, h.Key)
	}
	u.sessions[h.ID] = n
	set(p.held, n, h.ID, h.Key)
	outcome := presence.Unchanged
	if h.Service.Enabled && (u.online != presence.True || u.epoch < h.Service.Epoch) {
		u.epoch = max(u.epoch, h.Service.Epoch) // the node may be behind
		outcome = presence.Changed
	}
	u.online = presence.True
	switch {
	case outcome == presence.Changed:
		return outcome, []Transition{u.event(h.Key, presence.ReasonOnline)}
	case !exists:
		return outcome, []Transition{u.event(h.Key, 0)}
	}
	return outcome, nil
}

func (m *Model) create(k presence.Key, sid string) *user {
	u := &user{sid: sid, sessions: map[presence.SessionID]presence.NodeID{}, bindings: map[address]binding{}}
	m.users[k] = u
	return u
}

// Ensure makes a user, if there is none, without making it online.
func (m *Model) Ensure(k presence.Key) []Transition {
	m.part(m.Partition(k))
	if m.users[k] != nil {
		return nil
	}
	return []Transition{m.create(k, "").event(k, 0)}
}

// SID is the SID of a user. What the store chose is learnt here, the first time.
func (m *Model) SID(k presence.Key, chosen string) string {
	u := m.users[k]
	if u == nil {
		return ""
	}
	if u.sid == "" {
		u.sid = chosen
	}
	return u.sid
}

// orphan reports whether k is recorded online without a session.
func (m *Model) orphan(k presence.Key) bool {
	u := m.users[k]
	return u != nil && len(u.sessions) == 0 && u.online == presence.True
}

func (m *Model) offline(k presence.Key) Transition {
	m.users[k].online = presence.False
	return m.users[k].event(k, presence.ReasonOnline)
}

// End is a node reporting that sessions of one partition ended.
func (m *Model) End(now time.Time, n presence.NodeID, q presence.Partition, list []presence.Ended) (r presence.Registered, out []Transition) {
	p := m.part(q)
	p.ops[n]++
	r.Ops = p.ops[n]
	for _, e := range list {
		o, ts := m.end(p, now, n, e)
		r.Outcomes, out = append(r.Outcomes, o), append(out, ts...)
	}
	return r, out
}

func (m *Model) end(p *partition, now time.Time, n presence.NodeID, e presence.Ended) (presence.Outcome, []Transition) {
	delete(p.held[n], e.ID)
	delete(p.end[n], e.ID)
	removed := false
	if u := m.users[e.Key]; u != nil {
		_, removed = u.sessions[e.ID]
		delete(u.sessions, e.ID)
	}
	due, lingers := p.linger[e.Key]
	last := m.orphan(e.Key)
	ago := time.Duration(0)
	if !e.Left.IsZero() {
		ago = max(0, now.Sub(e.Left))
	}
	switch {
	case !removed && (!last || lingers):
		return presence.Unchanged, nil
	case e.Linger > 0:
		p.cover(e.Key, now.Add(e.Linger-m.silence(p, now)), e.Linger+ago)
		if !last {
			return presence.Unchanged, nil
		}
		return presence.Lingering, nil
	case !last:
		return presence.Unchanged, nil
	case lingers && due.Add(m.silence(p, now)-p.away[e.Key]).After(now.Add(-ago)):
		return presence.Lingering, nil // for a session that ended later
	}
	delete(p.linger, e.Key)
	if e.Service.Enabled {
		u := m.users[e.Key]
		u.epoch = max(u.epoch, e.Service.Epoch)
	}
	return presence.Changed, []Transition{m.offline(e.Key)}
}

// cover has a user not be shown offline before a time, whatever becomes of its sessions until then.
func (p *partition) cover(k presence.Key, due time.Time, away time.Duration) {
	if have, ok := p.linger[k]; !ok || have.Before(due) {
		p.linger[k], p.away[k] = due, away
	}
}

// silence is for how long nobody has beaten, if that is so long that nobody could. The next heartbeat moves all
// deadlines by it, those that were set meanwhile too.
func (m *Model) silence(p *partition, now time.Time) time.Duration {
	if gap := now.Sub(p.beat); !p.beat.IsZero() && gap > m.Stall {
		return gap
	}
	return 0
}

// Beat is a node's heartbeat in one partition.
func (m *Model) Beat(now time.Time, n presence.NodeID, q presence.Partition) (presence.Beat, []Transition) {
	p := m.part(q)
	var b presence.Beat
	var out []Transition
	if gap := m.silence(p, now); gap > 0 {
		b.Stalled = gap
		for d := range p.leases {
			p.leases[d] = p.leases[d].Add(gap)
		}
		for k := range p.linger {
			p.linger[k] = p.linger[k].Add(gap)
		}
	}
	p.beat = now
	p.leases[n] = now.Add(m.Lease)
	for _, dead := range slices.Collect(maps.Keys(p.leases)) {
		if p.leases[dead].After(now) {
			continue
		}
		for s, k := range p.held[dead] {
			b.Reaped++
			delete(m.users[k].sessions, s)
			if _, lingers := p.linger[k]; m.orphan(k) && !lingers {
				b.OfflineByLease++
				out = append(out, m.offline(k))
			}
		}
		delete(p.leases, dead)
		delete(p.held, dead)
		delete(p.ops, dead)
	}
	for k, due := range p.linger {
		if due.After(now) {
			continue
		}
		delete(p.linger, k)
		if m.orphan(k) {
			b.OfflineByLinger++
			out = append(out, m.offline(k))
		}
	}
	b.Bindings = len(m.due(now, q))
	b.Ops = p.ops[n]
	b.End = slices.Sorted(maps.Keys(p.end[n]))
	return b, out
}

// Leave is a node giving up its lease in one partition.
func (m *Model) Leave(now time.Time, n presence.NodeID, q presence.Partition, handover time.Duration) {
	p := m.part(q)
	for s, k := range p.held[n] {
		delete(m.users[k].sessions, s)
		p.cover(k, now.Add(handover-m.silence(p, now)), handover)
	}
	delete(p.leases, n)
	delete(p.held, n)
	delete(p.end, n)
	delete(p.ops, n)
}

// EndSessions is the operator ending a session of a user, or all where id is "".
func (m *Model) EndSessions(k presence.Key, service presence.Service, id presence.SessionID) (ended int, out []Transition) {
	p := m.part(m.Partition(k))
	u := m.users[k]
	if u == nil {
		return 0, nil
	}
	for s, n := range u.sessions {
		if id == "" || id == s {
			m.expel(p, u, n, s)
			ended++
		}
	}
	if (ended > 0 || id == "") && m.orphan(k) {
		delete(p.linger, k)
		if service.Enabled {
			u.epoch = max(u.epoch, service.Epoch)
		}
		out = []Transition{m.offline(k)}
	}
	return ended, out
}

func (m *Model) expel(p *partition, u *user, n presence.NodeID, s presence.SessionID) {
	delete(u.sessions, s)
	delete(p.held[n], s)
	set(p.end, n, s, true)
}

// Delete is the deletion of a user.
func (m *Model) Delete(k presence.Key) []Transition {
	m.part(m.Partition(k))
	u := m.users[k]
	if u == nil {
		return nil
	}
	m.remove(k)
	if u.sid != "" {
		m.deleted[u.sid] = true
	}
	return []Transition{{Key: k, Deleted: true}}
}

func (m *Model) remove(k presence.Key) {
	p, u := m.part(m.Partition(k)), m.users[k]
	for s, n := range u.sessions {
		m.expel(p, u, n, s)
	}
	for a := range u.bindings {
		delete(m.owner, a)
	}
	delete(m.users, k)
	delete(p.linger, k)
}

// Purge is what the deletion of a service does to its users.
func (m *Model) Purge(service string) {
	for k := range m.users {
		if k.Service == service {
			m.remove(k)
		}
	}
}

// Clone is a copy that has nothing in common with m.
func (m *Model) Clone() *Model {
	c := &Model{Lease: m.Lease, Stall: m.Stall, Partition: m.Partition}
	c.part(0)
	for k, u := range m.users {
		d := *u
		d.sessions, d.bindings = maps.Clone(u.sessions), maps.Clone(u.bindings)
		c.users[k] = &d
	}
	maps.Copy(c.owner, m.owner)
	maps.Copy(c.deleted, m.deleted)
	for q, p := range m.parts {
		c.parts[q] = &partition{
			leases: maps.Clone(p.leases), held: deep(p.held), end: deep(p.end), ops: maps.Clone(p.ops), linger: maps.Clone(p.linger), away: maps.Clone(p.away), beat: p.beat,
		}
	}
	return c
}

func deep[K, I comparable, V any](m map[K]map[I]V) map[K]map[I]V {
	c := make(map[K]map[I]V, len(m))
	for k, v := range m {
		c[k] = maps.Clone(v)
	}
	return c
}

// User is the recorded state of a user; false if there is no such user.
func (m *Model) User(k presence.Key) (online presence.Tri, epoch int64, sessions int, exists bool) {
	u := m.users[k]
	if u == nil {
		return 0, 0, 0, false
	}
	return u.online, u.epoch, len(u.sessions), true
}

// Held is what the store has of a node's sessions in a partition.
func (m *Model) Held(n presence.NodeID, q presence.Partition) map[presence.SessionID]presence.Key {
	return m.part(q).held[n]
}
