package load

import (
	"bytes"
	"encoding/json"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rollcall-presence/rollcall/internal/load/report"
)

// What workers have seen is added up, each field of it.
func TestCountsAdd(t *testing.T) {
	fill := func(c *counts, base int64) {
		for i, v := 0, reflect.ValueOf(c).Elem(); i < v.NumField(); i++ {
			if v.Field(i).Kind() == reflect.Int64 {
				v.Field(i).SetInt(base + int64(i))
			}
		}
	}
	var a, b counts
	fill(&a, 100)
	fill(&b, 1000)
	a.Lost, b.Lost, b.Refused = map[string]int64{"1006": 1}, map[string]int64{"1006": 2, "3000": 3}, map[string]int64{"503": 4}
	a.add(&b)
	for i, v := 0, reflect.ValueOf(a); i < v.NumField(); i++ {
		want := 1100 + 2*int64(i)
		if v.Type().Field(i).Name == "BackMS" { // until the last was back
			want = 1000 + int64(i)
		}
		if f := v.Field(i); f.Kind() == reflect.Int64 && f.Int() != want {
			t.Errorf("%s = %d; want %d", v.Type().Field(i).Name, f.Int(), want)
		}
	}
	if a.Lost["1006"] != 3 || a.Lost["3000"] != 3 || a.Refused["503"] != 4 || b.Lost["1006"] != 2 {
		t.Errorf("lost %v, refused %v; what was added is %v", a.Lost, a.Refused, b.Lost)
	}
}

// A worker tells all that it counted each time, and of durations those that are new; the
// figures go over the wire and come out the same, within the histogram's 0.1%.
func TestTallyToTotals(t *testing.T) {
	tallies, totals := []*tally{newTally(), newTally()}, newTotals()
	pass := func() {
		for i, ta := range tallies {
			c, hists, err := ta.take()
			if err != nil {
				t.Fatal(err)
			}
			line, err := json.Marshal(status{counts: c, Hists: hists})
			if err != nil {
				t.Fatal(err)
			}
			var s status
			if err := json.Unmarshal(line, &s); err != nil {
				t.Fatal(err)
			}
			totals.take(i, s)
		}
	}
	pass() // of nothing
	if _, ok := totals.latency(latencyEvent); ok {
		t.Error("there is a latency before there was an event")
	}
	for i := range 1000 {
		ta := tallies[i%2]
		ta.record(latencyEvent, time.Duration(i+1)*time.Millisecond)
		ta.note(func(c *counts) { c.Events++; c.Lost["1006"]++ })
		if i%100 == 99 {
			pass()
		}
	}
	tallies[0].record(latencySetUp, 20*time.Minute) // more than a histogram holds
	tallies[0].record(latencyBare, -time.Second)    // clocks may step
	pass()
	if c := totals.counts(); c.Events != 1000 || c.Lost["1006"] != 1000 {
		t.Errorf("the totals are %+v; want 1000 events and as many lost", c)
	}
	l, _ := totals.latency(latencyEvent)
	near := func(got, want float64) bool { return math.Abs(got-want) <= want/900 }
	if l.Count != 1000 || !near(l.Min, 1) || !near(l.Max, 1000) || !near(l.Mean, 500.5) {
		t.Errorf("the latency is %+v", l)
	}
	for _, p := range []float64{50, 90, 99, 99.9, 100} {
		if got := l.At(p); !near(got, 10*p) && !near(got, 10*p+1) && p != 90 {
			t.Errorf("p%v is %v ms; want %v", p, got, 10*p)
		}
	}
	for i, p := range l.Percentiles {
		if i > 0 && (p.Percent <= l.Percentiles[i-1].Percent || p.MS < l.Percentiles[i-1].MS) {
			t.Errorf("percentile %v follows %v", p, l.Percentiles[i-1])
		}
	}
	if last := l.Percentiles[len(l.Percentiles)-1]; last.Percent != 100 {
		t.Errorf("the last percentile is %v", last)
	}
	if slices.ContainsFunc(l.Percentiles, func(p report.Percentile) bool { return p.Percent == 99.99 }) {
		t.Error("there is a p99.99 of 1000 values")
	}
	if l, _ := totals.latency(latencySetUp); !near(l.Max, 600_000) {
		t.Errorf("20 minutes count as %v ms; want the most, ten minutes", l.Max)
	}
	if l, _ := totals.latency(latencyBare); l.Max > 0.002 {
		t.Errorf("a negative duration counts as %v ms; want the least", l.Max)
	}
}

