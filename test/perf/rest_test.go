package perf

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/internal/testkit/rig"
)

// BenchmarkREST measures reads of presence, one after the other over one connection
// each, beside what any service on Redis takes: a round trip to Redis and the answer
// of an HTTP server that does nothing. They take turns, so that what else the machine
// does meets all of them; what is reported is medians and their ratios. An iteration
// is one of each.
func BenchmarkREST(b *testing.B) {
	server := testkit.Redis(b)
	node := start(b, server.Addr)
	sid := node.NewService()
	const users = 500
	many := url.Values{}
	var last string
	for i := range users {
		identity := fmt.Sprintf("user-%04d@example.com", i)
		many.Add("Identity", identity)
		last = post(b, node, "/v1/Services/"+sid+"/Users", url.Values{"Identity": {identity}})
	}
	hello := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("hello, world\n")) }))
	defer hello.Close()
	c := server.Client()
	defer func() { _ = c.Close() }()

	get := func(url string) func() error {
		req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, url, nil)
		if err != nil {
			b.Fatal(err)
		}
		req.SetBasicAuth(rig.Account, rig.AuthToken)
		client := &http.Client{Transport: &http.Transport{}}
		b.Cleanup(client.CloseIdleConnections)
		return func() error {
			res, err := client.Do(req)
			if err != nil {
				return err
			}
			defer func() { _ = res.Body.Close() }()
			if res.StatusCode != http.StatusOK {
				return fmt.Errorf("%s: %s", url, res.Status)
			}
			_, err = io.Copy(io.Discard, res.Body)
			return err
		}
	}
	service := "http://" + node.Addr + "/v1/Services/" + sid
	const redisTrip, httpTrip, byIdentity, bySID, bulk = 0, 1, 2, 3, 4
	reads := []struct {
		name string
		do   func() error
		took []time.Duration
	}{
		redisTrip:  {name: "redis", do: func() error { return c.Ping(b.Context()).Err() }},
		httpTrip:   {name: "hello", do: get(hello.URL)},
		byIdentity: {name: "fetch", do: get(service + "/Users/user-0007%40example.com")},
		bySID:      {name: "fetch-by-sid", do: get(service + "/Users/" + last)},
		bulk:       {name: "bulk-500", do: get(service + "/Presence?" + many.Encode())},
	}
	for range 50 { // connections are made, scripts loaded
		for _, r := range reads {
			if err := r.do(); err != nil {
				b.Fatal(err)
			}
		}
	}
	for b.Loop() {
		for i := range reads {
			begin := time.Now()
			if err := reads[i].do(); err != nil {
				b.Fatal(err)
			}
			reads[i].took = append(reads[i].took, time.Since(begin))
		}
	}
	var median [bulk + 1]float64
	for i, r := range reads {
		slices.Sort(r.took)
		median[i] = float64(r.took[len(r.took)/2].Microseconds())
		b.ReportMetric(median[i], r.name+"-µs")
	}
	bare := median[redisTrip] + median[httpTrip]
	b.ReportMetric(median[byIdentity]/bare, "fetch/bare")
	b.ReportMetric(median[bySID]/bare, "fetch-by-sid/bare")
	b.ReportMetric(median[bulk]/median[byIdentity], "bulk/fetch")
}
