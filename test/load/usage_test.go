package load

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/internal/testkit/rig"
)

// TestWrongUse holds what is wrong with a command line to be told before anything is started, each in a line of its own.
func TestWrongUse(t *testing.T) {
	testkit.NeedRedis(t)
	t.Parallel()
	const nowhere = "ws://127.0.0.1:1/v1/connect"
	for _, c := range []struct {
		args   string
		status int
		says   string // lines, separated by |
	}{
		{"", 2, "say what to do: idle, ramp, churn, celebrity, storm, slow, reload, rolling, compare, growth or plan; see --help"},
		{"chrun --nodes 1", 2, `there is no scenario or command "chrun": there are idle, ramp, churn, celebrity, storm, slow, reload, rolling, compare, growth and plan`},
		{"churn", 2, "url: say where the nodes are, or --nodes to start some"},
		{"churn --nodes 1 --speed 3", 2, "flag provided but not defined: -speed"},
		{"churn --nodes one", 2, `invalid value "one" for flag -nodes: parse error`},
		{"churn --nodes 1 quickly", 2, `churn takes no arguments beside flags: ["quickly"]`},
		{"churn --nodes 1 --url " + nowhere, 2, "nodes: nodes are started, or are at --url, not both"},
		{"churn --nodes 65 --processes 257", 2, "nodes: must be from 0 to 64|processes: must be from 0 to 256"},
		{
			"churn --nodes 1 --sessions 0 --rate 0 --for 0s --slow 2 --linger 2m", 2,
			"sessions: must be from 1 to 10000000|rate: must be more than 0 and at most 1000000 a second|for: must be more than 0 and at most 11h0m0s|" +
				"slow: must be from 0 to 1|linger: must be from 0 to 1m",
		},
		{"churn --nodes 1 --linger 1500ms", 2, "linger: must be whole seconds"},
		{"churn --nodes 1 --actors 3 --acts 31", 2, "acts: 31 a second of 3 users is more than 10 of each: give more actors"},
		{"churn --nodes 1 --actors 0", 2, "actors: must be at least 1|acts: 100 a second of 0 users is more than 10 of each: give more actors"},
		{"idle --nodes 1 --watch 1001", 2, "a session would watch 1001 users; a node lets it watch 1000"},
		{"reload --nodes 1 --back 10s", 2, "back: must be less than the linger, 10s"},
		{"churn --url http://127.0.0.1:8080", 2, `url: "http://127.0.0.1:8080" is no ws:// or wss:// address`},
		{"churn --admin http://127.0.0.1:9090,http://127.0.0.1:9091 --url " + nowhere, 2, "admin: name one for each --url, or none"},
		{"ramp --at-rest --url " + nowhere, 2, "at-rest: needs --admin"},
		{"ramp --profiles . --url " + nowhere, 2, "profiles: needs --admin"},
		{"churn --bare --nodes 1", 2, "bare: only celebrity is compared with a bare loop"},
		{"rolling --url " + nowhere, 2, "restart: say how to restart a node"},
		{"rolling --nodes 1", 2, "nodes: a rolling restart needs two"},
		{"compare one.json", 2, "usage: rollcall-load compare [flags] BEFORE.json AFTER.json"},
		{"growth one.json", 2, "usage: rollcall-load growth [flags] FILE.json..."},
		{"plan --online many", 2, `online: "many" is no number of users`},
		{"plan --users-per-online 0.5", 2, "users-per-online: must be from 1 to 1000000"},

		{"compare one.json two.json", 1, "open one.json: no such file or directory"},
		{"plan --costs none.json", 1, "open none.json: no such file or directory"},
		{"churn --redis nowhere --url " + nowhere, 1, "redis: "},
		{"churn --url " + nowhere, 1, "making a service for the run: |connection refused"},
		{"churn --nodes 1 ", 1, "fork/exec /none: no such file or directory"},
		{"ramp", 2, "binary: there is no rollcall beside this program or in PATH; say where it is"},
	} {
		args := strings.Fields(c.args)
		switch {
		case c.args == "ramp":
			args = append(args, "--nodes", "1")
		case strings.Contains(c.args, "--nodes"):
			args = slices.Insert(args, 1, "--binary", "/none")
		}
		status, stdout, stderr := load(t, args...)
		if status != c.status || stdout != "" {
			t.Errorf("rollcall-load %s ended with %d; want %d\n%s%s", c.args, status, c.status, stdout, stderr)
		}
		for says := range strings.SplitSeq(c.says, "|") {
			if !strings.Contains(stderr, says) {
				t.Errorf("rollcall-load %s says\n%swant it to say\n%s", c.args, stderr, says)
			}
		}
		if c.status == 2 && strings.Count(stderr, "\n") != strings.Count(c.says, "|")+1 {
			t.Errorf("rollcall-load %s says\n%swant a line for each thing that is wrong", c.args, stderr)
		}
	}
}