func TestSeconds(t *testing.T) {
	totals := newTotals()
	at := time.Unix(1000, 0)
	second := func(n int, c counts, nodes ...nodeSample) second {
		totals.take(0, status{counts: c})
		return totals.second(time.Duration(n)*time.Second, sample{at: at.Add(time.Duration(n) * time.Second), nodes: nodes})
	}
	if s := second(1, counts{Open: 5, Opened: 5}, nodeSample{ok: true, cpu: 3}); s.opens != 0 || s.cpu != 0 || s.Open != 5 {
		t.Errorf("the first second is %+v; want no rates", s)
	}
	if s := second(3, counts{Open: 7, Opened: 9, Acts: 4, Events: 10, SlowEvents: 2}, nodeSample{ok: true, cpu: 4}); s.opens != 2 || s.acts != 2 || s.events != 6 || s.cpu != 50 {
		t.Errorf("two seconds are %+v; want 2, 2 and 6 a second, and half of a core", s)
	}
	if s := second(4, counts{}, nodeSample{}); s.cpu != 0 {
		t.Errorf("with a node that is away the CPU is %v", s.cpu)
	}
	if s := second(5, counts{}, nodeSample{ok: true, cpu: 0.5}); s.cpu != 0 {
		t.Errorf("with a node that came back the CPU is %v", s.cpu)
	}
	for _, c := range totals.charts(1) {
		for _, l := range c.Lines {
			for _, p := range l.Points {
				if math.IsNaN(p[1]) || math.IsInf(p[1], 0) || c.Title == chartCPU && p[1] < 0 {
					t.Errorf("%s, %s has the point %v", c.Title, l.Name, p)
				}
			}
		}
	}
}

// What nodes merged is counted over restarts, after which they count anew.
func TestConflated(t *testing.T) {
	n := func(list ...float64) *sample {
		s := &sample{}
		for _, v := range list {
			s.nodes = append(s.nodes, nodeSample{ok: true, conflated: v})
		}
		return s
	}
	for _, tt := range []struct {
		before, after *sample
		want          int64
	}{{n(), n(), 0}, {n(5), n(5), 0}, {n(5, 1), n(7, 4), 5}, {n(100, 1), n(2, 4), 5}} {
		if got := conflated(tt.before, tt.after); got != tt.want {
			t.Errorf("conflated(%v, %v) = %d; want %d", tt.before, tt.after, got, tt.want)
		}
	}
}

func TestMetrics(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("# HELP a 5\n# TYPE a counter\na 1.5e3\na_total{x=\"1\"} 2\na_total{x=\"a b} c\\\"\",y=\"{\"} 3 1790000000123\n" +
			"nan NaN\ninf{le=\"+Inf\"} +Inf\nspaced   7  \r\nbroken{x=\"\nempty\n\n" + strings.Repeat("x", 100_000) + " 1\nlast 9"))
	}))
	defer s.Close()
	got, err := metrics(t.Context(), s.URL)
	if err != nil {
		t.Fatal(err)
	}
	delete(got, strings.Repeat("x", 100_000))
	if want := map[string]float64{"a": 1500, "a_total": 5, "spaced": 7, "last": 9}; !reflect.DeepEqual(got, want) {
		t.Errorf("the metrics are %v; want %v", got, want)
	}
}

