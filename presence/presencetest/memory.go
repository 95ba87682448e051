package presencetest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/rollcall-presence/rollcall/presence"
)

// Memory is a presence.Store and presence.ServiceStore in memory: the Model behind a
// mutex, on the clock of the process, so that it can run in a synctest bubble. The
// zero value has one partition, a lease of 10 s, and no services.
type Memory struct {
	// Published is called with each transition, in order, under the lock.
	Published func(Transition)
	// Before, if set, is called before each Register and End, without the lock.
	Before func(method string)

	mu       sync.Mutex // guards the following
	model    *Model
	services map[string]presence.Service
	changes  uint64
	run      int
	away     bool
	mute     bool
	users    int // ever made
	calls    map[string]int
}

var errAway = &presence.Error{Op: "memory", Kind: presence.KindUnavailable}

func (m *Memory) lock() error {
	m.mu.Lock()
	if m.model == nil {
		m.model = &Model{Lease: 10 * time.Second, Stall: 5 * time.Second, Partition: m.Partition}
		m.services, m.calls = map[string]presence.Service{}, map[string]int{}
	}
	if m.away {
		m.mu.Unlock()
		return errAway
	}
	return nil
}

// SetAway makes every call fail, or work again.
func (m *Memory) SetAway(away bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.away = away
}

// SetMute has registering and ending happen but fail, as when the answer is lost.
func (m *Memory) SetMute(mute bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mute = mute
}

// answer is what a caller gets of what happened.
func (m *Memory) answer(r presence.Registered) (presence.Registered, error) {
	if m.mute {
		return presence.Registered{}, errAway
	}
	return r, nil
}

func (m *Memory) before(method string) {
	if m.Before != nil {
		m.Before(method)
	}
}

// Lose forgets all services, users and sessions, as a store that lost its data does.
func (m *Memory) Lose() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.model = &Model{Lease: m.model.Lease, Stall: m.model.Stall, Partition: m.Partition}
	m.services, m.changes = map[string]presence.Service{}, 0
	m.run++
}

// Calls returns how often each method was called since the last time.
func (m *Memory) Calls() map[string]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	calls := m.calls
	m.calls = map[string]int{}
	return calls
}

// SetService makes or changes a service; switching it on is a new epoch.
func (m *Memory) SetService(v presence.Service) {
	if m.lock() != nil {
		return
	}
	defer m.mu.Unlock()
	old := m.services[v.SID]
	v.Epoch = old.Epoch
	if v.Enabled && !old.Enabled {
		v.Epoch++
	}
	m.services[v.SID] = v
	m.changes++
}

// RemoveService deletes a service's record.
func (m *Memory) RemoveService(sid string) {
	if m.lock() != nil {
		return
	}
	defer m.mu.Unlock()
	delete(m.services, sid)
	m.changes++
}

// Remove deletes a user.
func (m *Memory) Remove(k presence.Key) {
	if m.lock() != nil {
		return
	}
	defer m.mu.Unlock()
	m.publish(m.model.Delete(k))
}

// User returns what is recorded of a user.
func (m *Memory) User(k presence.Key) (online presence.Tri, sessions int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	online, _, sessions, _ = m.model.User(k)
	return online, sessions
}

func (m *Memory) publish(list []Transition) {
	for _, t := range list {
		if m.Published != nil {
			m.Published(t)
		}
	}
}

// Partition implements presence.Store.
func (m *Memory) Partition(presence.Key) presence.Partition { return 0 }

// Partitions implements presence.Store.
func (m *Memory) Partitions() int { return 1 }

// Service implements presence.ServiceStore.
func (m *Memory) Service(_ context.Context, sid string) (presence.Service, error) {
	if err := m.lock(); err != nil {
		return presence.Service{}, err
	}
	defer m.mu.Unlock()
	m.calls["Service"]++
	v, ok := m.services[sid]
	if !ok {
		return v, presence.ErrNoService
	}
	return v, nil
}

// BeatServices implements presence.ServiceStore.
func (m *Memory) BeatServices(context.Context) (string, uint64, error) {
	if err := m.lock(); err != nil {
		return "", 0, err
	}
	defer m.mu.Unlock()
	return m.runLocked(), m.changes, nil
}

func (m *Memory) runLocked() string { return fmt.Sprint("run", m.run) }

// RestoreService implements presence.ServiceStore.
func (m *Memory) RestoreService(_ context.Context, v presence.Service, run string) (presence.Service, error) {
	if err := m.lock(); err != nil {
		return presence.Service{}, err
	}
	defer m.mu.Unlock()
	have, ok := m.services[v.SID]
	switch {
	case ok && v.Rev > have.Rev:
		have.Enabled, have.Epoch, have.Rev = v.Enabled, v.Epoch, v.Rev
		m.services[v.SID] = have
		m.changes++
		return have, nil
	case ok:
		return have, nil
	case run == "" || run == m.runLocked():
		return presence.Service{}, presence.ErrNoService
	}
	m.services[v.SID] = v
	m.changes++
	return v, nil
}

