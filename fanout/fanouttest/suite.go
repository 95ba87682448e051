package fanouttest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rollcall-presence/rollcall/fanout"
	"github.com/rollcall-presence/rollcall/presence"
)

// Harness is a bus under test and the ways to drive it.
type Harness struct {
	Bus fanout.Bus
	// Publish publishes to a partition's channel, as a store on another node would.
	// It returns when the bus's transport has the message.
	Publish func(t *testing.T, p presence.Partition, run string, seq uint64, e presence.Event)
	// Cut ends the connection that receives. It is mended by itself, or by Mend.
	Cut  func(t *testing.T)
	Mend func(t *testing.T)
}

// Run holds a bus to what fanout.Bus promises. Open makes one that delivers to a
// handler, and ends it with the test.
func Run(t *testing.T, open func(*testing.T, fanout.Handler) Harness) {
	for name, test := range map[string]func(*testing.T, Harness, *Recorder){
		"delivers":     delivers,
		"onlyWatched":  onlyWatched,
		"listeners":    listeners,
		"resync":       resync,
		"services":     services,
		"cancelled":    cancelled,
		"concurrently": concurrently,
	} {
		t.Run(name, func(t *testing.T) {
			r := NewRecorder()
			test(t, open(t, r), r)
		})
	}
}

func event(identity string, rev int64) presence.Event {
	return presence.Event{User: presence.User{Key: presence.Key{Service: "IS0", Identity: identity}, Rev: rev}}
}

func watch(t *testing.T, h Harness, ps ...presence.Partition) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := h.Bus.Watch(ctx, ps...); err != nil {
		t.Fatalf("Watch(%v) = %v", ps, err)
	}
}

func delivers(t *testing.T, h Harness, r *Recorder) {
	watch(t, h, 3)
	name := "Ann \"/\\ \u00e9\u2603 \x01"
	full := presence.Event{
		Reasons: presence.ReasonOnline | presence.ReasonFriendlyName | presence.ReasonAttributes,
		User: presence.User{
			Key: presence.Key{Service: "IS0123", Identity: "{p}:\"ann\"\n\u00e9"}, SID: "US0123", Rev: 1763800000123456,
			Online: presence.True, Notifiable: presence.False, Epoch: 3, NotifiableEpoch: 2,
			LastOnline: time.UnixMilli(1763800000123).UTC(), FriendlyName: &name, Attributes: `{"a":"\u00e9"}`,
		},
	}
	gone := presence.Event{Deleted: true, User: presence.User{Key: full.User.Key, Rev: 7}}
	h.Publish(t, 3, "run", 1, full)
	h.Publish(t, 3, "run", 2, gone)
	want := []Published{{3, "run", 1, full}, {3, "run", 2, gone}}
	if diff := cmp.Diff(want, r.Events(t, 2)); diff != "" {
		t.Errorf("delivered (-want +got):\n%s", diff)
	}
}

func onlyWatched(t *testing.T, h Harness, r *Recorder) {
	watch(t, h, 1)
	h.Publish(t, 2, "run", 1, event("nobody listens", 1))
	h.Publish(t, 1, "run", 1, event("ann", 1))
	watch(t, h, 2)
	h.Publish(t, 2, "run", 2, event("ann", 2))
	for i, e := range r.Events(t, 2) {
		if e.User.Identity != "ann" || e.User.Rev != int64(i+1) {
			t.Errorf("event %d is %s, revision %d; want ann, %d", i, e.User.Identity, e.User.Rev, i+1)
		}
	}
}

func listeners(t *testing.T, h Harness, r *Recorder) {
	watch(t, h, 1)
	watch(t, h, 1)
	h.Bus.Unwatch(1)
	h.Publish(t, 1, "run", 1, event("ann", 1))
	r.Events(t, 1)
	h.Bus.Unwatch(1)
	watch(t, h, 1)
	h.Publish(t, 1, "run", 2, event("ann", 2))
	if got := r.Events(t, 2)[1].Seq; got != 2 {
		t.Errorf("after the last listener left and one came, seq %d is delivered; want 2", got)
	}
}

func resync(t *testing.T, h Harness, r *Recorder) {
	watch(t, h, 1, 2)
	h.Publish(t, 1, "run", 1, event("ann", 1))
	r.Events(t, 1)
	if got := r.Resyncs(); len(got) != 0 {
		t.Errorf("resync of %v before anything was lost", got)
	}
	h.Cut(t)
	h.Mend(t)
	r.AwaitResync(t, 1)
	r.AwaitResync(t, 2)
	r.AwaitResync(t, presence.Services)
	h.Publish(t, 1, "run", 2, event("ann", 2))
	if got := r.Events(t, 2)[1].Seq; got != 2 {
		t.Errorf("after a resync seq %d is delivered; want 2", got)
	}
}

