package main

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rollcall-presence/rollcall/configs"
	"github.com/rollcall-presence/rollcall/presence"
)

// collector shows the counters of the packages that know no Prometheus.
type collector struct {
	n     *node
	descs map[string]*prometheus.Desc
}

// sample is one value of a metric.
type sample struct {
	name   string
	kind   prometheus.ValueType
	value  float64
	labels []string
}

// domainMetrics are the names, with help and labels, of what collector shows.
var domainMetrics = []struct {
	name, help string
	labels     []string
}{
	{"rollcall_transitions_total", "Transitions that this node published, by kind and cause.", []string{"kind", "cause"}},
	{"rollcall_lingers_total", "Lingers begun by sessions of this node.", nil},
	{"rollcall_lease_renewals_total", "Heartbeats of one partition, each of which renews the lease there, by outcome.", []string{"outcome"}},
	{"rollcall_reaped_sessions_total", "Sessions of lapsed nodes that this node reaped.", nil},
	{"rollcall_lost_partitions_total", "Partitions in which the store had lost this node's sessions, and they were registered anew.", nil},
	{"rollcall_stalls_total", "Heartbeats which found that no node had beaten for long, and did not count that time.", nil},
	{"rollcall_sessions_registered_total", "Sessions registered anew: renewals, repairs and the switch.", nil},
	{"rollcall_tracked_sessions", "Sessions that make their user online.", nil},
	{"rollcall_owed_ends", "Ends of sessions that the store has yet to be told.", nil},
	{"rollcall_bindings_expired_total", "Push bindings that this node removed because they had expired.", nil},
	{"rollcall_events_published_total", "Events of users that any node published since the first heartbeats of this one, which tell.", nil},
	{"rollcall_events_received_total", "Events received for partitions with a subscriber here.", nil},
	{"rollcall_events_delivered_total", "Updates put into sessions' mailboxes.", nil},
	{"rollcall_events_conflated_total", "Updates delivered by merging them into one that still waited.", nil},
	{"rollcall_gaps_total", "Times that events were missed, by what showed it.", []string{"cause"}},
	{"rollcall_repairs_total", "Partitions whose subscribed users were read again, by outcome.", []string{"outcome"}},
	{"rollcall_subscriptions", "Pairs of session and subscribed user.", nil},
}

// published counts the events of all partitions from what heartbeats tell of their
// counters. The zero value is ready for use, by any goroutine.
type published struct {
	mu   sync.Mutex // guards the following
	n    uint64
	last map[presence.Partition]counter
}

// counter is the state of a partition's event counter.
type counter struct {
	run string
	seq uint64
}

// beat takes the state of a counter. What was published before its first is not
// counted; another run began at zero.
func (e *published) beat(p presence.Partition, run string, seq uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.last == nil {
		e.last = map[presence.Partition]counter{}
	}
	was, ok := e.last[p]
	switch {
	case !ok:
	case was.run != run && was.run != "": // the store lost its data meanwhile
		e.n += seq
	case seq > was.seq:
		e.n += seq - was.seq
	}
	e.last[p] = counter{run, seq}
}

func (e *published) total() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.n
}

// newDepartures makes the metrics of how long users who left were still shown online,
// and of how long that may be at most. What it returns takes one departure; any
// goroutine may call it.
func newDepartures(reg prometheus.Registerer, bounds configs.Bounds) func(presence.Departure) {
	seconds := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "rollcall_departure_seconds",
		Help:    "From when a user's last session ended, as well as the nodes know, to its being published as offline, by how it left; on the node that published it.",
		Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 7.5, 10, 12.5, 15, 20, 30, 45, 60, 90, 120, 300},
	}, []string{"departure"})
	most := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "rollcall_staleness_bound_seconds",
		Help: "How long a user who left may be shown online at most, by how it left, as follows from the timers. For redis_away it counts from when Redis is back.",
	}, []string{"departure"})
	reg.MustRegister(seconds, most)
	of := make([]prometheus.Observer, len(presence.Ends()))
	for _, how := range presence.Ends() {
		of[how] = seconds.WithLabelValues(how.String())
		most.WithLabelValues(how.String()).Set(bounds.Of(how).Seconds())
	}
	return func(d presence.Departure) { of[d.How].Observe(d.After.Seconds()) }
}

func newCollector(n *node) *collector {
	c := &collector{n: n, descs: map[string]*prometheus.Desc{}}
	for _, m := range domainMetrics {
		c.descs[m.name] = prometheus.NewDesc(m.name, m.help, m.labels, nil)
	}
	return c
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	for _, s := range c.samples() {
		ch <- prometheus.MustNewConstMetric(c.descs[s.name], s.kind, s.value, s.labels...)
	}
}

func (c *collector) samples() []sample {
	t, h := c.n.tracker.Stats(), c.n.hub.Stats()
	count := func(name string, v float64, labels ...string) sample {
		return sample{name, prometheus.CounterValue, v, labels}
	}
	gauge := func(name string, v float64) sample { return sample{name, prometheus.GaugeValue, v, nil} }
	return []sample{
		count("rollcall_transitions_total", float64(t.OnlineConnect), "online", "connect"),
		count("rollcall_transitions_total", float64(t.OnlineReassert), "online", "register_anew"),
		count("rollcall_transitions_total", float64(t.OfflineClean), "offline", "clean"),
		count("rollcall_transitions_total", float64(t.OfflineLinger), "offline", "linger"),
		count("rollcall_transitions_total", float64(t.OfflineLease), "offline", "lease"),
		count("rollcall_lingers_total", float64(t.Lingering)),
		count("rollcall_lease_renewals_total", float64(t.Beats), "ok"),
		count("rollcall_lease_renewals_total", float64(t.BeatErrors), "failed"),
		count("rollcall_reaped_sessions_total", float64(t.Reaped)),
		count("rollcall_lost_partitions_total", float64(t.Lost)),
		count("rollcall_stalls_total", float64(t.Stalls)),
		count("rollcall_sessions_registered_total", float64(t.Registered)),
		gauge("rollcall_tracked_sessions", float64(t.Sessions)),
		gauge("rollcall_owed_ends", float64(t.Owed)),
		count("rollcall_bindings_expired_total", float64(t.Expired)),
		count("rollcall_events_published_total", float64(c.n.published.total())),
		count("rollcall_events_received_total", float64(h.Received)),
		count("rollcall_events_delivered_total", float64(h.Delivered)),
		count("rollcall_events_conflated_total", float64(h.Conflated)),
		count("rollcall_gaps_total", float64(h.Gaps.Seq), "seq"),
		count("rollcall_gaps_total", float64(h.Gaps.Run), "run"),
		count("rollcall_gaps_total", float64(h.Gaps.Beat), "beat"),
		count("rollcall_gaps_total", float64(h.Gaps.Resubscribe), "resubscribe"),
		count("rollcall_repairs_total", float64(h.Repairs), "ok"),
		count("rollcall_repairs_total", float64(h.Failed), "failed"),
		gauge("rollcall_subscriptions", float64(h.Subscriptions)),
	}
}