// Register implements presence.Store.
func (m *Memory) Register(_ context.Context, p presence.Partition, n presence.NodeID, list []presence.Held) (presence.Registered, error) {
	m.before("Register")
	if err := m.lock(); err != nil {
		return presence.Registered{}, err
	}
	defer m.mu.Unlock()
	m.calls["Register"]++
	r, ts := m.model.Register(time.Now(), n, p, list)
	for _, h := range list {
		m.sid(h.Key)
	}
	m.publish(ts)
	return m.answer(r)
}

// Open implements presence.Store.
func (m *Memory) Open(ctx context.Context, p presence.Partition, n presence.NodeID, h presence.Held) (presence.Registered, presence.User, error) {
	r, err := m.Register(ctx, p, n, []presence.Held{h})
	if err != nil {
		return r, presence.User{}, err
	}
	u, err := m.EnsureUser(ctx, h.Key, h.Service)
	return r, u, err
}

// sid is a user's, which is chosen when it is first asked for.
func (m *Memory) sid(k presence.Key) string {
	m.users++
	return m.model.SID(k, fmt.Sprintf("US%032x", m.users))
}

// EnsureUser implements presence.Store.
func (m *Memory) EnsureUser(_ context.Context, k presence.Key, _ presence.Service) (presence.User, error) {
	if err := m.lock(); err != nil {
		return presence.User{}, err
	}
	defer m.mu.Unlock()
	m.publish(m.model.Ensure(k))
	online, epoch, _, _ := m.model.User(k)
	notifiable, nepoch, _ := m.model.Notifiable(k)
	return presence.User{Key: k, SID: m.sid(k), Online: online, Epoch: epoch, Notifiable: notifiable, NotifiableEpoch: nepoch}, nil
}

// End implements presence.Store.
func (m *Memory) End(_ context.Context, p presence.Partition, n presence.NodeID, list []presence.Ended) (presence.Registered, error) {
	m.before("End")
	if err := m.lock(); err != nil {
		return presence.Registered{}, err
	}
	defer m.mu.Unlock()
	m.calls["End"]++
	r, ts := m.model.End(time.Now(), n, p, list)
	m.publish(ts)
	return m.answer(r)
}

// Beat implements presence.Store.
func (m *Memory) Beat(_ context.Context, ps []presence.Partition, n presence.NodeID) ([]presence.Beat, []error) {
	beats, errs := make([]presence.Beat, len(ps)), make([]error, len(ps))
	if err := m.lock(); err != nil {
		return beats, slices.Repeat([]error{err}, len(ps))
	}
	defer m.mu.Unlock()
	for i, p := range ps {
		var ts []Transition
		m.calls["Beat"]++
		beats[i], ts = m.model.Beat(time.Now(), n, p)
		m.publish(ts)
	}
	return beats, errs
}

// ExpireBindings implements presence.Store.
func (m *Memory) ExpireBindings(_ context.Context, p presence.Partition) (int, error) {
	if err := m.lock(); err != nil {
		return 0, err
	}
	defer m.mu.Unlock()
	m.calls["ExpireBindings"]++
	n, ts := m.model.Expire(time.Now(), p, func(sid string) presence.Service { return m.services[sid] })
	m.publish(ts)
	return n, nil
}

// Bind registers an address for a user.
func (m *Memory) Bind(_ context.Context, k presence.Key, r presence.Registration) (presence.Binding, error) {
	if err := m.lock(); err != nil {
		return presence.Binding{}, err
	}
	defer m.mu.Unlock()
	ts, err := m.model.Bind(time.Now(), k, m.services[k.Service], r)
	m.publish(ts)
	return presence.Binding{Key: k, Type: r.Type, Address: r.Address, Expires: time.Now().Add(r.Life)}, err
}

// Sessions implements presence.Store.
func (m *Memory) Sessions(_ context.Context, p presence.Partition, n presence.NodeID) (list []presence.Ended, err error) {
	if err := m.lock(); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	for _, s := range slices.Sorted(maps.Keys(m.model.Held(n, p))) {
		list = append(list, presence.Ended{Key: m.model.Held(n, p)[s], ID: s})
	}
	return list, nil
}

// Leave implements presence.Store.
func (m *Memory) Leave(_ context.Context, ps []presence.Partition, n presence.NodeID, handover time.Duration) error {
	if err := m.lock(); err != nil {
		return err
	}
	defer m.mu.Unlock()
	for _, p := range ps {
		m.model.Leave(time.Now(), n, p, handover)
	}
	return nil
}
