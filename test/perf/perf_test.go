// Package perf measures what a node costs, with the real binary on a real Redis and
// the clients in another process (this one). Run with make bench BENCH=Node; results are in
// docs/performance.md. Nothing here fails for being slow.
package perf

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rollcall-presence/rollcall/auth"
	"github.com/rollcall-presence/rollcall/client"
	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/internal/testkit/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

// pause waits out a time that is part of a measurement.
func pause(b *testing.B, d time.Duration) {
	b.Helper()
	select {
	case <-time.After(d):
	case <-b.Context().Done():
	}
}

// start starts a node that takes all that come, with further environment; it ends with the benchmark.
func start(b *testing.B, redis string, env ...string) *rig.Node {
	b.Helper()
	return rig.Start(b, "redis://"+redis, append([]string{
		"ROLLCALL_ACCEPT_RATE=100000", "ROLLCALL_ACCEPT_BURST=100000", "ROLLCALL_LOG_LEVEL=error",
	}, env...)...)
}

// post makes a resource and returns its SID.
func post(b *testing.B, n *rig.Node, path string, form url.Values) string {
	b.Helper()
	var v struct {
		SID string `json:"sid"`
	}
	if code := n.REST(http.MethodPost, path, form, &v); code > 299 {
		b.Fatalf("POST %s: %d", path, code)
	}
	return v.SID
}

// resident is the process's resident memory in bytes once it is at rest: collections
// are forced until they and the runtime's giving back of memory free nothing more,
// which left alone takes a few minutes.
func resident(b *testing.B, n *rig.Node) float64 {
	b.Helper()
	last := 0.
	for range 10 {
		res, err := http.Get("http://" + n.Admin + "/debug/pprof/heap?gc=1")
		if err != nil {
			b.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
		pause(b, 2*time.Second)
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.PID()))
		if err != nil {
			b.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(data), "VmRSS:")
		kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
		if err != nil {
			b.Fatal(err)
		}
		now := kb * 1024
		if last != 0 && now > last*0.99 {
			return now
		}
		last = now
	}
	return last
}

func connect(b *testing.B, n *rig.Node, sid, identity string, opt client.Options) *client.Client {
	b.Helper()
	token, err := auth.Mint(rig.Key, sid, identity, time.Now(), 2*time.Hour)
	if err != nil {
		b.Fatal(err)
	}
	opt.Token = func(context.Context) (string, error) { return token, nil }
	c, err := client.Dial(b.Context(), n.WS(), opt)
	if err != nil {
		b.Fatal(err)
	}
	return c
}

