package faults

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/rollcall-presence/rollcall/internal/testkit/rig"
)

// watchers are one a node, and through the balancer one that speaks the native protocol and one that speaks the
// Conversations SDK's. Each is subscribed to all users and records all it is told.
// One that loses its connection comes back, where it was or, if that is down, through the balancer, and tells what it
// knows.
type watchers struct {
	all    []*watcher
	cancel context.CancelFunc
	done   sync.WaitGroup
}

type watcher struct {
	w    *World
	name string
	node int // -1: through the balancer
	// session watches over one connection.
	session func(ctx context.Context, node, url string) error

	mu     sync.Mutex // guards the following
	known  map[string]int64
	online map[string]string
	joined bool
}

// balanced is the watcher that connects through the balancer, beside SDKWatcher.
const balanced = "wb"

func startWatchers(w *World) *watchers {
	ctx, cancel := context.WithCancel(context.Background())
	ws := &watchers{cancel: cancel}
	w.Cleanup(ws.stop)
	add := func(name string, node int) *watcher {
		v := &watcher{w: w, name: name, node: node, known: map[string]int64{}, online: map[string]string{}}
		v.session = v.nativeSession
		ws.all = append(ws.all, v)
		return v
	}
	for i := range w.Nodes {
		add(fmt.Sprint("w", i), i)
	}
	add(balanced, -1)
	sdk := add(SDKWatcher, -1)
	sdk.session = sdk.sdkSession
	for _, v := range ws.all {
		ws.done.Go(func() { v.run(ctx) })
	}
	rig.Eventually(w, "the watchers are subscribed", ws.joined)
	return ws
}

// stop ends the watchers, without a record of it.
func (ws *watchers) stop() {
	ws.cancel()
	ws.done.Wait()
}

func (ws *watchers) joined() error {
	for _, v := range ws.all {
		v.mu.Lock()
		joined := v.joined
		v.mu.Unlock()
		if !joined {
			return fmt.Errorf("watcher %s is not subscribed", v.name)
		}
	}
	return nil
}

func (v *watcher) run(ctx context.Context) {
	for attempt := 0; ; attempt++ {
		node, url := "the balancer", v.w.Balancer.WS()
		if v.node >= 0 && attempt%2 == 0 {
			node, url = fmt.Sprint("node ", v.node), v.w.Node(v.node).WS()
		}
		err := v.session(ctx, node, url)
		if ctx.Err() != nil {
			return
		}
		v.mu.Lock()
		if v.joined { // an attempt to come back that failed would only make histories longer
			v.w.Rec.Add(Entry{Kind: Parted, Watcher: v.name, What: err.Error()})
		}
		v.joined = false
		v.mu.Unlock()
		_, retry := ending(err)
		if !sleep(ctx, max(retry, 50*time.Millisecond)) {
			return
		}
	}
}

// nativeSession watches over one connection in the native protocol.
func (v *watcher) nativeSession(ctx context.Context, node, url string) error {
	hello, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	v.mu.Lock()
	known := maps.Clone(v.known)
	v.mu.Unlock()
	p, welcome, err := dial(hello, url, v.w.Service, "watcher-"+v.name, map[string]any{"invisible": true, "batch": true, "known": known})
	if err != nil {
		return err
	}
	defer p.conn.CloseNow()
	v.note(Read, welcome.Users)
	missing := 0
	for i := 0; i < len(v.w.Identities); i += 500 {
		var some []string
		for _, user := range v.w.Identities[i:min(i+500, len(v.w.Identities))] {
			if _, ok := known[user]; !ok {
				some = append(some, user)
			}
		}
		if len(some) > 0 {
			missing++
			if err := p.write(hello, map[string]any{"type": "subscribe", "id": missing, "identities": some}); err != nil {
				return err
			}
		}
	}
	for {
		if missing == 0 {
			v.join(node)
		}
		m, err := p.read(ctx)
		if err != nil {
			return err
		}
		messages := []message{m}
		if m.Type == "batch" {
			messages = m.Messages
		}
		for _, m := range messages {
			switch m.Type {
			case "user.updated":
				v.note(Seen, []state{m.User})
			case "subscribed":
				v.note(Read, m.Users)
				missing--
			case "error":
				return fmt.Errorf("error %d %s", m.Code, m.Message)
			}
		}
	}
}

// join notes that it is subscribed to all users.
func (v *watcher) join(node string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.joined {
		v.w.Rec.Add(Entry{Kind: Joined, Watcher: v.name, Node: node})
	}
	v.joined = true
}

func (v *watcher) note(kind Kind, users []state) {
	for _, u := range users {
		v.noteOne(kind, u.Identity, u.Rev, u.online())
	}
}

func (v *watcher) noteOne(kind Kind, user string, rev int64, online string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.known[user] = max(v.known[user], rev)
	v.online[user] = online
	v.w.Rec.Add(Entry{Kind: kind, Watcher: v.name, User: user, Rev: rev, Online: online})
}

// settle waits until all that is due has been told, and records what REST says on each node.
func (w *World) settle() {
	w.Helper()
	rig.Within(w, time.Minute, "everybody is connected again", w.churn.connected)
	rig.Eventually(w, "the watchers are subscribed again", w.watchers.joined)
	for before := -1; ; {
		w.mu.Lock()
		rules := w.rules
		w.mu.Unlock()
		if len(rules.Away) == before { // nothing was put off meanwhile
			break
		}
		before = len(rules.Away)
		rules.Away = slices.Clone(rules.Away)
		w.Elapse(Due(w.Rec.History(), rules) - w.Rec.Now())
	}
	for i := range w.Nodes {
		for _, u := range w.read(i) {
			w.Rec.Add(Entry{Kind: Told, Node: fmt.Sprint("node ", i), User: u.Identity, Rev: u.Rev, Online: u.online()})
		}
	}
}

// read reads all users over REST on a node.
func (w *World) read(i int) (all []state) {
	w.Helper()
	for from := 0; from < len(w.Identities); from += 500 {
		query := url.Values{"Identity": w.Identities[from:min(from+500, len(w.Identities))]}
		var answer struct {
			Users []state `json:"users"`
		}
		if code := w.Node(i).REST(http.MethodGet, "/v1/Services/"+w.Service+"/Presence?"+query.Encode(), nil, &answer); code != http.StatusOK {
			w.Fatalf("reading all users on node %d: %d", i, code)
		}
		all = append(all, answer.Users...)
	}
	return all
}