// TestLimits holds a machine that does not allow what was asked for to be named before the run.
func TestLimits(t *testing.T) {
	t.Parallel()
	testkit.NeedRedis(t)
	// what a process may open is lowered for this one and its children
	c := prepare(t, "-c", `ulimit -n 400 && exec "$0" "$@"`, program.path, "ramp", "--nodes", "1", "--sessions", "500", "--binary", rig.Binary(t))
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip(err)
	}
	c.Path, c.Args[0] = sh, "sh"
	const want = "sessions: a process may open 400 files here, so there is room for 200 sessions at 1 node; 500 are asked for: start more nodes"
	if status := c.ended(t, c.Run()); status != 1 || !strings.Contains(c.stderr.String(), want) {
		t.Errorf("it ended with %d and said\n%swant 1 and\n%s", status, c.stderr.String(), want)
	}
}

// TestWrongCredentials holds a run that may not do what it does to fail at once.
func TestWrongCredentials(t *testing.T) {
	t.Parallel()
	n := rig.Start(t, "embedded")
	status, _, stderr := load(t, "ramp", "--sessions", "5", "--url", n.WS()) // those of a development node, with our auth token
	if status != 1 || !strings.Contains(stderr, "POST /v1/Services answers 401 Unauthorized") {
		t.Errorf("it ended with %d and said\n%swant 1 and that it is not authorized", status, stderr)
	}
}

// TestHelp holds help to be no mistake.
func TestHelp(t *testing.T) {
	t.Parallel()
	for _, args := range []string{"help", "--help", "-h", "churn --help", "compare --help", "growth -h", "plan --help"} {
		status, stdout, stderr := load(t, strings.Fields(args)...)
		if status != 0 || stderr != "" || !strings.Contains(stdout, "usage: rollcall-load") {
			t.Errorf("rollcall-load %s ended with %d\n%s%s", args, status, stdout, stderr)
		}
	}
}

// TestReports compares reports, and has growth and plan compute from them.
func TestReports(t *testing.T) {
	t.Parallel()
	url := "redis://" + testkit.Redis(t).Addr
	n := rig.Start(t, url)
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	for i, sessions := range []string{"20", "40", "80"} {
		args := append([]string{"churn", "--sessions", sessions, "--actors", "20", "--watch", "10", "--acts", "40", "--for", "1s", "--json", in([]string{"a", "b", "c"}[i] + ".json")},
			against(n, url, n.WS())...)
		if status, stdout, stderr := load(t, args...); status != 0 {
			t.Fatalf("it ended with %d\n%s%s", status, stdout, stderr)
		}
	}

	status, text, stderr := load(t, "compare", "--html", in("compared.html"), in("a.json"), in("b.json"))
	if status != 0 || stderr != "" {
		t.Errorf("compare ended with %d\n%s", status, stderr)
	}
	for _, says := range []string{
		"A  churn: passed", "B  churn: passed", "SETTINGS THAT DIFFER", "sessions  ", "CHECKS", "events missing", "ok: 0, want 0", "RESULTS", "CPU of the nodes an event",
		"LATENCIES, ms", "act to event", "p99",
	} {
		if !strings.Contains(text, says) {
			t.Errorf("compare does not say %q:\n%s", says, text)
		}
	}
	selfContained(t, in("compared.html"), "churn against churn", "CPU of the nodes an event")

	// With itself a report is the same in all.
	status, text, _ = load(t, "compare", in("a.json"), in("a.json"))
	if status != 0 || strings.Contains(text, "better") || strings.Contains(text, "worse") || !strings.Contains(text, "same") {
		t.Errorf("compared with itself (%d):\n%s", status, text)
	}

	status, text, stderr = load(t, "growth", in("c.json"), in("a.json"), in("b.json"))
	if status != 0 || !strings.HasPrefix(text, "| churn, by sessions | 20 | 40 | 80 | grows as | as a whole |\n") || !strings.Contains(text, "| CPU of the nodes an event, us |") {
		t.Errorf("growth ended with %d\n%s%s", status, text, stderr)
	}
	status, _, stderr = load(t, "growth", "--by", "nodes", in("a.json"), in("b.json"))
	if status != 1 || !strings.Contains(stderr, `the setting "nodes" is the same in all reports`) {
		t.Errorf("growth by what does not differ ended with %d\n%s", status, stderr)
	}
	status, _, stderr = load(t, "growth", "--by", "mood", in("a.json"), in("b.json"))
	if status != 1 || !strings.Contains(stderr, `a report of churn has no setting "mood"`) {
		t.Errorf("growth by what there is not ended with %d\n%s", status, stderr)
	}

	for name, content := range map[string]string{
		"none.json": `{"scenario":"churn"}`, "newer.json": `{"version":99}`, "broken.json": `{"version":1`, "empty.json": "",
	} {
		if err := os.WriteFile(in(name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		status, text, stderr := load(t, "compare", in("a.json"), in(name))
		if status != 1 || text != "" || !strings.HasPrefix(stderr, "rollcall-load: "+in(name)+": read report: ") {
			t.Errorf("comparing with %s ended with %d\n%s%s", name, status, text, stderr)
		}
	}

	status, text, stderr = load(t, "plan", "--online", "1000,1000000", "--cores", "4", "--memory", "8")
	if status != 0 || strings.Count(text, "\n") < 5 {
		t.Errorf("plan ended with %d\n%s%s", status, text, stderr)
	}
}
