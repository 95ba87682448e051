package presencetest

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/rollcall-presence/rollcall/presence"
)

// link is what lies between a node and the store. Times and trouble are guarded by
// faulty.mu: they are for judging what is published.
type link struct {
	Store
	f    *faulty
	node presence.NodeID

	last    map[presence.Partition]time.Time // heartbeats carried out
	trouble map[presence.Partition]time.Time // since when the store may lack sessions of this node

	mu      sync.Mutex // guards the following
	is      LinkMode
	since   time.Time
	pending []func() // calls that hang
}

func (l *link) mode() LinkMode {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.is
}

// set changes the link and returns what it was. What hung is carried out now, or never
// if the link is cut; on a link that gets slow, or loses answers, the last comes first.
func (l *link) set(m LinkMode) (was LinkMode) {
	l.mu.Lock()
	was = l.is
	var late []func()
	if m != was {
		l.is, l.since = m, time.Now()
		late, l.pending = l.pending, nil
	}
	l.mu.Unlock()
	if m == LinkSlow || m == LinkMute {
		slices.Reverse(late)
	}
	if m != LinkCut {
		for _, carryOut := range late {
			carryOut()
		}
	}
	return was
}

// lost notes that the store may have lost what this node told it.
func (l *link) lost() {
	l.f.mu.Lock()
	defer l.f.mu.Unlock()
	for q := range l.Partitions() {
		l.trouble[presence.Partition(q)] = time.Now()
	}
}

// beats notes heartbeats that are about to be carried out.
func (l *link) beats(qs []presence.Partition) {
	l.mu.Lock()
	well := (l.is == LinkOK || l.is == LinkSlow) && time.Since(l.since) > 2*faultHeartbeat
	l.mu.Unlock()
	f := l.f
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	for _, q := range qs {
		if last, ok := f.anyBeat[q]; ok && now.Sub(last) > FaultStall {
			for _, n := range f.nodes {
				if n == nil { // not started yet
					continue
				}
				n.link.last[q] = n.link.last[q].Add(now.Sub(last))
			}
		}
		f.anyBeat[q] = now
		if last, ok := l.last[q]; ok && now.Sub(last) >= FaultLease {
			l.trouble[q] = now
		}
		if since, ok := l.trouble[q]; ok && well && now.Sub(since) > 2*faultHeartbeat {
			delete(l.trouble, q)
		}
		l.last[q] = now
	}
}

// reliable reports whether the store must have the sessions that the node holds in a
// partition. The caller holds faulty.mu.
func (l *link) reliable(q presence.Partition) bool {
	last, beaten := l.last[q]
	_, trouble := l.trouble[q]
	return beaten && !trouble && time.Since(last) < FaultLease
}

// call makes a call as the link lets it.
func call[T any](ctx context.Context, l *link, f func(context.Context) (T, error)) (T, error) {
	type answer struct {
		v   T
		err error
	}
	var none T
	whole := context.WithoutCancel(ctx)
	l.mu.Lock()
	mode := l.is
	var done chan answer
	if mode == LinkHang {
		done = make(chan answer, 1)
		l.pending = append(l.pending, func() {
			v, err := f(whole)
			done <- answer{v, err}
		})
	}
	l.mu.Unlock()
	switch mode {
	case LinkCut:
		return none, errAway
	case LinkMute:
		_, _ = f(whole)
		return none, errAway
	case LinkHang:
		select {
		case a := <-done:
			return a.v, a.err
		case <-ctx.Done():
			return none, errAway
		}
	case LinkSlow:
		time.Sleep(100 * time.Millisecond) //nolint:forbidigo // in a bubble
		v, err := f(whole)
		time.Sleep(100 * time.Millisecond) //nolint:forbidigo // in a bubble
		if ctx.Err() != nil {
			return none, errAway
		}
		return v, err
	case LinkOK:
	}
	return f(whole)
}

// wished notes that clients who connect as users are let in now, perhaps long after they gave up: those
// are to be there, also if they were deleted since.
func (l *link) wished(sessions ...presence.Held) {
	l.f.mu.Lock()
	defer l.f.mu.Unlock()
	for _, h := range sessions {
		if h.UserSID == "" {
			delete(l.f.deleted, h.Key)
		}
	}
}

func (l *link) Register(ctx context.Context, p presence.Partition, n presence.NodeID, sessions []presence.Held) (presence.Registered, error) {
	return call(ctx, l, func(ctx context.Context) (presence.Registered, error) {
		l.wished(sessions...)
		return l.Store.Register(ctx, p, n, sessions)
	})
}

func (l *link) Open(ctx context.Context, p presence.Partition, n presence.NodeID, h presence.Held) (presence.Registered, presence.User, error) {
	type opened struct {
		r presence.Registered
		u presence.User
	}
	o, err := call(ctx, l, func(ctx context.Context) (o opened, err error) {
		l.wished(h)
		o.r, o.u, err = l.Store.Open(ctx, p, n, h)
		return o, err
	})
	return o.r, o.u, err
}

func (l *link) End(ctx context.Context, p presence.Partition, n presence.NodeID, sessions []presence.Ended) (presence.Registered, error) {
	return call(ctx, l, func(ctx context.Context) (presence.Registered, error) { return l.Store.End(ctx, p, n, sessions) })
}

func (l *link) Beat(ctx context.Context, ps []presence.Partition, n presence.NodeID) ([]presence.Beat, []error) {
	type beaten struct {
		beats []presence.Beat
		errs  []error
	}
	b, err := call(ctx, l, func(ctx context.Context) (b beaten, _ error) {
		l.beats(ps)
		b.beats, b.errs = l.Store.Beat(ctx, ps, n)
		return b, nil
	})
	if err != nil {
		return make([]presence.Beat, len(ps)), slices.Repeat([]error{err}, len(ps))
	}
	return b.beats, b.errs
}

func (l *link) Sessions(ctx context.Context, p presence.Partition, n presence.NodeID) ([]presence.Ended, error) {
	return call(ctx, l, func(ctx context.Context) ([]presence.Ended, error) { return l.Store.Sessions(ctx, p, n) })
}

func (l *link) Leave(ctx context.Context, ps []presence.Partition, n presence.NodeID, handover time.Duration) error {
	_, err := call(ctx, l, func(ctx context.Context) (struct{}, error) { return struct{}{}, l.Store.Leave(ctx, ps, n, handover) })
	return err
}

func (l *link) ExpireBindings(ctx context.Context, p presence.Partition) (int, error) {
	return call(ctx, l, func(ctx context.Context) (int, error) { return l.Store.ExpireBindings(ctx, p) })
}

func (l *link) EnsureUser(ctx context.Context, k presence.Key, s presence.Service) (presence.User, error) {
	return call(ctx, l, func(ctx context.Context) (presence.User, error) { return l.Store.EnsureUser(ctx, k, s) })
}

func (l *link) Service(ctx context.Context, sid string) (presence.Service, error) {
	return call(ctx, l, func(ctx context.Context) (presence.Service, error) { return l.Store.Service(ctx, sid) })
}

func (l *link) BeatServices(ctx context.Context) (run string, seq uint64, err error) {
	type beaten struct {
		run string
		seq uint64
	}
	b, err := call(ctx, l, func(ctx context.Context) (b beaten, err error) {
		b.run, b.seq, err = l.Store.BeatServices(ctx)
		return b, err
	})
	return b.run, b.seq, err
}

func (l *link) RestoreService(ctx context.Context, s presence.Service, run string) (presence.Service, error) {
	return call(ctx, l, func(ctx context.Context) (presence.Service, error) { return l.Store.RestoreService(ctx, s, run) })
}
