package redisstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rollcall-presence/rollcall/presence"
)

const sidLen = 34

// A binding lives in its user's partition, and which binding has an address is
// decided in the address's. A move takes three steps, any of which may be the last
// that a node takes: the address is claimed, the binding is written together with a
// note that it is to be settled, and then it is settled: whoever had the address
// loses it. Each step can be repeated. Two claims at once are put in order by the
// address's partition, and each settles after its binding is written, so that the
// one which lost finds that out.

// Bind implements presence.Bindings. It makes five round trips, and three more for a
// user that the address is taken from. If it fails with KindUnavailable, to
// repeat it finishes what was begun.
func (s *Store) Bind(ctx context.Context, k presence.Key, r presence.Registration) (presence.Binding, error) {
	if err := r.Check(); err != nil {
		return presence.Binding{}, err
	}
	service, err := s.serviceFor(ctx, k.Service, r)
	if err != nil {
		return presence.Binding{}, err
	}
	if len(r.MessageTypes) == 0 {
		r.MessageTypes = presence.MessageTypes()
	}
	r.MessageTypes = slices.DeleteFunc(presence.MessageTypes(), func(m string) bool { return !slices.Contains(r.MessageTypes, m) })
	if r.Life == 0 {
		r.Life = presence.MaxBindingLife
	}
	sid, address := s.keys.BindingSID(k, r.Type, r.Address), string(r.Type)+":"+r.Address
	if _, err := s.address(ctx, "claim", k.Service, address, sid); err != nil {
		return presence.Binding{}, err
	}
	reply, err := s.run(ctx, "bind", bindScript, s.Partition(k), k.Service, k.Identity, sid, string(r.Type), r.Address, r.Credential,
		strings.Join(r.MessageTypes, ","), ms(r.Life), presence.MaxBindings, epochIfOn(service), service.Rev)
	if err != nil {
		return presence.Binding{}, err
	}
	text, _ := reply.(string)
	if text == "missing" || text == "full" {
		// A claim that stays, should this fail, gives way to the next.
		_, _ = s.address(ctx, "undo", k.Service, address, sid)
		if text == "full" {
			return presence.Binding{}, presence.ErrTooManyBindings
		}
		return presence.Binding{}, presence.ErrNoUser
	}
	b, err := bindingOf(k, sid, text)
	if err != nil {
		return presence.Binding{}, err
	}
	_ = s.settle(ctx, service, sid, address, true) // what fails is noted for a heartbeat
	return b, nil
}

// serviceFor reads the service of a registration and checks its credential, in one
// round trip.
func (s *Store) serviceFor(ctx context.Context, sid string, r presence.Registration) (presence.Service, error) {
	var service *redis.MapStringStringCmd
	var credential *redis.StringCmd
	_, err := s.client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		service = pipe.HGetAll(ctx, s.keys.Service(sid))
		if r.Credential != "" {
			credential = pipe.HGet(ctx, s.keys.Credential(r.Credential), "type")
		}
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return presence.Service{}, unavailable("bind", err)
	}
	switch {
	case service.Val()["sid"] == "":
		return presence.Service{}, presence.ErrNoService
	case credential != nil && credential.Val() == "":
		return presence.Service{}, presence.ErrNoCredential
	case credential != nil && credential.Val() != string(r.Type):
		return presence.Service{}, presence.ErrCredentialType
	}
	return serviceOf(service.Val()), nil
}

// epochIfOn is the service's epoch, 0 while its switch is off.
func epochIfOn(v presence.Service) int64 {
	if v.Enabled {
		return v.Epoch
	}
	return 0
}

// address runs address.lua, whose modes it tells of.
func (s *Store) address(ctx context.Context, mode, service, address, sid string) (list []string, err error) {
	p := s.Partition(presence.Key{Service: service, Identity: address})
	reply, err := s.run(ctx, mode+" address", addressScript, p, mode, service, address, sid)
	if err != nil {
		return nil, err
	}
	list, ok := texts(reply)
	if !ok || len(list) == 0 {
		return nil, malformed(mode+" address", reply)
	}
	return list, nil
}

