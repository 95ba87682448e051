package load

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/rollcall-presence/rollcall/internal/load/report"
)

// The test's program is that of the workers too: a run starts itself again. How a worker
// misbehaves is in the environment.
const misbehaves = "ROLLCALL_LOAD_TEST"

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "worker" {
		in := io.Reader(os.Stdin)
		if os.Getenv(misbehaves) == "dies" {
			// the second process dies as soon as it is told something
			lines := json.NewDecoder(os.Stdin)
			var p part
			_ = lines.Decode(&p)
			if p.Index == 1 {
				_ = lines.Decode(&order{})
				fmt.Fprintln(os.Stderr, "out of luck")
				os.Exit(3)
			}
			first, _ := json.Marshal(p)
			in = io.MultiReader(bytes.NewReader(first), lines.Buffered(), os.Stdin)
		}
		if err := Worker(context.Background(), in, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) == 2 && os.Args[1] == "bare" {
		if err := Bare(context.Background(), os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	// the race detector would have each child wait for a second before it ends
	_ = os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	flag.Parse()
	_ = flag.Set("test.parallel", "6") // runs wait most of the time
	os.Exit(m.Run())
}

// options are of a short run of churn.
func (f *fake) options() Options {
	return Options{
		Settings: Settings{
			Scenario: "churn", URLs: []string{f.url()}, Account: clusterAccount, KeySID: clusterKeySID, KeySecret: clusterKeySecret,
			Sessions: watchers, Actors: 3, Watch: 3, Rate: 1000, Acts: 30, For: 400 * time.Millisecond,
		},
		Admins: []string{f.URL}, settle: 5 * time.Second,
	}
}

func play(t *testing.T, opt Options) *report.Report {
	t.Helper()
	rep, err := Run(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

// failed are the names of the checks that failed.
func failed(rep *report.Report) (names []string) {
	for _, c := range rep.Checks {
		if !c.OK {
			names = append(names, c.Name)
		}
	}
	return names
}

func value(rep *report.Report, name string) float64 {
	i := slices.IndexFunc(rep.Results, func(r report.Result) bool { return r.Name == name })
	if i < 0 {
		return -1
	}
	return rep.Results[i].Value
}

func TestRunOfAnHonestServer(t *testing.T) {
	t.Parallel()
	f := startFake(t)
	opt := f.options()
	opt.Processes = 2
	rep := play(t, opt)
	if !rep.Passed() {
		t.Errorf("these failed: %q", failed(rep))
	}
	if got := value(rep, "events a second"); got < 20 {
		t.Errorf("%v events a second", got)
	}
	if f.deleted.Load() != 1 {
		t.Errorf("%d services were deleted; want the one that was made", f.deleted.Load())
	}
	var b bytes.Buffer
	if err := rep.Write(&b); err != nil {
		t.Error(err)
	}
}

// Whatever a server does wrong is found, and by the check that is for it.
func TestRunFindsWhatIsWrong(t *testing.T) {
	acts := map[string]int{} // by watcher and user, while they are merged
	once := func(f func(e event) []event) func(*fake) {
		return func(s *fake) {
			done := false
			s.tamper = func(e event) []event {
				if done || e.online { // who goes was seen to come
					return []event{e}
				}
				done = true
				return f(e)
			}
		}
	}
	for name, tt := range map[string]struct {
		spoil  func(f *fake)
		change func(o *Options)
		want   []string
	}{
		"an event is lost": {once(func(event) []event { return nil }), nil, []string{"events merged"}},
		"an event is lost, and nodes are not asked": {
			once(func(event) []event { return nil }), func(o *Options) { o.Admins = nil }, []string{"events merged or lost (--admin tells which)"},
		},
		"all events of one session are lost from some time on": {
			func(f *fake) {
				f.tamper = func(e event) []event {
					if e.n > 4 && e.to == identity(0) {
						return nil
					}
					return []event{e}
				}
			}, func(o *Options) { o.settle = 300 * time.Millisecond }, []string{"events missing"},
		},
		"an event comes twice": {once(func(e event) []event { return []event{e, e} }), nil, []string{"revisions out of order"}},
		"an event comes again with a revision of its own": {
			once(func(e event) []event { again := e; again.rev++; return []event{e, again} }), nil, []string{"events unexpected"},
		},
		"a user is told to have come who has not": {
			once(func(e event) []event {
				wrong := e
				wrong.online, wrong.rev = !e.online, e.rev+1
				return []event{e, wrong}
			}), nil, []string{"events unexpected"},
		},
		"an event of a stranger": {
			once(func(e event) []event { wrong := e; wrong.about = identity(watchers + 3); return []event{e, wrong} }), nil, []string{"events unexpected"},
		},
		"a revision goes back": {once(func(e event) []event { e.rev -= 1_000_000; return []event{e} }), nil, []string{"revisions out of order"}},
		"a connection is closed": {
			func(f *fake) {
				var closed atomic.Bool
				f.tamper = func(e event) []event {
					if e.n >= 4 && closed.CompareAndSwap(false, true) {
						go func() { _ = e.conn.Close(3000, "") }()
					}
					return []event{e}
				}
			}, nil, []string{"connections lost"},
		},
		"events are merged and counted": {
			func(f *fake) {
				f.tamper = func(e event) []event { // of a user's, four of five
					if acts[e.to+e.about]++; acts[e.to+e.about]%5 != 0 && acts[e.to+e.about] < 10 {
						f.conflated.Add(1)
						return nil
					}
					return []event{e}
				}
			},
			func(o *Options) { o.Actors, o.Acts, o.For = 1, 10, 1200*time.Millisecond }, nil,
		},
		"someone goes while all are idle": {
			func(f *fake) {
				var asked atomic.Int64
				f.answer = func(_ http.ResponseWriter, r *http.Request) bool {
					if r.URL.Path == "/metrics" && asked.Add(1) == 4 { // before the acts
						f.mu.Lock()
						defer f.mu.Unlock()
						for c, to := range f.user(identity(0)).subs {
							f.rev++
							f.send(event{to: to, about: identity(0), online: false, rev: f.rev, conn: c})
						}
					}
					return false
				}
			},
			func(o *Options) { o.Scenario, o.Actors, o.Acts, o.Watch = "idle", 0, 0, 1 },
			[]string{"events unexpected"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := startFake(t)
			tt.spoil(f)
			opt := f.options()
			if tt.change != nil {
				tt.change(&opt)
			}
			rep := play(t, opt)
			got := failed(rep)
			for _, want := range tt.want {
				if !slices.Contains(got, want) {
					t.Errorf("failed checks are %q; want %q", got, want)
				}
			}
			if len(tt.want) == 0 && len(got) > 0 || len(tt.want) > 0 && rep.Passed() {
				t.Errorf("failed checks are %q; want %q: %+v", got, tt.want, rep.Checks)
			}
		})
	}
}

// What cannot succeed ends early, and says why.
func TestRunThatCannotSucceed(t *testing.T) {
	status := func(path string, code int) func(*fake) {
		return func(f *fake) {
			f.answer = func(w http.ResponseWriter, r *http.Request) bool {
				if strings.HasPrefix(r.URL.Path, path) {
					w.WriteHeader(code)
					return true
				}
				return false
			}
		}
	}
	for name, tt := range map[string]struct {
		spoil  func(f *fake)
		change func(o *Options)
		want   []string
	}{
		"wrong password": {status("/v1/Services", 401), nil, []string{"401", "ROLLCALL_AUTH_TOKEN"}},
		"wrong path":     {nil, func(o *Options) { o.URLs[0] += "/nowhere" }, []string{"/nowhere", "refused with 404"}},
		"no WebSocket":   {status("/v1/connect", 200), nil, []string{"/v1/connect", "200"}},
		"one of two nodes is not there": {
			nil, func(o *Options) { o.URLs, o.Admins = append(o.URLs, "ws://127.0.0.1:1/v1/connect"), nil }, []string{"ws://127.0.0.1:1/", "connection refused"},
		},
		"refused credentials": {
			func(f *fake) {
				f.hello = func(c *websocket.Conn) bool {
					_ = c.Write(context.Background(), websocket.MessageText, []byte(`{"type":"error","code":20107,"message":"Invalid Access Token signature"}`))
					_ = c.Close(3500, "")
					return true
				}
			}, nil, []string{"20107", "Invalid Access Token signature"},
		},
		"credentials refused later": {
			func(f *fake) {
				f.hello = func(c *websocket.Conn) bool { // the first is the probe's
					if len(f.users) > 2 {
						_ = c.Close(3500, "")
					}
					return len(f.users) > 2
				}
			}, nil, []string{"process 1", "3500"},
		},
		"wrong admin":      {nil, func(o *Options) { o.Admins = []string{"http://127.0.0.1:1"} }, []string{"admin", "connection refused"}},
		"admin of another": {status("/metrics", 404), nil, []string{"admin", "404"}},
		"wrong redis":      {nil, func(o *Options) { o.Redis = "redis://127.0.0.1:1" }, []string{"redis", "connection refused"}},
		"no redis address": {nil, func(o *Options) { o.Redis = "127.0.0.1:1" }, []string{"redis"}},
		"foreign address":  {nil, func(o *Options) { o.From = []string{"192.0.2.1"} }, []string{"--from", "none of this machine"}},
		"no place for profiles": {
			nil, func(o *Options) { o.Profiles = os.DevNull + "/x" }, []string{"profiles", "not a directory"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := startFake(t)
			if tt.spoil != nil {
				tt.spoil(f)
			}
			opt := f.options()
			if tt.change != nil {
				tt.change(&opt)
			}
			ctx, cancel := context.WithTimeoutCause(t.Context(), 10*time.Second, errors.New("not early"))
			defer cancel()
			rep, err := Run(ctx, opt)
			if err == nil || rep != nil && rep.Passed() {
				t.Fatalf("Run = %v, %v; want an error", rep, err)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("Run = %v; want one about %q", err, want)
				}
			}
		})
	}
}

func TestRunWhoseWorkerDies(t *testing.T) {
	t.Setenv(misbehaves, "dies")
	f := startFake(t)
	opt := f.options()
	opt.Processes, opt.For = 3, time.Hour
	rep, err := Run(t.Context(), opt)
	if err == nil || !strings.Contains(err.Error(), "process 2: it ended: exit status 3") || !strings.Contains(err.Error(), "out of luck") {
		t.Errorf("Run = %v; want one about process 2", err)
	}
	if rep == nil || rep.Passed() {
		t.Errorf("the report is %+v; want one that did not pass", rep)
	}
}

// A run that is interrupted tells what it has seen, and leaves nothing behind.
func TestRunInterrupted(t *testing.T) {
	t.Parallel()
	f := startFake(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	f.tamper = func(e event) []event {
		if e.n == 10 {
			cancel(errors.New("terminated"))
		}
		return []event{e}
	}
	opt := f.options()
	opt.Processes, opt.For = 2, time.Hour
	opt.Restart = "none"
	rep, err := Run(ctx, opt)
	if err == nil || err.Error() != "interrupted: terminated" {
		t.Errorf("Run = %v", err)
	}
	if rep == nil || rep.Passed() || !slices.Contains(failed(rep), "played to the end") {
		t.Fatalf("the report is %+v", rep)
	}
	if err := rep.Write(io.Discard); err != nil {
		t.Error(err)
	}
	if f.deleted.Load() != 1 {
		t.Errorf("%d services were deleted; want 1", f.deleted.Load())
	}
}

func TestRunLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	f := startFake(t)
	opt := f.options()
	opt.Processes, opt.Bare = 2, true
	if err := opt.Validate(); err == nil {
		t.Error("a bare loop beside churn is taken")
	}
	r := &run{opt: opt, totals: newTotals()}
	if err := r.prepare(t.Context(), nil); err != nil {
		r.close(t.Context())
		t.Fatal(err)
	}
	if _, err := os.Stat(r.file); err != nil {
		t.Fatal(err)
	}
	r.close(t.Context())
	if _, err := os.Stat(r.file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the board is still there: %v", err)
	}
	for _, c := range append(r.crew.children, r.bare) {
		if c.cmd.ProcessState == nil || !c.cmd.ProcessState.Success() {
			t.Errorf("a child ended with %v", c.cmd.ProcessState)
		}
	}
}

// Nodes of others are restarted by the user's command; one that fails ends the run.
func TestRunThatRestartsNodes(t *testing.T) {
	t.Parallel()
	f := startFake(t)
	opt := f.options()
	opt.Scenario, opt.Actors, opt.Acts, opt.Restart = "rolling", 0, 0, `[ "$NODE" = 0 ]`
	if rep := play(t, opt); !rep.Passed() || !slices.ContainsFunc(rep.Checks, func(c report.Check) bool { return c.Name == "nodes restarted" && c.Got == "1" }) {
		t.Errorf("the checks are %+v", rep.Checks)
	}
	opt.Restart = "echo no such unit; false"
	rep, err := Run(t.Context(), opt)
	if err == nil || !strings.Contains(err.Error(), "restart of node 0: exit status 1: no such unit") || rep == nil || rep.Passed() {
		t.Errorf("Run = %+v, %v", rep, err)
	}
}

// What the nodes say of themselves comes into the report, and profiles where they were asked for.
func TestRunThatProfiles(t *testing.T) {
	t.Parallel()
	f := startFake(t)
	f.answer = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/debug/pprof/") {
			return false
		}
		_, _ = fmt.Fprint(w, r.URL)
		return true
	}
	opt := f.options()
	opt.Profiles = t.TempDir() + "/profiles"
	if rep := play(t, opt); !rep.Passed() || value(rep, "CPU of the nodes an event") != 0 {
		t.Errorf("the checks are %+v, the results %+v", rep.Checks, rep.Results)
	}
	for name, want := range map[string]string{"ramp": "/debug/pprof/profile?seconds=1", "act": "/debug/pprof/profile?seconds=1", "heap": "/debug/pprof/heap"} {
		if data, err := os.ReadFile(opt.Profiles + "/" + name + "-node1.pprof"); err != nil || string(data) != want {
			t.Errorf("the profile of %s is %q, %v; want %q", name, data, err, want)
		}
	}
}

// The bare loop's events are counted beside the server's.
func TestRunBesideABareLoop(t *testing.T) {
	t.Parallel()
	f := startFake(t)
	opt := f.options()
	opt.Scenario, opt.Actors, opt.Acts, opt.Bare, opt.For = "celebrity", 1, 10, true, 600*time.Millisecond
	rep := play(t, opt)
	if !rep.Passed() {
		t.Errorf("these failed: %+v", rep.Checks)
	}
	if value(rep, "ratio of the two") <= 0 {
		t.Errorf("there is no ratio in %+v", rep.Results)
	}
}
