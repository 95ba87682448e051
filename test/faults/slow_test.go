package faults

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rollcall-presence/rollcall/internal/testkit/rig"
)

// sipping is a connection from which one byte a second is read while it is slow.
type sipping struct {
	net.Conn
	mu   sync.Mutex    // guards the following
	slow chan struct{} // closed when it is not slow any more; nil if it is not
}

func (c *sipping) Read(b []byte) (int, error) {
	c.mu.Lock()
	slow := c.slow
	c.mu.Unlock()
	if slow == nil {
		return c.Conn.Read(b)
	}
	timer := time.NewTimer(time.Second)
	defer timer.Stop()
	select {
	case <-slow:
		return c.Conn.Read(b)
	case <-timer.C:
		return c.Conn.Read(b[:1])
	}
}

func (c *sipping) set(slow bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if slow {
		c.slow = make(chan struct{})
	} else {
		close(c.slow)
		c.slow = nil
	}
}

// reader is a client that is told of the spare users, and of nobody else.
type reader struct {
	w    *World
	name string
	peer *peer
	conn *sipping
	over chan struct{} // closed when its connection has ended

	mu      sync.Mutex // guards the following
	rev     map[string]int64
	text    map[string]string // attributes as last told
	updates int
	err     error
}

func newReader(w *World, name string, node int) *reader {
	r := &reader{w: w, name: name, over: make(chan struct{}), rev: map[string]int64{}, text: map[string]string{}}
	by := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		r.conn = &sipping{Conn: conn}
		return r.conn, nil
	}}}
	ctx, cancel := context.WithTimeout(w.churn.ctx, 15*time.Second)
	defer cancel()
	var err error
	if r.peer, _, err = dialBy(ctx, by, w.Node(node).WS(), w.Service, name, map[string]any{"invisible": true}); err != nil {
		w.Fatal(err)
	}
	if err := r.peer.write(ctx, map[string]any{"type": "subscribe", "id": 1, "identities": w.Spare}); err != nil {
		w.Fatal(err)
	}
	if m, err := r.peer.read(ctx); err != nil || m.Type != "subscribed" {
		w.Fatalf("%s: %v, %v; want subscribed", name, m, err)
	}
	w.churn.devices.Go(func() {
		defer close(r.over)
		for {
			m, err := r.peer.read(w.churn.ctx)
			if err != nil {
				r.mu.Lock()
				r.err = err
				r.mu.Unlock()
				return
			}
			r.note(m)
		}
	})
	// It is alive: it says so more often than it is asked.
	w.churn.devices.Go(func() {
		for sleep(w.churn.ctx, time.Second) {
			if r.peer.write(w.churn.ctx, map[string]any{"type": "ping"}) != nil {
				return
			}
		}
	})
	return r
}

func (r *reader) note(m message) {
	if m.Type != "user.updated" {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if m.User.Rev <= r.rev[m.User.Identity] {
		r.w.Errorf("%s was told revision %d of %s after %d", r.name, m.User.Rev, m.User.Identity, r.rev[m.User.Identity])
	}
	r.rev[m.User.Identity] = m.User.Rev
	if m.User.Attributes != "" {
		r.text[m.User.Identity] = m.User.Attributes
	}
	r.updates++
}

// knows is nil once the reader was last told what it should.
func (r *reader) knows(text map[string]string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return r.err
	}
	for user, want := range text {
		if got := r.text[user]; got != want {
			return fmt.Errorf("%s knows %.20q of %s; want %.20q", r.name, got, user, want)
		}
	}
	return nil
}

// A client that reads one byte a second costs the node a bounded amount and others nothing, and is told the newest
// state once it reads. One that goes on so is taken for dead.
func TestSlowReader(t *testing.T) {
	const users, size = 20, 8 << 10 // together less than a mailbox holds
	text := map[string]string{}
	Scenario{
		Name: "a client reads one byte a second, of updates that come a hundred times as fast as that", Guarantees: "G8, G9",
		Bound: "fewer updates, then the newest of each user; 256 KiB of memory; closed only if nothing moves for ping + pong",
		Spare: users,
		Env:   []string{"ROLLCALL_PING_INTERVAL=15s", "ROLLCALL_PONG_TIMEOUT=5s"},
		Fault: func(w *World) {
			for _, user := range w.Spare {
				if code := w.Node(1).REST(http.MethodPost, "/v1/Services/"+w.Service+"/Users", url.Values{"Identity": {user}}, nil); code != http.StatusCreated {
					w.Fatalf("making %s: %d", user, code)
				}
			}
			fast, slow, dead := newReader(w, "fast", 0), newReader(w, "slow", 0), newReader(w, "dead", 0)
			before := w.Node(0).Metric("go_memstats_heap_inuse_bytes")
			slow.conn.set(true)
			dead.conn.set(true)
			w.Note("two clients read one byte a second")
			made := 0
			update := func(long time.Duration) {
				for until := w.Rec.Now() + long; w.Rec.Now() < until; {
					for _, user := range w.Spare {
						text[user] = fmt.Sprintf(`{"n":%d,"x":%q}`, made, strings.Repeat("x", size))
						if code := w.Node(1).REST(http.MethodPost, "/v1/Services/"+w.Service+"/Users/"+user, url.Values{"Attributes": {text[user]}}, nil); code != http.StatusOK {
							w.Fatalf("updating %s: %d", user, code)
						}
						made++
					}
				}
			}
			update(12 * time.Second)
			// The lines and their buffers hold hundreds before the node itself has to.
			const merged = 300
			for tries := 0; w.Node(0).Metric("rollcall_events_conflated_total") < merged; tries++ {
				if tries == 30 {
					w.Fatalf("%d updates, and fewer than %d were merged", made, merged)
				}
				update(time.Second)
			}
			grown := w.Node(0).Metric("go_memstats_heap_inuse_bytes") - before
			slow.conn.set(false)
			w.Note("one of them reads all it gets, after %d updates", made)
			rig.Eventually(w, "the slow reader knows the newest", func() error { return slow.knows(text) })
			rig.Eventually(w, "the fast reader knows the newest", func() error { return fast.knows(text) })
			if slow.updates >= made {
				w.Errorf("the slow reader was told of %d of %d updates; want fewer", slow.updates, made)
			}
			if grown > 64<<20 {
				w.Errorf("the node's heap grew by %.0f MiB; want 64 at most", grown/(1<<20))
			}
			w.Saw("%d updates; the slow reader got %d and the newest last, the fast one %d; heap %+.1f MiB", made, slow.updates, fast.updates, grown/(1<<20))
			w.Note("the other one reads on as before")
			closed := func() error {
				if n := w.Node(0).Metrics()[`rollcall_closes_total{by="server",code="3003"}`]; n != 1 {
					return fmt.Errorf("%v sessions closed as slow", n)
				}
				return nil
			}
			rig.Eventually(w, "it is closed as slow", closed)
			dead.conn.set(false)
			<-dead.over
			w.Note("it was closed: %v", dead.err)
		},
	}.run(t)
}