// settle makes a binding and its address agree: what the address was taken from is
// removed, this binding too if another has the address, and the address is given up
// if the binding is gone. known tells that the binding is there.
func (s *Store) settle(ctx context.Context, service presence.Service, sid, address string, known bool) (err error) {
	p, _ := s.keys.OfSID(sid)
	there := func() (bool, error) {
		ok, err := s.client.HExists(ctx, s.keys.BindingSIDs(p, service.SID), sid).Result()
		if err != nil {
			err = unavailable("settle", err)
		}
		return ok, err
	}
	if !known {
		if known, err = there(); err != nil {
			return err
		}
	}
	var list []string
	if !known {
		if list, err = s.address(ctx, "release", service.SID, address, sid); err != nil {
			return err
		}
		// It may have been written meanwhile, and settled before the release.
		if known, err = there(); err != nil {
			return err
		}
	}
	if known {
		if list, err = s.address(ctx, "confirm", service.SID, address, sid); err != nil {
			return err
		}
	}
	stale := list[1:]
	switch {
	case known && list[0] != sid:
		stale = []string{sid}
	case list[0] != "" && list[0] != sid: // its own settling sees to them
		stale = nil
	}
	for _, lost := range stale {
		if _, err := s.unbind(ctx, "unregister_push", "", []unbinding{{service: service, sid: lost}}); err != nil {
			return err
		}
		if _, err := s.address(ctx, "release", service.SID, address, lost); err != nil {
			return err
		}
		if err := s.settled(ctx, service.SID, lost, address); err != nil {
			return err
		}
	}
	return s.settled(ctx, service.SID, sid, address)
}

func (s *Store) settled(ctx context.Context, service, sid, address string) error {
	p, ok := s.keys.OfSID(sid)
	if !ok {
		return malformed("settle", sid)
	}
	if err := s.client.ZRem(ctx, s.keys.Unsettled(p), service+sid+address).Err(); err != nil {
		return unavailable("settle", err)
	}
	return nil
}

// unbinding is a binding to remove; of an identity, or of any if that is empty.
type unbinding struct {
	service       presence.Service
	sid, identity string
}

// unbind removes bindings of one partition and returns the address of each, empty
// where there was none to remove.
func (s *Store) unbind(ctx context.Context, cause, credential string, list []unbinding) ([]string, error) {
	p, ok := s.keys.OfSID(list[0].sid)
	if !ok {
		return nil, malformed("unbind", list[0].sid)
	}
	args := []any{cause, credential}
	for _, u := range list {
		args = append(args, u.service.SID, u.sid, u.identity, epochIfOn(u.service), u.service.Rev)
	}
	reply, err := s.run(ctx, "unbind", unbindScript, p, args...)
	if err != nil {
		return nil, err
	}
	removed, ok := texts(reply)
	if !ok {
		return nil, malformed("unbind", reply)
	}
	return removed, nil
}

// Unbind implements presence.Bindings.
func (s *Store) Unbind(ctx context.Context, k presence.Key, sid string) error {
	if p, ok := s.keys.OfSID(sid); !ok || !presence.IsSID(sid, "BS") || p != s.Partition(k) {
		return presence.ErrNoBinding
	}
	service, err := s.Service(ctx, k.Service)
	if err != nil {
		return err
	}
	addresses, err := s.unbind(ctx, "unregister_push", "", []unbinding{{service, sid, k.Identity}})
	if err != nil {
		return err
	}
	if addresses[0] == "" {
		return presence.ErrNoBinding
	}
	_ = s.settle(ctx, service, sid, addresses[0], false) // what fails is noted for a heartbeat
	return nil
}

// UnbindAddress implements presence.Bindings.
func (s *Store) UnbindAddress(ctx context.Context, k presence.Key, t presence.PushType, address string) error {
	return s.Unbind(ctx, k, s.keys.BindingSID(k, t, address))
}

