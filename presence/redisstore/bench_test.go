package redisstore_test

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/presence"
	"github.com/rollcall-presence/rollcall/presence/redisstore"
)

// benchUsers is how many users the partition has: as many as each of 256 has at a
// million, so that its hashes and sorted sets have outgrown their packed form.
const benchUsers = 4096

var batches = []int{1, 16, 100}

var usedCPU = regexp.MustCompile(`used_cpu_(?:sys|user):([\d.]+)`)

// bench is a store of one partition on a redis-server of its own, and what work on it cost.
type bench struct {
	*redisstore.Store
	b       *testing.B
	client  *redis.Client
	service presence.Service
	since   spent // when the window that is measured began
	sum     spent
}

// spent is CPU time of this process and of Redis, and how long Redis was in scripts by its
// clock, which goes on while others have its CPU.
type spent struct{ here, redis, scripts time.Duration }

func newBench(b *testing.B, partitions int) *bench {
	b.Helper()
	c := testkit.Redis(b).Client()
	b.Cleanup(func() { _ = c.Close() })
	s := redisstore.New(c, redisstore.Options{Partitions: partitions})
	if err := s.Init(b.Context(), account); err != nil {
		b.Fatal(err)
	}
	v, err := s.CreateService(b.Context(), presence.Service{Account: account})
	if err != nil {
		b.Fatal(err)
	}
	on := true
	if v, err = s.UpdateService(b.Context(), v.SID, presence.ServiceUpdate{Enabled: &on}); err != nil {
		b.Fatal(err)
	}
	return &bench{Store: s, b: b, client: c, service: v}
}

func (s *bench) spent() (now spent) {
	s.b.Helper()
	var use syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &use); err != nil {
		s.b.Fatal(err)
	}
	now.here = time.Duration(use.Utime.Nano() + use.Stime.Nano())
	info, err := s.client.Info(s.b.Context(), "cpu", "commandstats").Result()
	if err != nil {
		s.b.Fatal(err)
	}
	for _, m := range usedCPU.FindAllStringSubmatch(info, -1) {
		seconds, _ := strconv.ParseFloat(m[1], 64)
		now.redis += time.Duration(seconds * 1e9)
	}
	if m := evalsha.FindStringSubmatch(info); m != nil {
		us, _ := strconv.ParseInt(m[2], 10, 64)
		now.scripts = time.Duration(us) * time.Microsecond
	}
	return now
}

func (s *bench) stop() {
	now := s.spent()
	s.sum.here += now.here - s.since.here
	s.sum.redis += now.redis - s.since.redis
	s.sum.scripts += now.scripts - s.since.scripts
}

// run measures calls of do, which takes units each. After so many calls, and first of
// all, prepare makes what they need; that is not measured.
func (s *bench) run(calls, units int, unit string, prepare func() error, do func(call int) error) {
	s.b.Helper()
	s.b.ReportAllocs()
	call := calls
	for began := false; s.b.Loop(); call++ {
		if call == calls {
			s.b.StopTimer()
			if began {
				s.stop()
			}
			if err := prepare(); err != nil {
				s.b.Fatal(err)
			}
			call, began, s.since = 0, true, s.spent()
			s.b.StartTimer()
		}
		if err := do(call); err != nil {
			s.b.Fatal(err)
		}
	}
	s.stop()
	for what, d := range map[string]time.Duration{"us": s.b.Elapsed(), "client-us": s.sum.here, "redis-us": s.sum.redis, "redis-script-us": s.sum.scripts} {
		s.b.ReportMetric(float64(d.Nanoseconds())/1e3/float64(s.b.N*units), what+"/"+unit)
	}
}

// held are the sessions from first on, each of a user of its own.
func (s *bench) held(first, n int) []presence.Held {
	list := make([]presence.Held, n)
	for i := range list {
		list[i] = presence.Held{Key: presence.Key{Service: s.service.SID, Identity: fmt.Sprintf("user-%08d", first+i)}, ID: session(first + i), Service: s.service}
	}
	return list
}

func (s *bench) ended(first, n int, how presence.End, linger time.Duration) []presence.Ended {
	list := make([]presence.Ended, n)
	for i, h := range s.held(first, n) {
		list[i] = presence.Ended{Key: h.Key, ID: h.ID, Service: h.Service, How: how, Linger: linger}
	}
	return list
}

