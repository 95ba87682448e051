// Package perf measures what a node costs, with the real binary on a real Redis and
// the clients in another process (this one). Run with make bench BENCH=Node; results are in
// docs/performance.md. Nothing here fails for being slow.
package perf

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rollcall-presence/rollcall/auth"
	"github.com/rollcall-presence/rollcall/client"
	"github.com/rollcall-presence/rollcall/internal/testkit"
)

const (
	account   = "AC0000000000000000000000000000be2c"
	authToken = "be2c0000000000000000000000000001"
	keySID    = "SK0000000000000000000000000000be2c"
	keySecret = "be2c0000000000000000000000000002"
)

var key = auth.Key{SID: keySID, Secret: keySecret, Account: account}

var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "rollcall-perf-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "rollcall")
	out, err := exec.Command("go", "build", "-o", path, "../../cmd/rollcall").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

type node struct {
	addr, admin string
	pid         int
}

// pause waits out a time that is part of a measurement.
func pause(b *testing.B, d time.Duration) {
	b.Helper()
	select {
	case <-time.After(d):
	case <-b.Context().Done():
	}
}

// start starts a node with further environment; it ends with the benchmark.
func start(b *testing.B, redis string, env ...string) *node {
	b.Helper()
	bin, err := binary()
	if err != nil {
		b.Fatal(err)
	}
	ready := filepath.Join(b.TempDir(), "ready.json")
	cmd := exec.Command(bin)
	cmd.Env = append([]string{
		"ROLLCALL_ADDR=127.0.0.1:0", "ROLLCALL_ADMIN_ADDR=127.0.0.1:0", "ROLLCALL_REDIS_URL=redis://" + redis, "ROLLCALL_READY_FILE=" + ready,
		"ROLLCALL_ACCOUNT_SID=" + account, "ROLLCALL_AUTH_TOKEN=" + authToken, "ROLLCALL_API_KEY_SID=" + keySID, "ROLLCALL_API_KEY_SECRET=" + keySecret,
		"ROLLCALL_ACCEPT_RATE=100000", "ROLLCALL_ACCEPT_BURST=100000", "ROLLCALL_LOG_LEVEL=error",
	}, env...)
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	b.Cleanup(func() { _ = cmd.Process.Kill(); <-done })
	n := &node{pid: cmd.Process.Pid}
	for deadline := time.Now().Add(20 * time.Second); ; pause(b, 10*time.Millisecond) {
		var r struct {
			Addr  string `json:"addr"`
			Admin string `json:"admin_addr"`
		}
		if data, err := os.ReadFile(ready); err == nil && json.Unmarshal(data, &r) == nil {
			n.addr, n.admin = r.Addr, r.Admin
			return n
		}
		if time.Now().After(deadline) {
			b.Fatal("the node does not serve")
		}
	}
}

func (n *node) post(b *testing.B, path string, form url.Values) (sid string) {
	b.Helper()
	req, err := http.NewRequestWithContext(b.Context(), http.MethodPost, "http://"+n.addr+path, strings.NewReader(form.Encode()))
	if err != nil {
		b.Fatal(err)
	}
	req.SetBasicAuth(account, authToken)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	var v struct {
		SID string `json:"sid"`
	}
	if err := json.NewDecoder(res.Body).Decode(&v); err != nil || res.StatusCode > 299 {
		b.Fatalf("POST %s: %d, %v", path, res.StatusCode, err)
	}
	return v.SID
}

func (n *node) service(b *testing.B) string {
	sid := n.post(b, "/v1/Services", url.Values{"FriendlyName": {"perf"}})
	n.post(b, "/v1/Services/"+sid+"/Configuration", url.Values{"ReachabilityEnabled": {"true"}})
	return sid
}

// metric is the sum of a metric's series as the node shows them.
func (n *node) metric(b *testing.B, name string) (sum float64) {
	b.Helper()
	res, err := http.Get("http://" + n.admin + "/metrics")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	for s := bufio.NewScanner(res.Body); s.Scan(); {
		series, value, _ := strings.Cut(s.Text(), " ")
		if series == name || strings.HasPrefix(series, name+"{") {
			v, _ := strconv.ParseFloat(value, 64)
			sum += v
		}
	}
	return sum
}

// resident is the process's resident memory in bytes once it is at rest: collections
// are forced until they and the runtime's giving back of memory free nothing more,
// which left alone takes a few minutes.
func (n *node) resident(b *testing.B) float64 {
	b.Helper()
	last := 0.
	for range 10 {
		res, err := http.Get("http://" + n.admin + "/debug/pprof/heap?gc=1")
		if err != nil {
			b.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
		pause(b, 2*time.Second)
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.pid))
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

func connect(b *testing.B, n *node, sid, identity string, opt client.Options) *client.Client {
	b.Helper()
	token, err := auth.Mint(key, sid, identity, time.Now(), 2*time.Hour)
	if err != nil {
		b.Fatal(err)
	}
	opt.Token = func(context.Context) (string, error) { return token, nil }
	c, err := client.Dial(b.Context(), "ws://"+n.addr+"/v1/connect", opt)
	if err != nil {
		b.Fatal(err)
	}
	return c
}

// crowd connects users 0 to n-1, each subscribed to the next.
func crowd(b *testing.B, node *node, sid string, n int) []*client.Client {
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
				sid := n.service(b)
				warm := connect(b, n, sid, "warm", client.Options{})
				memory, goroutines := n.resident(b), n.metric(b, "go_goroutines")
				began, cpu := time.Now(), n.metric(b, "process_cpu_seconds_total")
				crowd(b, n, sid, sessions)
				setup := n.metric(b, "process_cpu_seconds_total") - cpu
				rate := float64(sessions) / time.Since(began).Seconds()
				b.ReportMetric((n.resident(b)-memory)/float64(sessions)/1024, "KiB/session")
				b.ReportMetric((n.metric(b, "go_goroutines")-goroutines)/float64(sessions), "goroutines/session")
				b.ReportMetric(setup/float64(sessions)*1e6, "us-cpu/connect")
				b.ReportMetric(rate, "connects/s")

				r := redis.Client()
				commands, cpu := n.metric(b, "rollcall_redis_commands_total"), n.metric(b, "process_cpu_seconds_total")
				redisCPU := redisSeconds(b, r.Info(b.Context(), "cpu").Val())
				pause(b, window)
				b.ReportMetric((n.metric(b, "rollcall_redis_commands_total")-commands)/window.Seconds(), "redis-commands/s")
				b.ReportMetric((n.metric(b, "process_cpu_seconds_total")-cpu)/window.Seconds()*100, "%cpu")
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
	sid := here.service(b)
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
			sid := n.service(b)
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
			cpu, events := n.metric(b, "process_cpu_seconds_total"), 0
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
			b.ReportMetric((n.metric(b, "process_cpu_seconds_total")-cpu)/float64(events)*1e6, "us-cpu/event")
		})
	}
}
