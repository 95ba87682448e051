package fanouttest

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"sync"
	"time"

	"github.com/rollcall-presence/rollcall/presence"
)

// World is a store in memory by the rules that a Hub relies on: each change that is
// published gets a revision above the last and the next number of its partition;
// a user's coming and going while its service is switched off is recorded silently.
// It is safe for concurrent use.
type World struct {
	// Parts is the number of partitions.
	Parts int

	mu       sync.Mutex // guards the following
	users    map[presence.Key]presence.User
	services map[string]presence.Service
	counters map[presence.Partition]counter
	runs     int
	sids     int
	rev      int64 // highest given
	down     error
	latency  func()
}

type counter struct {
	run string
	seq uint64
}

// Published is one event with its place among its partition's.
type Published struct {
	P   presence.Partition
	Run string
	Seq uint64
	presence.Event
}

// NewWorld returns a world without users or services.
func NewWorld(parts int) *World {
	w := &World{Parts: parts}
	w.resetLocked()
	return w
}

func (w *World) resetLocked() {
	w.runs++
	w.users, w.counters = map[presence.Key]presence.User{}, map[presence.Partition]counter{}
	if w.services == nil {
		w.services = map[string]presence.Service{}
	}
}

// Flush loses all users and counters, but the services.
func (w *World) Flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.resetLocked()
}

// Backup returns a function that brings users back as they are now: the store lost
// what came after.
func (w *World) Backup() (restore func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	users := maps.Clone(w.users)
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.resetLocked()
		w.users = users
	}
}

// Latency makes each read call f, without locks, after the store has answered and
// before the reader has the answer.
func (w *World) Latency(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.latency = f
}

// Down makes reads fail with err until it is nil.
func (w *World) Down(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = err
}

// Partitions is w.Parts.
func (w *World) Partitions() int { return w.Parts }

// Partition spreads users by the bytes of their identity.
func (w *World) Partition(k presence.Key) presence.Partition {
	n := 0
	for _, c := range []byte(k.Identity) {
		n += int(c)
	}
	return presence.Partition(n % w.Parts)
}

// Service returns a service; ErrNoService.
func (w *World) Service(_ context.Context, sid string) (presence.Service, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s, ok := w.services[sid]
	if !ok {
		return presence.Service{}, presence.ErrNoService
	}
	return s, nil
}

// ReadUsers returns users as they are at the time of the call.
func (w *World) ReadUsers(ctx context.Context, keys []presence.Key) ([]presence.User, error) {
	w.mu.Lock()
	users := make([]presence.User, len(keys))
	for i, k := range keys {
		users[i] = w.users[k]
		users[i].Key = k
	}
	err, latency := w.down, w.latency
	w.mu.Unlock()
	if latency != nil {
		latency()
	}
	if err == nil {
		err = ctx.Err()
	}
	return users, err
}

// Truth is what a reader may see of a user now.
func (w *World) Truth(k presence.Key) presence.Snapshot {
	w.mu.Lock()
	defer w.mu.Unlock()
	u := w.users[k]
	u.Key = k
	return w.services[k.Service].View(u)
}

// Counter is what a heartbeat in a partition returns.
func (w *World) Counter(p presence.Partition) (run string, seq uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.counters[p]
	return c.run, c.seq
}

// Flip sets a service's switch, making the service if need be, and returns it as it
// was and is.
func (w *World) Flip(sid string, enabled bool) (old, changed presence.Service) {
	w.mu.Lock()
	defer w.mu.Unlock()
	old = w.services[sid]
	changed = old
	changed.SID = sid
	if changed.Enabled != enabled {
		changed.Enabled = enabled
		changed.Rev = w.nextLocked(0)
		if enabled {
			changed.Epoch++
		}
	}
	w.services[sid] = changed
	return old, changed
}

// Online records that the user is online or not, creating it if need be; what is to
// be published, if anything.
func (w *World) Online(k presence.Key, online bool) []Published {
	return w.change(k, presence.ReasonOnline, func(u *presence.User, s presence.Service) {
		u.Online = presence.TriOf(online)
		u.Epoch = s.Epoch
		if !online {
			u.LastOnline = time.Now().UTC().Truncate(time.Millisecond)
		}
	})
}

// Notifiable records whether the user has push registrations.
func (w *World) Notifiable(k presence.Key, notifiable bool) []Published {
	return w.change(k, presence.ReasonNotifiable, func(u *presence.User, s presence.Service) {
		u.Notifiable = presence.TriOf(notifiable)
		u.NotifiableEpoch = s.Epoch
	})
}

// Name sets the friendly name.
func (w *World) Name(k presence.Key, name string) []Published {
	return w.change(k, presence.ReasonFriendlyName, func(u *presence.User, _ presence.Service) { u.FriendlyName = &name })
}

// Attributes sets the attributes.
func (w *World) Attributes(k presence.Key, attributes string) []Published {
	return w.change(k, presence.ReasonAttributes, func(u *presence.User, _ presence.Service) { u.Attributes = attributes })
}

// Delete deletes the user, if there is one.
func (w *World) Delete(k presence.Key) []Published {
	w.mu.Lock()
	defer w.mu.Unlock()
	u, ok := w.users[k]
	if !ok {
		return nil
	}
	delete(w.users, k)
	e := presence.Event{Deleted: true, User: presence.User{Key: k, Rev: w.nextLocked(u.Rev)}}
	return []Published{w.publishLocked(k, e)}
}

func (w *World) change(k presence.Key, why presence.Reasons, set func(*presence.User, presence.Service)) []Published {
	w.mu.Lock()
	defer w.mu.Unlock()
	u, ok := w.users[k]
	s := w.services[k.Service]
	if !ok {
		w.sids++
		u = presence.User{Key: k, SID: fmt.Sprintf("US%032x", w.sids), Attributes: "{}"}
	}
	set(&u, s)
	silent := ok && !s.Enabled && why&presence.Reachability != 0
	if !silent {
		u.Rev = w.nextLocked(u.Rev)
	}
	w.users[k] = u
	if silent {
		return nil
	}
	if why&presence.ReasonFriendlyName == 0 {
		u.FriendlyName = nil
	}
	if why&presence.ReasonAttributes == 0 {
		u.Attributes = ""
	}
	return []Published{w.publishLocked(k, presence.Event{User: u, Reasons: why})}
}

func (w *World) publishLocked(k presence.Key, e presence.Event) Published {
	p := w.Partition(k)
	c := w.counters[p]
	if c.run == "" {
		c.run = "run" + strconv.Itoa(w.runs)
	}
	c.seq++
	w.counters[p] = c
	return Published{P: p, Run: c.run, Seq: c.seq, Event: e}
}

// nextLocked is a revision above every other, of the clock where that is larger.
func (w *World) nextLocked(last int64) int64 {
	w.rev = max(w.rev, last, time.Now().UnixMilli()-1) + 1
	return w.rev
}
