package perf

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/presence"
	"github.com/rollcall-presence/rollcall/presence/redisstore"
)

// BenchmarkNodeWebhooks changes users 2,000 times a second for a while, each change a
// webhook for a target that answers at once, and meanwhile those of another service
// whose target hangs: how many are delivered in that time, and how late.
func BenchmarkNodeWebhooks(b *testing.B) {
	const (
		window          = 20 * time.Second
		rate, users     = 2000, 5000
		slowRate, slows = 100, 500
		workers         = 16
	)
	redis := testkit.Redis(b)
	n := start(b, redis.Addr, "ROLLCALL_WEBHOOK_ALLOWED_NETWORKS=127.0.0.0/8")
	var mu sync.Mutex // guards late
	var late []time.Duration
	var got, hanging atomic.Int64
	fast := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		at, err := strconv.ParseInt(r.PostFormValue("FriendlyName"), 10, 64)
		if err != nil {
			return // made, not changed
		}
		d := time.Since(time.Unix(0, at))
		mu.Lock()
		late = append(late, d)
		mu.Unlock()
		got.Add(1)
	}))
	defer fast.Close()
	end := make(chan struct{})
	hung := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		hanging.Add(1)
		select {
		case <-r.Context().Done():
		case <-end:
		}
	}))
	defer hung.Close()
	defer close(end)
	configured := func(target string) string {
		sid := n.NewService()
		post(b, n, "/v1/Services/"+sid+"/Configuration/Webhooks", url.Values{"PostWebhookUrl": {target}, "Filters": {"onUserUpdated"}})
		return sid
	}
	quick, slow := configured(fast.URL+"/hooks"), configured(hung.URL+"/hooks")
	c := redis.Client()
	defer func() { _ = c.Close() }()
	store := redisstore.New(c, redisstore.Options{})
	key := func(service string, i int) presence.Key {
		return presence.Key{Service: service, Identity: fmt.Sprint("user", i)}
	}
	each := func(count int, f func(i int) error) {
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() {
				for i := w; i < count; i += workers {
					if err := f(i); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
	}
	each(users, func(i int) error {
		_, err := store.CreateUser(b.Context(), key(quick, i), presence.UserUpdate{})
		return err
	})
	each(slows, func(i int) error {
		_, err := store.CreateUser(b.Context(), key(slow, i), presence.UserUpdate{})
		return err
	})
	pause(b, 4*time.Second) // a round of heartbeats: the node knows that all partitions are its own

	for b.Loop() {
		mu.Lock()
		late = late[:0]
		mu.Unlock()
		before, cpu := got.Load(), n.Metric("process_cpu_seconds_total")
		began := time.Now()
		paced := func(service string, perSecond, of int) func() {
			return func() {
				each(int(window.Seconds())*perSecond, func(i int) error {
					pause(b, time.Until(began.Add(time.Duration(i)*time.Second/time.Duration(perSecond))))
					name := strconv.FormatInt(time.Now().UnixNano(), 10)
					_, err := store.UpdateUser(b.Context(), key(service, i%of), presence.UserUpdate{FriendlyName: &name, Tell: presence.OriginAPI})
					return err
				})
			}
		}
		var wg sync.WaitGroup
		wg.Go(paced(slow, slowRate, slows))
		paced(quick, rate, users)()
		took := time.Since(began)
		delivered := got.Load() - before
		wg.Wait()
		for want := before + int64(window.Seconds())*rate; got.Load() < want; pause(b, 10*time.Millisecond) {
			if time.Since(began) > 10*window {
				b.Fatalf("%d of %d delivered", got.Load()-before, want-before)
			}
		}
		mu.Lock()
		slices.Sort(late)
		for _, p := range []int{50, 99, 100} {
			b.ReportMetric(float64(late[(len(late)-1)*p/100].Microseconds())/1000, fmt.Sprintf("ms-change-to-webhook-p%d", p))
		}
		mu.Unlock()
		b.ReportMetric(window.Seconds()*rate/took.Seconds(), "changes/s")
		b.ReportMetric(float64(delivered)/took.Seconds(), "webhooks/s")
		b.ReportMetric((n.Metric("process_cpu_seconds_total")-cpu)/float64(window.Seconds()*rate)*1e6, "us-cpu/webhook")
		b.ReportMetric(float64(hanging.Load()), "hung-requests")
	}
	b.ReportMetric(0, "ns/op")
}
