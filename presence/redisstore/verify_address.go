package redisstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/rollcall-presence/rollcall/presence"
)

// A binding and the record of who has its address lie in two partitions, so no script
// sees both. What is read of them here is compared twice, with time between for any
// move to end; see Bind.

// owners compares settled bindings (service, SID and address each) with who has their
// addresses.
func (v *verification) owners(ctx context.Context, settled []string) error {
	for chunk := range slices.Chunk(settled, 3*verifyChunk) {
		cmds := make([]*redis.StringCmd, 0, verifyChunk)
		_, err := v.client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
			for t := range slices.Chunk(chunk, 3) {
				cmds = append(cmds, pipe.HGet(ctx, v.keys.Addresses(v.addressPartition(t[0], t[2]), t[0]), t[2]))
			}
			return nil
		})
		if err != nil && !errors.Is(err, redis.Nil) {
			return unavailable("verify", err)
		}
		for i, c := range cmds {
			t := chunk[3*i:]
			if owner, _, _ := strings.Cut(c.Val(), ","); owner != t[1] {
				v.doubt(address{t[0], t[2]}, t[1])
			}
		}
	}
	return nil
}

// holders looks at who has addresses (service, what address.lua keeps, and address
// each): whether it is there, and nobody else.
func (v *verification) holders(ctx context.Context, list []string) error {
	for chunk := range slices.Chunk(list, 3*verifyChunk) {
		var all []string
		cmds := make([]*redis.BoolCmd, 0, verifyChunk)
		_, err := v.client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
			for t := range slices.Chunk(chunk, 3) {
				owner, stale, more := strings.Cut(t[1], ",")
				p, ok := v.keys.OfSID(owner)
				if more || !ok {
					v.doubt(address{t[0], t[2]}, append(strings.Split(stale, ","), owner)...)
					continue
				}
				all = append(all, t...)
				cmds = append(cmds, pipe.HExists(ctx, v.keys.BindingSIDs(p, t[0]), owner))
			}
			return nil
		})
		if err != nil {
			return unavailable("verify", err)
		}
		for i, c := range cmds {
			if t := all[3*i:]; !c.Val() {
				v.doubt(address{t[0], t[2]}, t[1])
			}
		}
	}
	return nil
}

func (v *verification) addressPartition(service, text string) presence.Partition {
	return v.Partition(presence.Key{Service: service, Identity: text})
}

func (v *verification) doubt(a address, sids ...string) {
	if v.addresses[a] == nil {
		if v.full() {
			return
		}
		v.addresses[a] = map[string]bool{}
	}
	for _, sid := range sids {
		if sid != "" {
			v.addresses[a][sid] = true
		}
	}
}

// possession is who has an address, and the bindings that name it.
type possession struct {
	owner string
	bound map[string]string // binding SID -> identity, of those that are there
	gone  []string          // named by the address, and not there
	moved bool              // a change is under way
}

func (v *verification) possession(ctx context.Context, a address, sids []string) (possession, error) {
	at := possession{bound: map[string]string{}}
	held, err := v.client.HGet(ctx, v.keys.Addresses(v.addressPartition(a.service, a.text), a.service), a.text).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return at, unavailable("verify", err)
	}
	named := strings.Split(held, ",")
	at.owner = named[0]
	all := map[string]bool{}
	for _, sid := range append(sids, named...) {
		if sid != "" {
			all[sid] = true
		}
	}
	for _, sid := range slices.Sorted(maps.Keys(all)) {
		p, ok := v.keys.OfSID(sid)
		if !ok {
			at.gone = append(at.gone, sid)
			continue
		}
		var identity *redis.StringCmd
		var note *redis.FloatCmd
		_, err := v.client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
			identity = pipe.HGet(ctx, v.keys.BindingSIDs(p, a.service), sid)
			note = pipe.ZScore(ctx, v.keys.Unsettled(p), a.service+sid+a.text)
			return nil
		})
		if err != nil && !errors.Is(err, redis.Nil) {
			return at, unavailable("verify", err)
		}
		at.moved = at.moved || note.Err() == nil
		if identity.Err() == nil {
			at.bound[sid] = identity.Val()
		} else if slices.Contains(named, sid) {
			at.gone = append(at.gone, sid)
		}
	}
	return at, nil
}

// amiss says what does not agree, with a user whom it concerns.
func (at possession) amiss() (identity, says string) {
	has := at.owner
	if has == "" {
		has = "nobody"
	}
	for _, sid := range slices.Sorted(maps.Keys(at.bound)) {
		if sid != at.owner {
			return at.bound[sid], fmt.Sprintf("binding %s: is there; address: of %s", sid, has)
		}
	}
	if len(at.gone) > 0 {
		return at.bound[at.owner], fmt.Sprintf("address: of %s, and names %s; bindings: none such", has, strings.Join(at.gone, ", "))
	}
	return "", ""
}

func (v *verification) confirmAddress(ctx context.Context, a address, sids []string) error {
	at, err := v.possession(ctx, a, sids)
	identity, says := at.amiss()
	if err != nil || at.moved || says == "" {
		return err
	}
	d := disagreement(suspect{p: v.addressPartition(a.service, a.text), service: a.service, id: identity}, "address", says)
	if v.opt.Repair {
		if err := v.mendAddress(ctx, a, at); err != nil {
			return err
		}
		at, err := v.possession(ctx, a, sids)
		if err != nil {
			return err
		}
		_, says := at.amiss()
		d.Repaired = says == ""
	}
	v.out.Disagreements = append(v.out.Disagreements, d)
	return nil
}

// mendAddress gives an address that was claimed in vain back, to a binding that is there
// if one is, and removes the bindings that then do not have it.
func (v *verification) mendAddress(ctx context.Context, a address, at possession) error {
	service, err := v.Service(ctx, a.service)
	if errors.Is(err, presence.ErrNoService) {
		service.SID, err = a.service, nil
	}
	for _, sid := range at.gone {
		if err == nil {
			_, err = v.address(ctx, "undo", a.service, a.text, sid)
		}
		if err == nil { // where it was being taken from
			_, err = v.address(ctx, "release", a.service, a.text, sid)
		}
	}
	if err != nil {
		return err
	}
	for _, sid := range slices.Sorted(maps.Keys(at.bound)) {
		if err := v.settle(ctx, service, sid, a.text, true); err != nil {
			return err
		}
	}
	return nil
}