// ExpireBindings implements presence.Store. It makes a few round trips for each
// binding.
func (s *Store) ExpireBindings(ctx context.Context, p presence.Partition) (int, error) {
	reply, err := s.run(ctx, "bindings due", bindingsDueScript, p, presence.ExpireChunk)
	if err != nil {
		return 0, err
	}
	list, _ := reply.([]any)
	if len(list) == 0 {
		return 0, malformed("bindings due", reply)
	}
	n, ok := list[0].(int64)
	if !ok || n < 0 || int(n) >= len(list) {
		return 0, malformed("bindings due", list[0])
	}
	read := s.servicesOnce()
	var expired []unbinding
	var errs []error // one that cannot be settled does not keep the others
	for i, v := range list[1:] {
		member, _ := v.(string)
		if len(member) < 2*sidLen {
			errs = append(errs, malformed("bindings due", v))
			continue
		}
		service, exists, err := read(ctx, member[:sidLen])
		sid, address := member[sidLen:2*sidLen], member[2*sidLen:]
		switch {
		case err != nil:
		case i < int(n):
			expired = append(expired, unbinding{service: service, sid: sid})
		case exists:
			err = s.settle(ctx, service, sid, address, false)
		default: // all of it goes with the service
			err = s.settled(ctx, service.SID, sid, address)
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	removed, err := s.remove(ctx, "push_expired", "", expired)
	return removed, errors.Join(append(errs, err)...)
}

// servicesOnce reads services, each once. One that does not exist has no more than
// its SID.
func (s *Store) servicesOnce() func(context.Context, string) (presence.Service, bool, error) {
	have := map[string]presence.Service{}
	return func(ctx context.Context, sid string) (presence.Service, bool, error) {
		v, ok := have[sid]
		if !ok {
			var err error
			if v, err = s.Service(ctx, sid); err != nil && !errors.Is(err, presence.ErrNoService) {
				return v, false, err
			}
			have[sid] = v
		}
		exists := v.SID != ""
		v.SID = sid
		return v, exists, nil
	}
}

// remove unbinds bindings of one partition and settles their addresses. It returns
// how many there were.
func (s *Store) remove(ctx context.Context, cause, credential string, list []unbinding) (n int, err error) {
	if len(list) == 0 {
		return 0, nil
	}
	addresses, err := s.unbind(ctx, cause, credential, list)
	if err != nil {
		return 0, err
	}
	for i, address := range addresses {
		if address == "" {
			continue
		}
		n++
		if err := s.settle(ctx, list[i].service, list[i].sid, address, false); err != nil {
			return n, err
		}
	}
	return n, nil
}

func bindingOf(k presence.Key, sid, text string) (presence.Binding, error) {
	var f fields
	if err := json.Unmarshal([]byte(text), &f); err != nil {
		return presence.Binding{}, malformed("binding", err)
	}
	return presence.Binding{
		Key: k, SID: sid, Type: presence.PushType(f["t"]), Address: f["a"], Credential: f["c"], MessageTypes: strings.Split(f["m"], ","),
		Created: time.UnixMicro(f.int("k")).UTC(), Updated: f.millis("u"), Expires: f.millis("x"),
	}, nil
}

// Binding returns the binding of a service that has the SID; ErrNoBinding. It makes
// two round trips.
func (s *Store) Binding(ctx context.Context, service, sid string) (presence.Binding, error) {
	found, err := s.readBindings(ctx, service, []string{sid})
	if err != nil {
		return presence.Binding{}, err
	}
	if len(found) == 0 {
		return presence.Binding{}, presence.ErrNoBinding
	}
	return found[0], nil
}

// readBindings reads bindings by SID, in order, in two rounds; those that do not
// exist are left out.
func (s *Store) readBindings(ctx context.Context, service string, sids []string) ([]presence.Binding, error) {
	owners := make([]*redis.StringCmd, len(sids))
	_, err := s.client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, sid := range sids {
			if p, ok := s.keys.OfSID(sid); ok && presence.IsSID(sid, "BS") {
				owners[i] = pipe.HGet(ctx, s.keys.BindingSIDs(p, service), sid)
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, unavailable("read bindings", err)
	}
	values := make([]*redis.StringCmd, len(sids))
	_, err = s.client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, sid := range sids {
			if owners[i] != nil && owners[i].Val() != "" {
				values[i] = pipe.HGet(ctx, s.keys.BindingsOf(presence.Key{Service: service, Identity: owners[i].Val()}), sid)
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, unavailable("read bindings", err)
	}
	var list []presence.Binding
	for i, sid := range sids {
		if values[i] == nil || values[i].Val() == "" {
			continue
		}
		b, err := bindingOf(presence.Key{Service: service, Identity: owners[i].Val()}, sid, values[i].Val())
		if err != nil {
			return nil, err
		}
		list = append(list, b)
	}
	return list, nil
}

// listRounds bounds how often ListBindings reads on for bindings that pass the
// filter, before it gives a page that is not full.
const listRounds = 10

// ListBindings returns up to limit bindings of a service that pass the filter, in
// creation order, as ListUsers. Of many that do not pass, a page may be shorter than
// limit, and yet not the last.
func (s *Store) ListBindings(ctx context.Context, service string, f presence.BindingFilter, cursor string, limit int) (presence.Page[presence.Binding], error) {
	c, err := parseCursor(cursor)
	if err != nil {
		return presence.Page[presence.Binding]{}, err
	}
	if len(f.Identities) > 0 {
		return s.listBindingsOf(ctx, service, f, c, limit)
	}
	sets := make([]string, s.keys.Partitions)
	for p := range sets {
		sets[p] = s.keys.Bindings(presence.Partition(p), service)
	}
	// What passes, in the cursor's direction; one more than asked shows that it goes on.
	var passed []presence.Binding
	at, more := c, true
	for round := 0; round < listRounds && more && len(passed) <= limit; round++ {
		members, near, err := s.list(ctx, sets, at, limit+1)
		if err != nil {
			return presence.Page[presence.Binding]{}, err
		}
		if len(members) == 0 {
			more = false
			break
		}
		list, err := s.readBindings(ctx, service, sidsOf(members))
		if err != nil {
			return presence.Page[presence.Binding]{}, err
		}
		more, at.member = near.Next != "", members[len(members)-1]
		if c.before {
			slices.Reverse(list)
			more, at.member = near.Prev != "", members[0]
		}
		for _, b := range list {
			if f.Pass(b) {
				passed = append(passed, b)
			}
		}
	}
	var on, back string
	if len(passed) > limit {
		passed = passed[:limit]
		on = listCursor{c.before, listMember(passed[limit-1])}.String()
	} else if more {
		on = at.String()
	}
	if c.member != "" && len(passed) > 0 {
		back = listCursor{!c.before, listMember(passed[0])}.String()
	}
	if c.before {
		slices.Reverse(passed)
		return presence.Page[presence.Binding]{Items: passed, Next: back, Prev: on}, nil
	}
	return presence.Page[presence.Binding]{Items: passed, Next: on, Prev: back}, nil
}

// listMember is what a binding is in the lists of a service's bindings.
func listMember(b presence.Binding) string {
	return fmt.Sprintf("%016d", b.Created.UnixMicro()) + b.SID
}

// listBindingsOf lists the bindings of some users, each of whom has few.
func (s *Store) listBindingsOf(ctx context.Context, service string, f presence.BindingFilter, c listCursor, limit int) (presence.Page[presence.Binding], error) {
	all := make(map[string]*redis.MapStringStringCmd, len(f.Identities))
	_, err := s.client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for _, identity := range f.Identities {
			all[identity] = pipe.HGetAll(ctx, s.keys.BindingsOf(presence.Key{Service: service, Identity: identity}))
		}
		return nil
	})
	if err != nil {
		return presence.Page[presence.Binding]{}, unavailable("list bindings", err)
	}
	found := map[string]presence.Binding{}
	var members []string
	for identity, hash := range all {
		for sid, text := range hash.Val() {
			b, err := bindingOf(presence.Key{Service: service, Identity: identity}, sid, text)
			if err != nil {
				return presence.Page[presence.Binding]{}, err
			}
			member := listMember(b)
			if f.Pass(b) && (c.member == "" || c.before == (member < c.member) && member != c.member) {
				found[member] = b
				members = append(members, member)
			}
		}
	}
	members, near := c.page(members, limit)
	page := presence.Page[presence.Binding]{Next: near.Next, Prev: near.Prev}
	for _, m := range members {
		page.Items = append(page.Items, found[m])
	}
	return page, nil
}
