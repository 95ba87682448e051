package gateway

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rollcall-presence/rollcall/presence"
)

// The reasons for which a connection is refused before it becomes a WebSocket.
const (
	shedConnections = "connections"
	shedPending     = "pending"
	shedAddress     = "pending_per_address"
	shedRate        = "accept_rate"
	shedDraining    = "draining"
	shedOrigin      = "origin"
	shedHandshake   = "handshake"
	shedSubprotocol = "subprotocol"
	shedPlain       = "plain_connections"
)

var shedReasons = []string{
	shedConnections, shedPending, shedAddress, shedRate, shedDraining, shedOrigin, shedHandshake, shedSubprotocol, shedPlain,
}

// peerCodes are the close codes counted by number when the client closes first;
// 1006 stands for a socket that was lost without a close frame.
var peerCodes = []int{1000, 1001, 1002, 1005, 1006}

const otherCode = "other"

type metrics struct {
	connections prometheus.Gauge
	sessions    prometheus.Gauge
	waiting     prometheus.Gauge
	waits       map[string]prometheus.Counter
	draining    prometheus.Gauge
	drained     prometheus.Counter
	closed      map[CloseCode]prometheus.Counter // by the server
	left        map[string]prometheus.Counter    // by the client
	ends        map[presence.End]prometheus.Counter
	shed        map[string]prometheus.Counter
	requests    map[string]prometheus.Counter
	errors      map[ErrorCode]prometheus.Counter
	framesOut   prometheus.Counter
	bytesOut    prometheus.Counter
	writers     prometheus.Counter
	hello       prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer, requests []string) *metrics {
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "rollcall_" + name, Help: help})
		reg.MustRegister(g)
		return g
	}
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "rollcall_" + name, Help: help}, labels)
		reg.MustRegister(v)
		return v
	}
	counter := func(name, help string) prometheus.Counter { return vec(name, help).WithLabelValues() }

	m := &metrics{
		connections: gauge("connections", "Open WebSockets."),
		sessions:    gauge("sessions", "WebSockets whose client was let in."),
		waiting:     gauge("sessions_waiting", "WebSockets whose client waits to be let in until the store is back."),
		draining:    gauge("draining", "1 while the node drains."),
		drained:     counter("drained_sessions_total", "Sessions handed over by a drain."),
		framesOut:   counter("frames_out_total", "WebSocket frames written, control frames that travel alone not counted."),
		bytesOut:    counter("bytes_out_total", "Bytes written to WebSockets."),
		writers:     counter("writers_started_total", "Writer goroutines started."),
		hello: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "rollcall_hello_seconds", Help: "From accepting a connection to its welcome.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}),
		waits:    map[string]prometheus.Counter{},
		closed:   map[CloseCode]prometheus.Counter{},
		left:     map[string]prometheus.Counter{},
		ends:     map[presence.End]prometheus.Counter{},
		shed:     map[string]prometheus.Counter{},
		requests: map[string]prometheus.Counter{},
		errors:   map[ErrorCode]prometheus.Counter{},
	}
	reg.MustRegister(m.hello)

	v := vec("closes_total", "Connections closed, by who closed first and code; 1006 is a socket lost without a close frame.", "by", "code")
	for _, c := range closes {
		m.closed[c.Code] = v.WithLabelValues("server", strconv.Itoa(int(c.Code)))
	}
	for _, code := range peerCodes {
		m.left[strconv.Itoa(code)] = v.WithLabelValues("client", strconv.Itoa(code))
	}
	m.left[otherCode] = v.WithLabelValues("client", otherCode)

	v = vec("session_ends_total", "Sessions ended, by what presence was told.", "how")
	for _, how := range presence.Ends() {
		if how < presence.EndNodeLost { // the others are no session's
			m.ends[how] = v.WithLabelValues(how.String())
		}
	}
	v = vec("shed_total", "Connections refused before they became WebSockets, by reason.", "reason")
	for _, reason := range shedReasons {
		m.shed[reason] = v.WithLabelValues(reason)
	}
	v = vec("waits_total", "Sessions that came while the store was away, by what became of them.", "outcome")
	for _, outcome := range waitOutcomes {
		m.waits[outcome] = v.WithLabelValues(outcome)
	}
	v = vec("requests_total", "Requests of clients, by type.", "type")
	for _, name := range requests {
		m.requests[name] = v.WithLabelValues(name)
	}
	v = vec("errors_total", "Error frames sent, by the name of their code.", "code")
	for _, e := range errorTexts {
		m.errors[e.Code] = v.WithLabelValues(e.Name)
	}
	return m
}

// closedBy counts the end of a connection: by the server with a code, or (0) by the
// client with what it sent, -1 for nothing.
func (m *metrics) closedBy(code CloseCode, peer int) {
	if code != 0 {
		m.closed[code].Inc()
		return
	}
	if peer == -1 {
		peer = 1006
	}
	c, ok := m.left[strconv.Itoa(peer)]
	if !ok {
		c = m.left[otherCode]
	}
	c.Inc()
}
