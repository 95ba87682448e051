package redisstore_test

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/presence"
	"github.com/rollcall-presence/rollcall/presence/redisstore"
)

// While the slot of a partition goes from server to server, a few keys at a time, sessions are
// opened and closed, heartbeats run and users are read. Each operation is done in whole or refused as
// unavailable; nothing is lost, and nothing is done twice.
func TestSlotMigration(t *testing.T) {
	cluster := testkit.StartCluster(t, 3, 0)
	c := connect(t, cluster.URL())
	s := redisstore.New(c, redisstore.Options{Partitions: 1, Lease: time.Minute})
	ctx := t.Context()
	if err := s.Init(ctx, account); err != nil {
		t.Fatal(err)
	}
	on := true
	service, err := s.CreateService(ctx, presence.Service{})
	if err == nil {
		service, err = s.UpdateService(ctx, service.SID, presence.ServiceUpdate{Enabled: &on})
	}
	if err != nil {
		t.Fatal(err)
	}

	var refused, done, published, reads atomic.Int64
	var over atomic.Bool
	// try repeats what was refused; another error, or no answer, fails the test: it would not know
	// what was done.
	try := func(f func() error) bool {
		for {
			err := f()
			if err == nil {
				done.Add(1)
				return true
			}
			if !redis.IsTryAgainError(err) {
				t.Errorf("refused as %v; want TRYAGAIN or nothing", err)
				return false
			}
			if presence.KindOf(err) != presence.KindUnavailable {
				t.Errorf("TRYAGAIN is of kind %v; want unavailable", presence.KindOf(err))
				return false
			}
			refused.Add(1)
			<-time.After(time.Millisecond) // nothing tells when the slot has arrived
		}
	}
	const clients, users = 8, 10 // of each client
	held := make([]map[presence.SessionID]presence.Key, clients)
	var wg sync.WaitGroup
	for n := range clients {
		held[n] = map[presence.SessionID]presence.Key{}
		node := presence.NodeID(fmt.Sprint("n", n))
		wg.Go(func() {
			for i := 0; !over.Load(); i++ {
				k := presence.Key{Service: service.SID, Identity: fmt.Sprintf("user%d-%d", n, i%users)}
				id := presence.SessionID(fmt.Sprintf("%012d%012d", n, i))
				ok := try(func() error {
					r, u, err := s.Open(ctx, 0, node, presence.Held{Key: k, ID: id, Service: service})
					if err != nil {
						return err
					}
					held[n][id] = k
					published.Add(int64(r.Outcomes[0]))
					if u.SID == "" || u.Online != presence.True {
						t.Errorf("%s was opened and is read as %+v", k.Identity, u)
					}
					return nil
				})
				if ok && i%3 > 0 { // every third stays
					ok = try(func() error {
						r, err := s.End(ctx, 0, node, []presence.Ended{{Key: k, ID: id, Service: service}})
						if err == nil {
							delete(held[n], id)
							if r.Outcomes[0] == 1 {
								published.Add(1)
							}
						}
						return err
					})
				}
				ok = ok && try(func() error {
					_, errs := s.Beat(ctx, []presence.Partition{0}, node)
					return errs[0]
				})
				if !ok {
					return
				}
			}
		})
	}
	// A read of a user is the truth or fails; there is always one who stays online.
	stays := presence.Key{Service: service.SID, Identity: "stays"}
	if _, _, err := s.Open(ctx, 0, "stays", presence.Held{Key: stays, ID: "000000000000stays0000000", Service: service}); err != nil {
		t.Fatal(err)
	}
	published.Add(1)
	wg.Go(func() {
		for !over.Load() {
			_, u, err := s.User(ctx, service.SID, stays.Identity)
			if err == nil && (u.Online != presence.True || u.SID == "") {
				t.Errorf("a user who stays online is read as %+v", u)
			}
			_, all, perr := s.Presence(ctx, service.SID, []string{stays.Identity})
			if perr == nil {
				for u := range all {
					if u.Online != presence.True {
						t.Errorf("a user who stays online is read, among many, as %+v", u)
					}
				}
			}
			for _, err := range []error{err, perr} {
				if err != nil && presence.KindOf(err) != presence.KindUnavailable {
					t.Errorf("read: %v; want an answer or unavailable", err)
				}
			}
			reads.Add(1)
		}
	})

	slot := cluster.Slot(t, s.Keys().Channel(0))
	moved := 0
	for round := range 6 {
		before := done.Load()
		until(t, func() bool { return done.Load() > before+200 || t.Failed() })
		from := cluster.Owner(t, slot)
		to := cluster.Servers[(slices.Index(cluster.Servers, from)+1)%3]
		m := cluster.BeginMove(t, slot, to)
		for n := 1; n > 0; {
			if n = m.Keys(t, 1+5*round); n > 0 {
				moved += n
			}
			seen := refused.Load() + reads.Load()
			until(t, func() bool { return refused.Load()+reads.Load() > seen+3 || t.Failed() })
		}
		m.End(t)
	}
	over.Store(true)
	wg.Wait()

	t.Logf("%d operations done, %d refused, %d reads while %d keys moved", done.Load(), refused.Load(), reads.Load(), moved)
	if moved < 100 || refused.Load() < 100 {
		t.Errorf("%d keys moved and %d operations refused: too little to show anything", moved, refused.Load())
	}
	online := map[string]map[presence.SessionID]presence.NodeID{"stays": {"000000000000stays0000000": "stays"}}
	for n := range clients {
		node := presence.NodeID(fmt.Sprint("n", n))
		list, err := s.Sessions(ctx, 0, node)
		if err != nil {
			t.Fatal(err)
		}
		has := map[presence.SessionID]presence.Key{}
		for _, e := range list {
			has[e.ID] = e.Key
		}
		if !maps.Equal(has, held[n]) {
			t.Errorf("node %s has %d sessions in the store; it holds %d", node, len(has), len(held[n]))
		}
		for id, k := range held[n] {
			if online[k.Identity] == nil {
				online[k.Identity] = map[presence.SessionID]presence.NodeID{}
			}
			online[k.Identity][id] = node
		}
	}
	page, err := s.ListUsers(ctx, service.SID, "", 1000)
	if err != nil || len(page.Items) < clients*users {
		t.Fatalf("%d users, %v; want at least %d", len(page.Items), err, clients*users)
	}
	for _, u := range page.Items {
		got := map[presence.SessionID]presence.NodeID{}
		sessions, err := s.UserSessions(ctx, u.Key)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range sessions {
			got[x.ID] = x.Node
		}
		if want := online[u.Identity]; !maps.Equal(got, want) || (u.Online == presence.True) != (len(want) > 0) {
			t.Errorf("%s is online %v with sessions %v; want %v", u.Identity, u.Online, got, want)
		}
	}
	n, err := c.HGet(ctx, s.Keys().Seq(0), "n").Int64()
	if err != nil || n != published.Load() {
		t.Errorf("%d events are counted, %v; want the %d that the operations tell of", n, err, published.Load())
	}
}

// until waits for a state that nothing announces.
func until(t *testing.T, ok func() bool) {
	t.Helper()
	timeout := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-timeout:
			t.Fatal("not within 30 s")
		case <-time.After(time.Millisecond):
		}
	}
}
