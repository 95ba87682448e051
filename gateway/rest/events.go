package rest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rollcall-presence/rollcall/presence"
)

const (
	// keepAlive is the silence after which a stream sends a comment and its cursor.
	keepAlive = 15 * time.Second
	// stalled is for how long a stream's client may take nothing.
	stalled = 10 * time.Second
	// recheck is how often a stream's credentials are looked at: so long it outlives an
	// API key that this node knows to be revoked.
	recheck = 500 * time.Millisecond
	// maxWrite is about how much is encoded for a stream at one time, and so what one
	// with a slow client holds.
	maxWrite = 32 << 10
	// storePatience bounds a read of the store for streams.
	storePatience = 5 * time.Second
)

// stream is an answer that goes on until its client leaves or the node is drained.
type stream func(w http.ResponseWriter)

// streamEvents opens a stream of server-sent events. It reads the change log, so what
// a client has not taken is nowhere kept for it, and it resumes on any node.
func (c *call) streamEvents() (any, error) {
	query, err := url.ParseQuery(c.r.URL.RawQuery)
	if err != nil {
		return nil, errQuery
	}
	if len(query["Identity"]) > maxPresence {
		return nil, errManyIdentities
	}
	var wanted map[string]bool
	for _, identity := range query["Identity"] {
		if presence.CheckIdentity(identity) != nil {
			return nil, c.checkIdentity(identity)
		}
		if wanted == nil {
			wanted = map[string]bool{}
		}
		wanted[identity] = true
	}
	cursor := query.Get("Cursor")
	if last := c.r.Header.Get("Last-Event-ID"); last != "" { // a reconnection, with the URL of the first connection
		cursor = last
	}
	at, now, err := place(cursor)
	if err != nil {
		return nil, err
	}
	s, err := c.service()
	if err != nil {
		return nil, err
	}
	m, err := c.store.Moment(c.ctx)
	if err != nil {
		return nil, err
	}
	if now || cursor == "" {
		at = m.Place(s)
	} else if _, err := c.store.Changes(c.ctx, s, at, 1, m); err != nil { // the place may be gone: told while there is a status to tell it by
		return nil, err
	}
	f, err := c.feeds.join(s, m)
	if err != nil {
		return nil, err
	}
	return stream(func(w http.ResponseWriter) {
		defer c.feeds.leave(f)
		user, password, _ := c.r.BasicAuth()
		o := outlet{good: func() bool { return c.credentials.Good(user, password) }, w: w, rc: http.NewResponseController(w), wanted: wanted, sent: c.metrics.streamed}
		c.feeds.follow(c.r.Context(), f, at, &o)
	}), nil
}

// outlet is the client's end of a stream.
type outlet struct {
	good   func() bool // the client may still hear
	w      http.ResponseWriter
	rc     *http.ResponseController
	wanted map[string]bool // identities; nil for all
	sent   prometheus.Counter
	buf    []byte
}

// open begins the stream, at a place.
func (o *outlet) open(at presence.Place) error {
	// The server bounds the reading of a request, and would take a client that says
	// nothing for one that is gone.
	if err := o.rc.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	o.w.Header().Set("Content-Type", "text/event-stream")
	o.w.Header().Set("X-Accel-Buffering", "no")
	o.w.WriteHeader(http.StatusOK)
	return o.flush(append(o.buf[:0], "id: "+at.String()+"\n\n"...))
}

// tell sends the events that the client wants of those up to at, and reports whether
// there were any.
func (o *outlet) tell(events []event, at presence.Place) (bool, error) {
	b, n := o.buf[:0], 0
	for _, e := range events {
		if o.wanted == nil || e.identity == "" || o.wanted[e.identity] {
			if len(b) > 0 && len(b)+len(e.frame) > maxWrite {
				if err := o.flush(b); err != nil {
					return true, err
				}
				b = b[:0]
			}
			b = append(b, e.frame...)
			n++
		}
	}
	o.buf = b
	if n == 0 {
		return false, nil
	}
	o.sent.Add(float64(n))
	return true, o.flush(append(b, "id: "+at.String()+"\n\n"...))
}

// alive shows the client that the stream is, and how far it has come.
func (o *outlet) alive(at presence.Place) error {
	return o.flush(append(o.buf[:0], ":\nid: "+at.String()+"\n\n"...))
}

// bye ends the stream in order: the client is to come back, though not all at once.
func (o *outlet) bye() {
	retry := 200 + rand.IntN(1800) //nolint:gosec // G404: jitter is no secret
	_ = o.flush(append(o.buf[:0], "retry: "+strconv.Itoa(retry)+"\n\n"...))
}

func (o *outlet) flush(b []byte) error {
	o.buf = b
	if err := o.rc.SetWriteDeadline(time.Now().Add(stalled)); err != nil {
		return err
	}
	if _, err := o.w.Write(b); err != nil {
		return err
	}
	return o.rc.Flush()
}

// event is a change as it is sent.
type event struct {
	place    presence.Place
	identity string // "" if it concerns everybody
	frame    []byte
}

func userEvent(s presence.Service, c presence.Change) event {
	v := s.View(c.User)
	name := "unknown"
	switch {
	case c.Deleted:
		name = "deleted"
	case v.Online == presence.True:
		name = "online"
	case v.Online == presence.False:
		name = "offline"
	}
	b := fmt.Appendf(nil, "event: %s\nid: %s\ndata: ", name, c.Place)
	return event{c.Place, c.User.Identity, append(appendPresence(b, v, &c.Deleted), "\n\n"...)}
}

// resetEvent tells that the switch was flipped. It has no id: what follows it must
// have been read too.
func resetEvent(s presence.Service) event {
	return event{frame: []byte("event: reset\ndata: {\"reachability_enabled\":" + strconv.FormatBool(s.Enabled) + "}\n\n")}
}

// follow sends what changes after a place until ctx ends, the client takes nothing
// any more or its API key is revoked, the service is deleted, or the node is drained.
func (f *feeds) follow(ctx context.Context, of *feed, at presence.Place, o *outlet) {
	if o.open(at) != nil {
		return
	}
	timer := time.NewTimer(keepAlive)
	defer timer.Stop()
	look := time.NewTicker(recheck)
	defer look.Stop()
	for {
		events, next, changed, err := f.after(ctx, of, at)
		switch {
		case !o.good():
			return
		case err == nil:
			told, err := o.tell(events, next)
			if err != nil {
				return
			}
			if told {
				timer.Reset(keepAlive)
			}
			at = next
		case errors.Is(err, presence.ErrPlaceGone), presence.KindOf(err) == presence.KindNotFound:
			return // the client's next request is answered with why
		}
		for waiting := true; waiting; {
			select {
			case <-f.draining:
				o.bye()
				return
			case <-changed:
				waiting = false
			case <-look.C:
				if !o.good() {
					return
				}
			case <-timer.C:
				if o.alive(at) != nil {
					return
				}
				timer.Reset(keepAlive)
				waiting = false
			case <-ctx.Done():
				return
			}
		}
	}
}
