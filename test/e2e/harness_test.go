// Package e2e drives the real binary: several nodes on one real Redis, clients that
// keep their own record of what they saw, processes killed and restarted.
package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rollcall-presence/rollcall/auth"
	"github.com/rollcall-presence/rollcall/client"
)

const (
	account   = "AC00000000000000000000000000000e2e"
	authToken = "e2e00000000000000000000000000001"
	keySID    = "SK00000000000000000000000000000e2e"
	keySecret = "e2e00000000000000000000000000002"
)

var binary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "rollcall-e2e-")
		if err != nil {
			panic(err)
		}
		defer func() { _ = os.RemoveAll(dir) }()
		binary = filepath.Join(dir, "rollcall")
		build := exec.Command("go", "build", "-o", binary, "../../cmd/rollcall")
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "the binary does not build:", err)
			return 1
		}
		return m.Run()
	}())
}

// node is a running gateway process.
type node struct {
	t           testing.TB
	addr, admin string
	cmd         *exec.Cmd
	done        chan struct{}
	log         *tail
}

// tail keeps the last of what a process printed.
type tail struct {
	mu sync.Mutex // guards b
	b  []byte
}

func (l *tail) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b = append(l.b, p...)
	if len(l.b) > 1<<20 {
		l.b = l.b[len(l.b)-1<<19:]
	}
	return len(p), nil
}

func (l *tail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.b)
}

// start starts a gateway on redisURL with further environment and waits until it
// serves. It is killed when the test ends.
func start(t testing.TB, redisURL string, env ...string) *node {
	t.Helper()
	ready := filepath.Join(t.TempDir(), "ready.json")
	n := &node{t: t, done: make(chan struct{}), log: &tail{}}
	n.cmd = exec.Command(binary, "serve")
	n.cmd.Env = append([]string{
		"ROLLCALL_ADDR=127.0.0.1:0", "ROLLCALL_ADMIN_ADDR=127.0.0.1:0", "ROLLCALL_REDIS_URL=" + redisURL, "ROLLCALL_READY_FILE=" + ready,
		"ROLLCALL_ACCOUNT_SID=" + account, "ROLLCALL_AUTH_TOKEN=" + authToken,
		"ROLLCALL_API_KEY_SID=" + keySID, "ROLLCALL_API_KEY_SECRET=" + keySecret, "HOME=" + os.Getenv("HOME"),
	}, env...)
	n.cmd.Stdout, n.cmd.Stderr = n.log, n.log
	if err := n.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = n.cmd.Wait(); close(n.done) }()
	t.Cleanup(n.kill)
	t.Cleanup(func() {
		if t.Failed() {
			said := n.log.String()
			t.Logf("node %s said at last:\n%s", n.addr, said[max(0, len(said)-4<<10):])
		}
	})
	eventually(t, "the node serves", func() error {
		select {
		case <-n.done:
			t.Fatalf("the node ended:\n%s", n.log)
		default:
		}
		data, err := os.ReadFile(ready)
		if err != nil {
			return err
		}
		var r struct {
			Addr      string `json:"addr"`
			AdminAddr string `json:"admin_addr"`
		}
		if err := json.Unmarshal(data, &r); err != nil {
			return err
		}
		n.addr, n.admin = r.Addr, r.AdminAddr
		return nil
	})
	return n
}

// kill kills the process as kill -9 does, and waits for its end.
func (n *node) kill() {
	_ = n.cmd.Process.Kill()
	<-n.done
}

// stop ends the process as an orchestrator does, and waits for the drain.
func (n *node) stop() {
	n.t.Helper()
	_ = n.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-n.done:
	case <-time.After(40 * time.Second):
		n.t.Errorf("node %s did not end within 40s of SIGTERM", n.addr)
		n.kill()
	}
	if code := n.cmd.ProcessState.ExitCode(); code != 0 {
		n.t.Errorf("node %s ended with %d after SIGTERM; want 0", n.addr, code)
	}
}

func (n *node) ws() string { return "ws://" + n.addr + "/v1/connect" }

// eventually waits for f to return nil.
func eventually(t testing.TB, what string, f func() error) {
	t.Helper()
	within(t, 30*time.Second, what, f)
}

func within(t testing.TB, d time.Duration, what string, f func() error) {
	t.Helper()
	deadline := time.After(d)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("%s: %v", what, err)
		case <-tick.C:
		}
	}
}