// crowd connects users 0 to n-1, each subscribed to the next.
func crowd(b *testing.B, node *rig.Node, sid string, n int) []*client.Client {
	b.Helper()
	clients := make([]*client.Client, n)
	var wg sync.WaitGroup
	for w := range 32 {
		wg.Go(func() {
			for i := w; i < n; i += 32 {
				clients[i] = connect(b, node, sid, fmt.Sprint("user", i), client.Options{})
				if _, err := clients[i].Subscribe(b.Context(), fmt.Sprint("user", (i+1)%n)); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	b.Cleanup(func() {
		for _, c := range clients {
			c.Drop()
		}
	})
	return clients
}

// BenchmarkNodeIdle holds sessions with one subscription each and does nothing for a
// while: memory, goroutines, CPU and Redis commands of an idle node.
func BenchmarkNodeIdle(b *testing.B) {
	for _, sessions := range []int{2000, 10000} {
		b.Run(fmt.Sprintf("sessions=%d", sessions), func(b *testing.B) {
			const window = 30 * time.Second
			for b.Loop() {
				redis := testkit.Redis(b)
				n := start(b, redis.Addr)
				sid := n.NewService()
				warm := connect(b, n, sid, "warm", client.Options{})
				memory, goroutines := resident(b, n), n.Metric("go_goroutines")
				began, cpu := time.Now(), n.Metric("process_cpu_seconds_total")
				crowd(b, n, sid, sessions)
				setup := n.Metric("process_cpu_seconds_total") - cpu
				rate := float64(sessions) / time.Since(began).Seconds()
				b.ReportMetric((resident(b, n)-memory)/float64(sessions)/1024, "KiB/session")
				b.ReportMetric((n.Metric("go_goroutines")-goroutines)/float64(sessions), "goroutines/session")
				b.ReportMetric(setup/float64(sessions)*1e6, "us-cpu/connect")
				b.ReportMetric(rate, "connects/s")

				r := redis.Client()
				commands, cpu := n.Metric("rollcall_redis_commands_total"), n.Metric("process_cpu_seconds_total")
				redisCPU := redisSeconds(b, r.Info(b.Context(), "cpu").Val())
				pause(b, window)
				b.ReportMetric((n.Metric("rollcall_redis_commands_total")-commands)/window.Seconds(), "redis-commands/s")
				b.ReportMetric((n.Metric("process_cpu_seconds_total")-cpu)/window.Seconds()*100, "%cpu")
				b.ReportMetric((redisSeconds(b, r.Info(b.Context(), "cpu").Val())-redisCPU)/window.Seconds()*100, "%redis-cpu")
				_ = r.Close()
				warm.Drop()
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

// redisSeconds is the CPU time that INFO tells.
func redisSeconds(b *testing.B, info string) (sum float64) {
	b.Helper()
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		if name == "used_cpu_sys" || name == "used_cpu_user" {
			v, err := strconv.ParseFloat(value, 64)
			if err != nil {
				b.Fatal(err)
			}
			sum += v
		}
	}
	return sum
}

// BenchmarkNodeTransition measures from a client's bye, or hello, on one node to the
// event at a subscriber on another.
func BenchmarkNodeTransition(b *testing.B) {
	redis := testkit.Redis(b)
	here, there := start(b, redis.Addr), start(b, redis.Addr)
	sid := here.NewService()
	events := make(chan time.Time, 1)
	w := connect(b, there, sid, "watcher", client.Options{Invisible: true, OnEvent: func(e client.Event) { events <- time.Now() }})
	defer w.Drop()
	if _, err := w.Subscribe(b.Context(), "ada"); err != nil {
		b.Fatal(err)
	}
	var online, offline []time.Duration
	for b.Loop() {
		began := time.Now()
		c := connect(b, here, sid, "ada", client.Options{})
		online = append(online, (<-events).Sub(began))
		began = time.Now()
		if err := c.Close(); err != nil {
			b.Fatal(err)
		}
		offline = append(offline, (<-events).Sub(began))
	}
	report := func(list []time.Duration, what string) {
		slices.Sort(list)
		for _, p := range []int{50, 99} {
			b.ReportMetric(float64(list[(len(list)-1)*p/100].Microseconds())/1000, fmt.Sprintf("ms-%s-p%d", what, p))
		}
	}
	report(online, "connect-to-event")
	report(offline, "bye-to-event")
}

// BenchmarkNodeWatchers measures from a user's bye to the event at the last of many
// subscribers on the same node.
func BenchmarkNodeWatchers(b *testing.B) {
	for _, watchers := range []int{1000, 10000} {
		b.Run(fmt.Sprintf("watchers=%d", watchers), func(b *testing.B) {
			redis := testkit.Redis(b)
			n := start(b, redis.Addr)
			sid := n.NewService()
			var wg sync.WaitGroup
			var got sync.WaitGroup
			list := make([]*client.Client, watchers)
			for w := range 32 {
				wg.Go(func() {
					for i := w; i < watchers; i += 32 {
						list[i] = connect(b, n, sid, fmt.Sprint("watcher", i), client.Options{Invisible: true, OnEvent: func(client.Event) { got.Done() }})
						if _, err := list[i].Subscribe(b.Context(), "ada"); err != nil {
							b.Error(err)
						}
					}
				})
			}
			wg.Wait()
			b.Cleanup(func() {
				for _, c := range list {
					c.Drop()
				}
			})
			cpu, events := n.Metric("process_cpu_seconds_total"), 0
			var took []time.Duration
			for b.Loop() {
				got.Add(watchers)
				c := connect(b, n, sid, "ada", client.Options{})
				got.Wait()
				got.Add(watchers)
				began := time.Now()
				if err := c.Close(); err != nil {
					b.Fatal(err)
				}
				got.Wait()
				took = append(took, time.Since(began))
				events += 2 * watchers
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms-last-p50")
			b.ReportMetric((n.Metric("process_cpu_seconds_total")-cpu)/float64(events)*1e6, "us-cpu/event")
		})
	}
}