// everybody has all users online, or nobody.
func (s *bench) everybody(online bool) error {
	ctx := s.b.Context()
	if _, errs := s.Beat(ctx, []presence.Partition{0}, "n1"); errs[0] != nil { // lest it be taken for a silence
		return errs[0]
	}
	for first := 0; first < benchUsers; first += 64 {
		if _, err := s.Register(ctx, 0, "n1", s.held(first, 64)); err != nil {
			return err
		}
		if online {
			continue
		}
		if _, err := s.End(ctx, 0, "n1", s.ended(first, 64, presence.EndClean, 0)); err != nil {
			return err
		}
	}
	return nil
}

func nothing() error { return nil }

func expect(r presence.Registered, err error, want presence.Outcome) error {
	if err == nil && r.Outcomes[len(r.Outcomes)-1] != want {
		err = fmt.Errorf("outcome %v; want %v", r.Outcomes[len(r.Outcomes)-1], want)
	}
	return err
}

// BenchmarkOpen is one session let in, as Tracker.Open does it: the script and the
// read of the user, in one round trip. The user is known, and comes online.
func BenchmarkOpen(b *testing.B) {
	b.Run("users=known/batch=1", func(b *testing.B) {
		s := newBench(b, 1)
		all := s.held(0, benchUsers)
		s.run(benchUsers, 1, "session", func() error { return s.everybody(false) }, func(call int) error {
			r, _, err := s.Open(context.Background(), 0, "n1", all[call])
			return expect(r, err, presence.Changed)
		})
	})
}

// BenchmarkRegister is sessions registered with one script, as after a loss or at
// their renewal: of users who are new, who were offline, or for whom nothing changes.
func BenchmarkRegister(b *testing.B) {
	for _, users := range []string{"new", "known", "live"} {
		for _, batch := range batches {
			b.Run(fmt.Sprintf("users=%s/batch=%d", users, batch), func(b *testing.B) {
				s := newBench(b, 1)
				all, want := s.held(0, benchUsers), presence.Changed
				prepare := func() error { return s.everybody(false) }
				switch users {
				case "new":
					if err := s.everybody(true); err != nil {
						b.Fatal(err)
					}
					first := 0
					prepare = func() error { first += benchUsers; all = s.held(first, benchUsers); return nil }
				case "live":
					want = presence.Unchanged
					prepare = func() error { return s.everybody(true) }
				}
				s.run(benchUsers/batch, batch, "session", prepare, func(call int) error {
					r, err := s.Register(context.Background(), 0, "n1", all[call*batch:][:batch])
					return expect(r, err, want)
				})
			})
		}
	}
}

// BenchmarkEnd is sessions that end, the last of their users: by a bye, which
// publishes, or lost, which begins a linger.
func BenchmarkEnd(b *testing.B) {
	for _, row := range []struct {
		name   string
		how    presence.End
		linger time.Duration
		want   presence.Outcome
	}{{"bye", presence.EndClean, 0, presence.Changed}, {"lost", presence.EndLost, time.Hour, presence.Lingering}} {
		for _, batch := range batches {
			b.Run(fmt.Sprintf("how=%s/batch=%d", row.name, batch), func(b *testing.B) {
				s := newBench(b, 1)
				all := s.ended(0, benchUsers, row.how, row.linger)
				s.run(benchUsers/batch, batch, "session", func() error { return s.everybody(true) }, func(call int) error {
					r, err := s.End(context.Background(), 0, "n1", all[call*batch:][:batch])
					return expect(r, err, row.want)
				})
			})
		}
	}
}

// BenchmarkBeat is heartbeats of as many partitions in one pipeline, in which nothing
// is due; of 256 partitions a Tracker sends 16 at a time.
func BenchmarkBeat(b *testing.B) {
	for _, batch := range []int{1, 8, 16, 100} {
		b.Run(fmt.Sprintf("batch=%d", batch), func(b *testing.B) {
			const partitions = 256
			s := newBench(b, partitions)
			for i := range benchUsers {
				h := s.held(i, 1)
				if _, err := s.Register(b.Context(), s.Partition(h[0].Key), "n1", h); err != nil {
					b.Fatal(err)
				}
			}
			ps := make([]presence.Partition, batch)
			next := 0
			s.run(1000, batch, "partition", nothing, func(int) error {
				for i := range ps {
					ps[i] = presence.Partition(next % partitions)
					next++
				}
				_, errs := s.Beat(context.Background(), ps, "n1")
				return errs[0]
			})
		})
	}
}

