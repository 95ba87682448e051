package report_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rollcall-presence/rollcall/internal/load/report"
)

// small is a report that can be read at a glance.
func small() *report.Report {
	return &report.Report{
		Version:  report.Version,
		Scenario: "celebrity",
		Began:    time.Date(2026, 11, 26, 18, 5, 51, 0, time.FixedZone("", 3600)),
		Seconds:  62.6,
		Settings: []report.Setting{{"sessions", "20000"}, {"nodes", "3"}, {"note", "two\nlines\x1b[31m"}},
		Checks:   []report.Check{{"events missing", "0", "0", true}, {"late", "at most 5", "1234", false}},
		Results: []report.Result{
			{"events delivered", 48212.4, "/s", "higher"},
			{"CPU of an event", 18.421, "us", "lower"},
			{"memory", 0, "B", "lower"},
			{"ratio", 0.0312, "", ""},
		},
		Latencies: []report.Latency{
			{"act to event", 1_000_000, 2.5, 0.1, 250, []report.Percentile{{0, .1}, {50, 2}, {90, 4}, {99, 20.04}, {99.9, 100}, {100, 250}}},
			{"connect", 20, 2, 1, 3, []report.Percentile{{50, 2}, {100, 3}}},
			{Name: "never"},
		},
		Notes: []string{"One core for all.", strings.Repeat("A long note wraps. ", 8)},
	}
}

func TestText(t *testing.T) {
	want := `celebrity: FAILED, 1 of 2 checks held; took 1m3s, began 2026-11-26 17:05:51 UTC
  sessions=20000 nodes=3 note=two lines [31m

CHECKS
  ok      events missing     0  want 0
  FAILED  late            1234  want at most 5

RESULTS
  events delivered  48,212  /s
  CPU of an event    18.42  µs
  memory                 0  B
  ratio             0.0312

LATENCIES, ms
                p50  p90    p99  p99.9  max  mean      count
  act to event    2    4  20.04    100  250   2.5  1,000,000
  connect         2    -      -      -    3     2         20
  never           -    -      -      -    -     -          0

NOTES
  - One core for all.
  - A long note wraps. A long note wraps. A long note wraps. A long note wraps. A long note wraps. A
    long note wraps. A long note wraps. A long note wraps.
`
	var got strings.Builder
	if err := small().Text(&got); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got.String()); d != "" {
		t.Errorf("Text (-want +got):\n%s", d)
	}
}

func TestTextOfNothing(t *testing.T) {
	var got strings.Builder
	if err := new(report.Report).Text(&got); err != nil {
		t.Fatal(err)
	}
	if want := "unnamed scenario: nothing checked; took 0s, began at an unknown time\n"; got.String() != want {
		t.Errorf("Text of an empty report = %q; want %q", got.String(), want)
	}
}

func TestCompareText(t *testing.T) {
	b := small()
	b.Scenario = "storm"
	b.Settings = []report.Setting{{"sessions", "20000"}, {"nodes", "4"}, {"linger", "10s"}}
	b.Checks = []report.Check{{"late", "at most 5", "2", true}, {"kicked", "0", "0", true}}
	b.Results = []report.Result{
		{"kicks", 3, "", "lower"},
		{"events delivered", 48212.4 * 4, "/s", "higher"},
		{"CPU of an event", 20, "us", "lower"},
		{"memory", 4096, "B", "lower"},
		{"ratio", 0.03120001, "", ""},
	}
	b.Latencies = b.Latencies[:1:1]
	b.Latencies[0].Percentiles = []report.Percentile{{50, 1}, {90, 4}, {99, 30.06}, {100, 250}}
	b.Notes = nil
	want := `A  celebrity: FAILED, 1 of 2 checks held; took 1m3s, began 2026-11-26 17:05:51 UTC
B  storm: passed, all 2 checks held; took 1m3s, began 2026-11-26 17:05:51 UTC

!! These are runs of different scenarios: what they did differs, not only how well.

SETTINGS THAT DIFFER
          A               B
  nodes   3               4
  note    two lines [31m  -
  linger  -               10s

CHECKS
                  A                             B
  events missing  ok: 0, want 0                 -
  late            FAILED: 1234, want at most 5  ok: 2, want at most 5
  kicked          -                             ok: 0, want 0

RESULTS
                             A        B     change
  events delivered  /s  48,212  192,850    4 times  better
  CPU of an event   µs   18.42       20     +8.6 %  worse
  memory            B        0    4,096     +4,096  worse
  ratio                 0.0312   0.0312       same
  kicks                      -        3  only in B

LATENCIES, ms
  act to event
                   A          B     change
    p50            2          1    -50.0 %  better
    p90            4          4       same
    p99        20.04      30.06    +50.0 %  worse
    p99.9        100          -  only in A
    max          250        250       same
    mean         2.5        2.5       same
    count  1,000,000  1,000,000       same
  connect
            A  B     change
    p50     2  -  only in A
    max     3  -  only in A
    mean    2  -  only in A
    count  20  -  only in A
  never: none

NOTES OF A
  - One core for all.
  - A long note wraps. A long note wraps. A long note wraps. A long note wraps. A long note wraps. A
    long note wraps. A long note wraps. A long note wraps.
`
	var got strings.Builder
	if err := report.CompareText(&got, small(), b); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got.String()); d != "" {
		t.Errorf("CompareText (-want +got):\n%s", d)
	}
}

func TestCompareTextOfNothing(t *testing.T) {
	var got strings.Builder
	if err := report.CompareText(&got, new(report.Report), new(report.Report)); err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(got.String(), "\n"); lines != 2 {
		t.Errorf("CompareText of empty reports has %d lines, want 2:\n%s", lines, got.String())
	}
}
