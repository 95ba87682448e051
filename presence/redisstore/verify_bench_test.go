package redisstore_test

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"testing"

	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/presence"
	"github.com/rollcall-presence/rollcall/presence/redisstore"
)

var evalsha = regexp.MustCompile(`cmdstat_evalsha:calls=(\d+),usec=(\d+)`)

// BenchmarkVerify looks at users of whom every other is online, and reports what its
// scripts cost Redis.
func BenchmarkVerify(b *testing.B) {
	for _, users := range []int{0, 10_000} {
		b.Run(fmt.Sprintf("users=%d", users), func(b *testing.B) {
			c := testkit.Redis(b).Client()
			defer func() { _ = c.Close() }()
			s, ctx := redisstore.New(c, redisstore.Options{}), context.Background()
			if err := s.Init(ctx, account); err != nil {
				b.Fatal(err)
			}
			v, err := s.CreateService(ctx, presence.Service{})
			if err != nil {
				b.Fatal(err)
			}
			for i := range users {
				k := presence.Key{Service: v.SID, Identity: fmt.Sprint("user", i)}
				if _, err := s.EnsureUser(ctx, k, v); err != nil {
					b.Fatal(err)
				}
				if i%2 == 0 {
					if _, err := s.Register(ctx, s.Partition(k), "n1", []presence.Held{{Key: k, ID: session(i), Service: v}}); err != nil {
						b.Fatal(err)
					}
				}
			}
			stats := func() (calls, us float64) {
				info, err := c.Info(ctx, "commandstats").Result()
				if err != nil {
					b.Fatal(err)
				}
				if m := evalsha.FindStringSubmatch(info); m != nil {
					calls, _ = strconv.ParseFloat(m[1], 64)
					us, _ = strconv.ParseFloat(m[2], 64)
				}
				return calls, us
			}
			calls, us := stats()
			for b.Loop() {
				if got, err := s.Verify(ctx, redisstore.VerifyOptions{}); err != nil || len(got.Disagreements) > 0 {
					b.Fatal(got, err)
				}
			}
			more, much := stats()
			b.ReportMetric((more-calls)/float64(b.N), "scripts/op")
			b.ReportMetric((much-us)/(more-calls), "redis-us/script")
			b.ReportMetric(0, "ns/op")
			if users > 0 {
				b.ReportMetric((much-us)/float64(b.N*users), "redis-us/user")
			}
		})
	}
}
