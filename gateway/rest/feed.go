package rest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rollcall-presence/rollcall/presence"
)

const (
	// pollInterval is how often the change logs of services with a stream are looked
	// at: a change is told at most so much later.
	pollInterval = 250 * time.Millisecond
	// recentEvents is how many events of a service are kept for its streams. One that is
	// further behind reads the log for itself.
	recentEvents = 4096
)

// feeds follows the change logs of the services that have a stream on this node, for
// all of their streams together. It runs while there is any.
type feeds struct {
	store interface {
		Presence
		Service(ctx context.Context, sid string) (presence.Service, error)
	}
	max      int
	draining <-chan struct{}
	metrics  *metrics

	mu      sync.Mutex // guards the following, and what feeds point to
	of      map[string]*feed
	streams int
	stop    context.CancelFunc // of the poller
	stopped chan struct{}      // closed when it has ended
}

// feed is what is known of one service's changes.
type feed struct {
	service string
	streams int
	// recent is all that changed after first and up to last.
	first, last presence.Place
	recent      []event
	changed     chan struct{} // closed at the next change
	gone        error         // why it cannot go on
}

// join counts a stream in. The service and the moment are as its caller read them.
func (f *feeds) join(s presence.Service, m presence.Moment) (*feed, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-f.draining:
		return nil, errDraining
	default:
	}
	if f.streams >= f.max {
		f.metrics.refused.Inc()
		return nil, errManyStreams
	}
	of := f.of[s.SID]
	if of == nil {
		at := m.Place(s)
		of = &feed{service: s.SID, first: at, last: at, changed: make(chan struct{})}
		f.of[s.SID] = of
	}
	of.streams++
	f.streams++
	f.metrics.streams.Inc()
	if f.streams == 1 {
		ctx, stop := context.WithCancel(context.Background())
		stopped := make(chan struct{})
		f.stop, f.stopped = stop, stopped
		go func() { // the last to leave waits for it
			defer close(stopped)
			f.poll(ctx)
		}()
	}
	return of, nil
}

func (f *feeds) leave(of *feed) {
	f.mu.Lock()
	of.streams--
	f.streams--
	f.metrics.streams.Dec()
	if of.streams == 0 && f.of[of.service] == of {
		delete(f.of, of.service)
	}
	var stopped chan struct{}
	if f.streams == 0 {
		f.stop()
		stopped = f.stopped
	}
	f.mu.Unlock()
	if stopped != nil {
		<-stopped
	}
}

// after returns events after a place and the place that they lead to, and a channel
// that is closed when there are more. It reads the log where the place is not among
// the recent ones, or another flip of the switch is known there.
func (f *feeds) after(ctx context.Context, of *feed, at presence.Place) ([]event, presence.Place, <-chan struct{}, error) {
	f.mu.Lock()
	changed, gone := of.changed, of.gone
	if gone == nil && at.Run == of.last.Run && at.Switch == of.last.Switch && !at.Before(of.first) {
		i, _ := slices.BinarySearchFunc(of.recent, at, func(e event, at presence.Place) int {
			if at.Before(e.place) {
				return 1
			}
			return -1
		})
		events, next := of.recent[i:len(of.recent):len(of.recent)], of.last
		f.mu.Unlock()
		if next.Before(at) { // it has read beyond for itself
			next = at
		}
		return events, next, changed, nil
	}
	f.mu.Unlock()
	if gone != nil {
		return nil, at, changed, gone
	}
	ctx, cancel := context.WithTimeout(ctx, storePatience)
	defer cancel()
	events, next, more, err := f.read(ctx, of.service, at)
	if more {
		changed = already
	}
	return events, next, changed, err
}

// already is closed.
var already = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// read reads a page of a service's log.
func (f *feeds) read(ctx context.Context, service string, at presence.Place) (events []event, next presence.Place, more bool, err error) {
	s, err := f.store.Service(ctx, service)
	if err != nil {
		return nil, at, false, err
	}
	m, err := f.store.Moment(ctx)
	if err != nil {
		return nil, at, false, err
	}
	p, err := f.store.Changes(ctx, s, at, maxPresence, m)
	if err != nil {
		return nil, at, false, err
	}
	if p.Reset {
		events = append(events, resetEvent(s))
	}
	for _, c := range p.Items {
		events = append(events, userEvent(s, c))
	}
	return events, p.Next, p.More, nil
}

