package rig

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rollcall-presence/rollcall/auth"
	"github.com/rollcall-presence/rollcall/client"
)

// Mint makes access tokens for a user, good for an hour.
func Mint(sid, identity string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { return auth.Mint(Key, sid, identity, time.Now(), time.Hour) }
}

// Connect opens a session of a user. It is dropped when the test ends.
func Connect(t testing.TB, ws, sid, identity string, opt client.Options) *client.Client {
	t.Helper()
	opt.Token = Mint(sid, identity)
	if opt.BackoffBase == 0 {
		opt.BackoffBase, opt.BackoffLimit = 100*time.Millisecond, time.Second
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c, err := client.Dial(ctx, ws, opt)
	if err != nil {
		t.Fatalf("connecting %s: %v", identity, err)
	}
	t.Cleanup(c.Drop)
	return c
}

// State is is_online in a word: null, true or false.
func State(b *bool) string {
	if b == nil {
		return "null"
	}
	return fmt.Sprint(*b)
}

// Watcher is a session that records each event it sees. Revisions that do not grow fail the test.
type Watcher struct {
	*client.Client
	t  testing.TB
	mu sync.Mutex // guards the following
	// seen is the history of each user: null, true, false as they came.
	seen map[string][]string
	rev  map[string]int64
}

// Watch opens an invisible session that is subscribed to identities.
func Watch(t testing.TB, ws, sid, name string, identities ...string) *Watcher {
	t.Helper()
	return WatchAs(t, ws, sid, name, client.Options{Invisible: true}, identities...)
}

// WatchAs is Watch with other options; OnEvent is the watcher's own.
func WatchAs(t testing.TB, ws, sid, name string, opt client.Options, identities ...string) *Watcher {
	t.Helper()
	w := &Watcher{t: t, seen: map[string][]string{}, rev: map[string]int64{}}
	opt.OnEvent = w.event
	w.Client = Connect(t, ws, sid, name, opt)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, err := w.Subscribe(ctx, identities...); err != nil {
		t.Fatalf("subscribing: %v", err)
	}
	return w
}

func (w *Watcher) event(e client.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e.Kind != client.UserUpdated {
		return
	}
	id := e.User.Identity
	if e.User.Rev <= w.rev[id] {
		w.t.Errorf("revision %d of %s after %d", e.User.Rev, id, w.rev[id])
	}
	w.rev[id] = e.User.Rev
	w.seen[id] = append(w.seen[id], State(e.User.IsOnline))
}

// History is what was seen of a user since the last reset, space separated.
func (w *Watcher) History(identity string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.seen[identity], " ")
}

// Reset forgets what was seen.
func (w *Watcher) Reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = map[string][]string{}
}

// Events is how many were seen since the last reset.
func (w *Watcher) Events() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.seen {
		n += len(s)
	}
	return n
}

// Seen is the history of each user of which anything was seen since the last reset.
func (w *Watcher) Seen() map[string]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := map[string]string{}
	for id, s := range w.seen {
		all[id] = strings.Join(s, " ")
	}
	return all
}
