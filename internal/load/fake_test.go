package load

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/coder/websocket"
)

// fake is a node of one process that speaks the native protocol and as much of REST as a run
// needs. What it tells of users, tamper may change.
type fake struct {
	*httptest.Server
	// The following are set before the first request.
	tamper func(e event) []event                             // what is sent of an update, nil for what is true
	answer func(w http.ResponseWriter, r *http.Request) bool // whether it answered a request in place of the fake
	hello  func(c *websocket.Conn) bool                      // whether it ended a session that said hello

	conflated atomic.Int64 // a metric
	deleted   atomic.Int64 // services

	mu    sync.Mutex // guards the following
	rev   int64
	users map[string]*fakeUser
	told  int // updates so far of users who came again
}

type fakeUser struct {
	online bool
	rev    int64
	subs   map[*websocket.Conn]string // to whom
	by     *websocket.Conn
}

// event is an update on its way to a watcher.
type event struct {
	n         int // of those since all were connected, from 1, over all watchers
	to, about string
	online    bool
	rev       int64
	conn      *websocket.Conn
}

func startFake(t *testing.T) *fake {
	f := &fake{users: map[string]*fakeUser{}, rev: 1_790_000_000_000}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/Services", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, `{"sid":"`+fakeService+`"}`) })
	mux.HandleFunc("POST /v1/Services/"+fakeService+"/", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("DELETE /v1/Services/"+fakeService, func(http.ResponseWriter, *http.Request) { f.deleted.Add(1) })
	mux.HandleFunc("GET /v1/connect", f.connect)
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, "# HELP x\nrollcall_events_conflated_total %d\nprocess_cpu_seconds_total 1\n", f.conflated.Load())
	})
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f.answer == nil || !f.answer(w, r) {
			mux.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(f.Close)
	return f
}

func (f *fake) url() string { return strings.Replace(f.URL, "http", "ws", 1) + "/v1/connect" }

// user is a user's; f.mu is held.
func (f *fake) user(name string) *fakeUser {
	u := f.users[name]
	if u == nil {
		u = &fakeUser{subs: map[*websocket.Conn]string{}}
		f.users[name] = u
	}
	return u
}

func state(name string, online bool, rev int64) string {
	return fmt.Sprintf(`{"identity":%q,"sid":"US1","is_online":%t,"is_notifiable":null,"rev":%d}`, name, online, rev)
}

// change has a user come or go, and tells the subscribers; f.mu is held.
func (f *fake) change(name string, online bool) {
	u := f.user(name)
	if u.online == online {
		return
	}
	f.rev += 10
	u.online, u.rev = online, f.rev
	again := u.online && u.by != nil || !u.online
	for c, to := range u.subs {
		e := event{to: to, about: name, online: online, rev: f.rev, conn: c}
		events := []event{e}
		if f.tamper != nil && (again || strings.Compare(name, identity(watchers)) >= 0) {
			f.told++
			e.n = f.told
			events = f.tamper(e)
		}
		f.send(events...)
	}
}

// watchers is how many there are in runs with a fake: who is no watcher is an actor.
const watchers = 6

func (f *fake) send(events ...event) {
	for _, e := range events {
		_ = e.conn.Write(context.Background(), websocket.MessageText, fmt.Appendf(nil, `{"type":"user.updated","update_reasons":[],"user":%s}`, state(e.about, e.online, e.rev)))
	}
}

func (f *fake) connect(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"rollcall.v1.json"}})
	if err != nil {
		return
	}
	defer c.CloseNow()
	name := ""
	for {
		_, m, err := c.Read(r.Context())
		if err != nil {
			break
		}
		var in struct {
			Type, Token string
			Known       map[string]int64
			Identities  []string
		}
		_ = json.Unmarshal(m, &in)
		answer := ""
		f.mu.Lock()
		switch in.Type {
		case "hello":
			var claims struct{ Grants struct{ Identity string } }
			payload, _ := base64.RawURLEncoding.DecodeString(strings.Split(in.Token, ".")[1])
			_ = json.Unmarshal(payload, &claims)
			name = claims.Grants.Identity
			if f.hello != nil && f.hello(c) {
				f.mu.Unlock()
				return
			}
			var missed []string
			for other, rev := range in.Known {
				u := f.user(other)
				if u.subs[c] = name; u.rev != rev {
					missed = append(missed, state(other, u.online, u.rev))
				}
			}
			f.change(name, true)
			f.user(name).by = c
			answer = fmt.Sprintf(`{"type":"welcome","identity":%q,"user":%s,"users":[%s]}`, name, state(name, true, f.user(name).rev), strings.Join(missed, ","))
		case "subscribe":
			var list []string
			for _, other := range in.Identities {
				u := f.user(other)
				u.subs[c] = name
				list = append(list, state(other, u.online, u.rev))
			}
			answer = `{"type":"subscribed","id":1,"users":[` + strings.Join(list, ",") + `]}`
		case "bye":
			f.change(name, false)
		}
		if answer != "" {
			_ = c.Write(r.Context(), websocket.MessageText, []byte(answer))
		}
		f.mu.Unlock()
		if in.Type == "bye" {
			_ = c.Close(websocket.StatusNormalClosure, "")
			break
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, u := range f.users {
		delete(u.subs, c)
	}
}

// fakeService is the service that a fake makes, each time.
const fakeService = "IS00000000000000000000000000000a0d"
