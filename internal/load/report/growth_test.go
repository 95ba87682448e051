package report_test

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/rollcall-presence/rollcall/internal/load/report"
)

// run is a report of a number of sessions on two nodes, with results that are named.
func run(sessions string, results ...report.Result) *report.Report {
	return &report.Report{
		Scenario: "idle", Settings: []report.Setting{{Name: "sessions", Value: sessions}, {Name: "nodes", Value: "2"}, {Name: "rate", Value: sessions + "/s"}},
		Results: results,
	}
}

func result(name, unit string, v float64) report.Result {
	return report.Result{Name: name, Unit: unit, Value: v}
}

// lines are the table's, by the first cell.
func table(t testing.TB, by string, runs ...*report.Report) map[string][]string {
	t.Helper()
	var b bytes.Buffer
	if err := report.Growth(&b, by, runs); err != nil {
		t.Fatal(err)
	}
	m := map[string][]string{}
	width := -1
	for line := range strings.SplitSeq(strings.TrimSpace(b.String()), "\n") {
		cells := strings.Split(strings.Trim(line, "|"), "|")
		if width < 0 {
			width = len(cells)
		}
		if len(cells) != width {
			t.Errorf("%q has %d cells; want %d", line, len(cells), width)
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		m[cells[0]] = cells[1:]
	}
	return m
}

func TestGrowth(t *testing.T) {
	// in disorder, and one figure is missing in one of them
	got := table(t, "sessions",
		run("4000", result("CPU", "%", 40), result("memory of Redis a session", "B", 100), result("square", "", 1600), result("root", "s", 20), result("falling", "", 1), result("only here", "", 1)),
		run("1000", result("CPU", "%", 10), result("memory of Redis a session", "B", 100), result("square", "", 100), result("root", "s", 10), result("falling", "", 4), result("zero", "", 0)),
		run("2000", result("CPU", "%", 20), result("memory of Redis a session", "B", 100), result("square", "", 400), result("root", "s", 14.142136), result("falling", "", 2), result("zero", "", 3)),
	)
	for name, want := range map[string]string{
		"idle, by sessions":            "1,000 2,000 4,000 grows as as a whole",
		"CPU, %":                       "10 20 40 n^1.00 linearly",
		"memory of Redis a session, B": "100 100 100 n^0.00 linearly",
		"square":                       "100 400 1,600 n^2.00 faster than linearly",
		"root, s":                      "10 14.14 20 n^0.50 slower than linearly",
		"falling":                      "4 2 1 n^-1.00 falls",
	} {
		if line := strings.Join(got[name], " "); line != want {
			t.Errorf("%s: %s; want %s", name, line, want)
		}
	}
	if len(got) != 7 { // and the ruler
		t.Errorf("the table has %d lines: %v", len(got), got)
	}
}

// What a figure a unit means as a whole depends on how the units grow, not on its name alone.
func TestGrowthAsAWhole(t *testing.T) {
	nodes := func(n, sessions, events, each float64) *report.Report {
		return &report.Report{
			Scenario: "churn", Settings: []report.Setting{{Name: "sessions", Value: fmt.Sprint(sessions)}, {Name: "nodes", Value: fmt.Sprint(n)}},
			Results: []report.Result{
				result("memory of the nodes a session, at rest", "KiB", each), result("CPU of the nodes an event", "us", each), result("CPU of the nodes a connection", "us", each),
				result("commands to Redis a node, churn", "/s", each), result("events a second", "/s", events),
			},
		}
	}
	got := table(t, "nodes", nodes(1, 1000, 50, 8), nodes(4, 1000, 3200, 8))
	for name, want := range map[string]string{
		"memory of the nodes a session, at rest, KiB": "8 8 n^0.00 stays", // there are no more sessions
		"CPU of the nodes an event, us":               "8 8 n^0.00 faster than linearly",
		"CPU of the nodes a connection, us":           "8 8 n^0.00 stays",
		"commands to Redis a node, churn, /s":         "8 8 n^0.00 linearly",
		"events a second, /s":                         "50 3,200 n^3.00 faster than linearly",
	} {
		if line := strings.Join(got[name], " "); line != want {
			t.Errorf("%s: %s; want %s", name, line, want)
		}
	}
	one, two := nodes(1, 1000, 50, 8), nodes(2, 1000, 50, 8)
	two.Results = two.Results[:4]
	if line := strings.Join(table(t, "nodes", one, two)["CPU of the nodes an event, us"], " "); line != "8 8 n^0.00 -" {
		t.Errorf("with events that are not known: %s", line)
	}
}

// The exponent is that of the power that figures follow, also with some noise.
func TestGrowthFindsThePower(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		x := rapid.Float64Range(-2, 3).Draw(rt, "x")
		factor := rapid.Float64Range(0.01, 1000).Draw(rt, "factor")
		var runs []*report.Report
		for i := range rapid.IntRange(2, 6).Draw(rt, "runs") {
			n := math.Round(100 * math.Pow(2, float64(i)))
			noise := 1 + rapid.Float64Range(-0.002, 0.002).Draw(rt, "noise")
			runs = append(runs, run(fmt.Sprint(n), result("cost", "", factor*math.Pow(n, x)*noise)))
		}
		runs = rapid.Permutation(runs).Draw(rt, "order")
		cells := table(t, "sessions", runs...)["cost"]
		var got float64
		if _, err := fmt.Sscanf(cells[len(cells)-2], "n^%f", &got); err != nil || math.Abs(got-x) > 0.012 {
			rt.Fatalf("it grows as %s; want n^%.2f", cells[len(cells)-2], x)
		}
	})
}