// poll looks at the logs until ctx ends.
func (f *feeds) poll(ctx context.Context) {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := f.look(ctx); err == nil {
			f.metrics.polls[true].Inc()
		} else if ctx.Err() == nil {
			f.metrics.polls[false].Inc()
		}
	}
}

// look reads what has changed of the services with a stream, in one look at the
// partitions for all of them.
func (f *feeds) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, storePatience)
	defer cancel()
	f.mu.Lock()
	list := make([]*feed, 0, len(f.of))
	for _, of := range f.of {
		list = append(list, of)
	}
	f.mu.Unlock()
	var errs []error
	services := make([]presence.Service, len(list))
	for i, of := range list { // before the moment: a flip in between is found by the next look
		var err error
		if services[i], err = f.store.Service(ctx, of.service); err != nil {
			errs = append(errs, f.fail(of, err))
		}
	}
	m, err := f.store.Moment(ctx)
	if err != nil {
		return err
	}
	for i, of := range list {
		if services[i].SID != "" {
			errs = append(errs, f.advance(ctx, of, services[i], m))
		}
	}
	return errors.Join(errs...)
}

// advance reads what a service's log has up to a moment.
func (f *feeds) advance(ctx context.Context, of *feed, s presence.Service, m presence.Moment) error {
	for more := true; more; {
		f.mu.Lock()
		at := of.last // only the poller moves it
		f.mu.Unlock()
		if s.Rev != at.Switch {
			// Each stream reads all users anew, from its own place.
			f.mu.Lock()
			defer f.mu.Unlock()
			of.first, of.last, of.recent = m.Place(s), m.Place(s), nil
			of.tellLocked()
			return nil
		}
		p, err := f.store.Changes(ctx, s, at, maxPresence, m)
		if err != nil {
			return f.fail(of, err)
		}
		more = p.More
		f.mu.Lock()
		if ctx.Err() != nil { // the feed may be another poller's by now
			f.mu.Unlock()
			return ctx.Err()
		}
		for _, c := range p.Items {
			of.recent = append(of.recent, userEvent(s, c))
		}
		if n := len(of.recent) - recentEvents; n > 0 {
			of.first = of.recent[n-1].place
			of.recent = slices.Clone(of.recent[n:]) // streams may be reading the former
		}
		of.last = p.Next
		if len(p.Items) > 0 {
			of.tellLocked()
		}
		f.mu.Unlock()
	}
	return nil
}

func (of *feed) tellLocked() {
	close(of.changed)
	of.changed = make(chan struct{})
}

// fail ends a feed that cannot go on, and with it its streams. It returns the errors
// of others, which may pass.
func (f *feeds) fail(of *feed, err error) error {
	if !errors.Is(err, presence.ErrPlaceGone) && presence.KindOf(err) != presence.KindNotFound {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	of.gone = err
	delete(f.of, of.service)
	of.tellLocked()
	return nil
}

// streamMetrics are those of the event streams.
type streamMetrics struct {
	streams  prometheus.Gauge
	refused  prometheus.Counter
	streamed prometheus.Counter
	polls    map[bool]prometheus.Counter // by success
}

func newStreamMetrics(reg prometheus.Registerer) streamMetrics {
	polls := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "rollcall_rest_stream_polls_total", Help: "Looks at the change logs for event streams, by outcome.",
	}, []string{"outcome"})
	m := streamMetrics{
		streams: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "rollcall_rest_streams", Help: "Event streams that are open.",
		}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rollcall_rest_streams_refused_total", Help: "Event streams refused because as many were open as may be.",
		}),
		streamed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rollcall_rest_stream_events_total", Help: "Events written to event streams.",
		}),
		polls: map[bool]prometheus.Counter{true: polls.WithLabelValues("ok"), false: polls.WithLabelValues("failed")},
	}
	if reg != nil {
		reg.MustRegister(m.streams, m.refused, m.streamed, polls)
	}
	return m
}
