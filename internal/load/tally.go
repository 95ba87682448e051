package load

import (
	"fmt"
	"maps"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// The distributions that a run keeps. Values are in us.
const (
	latencySetUp = "due to welcome"
	latencyEvent = "act to event"
	latencyBare  = "bare loop: act to event"
)

// newHistogram holds up to ten minutes within 0.1%.
func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, 600_000_000, 3) }

// counts are what a worker has seen so far.
type counts struct {
	Open       int64            `json:"open"`   // sessions that are open now
	Opened     int64            `json:"opened"` // times that one was welcomed
	Acts       int64            `json:"acts"`
	Events     int64            `json:"events"`      // updates that told of an act
	Merged     int64            `json:"merged"`      // acts that only an update of a later one told of
	SlowEvents int64            `json:"slow_events"` // the same of readers that are slow on purpose, which are not in Events
	SlowMerged int64            `json:"slow_merged"`
	BareEvents int64            `json:"bare_events"`
	Unexpected int64            `json:"unexpected"`        // updates of no act
	Disordered int64            `json:"disordered"`        // revisions that did not grow
	Lenient    int64            `json:"lenient"`           // users who were away for about the linger
	BackMS     int64            `json:"back_ms"`           // from the cut of a storm until all were back
	Base       int64            `json:"base"`              // resident bytes before there was any session
	Resident   int64            `json:"resident"`          // resident bytes once all were open
	Lost       map[string]int64 `json:"lost,omitempty"`    // connections ended by the other side, by close code
	Refused    map[string]int64 `json:"refused,omitempty"` // attempts to connect that failed, by reason
}

// add adds other to c.
func (c *counts) add(other *counts) {
	for dst, src := range map[*int64]int64{
		&c.Open: other.Open, &c.Opened: other.Opened, &c.Acts: other.Acts, &c.Events: other.Events, &c.Merged: other.Merged,
		&c.SlowEvents: other.SlowEvents, &c.SlowMerged: other.SlowMerged, &c.BareEvents: other.BareEvents,
		&c.Unexpected: other.Unexpected, &c.Disordered: other.Disordered, &c.Lenient: other.Lenient,
		&c.Base: other.Base, &c.Resident: other.Resident,
	} {
		*dst += src
	}
	c.BackMS = max(c.BackMS, other.BackMS)
	for dst, src := range map[*map[string]int64]map[string]int64{&c.Lost: other.Lost, &c.Refused: other.Refused} {
		for k, n := range src {
			if *dst == nil {
				*dst = map[string]int64{}
			}
			(*dst)[k] += n
		}
	}
}

// tally collects what a worker's sessions see. Its methods may be called concurrently.
type tally struct {
	mu sync.Mutex // guards the following
	counts
	hists map[string]*hdrhistogram.Histogram // since they were last taken
}

func newTally() *tally {
	return &tally{counts: counts{Lost: map[string]int64{}, Refused: map[string]int64{}}, hists: map[string]*hdrhistogram.Histogram{
		latencySetUp: newHistogram(), latencyEvent: newHistogram(), latencyBare: newHistogram(),
	}}
}

func (t *tally) note(f func(c *counts)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f(&t.counts)
}

// warm has the tally take what it keeps for itself from the system, and is the resident
// memory with that: what comes later is for connections.
func (t *tally) warm() int64 {
	t.record(latencySetUp, time.Second)
	_, _, _ = t.take()
	debug.FreeOSMemory()
	return resident()
}

// record notes a duration. What is longer than a histogram holds counts as the longest.
func (t *tally) record(name string, d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.hists[name]
	_ = h.RecordValue(min(max(d.Microseconds(), 1), h.HighestTrackableValue()))
}

// resident is the process's resident memory in bytes, without what it shares with others, as
// the board and the program; 0 where there is no /proc.
func resident() int64 {
	data, err := os.ReadFile("/proc/self/statm")
	fields := strings.Fields(string(data))
	if err != nil || len(fields) < 3 {
		return 0
	}
	all, _ := strconv.ParseInt(fields[1], 10, 64)
	shared, _ := strconv.ParseInt(fields[2], 10, 64)
	return (all - shared) * int64(os.Getpagesize())
}

// take is the counts so far, and the distributions since the last call.
func (t *tally) take() (counts, map[string]string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.counts
	c.Lost, c.Refused = maps.Clone(c.Lost), maps.Clone(c.Refused)
	encoded := map[string]string{}
	for name, h := range t.hists {
		if h.TotalCount() == 0 {
			continue
		}
		b, err := h.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
		if err != nil {
			return c, nil, fmt.Errorf("encode %q: %w", name, err)
		}
		encoded[name] = string(b)
		h.Reset()
	}
	return c, encoded, nil
}