// rest makes a REST request of a node and decodes the answer into v.
func (n *node) rest(method, path string, form url.Values, v any) int {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+n.addr+path, strings.NewReader(form.Encode()))
	if err != nil {
		n.t.Fatal(err)
	}
	req.SetBasicAuth(account, authToken)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		n.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	if v != nil && len(data) > 0 {
		if err := json.Unmarshal(data, v); err != nil {
			n.t.Fatalf("%s %s: %v in %q", method, path, err, data)
		}
	}
	return res.StatusCode
}

// newService makes a service with the switch on.
func (n *node) newService() string {
	n.t.Helper()
	var s struct {
		SID string `json:"sid"`
	}
	if code := n.rest("POST", "/v1/Services", url.Values{"FriendlyName": {"e2e"}}, &s); code != http.StatusCreated {
		n.t.Fatalf("making a service: %d", code)
	}
	n.flip(s.SID, true)
	return s.SID
}

func (n *node) flip(sid string, on bool) {
	n.t.Helper()
	if code := n.rest("POST", "/v1/Services/"+sid+"/Configuration", url.Values{"ReachabilityEnabled": {fmt.Sprint(on)}}, nil); code != http.StatusOK {
		n.t.Fatalf("flipping the switch: %d", code)
	}
}

// user is a user as REST tells; zero if there is none.
type user struct {
	SID      string `json:"sid"`
	IsOnline *bool  `json:"is_online"`
}

func (n *node) user(sid, identity string) (u user) {
	n.t.Helper()
	n.rest("GET", "/v1/Services/"+sid+"/Users/"+url.PathEscape(identity), nil, &u)
	return u
}

// online is is_online of a user as REST tells.
func (n *node) online(sid, identity string) *bool {
	n.t.Helper()
	u := n.user(sid, identity)
	if u.SID == "" {
		n.t.Fatalf("there is no %s", identity)
	}
	return u.IsOnline
}

func mint(sid, identity string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) {
		return auth.Mint(auth.Key{SID: keySID, Secret: keySecret, Account: account}, sid, identity, time.Now(), time.Hour)
	}
}

// connect opens a session of a user. It is dropped when the test ends.
func connect(t testing.TB, ws, sid, identity string, opt client.Options) *client.Client {
	t.Helper()
	opt.Token = mint(sid, identity)
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

// watcher is an invisible session that records each event it sees.
type watcher struct {
	*client.Client
	t  testing.TB
	mu sync.Mutex // guards the following
	// seen is the history of each user: null, true, false as they came.
	seen map[string][]string
	rev  map[string]int64
}

func watch(t testing.TB, ws, sid, name string, identities ...string) *watcher {
	t.Helper()
	w := &watcher{t: t, seen: map[string][]string{}, rev: map[string]int64{}}
	w.Client = connect(t, ws, sid, name, client.Options{Invisible: true, OnEvent: w.event})
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, err := w.Subscribe(ctx, identities...); err != nil {
		t.Fatalf("subscribing: %v", err)
	}
	return w
}

func (w *watcher) event(e client.Event) {
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
	w.seen[id] = append(w.seen[id], state(e.User.IsOnline))
}

func state(b *bool) string {
	if b == nil {
		return "null"
	}
	return fmt.Sprint(*b)
}

// history is what was seen of a user since the last reset, space separated.
func (w *watcher) history(identity string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.seen[identity], " ")
}

func (w *watcher) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = map[string][]string{}
}

// events is how many were seen since the last reset.
func (w *watcher) events() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.seen {
		n += len(s)
	}
	return n
}

// balancer is a TCP load balancer over nodes that come and go.
type balancer struct {
	l     net.Listener
	mu    sync.Mutex // guards the following
	next  int
	nodes []*node
}

func balance(t testing.TB, nodes ...*node) *balancer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &balancer{l: l, nodes: nodes}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go b.pipe(c)
		}
	}()
	return b
}

func (b *balancer) ws() string { return "ws://" + b.l.Addr().String() + "/v1/connect" }

func (b *balancer) set(i int, n *node) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.nodes[i] = n
}

func (b *balancer) pipe(c net.Conn) {
	defer func() { _ = c.Close() }()
	b.mu.Lock()
	b.next++
	from, nodes := b.next, append([]*node(nil), b.nodes...)
	b.mu.Unlock()
	for i := range nodes {
		up, err := net.Dial("tcp", nodes[(from+i)%len(nodes)].addr)
		if err != nil {
			continue
		}
		defer func() { _ = up.Close() }()
		done := make(chan struct{})
		go func() { _, _ = io.Copy(up, c); _ = up.Close(); close(done) }()
		_, _ = io.Copy(c, up)
		_ = c.Close()
		<-done
		return
	}
}

var errNotYet = errors.New("not yet")