func TestRedisInfo(t *testing.T) {
	got := fields("# Server\r\nredis_version:7.2.0\r\nused_memory:1000\r\nused_cpu_sys:0.5\r\n\r\ndb0:keys=1\r\n")
	if want := map[string]float64{"used_memory": 1000, "used_cpu_sys": 0.5}; !reflect.DeepEqual(got, want) {
		t.Errorf("fields = %v; want %v", got, want)
	}
}

// A node that cannot be asked is left out, and a sample says that it does not tell all.
func TestSampleOfANodeThatIsAway(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/metrics" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = w.Write([]byte("process_cpu_seconds_total 4\nrollcall_events_conflated_total 2\n"))
	}))
	defer s.Close()
	sc, err := newScraper([]string{s.URL, s.URL + "/nowhere"}, "")
	if err != nil {
		t.Fatal(err)
	}
	defer sc.close()
	got := sc.sample(t.Context())
	if got.cpu() != 4 || got.told() || !got.nodes[0].ok || got.nodes[1].ok {
		t.Errorf("the sample is %+v", got)
	}
	if err := sc.check(t.Context()); err == nil || !strings.Contains(err.Error(), "/nowhere/metrics answers 404") {
		t.Errorf("check = %v", err)
	}
	sc.move(1, s.URL)
	if got := sc.sample(t.Context()); got.cpu() != 8 || !got.told() {
		t.Errorf("once the node is elsewhere the sample is %+v", got)
	}
	if (&sample{}).told() {
		t.Error("a sample of no nodes tells something")
	}
	dir := t.TempDir()
	if err := sc.profile(t.Context(), dir, "cpu", "/metrics"); err != nil {
		t.Error(err)
	}
	if list, _ := os.ReadDir(dir); len(list) != 2 || list[1].Name() != "cpu-node2.pprof" {
		t.Errorf("the profiles are %v", list)
	}
	if err := sc.profile(t.Context(), dir, "cpu", "/nothing"); err == nil {
		t.Error("a profile that is not there is no error")
	}
}

// On a terminal there is one line, which is written over; else one for each phase and ten seconds.
func TestProgress(t *testing.T) {
	play := func(terminal bool) string {
		var b bytes.Buffer
		synctest.Test(t, func(*testing.T) {
			p := &Progress{w: &b, terminal: terminal}
			p.target("connecting", 200)
			for i := range 21 {
				time.Sleep(time.Second)
				p.live(second{counts: counts{Open: int64(10 * i)}, opens: 10, events: float64(i), p99: float64(i), cpu: 50})
			}
			p.phase("churn")
			time.Sleep(time.Second)
			p.live(second{counts: counts{Open: 200, Unexpected: 2, Disordered: 1}})
			p.End()
		})
		return b.String()
	}
	plain := play(false)
	if want := "connecting\n  10s  90 open  10 connects/s  0 acts/s  4 events/s  p99 9.0 ms  CPU 50%\n" +
		"  20s  190 open  10 connects/s  0 acts/s  14 events/s  p99 19.0 ms  CPU 50%\nchurn\n"; plain != want {
		t.Errorf("plain:\n%q; want\n%q", plain, want)
	}
	bar := play(true)
	for _, want := range []string{
		"connecting\n", "[........................]   1s  0 open", "[############............]  11s  100 open", "[########################]  21s  200 open",
		"\r\x1b[Kchurn\n", "   1s  200 open", "  3 WRONG\r\x1b[K",
	} {
		if !strings.Contains(bar, want) {
			t.Errorf("on a terminal there is no %q in\n%q", want, bar)
		}
	}
	if n := strings.Count(bar, "\n"); n != 2 {
		t.Errorf("on a terminal there are %d lines; want one for each phase", n)
	}
	var none *Progress // silent
	none.phase("x")
	none.live(second{})
	none.End()
	(&Progress{w: &bytes.Buffer{}, terminal: true, want: 5}).live(second{counts: counts{Open: -1}})
	f, err := os.Create(t.TempDir() + "/log")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if NewProgress(f, "xterm").terminal {
		t.Error("a file is taken for a terminal")
	}
}