// The borders of what the words say.
func TestGrowthInWords(t *testing.T) {
	for _, tt := range []struct {
		x    float64
		want string
	}{{-0.2, "falls"}, {-0.09, "stays"}, {0.09, "stays"}, {0.2, "slower than linearly"}, {0.89, "slower than linearly"}, {0.91, "linearly"}, {1.09, "linearly"}, {1.2, "faster than linearly"}} {
		cells := table(t, "sessions", run("10", result("cost", "", 1)), run("100", result("cost", "", math.Pow(10, tt.x))))["cost"]
		if got := cells[len(cells)-1]; got != tt.want {
			t.Errorf("n^%v: %s; want %s", tt.x, got, tt.want)
		}
	}
}

// Settings that are rates are numbers too.
func TestGrowthByARate(t *testing.T) {
	if got := table(t, "rate", run("10", result("cost", "", 1)), run("100", result("cost", "", 10)))["cost"]; got[2] != "n^1.00" {
		t.Errorf("it grows as %s", got[2])
	}
}

func TestGrowthOfWhatCannotBeCompared(t *testing.T) {
	other := run("10")
	other.Scenario = "churn"
	for name, tt := range map[string]struct {
		by   string
		runs []*report.Report
		want string
	}{
		"none":              {"sessions", nil, "two reports or more"},
		"one":               {"sessions", []*report.Report{run("10")}, "two reports or more"},
		"the same twice":    {"sessions", []*report.Report{run("10"), run("10")}, "is the same in all"},
		"another scenario":  {"sessions", []*report.Report{run("20"), other}, "of idle and of churn"},
		"no such setting":   {"watch", []*report.Report{run("10"), run("20")}, `no setting "watch"`},
		"no number":         {"sessions", []*report.Report{run("10"), run("many")}, `is "many", which is no number above 0`},
		"nothing":           {"sessions", []*report.Report{run("10"), run("0")}, "no number above 0"},
		"less than nothing": {"sessions", []*report.Report{run("10"), run("-5")}, "no number above 0"},
		"not a number":      {"sessions", []*report.Report{run("10"), run("NaN")}, "no number above 0"},
		"without end":       {"sessions", []*report.Report{run("10"), run("Inf")}, "no number above 0"},
	} {
		var b bytes.Buffer
		if err := report.Growth(&b, tt.by, tt.runs); err == nil || !strings.Contains(err.Error(), tt.want) || b.Len() > 0 {
			t.Errorf("%s: Growth = %v, and wrote %q; want an error about %q", name, err, b.String(), tt.want)
		}
	}
	full := errors.New("full")
	if err := report.Growth(failing{full}, "sessions", []*report.Report{run("10"), run("20")}); !errors.Is(err, full) {
		t.Errorf("Growth = %v; want %v", err, full)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }
