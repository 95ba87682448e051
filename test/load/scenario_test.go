package load

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rollcall-presence/rollcall/internal/load/report"
	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/internal/testkit/rig"
)

// short is each scenario in a short form, with what its report must say.
var short = []struct {
	args     string
	sessions float64
	// seen is how many events are seen in the acts, at least and at most.
	least, most func(r *report.Report, acts float64) float64
	latencies   []string
	more        func(t *testing.T, r *report.Report)
}{
	{
		args: "idle --nodes 1 --sessions 200 --rate 400 --for 2s --at-rest=false", sessions: 200,
		latencies: []string{"act to event", "due to welcome"},
	},
	{
		args: "ramp --nodes 2 --sessions 200 --rate 100 --for 1s --watch 3", sessions: 200,
		latencies: []string{"act to event", "due to welcome"},
		more: func(t *testing.T, r *report.Report) {
			// two seconds at the rate that was asked for, less the last interval; a busy machine may take longer
			if got := result(t, r, "connections a second"); got > 105 || got < 20 {
				t.Errorf("%v connections a second; want about 100", got)
			}
		},
	},
	{
		// several processes, which connect from several addresses, with batches
		args: "churn --nodes 2 --sessions 60 --actors 40 --watch 6 --acts 50 --for 3s --rate 500 --batch --processes 3 --from 127.9.8.1,127.9.8.2,127.9.8.3", sessions: 60,
		least:     func(_ *report.Report, acts float64) float64 { return acts },      // each actor has a watcher
		most:      func(_ *report.Report, acts float64) float64 { return acts * 60 }, // and none more than there are
		latencies: []string{"act to event", "due to welcome"},
		more: func(t *testing.T, r *report.Report) {
			if got := setting(t, r, "processes"); got != "3" {
				t.Errorf("%s processes; want 3", got)
			}
		},
	},
	{
		args: "celebrity --nodes 1 --sessions 80 --acts 5 --for 3s --bare", sessions: 80,
		least:     func(_ *report.Report, acts float64) float64 { return acts * 80 },
		most:      func(_ *report.Report, acts float64) float64 { return acts * 80 },
		latencies: []string{"act to event", "bare loop: act to event", "due to welcome"},
		more: func(t *testing.T, r *report.Report) {
			us, bare, ratio := result(t, r, "act to event, p99"), result(t, r, "the same of the bare loop"), result(t, r, "ratio of the two")
			if bare <= 0 || math.Abs(ratio-us/bare) > 1e-9 {
				t.Errorf("p99 of %v against %v of the bare loop is a ratio of %v", us, bare, ratio)
			}
			// each of the bare loop's connections saw each of its acts
			if l := latency(t, r, "bare loop: act to event"); l.Count == 0 || l.Count%80 != 0 {
				t.Errorf("%d events of the bare loop at 80 sessions", l.Count)
			}
		},
	},
	{
		args: "storm --nodes 2 --sessions 150 --watch 2 --back 500ms --linger 3s --for 1s", sessions: 150,
		latencies: []string{"act to event", "due to welcome"},
		more: func(t *testing.T, r *report.Report) {
			if got := checked(t, r, "sessions that came back"); got.Got != "150" {
				t.Errorf("%s sessions came back; want 150", got.Got)
			}
			if got := result(t, r, "until all were back"); got < 0.4 || got > 10 {
				t.Errorf("all were back after %v s; they were told to take 0.5 s", got)
			}
		},
	},
	{
		args: "slow --nodes 1 --sessions 40 --actors 20 --watch 20 --acts 40 --slow 0.25 --for 3s", sessions: 40,
		// of the ten slow readers some events may have been merged
		least:     func(_ *report.Report, acts float64) float64 { return acts * 30 },
		most:      func(_ *report.Report, acts float64) float64 { return acts * 40 },
		latencies: []string{"act to event", "due to welcome"},
		more: func(t *testing.T, r *report.Report) {
			note := regexp.MustCompile(`Slow readers saw (\d+) events`)
			for _, n := range r.Notes {
				if found := note.FindStringSubmatch(n); found != nil {
					if found[1] == "0" {
						t.Errorf("%s", n)
					}
					return
				}
			}
			t.Errorf("nothing is said of the slow readers in %q", r.Notes)
		},
	},
	{
		args: "reload --nodes 2 --sessions 80 --watch 3 --acts 40 --back 500ms --linger 2s --for 2s", sessions: 80,
		latencies: []string{"act to event", "due to welcome"},
		more: func(t *testing.T, r *report.Report) {
			if l := latency(t, r, "due to welcome"); l.Count < 80+60 {
				t.Errorf("%d sessions were welcomed; want 80 and some 80 that were loaded again", l.Count)
			}
		},
	},
	{
		args: "rolling --nodes 2 --sessions 100 --watch 2 --for 1s --env ROLLCALL_DRAIN_TIMEOUT=3s", sessions: 100,
		latencies: []string{"act to event", "due to welcome"},
		more: func(t *testing.T, r *report.Report) {
			if got := checked(t, r, "nodes restarted"); got.Got != "2" {
				t.Errorf("%s nodes were restarted; want 2", got.Got)
			}
			if l := latency(t, r, "due to welcome"); l.Count < 200 {
				t.Errorf("%d sessions were welcomed; want each of 100 twice at least", l.Count)
			}
		},
	},
}

