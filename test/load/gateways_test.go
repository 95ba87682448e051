package load

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rollcall-presence/rollcall/internal/load/report"
	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/internal/testkit/proxy"
	"github.com/rollcall-presence/rollcall/internal/testkit/rig"
)

// TestOwnGateways plays scenarios against gateways that run already.
func TestOwnGateways(t *testing.T) {
	t.Parallel()
	redisURL := "redis://" + testkit.Redis(t).Addr
	a, b := rig.Start(t, redisURL), rig.Start(t, redisURL)
	mine := []string{
		"--url", a.WS() + "," + b.WS(), "--admin", "http://" + a.Admin, "--admin", "http://" + b.Admin, "--redis", redisURL,
		"--account-sid", rig.Account, "--api-key-sid", rig.KeySID,
	}
	sid := a.NewService() // somebody else's, which must stay

	dir := t.TempDir()
	r := play(t, 0, append([]string{"churn", "--sessions", "40", "--actors", "20", "--watch", "5", "--acts", "40", "--for", "2s", "--profiles", dir}, mine...)...)
	plausible(t, r, 40)
	for _, name := range []string{"ramp-node1", "ramp-node2", "act-node1", "act-node2", "heap-node1", "heap-node2"} {
		if i, err := os.Stat(filepath.Join(dir, name+".pprof")); err != nil || i.Size() == 0 {
			t.Errorf("the profile %s: %v", name, err)
		}
	}
	for _, n := range []*rig.Node{a, b} {
		if got := n.Metric("rollcall_session_ends_total"); got < 20 {
			t.Errorf("a node had %v sessions; want its half of 60 and more", got)
		}
	}

	// Without addresses to ask, there is only the clients' side.
	r = play(t, 0, "ramp", "--sessions", "30", "--rate", "200", "--url", a.WS(), "--account-sid", rig.Account, "--api-key-sid", rig.KeySID)
	for _, x := range r.Results {
		if strings.Contains(x.Name, "nodes") || strings.Contains(x.Name, "Redis") {
			t.Errorf("%q is %v of a node that nobody asked", x.Name, x.Value)
		}
	}
	if got := result(t, r, "connections a second"); got <= 0 {
		t.Errorf("%v connections a second", got)
	}

	// A run that is interrupted takes its service with it.
	c := prepare(t, append([]string{"celebrity", "--sessions", "10", "--for", "1m"}, mine...)...)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	rig.Eventually(t, "it is in the midst of it", func() error {
		if !strings.Contains(c.stderr.String(), "\ncelebrity\n") {
			return rig.ErrNotYet
		}
		return nil
	})
	if err := c.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if status := c.ended(t, c.Wait()); status != 1 {
		t.Errorf("an interrupted run ended with %d; want 1", status)
	}

	var s struct {
		Services []struct {
			SID string `json:"sid"`
		} `json:"services"`
	}
	if code := a.REST("GET", "/v1/Services?PageSize=100", nil, &s); code != 200 || len(s.Services) != 2 { // and the one that there is from the beginning
		t.Errorf("after the runs: %d, services %v; want the two that were there", code, s.Services)
	}
	if code := a.REST("GET", "/v1/Services/"+sid, nil, nil); code != 200 {
		t.Errorf("the service of somebody else: %d", code)
	}
}

