// Package rig drives the real binary in tests: gateway processes on loopback, a load balancer before them, clients
// that keep their own record of what they saw, raw sockets that send what they are told to. What it starts ends with
// the test that asked for it.
package rig

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rollcall-presence/rollcall/auth"
)

// The credentials of the nodes that Start starts.
const (
	Account   = "AC00000000000000000000000000000e2e"
	AuthToken = "e2e00000000000000000000000000001"
	KeySID    = "SK00000000000000000000000000000e2e"
	KeySecret = "e2e00000000000000000000000000002"
)

// Key is the API key of the nodes, with which tokens are minted.
var Key = auth.Key{SID: KeySID, Secret: KeySecret, Account: Account}

// Program is the package of the binary.
const Program = "github.com/rollcall-presence/rollcall/cmd/rollcall"

var built struct {
	sync.Once
	dir, path string
	err       error
}

// Main runs the tests of a package that uses Binary and removes it thereafter. To be called by TestMain.
func Main(m *testing.M) { os.Exit(Run(m)) }

// Run is Main without the exit; it returns the code.
func Run(m *testing.M) int {
	code := m.Run()
	if built.dir != "" {
		_ = os.RemoveAll(built.dir)
	}
	return code
}

// Binary is the path of the program, which is built when it is first asked for.
func Binary(t testing.TB) string {
	t.Helper()
	built.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "rollcall-rig-"); built.err != nil { //nolint:usetesting // outlives the test that comes first
			return
		}
		built.path = filepath.Join(built.dir, "rollcall")
		out, err := exec.Command("go", "build", "-o", built.path, Program).CombinedOutput() //nolint:gosec,noctx // constants
		if err != nil {
			built.err = fmt.Errorf("the binary does not build: %w\n%s", err, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.path
}

// Node is a running gateway process.
type Node struct {
	Addr, Admin string // host:port for clients and REST, and of the admin server

	t    testing.TB
	cmd  *exec.Cmd
	done chan struct{}
	log  *tail
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

// Start starts a gateway on redisURL with further environment and waits until it
// serves. It is killed when the test ends.
func Start(t testing.TB, redisURL string, env ...string) *Node {
	t.Helper()
	return StartBinary(t, Binary(t), redisURL, env...)
}

// StartBinary is Start with another build of the program.
func StartBinary(t testing.TB, binary, redisURL string, env ...string) *Node {
	t.Helper()
	ready := filepath.Join(t.TempDir(), "ready.json")
	n := &Node{t: t, done: make(chan struct{}), log: &tail{}}
	n.cmd = exec.Command(binary, "serve") //nolint:noctx // lives as long as the test
	n.cmd.Env = append([]string{
		"ROLLCALL_ADDR=127.0.0.1:0", "ROLLCALL_ADMIN_ADDR=127.0.0.1:0", "ROLLCALL_REDIS_URL=" + redisURL, "ROLLCALL_READY_FILE=" + ready,
		"ROLLCALL_ACCOUNT_SID=" + Account, "ROLLCALL_AUTH_TOKEN=" + AuthToken,
		"ROLLCALL_API_KEY_SID=" + KeySID, "ROLLCALL_API_KEY_SECRET=" + KeySecret, "HOME=" + os.Getenv("HOME"),
	}, env...)
	n.cmd.Stdout, n.cmd.Stderr = n.log, n.log
	if err := n.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = n.cmd.Wait(); close(n.done) }()
	t.Cleanup(n.Kill)
	t.Cleanup(func() {
		if t.Failed() {
			said := n.log.String()
			t.Logf("node %s said at last:\n%s", n.Addr, said[max(0, len(said)-4<<10):])
		}
	})
	Eventually(t, "the node serves", func() error {
		select {
		case <-n.done:
			t.Fatalf("the node ended:\n%s", n.log)
		default:
		}
		data, err := os.ReadFile(ready) //nolint:gosec // in a directory of the test
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
		n.Addr, n.Admin = r.Addr, r.AdminAddr
		return nil
	})
	return n
}

// Kill kills the process as kill -9 does, and waits for its end. It may be called twice.
func (n *Node) Kill() {
	_ = n.cmd.Process.Kill()
	<-n.done
}

// Stop ends the process as an orchestrator does, and waits for the drain.
func (n *Node) Stop() {
	n.t.Helper()
	_ = n.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-n.done:
	case <-time.After(40 * time.Second):
		n.t.Errorf("node %s did not end within 40s of SIGTERM", n.Addr)
		n.Kill()
	}
	if code := n.cmd.ProcessState.ExitCode(); code != 0 {
		n.t.Errorf("node %s ended with %d after SIGTERM; want 0", n.Addr, code)
	}
}