// TestScenarios plays each in a short form, with nodes that the run starts for itself: all must hold, and the
// figures must be what such a run can have.
func TestScenarios(t *testing.T) {
	testkit.NeedRedis(t)
	t.Parallel()
	for _, s := range short {
		args := strings.Fields(s.args)
		t.Run(args[0], func(t *testing.T) {
			t.Parallel()
			page := filepath.Join(t.TempDir(), "report.html")
			r := play(t, 0, append(args, "--binary", rig.Binary(t), "--html", page)...)
			if r.Scenario != args[0] || !r.Passed() || len(r.Checks) < 6 {
				t.Errorf("scenario %q, checks %+v; want %s, and all of six or more to hold", r.Scenario, r.Checks, args[0])
			}
			plausible(t, r, s.sessions)
			if s.least != nil {
				acts, events := result(t, r, "acts a second"), result(t, r, "events a second")
				if least, most := s.least(r, acts), s.most(r, acts); acts <= 0 || events < least*0.9999 || events > most*1.0001 {
					t.Errorf("%v events a second of %v acts; want %v to %v", events, acts, least, most)
				}
			} else if i := slices.IndexFunc(r.Results, func(x report.Result) bool { return x.Name == "events a second" }); i >= 0 {
				t.Errorf("%v events a second; want none", r.Results[i].Value)
			}
			if len(r.Latencies) != len(s.latencies) {
				t.Errorf("%d latencies; want %q", len(r.Latencies), s.latencies)
			}
			for _, name := range s.latencies {
				ordered(t, latency(t, r, name))
			}
			if s.more != nil {
				s.more(t, r)
			}
			selfContained(t, page, args[0])
		})
	}
}

func setting(t *testing.T, r *report.Report, name string) string {
	t.Helper()
	for _, s := range r.Settings {
		if s.Name == name {
			return s.Value
		}
	}
	t.Fatalf("the report has no setting %q", name)
	return ""
}

// plausible looks at what each report of nodes that were asked must have.
func plausible(t *testing.T, r *report.Report, sessions float64) {
	t.Helper()
	if got := setting(t, r, "sessions"); got != fmt.Sprint(sessions) {
		t.Errorf("sessions=%s; want %v", got, sessions)
	}
	open, err := strconv.ParseFloat(checked(t, r, "sessions open at the end").Got, 64)
	if err != nil || open < sessions {
		t.Errorf("%v sessions open at the end, %v; want %v", open, err, sessions)
	}
	within := func(name string, least, most float64) {
		t.Helper()
		if got := result(t, r, name); got < least || got > most {
			t.Errorf("%s: %v; want %v to %v", name, got, least, most)
		}
	}
	within("CPU of the nodes a connection", 10, 1e6)
	within("CPU of Redis a connection", 10, 1e6)
	// It is a difference of what Redis uses as a whole, in which the buffers of its clients come and go too.
	const buffers = 200_000
	within("memory of Redis a session", 300-buffers/sessions, 100_000)
	within("connections a second", 1, 20_000)
	if r.Scenario != "rolling" { // whose counters begin anew
		within("CPU of the nodes, "+r.Scenario, 0, 200)
		within("commands to Redis a node, "+r.Scenario, 1, 20_000)
	}
	lines := map[string][]string{}
	for _, c := range r.Charts {
		for _, l := range c.Lines {
			lines[c.Title] = append(lines[c.Title], l.Name)
			for i, p := range l.Points {
				if p[0] < 0 || p[0] > r.Seconds+1 || i > 0 && p[0] <= l.Points[i-1][0] {
					t.Errorf("%s, %s: a point at %v s of a run of %v s", c.Title, l.Name, p[0], r.Seconds)
				}
			}
		}
	}
	for _, title := range []string{"connections", "latency over time", "CPU", "memory of the nodes", "commands to Redis"} {
		if len(lines[title]) == 0 {
			t.Errorf("there is no chart %q in %v", title, lines)
		}
	}
	nodes, err := strconv.Atoi(setting(t, r, "nodes"))
	if err != nil || len(lines["memory of the nodes"]) != nodes {
		t.Errorf("the memory of %q is shown; want that of %v nodes", lines["memory of the nodes"], nodes)
	}
	if !slices.Contains(lines["CPU"], "Redis") {
		t.Errorf("CPU of %q is shown; want that of Redis as well", lines["CPU"])
	}
}

// ordered looks at a distribution: percentiles ascend from the least to the longest.
func ordered(t *testing.T, l report.Latency) {
	t.Helper()
	if l.Count == 0 || l.Min <= 0 || l.Mean < l.Min || l.Max < l.Mean || l.At(50) <= 0 || l.At(99) < l.At(50) || l.At(100) != l.Max || l.Max > 30_000 {
		t.Errorf("%s: %d values, min %v, mean %v, p50 %v, p99 %v, max %v", l.Name, l.Count, l.Min, l.Mean, l.At(50), l.At(99), l.Max)
	}
	for i := 1; i < len(l.Percentiles); i++ {
		if a, b := l.Percentiles[i-1], l.Percentiles[i]; b.Percent <= a.Percent || b.MS < a.MS {
			t.Errorf("%s: percentile %v after %v", l.Name, b, a)
		}
	}
}

// external finds what a page would fetch from elsewhere.
var external = regexp.MustCompile(`(?i)(?:\bsrc\s*=|<link|<iframe|<object|<embed|@import|url\(\s*['"]?(?:https?:|//)|fetch\(|XMLHttpRequest|WebSocket\(|\bhref\s*=\s*['"]?[^'"#\s>])[^>\n]{0,60}`)

// selfContained looks at a page: it says what it is of, and fetches nothing.
func selfContained(t *testing.T, name string, says ...string) {
	t.Helper()
	page, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if found := external.FindAll(page, -1); len(found) > 0 {
		t.Errorf("%s refers to other files: %q", name, found)
	}
	for _, s := range append(says, "<!doctype html>", "<svg", "</html>") {
		if !strings.Contains(strings.ToLower(string(page)), strings.ToLower(s)) {
			t.Errorf("%s does not say %q", name, s)
		}
	}
}