func services(t *testing.T, h Harness, r *Recorder) {
	watch(t, h, presence.Services) // always watched, but not from the first moment on
	h.Publish(t, presence.Services, "run", 4, presence.Event{User: presence.User{Key: presence.Key{Service: "IS0"}}})
	want := Published{presence.Services, "run", 4, presence.Event{User: presence.User{Key: presence.Key{Service: "IS0"}}}}
	if diff := cmp.Diff(want, r.Events(t, 1)[0]); diff != "" {
		t.Errorf("delivered (-want +got):\n%s", diff)
	}
}

func cancelled(t *testing.T, h Harness, r *Recorder) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	// A bus that is subscribed already may say so; this one cannot be yet.
	h.Cut(t)
	if err := h.Bus.Watch(ctx, 5); err == nil {
		t.Error("Watch with a context that ended = nil while the bus is cut off")
	} else if presence.KindOf(err) != presence.KindUnavailable && !errors.Is(err, context.Canceled) {
		t.Errorf("Watch with a context that ended = %v; want KindUnavailable or its cause", err)
	}
	h.Mend(t)
	watch(t, h, 5)
	h.Publish(t, 5, "run", 1, event("ann", 1))
	r.Events(t, 1)
}

func concurrently(t *testing.T, h Harness, r *Recorder) {
	const each, parts = 8, 64
	var wg sync.WaitGroup
	for range each {
		wg.Go(func() {
			for p := range presence.Partition(parts) {
				if err := h.Bus.Watch(t.Context(), p); err != nil {
					t.Errorf("Watch(%d) = %v", p, err)
				}
				if p%2 == 0 {
					h.Bus.Unwatch(p)
				}
			}
		})
	}
	wg.Wait()
	for p := range presence.Partition(parts) {
		if p%2 == 1 {
			h.Publish(t, p, "run", 1, event("ann", int64(p)))
		}
	}
	seen := map[presence.Partition]bool{}
	for _, e := range r.Events(t, parts/2) {
		seen[e.P] = true
	}
	if len(seen) != parts/2 {
		t.Errorf("%d partitions delivered; want %d", len(seen), parts/2)
	}
}

// Recorder is a fanout.Handler that keeps what it is told. Of a service event it
// keeps the SID, as an event of presence.Services.
type Recorder struct {
	mu      sync.Mutex // guards the following
	events  []Published
	resyncs []presence.Partition
	changed chan struct{} // closed at the next change
}

// NewRecorder returns a Recorder that was told nothing.
func NewRecorder() *Recorder { return &Recorder{changed: make(chan struct{})} }

// Event implements fanout.Handler.
func (r *Recorder) Event(p presence.Partition, run string, seq uint64, e presence.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, Published{p, run, seq, e})
	r.tellLocked()
}

// ServiceEvent implements fanout.Handler.
func (r *Recorder) ServiceEvent(run string, seq uint64, sid string) {
	r.Event(presence.Services, run, seq, presence.Event{User: presence.User{Key: presence.Key{Service: sid}}})
}

// Resync implements fanout.Handler.
func (r *Recorder) Resync(p presence.Partition) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.resyncs = append(r.resyncs, p)
	r.tellLocked()
}

func (r *Recorder) tellLocked() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// await waits until ok, which is called with the lock held, is true.
func (r *Recorder) await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	timeout := time.NewTimer(20 * time.Second)
	defer timeout.Stop()
	for {
		r.mu.Lock()
		done, changed := ok(), r.changed
		r.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-timeout.C:
			t.Fatalf("no %s in 20 s", what)
		}
	}
}

// Events waits for n events since the start and returns them, or more.
func (r *Recorder) Events(t *testing.T, n int) []Published {
	t.Helper()
	r.await(t, "event", func() bool { return len(r.events) >= n })
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Published(nil), r.events...)
}

// Resyncs returns the partitions to resync so far.
func (r *Recorder) Resyncs() []presence.Partition {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]presence.Partition(nil), r.resyncs...)
}

// AwaitResync waits until the partition was to be resynced.
func (r *Recorder) AwaitResync(t *testing.T, p presence.Partition) {
	t.Helper()
	r.await(t, "resync", func() bool {
		return slices.Contains(r.resyncs, p)
	})
}

// AwaitResyncs waits until n partitions were to be resynced since the start.
func (r *Recorder) AwaitResyncs(t *testing.T, n int) {
	t.Helper()
	r.await(t, "resync", func() bool { return len(r.resyncs) >= n })
}