// Signal sends the process a signal, like SIGSTOP.
func (n *Node) Signal(s os.Signal) {
	n.t.Helper()
	if err := n.cmd.Process.Signal(s); err != nil {
		n.t.Fatalf("signal %v to node %s: %v", s, n.Addr, err)
	}
}

// PID is the process's id.
func (n *Node) PID() int { return n.cmd.Process.Pid }

// Log is the last of what the process printed.
func (n *Node) Log() string { return n.log.String() }

// WS is where clients connect.
func (n *Node) WS() string { return "ws://" + n.Addr + "/v1/connect" }

// REST makes a REST request of the node as the account, decodes the answer into v unless that is nil, and returns
// the status. A node that does not answer fails the test.
func (n *Node) REST(method, path string, form url.Values, v any) int {
	n.t.Helper()
	status, err := n.TryREST(method, path, form, v)
	if err != nil {
		n.t.Fatal(err)
	}
	return status
}

// TryREST is REST for a node that may not answer.
func (n *Node) TryREST(method, path string, form url.Values, v any) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+n.Addr+path, strings.NewReader(form.Encode()))
	if err != nil {
		return 0, err
	}
	req.SetBasicAuth(Account, AuthToken)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = res.Body.Close() }()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err
	}
	if v != nil && len(data) > 0 {
		if err := json.Unmarshal(data, v); err != nil {
			return 0, fmt.Errorf("%s %s: %w in %q", method, path, err, data)
		}
	}
	return res.StatusCode, nil
}

// NewService makes a service with the switch on, and returns its SID.
func (n *Node) NewService() string {
	n.t.Helper()
	var s struct {
		SID string `json:"sid"`
	}
	if code := n.REST("POST", "/v1/Services", url.Values{"FriendlyName": {"e2e"}}, &s); code != http.StatusCreated {
		n.t.Fatalf("making a service: %d", code)
	}
	n.Flip(s.SID, true)
	return s.SID
}

// Flip turns the switch of a service.
func (n *Node) Flip(sid string, on bool) {
	n.t.Helper()
	if code := n.REST("POST", "/v1/Services/"+sid+"/Configuration", url.Values{"ReachabilityEnabled": {fmt.Sprint(on)}}, nil); code != http.StatusOK {
		n.t.Fatalf("flipping the switch: %d", code)
	}
}

// User is a user as REST tells; zero if there is none.
type User struct {
	SID      string `json:"sid"`
	IsOnline *bool  `json:"is_online"`
}

// User reads a user of a service.
func (n *Node) User(sid, identity string) (u User) {
	n.t.Helper()
	n.REST("GET", "/v1/Services/"+sid+"/Users/"+url.PathEscape(identity), nil, &u)
	return u
}

// Online is is_online of a user, which must exist.
func (n *Node) Online(sid, identity string) *bool {
	n.t.Helper()
	u := n.User(sid, identity)
	if u.SID == "" {
		n.t.Fatalf("there is no %s", identity)
	}
	return u.IsOnline
}

// Scrape is what /metrics says.
func (n *Node) Scrape() string {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	text, err := n.scrape(ctx)
	if err != nil {
		n.t.Fatal(err)
	}
	return text
}

func (n *Node) scrape(ctx context.Context) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.Admin+"/metrics", http.NoBody)
	if err != nil {
		return "", err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("/metrics: %s", res.Status)
	}
	return string(b), err
}

// Metrics are the samples of /metrics, by name and labels as they are written there.
func (n *Node) Metrics() map[string]float64 {
	n.t.Helper()
	return parse(n.Scrape())
}

// TryMetric is one of Metrics, of a node that may not answer.
func (n *Node) TryMetric(ctx context.Context, sample string) (float64, error) {
	text, err := n.scrape(ctx)
	return parse(text)[sample], err
}

func parse(text string) map[string]float64 {
	samples := map[string]float64{}
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if v, err := strconv.ParseFloat(value, 64); ok && err == nil && name != "#" {
			samples[name] = v
		}
	}
	return samples
}

// Metric is the sum of a metric's samples, whatever their labels.
func (n *Node) Metric(name string) (sum float64) {
	n.t.Helper()
	for sample, v := range n.Metrics() {
		if sample == name || strings.HasPrefix(sample, name+"{") {
			sum += v
		}
	}
	return sum
}

// Counts wants samples to grow by at least 1 in f, and is done once they have.
func (n *Node) Counts(f func(), samples ...string) {
	n.t.Helper()
	before := n.Metrics()
	for _, s := range samples {
		if _, ok := before[s]; !ok {
			n.t.Errorf("/metrics has no %s before it was first counted", s)
		}
	}
	f()
	Eventually(n.t, "it is counted", func() error {
		after := n.Metrics()
		for _, s := range samples {
			if after[s] < before[s]+1 {
				return fmt.Errorf("%s is %v; was %v", s, after[s], before[s])
			}
		}
		return nil
	})
}
