package presencetest

import (
	"slices"
	"strings"
	"time"

	"github.com/rollcall-presence/rollcall/presence"
)

// address is what is bound once in a service.
type address struct {
	service string
	push    presence.PushType
	address string
}

type binding struct {
	expires    time.Time
	credential string
}

// Bind is a device of a user being registered in a service as it is now.
func (m *Model) Bind(now time.Time, k presence.Key, s presence.Service, r presence.Registration) ([]Transition, error) {
	m.part(m.Partition(k))
	u := m.users[k]
	if u == nil {
		return nil, presence.ErrNoUser
	}
	a := address{k.Service, r.Type, r.Address}
	if _, ok := u.bindings[a]; !ok && len(u.bindings) == presence.MaxBindings {
		return nil, presence.ErrTooManyBindings
	}
	u.bindings[a] = binding{now.Add(r.Life), r.Credential}
	if s.Enabled {
		u.notifiableEpoch = max(u.notifiableEpoch, s.Epoch)
	}
	var out []Transition
	if u.notifiable != presence.True {
		u.notifiable = presence.True
		out = append(out, u.event(k, presence.ReasonNotifiable))
	}
	was, owned := m.owner[a]
	m.owner[a] = k
	if owned && was != k {
		out = append(out, m.unbind(was, s, a)...)
		m.owner[a] = k
	}
	return out, nil
}

// Unbind is a device of a user being taken off.
func (m *Model) Unbind(k presence.Key, s presence.Service, push presence.PushType, addr string) ([]Transition, error) {
	a := address{k.Service, push, addr}
	if u := m.users[k]; u == nil || u.bindings[a] == (binding{}) {
		return nil, presence.ErrNoBinding
	}
	return m.unbind(k, s, a), nil
}

func (m *Model) unbind(k presence.Key, s presence.Service, a address) []Transition {
	u := m.users[k]
	delete(u.bindings, a)
	delete(m.owner, a)
	if len(u.bindings) > 0 || u.notifiable != presence.True {
		return nil
	}
	if s.Enabled {
		u.notifiableEpoch = max(u.notifiableEpoch, s.Epoch)
	}
	u.notifiable = presence.False
	return []Transition{u.event(k, presence.ReasonNotifiable)}
}

// due are the bindings of a partition that have expired.
func (m *Model) due(now time.Time, q presence.Partition) (list []address) {
	for a, k := range m.owner {
		if m.Partition(k) == q && !m.users[k].bindings[a].expires.After(now) {
			list = append(list, a)
		}
	}
	// so that of a user's last two the same one is the last each time
	slices.SortFunc(list, func(a, b address) int { return strings.Compare(a.address, b.address) })
	return list
}

// Expire removes what has expired in a partition; find tells of a service as it is now.
func (m *Model) Expire(now time.Time, q presence.Partition, find func(sid string) presence.Service) (n int, out []Transition) {
	for _, a := range m.due(now, q) {
		n++
		out = append(out, m.unbind(m.owner[a], find(a.service), a)...)
	}
	return n, out
}

// DeleteCredential removes all that is bound with a credential.
func (m *Model) DeleteCredential(sid string, find func(sid string) presence.Service) (out []Transition) {
	for a, k := range m.owner {
		if m.users[k].bindings[a].credential == sid {
			out = append(out, m.unbind(k, find(a.service), a)...)
		}
	}
	return out
}

// Notifiable is the recorded state of a user's bindings.
func (m *Model) Notifiable(k presence.Key) (notifiable presence.Tri, epoch int64, bindings int) {
	u := m.users[k]
	if u == nil {
		return 0, 0, 0
	}
	return u.notifiable, u.notifiableEpoch, len(u.bindings)
}
