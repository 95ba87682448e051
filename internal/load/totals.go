package load

import (
	"math"
	"strconv"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/rollcall-presence/rollcall/internal/load/report"
)

// totals are what all workers have seen, over all and second by second.
type totals struct {
	mu     sync.Mutex // guards the following
	of     map[int]counts
	whole  map[string]*hdrhistogram.Histogram
	recent map[string]*hdrhistogram.Histogram // since the last second
	last   struct {
		counts
		sample
	}
	series map[string]map[string][][2]float64 // chart, line, points
}

func newTotals() *totals {
	t := &totals{of: map[int]counts{}, whole: map[string]*hdrhistogram.Histogram{}, recent: map[string]*hdrhistogram.Histogram{}, series: map[string]map[string][][2]float64{}}
	for _, name := range []string{latencySetUp, latencyEvent, latencyBare} {
		t.whole[name], t.recent[name] = newHistogram(), newHistogram()
	}
	return t
}

// take takes what a worker says.
func (t *totals) take(worker int, s status) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.of[worker] = s.counts
	for name, encoded := range s.Hists {
		h, err := hdrhistogram.Decode([]byte(encoded))
		if err != nil || t.whole[name] == nil {
			continue // it is our own, so this cannot be
		}
		t.whole[name].Merge(h)
		t.recent[name].Merge(h)
	}
}

func (t *totals) counts() counts {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sum()
}

// sum is counts; t.mu is held.
func (t *totals) sum() (c counts) {
	for _, w := range t.of {
		c.add(&w)
	}
	return c
}

// The charts, in the order of the report.
const (
	chartLatency     = "latency over time"
	chartConnections = "connections"
	chartEvents      = "events"
	chartCPU         = "CPU"
	chartMemory      = "memory of the nodes"
	chartCommands    = "commands to Redis"
)

var charts = []struct{ title, unit string }{
	{chartLatency, "ms"}, {chartConnections, ""}, {chartEvents, "/s"}, {chartCPU, "% of a core"}, {chartMemory, "MiB"}, {chartCommands, "/s"},
}

// second is what one second was like.
type second struct {
	counts
	opens, events, acts float64 // a second
	p99                 float64 // ms, of the events; of set-up while there are none
	cpu                 float64 // % of a core, of all nodes
}

// second closes a second and adds it to the charts. A report's time is since began.
func (t *totals) second(at time.Duration, now sample) second {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.sum()
	x := at.Seconds()
	point := func(chart, line string, y float64) {
		if math.IsNaN(y) || math.IsInf(y, 0) {
			return
		}
		if t.series[chart] == nil {
			t.series[chart] = map[string][][2]float64{}
		}
		t.series[chart][line] = append(t.series[chart][line], [2]float64{math.Round(x*100) / 100, y})
	}
	s := second{counts: c}
	for _, name := range []string{latencySetUp, latencyEvent, latencyBare} {
		h := t.recent[name]
		if h.TotalCount() == 0 {
			continue
		}
		for _, p := range []float64{50, 99} {
			point(chartLatency, name+", p"+strconv.Itoa(int(p)), ms(h.ValueAtPercentile(p)))
		}
		point(chartLatency, name+", longest", ms(h.Max()))
		if name != latencyBare {
			s.p99 = ms(h.ValueAtPercentile(99))
		}
		h.Reset()
	}
	point(chartConnections, "open", float64(c.Open))
	if span := now.at.Sub(t.last.at).Seconds(); !t.last.at.IsZero() && span > 0 {
		s.opens = float64(c.Opened-t.last.Opened) / span
		s.events = float64(c.Events+c.SlowEvents-t.last.Events-t.last.SlowEvents) / span
		s.acts = float64(c.Acts-t.last.Acts) / span
		point(chartEvents, "seen", s.events)
		point(chartEvents, "acts", s.acts)
		point(chartConnections, "opened a second", s.opens)
		for i, n := range now.nodes {
			was := t.last.nodes[i]
			if !n.ok || !was.ok || n.cpu < was.cpu { // restarted meanwhile
				continue
			}
			name := "node " + strconv.Itoa(i+1)
			point(chartCPU, name, (n.cpu-was.cpu)/span*100)
			point(chartCommands, name, (n.commands-was.commands)/span)
			s.cpu += (n.cpu - was.cpu) / span * 100
		}
		if now.redis.ok && t.last.redis.ok {
			point(chartCPU, "Redis", (now.redis.cpu-t.last.redis.cpu)/span*100)
		}
	}
	for i, n := range now.nodes {
		if n.ok {
			point(chartMemory, "node "+strconv.Itoa(i+1), n.resident/(1<<20))
		}
	}
	t.last.counts, t.last.sample = c, now
	return s
}

func ms(us int64) float64 { return float64(us) / 1000 }

// charts are those of the report; lines in the order in which they first had a point.
func (t *totals) charts(nodes int) (list []report.Chart) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var names []string
	for _, latency := range []string{latencySetUp, latencyEvent, latencyBare} {
		for _, p := range []string{", p50", ", p99", ", longest"} {
			names = append(names, latency+p)
		}
	}
	names = append(names, "open", "opened a second", "seen", "acts")
	for i := range nodes {
		names = append(names, "node "+strconv.Itoa(i+1))
	}
	names = append(names, "Redis")
	for _, c := range charts {
		chart := report.Chart{Title: c.title, Unit: c.unit}
		for _, name := range names {
			if points := t.series[c.title][name]; points != nil {
				chart.Lines = append(chart.Lines, report.Line{Name: name, Points: points})
			}
		}
		if len(chart.Lines) > 0 {
			list = append(list, chart)
		}
	}
	return list
}

// latency is a distribution over all; false if nothing was recorded.
func (t *totals) latency(name string) (report.Latency, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.whole[name]
	l := report.Latency{Name: name, Count: h.TotalCount(), Mean: h.Mean() / 1000, Min: ms(h.Min()), Max: ms(h.Max())}
	if l.Count == 0 {
		return l, false
	}
	// half of what is left each time, in five steps: straight lines between them do
	for tail := 100.; tail > 0; tail /= 2 {
		for i := range 5 {
			p := 100 - tail + tail/2*float64(i)/5
			l.Percentiles = append(l.Percentiles, report.Percentile{Percent: p, MS: ms(h.ValueAtPercentile(p))})
		}
		if tail/100*float64(l.Count) < 1 {
			break
		}
	}
	for _, p := range []float64{99, 99.9, 99.99, 99.999} {
		if (100-p)/100*float64(l.Count) >= 1 {
			l.Percentiles = append(l.Percentiles, report.Percentile{Percent: p, MS: ms(h.ValueAtPercentile(p))})
		}
	}
	l.Percentiles = append(l.Percentiles, report.Percentile{Percent: 100, MS: l.Max})
	return sorted(l), true
}