// BenchmarkReadUsers is what a session's subscription to so many users reads.
func BenchmarkReadUsers(b *testing.B) {
	for _, batch := range batches {
		b.Run(fmt.Sprintf("batch=%d", batch), func(b *testing.B) {
			s := newBench(b, 1)
			if err := s.everybody(true); err != nil {
				b.Fatal(err)
			}
			all := make([]presence.Key, benchUsers)
			for i, h := range s.held(0, benchUsers) {
				all[i] = h.Key
			}
			s.run(benchUsers/batch, batch, "user", nothing, func(call int) error {
				users, err := s.ReadUsers(context.Background(), all[call*batch:][:batch])
				if err == nil && users[0].Online != presence.True {
					err = fmt.Errorf("user %v; want one who is online", users[0])
				}
				return err
			})
		})
	}
}

// usedMemory finds in INFO what Redis has allocated.
var usedMemory = regexp.MustCompile(`used_memory:(\d+)`)

func (s *bench) used() float64 {
	info, err := s.client.Info(s.b.Context(), "memory").Result()
	if err != nil {
		s.b.Fatal(err)
	}
	v, _ := strconv.ParseFloat(usedMemory.FindStringSubmatch(info)[1], 64)
	return v
}

// everywhere calls do with chunks of users of one partition each, until all n had their turn.
func (s *bench) everywhere(n int, do func(p presence.Partition, list []presence.Held) error) {
	s.b.Helper()
	all := make([][]presence.Held, s.Partitions())
	for i := range n {
		h := presence.Held{Key: presence.Key{Service: s.service.SID, Identity: fmt.Sprintf("user-%017d", i)}, ID: session(i), Service: s.service}
		p := s.Partition(h.Key)
		all[p] = append(all[p], h)
	}
	for p, list := range all {
		for chunk := range slices.Chunk(list, 64) {
			if err := do(presence.Partition(p), chunk); err != nil {
				s.b.Fatal(err)
			}
		}
	}
}

// kindOf is the kind of a key of a partition: what is left of it without partition, service, node, identity and
// number.
var kindOf = regexp.MustCompile(`^[^}]*}:(?:IS[0-9a-f]{32}:)?([a-z]+)`)

// BenchmarkMemory is what Redis keeps of a user who is online, of one who was, and of a user's second session;
// identities have 22 bytes. B/<kind> is that by kind of key, of users online.
func BenchmarkMemory(b *testing.B) {
	for _, row := range []struct{ users, partitions int }{{10_000, 256}, {200_000, 256}, {16 * benchUsers, 16}} {
		b.Run(fmt.Sprintf("users=%d/partitions=%d", row.users, row.partitions), func(b *testing.B) {
			s, ctx := newBench(b, row.partitions), b.Context()
			for p := range presence.Partition(row.partitions) { // a partition has some keys before it has users
				if _, errs := s.Beat(ctx, []presence.Partition{p}, "n1-abcdefgh"); errs[0] != nil {
					b.Fatal(errs[0])
				}
			}
			each := func(bytes float64) float64 { return bytes / float64(row.users) }
			register := func(p presence.Partition, list []presence.Held) error {
				_, err := s.Register(ctx, p, "n1-abcdefgh", list)
				return err
			}
			again := func(h presence.Held) presence.SessionID { return "f" + h.ID[1:] }
			for b.Loop() {
				empty := s.used()
				s.everywhere(row.users, register)
				online := s.used()
				b.ReportMetric(each(online-empty), "B/online-user")
				kinds := map[string]float64{}
				for iter := s.client.Scan(ctx, 0, "*}:*", 1000).Iterator(); iter.Next(ctx); {
					if m := kindOf.FindStringSubmatch(iter.Val()); m != nil {
						kinds[m[1]] += float64(s.client.MemoryUsage(ctx, iter.Val(), 0).Val())
					}
				}
				for kind, bytes := range kinds {
					b.ReportMetric(each(bytes), "B/"+kind)
				}
				s.everywhere(row.users, func(p presence.Partition, list []presence.Held) error {
					for i := range list {
						list[i].ID = again(list[i])
					}
					return register(p, list)
				})
				b.ReportMetric(each(s.used()-online), "B/second-session")
				s.everywhere(row.users, func(p presence.Partition, list []presence.Held) error {
					ends := make([]presence.Ended, 0, 2*len(list))
					for _, h := range list {
						ends = append(ends, presence.Ended{Key: h.Key, ID: h.ID, Service: h.Service, How: presence.EndClean})
						ends = append(ends, presence.Ended{Key: h.Key, ID: again(h), Service: h.Service, How: presence.EndClean})
					}
					_, err := s.End(ctx, p, "n1-abcdefgh", ends)
					return err
				})
				b.ReportMetric(each(s.used()-empty), "B/offline-user")
				s.client.FlushAll(ctx)
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}