// TestRestartCommand has a command restart nodes that run already.
func TestRestartCommand(t *testing.T) {
	t.Parallel()
	redisURL := "redis://" + testkit.Redis(t).Addr
	const drain = "ROLLCALL_DRAIN_TIMEOUT=3s"
	nodes := []*rig.Node{rig.Start(t, redisURL, drain), rig.Start(t, redisURL, drain)}
	args := []string{
		"rolling", "--sessions", "40", "--for", "1s", "--url", nodes[0].WS() + "," + nodes[1].WS(),
		"--admin", "http://" + nodes[0].Admin + ",http://" + nodes[1].Admin, "--account-sid", rig.Account, "--api-key-sid", rig.KeySID,
	}
	// The command asks the test to do it, which knows the nodes.
	dir := t.TempDir()
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i, n := range nodes {
			for {
				if _, err := os.Stat(filepath.Join(dir, fmt.Sprint("want", i))); err == nil {
					break
				}
				select {
				case <-done:
					return
				case <-time.After(10 * time.Millisecond):
				}
			}
			addr, admin := n.Addr, n.Admin
			n.Stop()
			rig.Start(t, redisURL, drain, "ROLLCALL_ADDR="+addr, "ROLLCALL_ADMIN_ADDR="+admin)
			_ = os.WriteFile(filepath.Join(dir, fmt.Sprint("done", i)), nil, 0o600)
		}
	})
	command := fmt.Sprintf("cd %s && touch want$NODE && until [ -e done$NODE ]; do sleep 0.05; done", dir)
	r := play(t, 0, append(args, "--restart", command)...)
	close(done)
	wg.Wait()
	if got := checked(t, r, "nodes restarted"); got.Got != "2" {
		t.Errorf("%s nodes were restarted; want 2", got.Got)
	}
	if l := latency(t, r, "due to welcome"); l.Count < 80 {
		t.Errorf("%d sessions were welcomed; want each of 40 twice at least", l.Count)
	}

	status, _, stderr := load(t, append(args, "--restart", "echo out of order; exit 3")...)
	if status != 1 || !strings.Contains(stderr, "exit status 3: out of order") {
		t.Errorf("a command that fails: %d, %q", status, stderr)
	}
}

// TestLatencyIsCountedFromWhenActsWereDue puts a proxy before the node that holds everything back for a while: the acts
// that were due meanwhile are all done, and their latencies count in full.
func TestLatencyIsCountedFromWhenActsWereDue(t *testing.T) {
	t.Parallel()
	redisURL := "redis://" + testkit.Redis(t).Addr
	n := rig.Start(t, redisURL)
	p := proxy.New(t, n.Addr)
	const under, hole = 100 * time.Millisecond, 2 * time.Second
	p.SetAll(proxy.Rule{Down: proxy.Flow{Latency: under}})
	file := filepath.Join(t.TempDir(), "report.json")
	args := against(n, redisURL, "ws://"+p.Addr()+"/v1/connect")
	c := prepare(t, append(args[:0:0], append([]string{"celebrity", "--sessions", "10", "--actors", "8", "--acts", "8", "--for", "6s", "--json", file}, args...)...)...)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	rig.Eventually(t, "it is in the midst of it", func() error {
		if !strings.Contains(c.stderr.String(), "\ncelebrity\n") {
			return rig.ErrNotYet
		}
		return nil
	})
	rig.Elapse(t, 1500*time.Millisecond)
	p.SetAll(proxy.Rule{Up: proxy.Flow{Hole: true}, Down: proxy.Flow{Hole: true}})
	rig.Elapse(t, hole)
	p.SetAll(proxy.Rule{Down: proxy.Flow{Latency: under}})
	if status := c.ended(t, c.Wait()); status != 0 {
		t.Fatalf("it ended with %d: %s%s", status, c.stdout.String(), c.stderr.String())
	}
	r := read(t, file)
	l := latency(t, r, "act to event")
	// 49 acts were due, and 10 watchers saw each; the ramp has no events.
	if l.Count != 49*10 {
		t.Errorf("%d events; want those of the 49 acts that were due in 6 s, at 10 sessions", l.Count)
	}
	// 16 acts were due within the hole, spread evenly: a sixth of all waited for more than half of it.
	share := func(d time.Duration) float64 {
		i := slices.IndexFunc(l.Percentiles, func(p report.Percentile) bool { return p.MS > float64(d.Milliseconds()) })
		if i < 0 {
			return 0
		}
		return 100 - l.Percentiles[i].Percent
	}
	if l.Min < float64(under.Milliseconds()) || l.Max < 1000*(hole.Seconds()-0.5) || share(hole/2) < 10 {
		t.Errorf("min %v ms, max %v ms, %v%% longer than %v; want %v of latency in each, and those that fell into %v held back", l.Min, l.Max, share(hole/2), hole/2, under, hole)
	}
}
