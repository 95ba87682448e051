package redisstore_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/presence"
	"github.com/rollcall-presence/rollcall/presence/redisstore"
)

// Whatever nodes and operators do, and in whatever order, records agree; and after any
// of it, repairing changes nothing.
func TestVerifyFindsNothing(t *testing.T) {
	c := testkit.Redis(t).Client()
	t.Cleanup(func() { _ = c.Close() })
	w := newRecords(t, c)
	both := []presence.Partition{0, 1}
	nodes := []presence.NodeID{"n1", "n2", "n3"}
	node := rapid.SampledFrom(nodes)
	identity := rapid.SampledFrom([]string{"ada", "bob", "cy", "dee"})
	addresses := rapid.SampledFrom([]string{"a", "b"})
	rapid.Check(t, func(rt *rapid.T) {
		w.Reset()
		v, err := w.s.CreateService(w.ctx, presence.Service{Account: account})
		w.must(err)
		w.service = v
		known := map[presence.NodeID]presence.Service{}
		for _, n := range nodes {
			known[n] = v
		}
		ok := func(err error, allowed ...error) {
			for _, a := range allowed {
				if errors.Is(err, a) {
					return
				}
			}
			if err != nil {
				rt.Fatal(err)
			}
		}
		of := func(n presence.NodeID, id string, i int) presence.SessionID {
			return presence.SessionID(fmt.Sprintf("%s%s%0*d", n[1:], fmt.Sprintf("%x", id), presence.SessionIDLen-1-2*len(id), i))
		}
		rt.Repeat(map[string]func(*rapid.T){
			"register": func(rt *rapid.T) {
				n, id := node.Draw(rt, "node"), identity.Draw(rt, "identity")
				h := presence.Held{Key: w.key(id), ID: of(n, id, rapid.IntRange(1, 3).Draw(rt, "session")), Service: known[n]}
				_, err := w.s.Register(w.ctx, w.s.Partition(h.Key), n, []presence.Held{h})
				ok(err)
			},
			"end": func(rt *rapid.T) {
				n, id := node.Draw(rt, "node"), identity.Draw(rt, "identity")
				l := time.Duration(rapid.SampledFrom([]int{0, 10, 60}).Draw(rt, "linger")) * time.Second
				e := presence.Ended{Key: w.key(id), ID: of(n, id, rapid.IntRange(1, 3).Draw(rt, "session")), Linger: l, Service: known[n]}
				_, err := w.s.End(w.ctx, w.s.Partition(e.Key), n, []presence.Ended{e})
				ok(err)
			},
			"beat": func(rt *rapid.T) {
				_, errs := w.s.Beat(w.ctx, both, node.Draw(rt, "node"))
				ok(errors.Join(errs...))
			},
			"leave": func(rt *rapid.T) { ok(w.s.Leave(w.ctx, both, node.Draw(rt, "node"), 30*time.Second)) },
			"delete": func(rt *rapid.T) {
				ok(w.s.DeleteUser(w.ctx, w.key(identity.Draw(rt, "identity"))), presence.ErrNoUser)
			},
			"end sessions": func(rt *rapid.T) {
				n := node.Draw(rt, "node")
				_, err := w.s.EndSessions(w.ctx, w.key(identity.Draw(rt, "identity")), known[n], "")
				ok(err)
			},
			"bind": func(rt *rapid.T) {
				r := presence.Registration{Type: presence.PushFCM, Address: addresses.Draw(rt, "address"), Life: time.Minute}
				_, err := w.s.Bind(w.ctx, w.key(identity.Draw(rt, "identity")), r)
				ok(err, presence.ErrNoUser)
			},
			"unbind": func(rt *rapid.T) {
				ok(w.s.UnbindAddress(w.ctx, w.key(identity.Draw(rt, "identity")), presence.PushFCM, addresses.Draw(rt, "address")), presence.ErrNoBinding, presence.ErrNoUser)
			},
			"expire": func(rt *rapid.T) {
				_, err := w.s.ExpireBindings(w.ctx, presence.Partition(rapid.IntRange(0, 1).Draw(rt, "partition")))
				ok(err)
			},
			"flip": func(rt *rapid.T) {
				on := rapid.Bool().Draw(rt, "on")
				w.service, err = w.s.UpdateService(w.ctx, v.SID, presence.ServiceUpdate{Enabled: &on})
				ok(err)
			},
			"hear": func(rt *rapid.T) { known[node.Draw(rt, "node")] = w.service },
			"wait": func(rt *rapid.T) { w.Advance(time.Duration(rapid.IntRange(1, 60).Draw(rt, "seconds")) * time.Second) },
			"verify": func(rt *rapid.T) {
				for _, n := range nodes { // which give a lease to who ended something after being reaped
					_, errs := w.s.Beat(w.ctx, both, n)
					ok(errors.Join(errs...))
				}
				got, err := w.s.Verify(w.ctx, redisstore.VerifyOptions{
					Confirm: time.Nanosecond, Grace: 100 * time.Hour, Repair: rapid.Bool().Draw(rt, "repair"),
				})
				ok(err)
				if len(got.Disagreements) > 0 {
					rt.Fatalf("%+v", got.Disagreements)
				}
			},
		})
	})
	w.Events()
}
